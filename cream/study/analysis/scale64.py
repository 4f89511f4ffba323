"""Scale 64: the cost of distances never assigned, and of text never read.

The released sampler leaves most relative distances unassigned at scale 64. What belongs here: the
differences that variants of that plan make, and beside them how much of the distances each assigns
and how much of the corpus each reads (data/results/grid_data.json), so that either can be blamed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as parquet
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from cream import statistics
from cream.plots.style import finish, in_order, legend, printed, sheet, style, times_n
from cream.positions import METHODS
from cream.study.conditions import CONDITIONS, condition_name

__all__ = [
    "cells",
    "differences",
    "levels",
    "measures",
    "order",
    "picture",
    "reach",
    "training_losses",
]

RUN = ["condition", "variant", "base", "seed"]
PERPLEXITY = "log perplexity at "  # in 100 nats: differences are per cent


def measures(frame: pd.DataFrame, plan: str = "scale64") -> pd.DataFrame:
    """Return a row a tuned run of the plan: LongChat-Lines (%) and perplexity by length.

    Columns: condition, variant, base, seed, then `lines at N`, ... and `log perplexity at N`, ...
    (100 times the mean loss in nats over all scored tokens). Empty where the plan was not run.
    """
    if frame.empty or not (frame["plan"] == plan).any():
        return pd.DataFrame(columns=RUN)
    rows = frame[(frame["plan"] == plan) & frame["method"].isin(METHODS)]
    length = (rows["token_length"].astype(float) / rows["window"]).round(1)
    rows = rows.assign(at=[times_n(each) for each in length], length=length)
    lines = rows[rows["task"] == "longchat_lines"]
    right = 100 * lines.groupby([*RUN, "length", "at"])["score"].mean().astype(float)
    texts = rows[rows["task"] == "perplexity"]
    sums = texts.groupby([*RUN, "length", "at"])[["nll", "scored_tokens"]].sum().astype(float)
    loss = 100 * sums["nll"] / sums["scored_tokens"]
    parts = [_wide(right, "lines at "), _wide(loss, PERPLEXITY)]
    return pd.concat(parts, axis=1).reset_index()


def _wide(values: pd.Series, name: str) -> pd.DataFrame:
    """A column a length, the shortest first."""
    found = values.rename("value").reset_index()
    order = found.drop_duplicates("at").sort_values("length")["at"]
    return found.pivot(index=RUN, columns="at", values="value")[list(order)].add_prefix(name)


def levels(runs: pd.DataFrame) -> pd.DataFrame:
    """Return every variant's level of every measure, as `differences` returns differences."""
    return pd.DataFrame([
        {"condition": condition, "a": variant, "measure": name, **_interval(part, name)}
        for (condition, variant), part in runs.groupby(RUN[:2], sort=False)
        for name in runs.columns[len(RUN):]
    ])  # fmt: skip


def differences(runs: pd.DataFrame, reference: str = "cream") -> pd.DataFrame:
    """Return each variant less the reference, in runs of the same base and seed alone.

    `runs` is of `measures`. Columns: condition, a, measure, value, low, high (95 %, bases as
    units), n (pairs), bases, seeds (the fewest of a base).
    """
    names = list(runs.columns[len(RUN) :])
    found = []
    for condition, part in runs.groupby("condition", sort=False):
        wide = part.set_index(["variant", "base", "seed"])[names]
        for variant in in_order(set(part["variant"]) - {reference}):
            pairs = (wide.loc[variant] - wide.loc[reference]).dropna().reset_index()
            found += [{"condition": condition, "a": variant, "measure": name,
                       **_interval(pairs, name)} for name in names]  # fmt: skip
    return pd.DataFrame(found)


def _interval(runs: pd.DataFrame, name: str) -> dict[str, float]:
    """Mean over bases of the mean over seeds, its interval and what it is of."""
    sizes = runs.groupby("base").size()
    several = len(sizes) > 1
    found = statistics.two_level(runs, name)
    return {"value": runs.groupby("base")[name].mean().mean(),
            "low": found.low if several else np.nan, "high": found.high if several else np.nan,
            "n": len(runs), "bases": len(sizes), "seeds": int(sizes.min())}  # fmt: skip


def cells(found: pd.DataFrame) -> pd.DataFrame:
    """Return `levels` or `differences` to be read: a row a condition and variant, text in cells."""
    keys = ["condition", "a", "n", "bases", "seeds"]
    if found.empty:
        return pd.DataFrame(columns=keys)
    said = [f"{row.value:.1f} [{row.low:.1f}, {row.high:.1f}]" if row.low == row.low
            else f"{row.value:.1f} [no interval]" for row in found.itertuples()]  # fmt: skip
    table = found.assign(said=said).set_index([*keys, "measure"])["said"].unstack()
    order = list(dict.fromkeys(found["measure"]))
    rows = list(dict.fromkeys(found[keys].itertuples(index=False, name=None)))
    return table.loc[rows, order].rename_axis(columns=None).reset_index()


def reach(counts: Mapping, scale: int = 64) -> pd.DataFrame:
    """Return what each variant of the scale reaches, from what `training_data.read` gives.

    Columns: condition, variant, assigned (share of 64 equal ranges of distance in which any pair of
    tokens is assigned), read (share of the corpus's tokens that a run reads). Empty without counts.
    """
    at, found = f", scale {scale}", []
    for condition in CONDITIONS:
        for name, row in counts.get(condition, {}).get("variants", {}).items():
            if name.endswith(at) and "text_read" in row:
                pairs = np.array(counts["told_distances_of_tokens"][name])
                found.append((condition, name.removesuffix(at), (pairs > 0).mean(),
                              row["text_read"]))  # fmt: skip
    return pd.DataFrame(found, columns=["condition", "variant", "assigned", "read"])


def training_losses(path: str | Path, plan: str = "scale64") -> pd.DataFrame:
    """Return the training loss at the end of the plan's runs, from a grid's file.

    Columns: condition, variant, training_loss (nats: the last mean that a run kept, over the runs).
    Empty without the file, or where it keeps no losses.
    """
    columns = [*RUN, "losses"]
    if not Path(path).is_file() or "losses" not in parquet.read_schema(path).names:
        return pd.DataFrame(columns=[*RUN[:2], "training_loss"])
    rows = pd.read_parquet(path, columns=columns, filters=[("plan", "==", plan)])
    ends = rows.drop_duplicates(RUN).assign(
        losses=lambda runs: [json.loads(each) for each in runs["losses"].astype(str)]
    )
    ends = ends[ends["losses"].map(len) > 0]
    ends["training_loss"] = [each[-1] for each in ends["losses"]]
    return ends.groupby(RUN[:2])["training_loss"].mean().reset_index()


def order(runs: pd.DataFrame, reached: pd.DataFrame) -> pd.DataFrame:
    """Return whether variants that assign, or read, more do better: Spearman's rank correlations.

    A row a condition and measure: `assigned` and `read` are means over bases, `assigned_range` and
    `read_range` (low, high) those of single bases. Negative for perplexity means better.
    """
    both = runs.merge(reached, on=["condition", "variant"])
    found = []
    for condition, part in both.groupby("condition", sort=False):
        for name in runs.columns[len(RUN) :]:
            means = part.groupby(["base", "variant"])[[name, "assigned", "read"]].mean()
            ranks = {of: [_rank(each[of], each[name]) for _, each in means.groupby("base")]
                     for of in ("assigned", "read")}  # fmt: skip
            row = {"condition": condition, "measure": name}
            for of, values in ranks.items():
                row |= {of: np.mean(values), f"{of}_range": (min(values), max(values))}
            found.append({**row, "variants": part["variant"].nunique(),
                          "bases": part["base"].nunique()})  # fmt: skip
    return pd.DataFrame(found)


def _rank(x: pd.Series, y: pd.Series) -> float:
    if x.nunique() < 2 or y.nunique() < 2:
        return float("nan")
    return float(stats.spearmanr(x, y).statistic)


@printed
def picture(runs: pd.DataFrame, reached: pd.DataFrame, measure: str, label: str) -> Figure:
    """Draw a measure over what is assigned and over what is read, a line of panels a condition.

    A point is a variant, the mean over bases and seeds, with its interval over bases. ValueError
    where no run has counts.
    """
    found = levels(runs).query("measure == @measure") if len(runs) else pd.DataFrame()
    if found.empty or reached.empty:
        raise ValueError("there are no runs, or no counts of what they read: run the plan scale64")
    found = found.merge(reached, left_on=["condition", "a"], right_on=["condition", "variant"])
    conditions = [name for name in CONDITIONS if name in set(found["condition"])]
    shape = (len(conditions), 2)
    figure, axes = sheet(6.6, 0.8 + 2.3 * len(conditions), *shape, sharey="row", sharex="col")
    for line, condition in zip(axes, conditions, strict=True):
        for panel, of in zip(line, ("assigned", "read"), strict=True):
            for variant in in_order(found["variant"]):
                mine = found[(found["variant"] == variant) & (found["condition"] == condition)]
                _point(panel, variant, 100 * mine[of], mine)
            finish(panel, condition_name(condition), "", label if of == "assigned" else "")
    axes[-1][0].set_xlabel("ranges of distance that are assigned (%)")
    axes[-1][1].set_xlabel("tokens of the corpus that are read (%)")
    legend(figure)
    return figure


def _point(panel: Axes, variant: str, x: pd.Series, mine: pd.DataFrame) -> None:
    look = style(variant)
    bars = np.nan_to_num([mine["value"] - mine["low"], mine["high"] - mine["value"]])
    panel.errorbar(x, mine["value"], yerr=bars, color=look.color, marker=look.marker,
                   linestyle="none", capsize=2, elinewidth=0.9, markersize=6, label=look.label,
                   markerfacecolor=look.color if variant == "cream" else "white")  # fmt: skip
