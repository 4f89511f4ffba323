"""Are a campaign's tuned models what this code trains? A random run of them, trained again.

    python -m cream.verify data/smollm2 --train 1       # on a GPU

A campaign keeps no weights, but each run's settings and losses (metrics/FILE/NAME.json and .jsonl
beside FILE.parquet). A run is trained again from its settings, its losses are compared, and it is
asked the hidden sentences that its rows answer. What belongs here: that; the grid's runs are
`study`'s, rows of models that are here `rows`'.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from cream import results
from cream.evaluation import models
from cream.training.callbacks import read_metrics
from cream.training.config import TrainConfig, read_config
from cream.training.run import train
from cream.verify.examples import Texts, identity, rebuild
from cream.verify.rows import Checked, recompute, table

__all__ = ["LIMITS", "Kept", "kept_runs", "train_again"]

TASK = "needle"
OUT = "runs/verify"
# How far a run trained again may be off, in nats at any logged step and in points at any length.
# Eight runs of data/smollm2 were trained twice, on H200s of two sessions: losses at most 0.0011
# apart, sentences found at one length at most 9 points, of seven by other numbers of questions.
LIMITS = {"losses": 0.01, "sentences": 15.0}


class Kept(NamedTuple):
    """A campaign's run: its name, the settings and losses that were kept, its rows."""

    name: str
    settings: Path
    losses: Path
    rows: pd.DataFrame


def kept_runs(folder: Path) -> list[Kept]:
    """Return the runs of a folder of campaigns whose settings, losses and answers are all there."""
    found = []
    for metrics in sorted(folder.glob("metrics/*")):
        file = folder / f"{metrics.name}.parquet"
        if not file.is_file():
            continue
        rows = results.read(file)
        for settings in sorted(metrics.glob("*.json")):
            losses = settings.with_suffix(".jsonl")
            mine = rows[rows["run"].str.endswith(f"/{settings.stem}") & (rows["task"] == TASK)]
            if len(mine) and losses.is_file():
                found.append(Kept(f"{metrics.name}/{settings.stem}", settings, losses, mine))
    return found


def train_again(folder: Path, root: Path, number: int = 1, seed: int = 0) -> Checked:
    """Train random runs of a folder of campaigns again, and compare them within `LIMITS`.

    They are written below runs/verify under `root`, where their corpus must be, too. ValueError
    where the folder holds no run that could be trained again.
    """
    runs = kept_runs(folder)
    if not runs:
        raise ValueError(
            f"{folder} holds no grid, and no metrics/FILE/RUN.json beside rows of that run in "
            "FILE.parquet: there is nothing to train again"
        )
    order = np.random.default_rng(seed).permutation(len(runs))[:number]
    wanted = [runs[place] for place in order]
    found = [(one.name, *each) for one in wanted for each in _differences(one, root)]
    checked = pd.DataFrame({"run": [one.name for one in wanted], "task": "trained again"})
    return Checked(checked, table(found), [])


def _differences(kept: Kept, root: Path) -> Iterator[tuple[str, object, object]]:
    """Yield (value, committed, computed) of what is off by more than its limit."""
    config, out = _config(kept), f"{OUT}/{kept.name}"
    print(f"training again: {kept.name}: {config.steps} steps", flush=True)
    train(config, root / out, root=root, progress=False)
    was, now = _losses(kept.losses), _losses(root / out / "metrics.jsonl")
    apart = (was - now).abs()
    print(f"  losses within {apart.max():.4f}", flush=True)
    if not was.index.equals(now.index):
        yield "logged steps", len(was), len(now)
    elif apart.max() > LIMITS["losses"]:
        yield f"loss at step {apart.idxmax()}", was[apart.idxmax()], now[apart.idxmax()]
    for length, one, other in _sentences(kept, config, out, root):
        print(f"  found at {length:,} tokens: {one:.1f} %, again {other:.1f} %", flush=True)
        if not abs(one - other) <= LIMITS["sentences"]:
            yield f"found at {length:,} tokens", one, other


def _config(kept: Kept) -> TrainConfig:
    """Read a run's settings as its folder had them."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(kept.settings.read_text(encoding="utf-8"))
        return read_config(folder)


def _losses(path: Path) -> pd.Series:
    rows = [row for row in read_metrics(path) if "loss" in row]
    return pd.Series({row["step"]: float(row["loss"]) for row in rows})


def _sentences(
    kept: Kept, config: TrainConfig, out: str, root: Path
) -> Iterator[tuple[int, float, float]]:
    """Yield (length, % found by the committed run, % found now) on the same questions."""
    first = kept.rows.iloc[0]
    (spec,) = models.find(out, config.base, root, first["preset"])
    loaded = spec.load(getattr(torch, json.loads(first["settings"])["dtype"]))
    base = models.base_of(config.base, root)
    texts = Texts(base.tokenizer, base.window, root / config.corpus)
    built, asked = rebuild(kept.rows, texts), [identity(row) for _, row in kept.rows.iterrows()]
    again = recompute(loaded, TASK, [built[one] for one in asked if one in built], progress=False)
    now = [again[one]["score"] if one in again else np.nan for one in asked]
    scores = kept.rows.assign(now=now).groupby("token_length")[["score", "now"]].mean()
    for length, row in (100 * scores.astype(float)).iterrows():
        yield int(length), row["score"], row["now"]
