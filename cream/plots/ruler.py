"""RULER's heat map: which task a model still does at which length.

Rows in, a matplotlib Figure out, as in `evaluations` and `needle`; looks are those of `style`.
"""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from cream.plots.evaluations import needs
from cream.plots.heat import COLORS, heat_cells
from cream.plots.style import finish, in_order, printed, sheet, style, times_n
from cream.tasks import ruler_scores
from cream.tasks.ruler_scores import AVERAGE, MODEL, TASKS

__all__ = ["task_heatmap"]

LINES = (*TASKS, AVERAGE)
NAMED = 8  # lengths up to which a cell says its number


class _Panel(NamedTuple):
    title: str
    cells: pd.DataFrame


@printed
def task_heatmap(rows: pd.DataFrame) -> Figure:
    """Draw the six tasks and their mean over length, a panel a model, in points of 100.

    `rows` of RULER with method, window and token_length, all of one window N. Cells without an
    answer stay blank; right of the dashed line prompts are longer than N.
    """
    asked = needs(ruler_scores.of_ruler(rows), "method", "window", "token_length", "score")
    if asked["window"].nunique() > 1:
        raise ValueError(f"rows of windows {sorted(asked['window'].unique())}; draw one at a time")
    table = ruler_scores.table(rows)
    panels, window = _panels(table), int(asked["window"].iloc[0])
    columns = len(panels) if len(panels) <= 3 else -(-len(panels) // 2)
    lines = -(-len(panels) // columns)
    figure, axes = sheet(max(6.6, 1.6 + 2.6 * columns), 0.9 + 2.5 * lines, lines, columns)
    for place, axis in enumerate(axes.flat):
        if place < len(panels):
            _draw(axis, panels[place], window, first=place % columns == 0)
        else:
            axis.set_axis_off()
    figure.get_layout_engine().execute(figure)  # the colour bar goes by where the panels stand
    scale = ScalarMappable(Normalize(0, 100), cmap=COLORS)
    figure.colorbar(scale, ax=list(axes.flat), label="answers named (%)", shrink=0.7, pad=0.01)
    figure.suptitle(_caption(table, window), fontsize=9, x=0.01, ha="left")
    return figure


def _panels(table: pd.DataFrame) -> list[_Panel]:
    """A panel for each method and extension, in the palette's order."""
    order, found = in_order(table["method"]), []
    lengths = sorted(table["token_length"].unique())
    models = sorted(set(map(tuple, table[MODEL].itertuples(index=False))),
                    key=lambda model: (order.index(model[0]), str(model[1:])))  # fmt: skip
    for method, scaling, scale in models:
        part = table[(table["method"] == method) & (table["scaling"] == scaling)]
        part = part[part["scale"] == scale]
        cells = part.pivot(index="task", columns="token_length", values="value")
        name = style(method).label + ("" if scaling == "none" else f", {scaling} x{scale}")
        found.append(_Panel(name, 100 * cells.reindex(LINES, columns=lengths).astype(float)))
    return found


def _draw(axis: Axes, panel: _Panel, window: int, first: bool) -> None:
    lengths = list(panel.cells.columns)
    heat_cells(
        axis, panel.cells, [times_n(round(length / window, 1)) for length in lengths],
        LINES if first else [], fontsize=7 if len(lengths) <= NAMED else None,
    )  # fmt: skip
    axis.axhline(len(TASKS), color="white", linewidth=3)
    inside = sum(length <= window for length in lengths)
    if 0 < inside < len(lengths):  # what lies beyond the window
        axis.axvline(inside, color="white", linewidth=2.2)
        axis.axvline(inside, color="#B2182B", linewidth=1.0, linestyle=(0, (3, 2)))
    finish(axis, panel.title, "prompt and answer", "")


def _caption(table: pd.DataFrame, window: int) -> str:
    counts = table.loc[table["task"] != AVERAGE, "n"]
    least, most = counts.min(), counts.max()
    n = f"n = {least}" if least == most else f"n = {least} to {most}"
    return f"RULER's generated tasks (N = {window:,}; {n} a cell; last line: their mean; dashed: N)"
