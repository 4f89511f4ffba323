"""Figures of what is hidden in text: the needle's grid of length and depth, the pass key's curve.

Rows in, a matplotlib Figure out, as in `evaluations`; looks are those of `style`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from cream.plots.evaluations import extensions, of_extension
from cream.plots.heat import COLORS, heat_cells
from cream.plots.style import (
    curve,
    finish,
    in_order,
    in_windows,
    legend,
    printed,
    sheet,
    style,
    times_n,
)
from cream.results.rows import needs
from cream.statistics import by_method

__all__ = ["draw_panel", "heat_panel", "needle_heatmap", "passkey_by_length"]

PAPER_WINDOW = 4096
PAPER_PANEL = "paper, CREAM-Chat, rated"
MOST_LABELS = 6  # of lengths below a panel; of more, only some are named
VALUES = {
    "score": ("correct (%)", 100.0),
    "contained": ("answer contained (%)", 100.0),
    "rouge_l": ("ROUGE-L (%)", 100.0),
    "judged": ("judge's score, 10 as 100 %", 10.0),
}


class _Panel(NamedTuple):
    """One model's cells: depth by length in windows, in %, and how many answers a cell has."""

    title: str
    cells: pd.DataFrame
    counts: pd.DataFrame


@printed
def needle_heatmap(
    rows: pd.DataFrame, value: str = "score", published: pd.DataFrame | None = None
) -> Figure:
    """Draw the needle's grid, a panel a model: depth over length in multiples of N, 0 to 100 %.

    `rows` of one task with method, window, token_length, depth_percent and `value`: "score",
    "contained", "rouge_l" or "judged" (1 to 10, times ten). Runs of one method, scaling and scale
    share a panel. `published` is needle, the paper's grid of judge's scores. Cells without an
    answer stay blank, and the title says how many answers a cell has.
    """
    if value not in VALUES:
        raise ValueError(f"there is no value {value!r} to draw: choose one of {', '.join(VALUES)}")
    rows = _with(rows, "method", "window", "token_length", "depth_percent")
    if rows[value].isna().all():
        raise ValueError(f"no row has a {value}; the figure needs it")
    panels = _panels(rows.dropna(subset=[value]), value)
    if published is not None:
        panels.append(_published(published))
    columns = len(panels) if len(panels) <= 3 else -(-len(panels) // 2)
    lines = -(-len(panels) // columns)
    figure, axes = sheet(max(6.6, 3.1 * columns), 0.9 + 2.4 * lines, lines, columns)
    for place, axis in enumerate(axes.flat):
        if place < len(panels):
            draw_panel(axis, panels[place], first=place % columns == 0)
        else:
            axis.set_axis_off()
    label, _ = VALUES[value]
    figure.get_layout_engine().execute(figure)  # the colour bar goes by where the panels stand
    scale = ScalarMappable(Normalize(0, 100), cmap=COLORS)
    figure.colorbar(scale, ax=list(axes.flat), label=label, shrink=0.7, pad=0.01)
    figure.suptitle(_caption(rows, panels, published), fontsize=9, x=0.01, ha="left")
    return figure


def _with(rows: pd.DataFrame, *columns: str) -> pd.DataFrame:
    rows = needs(rows, *columns)
    return rows.assign(multiple=rows["token_length"] / rows["window"])


def _panels(rows: pd.DataFrame, value: str) -> list[_Panel]:
    """A panel for each method and extension, in the palette's order."""
    extended = rows["scaling"].fillna("none") + " x" + rows["scale"].fillna(1).astype(str)
    rows = rows.assign(extended=extended.where(rows["scaling"].fillna("none") != "none", ""))
    lengths, depths = sorted(rows["multiple"].unique()), sorted(rows["depth_percent"].unique())
    order = in_order(rows["method"])
    found = []
    keys = sorted(set(zip(rows["method"], rows["extended"], strict=True)),
                  key=lambda key: (order.index(key[0]), key[1]))  # fmt: skip
    for method, extension in keys:
        part = rows[(rows["method"] == method) & (rows["extended"] == extension)]
        found.append(heat_panel(part, method, extension, value, lengths, depths))
    return found


def heat_panel(
    part: pd.DataFrame,
    method: str,
    extension: str = "",
    value: str = "score",
    lengths: Sequence[float] | None = None,
    depths: Sequence[float] | None = None,
) -> _Panel:
    """Return one model's cells in %, titled with their mean; `part` has a column `multiple`."""
    grouped = part.groupby(["depth_percent", "multiple"])[value]
    shape = {
        "index": sorted(part["depth_percent"].unique()) if depths is None else depths,
        "columns": sorted(part["multiple"].unique()) if lengths is None else lengths,
    }
    cells = grouped.mean().unstack().reindex(**shape).astype(float) * VALUES[value][1]
    counts = grouped.size().unstack().reindex(**shape)
    mean = float(part[value].astype(float).mean()) * VALUES[value][1]
    name = style(method).label + (f", {extension}" if extension else "")
    return _Panel(f"{name}: {mean:.0f} %", cells, counts)


def _published(published: pd.DataFrame) -> _Panel:
    multiple = published["token_length"] / PAPER_WINDOW
    table = published.assign(multiple=multiple).pivot(
        index="depth_percent", columns="multiple", values="judge_score"
    )
    cells = table * VALUES["judged"][1]
    return _Panel(
        f"{PAPER_PANEL}: {cells.to_numpy().mean():.0f} %", cells, cells.notna().astype(int)
    )


def draw_panel(axis: Axes, panel: _Panel, first: bool) -> None:
    """Draw one model's cells; `first` has the axis of depths named."""
    lengths = [float(length) for length in panel.cells.columns]
    named = range(0, len(lengths), -(-len(lengths) // MOST_LABELS))
    heat_cells(
        axis, panel.cells,
        [times_n(round(x, 2 if x < 1 else 1)) if k in named else ""
         for k, x in enumerate(lengths)],
        [f"{depth:g}" for depth in panel.cells.index],
    )  # fmt: skip
    inside = sum(length <= 1.0001 for length in lengths)
    if 0 < inside < len(lengths):  # what lies beyond the window
        axis.axvline(inside, color="white", linewidth=2.2)
        axis.axvline(inside, color="#B2182B", linewidth=1.0, linestyle=(0, (3, 2)))
    finish(axis, panel.title, "length of the prompt", "depth (%)" if first else "")


def _caption(rows: pd.DataFrame, panels: list[_Panel], published: pd.DataFrame | None) -> str:
    ours = panels if published is None else panels[:-1]
    counts = np.concatenate([panel.counts.to_numpy(float).ravel() for panel in ours])
    counts = counts[~np.isnan(counts)]
    least, most = int(counts.min()), int(counts.max())
    n = f"n = {least}" if least == most else f"n = {least} to {most}"
    return f"Needle in a haystack ({n} a cell; mean in each title; dashed: N)"


@printed
def passkey_by_length(rows: pd.DataFrame, score: str = "score") -> Figure:
    """Draw pass key retrieval over length in multiples of N, a panel a scaling and scale.

    `rows` of one task with method, scaling, window and token_length; bars are 95 % intervals
    (Wilson's, where a point is one model's trials).
    """
    rows = _with(rows, "method", "window", "token_length", score)
    table, panels = by_method(rows, ["multiple"], score), extensions(rows)
    figure, axes = sheet(max(6.6, 3.6 * len(panels)), 3.5, 1, len(panels), sharey=True)
    for panel, extension in zip(axes[0], panels, strict=True):
        part = of_extension(table, extension)
        methods = in_order(part["method"])
        for place, method in enumerate(methods):
            ours = part[part["method"] == method]
            beside = 2 ** (0.035 * (place - (len(methods) - 1) / 2))
            curve(panel, method, ours["multiple"] * beside, ours, 100)
        in_windows(panel, table["multiple"])
        panel.set_ylim(-4, 104)
        least, most = part["n"].min(), part["n"].max()
        trials = f"n = {least}" if least == most else f"n = {least} to {most}"
        scaled = "" if extension[0] == "none" else f", {extension[0]} x{extension[1]}"
        finish(panel, f"Pass key{scaled} ({trials})", "length of the prompt", "")
    axes[0][0].set_ylabel("correct (%)")
    legend(figure)
    return figure
