"""The gap to full length, and what a remedy closes of it.

    gaps(runs, {"cream": "cream, wider"})

Full length sees at training what a window of N tokens does not: more than N keys, and text that is
as far away as its positions say. What belongs here: shares of that gap, over runs of equal seed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import pandas as pd

from cream.statistics import Interval, mean_interval

__all__ = ["ENDS", "gaps"]

ENDS = {"lines_last": "7.8 N", "lines": "4 to 7.8 N"}  # endpoints of `units`, the gap's


def gaps(runs: pd.DataFrame, remedied: Mapping[str, str]) -> pd.DataFrame:
    """Return how much of its gap to full length a remedy closes, a row an endpoint and method.

    `runs` is of `endpoints.units`, of one base, one condition and scaling; `remedied` names the
    variant of each method with the remedy. The gap is full length less the method; the gain is the
    remedied variant less the method. Columns: method, endpoint, gap, gap_low, gap_high, gain, share
    (of the two means, NaN where full length does not lead), n (seeds) and more, low, high: the gain
    less half the gap (points, 95 % over seeds). NaN where no seed has all three runs.
    """
    found = []
    for endpoint, (method, variant) in itertools.product(ENDS, remedied.items()):
        values = runs.pivot(index="seed", columns="variant", values=endpoint)
        values = values.reindex(columns=["full", method, variant]).dropna()
        gap, gain = values["full"] - values[method], values[variant] - values[method]
        whole, more = _over_seeds(gap), _over_seeds(gain - gap / 2)
        share = gain.mean() / gap.mean() if gap.mean() > 0 else math.nan
        found.append({
            "method": method, "endpoint": endpoint, "gap": whole.value, "gap_low": whole.low,
            "gap_high": whole.high, "gain": gain.mean(), "share": share, "n": len(values),
            "more": more.value, "low": more.low, "high": more.high,
        })  # fmt: skip
    return pd.DataFrame(found)


def _over_seeds(values: pd.Series) -> Interval:
    return mean_interval(values) if len(values) else Interval(math.nan, math.nan, math.nan, 0)
