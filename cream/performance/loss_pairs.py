"""What float8 does to the losses of a run: runs that differ in float8 alone, beside each other.

    python -m cream.performance loss-pairs data/smollm2/metrics data/smollm2-float8/metrics

reads the settings and losses that campaigns keep (NAME.json and NAME.jsonl in folders of these),
pairs every run in float8 with those of equal settings without it, and prints how far their losses
are apart, in nats a token. Two runs of equal settings and no float8, on two cards or days, stand
beside them: so far apart are losses that nothing was done to. A logged loss is the mean of the
steps since the one before it. Settings do not say which texts lay in a corpus's folder, nor which
weights in a base's: runs are paired by their names.

What belongs here: this comparison. Losses are the training's own; accuracy is not measured here.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from cream.training.callbacks import read_metrics
from cream.training.config import TrainConfig

__all__ = ["main", "pairs", "sentence"]

# Settings that say how a run is computed, and not what.
HOW = ("float8", "float8_layers", "micro_batch", "compile", "recompute", "offload",
       "gradient_checkpointing", "workers")  # fmt: skip
# Of fields that a run is older than.
DEFAULTS = {one.name: one.default for one in dataclasses.fields(TrainConfig)
            if isinstance(one.default, str | int | float | None)}  # fmt: skip
COLUMNS = ("method", "scaling", "seed", "float8", "layers", "losses", "mean", "last third", "most",
           "at", "GiB", "GiB without")  # fmt: skip


class _Run(NamedTuple):
    """A run's settings, its logged losses by step, and its peak in GiB."""

    settings: dict[str, object]
    losses: pd.Series
    peak: float | None


def pairs(*folders: str | Path) -> pd.DataFrame:
    """Return a line a pair of runs, float8 less none: nats a token, and the peaks of both.

    The runs of all folders are paired. `mean` is over all logged losses, `last third` over the last
    third of them, `most` the largest distance with its sign, `at` its step. Lines whose float8 is
    "none" compare two runs of equal settings.
    """
    groups: dict[str, list[_Run]] = {}
    for settings in (each for one in folders for each in sorted(Path(one).glob("*/*.json"))):
        if settings.with_suffix(".jsonl").is_file():
            run = _read(settings)
            groups.setdefault(_same(run.settings), []).append(run)
    found = []
    for runs in groups.values():
        plain = [one for one in runs if one.settings["float8"] == "none"]
        eight = [one for one in runs if one.settings["float8"] != "none"]
        found += [_line(one, other) for one, other in itertools.product(eight, plain)]
        found += [_line(one, other) for one, other in itertools.combinations(plain, 2) if eight]
    return pd.DataFrame(found, columns=list(COLUMNS))


def _read(settings: Path) -> _Run:
    rows = [row for row in read_metrics(settings.with_suffix(".jsonl")) if "loss" in row]
    peaks = [row["peak_gib"] for row in rows if row.get("peak_gib") is not None]
    losses = pd.Series({row["step"]: row["loss"] for row in rows})
    about = DEFAULTS | json.loads(settings.read_text("utf-8"))
    return _Run(about, losses, max(peaks, default=None))


def _same(settings: dict[str, object]) -> str:
    """What a run computes, as text that equal runs share."""
    return json.dumps({k: v for k, v in settings.items() if k not in HOW}, sort_keys=True)


def _line(one: _Run, other: _Run) -> dict[str, object]:
    apart = (one.losses - other.losses).dropna()
    at = apart.abs().idxmax() if len(apart) else None
    about = one.settings
    return {
        "method": about["method"], "scaling": about["scaling"], "seed": about["seed"],
        "float8": about["float8"], "layers": about["float8_layers"], "losses": len(apart),
        "mean": apart.mean(), "last third": apart[-(len(apart) // 3) :].mean(),
        "most": apart.get(at), "at": at, "GiB": one.peak, "GiB without": other.peak,
    }  # fmt: skip


def sentence(table: pd.DataFrame) -> str:
    """Return what the pairs come to, in one sentence each of float8 and of none."""
    said = []
    for name, part in table.groupby("float8", sort=False):
        what = "Two runs of equal settings" if name == "none" else f"Runs in float8 ({name})"
        low, high = part["last third"].min(), part["last third"].max()
        ends = f"{low:+.4f}" if len(part) == 1 else f"{low:+.4f} to {high:+.4f}"
        count = f"{len(part)} pair{'s' * (len(part) > 1)}"
        most = part.loc[part["most"].abs().idxmax()]
        said.append(f"{what}: {ends} nats a token apart over the last third of their losses "
                    f"({count}); furthest {most['most']:+.4f}, in the loss logged at step "
                    f"{most['at']}.")  # fmt: skip
    return "\n".join(said) or "No run in float8 has one beside it without."


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare the losses of runs in float8 with those of equal runs without it."""
    parser = argparse.ArgumentParser(
        prog="python -m cream.performance loss-pairs", description=main.__doc__
    )
    parser.add_argument(
        "folders", type=Path, nargs="+", help="each of folders of NAME.json and NAME.jsonl"
    )
    given = parser.parse_args(arguments)
    table = pairs(*given.folders)
    if len(table):
        print(table.round(4).to_string(index=False))
    print(sentence(table))


if __name__ == "__main__":
    main()
