"""Milliseconds of a small model's training step: the real Trainer, data included.

`python -m cream.performance small-training PRESET` times a preset's steps for every choice of
compilation and of loader processes. In its rows `score` is milliseconds a step, and
`tokens_per_second` and `num_tokens` are trained tokens, of a step.

What belongs here: measuring through the door that notebooks use, its table and its rows. Large
models' steps are measured in `training`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from cream import models, presets, rope
from cream.data import corpus
from cream.evaluation import models as evaluation_models
from cream.performance import harness
from cream.positions import METHODS
from cream.training.callbacks import read_metrics
from cream.training.config import TrainConfig
from cream.training.run import train
from cream.utils.provenance import hash_of

__all__ = ["add_options", "main", "training"]


# --------------------------------------------------------------------------- command, table, rows


def add_options(add: argparse.ArgumentParser) -> None:
    """Declare what `main` takes from the command line."""
    add.add_argument("preset", choices=presets.names())
    add.add_argument("--base", help="a folder or hub id, instead of the preset's")
    add.add_argument("--corpus", help="a corpus, or: random")
    add.add_argument("--method", choices=METHODS)
    add.add_argument("--scaling", choices=rope.KINDS)
    add.add_argument("--scale", type=int)
    add.add_argument("--compile", type=harness.listed_of(str), default=["auto"],
                     help="none,layers,model")  # fmt: skip
    add.add_argument("--workers", type=harness.listed_of(int), default=[0],
                     help="data loader processes")  # fmt: skip
    add.add_argument("--steps", type=int, default=200, help="of which the second half counts")
    add.add_argument("--batch-size", type=int)
    add.add_argument("--micro-batch", type=int)


def main(given: argparse.Namespace) -> None:
    """Measure a preset's training steps; print a table and write rows."""
    names = ("base", "corpus", "method", "scaling", "scale", "batch_size", "micro_batch")
    overrides = {name: getattr(given, name) for name in names}
    if given.batch_size and not given.micro_batch:
        overrides["micro_batch"] = given.batch_size
    before = harness.machine_state()
    table = training(
        given.preset, given.compile, given.workers, given.steps, **overrides
    )  # fmt: skip
    shown = ["compile", "workers", "ms_a_step", "tokens_per_second", "peak_gib", "wall"]
    first, machine = table.iloc[0], harness.describe_machine(harness.card_name())
    print(f"{given.preset}: {first['method']}, steps of {first['tokens_a_step']:,} tokens in "
          f"micro-batches of {first['micro_batch']}, {machine}")  # fmt: skip
    names = {"ms_a_step": "ms a step", "tokens_per_second": "tokens/s", "peak_gib": "peak GiB",
             "wall": "seconds in all"}  # fmt: skip
    rounded = table[shown].round({"ms_a_step": 2, "tokens_per_second": 0, "peak_gib": 2, "wall": 1})
    print(rounded.rename(columns=names).dropna(axis=1, how="all").to_string(index=False))
    if given.rows:
        _write(given.rows, table, given.preset, before)


def _write(path: str, table: pd.DataFrame, preset: str, before: dict[str, object]) -> None:
    first, columns = table.iloc[0], ["method", "scaling", "scale", "seed"]
    about = evaluation_models.base_of(first["base"])
    header = {
        "run": f"speed of {preset}", "preset": preset, "base": Path(about.path).name,
        "model_hash": models.weights_hash(about.path), "window": about.window,
        "card": harness.card_name(), "settings": before, **{name: first[name] for name in columns},
    }  # fmt: skip
    measured = ["ms_a_step", "tokens_per_second", "tokens_a_step", "peak_gib", "wall", "base"]
    for line in table.astype(object).to_dict("records"):
        how = {name: value for name, value in line.items() if name not in measured + columns}
        how |= {"score": "milliseconds a step", **before}
        harness.append(path, header, {
            "task": "speed_training", "prompt_hash": hash_of(line["corpus"]),
            "token_length": about.window, "num_tokens": line["tokens_a_step"],
            "settings": how, "score": line["ms_a_step"],
            "tokens_per_second": line["tokens_per_second"],
            "peak_gib": harness.known(line["peak_gib"]),
        })  # fmt: skip


# --------------------------------------------------------------------------------- what is timed


def training(
    preset: str,
    compiles: Sequence[str] = ("auto",),
    workers: Sequence[int] = (0,),
    steps: int = 200,
    progress: bool = False,
    **overrides: object,
) -> pd.DataFrame:
    """Time a preset's training steps for every choice of compilation and of loader processes.

    Each runs `steps` steps of the real Trainer in a directory that is thrown away; a step counts
    from the second half on, when all is compiled and warm, by the median of the logged intervals.
    `overrides` are fields of the run; corpus "random" is one of random tokens, made on the spot.
    """
    if steps < 4:
        raise ValueError(f"steps is {steps}; it must be at least 4, of which the last half counts")
    fixed = {"save_steps": 0, "probe_steps": 0, "log_steps": max(1, steps // 20), "steps": steps}
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        named = overrides.get("corpus")
        if named == "random":
            base = overrides.get("base") or presets.get(preset).train.base
            overrides["corpus"] = str(_random_corpus(base, Path(folder) / "corpus"))
        configs = [
            presets.get(preset, **{**overrides, **fixed}, compile=kind, workers=count).train
            for kind in compiles
            for count in workers
        ]
        lines = [
            {
                **_step(config, Path(folder) / str(number), progress),
                "corpus": named or config.corpus,
            }
            for number, config in enumerate(configs)
        ]
    return pd.DataFrame(lines)


def _step(config: TrainConfig, run_dir: Path, progress: bool) -> dict[str, object]:
    """Train one run; what decides its speed, and its speed."""
    harness.fresh()
    torch.compiler.reset()
    start = time.perf_counter()
    train(config, run_dir, progress=progress)
    wall = time.perf_counter() - start
    rate, size = _steady(run_dir / "metrics.jsonl")
    named = ["base", "method", "scaling", "scale", "seed", "compile", "workers", "steps"]
    named += ["batch_size", "micro_batch", "precision", "attention", "gradient_checkpointing"]
    return {
        **{name: getattr(config, name) for name in named},
        "ms_a_step": 1000 * size / rate,
        "tokens_per_second": rate,
        "tokens_a_step": size,
        "peak_gib": harness.peak_gib(),
        "wall": wall,
    }


def _steady(metrics: Path) -> tuple[float, int]:
    """Tokens a second once a run is warm, and tokens a step."""
    logs = [row for row in read_metrics(metrics) if "tokens_per_second" in row]
    warm = [row["tokens_per_second"] for row in logs[len(logs) // 2 :]]
    return statistics.median(warm), logs[-1]["tokens"] // logs[-1]["step"]


def _random_corpus(base: str, place: Path) -> Path:
    """A corpus of random tokens in documents of 2 to 16 windows: the data path without its text."""
    about = evaluation_models.base_of(base)
    rng, window = np.random.default_rng(0), about.window

    def documents() -> Iterator[dict[str, object]]:
        for number in range(256):
            ids = rng.integers(0, len(about.tokenizer), rng.integers(2 * window, 16 * window))
            yield {"split": "train", "source": "random", "name": str(number), "kind": "text",
                   "input_ids": ids.tolist()}  # fmt: skip

    corpus.build(place, documents(), about.tokenizer, window, {"of": "speed"}, progress=False)
    return place
