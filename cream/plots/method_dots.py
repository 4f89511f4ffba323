"""One dot and interval a method: what was found beyond N, and how far that is from the control.

A table in, a matplotlib Figure out; looks are those of `style`. Which numbers a dot is, is decided
in `reproduction.miniature.methods`.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cream.plots.style import GREY, finish, note, printed, sheet, style

__all__ = ["method_dots"]

OWN = ("clex", "cope", "drope")  # scalings that the method's name says


@printed
def method_dots(table: pd.DataFrame, found: str, control: str, said: str) -> Figure:
    """Draw a line a row: left its share `beyond`, right `difference` in points from the control.

    `table` has method, scaling, scale, and value, _low and _high (shares) of both columns, NaN
    where there is none. `found` and `control` name the two panels, `said` stands below them.
    ValueError for an empty table.
    """
    if table.empty:
        raise ValueError("there is no method to draw; evaluate a model first")
    table = table.iloc[::-1].reset_index(drop=True)  # the first row on top
    figure, axes = sheet(8.2, 1.5 + 0.27 * len(table), 1, 2, sharey=True, width_ratios=(1.25, 1))
    left, right = axes[0]
    for panel, name in ((left, "beyond"), (right, "difference")):
        _dots(panel, table, name)
    right.axvline(0, color=GREY, linewidth=0.8, linestyle=(0, (3, 2)), zorder=1)
    left.set_yticks(range(len(table)), [_label(one) for one in table.to_dict("records")])
    left.set_ylim(-0.6, len(table) - 0.4)
    left.set_xlim(-4, 104)
    finish(left, found, "correct (%)")
    finish(right, control, "points")
    note(figure, said)
    return figure


def _dots(panel: Axes, table: pd.DataFrame, name: str) -> None:
    for place, one in enumerate(table.to_dict("records")):
        look = style(one["method"])
        value, low, high = (100 * one[x] for x in (name, f"{name}_low", f"{name}_high"))
        panel.hlines(place, low, high, color=look.color, linewidth=1.4, zorder=2)
        panel.plot(value, place, marker=look.marker, color=look.color, linestyle="none", zorder=3,
                   markerfacecolor=look.color if one["method"] == "cream" else "white")  # fmt: skip
        if np.isnan(value):
            panel.annotate("not run" if name == "beyond" else "", (2, place), fontsize=7.5,
                           color=GREY, va="center")  # fmt: skip
    panel.grid(visible=False, axis="y")
    panel.tick_params(axis="y", length=0)


def _label(one: dict) -> str:
    said = one["scaling"] == "none" or (one["scaling"] in OWN and one["method"] != "scaled")
    scaled = "" if said else f", {one['scaling']} x{one['scale']}"
    return style(one["method"]).label + scaled
