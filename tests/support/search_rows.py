"""The search of steps and learning rate, made up: runs as a campaign names and publishes them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from primary_rows import LENGTHS, run, runs

from cream import results
from cream.reproduction.smollm2.search_recipes import COLUMNS, DOCUMENTS, FILES, TEXT
from cream.study.campaign_models import jobs

CORPORA = {TEXT: "runs/corpora/long-text", DOCUMENTS: "runs/corpora/long-text-retrieval"}
RATES = (1e-4, 2e-4, 4e-4)
TOKENS_A_STEP = 16 * 8192


class Searched(NamedTuple):
    """A run that finds the share `found` at every length that it is asked."""

    steps: int
    rate: float
    seed: int = 100
    found: float = 0.5
    corpus: str = TEXT
    lengths: tuple[int, ...] = LENGTHS
    about: Mapping[str, object] = {}  # columns of rows that are otherwise

    @property
    def name(self) -> str:
        """As a campaign calls it; the preset's recipe is not said."""
        said = f":steps={self.steps}" if self.steps != 150 else ""
        said += f":learning_rate={self.rate}" if self.rate != 2e-4 else ""
        return jobs(f"pose:yarn:8:{self.seed}{said}")[0].name

    @property
    def rows(self) -> pd.DataFrame:
        """Its answers."""
        name = f"runs/{FILES[self.corpus]}/{self.name}"
        usual = {"run": name, "model_hash": name, "tokens_trained": self.steps * TOKENS_A_STEP}
        return run("pose", self.seed, self.found, lengths=self.lengths, **usual | dict(self.about))

    @property
    def settings(self) -> dict[str, object]:
        """What its config.json says of it, as far as it is read."""
        return {"corpus": CORPORA[self.corpus], "seed": self.seed, "steps": self.steps,
                "learning_rate": self.rate}  # fmt: skip


def publish(folder: Path, *made: Searched, losses: tuple[float, ...] = (2.0, 1.5)) -> Path:
    """Write rows and metrics as a campaign publishes them; a file a corpus."""
    for corpus, stem in FILES.items():
        here = [one for one in made if one.corpus == corpus]
        if not here:
            continue
        results.to_parquet(runs(*(one.rows for one in here)), folder / f"{stem}.parquet")
        metrics = folder / "metrics" / stem
        metrics.mkdir(parents=True, exist_ok=True)
        for one in here:
            lines = [{"step": 5 * (k + 1), "loss": loss} for k, loss in enumerate(losses)]
            text = "".join(f"{json.dumps(line)}\n" for line in [*lines, {"step": one.steps}])
            (metrics / f"{one.name}.jsonl").write_text(text)
            (metrics / f"{one.name}.json").write_text(json.dumps(one.settings))
    return folder


def every(found: Mapping[tuple[int, float], float], apart: float = 0.05) -> list[Searched]:
    """Both seeds of each recipe on text: the second finds `apart` more, their mean is `found`."""
    return [Searched(*recipe, seed, share + sign * apart / 2)
            for (recipe, share), (seed, sign) in itertools.product(
                found.items(), ((100, -1), (101, 1)))]  # fmt: skip


def table(
    text: Mapping[tuple[int, float], tuple[float, ...]],
    documents: Mapping[tuple[int, float], float] | None = None,
) -> pd.DataFrame:
    """A table of `search_recipes.values`: per cent beyond N of each recipe, a seed each.

    A seed that is NaN lacks 64K. `documents` are of seed 100.
    """
    lines = [_line(TEXT, recipe, seed, value) for recipe, values in text.items()
             for seed, value in zip((100, 101), values, strict=False)]  # fmt: skip
    lines += [_line(DOCUMENTS, recipe, 100, value) for recipe, value in (documents or {}).items()]
    return pd.DataFrame(lines, columns=COLUMNS)


def _line(corpus: str, recipe: tuple[int, float], seed: int, value: float) -> dict[str, object]:
    one = Searched(*recipe, seed, corpus=corpus)
    lacks = () if value == value else ("64K",)
    return {"corpus": corpus, "steps": one.steps, "learning_rate": one.rate, "seed": seed,
            "run": one.name, "tokens": one.steps * TOKENS_A_STEP, "loss": 1.5, "n": 60,
            "16K": 40.0, "32K": 40.0, "64K": value, "beyond N": value, "lacks": lacks}  # fmt: skip
