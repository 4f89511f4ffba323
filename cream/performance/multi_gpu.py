"""What several GPUs of one host make of the same work: speed, resuming, equal losses, equal rows.

    python -m cream.performance multi-gpu --gpus 2 --parts speed,resume,evaluate --rows two.jsonl
    python -m cream.performance multi-gpu --gpus 1 --parts small,offload

speed      tokens a second of the paper's recipe on one GPU and on all, for each stage of ZeRO
resume     a checkpoint by all, the end of their processes, the same losses again; the saved model
           read by stock transformers on one GPU
evaluate   the rows of one process and of all, and how much sooner they are there
miniature  its losses by one process and by all, without DeepSpeed
small      on one GPU: a small model's losses at every stage beside plain training's
offload    the same with optimizer and weights in RAM (DeepSpeed compiles its own AdamW for that)

Every setting runs in processes of its own with a limit of `--limit` seconds, and a part that fails
leaves the others alone. Weights are random, made in bfloat16 on the GPU where DeepSpeed trains.

What belongs here: the parts and the comparison of speeds. One GPU's own measurements are in
`training` and `resume`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import torch

from cream import results
from cream.performance import random_models, several_rows, several_runs, training

__all__ = ["PARTS", "main"]

RUNS = {"base": 1000, "chat": 100}  # steps of the paper's two runs (protocols 4.1)
# What processes of their own do: `--one` names it.
INSIDE = {
    "train": several_runs.train, "read": several_runs.read,
    "write": several_rows.write, "ask": several_rows.ask,
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare several GPUs' training and evaluation with one GPU's."""
    parser = argparse.ArgumentParser(
        prog="python -m cream.performance multi-gpu", description=main.__doc__
    )
    parser.add_argument(
        "--parts", default="speed,resume,evaluate,miniature", help=f"of {', '.join(PARTS)}"
    )
    parser.add_argument("--gpus", type=int, default=max(1, torch.cuda.device_count()))
    parser.add_argument("--shape", choices=random_models.SHAPES, default="llama2-7b")
    parser.add_argument("--layers", type=int, help="of speed; fewer than the shape's: not its own")
    parser.add_argument("--zero", default="1,2,3", help="stages of speed and, the first, of resume")
    parser.add_argument("--micro-batch", default="1", help="of speed, such as 1,2")
    parser.add_argument("--recompute", default="auto", help="of speed")
    parser.add_argument("--steps", type=int, default=3, help="of speed; the first is left out")
    parser.add_argument("--batch-size", type=int, default=32, help="windows a step, of speed")
    parser.add_argument("--compile", choices=("auto", "none", "layers"), default="auto")
    parser.add_argument("--no-baseline", action="store_true", help="speed: not one GPU alone")
    parser.add_argument("--resume-layers", type=int, default=8)
    parser.add_argument("--small-layers", type=int, default=2)
    parser.add_argument("--evaluate-layers", type=int, default=8, help="of the perplexity's model")
    parser.add_argument("--lengths", default="1,4", help="of the perplexity, in windows")
    parser.add_argument("--documents", type=int, default=32, help="of the perplexity")
    parser.add_argument("--samples", type=int, default=100, help="of LongChat-Lines, a length")
    parser.add_argument("--lines-lengths", default="1,2,4,7.8", help="of LongChat-Lines")
    parser.add_argument("--limit", type=int, default=150, help="seconds a setting may take")
    parser.add_argument("--folder", help="where checkpoints and models are written, and removed")
    parser.add_argument("--rows", metavar="FILE", help="append rows to this JSON Lines file")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.one:
        job = json.loads(given.one)
        _tell(INSIDE[job.pop("what")](**job))
        return
    parts = [part.strip() for part in given.parts.split(",")]
    if unknown := set(parts) - set(PARTS):
        parser.error(f"parts are {', '.join(PARTS)}; there is no {', '.join(sorted(unknown))}")
    given.command = random_models.command("cream.performance multi-gpu", arguments)
    if failed := [part for part in parts if not _done(part, given)]:
        raise SystemExit(f"not as it should be: {', '.join(failed)}")


def _done(part: str, given: argparse.Namespace) -> bool:
    """Do a part, say how long it took, and whether all was as it should be."""
    start = time.perf_counter()
    print(f"--- {part}", flush=True)
    try:
        good = PARTS[part](given)
    except (Exception, SystemExit):
        traceback.print_exc()
        good = False
    print(f"--- {part}: {time.perf_counter() - start:.0f} s", flush=True)
    return good


def _tell(found: dict) -> None:
    """Print what the first process found, and end; the first last, whose messages others read."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps(found), flush=True)
        time.sleep(1 if torch.distributed.is_initialized() else 0)
    sys.stderr.flush()
    os._exit(0)


def _speed(given: argparse.Namespace) -> bool:
    """Train by one GPU and by all, through `training`, and compare their rows."""
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(given.rows) if given.rows else Path(folder) / "rows.jsonl"
        before = set(results.read(rows)["key"]) if rows.exists() else set()
        common = ["--shape", given.shape, "--steps", str(given.steps), "--rows", str(rows),
                  "--batch-size", str(given.batch_size), "--compile", given.compile,
                  "--recompute", given.recompute, "--micro-batch", given.micro_batch,
                  "--limit", str(given.limit)]  # fmt: skip
        common += ["--layers", str(given.layers)] if given.layers else []
        if not given.no_baseline:
            training.main(common)
        training.main([*common, "--processes", str(given.gpus), "--zero", given.zero])
        found = results.read(rows) if rows.exists() else pd.DataFrame({"key": []})
        found = found[~found["key"].isin(before)]
    if found.empty:
        raise SystemExit("no setting ran")
    _scaling(found)
    return True


def _scaling(found: pd.DataFrame) -> None:
    """Print speeds in all and a GPU, MFU, memory, efficiency, and the hours of the paper's runs."""
    settings = found["settings"].map(json.loads)
    count = settings.map(lambda one: one.get("processes", 1))
    alone = max(found["tokens_per_second"][count == 1], default=None)
    for (_, row), how, many in zip(found.iterrows(), settings, count, strict=True):
        speed = row["tokens_per_second"]
        said = f"{many} x {row['card']}, zero {how['zero']}, micro-batch {how['micro_batch']}"
        said += f", recompute {how['recompute']}, offload {how['offload']}: {speed:,.0f} tokens/s"
        said += f", {speed / many:,.0f} a GPU"
        if how.get("mfu") is not None:
            said += f", MFU {how['mfu']:.1%}, peak {row['peak_gib']:.1f} GiB"
        if many > 1 and alone:
            said += f", {speed / alone / many:.1%} of {many} times one GPU"
        size = row["num_tokens"]
        hours = [f"{name} {steps * size / speed / 3600:.2f}" for name, steps in RUNS.items()]
        print(f"{said}; hours of a run: {', '.join(hours)}", flush=True)


PARTS: dict[str, Callable[[argparse.Namespace], bool]] = {
    "speed": _speed,
    "resume": several_runs.resume,
    "evaluate": several_rows.evaluate,
    "miniature": several_runs.miniature,
    "small": several_runs.small,
    "offload": several_runs.offload,
}


if __name__ == "__main__":
    main()
