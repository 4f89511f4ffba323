"""Runs of SmolLM2-135M: CREAM, its variants, PoSE and plain fine-tuning, told by a run's name.

    found = values(results.read("data/smollm2-seeds"), ["cream", "pose"])  # a line a run
    by_seed(found, "cream", "beyond N")                                    # per cent, a line a seed

What belongs here: which rows are answers of a variant, a seed and a factor of attention, and which
of them count. `seeds`, `parts` and `retrieval` compare them by the usual plan (seeds 7 to 9, scale
8), `scale32` by its own.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

import pandas as pd

from cream.reproduction.paired import level
from cream.reproduction.smollm2.margin import ENDS, LENGTHS, found_by_length
from cream.reproduction.smollm2.primary import (
    BASE,
    FEWEST,
    QUESTION,
    SCALE,
    check_questions,
    check_tokens,
    kind_of,
    lacking,
)

__all__ = [
    "MEASURED",
    "Plan",
    "SEEDS",
    "USUAL",
    "VARIANTS",
    "Variant",
    "answers",
    "by_seed",
    "cells",
    "check_alike",
    "check_models",
    "divided",
    "in_order",
    "named",
    "not_whole",
    "run_name",
    "said_left_out",
    "tabled",
    "values",
    "whole_lengths",
]


class Variant(NamedTuple):
    """A method, and what a campaign changed of it alone: the end of the run's name."""

    label: str
    method: str = "cream"
    changed: str = ""


class Plan(NamedTuple):
    """The runs that a campaign was to have, and the sentences that it was to ask each."""

    seeds: tuple[int, ...]
    scale: int
    lengths: Mapping[int, str]  # their names, by tokens
    fewest: int  # sentences of a length, depth and kind of text


SEEDS = (7, 8, 9)
USUAL = Plan(SEEDS, SCALE, LENGTHS, FEWEST)
VARIANTS = {
    "cream": Variant("CREAM"),
    "continuity": Variant("CREAM, continuity only", changed="-sampler_options.mode-continuity"),
    "relativity": Variant("CREAM, relativity only", changed="-sampler_options.mode-relativity"),
    "sigma 1": Variant("CREAM, sigma 1", changed="-sampler_options.sigma-1"),
    "uniform": Variant("CREAM, uniform middle", changed="-sampler_options.middle-uniform"),
    "content free": Variant("CREAM, free content", changed="-sampler_options.content-free"),
    "pose": Variant("PoSE", "pose"),
    "plain": Variant("plain fine-tuning", "plain"),
}  # in the order of a page
KEYS = ["variant", "factor", "seed"]
MEASURED = (
    "N = 8,192 tokens, L = 8 N, YaRN, text. Hidden sentences found, per cent, every depth and kind "
    "of text weighing alike; beyond N is the mean of 16K, 32K and 64K. **One base**: intervals are "
    "Student's over its training seeds, 95 %, differences in pairs of equal seed."
)


def run_name(variant: str, seed: int, scale: int = SCALE) -> str:
    """Return what a campaign calls the run of a variant (of `VARIANTS`), a seed and a scale."""
    one = VARIANTS[variant]
    return f"{one.method}-yarn-{scale}-seed{seed}{one.changed}"


def values(
    rows: pd.DataFrame, names: Collection[str], factors: Collection[float] = (1,)
) -> pd.DataFrame:
    """Return a line a run and factor that answered all six lengths, with what it found in per cent.

    `rows` is of `results.read`, `names` are of `VARIANTS`, `factors` those of attention when a
    model was asked (1 is as it is). Columns: variant, factor, seed, n (answers a length), every
    length by its name, and the means of `ENDS`. ValueError where two models of one variant and seed
    did, where one was trained on more or fewer tokens, and where runs answered different questions.
    """
    return tabled(answers(rows, names, factors))


def answers(
    rows: pd.DataFrame, names: Collection[str], factors: Collection[float] = (1,)
) -> pd.DataFrame:
    """Return the rows behind `values`, with `variant`, `kind` and `factor`; errors are its own."""
    return divided(rows, names, factors)[0]


def divided(
    rows: pd.DataFrame, names: Collection[str], factors: Collection[float] = (1,)
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return what `answers` and `not_whole` do, of rows that are read once for both."""
    asked = _asked(rows, names, factors)
    runs = _by_run(asked)
    whole = [part for part, lacks in runs if not lacks]
    found = pd.concat(whole or [asked.iloc[:0]], ignore_index=True)
    check_tokens(found)
    check_models(found)
    check_alike(found)
    return found, _said_of(runs)


def whole_lengths(rows: pd.DataFrame, names: Collection[str], plan: Plan) -> pd.DataFrame:
    """Return the answers to sentences at every length that a run answered whole.

    A run that lacks lengths is there with the others. Columns beside those of `rows` are those of
    `answers`, errors those of `values`.
    """
    asked = _asked(rows, names, (1,), plan)
    parts = [(length, part) for (_, length), part in asked.groupby(["model_hash", "token_length"])]
    whole = [part for length, part in parts
             if not lacking(part, {length: plan.lengths[length]}, plan.fewest)]  # fmt: skip
    found = pd.concat(whole or [asked.iloc[:0]], ignore_index=True)
    check_tokens(found)
    check_models(found, "answered a length")
    for _, part in found.groupby("token_length"):
        check_alike(part)
    return found


def tabled(found: pd.DataFrame) -> pd.DataFrame:
    """Return the table of `values`; `found` is of `answers`."""
    lines = found_by_length(found, KEYS).values()
    return pd.DataFrame(lines, columns=[*KEYS, "n", *LENGTHS.values(), *ENDS])


def not_whole(
    rows: pd.DataFrame, names: Collection[str], factors: Collection[float] = (1,)
) -> pd.DataFrame:
    """Return a line a run and factor that does not count: variant, factor, seed and lacks.

    Arguments are those of `values`; `lacks` is a tuple of the names of lengths that are not whole.
    """
    return _said_of(_by_run(_asked(rows, names, factors)))


def _said_of(runs: list[tuple[pd.DataFrame, list[str]]]) -> pd.DataFrame:
    """A line a run that is not whole; `runs` are of `_by_run`."""
    lines = [
        {**part[KEYS].iloc[0].to_dict(), "lacks": tuple(lacks)} for part, lacks in runs if lacks
    ]
    return in_order(pd.DataFrame(lines, columns=[*KEYS, "lacks"]))


def _by_run(asked: pd.DataFrame) -> list[tuple[pd.DataFrame, list[str]]]:
    """The answers of each model and factor, with the lengths at which they are not whole."""
    return [(part, lacking(part, LENGTHS)) for _, part in asked.groupby(["model_hash", "factor"])]


def _asked(
    rows: pd.DataFrame, names: Collection[str], factors: Collection[float], plan: Plan = USUAL
) -> pd.DataFrame:
    """The hidden sentences of these runs, with `variant`, `factor` and `kind`."""
    rows = rows[(rows["task"] == "needle") & rows["token_length"].isin(plan.lengths)]
    rows = named(rows, names, plan)
    how = {text: _how(text) for text in rows["settings"].unique()}
    rows = rows.assign(
        kind=rows["settings"].map(lambda text: how[text][0]),
        factor=rows["settings"].map(lambda text: how[text][1]).astype(float),
    )
    rows = rows[(rows["kind"] != "") & rows["factor"].isin(factors)]
    rows = rows.sort_values("date", kind="stable", na_position="first")
    return rows.drop_duplicates(["model_hash", "factor", *QUESTION], keep="last")


def named(rows: pd.DataFrame, names: Collection[str], plan: Plan = USUAL) -> pd.DataFrame:
    """Return the rows, of every task, of the plan's runs of these variants, with `variant`."""
    ours = (rows["scale"] == plan.scale) & rows["seed"].isin(plan.seeds)
    rows = rows[(rows["base"] == BASE) & ours]
    called = {(run_name(variant, seed, plan.scale), seed): variant
              for variant in names for seed in plan.seeds}  # fmt: skip
    last = {run: PurePosixPath(run).name for run in rows["run"].fillna("").unique()}
    runs = zip(rows["run"].fillna("").tolist(), rows["seed"].tolist(), strict=True)
    rows = rows.assign(variant=[called.get((last[run], seed), "") for run, seed in runs])
    return rows[rows["variant"] != ""]


def _how(settings: str) -> tuple[str, float]:
    """Read the kind of text that a sentence was hidden in, and the factor it was asked by."""
    about = json.loads(settings)
    factor = about.pop("sharper", 1.0)
    return kind_of(json.dumps(about)), factor


def check_models(found: pd.DataFrame, which: str = "answered all lengths") -> None:
    """Refuse (ValueError) two models of a variant and seed; also one asked sharper counts.

    `found` has the columns of `named`, `which` says of its models what they have in common.
    """
    models = found.groupby(["variant", "seed"])["model_hash"].nunique()
    for variant, seed in models[models > 1].index:
        raise ValueError(f"two models of {VARIANTS[variant].label}, seed {seed}, {which}; "
                         "keep the rows of one")  # fmt: skip


def check_alike(found: pd.DataFrame) -> None:
    """Refuse (ValueError) runs that answered other or more sentences; `found` is of `answers`."""
    check_questions(found)
    _check_answered(found)


def _check_answered(found: pd.DataFrame) -> None:
    """Refuse runs of which one answered more sentences than another."""
    answered, runs = found.groupby(QUESTION).size(), found.groupby(["model_hash", "factor"]).ngroups
    if (answered < runs).any():
        kind, length, depth, sample = answered[answered < runs].index[0]
        raise ValueError(
            f"{answered.min()} of {runs} runs answered the sentence hidden in {kind} at {length} "
            f"tokens, depth {depth:g} %, sample {sample}; ask each run the same number of "
            "sentences (--needle of the campaign) and keep the rows of these"
        )


def by_seed(
    found: pd.DataFrame,
    variant: str,
    end: str,
    factor: float = 1.0,
    seeds: Sequence[int] = SEEDS,
) -> pd.Series:
    """Return what a variant found in per cent, a line a seed of `seeds`; NaN where it was not run.

    `found` is of `values`, `end` one of its columns.
    """
    part = found[(found["variant"] == variant) & (found["factor"] == factor)]
    return part.set_index("seed")[end].astype(float).reindex(list(seeds))


def in_order(found: pd.DataFrame) -> pd.DataFrame:
    """Return lines of `values` in the order of a page: by variant, factor and seed."""
    order = found.assign(place=found["variant"].map(list(VARIANTS).index))
    return order.sort_values(["place", "factor", "seed"]).drop(columns="place")


def said_left_out(left_out: pd.DataFrame, of: str = "comparison") -> str:
    """Return the sentence of a page about runs that are not whole, "" where all are.

    `left_out` has the columns variant, seed and lacks of `not_whole`; the runs are in no `of`.
    """
    each = [f"{VARIANTS[one.variant].label}, seed {one.seed} (lacks {', '.join(one.lacks)})"
            for one in left_out.itertuples()]  # fmt: skip
    return f"\nIn no {of}, because not whole: {'; '.join(each)}.\n" if each else ""


def cells(one: dict[str, object]) -> list[str]:
    """Return the cells of a run: its seed, n, and what it found at every length in whole per cent.

    `one` is a line of `values`.
    """
    return [str(one["seed"]), str(one["n"]), *(level(one[name], 0) for name in LENGTHS.values())]
