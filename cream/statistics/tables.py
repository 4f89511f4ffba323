"""Tables by method: values with n and a 95 % interval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pandas as pd

from cream.statistics.intervals import Interval, perplexity, proportion, two_level

__all__ = ["accuracies", "by_method", "match", "perplexities", "units"]


def units(frame: pd.DataFrame) -> pd.Series:
    """Return what each row's sample hangs on: its document, or itself where none is named."""
    return frame["document"].astype("object").where(frame["document"].notna(), frame["sample"])


def match(
    first: pd.DataFrame, second: pd.DataFrame, value: str = "score"
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return `value` of both tables on the samples they share, and the units of those samples.

    Samples are the same where task, prompt and sample are. ValueError if none is.
    """
    on = ["task", "prompt_hash", "sample"]
    pairs = first.assign(unit=units(first)).merge(second, on=on, suffixes=("_first", "_second"))
    if pairs.empty:
        raise ValueError("the two models answered no sample in common; evaluate them alike")
    return (pairs[f"{value}_first"].to_numpy(float), pairs[f"{value}_second"].to_numpy(float),
            pairs["unit"].to_numpy())  # fmt: skip


def accuracies(frame: pd.DataFrame, by: Sequence[str], score: str = "score") -> pd.DataFrame:
    """Return one row a group of `by`: value, low, high (shares) and n, from rows of answers."""
    return _table(frame, by, lambda part: proportion(part[score], units(part)))


def perplexities(frame: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Return one row a group of `by`: value, low, high (perplexity) and n documents."""
    return _table(
        frame, by, lambda part: perplexity(part["nll"], part["scored_tokens"], units(part))
    )


def by_method(frame: pd.DataFrame, by: Sequence[str], value: str = "score") -> pd.DataFrame:
    """Return one row a method, scaling, scale and group of `by`: value, low, high, n, unit, runs.

    `value` is "score", "contained" or "perplexity". One trained model: the interval is over its
    samples. Several: it is over the models, with bases and seeds as units (`unit` says which).
    """
    table = perplexities if value == "perplexity" else partial(accuracies, score=value)
    keys = ["method", "scaling", "scale", *by]
    named = frame.assign(base=frame["base"].fillna(""), model=frame["model_hash"])
    runs = table(named, [*keys, "base", "model"])
    found = [(*key, *_over_runs(part)) for key, part in runs.groupby(keys, dropna=False)]
    return pd.DataFrame(found, columns=[*keys, *Interval._fields, "unit", "runs"])


def _over_runs(part: pd.DataFrame) -> tuple[float, float, float, int, str, int]:
    n = int(part["n"].sum())
    if len(part) == 1:
        return (*part[["value", "low", "high"]].iloc[0], n, "sample", 1)
    found = two_level(part, "value", inner="model")
    return found.value, found.low, found.high, n, found.unit, len(part)


def _table(
    frame: pd.DataFrame, by: Sequence[str], interval: Callable[[pd.DataFrame], Interval]
) -> pd.DataFrame:
    found = [(*key, *interval(part)) for key, part in frame.groupby(list(by), dropna=False)]
    return pd.DataFrame(found, columns=[*by, *Interval._fields])
