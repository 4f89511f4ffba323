"""How fast it is, by one command each for questions and for training steps.

    python -m cream.performance generation --lengths 0.6,2,7.8 --samples 50
    python -m cream.performance small-training miniature --corpus random --compile model,layers
    python -m cream.performance generation --shape llama2-7b --tokens 32000 --keys 140
    python -m cream.performance long --shape llama2-7b --lengths 32768,262144

    python -m cream.performance training|step-cost|resume|loss|lora|multi-gpu --help

`generation` answers LongChat-Lines in batches and, in the same run, by a loop that calls
`generate` prompt by prompt with the same stop rule and dtype, both from text to text. `small-
training` runs the real Trainer, data included. With a large `--shape`, `generation` and `long`
measure random weights of it at length, by `long_speed`. Each prints one table; with `--rows FILE`
it appends rows of the tasks speed_generation and speed_training. There `score` counts what
`settings` say ("samples a second", "milliseconds a step"), `tokens_per_second` are prompt tokens
or trained ones, `num_tokens` those of a mean prompt or of a step, and `contained` is the share of
samples with the tokens of the loop.

What belongs here: the command line, the tables and the rows. What is measured is in `generation`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import torch

from cream import models, presets, rope
from cream.evaluation import models as evaluation_models
from cream.performance import (
    generation,
    long_speed,
    lora,
    loss,
    multi_gpu,
    resume,
    step_cost,
    training,
)
from cream.positions import METHODS
from cream.results import Rows
from cream.utils.provenance import hash_of

__all__ = ["main"]

OTHERS = {
    "training": training,
    "step-cost": step_cost,
    "resume": resume,
    "loss": loss,
    "lora": lora,
    "multi-gpu": multi_gpu,
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "auto": None}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the speed of generation or of training on this machine."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments and arguments[0] in OTHERS:
        return OTHERS[arguments[0]].main(arguments[1:])
    parser = argparse.ArgumentParser(
        prog="python -m cream.performance", description=main.__doc__,
        epilog=f"further commands, with their own --help: {', '.join(OTHERS)}",
    )  # fmt: skip
    commands = parser.add_subparsers(required=True)
    for add, run in ((_add_generation, _generation), (_add_training, _training),
                     (_add_long, long_speed.forwards)):  # fmt: skip
        command = add(commands)
        command.add_argument("--rows", metavar="FILE", help="append rows to this JSON Lines file")
        command.set_defaults(run=run)
    given = parser.parse_args(arguments)
    try:
        given.run(given)
    except (MemoryError, OSError, ValueError) as error:
        parser.error(str(error))


def _listed(kind: Callable[[str], object]) -> Callable[[str], list]:
    """Read a list with commas between."""

    def read(text: str) -> list:
        return [kind(part.strip()) for part in text.split(",")]

    read.__name__ = f"comma-separated list of {kind.__name__}"
    return read


def _batch_size(text: str) -> int | str:
    return text if text == "auto" else int(text)


_batch_size.__name__ = "batch size"  # as argparse says it


def _add_generation(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    add = commands.add_parser("generation", help="LongChat-Lines, in batches and one by one")
    add.add_argument("--base", default="data/miniature", help="a base or any checkpoint")
    add.add_argument("--scaling", default="yarn", choices=rope.KINDS, help="none: as it is")
    add.add_argument("--scale", type=int, default=8)
    add.add_argument("--lengths", default="0.6,1,2,4,6,7.8", help="multiples of the window N")
    add.add_argument("--samples", type=int, default=50, help="questions a length")
    add.add_argument("--questions", type=int, default=5, help="questions a record")
    add.add_argument("--batch-size", type=_batch_size, default="auto")
    add.add_argument("--dtype", choices=DTYPES, default="float32",
                     help="float32: the same tokens; auto: as evaluations run here")  # fmt: skip
    add.add_argument("--repeats", type=int, default=3, help="passes, whose median is taken")
    add.add_argument("--seed", type=int, default=0)
    long = add.add_argument_group("at length, of a large shape with random weights (--shape)")
    long_speed.add_shape(long, None)
    long.add_argument("--tokens", type=int, default=32_000, help="of a LongChat-Lines record")
    long.add_argument("--lines", type=int, default=8, help="such records asked; 0: none")
    long.add_argument("--keys", type=int, default=140, help="of a key-value object")
    long.add_argument("--pairs", type=int, default=20, help="such questions asked; 0: none")
    long.add_argument("--words", default="data/miniature", metavar="TOKENIZER",
                      help="whose tokens the prompts are in")  # fmt: skip
    return add


def _add_long(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    add = commands.add_parser("long", help="the loss of a long document, in one true forward")
    long_speed.add_long(add)
    return add


def _generation(given: argparse.Namespace) -> None:
    if given.shape:
        long_speed.answers(given)
        return
    name = "original" if given.scaling == "none" else f"scaled:{given.scaling}:{given.scale}"
    (subject,) = evaluation_models.find(name, given.base)
    lengths = evaluation_models.token_lengths(
        given.lengths, evaluation_models.base_of(given.base).window
    )
    before = _now()
    table, header, parted = generation.generation(
        subject, lengths, given.samples, given.questions, given.batch_size,
        DTYPES[given.dtype], given.repeats, given.seed,
    )  # fmt: skip
    header["settings"] |= before
    print(f"{name} of {given.base}, {header['settings']['dtype']}, {_machine(header['card'])}")
    print(_compared(table).to_string(index=False))
    print("\n".join(parted) or "every sample has the same tokens both ways")
    if given.rows:
        _write_generation(given.rows, table, header)


def _compared(table: pd.DataFrame) -> pd.DataFrame:
    """A line a length with both ways beside each other, and one over all lengths."""
    wide = table.pivot(index="token_length", columns="way")
    total = {key: wide[key].sum() for key in [("samples", "batches"), ("same", "batches")]}
    total |= {("seconds", way): wide["seconds", way].sum() for way in ("one by one", "batches")}
    peak = ("peak_gib", "batches")
    wide.loc["all"] = pd.Series({**total, peak: wide[peak].max()}, dtype=object)
    samples = wide["samples", "batches"].astype(int)
    alone, together = (wide["seconds", way].astype(float) for way in ("one by one", "batches"))
    return pd.DataFrame(
        {
            "tokens": wide.index,
            "samples": samples,
            "one by one, samples/s": (samples / alone).round(2),
            "batches, samples/s": (samples / together).round(2),
            "times as fast": (alone / together).round(2),
            "same tokens": wide["same", "batches"].astype(int),
            "peak GiB": wide[peak].astype(float).round(2),
        }
    ).dropna(axis=1, how="all")


def _write_generation(path: str, table: pd.DataFrame, header: dict[str, object]) -> None:
    with Rows(path, header) as rows:
        for line in table.to_dict("records"):
            about = {"score": "samples a second", "way": line["way"], "samples": line["samples"]}
            rows.append({
                "task": "speed_generation", "sample": 0, "prompt_hash": line["prompt_hash"],
                "token_length": line["token_length"],
                "num_tokens": round(line["prompt_tokens"] / line["samples"]),
                "settings": {**header["settings"], **about},
                "score": line["samples"] / line["seconds"],
                "contained": line["same"] / line["samples"],
                "tokens_per_second": line["prompt_tokens"] / line["seconds"],
                "peak_gib": _known(line["peak_gib"]),
            })  # fmt: skip


def _add_training(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    add = commands.add_parser("small-training", help="steps of the real Trainer, data included")
    add.add_argument("preset", choices=presets.names())
    add.add_argument("--base", help="a folder or hub id, instead of the preset's")
    add.add_argument("--corpus", help="a corpus, or: random")
    add.add_argument("--method", choices=METHODS)
    add.add_argument("--scaling", choices=rope.KINDS)
    add.add_argument("--scale", type=int)
    add.add_argument("--compile", type=_listed(str), default=["auto"], help="none,layers,model")
    add.add_argument("--workers", type=_listed(int), default=[0], help="data loader processes")
    add.add_argument("--steps", type=int, default=200, help="of which the second half counts")
    add.add_argument("--batch-size", type=int)
    add.add_argument("--micro-batch", type=int)
    return add


def _training(given: argparse.Namespace) -> None:
    names = ("base", "corpus", "method", "scaling", "scale", "batch_size", "micro_batch")
    overrides = {name: getattr(given, name) for name in names}
    if given.batch_size and not given.micro_batch:
        overrides["micro_batch"] = given.batch_size
    before = _now()
    table = generation.training(
        given.preset, given.compile, given.workers, given.steps, **overrides
    )  # fmt: skip
    shown = ["compile", "workers", "ms_a_step", "tokens_per_second", "peak_gib", "wall"]
    first = table.iloc[0]
    print(f"{given.preset}: {first['method']}, steps of {first['tokens_a_step']:,} tokens in "
          f"micro-batches of {first['micro_batch']}, {_machine(_card())}")  # fmt: skip
    names = {"ms_a_step": "ms a step", "tokens_per_second": "tokens/s", "peak_gib": "peak GiB",
             "wall": "seconds in all"}  # fmt: skip
    rounded = table[shown].round({"ms_a_step": 2, "tokens_per_second": 0, "peak_gib": 2, "wall": 1})
    print(rounded.rename(columns=names).dropna(axis=1, how="all").to_string(index=False))
    if given.rows:
        _write_training(given.rows, table, given.preset, before)


def _write_training(path: str, table: pd.DataFrame, preset: str, before: dict[str, object]) -> None:
    first, columns = table.iloc[0], ["method", "scaling", "scale", "seed"]
    about = evaluation_models.base_of(first["base"])
    header = {
        "run": f"speed of {preset}", "preset": preset, "base": Path(about.path).name,
        "model_hash": models.weights_hash(about.path), "window": about.window, "card": _card(),
        "settings": before, **{name: first[name] for name in columns},
    }  # fmt: skip
    measured = ["ms_a_step", "tokens_per_second", "tokens_a_step", "peak_gib", "wall", "base"]
    with Rows(path, header) as rows:
        for line in table.astype(object).to_dict("records"):
            how = {name: value for name, value in line.items() if name not in measured + columns}
            how |= {"score": "milliseconds a step", **before}
            rows.append({
                "task": "speed_training", "sample": 0, "prompt_hash": hash_of(line["corpus"]),
                "token_length": about.window, "num_tokens": line["tokens_a_step"],
                "settings": how, "score": line["ms_a_step"],
                "tokens_per_second": line["tokens_per_second"],
                "peak_gib": _known(line["peak_gib"]),
            })  # fmt: skip


def _known(number: float | None) -> float | None:
    """A number, or None where a table says NaN."""
    return None if pd.isna(number) else number


def _card() -> str:
    return evaluation_models.card(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def _machine(card: str) -> str:
    now = _now()
    return f"{card}, {now['threads']} threads, load {now['load']}"


def _now() -> dict[str, object]:
    """What else decides a time: the threads, how busy the machine is, and when it was."""
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"threads": torch.get_num_threads(), "load": load, "measured": now}


if __name__ == "__main__":
    main()
