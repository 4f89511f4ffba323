"""Means, differences and their 95 % intervals, with n.

Belongs here: what turns rows into numbers with an interval. Does not: sentences about the numbers
(`study.analysis`, `reproduction`). Read first: `intervals`; `multilevel` has bases and seeds as
units.
"""

from cream.statistics.intervals import (
    Interval,
    TwoLevel,
    bootstrap_ratio,
    bracket,
    difference,
    holm,
    mean_interval,
    mean_of,
    p_value,
    paired_difference,
    perplexity,
    proportion,
    two_level,
    wilson,
)
from cream.statistics.tables import (
    accuracies,
    by_method,
    match,
    perplexities,
    share_over_lengths,
    told_apart,
    units,
)

__all__ = [
    "Interval",
    "TwoLevel",
    "accuracies",
    "bootstrap_ratio",
    "bracket",
    "by_method",
    "difference",
    "holm",
    "match",
    "mean_interval",
    "mean_of",
    "p_value",
    "paired_difference",
    "perplexities",
    "perplexity",
    "proportion",
    "share_over_lengths",
    "told_apart",
    "two_level",
    "units",
    "wilson",
]
