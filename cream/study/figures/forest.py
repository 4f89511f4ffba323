"""Differences of a grid's runs as forests: a line a comparison, a panel a condition.

Intervals are over bases (thin) and over seeds with the bases as given (thick); a verdict is in the
marker: filled "holds", open "inconclusive", crossed "does not hold". Comparisons of models that are
both at 0 (or at 100) show nothing, are not drawn, and are named below the panels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from cream.plots.style import GREY, finish, note, printed, sheet, style
from cream.study.analysis.contrasts import FAILS, HOLDS, MARGIN
from cream.study.analysis.endpoints import ENDPOINTS
from cream.study.conditions import condition_name

__all__ = ["SCALINGS", "UNLIKE", "NotRun", "forest", "lane"]

SCALINGS = {"linear": ("o", "#8A8A8A"), "ntk": ("s", "#555555"), "yarn": ("^", "#111111")}
UNLIKE = "sensitivity"  # the family of comparisons whose variants were shown unlike data
LANE = 0.24  # of a line's height, between two scalings
SHORT = {"LongChat-Lines at every length": "lines", "LongChat-Lines from": "lines from",
         "LongChat-Lines at": "lines,", "key-value pairs at": "key-value,"}  # fmt: skip
AXIS_LIMIT = 60.0  # points: what lies beyond stands at the edge, with its number
PAPER = {"marker": "D", "color": "black", "markerfacecolor": "#FFD92F", "markersize": 4.5,
         "markeredgewidth": 0.8, "linestyle": "none"}  # fmt: skip


class NotRun(ValueError):
    """A figure or table asks for runs that are not there."""


@printed
def forest(
    found: pd.DataFrame, title: str = "", published: Mapping[tuple[str, str], float] | None = None
) -> Figure:
    """Draw contrasts (of `contrasts`) as a forest, a line a claim and a panel a condition.

    `published` maps (claim, scaling) to the paper's own number, drawn as a diamond. The band is
    the equivalence margin. Rows of the family "sensitivity" compare variants that were shown unlike
    data; they are drawn pale. Claims without a run are not drawn, nor are comparisons at an end of
    the scale, which the note names. NotRun where none has a run.
    """
    found = found[found["n"] > 0]
    if found.empty:
        raise NotRun("no contrast has a run; there is nothing to draw")
    drawn = found[found["bound"] == ""]
    drawn = found if drawn.empty else drawn
    names = list(dict.fromkeys(drawn["claim"]))
    one = len(set(drawn["scaling"]) - {"none"}) == 1
    conditions = sorted(set(drawn["condition"]) - {"none"}, reverse=True) or ["none"]
    height = 1.7 + 0.44 * len(names)
    figure, axes = sheet(7.4, height, 1, len(conditions), sharex=True, sharey=True)
    for panel, condition in zip(axes[0], conditions, strict=True):
        _ground(panel, len(names))
        for row in drawn[drawn["condition"].isin([condition, "none"])].itertuples():
            line = len(names) - 1 - names.index(row.claim)
            _mark(panel, row, line + (0.0 if one else lane(row.scaling)), one=one)
        for (claim, scaling), value in (published or {}).items():
            if claim in names and condition in ("text", "none"):  # the paper's data are text alone
                y = len(names) - 1 - names.index(claim) + lane(scaling)
                panel.plot(value, y, zorder=5, **PAPER)
        said = [title, "" if condition == "none" else condition_name(condition)]
        said += [f"{drawn['scaling'].iloc[0]}"] if one else []
        finish(panel, ", ".join(word for word in said if word), "points (perplexity: %)")
    subjects = drawn.drop_duplicates("claim")
    axes[0][0].set_yticks(range(len(names)), [_title(row) for row in subjects.itertuples()][::-1])
    axes[0][0].tick_params(axis="y", labelsize=7.5)
    _legend(figure, drawn, bool(published))
    note(figure, _sizes(drawn), _left_out(found))
    return figure


def _ground(panel: Axes, lines: int) -> None:
    panel.axvspan(-MARGIN, MARGIN, color="#EAEAEA", linewidth=0, zorder=0)
    panel.axvline(0, color=GREY, linewidth=0.8, zorder=1)
    panel.set_ylim(-0.6, lines - 0.4)
    panel.grid(False, axis="y")
    panel.tick_params(axis="y", length=0)


def _title(row: tuple) -> str:
    """The claim, and below it what is subtracted and where it is measured."""
    sides = [_plain(side) for side in (row.a, row.b) if isinstance(side, str)]
    where = ENDPOINTS.get(row.endpoint, row.endpoint)
    for long, short in SHORT.items():
        where = where.replace(long, short)
    return f"{_name(row.claim)}\n{' − '.join(sides)}; {where}"


def _name(claim: str) -> str:
    name = re.sub("^(scale 64|both modes|linear, dense retrieval): ", "", claim)
    for method in ("cream", "pose", "randpos"):
        name = re.sub(rf"\b{method}\b", style(method).label, name)
    return name[0].upper() + name[1:]


def _plain(variant: str) -> str:
    return style(variant).label.replace("CREAM, ", "").replace(" fine-tuning", "")


def lane(scaling: str) -> float:
    """Return how far above its line a scaling stands, in lines."""
    known = list(SCALINGS)
    return LANE * (1 - known.index(scaling)) if scaling in known else 0.0


def _mark(panel: Axes, row: tuple, y: float, one: bool) -> None:
    marker, color = ("o", "#111111") if one else SCALINGS.get(row.scaling, ("o", "#111111"))
    flagged = row.family == UNLIKE
    pale = {"color": color, "alpha": 0.6 if flagged else 1.0}
    edge = float(np.clip(row.value, -AXIS_LIMIT, AXIS_LIMIT))
    ends = np.clip([row.low, row.high, row.seeds_low, row.seeds_high], -AXIS_LIMIT, AXIS_LIMIT)
    if abs(row.value) > AXIS_LIMIT:  # the axis would be of this one alone
        side = 1 if row.value > 0 else -1
        number = f"{row.value:+.0f}".replace("-", "−")
        panel.annotate(number, (edge, y), xytext=(-6 * side, 0), textcoords="offset points",
                       fontsize=7, va="center", ha="right" if side > 0 else "left")  # fmt: skip
        marker = ">" if side > 0 else "<"
    panel.hlines(y, *ends[:2], linewidth=1.0, zorder=2, **pale,
                 linestyle=(0, (1, 1)) if flagged else "solid")  # fmt: skip
    if flagged:
        panel.plot(edge, y, marker, markerfacecolor="white", markersize=4, zorder=3, **pale)
        return
    panel.hlines(y, *ends[2:], color=color, linewidth=2.8, zorder=2)
    face = color if row.verdict == HOLDS else "white"
    panel.plot(edge, y, marker, color=color, markerfacecolor=face, markersize=5.5, zorder=3)
    if row.verdict == FAILS:
        panel.plot(edge, y, "x", color="black", markersize=6, markeredgewidth=1.4, zorder=4)


def _sizes(found: pd.DataFrame) -> str:
    """How many pairs or runs a line stands on."""
    few, many = int(found["n"].min()), int(found["n"].max())
    bases = sorted({int(each) for each in found["bases"]})
    counted = f"n = {few}" if few == many else f"n = {few} to {many}"
    said = " or ".join(map(str, bases))
    return f"{counted} runs or pairs of runs a line, of {said} base{'s' * (bases != [1])}."


def _left_out(found: pd.DataFrame) -> str:
    """Which comparisons stand at an end of the scale."""
    gone = found[found["bound"] != ""]
    if gone.empty or len(gone) == len(found):
        return ""
    said = []
    for (bound, scaling), part in gone.groupby(["bound", "scaling"]):
        same = found[(found["scaling"] == scaling) & (found["endpoint"] != "rise")]
        names = [
            _name(claim)
            + (f" ({condition_name(each['condition'].iloc[0])})" if len(each) == 1 else "")
            for claim, each in part.groupby("claim", sort=False)
        ]
        most = len(part) > 0.6 * len(same) and found["scaling"].nunique() > 2
        said.append((f"{scaling} {bound}", "all else" if most else ", ".join(names)))
    grouped = {names: [where for where, each in said if each == names] for _, names in said}
    said = [f"{' and '.join(where)}: {names}" for names, where in grouped.items()]
    return "Not drawn, because both sides are at one end of the scale: " + "; ".join(said) + "."


def _legend(figure: Figure, found: pd.DataFrame, published: bool) -> None:
    black = {"color": "#111111", "linestyle": "none"}
    scalings = [s for s in SCALINGS if s in set(found["scaling"])]
    items = [
        Line2D([], [], color=SCALINGS[s][1], marker=SCALINGS[s][0], linestyle="none", label=s)
        for s in scalings if len(scalings) > 1
    ]  # fmt: skip
    verdicts = set(found.loc[found["family"] != UNLIKE, "verdict"])
    square = {**black, "marker": "s", "markersize": 6}
    if HOLDS in verdicts:
        items.append(Line2D([], [], **square, label="holds"))
    items.append(Line2D([], [], **square, markerfacecolor="white", label="inconclusive"))
    if FAILS in verdicts:
        cross = {"marker": "x", "markersize": 6, "markeredgewidth": 1.4}
        crossed = (
            Line2D([], [], **square, markerfacecolor="white"),
            Line2D([], [], **black, **cross),
        )
        items.append(crossed)
    items += [
        Line2D([], [], color="#111111", linewidth=1.0, label="95 % over bases"),
        Line2D([], [], color="#111111", linewidth=2.8, label="95 % over seeds, these bases"),
        Patch(color="#EAEAEA", label=f"± {MARGIN:g} points"),
    ]
    if (found["family"] == UNLIKE).any():
        items.append(Line2D([], [], color="#111111", alpha=0.6, linestyle=(0, (1, 1)),
                            marker="o", markersize=4, markerfacecolor="white",
                            label="data differ"))  # fmt: skip
    if published:
        items.append(Line2D([], [], **PAPER, label="paper"))
    labels = ["does not hold" if isinstance(item, tuple) else item.get_label() for item in items]
    figure.legend(items, labels, loc="outside upper left", fontsize=8, ncols=5, columnspacing=1.2,
                  handlelength=1.6)  # fmt: skip
