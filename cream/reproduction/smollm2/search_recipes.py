"""SmolLM2-135M, the search of steps and learning rate with PoSE by YaRN: which recipe is chosen.

    found = values(read("data/smollm2-search"))  # a line a run
    chosen(found)                                # the recipe that text chooses, by the rule

The rules were written before the runs: data/results/PREREGISTRATION.md, the entries of 2026-11-30
before the fourteenth GPU session.
`python -m cream.reproduction.smollm2.search data/smollm2-search` writes the page and the figure
(`search`). What belongs here: which runs count, and these rules and no others.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pandas as pd
from scipy import stats

from cream import results
from cream.plots import training_metrics
from cream.reproduction.smollm2.margin import BEYOND, per_length
from cream.reproduction.smollm2.primary import (
    BASE,
    KINDS,
    LENGTHS,
    QUESTION,
    SCALE,
    TOKENS_TRAINED,
    check_questions,
    kind_of,
    lacking,
)
from cream.reproduction.smollm2.variants import check_alike
from cream.results.run_names import options_of
from cream.study.design import VALIDATION_SEEDS, Recipe

__all__ = [
    "Spread",
    "check_split",
    "chosen",
    "gains",
    "levels",
    "read",
    "spread",
    "values",
    "with_documents",
]

TEXT, DOCUMENTS = "text", "retrieval documents"  # what runs were trained on
FILES = {TEXT: "search", DOCUMENTS: "retrieval"}  # their rows and metrics
CORPORA = {TEXT: "long-text", DOCUMENTS: "long-text-retrieval"}  # the last part of their settings'
SEEDS = VALIDATION_SEEDS
SEED = SEEDS[0]  # the only one with retrieval documents
PRESET = Recipe(150, 2e-4)  # the preset's own when the search was planned
RECIPES = tuple(Recipe(*each) for each in itertools.product((150, 300), (1e-4, 2e-4, 4e-4)))
PLANNED = {
    TEXT: [(recipe, seed) for recipe in RECIPES for seed in SEEDS],
    DOCUMENTS: [(recipe, SEED) for recipe in RECIPES[:3] + (Recipe(300, 2e-4),)],
}
NEAR, MORE = 2.0, 10.0  # points: within which the cheaper is chosen; that documents must gain
CHANGED = {"steps", "learning_rate"}  # what a run's name may say besides its seed
RECIPE = ["steps", "learning_rate"]
KEYS = ["corpus", *RECIPE, "seed"]
DECIDED = "beyond N"
COLUMNS = [*KEYS, "run", "tokens", "loss", "n", *BEYOND, DECIDED, "lacks"]


# --------------------------------------------------------------------- which rows count


def read(folder: str | Path) -> pd.DataFrame:
    """Return the sentences that PoSE's runs answered, with what their settings say of them.

    Rows are of search.parquet and retrieval.parquet in `folder`, settings and losses of metrics
    beside them. Columns are those of rows, and corpus (of `FILES`), steps, learning_rate, loss (the
    last that was logged) and kind. FileNotFoundError where neither file is there, or the settings
    of a run are not. ValueError for settings that are not the run's.
    """
    files = {corpus: Path(folder) / f"{stem}.parquet" for corpus, stem in FILES.items()}
    there = [_of_file(corpus, path) for corpus, path in files.items() if path.is_file()]
    if not there:
        names = " and no ".join(path.name for path in files.values())
        raise FileNotFoundError(f"{folder} holds no {names}; publish the campaign there first")
    return pd.concat(there, ignore_index=True)


def _of_file(corpus: str, path: Path) -> pd.DataFrame:
    rows, metrics = _asked(results.read(path)), path.parent / "metrics" / path.stem
    seeds = rows.groupby("run")["seed"].first()
    trained = {run: _trained(metrics, run, seed, corpus) for run, seed in seeds.items()}
    about = {name: rows["run"].map({run: one[name] for run, one in trained.items()})
             for name in (*RECIPE, "loss")}  # fmt: skip
    kinds = {"steps": int, "learning_rate": float, "loss": float}  # also without a row
    rows = rows.assign(corpus=corpus, **about).astype(kinds)
    _check_tokens(rows)
    return rows


def _asked(rows: pd.DataFrame) -> pd.DataFrame:
    """The sentences beyond N of PoSE by YaRN and these seeds, nothing else of a run changed."""
    rows = rows[(rows["task"] == "needle") & rows["token_length"].isin(LENGTHS)]
    rows = rows[(rows["base"] == BASE) & (rows["scale"] == SCALE) & rows["seed"].isin(SEEDS)]
    rows = rows[(rows["method"] == "pose") & (rows["scaling"] == "yarn")]
    usual = {run: set(options_of(run)) <= CHANGED for run in rows["run"].unique()}
    rows = rows[rows["run"].map(usual).astype(bool)]
    rows = rows.assign(kind=rows["settings"].map(kind_of))
    rows = rows.sort_values("date", kind="stable", na_position="first")
    return rows[rows["kind"].isin(KINDS)].drop_duplicates(["model_hash", *QUESTION], keep="last")


def _trained(metrics: Path, run: str, seed: int, corpus: str) -> dict[str, object]:
    """The steps, the rate and the last loss of a run; ValueError for settings of another."""
    path = metrics / f"{PurePosixPath(run).name}.json"
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}, which says how {run} was trained; publish "
                                "the campaign again, which writes it beside the rows")  # fmt: skip
    about = json.loads(path.read_text("utf-8"))
    there = PurePosixPath(about["corpus"]).name
    if (about["seed"], there) != (seed, CORPORA[corpus]):
        raise ValueError(f"{path} is of seed {about['seed']} on {there}, and the rows of {run} "
                         f"should be of seed {seed} on {CORPORA[corpus]}; keep one campaign a "
                         "file")  # fmt: skip
    loss = training_metrics(path.with_suffix(".jsonl"))["loss"].dropna().iloc[-1]
    return {"steps": about["steps"], "learning_rate": about["learning_rate"], "loss": loss}


def _check_tokens(rows: pd.DataFrame) -> None:
    """Refuse a run whose rows say other training tokens than its steps make."""
    other = rows[rows["tokens_trained"].fillna(0) != rows["steps"] * TOKENS_TRAINED / PRESET.steps]
    if len(other):
        one = other.iloc[0]
        raise ValueError(f"{one['run']} was trained on {one['tokens_trained']} tokens, which are "
                         f"not those of its {one['steps']} steps; publish its campaign "
                         "again")  # fmt: skip


def check_split(rows: pd.DataFrame, test: pd.DataFrame) -> None:
    """Refuse (ValueError) runs of `read` that answered a question of `test`.

    Both are rows. Rows do not say of which split a question is. `test` has those of the test split,
    which are told by the hash of their prompts.
    """
    seen = rows[rows["prompt_hash"].isin(test["prompt_hash"])]
    if len(seen):
        one = seen.iloc[0]
        raise ValueError(
            f"{one['run']} answered test questions ({len(seen)} rows here did, the first at "
            f"{one['token_length']} tokens), and recipes are chosen by validation questions alone; "
            "ask the campaign again with --split validation"
        )


# --------------------------------------------------------------------- the value of a run


def values(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a line a run, with what it found in per cent at every length that it answered whole.

    `rows` is of `read`. Columns: corpus, steps, learning_rate, seed, run, tokens (trained on), loss
    (nats a token), n (answers a length), 16K, 32K and 64K, beyond N (their mean), and lacks (names
    of the lengths that are not whole). NaN at and beyond those. ValueError where a recipe was not
    planned, where one recipe and seed has two models, and where runs answered different questions.
    """
    _check_planned(rows)
    _check_models(rows)
    check_questions(rows, "validation")
    whole = [part[~_not_whole(part)] for _, part in rows.groupby("model_hash")]
    for _, part in pd.concat(whole or [rows]).assign(factor=1.0).groupby("token_length"):
        check_alike(part)
    lines = [_value(key, part) for key, part in (rows.groupby(KEYS) if len(rows) else ())]
    return pd.DataFrame(lines, columns=COLUMNS)


def _check_planned(rows: pd.DataFrame) -> None:
    for key, part in rows.groupby(RECIPE) if len(rows) else ():
        if Recipe(*key) not in RECIPES:
            raise ValueError(f"{part['run'].iloc[0]} has {key[0]} steps at {key[1]:g}, which the "
                             "search did not plan; move its rows to another folder")  # fmt: skip


def _check_models(rows: pd.DataFrame) -> None:
    for key, part in rows.groupby(KEYS) if len(rows) else ():
        if part["model_hash"].nunique() > 1:
            raise ValueError(
                f"two models of {key[1]} steps at {key[2]:g}, seed {key[3]}, trained on {key[0]}: "
                f"{' and '.join(sorted(part['run'].unique()))}; keep the rows of one"
            )


def _not_whole(answers: pd.DataFrame) -> pd.Series:
    """Which answers of one model are of a length that is not whole."""
    return answers["token_length"].map(LENGTHS).isin(lacking(answers))


def _value(key: tuple, answers: pd.DataFrame) -> dict[str, object]:
    lacks, one = tuple(lacking(answers)), answers.iloc[0]
    whole = answers[~_not_whole(answers)]
    found = per_length(whole).rename(LENGTHS).astype(float).reindex(list(BEYOND))
    n = whole.groupby("token_length").size().min()
    return {**dict(zip(KEYS, key, strict=True)), "run": one["run"], "tokens": one["tokens_trained"],
            "loss": one["loss"], "n": n, **found, DECIDED: found.mean(skipna=False),
            "lacks": lacks}  # fmt: skip


# --------------------------------------------------------------------- the rules


def levels(found: pd.DataFrame, corpus: str = TEXT) -> pd.DataFrame:
    """Return what each of `RECIPES` found beyond N in per cent: a column a seed, and their mean.

    `found` is of `values`. The index is (steps, learning_rate). NaN for a run that is not whole,
    and for the mean of a recipe that lacks one.
    """
    part = found[found["corpus"] == corpus].astype({DECIDED: float})
    index = pd.MultiIndex.from_tuples(map(dataclasses.astuple, RECIPES), names=RECIPE)
    table = part.pivot(index=RECIPE, columns="seed", values=DECIDED)
    table = table.reindex(index=index, columns=list(SEEDS))
    return table.assign(mean=table.mean(axis=1, skipna=False))


def chosen(found: pd.DataFrame) -> Recipe | None:
    """Return the recipe that text chooses by the rule; None where no recipe is whole.

    `found` is of `values`. The highest mean of both seeds is chosen; of recipes within 2 points of
    it the one of fewest steps, then of the lowest rate.
    """
    means = levels(found)["mean"].dropna()
    return _cheapest(means[(means.max() - means).round(9) <= NEAR])


def _cheapest(means: pd.Series) -> Recipe | None:
    if means.empty:
        return None
    steps, rate = min(means.index)
    return Recipe(int(steps), float(rate))


def gains(found: pd.DataFrame, text: Recipe | None) -> pd.Series:
    """Return what each recipe with retrieval documents finds less the recipe `text`, in points.

    Runs are of seed 100, NaN where one of the two is not whole. The index is that of `levels`.
    """
    each = levels(found, DOCUMENTS)[SEED]
    return (each - (math.nan if text is None else each[dataclasses.astuple(text)])).round(9)


def with_documents(found: pd.DataFrame, text: Recipe | None) -> Recipe | None:
    """Return the recipe for retrieval documents by the rule; None where `text` was not run so.

    `found` is of `values`, `text` of `chosen`. It stays unless another finds 10 points more; of
    several the one that finds most.
    """
    more = gains(found, text).dropna()
    if more.empty:
        return None
    return _cheapest(more[more == more.max()]) if more.max() >= MORE else text


class Spread(NamedTuple):
    """How far seeds of one recipe lie apart, and so from where on two recipes are told apart."""

    deviation: float  # standard deviation of one seed, points
    recipes: int  # those with both seeds, which it is pooled over
    tells: float  # half of the 95 % interval of a difference of two recipes' means, points


def spread(found: pd.DataFrame) -> Spread:
    """Return the spread of seeds on text; NaN where no recipe has both. `found` is of `values`."""
    both = levels(found).dropna()[list(SEEDS)]
    deviation, count = math.sqrt(both.var(axis=1).mean()), len(both)
    freedom = count * (len(SEEDS) - 1)
    return Spread(deviation, count,
                  stats.t.ppf(0.975, freedom) * deviation * math.sqrt(2 / len(SEEDS)))  # fmt: skip
