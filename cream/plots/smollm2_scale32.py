"""Scale 32 on a real model: sentences found and perplexity by length, a panel each, one figure.

Tables in, a matplotlib Figure out; looks are those of `style`. Which runs are drawn, and which are
in a mean, is decided in `reproduction.smollm2.scale32`.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cream.plots.evaluations import dodge, log_where_wide
from cream.plots.style import finish, in_order, in_windows, legend, note, printed, sheet, style

__all__ = ["found_and_perplexity"]

APART = 0.05  # between the marks of two methods, in powers of two


@printed
def found_and_perplexity(sentences: pd.DataFrame, texts: pd.DataFrame, *said: str) -> Figure:
    """Draw both by length: a small mark a seed, a line through the means of a method's whole runs.

    Both tables have method (of `style`), multiple (of N), value (per cent found, or perplexity) and
    whole (whether the run is in a mean). A table without rows has no panel. `said` goes below.
    ValueError where neither has rows.
    """
    tables = {"sentences found (%)": sentences, "perplexity": texts}
    shown = {name: table for name, table in tables.items() if len(table)}
    if not shown:
        raise ValueError("there is no run to draw: both tables are empty")
    figure, axes = sheet(max(3.8 * len(shown), 6.6), 3.6, 1, len(shown))
    for panel, (name, table) in zip(axes[0], shown.items(), strict=True):
        _panel(panel, table)
        finish(panel, "", "length", name)
        if table is sentences:
            panel.set_ylim(-4, 104)
        else:
            log_where_wide(panel, table["value"])
    legend(figure)
    note(figure, *said)
    return figure


def _panel(panel: Axes, table: pd.DataFrame) -> None:
    methods = in_order(table["method"])
    for place, method in enumerate(methods):
        part, look = table[table["method"] == method], style(method)
        means = part[part["whole"]].groupby("multiple")["value"].mean()
        color = {"color": look.color, "marker": look.marker}
        for found, how in (
            (means, {"ls": look.line, "label": look.label}),
            (part.set_index("multiple")["value"],
             {"ls": "none", "ms": 3, "alpha": 0.5, "label": "_seeds"}),
        ):  # fmt: skip
            x = dodge(found.index.to_series(), place, len(methods), APART)
            panel.plot(x, found, **color, **how)
    in_windows(panel, table["multiple"])
