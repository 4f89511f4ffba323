"""The grid at a glance: lines by length, and CREAM less PoSE and less plain tuning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from cream.plots.style import (
    GREY,
    finish,
    in_order,
    in_windows,
    interval_band,
    legend,
    printed,
    sheet,
    style,
)
from cream.statistics.multilevel import differences, of_answers
from cream.study.analysis.contrasts import MARGIN
from cream.study.conditions import condition_name
from cream.study.figures.forest import SCALINGS, NotRun, lane

__all__ = ["summary"]

SHOWN = ("original", "scaled", "plain", "pose", "cream", "full")
PAIRS = (("lines", "pose"), ("lines", "plain"), ("kv", "pose"), ("kv", "plain"))
WIDEST = 62.0  # points of a difference's axis: longer intervals run out of it
NAMES = {"lines": "lines, 4 to 7.8 N", "kv": "key-value, 2.4 N"}


@printed
def summary(
    frame: pd.DataFrame,
    runs: pd.DataFrame,
    scaling: str = "yarn",
    flagged: Mapping[str, Sequence[str]] | None = None,
) -> Figure:
    """Draw the primary plan at a glance, a column a condition.

    Above: LongChat-Lines by length with bands, by one scaling. Below: CREAM less PoSE and less
    plain tuning on two endpoints, by every scaling that leaves 0. `flagged`
    (`training_data.flagged`) draws comparisons of unlike data hollow. NotRun without such rows.
    """
    rows = frame[(frame["plan"] == "primary") & (frame["task"] == "longchat_lines")]
    rows = rows[rows["variant"].isin(SHOWN) & rows["scaling"].isin([scaling, "none"])]
    conditions = sorted(set(rows["condition"]) - {"none"}, reverse=True)
    if not conditions:
        raise NotRun("plan primary has no rows of LongChat-Lines: run it first")
    rows = rows.assign(x=(rows["token_length"] / rows["window"]).round(2))
    found, primary = of_answers(rows), runs[runs["plan"] == "primary"]
    compared: set[str] = set()
    figure, axes = sheet(7.2, 5.9, 2, len(conditions), sharey="row", height_ratios=[1.25, 1])
    for (above, below), condition in zip(axes.T, conditions, strict=True):
        _lines(above, found[found["condition"].isin([condition, "none"])])
        finish(
            above, f"{condition_name(condition)}, {scaling}", "length of the record (N = window)"
        )
        for line, (endpoint, other) in enumerate(PAIRS):
            table = differences(primary, "cream", other, endpoint)
            table = table[table["condition"] == condition]
            unlike = other in (flagged or {}).get(condition, ())
            table = table[table[["level_a", "level_b"]].max(axis=1) >= MARGIN]
            compared |= set(table["scaling"])
            for row in table.itertuples():
                _difference(below, row, len(PAIRS) - 1 - line, unlike)
        _ground(below)
    axes[0][0].set_ylabel("LongChat-Lines, correct (%)")
    names = [f"CREAM − {style(other).label.removesuffix(' fine-tuning')}\n{NAMES[endpoint]}"
             for endpoint, other in PAIRS]  # fmt: skip
    axes[1][0].set_yticks(range(len(PAIRS)), names[::-1])
    for panel in axes[1]:
        panel.set_xlim(-WIDEST, WIDEST)
    legend(figure)
    _key(figure, [s for s in SCALINGS if s in compared], bool(flagged), _caption(found, primary))
    return figure


def _lines(panel: Axes, part: pd.DataFrame) -> None:
    for variant in in_order(part["variant"]):
        mine, look = part[part["variant"] == variant].sort_values("x"), style(variant)
        panel.plot(mine["x"], mine["value"], color=look.color, linestyle=look.line,
                   marker=look.marker, label=look.label, markersize=4.5, zorder=3,
                   markerfacecolor=look.color if variant == "cream" else "white")  # fmt: skip
        band = mine[["seeds_low", "seeds_high"]].clip(0, 100)
        interval_band(panel, variant, mine["x"], band["seeds_low"], band["seeds_high"])
    in_windows(panel, part["x"])
    panel.set_ylim(-4, 104)


def _difference(panel: Axes, row: tuple, line: int, unlike: bool) -> None:
    marker, color = SCALINGS[row.scaling]
    y = line + lane(row.scaling)
    panel.hlines(y, row.low, row.high, color=color, linewidth=1.0, zorder=2,
                 linestyle=(0, (1, 1)) if unlike else "solid")  # fmt: skip
    if not unlike:
        panel.hlines(y, row.seeds_low, row.seeds_high, color=color, linewidth=3.2, zorder=2)
    panel.plot(row.value, y, marker, color=color, markersize=5.5, zorder=3,
               markerfacecolor="white" if unlike else color)  # fmt: skip


def _ground(panel: Axes) -> None:
    panel.axvspan(-MARGIN, MARGIN, color="#EAEAEA", linewidth=0, zorder=0)
    panel.axvline(0, color=GREY, linewidth=0.8, zorder=1)
    panel.set_ylim(-0.6, len(PAIRS) - 0.4)
    panel.grid(False, axis="y")
    panel.tick_params(axis="y", length=0)
    panel.set_xlabel("difference (points); right of 0: CREAM leads")


def _key(figure: Figure, scalings: Sequence[str], unlike: bool, said: str) -> None:
    items = [
        Line2D([], [], color=SCALINGS[s][1], marker=SCALINGS[s][0], linestyle="none", label=s)
        for s in scalings
    ]
    items += [
        Line2D([], [], color="#111111", linewidth=1.0, label="95 % over bases"),
        Line2D([], [], color="#111111", linewidth=3.2, label="over seeds"),
        Patch(color="#EAEAEA", label=f"± {MARGIN:g} points"),
    ]
    if unlike:
        items.append(Line2D([], [], color="#111111", linestyle=(0, (1, 1)), marker="^",
                            markerfacecolor="white", label="data differ"))  # fmt: skip
    key = figure.legend(handles=items, loc="outside lower left", fontsize=8, ncols=6, title=said,
                        title_fontsize=7.5, alignment="left", columnspacing=1.2,
                        handlelength=1.6)  # fmt: skip
    key.get_title().set_color(GREY)


def _caption(found: pd.DataFrame, primary: pd.DataFrame) -> str:
    tuned = found[found["condition"] != "none"]
    few, many = tuned["runs"].min(), tuned["runs"].max()
    counted = f"{few}" if few == many else f"{few} to {many}"
    at_0 = primary[primary["condition"] != "none"].groupby("scaling")[["lines", "kv"]].max()
    gone = [scaling for scaling, most in at_0.max(axis=1).items() if most < MARGIN]
    said = f"By {' and '.join(gone)} every tuned model is at 0: not drawn." if gone else ""
    return (
        f"Above: means of {counted} models a point ({tuned['bases'].max()} bases); bands: 95 % "
        "over seeds with these bases given.\nBelow: CREAM less another in the same base and seed. "
        f"{said}"
    )
