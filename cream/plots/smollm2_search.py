"""The search of steps and learning rate on a real model: what was found by rate, one figure.

A table in, a matplotlib Figure out; looks are those of `style`. Which runs are drawn and which
recipe is chosen is decided in `reproduction.smollm2.search_recipes`.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from cream.plots.style import finish, legend, note, printed, sheet

__all__ = ["sentences_by_rate"]

LOOKS = [("#4393C3", "s", "-"), ("#B2182B", "o", (0, (4, 1.5))), ("#222222", "^", (0, (1, 1.4)))]
APART = 1.03  # between the marks of two numbers of steps at one rate, as a factor on the rate


@printed
def sentences_by_rate(
    table: pd.DataFrame,
    needed: int,
    chosen: tuple[int, float] | None = None,
    said: Sequence[str] = (),
) -> Figure:
    """Draw a line a number of steps through the means of seeds by rate, and a small mark a seed.

    `table` has steps, learning_rate, seed and value (per cent). A rate with fewer than `needed`
    seeds has no mean. A ring is around the mean of the recipe `chosen` (steps, rate), which
    has them. `said` goes below. ValueError for an empty table.
    """
    if table.empty:
        raise ValueError("there is no run to draw: the table is empty")
    figure, axes = sheet(5.6, 3.6)
    panel = axes[0][0]
    for place, (steps, part) in enumerate(table.groupby("steps")):
        color, marker, line = LOOKS[place % len(LOOKS)]
        means, look = _means(part, needed), {"color": color, "marker": marker}
        x, shift = part["learning_rate"], APART**place
        panel.plot(shift * means.index, means, ls=line, label=f"{steps} steps", **look)
        panel.plot(shift * x, part["value"], ls="none", ms=3, alpha=0.5, label="_seeds", **look)
        if chosen and chosen[0] == steps:
            ring = shift * chosen[1], means[chosen[1]]
    if chosen:
        panel.plot(*ring, "o", ms=12, mfc="none", mec="#222222", label="chosen")
    legend(figure)
    _axes(panel, sorted(table["learning_rate"].unique()))
    note(figure, *said)
    return figure


def _means(part: pd.DataFrame, needed: int) -> pd.Series:
    """The mean of each rate that has enough seeds."""
    rates = part.groupby("learning_rate")["value"]
    return rates.mean()[rates.size() >= needed]


def _axes(panel: Axes, rates: Sequence[float]) -> None:
    panel.set_xscale("log")
    panel.xaxis.set_major_locator(FixedLocator(rates))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(lambda rate, _: f"{rate:.0e}".replace("e-0", "e-"))
    panel.set_ylim(0, None)
    finish(panel, "", "learning rate", "sentences found beyond N (%)")
