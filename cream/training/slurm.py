"""A Slurm batch script that trains a run directory on several hosts, as long as it takes.

    python -m cream.training.slurm RUN_DIR --nodes 2 --gpus 8 > job.sbatch
    sbatch job.sbatch

What belongs here: the script. What the processes share out is decided in `parallel`.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from cream.training.config import read_config
from cream.utils.options import check_whole

__all__ = ["main", "script"]

SBATCH = """\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={gpus}
#SBATCH --cpus-per-task={cpus}
#SBATCH --time={time}
#SBATCH --requeue
#SBATCH --output=%x-%j.log
# One torchrun a host, one process a GPU. Submitted again (sbatch) after a time limit, and requeued
# by Slurm after a host's failure, the job goes on from the last sealed checkpoint. The run
# directory must lie on a disk that every host sees.
export OMP_NUM_THREADS={threads}
export HF_HUB_OFFLINE=1  # the base is in the hub's cache, or a folder
host=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun --kill-on-bad-exit=1 {python} -m torch.distributed.run \\
    --nnodes={nodes} --nproc-per-node={gpus} --rdzv-id="$SLURM_JOB_ID" \\
    --rdzv-backend=c10d --rdzv-endpoint="$host:29500" \\
    -m cream.training {run} --root {root}
"""


def script(
    run_dir: str, root: str = ".", nodes: int = 1, gpus: int = 8, cpus: int = 32,
    time: str = "24:00:00", python: str = sys.executable,
) -> str:  # fmt: skip
    """Return a Slurm batch script that trains a run directory on `nodes` hosts of `gpus` GPUs."""
    return SBATCH.format(
        name=f"cream-{Path(run_dir).name}", nodes=nodes, gpus=gpus, cpus=cpus, time=time,
        threads=max(1, cpus // gpus), python=shlex.quote(python), run=shlex.quote(run_dir),
        root=shlex.quote(root),
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a Slurm batch script that trains a run directory."""
    parser = argparse.ArgumentParser(
        prog="python -m cream.training.slurm", description=main.__doc__
    )
    parser.add_argument("run_dir", help="the run directory; holds config.json")
    parser.add_argument("--root", default=".", help="where config.json's folders start")
    for name, default, said in (("nodes", 1, "hosts"), ("gpus", 8, "of a host"),
                                ("cpus", 32, "of a host")):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{said} ({default})")
    parser.add_argument("--time", default="24:00:00", help="the job's limit (24:00:00)")
    parser.add_argument("--python", default=sys.executable, help="the interpreter (this one)")
    given = parser.parse_args(arguments)
    try:
        for name in ("nodes", "gpus", "cpus"):
            check_whole(name, getattr(given, name), 1)
        read_config(given.run_dir).accumulation(given.nodes * given.gpus)
    except (OSError, ValueError) as error:
        parser.exit(1, f"{error}\n")
    print(script(**vars(given)), end="")


if __name__ == "__main__":
    main()
