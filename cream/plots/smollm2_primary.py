"""The primary comparisons on a real model: differences over training seeds, by length and depth.

Tables in, a matplotlib Figure out; looks are those of `style`. Which runs are compared, and what a
verdict is, is decided in `reproduction.smollm2.primary`.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cream.plots.style import GREY, finish, note, printed, sheet, style

__all__ = ["primary_differences"]

WIDTH, HEIGHT = 4.6, 3.3  # of a panel, inches
GAP = 0.7  # between two groups of a panel, in places
SEED, MEAN = 0.17, -0.13  # where in its place a seed's dot and the mean stand
BESIDE = 0.1  # between the dots of two seeds with one difference
PALE = 0.4


@printed
def primary_differences(
    means: pd.DataFrame, seeds: pd.DataFrame, margin: float, needed: int
) -> Figure:
    """Draw a panel a pair of methods: a - b in points, in every part, with its seeds as dots.

    `means` has a, b, group (drawn side by side), part (the name of a place), value, low, high,
    seeds (those compared, one tuple) and verdict (words for the title, "" for a part without one);
    `seeds` has a, b, part, seed and value. Where a pair has fewer than `needed` seeds it is drawn
    pale and is called not decided. The band is `margin`. ValueError for an empty table.
    """
    if means.empty:
        raise ValueError("no comparison has seeds of both sides; there is nothing to draw")
    pairs = list(dict.fromkeys(zip(means["a"], means["b"], strict=True)))
    columns = min(2, len(pairs))
    lines = -(-len(pairs) // columns)
    width = max(WIDTH * columns, 6.0)
    figure, axes = sheet(width, 0.7 + HEIGHT * lines, lines, columns)
    panels = list(axes.flat)
    for panel in panels[len(pairs) :]:
        panel.remove()
    for panel, (a, b) in zip(panels, pairs, strict=False):
        mine = [table[(table["a"] == a) & (table["b"] == b)] for table in (means, seeds)]
        _panel(panel, a, b, *mine, margin, needed)
    note(figure, _said(margin))
    return figure


def _panel(
    panel: Axes, a: str, b: str, means: pd.DataFrame, seeds: pd.DataFrame, margin: float,
    needed: int,
) -> None:  # fmt: skip
    compared = means["seeds"].iloc[0]
    alpha = 1.0 if len(compared) >= needed else PALE
    panel.axhspan(-margin, margin, color="#EAEAEA", linewidth=0, zorder=0)
    panel.axhline(0, color=GREY, linewidth=0.8, zorder=1)
    places = _places(means)
    for row in means.to_dict("records"):
        x = places[row["part"]]
        _interval(panel, x + MEAN, row, alpha)
        _dots(panel, x + SEED, seeds.loc[seeds["part"] == row["part"], "value"], a, b, alpha)
    _axes(panel, places, means)
    _sides(panel, a, b)
    finish(panel, _title(a, b, means, needed), "", "points")


def _places(means: pd.DataFrame) -> dict[str, float]:
    """Where each part stands: those of a group side by side, groups apart."""
    groups = list(dict.fromkeys(means["group"]))
    return {row["part"]: place + GAP * groups.index(row["group"])
            for place, row in enumerate(means.to_dict("records"))}  # fmt: skip


def _interval(panel: Axes, x: float, row: dict, alpha: float) -> None:
    """The mean and its interval, filled where it is a primary comparison."""
    color = "#222222"
    bars = panel.vlines(x, row["low"], row["high"], color=color, linewidth=1.5, zorder=2)
    bars.set_alpha(alpha)
    # An open marker is laid on white, so that the bar does not show through it.
    panel.plot(x, row["value"], "s", color="white", markersize=5.5, zorder=4)
    panel.plot(x, row["value"], "s", color=color, markersize=5.5, zorder=5, alpha=alpha,
               markerfacecolor=color if row["verdict"] else "white")  # fmt: skip


def _dots(panel: Axes, x: float, values: pd.Series, a: str, b: str, alpha: float) -> None:
    """A dot a seed, in the colour of the method that finds more; equal ones stand side by side."""
    for value, n in values.round(9).value_counts().items():
        color = style(a if value > 0 else b).color if value else GREY
        for beside in range(n):
            panel.plot(x + BESIDE * beside, value, "o", color=color, markersize=2.8, alpha=alpha,
                       zorder=3, markeredgewidth=0)  # fmt: skip


def _axes(panel: Axes, places: dict[str, float], means: pd.DataFrame) -> None:
    panel.set_xticks(list(places.values()), list(places))
    panel.tick_params(axis="x", length=0, labelsize=8)
    panel.set_xlim(min(places.values()) - 0.6, max(places.values()) + 0.6)
    panel.grid(False, axis="x")
    for group, part in means.groupby("group", sort=False):
        at = np.mean([places[name] for name in part["part"]])
        panel.annotate(group, (at, 0), xycoords=("data", "axes fraction"), xytext=(0, -25),
                       textcoords="offset points", ha="center", fontsize=8, color=GREY)  # fmt: skip
    ends = [*panel.dataLim.intervaly, 0.0]
    room = 0.16 * (max(ends) - min(ends))
    panel.set_ylim(min(ends) - room, max(ends) + room)


def _sides(panel: Axes, a: str, b: str) -> None:
    """Name the method that finds more above 0, and the one that does below."""
    for method, y, arrow in ((a, 0.97, "\N{UPWARDS ARROW}"), (b, 0.03, "\N{DOWNWARDS ARROW}")):
        look = style(method)
        panel.annotate(f"{arrow} {look.label} finds more", (0.015, y), xycoords="axes fraction",
                       color=look.color, fontsize=8, va="top" if y > 0.5 else "bottom", zorder=6,
                       bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})  # fmt: skip


def _title(a: str, b: str, means: pd.DataFrame, needed: int) -> str:
    pair = f"{style(a).label} \N{MINUS SIGN} {style(b).label}"
    compared = means["seeds"].iloc[0]
    if len(compared) < needed:
        return f"{pair}\nnot decided: {len(compared)} of {needed} seeds"
    return "\n".join([pair, *filter(None, means["verdict"])])


def _said(margin: float) -> str:
    return (
        "Difference in hidden sentences found between runs of equal training seed, in points. "
        "Bars: Student's 95 % over seeds, of this one base. Dots: one seed each, in the colour of "
        "the method that finds more. Filled squares: primary comparisons; open ones are "
        f"descriptive. Grey: \N{PLUS-MINUS SIGN}{margin:g} points. Pale: not decided. Each panel "
        "has an axis of its own."
    )
