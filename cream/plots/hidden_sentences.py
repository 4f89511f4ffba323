"""A figure of ten hidden sentences: which model finds which, by where each stands in the text."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cream.plots.style import GREY, finish, in_order, note, printed, sheet, style
from cream.results.rows import needs

__all__ = ["found_sentences"]


@printed
def found_sentences(rows: pd.DataFrame, texts: dict[str, str]) -> Figure:
    """Draw every question's outcome: a panel a text, a line a model, the sentences by position.

    `rows` with method, document, depth_percent, num_tokens, window and contained; `texts` gives a
    title by document. Filled: found; hollow: not. The dashed line is the base's window N.
    """
    rows = needs(rows, "method", "document", "depth_percent", "num_tokens", "window", "contained")
    methods = in_order(rows["method"])[::-1]
    figure, axes = sheet(7.2, 0.9 + 1.5 * len(texts), len(texts), 1, sharex=True)
    for panel, (document, title) in zip(axes[:, 0], texts.items(), strict=True):
        part = rows[rows["document"] == document]
        for place, method in enumerate(methods):
            mine = part[part["method"] == method]
            at = mine["depth_percent"].astype(float) / 100 * mine["num_tokens"].astype(float)
            for found in (True, False):
                shown = (mine["contained"] >= 1) == found
                panel.scatter(
                    at[shown], [place] * int(shown.sum()), s=52, zorder=3, linewidths=1.4,
                    edgecolors=style(method).color,
                    facecolors=style(method).color if found else "white",
                )  # fmt: skip
        panel.axvline(float(rows["window"].max()), color=GREY, linewidth=0.8, linestyle=(0, (3, 2)))
        panel.set_yticks(range(len(methods)), [style(m).label for m in methods])
        panel.set_ylim(-0.6, len(methods) - 0.4)
        panel.set_xlim(0, 1.02 * float(rows[["num_tokens", "window"]].max().max()))
        panel.tick_params(axis="y", length=0)
        finish(panel, title)
    axes[-1][0].set_xlabel("where the sentence stands (tokens)")
    marks = [Line2D([], [], marker="o", linestyle="", color=GREY, markerfacecolor=fill, label=label)
             for fill, label in ((GREY, "found"), ("white", "not found"))]  # fmt: skip
    figure.legend(handles=marks, loc="outside upper right", ncols=2, fontsize=8.5)
    note(figure, "Dashed: the window N that the base was trained on.")
    return figure
