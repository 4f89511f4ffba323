"""Means over a grid's runs with both of their intervals, for figures and tables.

What belongs here: levels and differences by base and seed, as tables whose columns `style` draws.
Verdicts on claims are in `study.analysis.contrasts`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cream.statistics import intervals

__all__ = ["differences", "floored", "group_means", "of_answers", "perplexities"]

RUN = ["condition", "scaling", "variant"]
UNTUNED = ("original", "scaled")
FLOOR = 1.0  # points: where every tuned model stays below, nothing is compared


def group_means(runs: pd.DataFrame, by: Sequence[str], endpoint: str = "lines") -> pd.DataFrame:
    """Return the mean of an endpoint over bases and seeds: a row a group of `by`.

    Columns: those of `by`, value, low, high (in the endpoint's unit; 95 % over bases where there
    are several), seeds_low, seeds_high (over seeds, with these bases taken as given; NaN where a
    base has one), unit, bases, runs. Runs that were not asked are left out.
    """
    there = runs.dropna(subset=[endpoint])
    if lost := int(there["base"].isna().sum()):  # which pandas would leave out
        raise ValueError(f"{lost} of {len(there)} runs have no base: name it, or drop them")
    if there.duplicated([*by, "base", "seed"]).any():
        raise ValueError("several rows have one base and seed; there must be one row a run")
    cells = there.groupby([*by, "base"], sort=False)[endpoint].agg(["mean", "var", "size"])
    found = [
        (*key, *_level(*part.to_numpy(float).T))
        for key, part in cells.groupby(level=list(by), sort=False)
    ]
    names = ["value", "low", "high", "seeds_low", "seeds_high", "unit", "bases", "runs"]
    return pd.DataFrame(found, columns=[*by, *names])


def _level(means: np.ndarray, variances: np.ndarray, sizes: np.ndarray) -> tuple:
    """What `statistics.two_level` finds, from the bases' own means, for many groups at once."""
    value, bases, freedom = means.mean(), len(means), int((sizes - 1).sum())
    within = np.nansum(variances * (sizes - 1)) / freedom if freedom else np.nan
    over_seeds = intervals.inner_interval(value, np.sqrt(within), sizes)
    if bases > 1:
        over_bases = intervals.mean_interval(means)
        return (value, over_bases.low, over_bases.high, *over_seeds, "base", bases,
                int(sizes.sum()))  # fmt: skip
    return (value, *over_seeds, *over_seeds, "seed", 1, int(sizes.sum()))


def of_answers(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the level of correct answers (%) by condition, scaling, variant and the column x."""
    rows = rows.assign(percent=100 * rows["score"].astype(float))
    keys = [*RUN, "x"]
    runs = rows.groupby([*keys, "base", "seed"])["percent"].mean().reset_index()
    return group_means(runs, keys, "percent")


def perplexities(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the level of perplexity, as `of_answers`: means and intervals are of logarithms."""
    keys = [*RUN, "x"]
    sums = rows.groupby([*keys, "base", "seed"])[["nll", "scored_tokens"]].sum().astype(float)
    runs = (sums["nll"] / sums["scored_tokens"]).rename("log").reset_index()
    found = group_means(runs, keys, "log")
    numbers = ["value", "low", "high", "seeds_low", "seeds_high"]
    return found.assign(**np.exp(found[numbers]))


def differences(runs: pd.DataFrame, a: str, b: str, endpoint: str) -> pd.DataFrame:
    """Return the level of `a` less `b` in the same base and seed, by condition and scaling.

    Columns: as of `group_means`, with level_a and level_b, the means of both sides.
    """
    keys = ["condition", "scaling"]
    sides = [
        runs.loc[runs["variant"] == name, [*keys, "base", "seed", endpoint]] for name in (a, b)
    ]
    pairs = sides[0].merge(sides[1], on=[*keys, "base", "seed"], suffixes=("_a", "_b"))
    pairs["value"] = pairs[f"{endpoint}_a"] - pairs[f"{endpoint}_b"]
    pairs = pairs.dropna(subset="value")
    found = group_means(pairs, keys, "value").set_index(keys)
    means = pairs.groupby([*keys, "base"])[[f"{endpoint}_a", f"{endpoint}_b"]].mean()
    means = means.groupby(level=keys).mean().set_axis(["level_a", "level_b"], axis=1)
    return found.join(means).reset_index()


def floored(found: pd.DataFrame) -> list[tuple[str, str]]:
    """Return the settings (condition, scaling) in which no tuned variant leaves 0 points."""
    tuned = found[~found["variant"].isin(UNTUNED)]
    most = tuned.groupby(["condition", "scaling"])["value"].max()
    return [setting for setting, value in most.items() if value < FLOOR]
