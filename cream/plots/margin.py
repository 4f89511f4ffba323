"""Accuracy by length of models tuned for the length they are used to, and for more: one figure.

A table in, a matplotlib Figure out; looks are those of `style`. Which numbers are drawn is decided
in `reproduction.miniature.margin` and `reproduction.smollm2.margin`.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cream.plots.style import (
    finish,
    in_order,
    in_windows,
    interval_band,
    note,
    printed,
    sheet,
    style,
)

__all__ = ["margin_by_length"]


@printed
def margin_by_length(
    table: pd.DataFrame, found: str = "lines found (%)", seeds: pd.DataFrame | None = None
) -> Figure:
    """Draw a panel a method: what was found by length, tuned for L (dashed) and for more (solid).

    `table` has method, wider, multiple (of N), n (seeds), and value, low and high (shares). With
    `seeds`, which has seed and value in place of the last four, each seed is a thin line and no
    interval is drawn: of three seeds it would fill the panel. ValueError for an empty table.
    """
    if table.empty:
        raise ValueError("there is nothing to draw: the table is empty")
    methods = in_order(table["method"])
    figure, axes = sheet(max(2.5 * len(methods), 7.2), 3.0, 1, len(methods), sharey=True)
    for panel, method in zip(axes[0], methods, strict=True):
        part = table[table["method"] == method]
        for wider, name in ((False, "tuned for L"), (True, "tuned for 1.25 L")):
            _line(panel, method, part[part["wider"] == wider], wider, name, seeds is None)
            if seeds is not None:
                _each(panel, method, seeds[seeds["method"] == method], wider)
        in_windows(panel, sorted(part["multiple"].unique()))
        finish(panel, style(method).label, "length", "" if method != methods[0] else found)
        panel.legend(loc="lower left", fontsize=7.5, frameon=False)
    axes[0][0].set_ylim(0, 104)
    note(figure, _said(table["n"], seeds is None))
    return figure


def _said(counts: pd.Series, intervals: bool) -> str:
    number = f"{counts.min()} to {counts.max()}" if counts.nunique() > 1 else f"{counts.iloc[0]}"
    what = "Mean and 95 % over" if intervals else "Bold: mean of"
    thin = "" if intervals else "; thin: each seed"
    return f"{what} {number} training seeds of one base{thin}."


def _each(panel: Axes, method: str, part: pd.DataFrame, wider: bool) -> None:
    for _, one in part[part["wider"] == wider].groupby("seed"):
        one = one.sort_values("multiple")
        panel.plot(one["multiple"], 100 * one["value"], color=style(method).color, lw=0.7,
                   ls="-" if wider else (0, (3, 2)), alpha=0.45)  # fmt: skip


def _line(
    panel: Axes, method: str, part: pd.DataFrame, wider: bool, name: str, intervals: bool
) -> None:
    part, look = part.sort_values("multiple"), style(method)
    value, low, high = (100 * part[column].to_numpy() for column in ("value", "low", "high"))
    panel.plot(part["multiple"], value, color=look.color, ls="-" if wider else (0, (3, 2)),
               marker=look.marker, ms=4.5, mfc=look.color if wider else "white",
               label=name)  # fmt: skip
    if intervals:
        interval_band(panel, method, part["multiple"], low, high)
