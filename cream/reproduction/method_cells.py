"""What both tables of methods share: how a model is named, who serves it, how a cell is written.

What belongs here: the cells of `smollm2.methods` and `miniature.methods`, and a page's tables.
Nothing is typed in: what was not run is "not run".
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pandas as pd

from cream.plots.method_names import by_name
from cream.results.run_names import campaign_model
from cream.statistics import Interval, mean_of, proportion, units

__all__ = [
    "NOT_RUN",
    "answers",
    "interval_of",
    "lines_of",
    "method_cells",
    "number",
    "page",
    "percent",
    "points",
    "ruler_share",
    "served",
    "three",
    "with_models",
]

NOT_RUN = "not run"
RULER_TASKS = 6


def with_models(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows with their methods' names, and `model`, how a campaign names each."""
    runs = rows["run"].fillna("") if "run" in rows else [""] * len(rows)
    about = zip(rows["method"], rows["scaling"], rows["scale"], runs, strict=True)
    return by_name(rows.assign(model=[campaign_model(*each) for each in about]))


def served(scaling: str, method: str) -> str:
    """Say whether stock engines serve a method: by its scaling, and by the cache of its evaluation.

    Every scaling exports as stock `rope_parameters` (`cream.export`), a LoRA run once it is merged;
    of CLEX one t, chosen at export.
    """
    if method.endswith("growing cache"):
        return "no"
    return "yes, one t at a time" if scaling == "clex" else "yes"


def ruler_share(rows: pd.DataFrame) -> Interval:
    """Return the mean of RULER's six generated tasks; NaN where one of them was not run."""
    each = [proportion(one["score"], units(one)) for _, one in rows.groupby("task")]
    return mean_of(each) if len(each) == RULER_TASKS else Interval(math.nan, math.nan, math.nan, 0)


def method_cells(label: str, scaling: str, scale: int, tokens: int) -> list[str]:
    """Return the cells that say what a method is: its name, its scaling, what it was trained on."""
    scaled = "none" if scaling == "none" else f"{scaling} x{scale}"
    return [label, scaled, f"{tokens / 1e6:.1f} M" if tokens else "0"]


def page(title: str, said: list[str], head: list[str], lines: list[list[str]]) -> str:
    """Return a page of Markdown: a title, sentences and one table."""
    return f"# {title}\n\n" + "\n\n".join(said) + f"\n\n{lines_of(head, lines)}\n"


def lines_of(head: list[str], lines: list[list[str]]) -> str:
    """Return a table of Markdown from texts."""
    table = [head, ["---"] * len(head), *lines]
    rows = "\n".join(f"| {' | '.join(cells)} |" for cells in table)
    return rows.replace("| --- |", "|---|").replace(" --- |", "---|")


def interval_of(one: dict, name: str) -> tuple[float, float, float]:
    """Return a line's value of that name with the ends of its interval."""
    return one[name], one[f"{name}_low"], one[f"{name}_high"]


def number(value: float, form: Callable[[float], str]) -> str:
    """Write a number, or that it was not run."""
    return NOT_RUN if math.isnan(value) else form(value)


def percent(share: float) -> str:
    """Write a share in whole percent."""
    return f"{100 * share:.0f} %"


def three(value: float) -> str:
    """Write a perplexity: two places below 100, none above."""
    return f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def answers(value: float, low: float, high: float, counted: str) -> str:
    """Write a share with its interval, cut at 0 and 100 %, and what it was counted over."""
    if math.isnan(value):
        return NOT_RUN
    low, high = max(low, 0.0), min(high, 1.0)
    ends = "no interval" if math.isnan(low) else f"{_whole(low)} to {_whole(high)}"
    return f"{percent(value)} ({ends}; {counted})"


def points(value: float, low: float, high: float, counted: str = "") -> str:
    """Write a difference of two shares in points, with its sign."""
    if math.isnan(value):
        return NOT_RUN
    ends = "no interval" if math.isnan(low) else f"{_whole(low):+} to {_whole(high):+}"
    return f"{_whole(value):+} ({ends}{f'; {counted}' if counted else ''})"


def _whole(share: float) -> int:
    """A share in whole points; never minus 0."""
    return round(100 * share)
