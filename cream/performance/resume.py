"""Stopping and going on at a large model's width: is it exact, and what does a checkpoint cost?

    python -m cream.performance resume --shape llama2-7b --layers 4 --folder runs/endurance

trains the shape at a depth whose checkpoint fits the disk, with the paper's recipe and random
weights: once straight, and once stopped after half of the steps by the end of its process and gone
on with in another. Losses and final weights are compared to the last bit. Written is how long a
checkpoint takes to write and to read, its size, and what that makes at full depth, by parameters.
With `--rows FILE`, a row of the task speed_resume is appended.

`--kernels deterministic` (the default) takes torch's deterministic algorithms; with `usual` ones,
which add in no fixed order, two straight runs need not be equal either.

What belongs here: the three processes and their comparison. Resuming itself lies in `training`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from transformers import LlamaConfig, TrainerCallback, TrainerControl, TrainerState

from cream.performance import harness, random_models
from cream.performance.harness import GIB
from cream.training import memory
from cream.training import run as training_run
from cream.training.callbacks import read_metrics
from cream.training.config import TrainConfig
from cream.utils.provenance import hash_of

__all__ = ["main"]

WRITTEN = 14  # bytes a parameter of a checkpoint: weights 2, their other half 4, moments 8
KEPT = 4  # and of both finished models


def main(arguments: Sequence[str] | None = None) -> None:
    """Stop and resume a large model's training, and compare it with one that went straight on."""
    parser = argparse.ArgumentParser(
        prog="python -m cream.performance resume", description=main.__doc__
    )
    parser.add_argument("--shape", choices=random_models.SHAPES, default="llama2-7b")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--steps", type=int, default=6, help="half of them before the stop")
    parser.add_argument("--batch-size", type=int, default=8, help="windows an optimizer step")
    parser.add_argument("--micro-batch", type=int, default=2)
    parser.add_argument("--kernels", choices=("deterministic", "usual"), default="deterministic")
    parser.add_argument("--compile", choices=("auto", "none", "layers"), default="auto")
    parser.add_argument("--folder", help="where checkpoints are written, and removed; else a new "
                        "one for temporary files")  # fmt: skip
    harness.add_common(parser, 120, "a process")
    given = parser.parse_args(arguments)
    if given.one:
        harness.tell(_inside(json.loads(given.one)))
        return
    if given.steps < 2 or given.steps % 2:
        parser.error(f"steps is {given.steps}; it must be even, for a stop after half of them")
    random_models.refuse_without_card(parser, given.shape, given.layers)
    said = harness.typed_command("resume", arguments)
    with harness.scratch(given.folder) as root:
        _compare(given, root, said)


def _compare(given: argparse.Namespace, root: Path, command: str) -> None:
    shape = random_models.shape(given.shape, given.layers)
    count = memory.parameters(shape)
    _check_disk(root, count)
    random_models.lay_out(root, shape)
    fields = {
        "base": "base", "corpus": "corpus", "steps": given.steps, "batch_size": given.batch_size,
        "micro_batch": given.micro_batch, "precision": "master", "recompute": "auto",
        "compile": given.compile, "log_steps": 1, "warmup_steps": 1, "save_dtype": "bfloat16",
    }  # fmt: skip
    stopped = {**fields, "save_steps": given.steps // 2}
    with ThreadPoolExecutor(2) as both:  # at once: neither needs a whole card
        straight = both.submit(_child, given, root, "straight", fields)
        first = both.submit(_child, given, root, "stopped", stopped)
        found = {"straight": straight.result(), "stopped": first.result()}
    for name, one in found.items():
        _checked_output(name, one)
    found["resumed"] = _checked_output("resumed", _child(given, root, "stopped", stopped))
    verdict = _verdict(given, found, count)
    _write(given, shape, verdict, command)
    if not (verdict["losses_equal"] and verdict["weights_equal"]):
        raise SystemExit("the resumed run is not the straight one")


def _check_disk(root: Path, count: int) -> None:
    """Refuse what the disk cannot hold, before anything is computed."""
    free, needed = shutil.disk_usage(root).free, (WRITTEN + KEPT) * count
    if needed > free:
        raise OSError(
            f"a checkpoint and two models of {count:,} parameters take {needed / GIB:.1f} GiB and "
            f"{root} has {free / GIB:.1f} GiB: take fewer layers, or name another folder"
        )


def _child(given: argparse.Namespace, root: Path, run: str, fields: dict) -> dict:
    job = {"root": str(root), "run": run, "config": fields, "kernels": given.kernels}
    workspace = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"} if given.kernels == "deterministic" else {}
    return harness.in_child("cream.performance.resume", job, given.limit, **workspace)


# ------------------------------------------------------------------------------ in the process


class _Watch(TrainerCallback):
    """Takes the times, and ends the process once its first checkpoint is sealed."""

    def __init__(self, found: dict, stop: int):
        self.found, self.stop = found, stop

    def on_train_begin(
        self, args: object, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Everything is loaded, a checkpoint included."""
        self.found["ready"] = time.perf_counter() - self.found.pop("start")

    def on_step_end(
        self, args: object, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Write none but the first: the disk holds one."""
        control.should_save = state.global_step == self.stop
        self.saving = time.perf_counter()

    def on_save(
        self, args: object, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Say what was found and end as a process ends that is killed."""
        os.sync()
        self.found["write"] = time.perf_counter() - self.saving
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        sizes = {str(p.relative_to(folder)): p.stat().st_size for p in folder.rglob("*")}
        print(json.dumps({**self.found, "sizes": sizes}), flush=True)
        os._exit(0)


def _inside(job: dict) -> dict:
    """Train one run to its end, or to its first checkpoint."""
    if job["kernels"] == "deterministic":
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False
    root, config = Path(job["root"]), TrainConfig(**job["config"])
    found = {"start": time.perf_counter(), "card": harness.card_name()}
    watch = _Watch(found, config.save_steps)
    run = root / job["run"]
    model = training_run.train(
        config, run, root=root, progress=False, load=random_models.random_weights, callbacks=[watch]
    )
    losses = [row["loss"] for row in read_metrics(run / "metrics.jsonl")]
    return {**found, "losses": losses, "weights": _hash(model)}


def _hash(model: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(model.glob("*.safetensors")):
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


# --------------------------------------------------------------------------------- what is said


def _checked_output(name: str, one: dict) -> dict:
    """Print what a process found and return it; SystemExit for one that failed."""
    if "error" in one:
        raise SystemExit(f"{name}: {one['error']}")
    losses = f", losses {one['losses']}" if "losses" in one else ""
    print(f"{name}: {one['wall']:.0f} s in all, {one['ready']:.1f} s to its first step{losses}",
          flush=True)  # fmt: skip
    return one


def _verdict(given: argparse.Namespace, found: dict[str, dict], count: int) -> dict:
    """What was measured, what that makes at full depth, and whether both runs are one."""
    straight, resumed = found["straight"], found["resumed"]
    whole = memory.parameters(random_models.shape(given.shape))
    verdict = {
        "losses_equal": straight["losses"] == resumed["losses"],
        "weights_equal": straight["weights"] == resumed["weights"],
        "write_seconds": found["stopped"]["write"],
        "read_seconds": max(0.0, resumed["ready"] - straight["ready"]),
        "checkpoint_gib": sum(found["stopped"]["sizes"].values()) / GIB,
        "parameters": count, "full_parameters": whole, "losses": straight["losses"],
        "card": straight["card"],
    }  # fmt: skip
    write, read, size = (verdict[n] for n in ("write_seconds", "read_seconds", "checkpoint_gib"))
    times = whole / count
    print(f"losses equal: {verdict['losses_equal']}, weights equal: {verdict['weights_equal']}")
    print(f"a checkpoint of {count:,} parameters: {size:.2f} GiB, written (synced) in {write:.1f} "
          f"s, read in {read:.1f} s")  # fmt: skip
    print(f"at full depth, {whole:,} parameters (extrapolated): {times * size:.1f} GiB, "
          f"{times * write:.0f} s, {times * read:.0f} s", flush=True)  # fmt: skip
    return verdict


def _write(given: argparse.Namespace, shape: LlamaConfig, verdict: dict, command: str) -> None:
    about = {"shape": given.shape, "layers": shape.num_hidden_layers, "command": command,
             "kernels": given.kernels, "steps": given.steps}  # fmt: skip
    window = shape.max_position_embeddings
    run, card = f"resume of {given.shape}", verdict.pop("card")
    header = harness.shape_header(given.shape, shape, run, card, about)
    how = {**about, **verdict, "score": "milliseconds to write a checkpoint"}
    harness.append(given.rows, header, {
        "task": "speed_resume", "prompt_hash": hash_of("random"), "token_length": window,
        "num_tokens": given.batch_size * window, "settings": how,
        "score": 1000 * verdict["write_seconds"],
    })  # fmt: skip


if __name__ == "__main__":
    main()
