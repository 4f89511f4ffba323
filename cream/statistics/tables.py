"""Tables by method: values with n and a 95 % interval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pandas as pd

from cream.results import variant
from cream.statistics.intervals import Interval, mean_of, perplexity, proportion, two_level

__all__ = [
    "accuracies",
    "by_method",
    "match",
    "perplexities",
    "share_over_lengths",
    "told_apart",
    "units",
]

# What an interval is computed of: scores, and what a sample hangs on.
_READ = ("score", "contained", "rouge_l", "judged", "nll", "scored_tokens", "document", "sample")


def units(frame: pd.DataFrame) -> pd.Series:
    """Return what each row's sample hangs on: its document, or itself where none is named.

    Two variants of a task (a sentence in code and in manuals) have documents of their own, also
    where these have one name.
    """
    own = frame["document"].astype("object").where(frame["document"].notna(), frame["sample"])
    forms = _variants(frame)
    if forms.nunique() < 2:
        return own
    pairs = zip(forms, own, strict=True)
    return pd.Series(pd.Index(list(pairs), tupleize_cols=False), index=frame.index, dtype="object")


def _variants(frame: pd.DataFrame) -> pd.Series:
    """The form of its task that each row answers, if `form` does not say; "" without settings."""
    if "form" in frame:
        return frame["form"]
    if "settings" in frame:
        return variant(frame)
    return pd.Series("", index=frame.index, dtype="string")


def match(
    first: pd.DataFrame, second: pd.DataFrame, value: str = "score"
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return `value` of both tables on the samples they share, and the units of those samples.

    Samples are the same where task, variant, prompt and sample are. ValueError if none is.
    """
    on = ["task", "form", "prompt_hash", "sample"]
    first = first.assign(unit=units(first), form=_variants(first))
    second = second.assign(form=_variants(second))
    pairs = first.merge(second, on=on, suffixes=("_first", "_second"))
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


def share_over_lengths(frame: pd.DataFrame, lengths: Sequence[float]) -> tuple[Interval, int]:
    """Return the mean score over `lengths`, which weigh alike, and the number of models behind it.

    `frame` has one method's rows with columns model_hash, score and multiple (the length in
    windows). Models that lack a length are left out; NaN where none has all. Questions of several
    models are pooled: the interval says how well these models are measured, not what another
    training seed would change.
    """
    part = _read(frame, ["model_hash", "multiple"])
    part = part[part["multiple"].isin(lengths)]
    have = part.groupby("model_hash")["multiple"].nunique()
    part = part[part["model_hash"].isin(have[have == len(lengths)].index)]
    if part.empty:
        return Interval(np.nan, np.nan, np.nan, 0), 0
    each = [proportion(one["score"], units(one)) for _, one in part.groupby("multiple")]
    return mean_of(each), part["model_hash"].nunique()


def by_method(frame: pd.DataFrame, by: Sequence[str], value: str = "score") -> pd.DataFrame:
    """Return one row a method, scaling, scale and group of `by`: value, low, high, n, unit, runs.

    `value` is "score", "contained" or "perplexity". `by` may name "variant", the form of its task
    that a row answers; rows of two variants (code and manuals) are two evaluations, and ValueError
    says so where a group would hold both. One trained model: the interval is over its
    samples. Several: it is over the models, with bases and seeds as units (`unit` says which).
    """
    table = perplexities if value == "perplexity" else partial(accuracies, score=value)
    keys = ["method", "scaling", "scale", *by]
    named = frame.assign(base=frame["base"].fillna(""), model=frame["model_hash"])
    if "variant" in by and "variant" not in frame:
        named["variant"] = _variants(frame)
    _check_variants(named, keys)
    runs = table(named, [*keys, "base", "model"])
    found = [(*key, *_over_runs(part)) for key, part in runs.groupby(keys, dropna=False)]
    return pd.DataFrame(found, columns=[*keys, *Interval._fields, "unit", "runs"])


def told_apart(frame: pd.DataFrame) -> pd.DataFrame:
    """Return rows, or a table of `by_method`, in which method and scaling tell models apart.

    Where one method and scaling has several scales, its scaling says which ("yarn x4"); a table
    that is shown by method and scaling would have two cells in one place. Other rows are unchanged.
    """
    scales = frame.groupby(["method", "scaling"], dropna=False)["scale"].transform("nunique")
    said = frame["scaling"].astype("string") + " x" + frame["scale"].astype("string")
    return frame.assign(scaling=frame["scaling"].mask(scales > 1, said))


def _check_variants(frame: pd.DataFrame, keys: Sequence[str]) -> None:
    """Refuse (ValueError) groups that would average two forms of one task."""
    own = [*keys, "task"] if "task" in frame and "task" not in keys else keys
    forms = frame.assign(form=_variants(frame)).groupby(own, dropna=False)["form"].unique()
    if mixed := sorted({form for each in forms if len(each) > 1 for form in each}):
        raise ValueError(
            f"rows of {len(mixed)} variants are not averaged, they are evaluations of their own: "
            f"{', '.join(repr(form) for form in mixed)}. Choose one, or add 'variant' to `by`"
        )


def _over_runs(part: pd.DataFrame) -> tuple[float, float, float, int, str, int]:
    n = int(part["n"].sum())
    if len(part) == 1:
        return (*part[["value", "low", "high"]].iloc[0], n, "sample", 1)
    found = two_level(part, "value", inner="model")
    return found.value, found.low, found.high, n, found.unit, len(part)


def _table(
    frame: pd.DataFrame, by: Sequence[str], interval: Callable[[pd.DataFrame], Interval]
) -> pd.DataFrame:
    groups = _read(frame, by).groupby(list(by), dropna=False)
    found = [(*key, *interval(part)) for key, part in groups]
    return pd.DataFrame(found, columns=[*by, *Interval._fields])


def _read(frame: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """These columns, those that an interval is computed of, and `form`.

    Others would be copied with every group, and settings be parsed in each.
    """
    read = [*by, *(name for name in _READ if name in frame and name not in by)]
    return frame[read].assign(form=_variants(frame))
