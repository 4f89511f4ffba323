"""What training showed each variant, beside a grid's results: data/results/grid_data.json, read.

For each condition and variant: queries that a window can answer, their assigned distances, and
which variants differ by so much that their comparison is a sensitivity row and not a result. What
belongs here: reading and drawing it; it is counted in `data_report`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cream.plots.style import finish, in_order, legend, printed, sheet, style, times_n
from cream.study.conditions import CONDITIONS, DENSE, condition_name
from cream.study.training_data import BINS, SCALE

__all__ = ["queries", "query_distances"]


def queries(query_counts: Mapping) -> pd.DataFrame:
    """Return answerable queries a window, and those over N or more, by condition and variant."""
    found = [
        (condition, variant, each["queries_a_window"], each["far_queries_a_window"],
         variant in query_counts[condition]["flagged"])
        for condition in (*CONDITIONS, *DENSE) if condition in query_counts
        for variant, each in query_counts[condition]["variants"].items()
    ]  # fmt: skip
    columns = ["condition", "variant", "queries a window", "N or more apart", "flagged"]
    return pd.DataFrame(found, columns=columns).set_index(["condition", "variant"])


@printed
def query_distances(query_counts: Mapping, condition: str = "mixed") -> Figure:
    """Draw the assigned distances of answerable queries, a curve a method, in windows.

    ValueError where the condition's windows hold no query.
    """
    variants = query_counts.get(condition, {}).get("variants", {})
    shown = [name for name in ("plain", "randpos", "pose", "cream", "full") if name in variants]
    if not any(sum(variants[name]["told_distances_of_queries"]) for name in shown):
        raise ValueError(f"no window of the condition {condition!r} holds a query it can answer")
    figure, axes = sheet(6.6, 3.2)
    panel = axes[0][0]
    for name in in_order(shown):
        counts = np.array(variants[name]["told_distances_of_queries"], float)
        counts = counts.reshape(BINS, -1).sum(axis=1)
        share = counts / counts.sum() * variants[name]["queries_a_window"]
        share[share == 0] = np.nan
        x, look = (np.arange(len(counts)) + 0.5) * SCALE / len(counts), style(name)
        panel.plot(x, share, color=look.color, linestyle=look.line, marker=look.marker,
                   markersize=3.5, linewidth=1.1, markerfacecolor="white",
                   label=look.label)  # fmt: skip
    panel.set_yscale("log")
    panel.set_xticks(range(SCALE + 1), [times_n(k) for k in range(SCALE + 1)])
    title = f"Queries that a window can answer ({condition_name(condition)})"
    finish(panel, title, "assigned distance (N = window)",
           f"queries a window (bins of {SCALE / BINS:g} N)")  # fmt: skip
    legend(figure)
    return figure
