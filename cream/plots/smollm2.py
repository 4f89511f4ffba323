"""The main exhibit: where a real model finds a hidden sentence, and how far after each method.

Rows in, a matplotlib Figure out, as in `evaluations`; looks are those of `style`. Kinds of text
(code, manuals) weigh alike, since every length has as many questions of each.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec

from cream.plots.evaluations import lengths_panel
from cream.plots.heat import COLORS
from cream.plots.needle import draw_panel, heat_panel
from cream.plots.style import finish, in_order, legend, note, printed, sheet
from cream.results.rows import needs
from cream.statistics import share_over_lengths

__all__ = ["SHOWN", "found_by_length", "sentences_found"]

SHOWN = (("original", "none"), ("scaled", "yarn"), ("cream", "yarn"))
SHARED = ("linear", "ntk", "yarn")  # scalings that several methods are tuned with
WIDTH, HEIGHT = 9.6, 6.4


def in_multiples(rows: pd.DataFrame) -> pd.DataFrame:
    """Add `multiple`, the length in windows; 7.99 N, which leaves the answer room, counts as 8."""
    exact = rows["token_length"] / rows["window"]
    return rows.assign(multiple=exact.round(2).where(exact < 1, exact.round(1)))


def found_by_length(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row a method, scaling, scale and length: value, low, high, n, runs.

    As `statistics.share_over_lengths`, one length at a time.
    """
    keys = ["method", "scaling", "scale", "multiple"]
    found = []
    for key, part in in_multiples(rows).groupby(keys, dropna=False):
        share, runs = share_over_lengths(part, [key[-1]])
        found.append((*key, *share, runs))
    return pd.DataFrame(found, columns=[*keys, "value", "low", "high", "n", "runs"])


@printed
def sentences_found(rows: pd.DataFrame) -> Figure:
    """Draw three heat maps (original, scaled untuned, CREAM by YaRN) and accuracy by length.

    `rows` of the hidden sentence: method, scaling, scale, window, model_hash, token_length,
    depth_percent, score. A model of `SHOWN` that has no rows leaves its place empty. ValueError
    without any row of the hidden sentence.
    """
    rows = rows[rows["task"] == "needle"]
    if rows.empty:
        raise ValueError("no row is of the hidden sentence (task needle)")
    rows = needs(rows, "method", "token_length", "depth_percent")
    rows = in_multiples(rows)
    table = found_by_length(rows)
    parts = _parts(table)
    figure, unused = sheet(WIDTH, HEIGHT)
    unused[0][0].remove()
    grid = GridSpec(2, 12, figure=figure, height_ratios=(1, 1.15))
    maps = [figure.add_subplot(grid[0, 4 * k : 4 * k + 4]) for k in range(3)]
    for place, (axis, (method, scaling)) in enumerate(zip(maps, SHOWN, strict=True)):
        _heat_map(axis, rows, method, scaling, first=place == 0)
    figure.colorbar(
        ScalarMappable(Normalize(0, 100), cmap=COLORS), ax=maps, label="found (%)", pad=0.01
    )
    share = 12 // max(1, len(parts))
    below = [figure.add_subplot(grid[1, share * k : share * (k + 1)]) for k in range(len(parts))]
    for axis, (title, part) in zip(below, parts.items(), strict=True):
        _curves(axis, title, part)
    below[0].set_ylabel("found (%)")
    legend(figure)
    note(figure, _said(table))
    return figure


def _heat_map(axis: Axes, rows: pd.DataFrame, method: str, scaling: str, first: bool) -> None:
    part = rows[(rows["method"] == method) & (rows["scaling"].fillna("none") == scaling)]
    if part.empty:
        axis.set_axis_off()
        return
    draw_panel(axis, heat_panel(part, method, "" if scaling == "none" else scaling), first)


def _parts(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The curves of each panel by its title, with the original model in every one.

    Methods whose scaling is a part of them (CLEX, CoPE, DroPE) share the last.
    """
    original, found = table["method"] == "original", {}
    for scaling in SHARED:
        part = table["scaling"] == scaling
        if part.any():
            found[f"{scaling} x{int(table[part]['scale'].max())}"] = table[part | original]
    others = ~table["scaling"].isin((*SHARED, "none"))
    if others.any():
        beside = (table["method"] == "cream") & (table["scaling"] == "yarn")
        found["own scalings, CREAM yarn"] = table[others | original | beside]
    return found


def _curves(axis: Axes, title: str, part: pd.DataFrame) -> None:
    """Draw methods by one scaling, or of their own scalings, over the length of the prompt."""
    lengths_panel(
        axis, part.assign(method=pd.Categorical(part["method"], in_order(part["method"])))
    )
    axis.set_ylim(-4, 104)
    finish(axis, title, "length of the prompt", "")


def _said(table: pd.DataFrame) -> str:
    tuned = table[~table["method"].isin(("original", "scaled"))]
    runs, n = sorted(set(tuned["runs"])), (int(table["n"].min()), int(table["n"].max()))
    count = f"{n[0]}" if n[0] == n[1] else f"{n[0]} to {n[1]}"
    seeds = f"{runs[0]}" if len(runs) == 1 else f"{runs[0]} to {runs[-1]}" if runs else "no"
    return (
        f"n = {count} sentences a point, half in code, half in manuals; "
        f"{seeds} training run(s) a method; bars: 95 % over questions, not over training seeds"
    )
