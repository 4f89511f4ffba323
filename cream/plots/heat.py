"""Cells of a table as colours: the panels of the needle's and RULER's grids.

What belongs here: a panel's cells, their lines and the names beside them. What a panel shows is
`needle`'s and `ruler`'s. seaborn's heat map looks alike, but draws the whole figure for each panel.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb

__all__ = ["COLORS", "heat_cells"]

# Lightness grows with the value all the way, so that a grey print says the same.
COLORS = "cividis"
BRIGHT = 0.408  # relative luminance from which dark letters are read more easily than white ones


def heat_cells(
    axis: Axes,
    cells: pd.DataFrame,
    x: Sequence[str],
    y: Sequence[str],
    fontsize: float | None = None,
) -> None:
    """Colour the cells of a table in %, the first row on top; cells without a value stay blank.

    `x` and `y` name columns and rows (none where empty). With a `fontsize` each cell has its
    number, rounded.
    """
    values = np.ma.masked_invalid(cells.to_numpy(float))
    rows, columns = values.shape
    mesh = axis.pcolormesh(values, cmap=COLORS, vmin=0, vmax=100, linewidths=0.4,
                           edgecolor="white")  # fmt: skip
    axis.set(xlim=(0, columns), ylim=(rows, 0))
    axis.set_xticks(np.arange(columns) + 0.5 if len(x) else [], x)
    axis.set_yticks(np.arange(rows) + 0.5 if len(y) else [], y, va="center")
    axis.spines[:].set_visible(False)
    axis.grid(False)
    axis.tick_params(length=0, labelsize=7.5, rotation=0)
    if fontsize is None:
        return
    for (row, column), value in np.ma.ndenumerate(values):  # those that have a value
        bright = _luminance(mesh.to_rgba(value)[:3]) > BRIGHT
        axis.text(column + 0.5, row + 0.5, f"{value:.0f}", color=".15" if bright else "w",
                  ha="center", va="center", fontsize=fontsize)  # fmt: skip


def _luminance(color: Sequence[float]) -> float:
    """A colour's relative luminance (WCAG 2)."""
    rgb = np.asarray(to_rgb(color))
    linear = np.where(rgb <= 0.03928, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])
