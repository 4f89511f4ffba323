"""What a grid's models can do, over whatever was varied: length, place, depth, an option, a rate.

Points are means over bases and seeds; thin bars are 95 % intervals over bases, thick ones over
seeds with the bases as given, both cut at 0 and 100 %. Settings in which every tuned model is at 0
get no panel, and the note below names them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from cream.plots.style import (
    finish,
    in_order,
    in_windows,
    legend,
    level_curve,
    note,
    printed,
    sheet,
)
from cream.statistics.multilevel import floored, group_means, of_answers, perplexities
from cream.study.analysis.endpoints import ENDPOINTS
from cream.study.conditions import condition_name
from cream.study.figures.forest import NotRun

__all__ = [
    "by_depth",
    "by_learning_rate",
    "by_length",
    "by_option",
    "by_perplexity",
    "by_place",
]

SCALE = 8
LINES = ENDPOINTS["lines"].replace(" at ", ",\n") + " (%)"
# Of CREAM at N = 512 and scale 8, and what the axis is called.
DEFAULTS = {
    "sigma": (3.0, "sigma of the middle (half windows)"),
    "ends": (4.0, "ends in continuity (tokens)"),
}
BARS = "Bars: 95 % intervals, thin over bases, thick over seeds with these bases given"
CUT = ", cut at 0 and 100 %."


# ------------------------------------------------------------------------- over places and lengths


_READ = ("condition", "variant", "scaling", "scale", "base", "seed", "window", "token_length",
         "gold_index", "depth_percent", "score", "nll", "scored_tokens")  # fmt: skip


@printed
def by_length(frame: pd.DataFrame, plan: str, variants: Sequence[str] | None = None) -> Figure:
    """Draw LongChat-Lines over length from a grid's rows, a panel a condition and scaling.

    `variants` None draws all of the plan. NotRun when the plan has no such rows.
    """
    rows = _rows_of_task(frame, plan, "longchat_lines", variants)
    rows = rows.assign(x=(rows["token_length"] / rows["window"]).round(2))

    def name(panel: Axes) -> None:
        in_windows(panel, rows["x"])
        panel.set_xlabel("length of the record (N = window)")

    return _by(of_answers(rows), 2**0.04, "LongChat-Lines (%)", name)


@printed
def by_place(frame: pd.DataFrame, plan: str, variants: Sequence[str] | None = None) -> Figure:
    """Draw key-value retrieval at 2.4 N over the gold record's place, as `by_length` draws lines.

    NotRun when the plan has no such rows.
    """
    rows = _rows_of_task(frame, plan, "kv_retrieval", variants)
    rows = rows[rows["token_length"] > 1.8 * rows["window"]]
    if rows.empty:
        raise NotRun(f"plan {plan} has no key-value rows beyond the window: run it first")
    most = rows.groupby(["token_length", "scale"])["gold_index"].transform("max")
    rows = rows.assign(x=(100 * rows["gold_index"].astype(float) / most.astype(float)).round(0))

    def name(panel: Axes) -> None:
        panel.set_xticks([0, 25, 50, 75, 100])
        panel.set_xlabel("place of the gold record (%)")

    return _by(of_answers(rows), None, "key-value pairs, 2.4 N (%)", name)


@printed
def by_depth(frame: pd.DataFrame, plan: str, variants: Sequence[str] | None = None) -> Figure:
    """Draw the needle over the depth at which it is hidden, as `by_length` draws lines.

    NotRun when the plan has no such rows.
    """
    rows = _rows_of_task(frame, plan, "needle", variants)
    rows = rows.assign(x=rows["depth_percent"].astype(float).round(0))
    length = (rows["token_length"] / rows["window"]).max()

    def name(panel: Axes) -> None:
        panel.set_xticks([0, 25, 50, 75, 100])
        panel.set_xlabel("depth of the needle (%)")

    return _by(of_answers(rows), None, f"needle, {length:g} N (%)", name)


@printed
def by_perplexity(frame: pd.DataFrame, plan: str, variants: Sequence[str] | None = None) -> Figure:
    """Draw perplexity over the tokens read, as `by_length` draws lines.

    A model's is exp(total loss / scored tokens) of all texts; means and intervals are of its
    logarithm. Lengths have texts of their own: only curves at one length compare. NotRun when the
    plan has no such rows.
    """
    rows = _rows_of_task(frame, plan, "perplexity", variants)
    rows = rows.assign(x=(rows["token_length"] / rows["window"]).round(2))

    def name(panel: Axes) -> None:
        in_windows(panel, rows["x"])
        panel.set_xlabel("tokens read (N = window)")
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter("{x:g}")
        panel.yaxis.set_minor_locator(NullLocator())

    return _by(perplexities(rows), 2**0.04, "perplexity", name, points=False)


def _rows_of_task(
    frame: pd.DataFrame, plan: str, task: str, variants: Sequence[str] | None
) -> pd.DataFrame:
    # A grid has a million rows, and copies of its texts take longer than all that follows.
    read = frame[[name for name in _READ if name in frame]]
    rows = read[(frame["task"] == task) & (frame["plan"] == plan)]
    rows = rows if variants is None else rows[rows["variant"].isin(list(variants))]
    if rows.empty:
        raise NotRun(f"plan {plan} has no rows of {task}: run it first")
    return rows


def _by(
    found: pd.DataFrame,
    beside: float | None,
    label: str,
    name: Callable[[Axes], None],
    points: bool = True,
) -> Figure:
    """A panel a condition (line) and scaling (column), of every variant over `x`.

    Curves stand beside each other by a factor, or by 1.2 where `beside` is None.
    """
    empty = floored(found) if points else []
    tuned = found[found["condition"] != "none"]
    there = set(zip(tuned["condition"], tuned["scaling"], strict=True)) - set(empty)
    there = there or set(empty)
    conditions = sorted({condition for condition, _ in there}, reverse=True)
    scalings = sorted({scaling for _, scaling in there}, reverse=True)
    shape = (len(conditions), len(scalings))
    if shape[1] == 1:  # panels side by side
        shape = shape[::-1]
    width = 7.4 if shape[1] > 1 else 5.0
    figure, axes = sheet(width, 1.3 + 2.4 * shape[0], *shape, sharey=True)
    places = [(condition, scaling) for condition in conditions for scaling in scalings]
    for panel, (condition, scaling) in zip(axes.flat, places, strict=True):
        if (condition, scaling) not in there:
            panel.remove()
            continue
        here = found["scaling"].isin([scaling, "none"])
        _panel(panel, found[here & found["condition"].isin([condition, "none"])], beside)
        if points:
            panel.set_ylim(-4, 104)
        finish(panel, f"{condition_name(condition)}, {scaling}")
        name(panel)
    for line in axes:
        line[0].set_ylabel(label)
    legend(figure)
    shown = _at_0(empty) if there != set(empty) else ""
    drawn = found[
        [where in there for where in zip(found["condition"], found["scaling"], strict=True)]
    ]
    note(figure, BARS + (CUT if points else "."), _counted(drawn), shown)
    return figure


def _panel(panel: Axes, part: pd.DataFrame, beside: float | None) -> None:
    methods = in_order(part["variant"])
    for number, variant in enumerate(methods):
        mine = part[part["variant"] == variant].sort_values("x")
        place = number - (len(methods) - 1) / 2
        x = mine["x"] + 1.2 * place if beside is None else mine["x"] * beside**place
        level_curve(
            panel, variant, x, mine, (0, 100) if mine["value"].max() <= 100 else (0, np.inf)
        )


def _counted(found: pd.DataFrame) -> str:
    few, many = found["runs"].min(), found["runs"].max()
    counted = f"n = {few}" if few == many else f"n = {few} to {many}"
    return f"{counted} tuned models a point, of {_bases(found)}; untuned: one a base."


def _bases(found: pd.DataFrame) -> str:
    few, many = found["bases"].min(), found["bases"].max()
    said = f"{few}" if few == many else f"{few} to {many}"
    return f"{said} base" + ("" if many == 1 else "s")


def _at_0(empty: Sequence[tuple[str, str]]) -> str:
    scalings = dict.fromkeys(scaling for _, scaling in empty)
    said = [
        f"{scaling} ({' and '.join(condition_name(c) for c, s in empty if s == scaling)})"
        for scaling in scalings
    ]
    return f"No panel, as every tuned model is at 0: {', '.join(said)}." if said else ""


# ------------------------------------------------------------------------- over what was varied


@printed
def by_option(runs: pd.DataFrame, option: str, endpoint: str = "lines") -> Figure:
    """Draw an endpoint over one number of CREAM's sampler, a panel a condition and scaling.

    `option` is of `DEFAULTS`: "sigma" in half windows, "ends" in tokens; CREAM as it is has the
    default. The paper's own sigma ablation is not among the published numbers in data/paper.
    NotRun when no other value was run.
    """
    default, label = DEFAULTS[option]
    found = {text: json.loads(text) for text in runs["options"].dropna().unique()}
    runs = runs[(runs["method"] == "cream") & (runs["scale"] == SCALE) & runs["options"].notna()]
    given = [found[text] for text in runs["options"]]
    runs = runs.assign(x=[float(one.get(option, default)) for one in given])
    runs = runs[np.array([set(one) <= {option} for one in given], dtype=bool)]
    varied = runs[runs["x"] != default]
    if varied.empty:
        raise NotRun(f"no run has another {option} than {default:g}: run the plan ablations")
    settings = varied[["condition", "scaling"]].drop_duplicates()
    table = group_means(_preferred(runs, "ablations"), ["condition", "scaling", "x"], endpoint)
    figure = _panels(table, settings, label, ["cream"], np.log2 if option == "ends" else None)
    for panel in figure.axes:
        values = sorted(table["x"].unique())
        panel.set_xticks(values, [f"{value:g}" for value in values])
        panel.minorticks_off()
    return figure


@printed
def by_learning_rate(runs: pd.DataFrame, endpoint: str = "lines") -> Figure:
    """Draw an endpoint over the learning rate by method, a panel a condition and scaling.

    NotRun when the plan "sensitivity" was not run.
    """
    runs = runs[(runs["plan"] == "sensitivity") & runs["learning_rate"].notna()]
    if runs.empty:
        raise NotRun("no run of another learning rate: run the plan sensitivity")
    settings = runs[["condition", "scaling"]].drop_duplicates()
    runs = runs.assign(x=runs["learning_rate"])
    found = group_means(runs, ["condition", "scaling", "variant", "x"], endpoint)
    figure = _panels(found, settings, "learning rate", in_order(runs["variant"]), np.log10)
    for panel in figure.axes:
        rates = sorted(found["x"].unique())
        panel.set_xticks(rates, [f"{rate:g}" for rate in rates])
        panel.minorticks_off()
    return figure


def _preferred(runs: pd.DataFrame, plan: str) -> pd.DataFrame:
    """Runs of a plan; of a variant that it leaves to the primary grid, those."""
    own = runs[runs["plan"] == plan]
    keys = ["variant", "condition", "scaling"]
    there = set(map(tuple, own[keys].to_numpy()))
    primary = runs[runs["plan"] == "primary"]
    absent = [tuple(key) not in there for key in primary[keys].to_numpy()]
    return pd.concat([own, primary[absent]])


def _panels(
    found: pd.DataFrame, settings: pd.DataFrame, label: str, variants: Sequence[str],
    log: Callable | None,
) -> Figure:  # fmt: skip
    settings = settings.sort_values(["condition", "scaling"], ascending=[False, True])
    width = max(5.6, 2.4 * len(settings))
    figure, axes = sheet(width, 3.4, 1, len(settings), sharey=True)
    for panel, (condition, scaling) in zip(axes[0], settings.to_numpy(), strict=True):
        part = found[(found["condition"] == condition) & (found["scaling"] == scaling)]
        if log is not None:
            panel.set_xscale("log")
        for number, variant in enumerate(variants):
            mine = part if len(variants) == 1 else part[part["variant"] == variant]
            place = number - (len(variants) - 1) / 2
            mine = mine.sort_values("x")
            if len(mine):
                x = mine["x"] * 1.03**place if log is not None else mine["x"] + 0.03 * place
                level_curve(panel, variant, x, mine)
        finish(panel, f"{condition_name(condition)}, {scaling}", label)
    axes[0][0].set_ylim(bottom=0)
    axes[0][0].set_ylabel(LINES)
    if len(variants) > 1:
        legend(figure)
    few, many = found["runs"].min(), found["runs"].max()
    counted = f"n = {few}" if few == many else f"n = {few} to {many}"
    note(figure, BARS + CUT, f"{counted} models a point, of {_bases(found)}.")
    return figure
