"""What RULER's rows say: the mean of six tasks with its interval, and the effective length.

The published RULER average is of thirteen tasks. This one is of the six that need no download, so
it is called RULER-6, and must not stand beside published averages as if it were theirs.
"""

import math

import pandas as pd

from cream.statistics import Interval, by_method, mean_of, proportion, two_level
from cream.tasks.ruler_questions import QUESTIONS

__all__ = [
    "TASKS",
    "THRESHOLD",
    "averages",
    "effective_lengths",
    "is_ruler",
    "of_ruler",
    "sentences",
    "table",
]

TASKS = tuple(QUESTIONS)
PREFIX = "ruler-"
THRESHOLD = 85.6  # Llama-2-7B-chat at 4K, over all thirteen tasks (NVIDIA/RULER, README)
MODEL = ["method", "scaling", "scale"]
AVERAGE = "RULER-6"


def is_ruler(frame: pd.DataFrame) -> pd.Series:
    """Return which rows answer one of the six tasks."""
    return frame["task"].isin([PREFIX + name for name in TASKS])


def of_ruler(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the six tasks, `task` without its prefix; ValueError if there is none."""
    rows = frame[is_ruler(frame)]
    if rows.empty:
        raise ValueError("no row answers a task of RULER; run notebooks/12_ruler.ipynb first")
    return rows.assign(task=rows["task"].str.removeprefix(PREFIX))


def averages(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row a method, scaling, scale and length: RULER-6 in [0, 1] with its 95 % interval.

    The mean is unweighted. One trained model: its interval joins the tasks' own, samples as units
    (Zou and Donner 2008). Several: it is over the models, bases or seeds as units. NaN where a task
    was not asked: a mean over fewer would look like RULER-6.
    """
    rows = of_ruler(frame)
    named = rows.assign(base=rows["base"].fillna(""), model=rows["model_hash"])
    keys = [*MODEL, "token_length"]
    found = [(*key, *_over_models(part)) for key, part in named.groupby(keys, dropna=False)]
    return pd.DataFrame(found, columns=[*keys, *Interval._fields, "unit", "runs"])


def _over_models(part: pd.DataFrame) -> tuple[float, float, float, int, str, int]:
    keys = ["base", "model"]
    runs = [(*key, *_mean(run)) for key, run in part.groupby(keys)]
    table = pd.DataFrame(runs, columns=[*keys, *Interval._fields])
    n = int(table["n"].sum())
    if len(table) == 1 or table["value"].isna().any():
        one = table.iloc[0] if len(table) == 1 else dict.fromkeys(Interval._fields, math.nan)
        return one["value"], one["low"], one["high"], n, "sample", len(table)
    over = two_level(table, "value", inner="model")
    return over.value, over.low, over.high, n, over.unit, len(table)


def _mean(rows: pd.DataFrame) -> Interval:
    """One model's mean over tasks; each side of its interval takes the tasks as independent."""
    parts = [proportion(one["score"]) for _, one in rows.groupby("task")]
    if len(parts) < len(TASKS):
        return Interval(math.nan, math.nan, math.nan, sum(part.n for part in parts))
    return mean_of(parts)


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return tasks and their mean: a row a model, task and length, as `statistics.by_method`."""
    tasks = by_method(of_ruler(frame), ["task", "token_length"])
    return pd.concat([tasks, averages(frame).assign(task=AVERAGE)], ignore_index=True)


def effective_lengths(found: pd.DataFrame, threshold: float = THRESHOLD) -> pd.DataFrame:
    """Return one row a model: the longest length up to which RULER-6 exceeds `threshold` (points).

    `found` is of `averages`. Every shorter length that was asked exceeds it too; 0 says that not
    even the shortest does. Lengths at which a task is missing are passed over; a model without any
    other has no line. `surely` counts a length where the whole interval lies above, `at_most`
    one where any of it does. `longest` is the longest length that was asked: an effective length
    of that size may be longer.
    """
    lines = []
    for key, part in found.dropna(subset=["value"]).groupby(MODEL, dropna=False):
        part = part.sort_values("token_length")
        ends = [_reached(part, column, threshold / 100) for column in ("value", "low", "high")]
        lines.append((*key, *ends, int(part["token_length"].max())))
    columns = [*MODEL, "effective", "surely", "at_most", "longest"]
    return pd.DataFrame(lines, columns=columns)


def _reached(part: pd.DataFrame, column: str, threshold: float) -> int:
    reached = 0
    for length, value in zip(part["token_length"], part[column], strict=True):
        if not value > threshold:
            break
        reached = int(length)
    return reached


def sentences(found: pd.DataFrame, window: int) -> list[str]:
    """Return a line a model: RULER-6 at its shortest and longest length (N = `window`)."""
    lines = []
    for (method, scaling, _), part in found.dropna(subset=["value"]).groupby(MODEL, dropna=False):
        said = [
            f"{100 * one.value:.0f} [{100 * one.low:.0f}, {100 * one.high:.0f}] at "
            f"{one.token_length:,} tokens ({one.token_length / window:.3g} N)"
            for one in part.sort_values("token_length").iloc[[0, -1]].drop_duplicates().itertuples()
        ]
        lines.append(f"{method}, {scaling}: RULER-6 {', '.join(said)}.")
    return lines
