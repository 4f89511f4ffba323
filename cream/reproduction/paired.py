"""Differences in pairs of equal seed, and how they are written.

What belongs here: what the pages of SmolLM2-135M share that compare a run with its pair.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd

from cream.reproduction.method_cells import NOT_RUN
from cream.statistics import mean_interval

__all__ = ["NOT_DECIDED", "compared", "lead", "leads_in", "level", "over", "points", "seeds_of"]

NOT_DECIDED = "not decided"


def over(differences: pd.Series) -> tuple[float, float, float]:
    """Return a mean over seeds with Student's interval: NaN of nothing, no interval of one."""
    each = differences.dropna()
    if each.empty:
        return math.nan, math.nan, math.nan
    return tuple(mean_interval(each))[:3] if len(each) > 1 else (each.iloc[0], math.nan, math.nan)


def compared(first: pd.Series, second: pd.Series) -> dict[str, object]:
    """Return `first` less `second`, both in per cent by seed, over the seeds that have both.

    Fields: seeds, level and other_level (means of these seeds, per cent), value, low, high (points)
    and leads (seeds in which the first is more). NaN without a pair.
    """
    pairs = pd.concat({"first": first, "second": second}, axis=1).dropna()
    each = (pairs["first"] - pairs["second"]).round(9)  # what is equal has no sign
    value, low, high = over(each)
    return {
        "seeds": tuple(pairs.index),
        "level": pairs["first"].mean(),
        "other_level": pairs["second"].mean(),
        "value": value,
        "low": low,
        "high": high,
        "leads": int((each > 0).sum()),
    }


def lead(one: Mapping[str, object], seeds: int) -> str:
    """Return the verdict of a line of `compared` that should have so many seeds.

    By the rule that was written before the runs: "leads", "trails" or "inconclusive".
    """
    if len(one["seeds"]) < seeds:
        return NOT_DECIDED
    return "leads" if one["low"] > 0 else "trails" if one["high"] < 0 else "inconclusive"


def seeds_of(one: tuple) -> str:
    """Return the seeds of a table's line as a page says them."""
    return ", ".join(map(str, one.seeds)) or "none"


def leads_in(one: tuple) -> str:
    """Return in how many of its seeds a table's line leads, as a page says it."""
    return f"{one.leads} of {len(one.seeds)}" if one.seeds else ""


def level(value: float, digits: int = 1) -> str:
    """Return a mean in per cent as a page says it."""
    return NOT_RUN if math.isnan(value) else f"{round(value, 9):.{digits}f}"


def points(one: tuple, digits: int = 1) -> str:
    """Return a difference, `value`, `low` and `high` of a table's line, as a page says it."""
    if math.isnan(one.value):
        return NOT_RUN
    value, low, high = (f"{round(each, 9):+.{digits}f}" for each in (one.value, one.low, one.high))
    return value if math.isnan(one.low) else f"{value} [{low}, {high}]"
