"""Differences in pairs of equal seed, and how they are written.

What belongs here: what the pages of SmolLM2-135M share that compare a run with its pair.
"""

from __future__ import annotations

import math

import pandas as pd

from cream.reproduction.method_cells import NOT_RUN
from cream.statistics import mean_interval

__all__ = ["level", "over", "points"]


def over(differences: pd.Series) -> tuple[float, float, float]:
    """Return a mean over seeds with Student's interval: NaN of nothing, no interval of one."""
    each = differences.dropna()
    if each.empty:
        return math.nan, math.nan, math.nan
    return tuple(mean_interval(each))[:3] if len(each) > 1 else (each.iloc[0], math.nan, math.nan)


def level(value: float, digits: int = 1) -> str:
    """Return a mean in per cent as a page says it."""
    return NOT_RUN if math.isnan(value) else f"{round(value, 9):.{digits}f}"


def points(one: tuple) -> str:
    """Return a difference, `value`, `low` and `high` of a table's line, as a page says it."""
    if math.isnan(one.value):
        return NOT_RUN
    ends = "" if math.isnan(one.low) else f" [{round(one.low, 9):+.1f}, {round(one.high, 9):+.1f}]"
    return f"{round(one.value, 9):+.1f}{ends}"
