"""The secondary comparisons on a real model: a forest, a line a comparison, its verdict beside it.

A table in, a matplotlib Figure out; looks are those of `style`. Which comparisons there are, and
what their verdicts are, is decided in `reproduction.smollm2.secondary`.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from cream.plots.style import GREY, finish, note, printed, sheet

__all__ = ["DECIDED", "DESCRIPTIVE", "INCONCLUSIVE", "LACKING", "forest_of_groups"]

DECIDED, INCONCLUSIVE = "decided", "inconclusive"  # what the interval of a verdict says
LACKING, DESCRIPTIVE = "lacking", "descriptive"  # without a verdict: for want of a seed, by plan
BLACK, PALE = "#222222", "#9A9A9A"
LOOKS = {
    DECIDED: {"marker": "s", "color": BLACK, "markerfacecolor": BLACK, "markersize": 5.5},
    INCONCLUSIVE: {"marker": "s", "color": BLACK, "markerfacecolor": "white", "markersize": 5.5},
    LACKING: {"marker": "D", "color": PALE, "markerfacecolor": "white", "markersize": 4.5},
    DESCRIPTIVE: {"marker": "o", "color": PALE, "markerfacecolor": PALE, "markersize": 4.5},
}
WORDS = {
    DECIDED: "decided by its interval",
    INCONCLUSIVE: "inconclusive by its interval",
    LACKING: "not decided: a seed is missing",
    DESCRIPTIVE: "descriptive, without a verdict",
}
HEADS = {"numbers": "points [95 %]", "of": "seeds", "said": "verdict"}
PLACES = {"numbers": 8, "of": 104, "said": 142}  # of the columns, in points right of the panel
WIDTH, LINE = 9.2, 0.225  # inches
HEADING = 1.25  # lines that a group's name takes


@printed
def forest_of_groups(table: pd.DataFrame, margin: float, *said: str) -> Figure:
    """Draw a line a comparison: value, low and high in points, and what is said of it beside.

    `table` has group (its lines stand together under its name), what (the name of a line), value,
    low, high (NaN for what was not run, or has no interval), kind (of `LOOKS`), and the texts
    numbers, of (the seeds) and said (the verdict). `said` goes below, the band is `margin`.
    ValueError for an empty table.
    """
    if table.empty:
        raise ValueError("there is no comparison to draw")
    heights, names = _heights(table)
    lowest = min(heights)
    figure, axes = sheet(WIDTH, 1.5 - LINE * lowest)
    panel = axes[0][0]
    panel.axvspan(-margin, margin, color="#EAEAEA", linewidth=0, zorder=0)
    panel.axvline(0, color=GREY, linewidth=0.8, zorder=1)
    for y, row in zip(heights, table.to_dict("records"), strict=True):
        _mark(panel, y, row)
        _texts(panel, y, {name: row[name] for name in HEADS}, fontsize=8)
    _texts(panel, 0.0, HEADS, fontsize=8, color=GREY)
    _axes(panel, heights, table, names)
    _legend(figure, table, margin)
    note(figure, *said)
    return figure


def _heights(table: pd.DataFrame) -> tuple[list[float], dict[str, float]]:
    """Where each line stands, from the top down, and the name of each group."""
    heights, names, y = [], {}, 0.0
    for group in table["group"]:
        if group not in names:
            y -= HEADING if names else 0.0
            names[group] = y
        y -= 1.0
        heights.append(y)
    return heights, names


def _mark(panel: Axes, y: float, row: dict) -> None:
    """The interval, and the mean on it."""
    look = LOOKS[row["kind"]]
    panel.hlines(y, row["low"], row["high"], color=look["color"], linewidth=1.5, zorder=2)
    panel.plot(row["value"], y, linestyle="none", zorder=3, **look)


def _texts(panel: Axes, y: float, texts: dict[str, str], **look: object) -> None:
    """A text a column, right of the panel."""
    for name, text in texts.items():
        panel.annotate(text, (1, y), xycoords=("axes fraction", "data"), va="center",
                       xytext=(PLACES[name], 0), textcoords="offset points", **look)  # fmt: skip


def _axes(panel: Axes, heights: list[float], table: pd.DataFrame, names: dict[str, float]) -> None:
    panel.set_yticks(heights, table["what"])
    panel.tick_params(axis="y", length=0, labelsize=8)
    panel.grid(False, axis="y")
    panel.set_ylim(min(heights) - 0.8, 0.8)
    for name, y in names.items():
        panel.annotate(name, (0, y), xycoords=("axes fraction", "data"), xytext=(-5, 0), ha="right",
                       textcoords="offset points", fontsize=8, fontweight="bold",
                       va="center")  # fmt: skip
    finish(panel, "", "points (right of 0: what is named first finds more)")


def _legend(figure: Figure, table: pd.DataFrame, margin: float) -> None:
    """The kinds of line that are drawn, in words."""
    shown = set(table.loc[table["value"].notna(), "kind"])
    items = [Line2D([], [], linestyle="none", label=WORDS[kind], **look)
             for kind, look in LOOKS.items() if kind in shown]  # fmt: skip
    items += [
        Line2D([], [], color=BLACK, linewidth=1.5, label="95 % over seeds of this one base"),
        Patch(color="#EAEAEA", label=f"\N{PLUS-MINUS SIGN}{margin:g} points"),
    ]
    figure.legend(handles=items, loc="outside upper left", fontsize=8, ncols=3,
                  columnspacing=1.4, handlelength=1.6)  # fmt: skip
