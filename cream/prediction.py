"""Does what a sampler tells predict what its model finds? Accuracy by distance against histograms.

A question about a record d tokens back is answered over the relative distance d. For each variant
this counts how often training told that distance, and asks whether the count says more about the
accuracy at d than the distance itself does. The test is on methods left out of the fit, because
a fit over methods that it has seen would always find something.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from cream.coverage import distance_counts
from cream.plots import needs
from cream.positions import METHODS, Sampler, sampler
from cream.style import finish, in_order, legend, printed, sheet, style, times_n

__all__ = ["by_distance", "left_out", "law", "picture", "samplers_of", "told"]

EXAMPLES = 200
SEEN_SO_RARELY = 1e-3  # pairs per distance and 1,000 tokens: what is never told counts as this
CELL = 10  # answers below which a cell's accuracy is not used


def samplers_of(frame: pd.DataFrame) -> dict[str, Sampler]:
    """Return the sampler of every tuned variant of a grid's rows, from its method and options.

    Variants whose examples share a coin (`mode_group`) are left out: what they are told is their
    seed's alone.
    """
    tuned = frame[frame["method"].isin(METHODS)]
    columns = ["variant", "method", "scale", "window", "options"]
    found = {}
    for row in tuned[columns].drop_duplicates("variant").itertuples(index=False):
        options = json.loads(row.options) if isinstance(row.options, str) else {}
        if options.get("mode_group", 1) > 1:
            continue
        found[row.variant] = sampler(row.method, int(row.window), int(row.scale), **options)
    return found


def told(
    samplers: Mapping[str, Sampler], bins: int = 16, examples: int = EXAMPLES, seed: int = 0
) -> pd.DataFrame:
    """Return how often each variant tells the distances of `bins` equal parts of [0, L).

    Columns: variant, bin, told: pairs of tokens per distance and 1,000 tokens read, so that
    examples of other lengths compare.
    """
    found = []
    for variant, draw in samplers.items():
        length = draw.target_length
        total, tokens = np.zeros(length), 0
        for index in range(examples):
            positions = draw.draw(length + draw.window, seed, 0, index).positions
            total += distance_counts(positions, length)
            tokens += len(positions)
        total[0] = 0
        edges = np.arange(bins + 1) * length // bins
        sums = np.add.reduceat(total, edges[:-1]) / np.diff(edges)
        found += [(variant, k, 1000 * each / tokens) for k, each in enumerate(sums)]
    return pd.DataFrame(found, columns=["variant", "bin", "told"])


def by_distance(frame: pd.DataFrame, bins: int = 16, beyond: float = 1.0) -> pd.DataFrame:
    """Return accuracy by distance from rows of lines and pairs: a row a variant, setting and bin.

    The distance of a question is (1 - depth) times its length, in `bins` equal parts of [0, L);
    only those from `beyond` windows on, and cells of at least ten answers. Columns: condition,
    scaling, variant, bin, accuracy (share), n.
    """
    rows = frame[frame["task"].isin(["longchat_lines", "kv_retrieval"])]
    rows = needs(rows[rows["depth_percent"].notna()], "window", "scale", "token_length")
    numbers = rows[["depth_percent", "token_length", "window", "scale", "score"]].astype(float)
    distance = (1 - numbers["depth_percent"] / 100) * numbers["token_length"]
    place = np.floor(bins * distance / (numbers["window"] * numbers["scale"]))
    rows = rows.assign(bin=place.clip(0, bins - 1).astype(int), score=numbers["score"])
    rows = rows[(distance >= beyond * rows["window"]) & rows["method"].isin(METHODS)]
    grouped = rows.groupby(["condition", "scaling", "variant", "bin"])["score"]
    table = grouped.agg(accuracy="mean", n="size").reset_index()
    return table[table["n"] >= CELL]


def _logit(share: pd.Series, n: pd.Series) -> pd.Series:
    """Log odds, with half an answer added each way so that 0 and 1 have some."""
    return np.log((share * n + 0.5) / ((1 - share) * n + 0.5))


def _prepared(accuracy: pd.DataFrame, histogram: pd.DataFrame) -> pd.DataFrame:
    table = accuracy.merge(histogram, on=["variant", "bin"])
    table["x"] = np.log10(table["told"].clip(lower=SEEN_SO_RARELY))
    table["y"] = _logit(table["accuracy"], table["n"])
    return table


def left_out(
    accuracy: pd.DataFrame, histogram: pd.DataFrame, without: Sequence[str] = ()
) -> pd.DataFrame:
    """Predict each variant's accuracies from the other variants, with and without the histogram.

    By distance alone: the mean log odds of the others in the same bin. With the histogram: that,
    plus the others' slope of log odds on log told pairs, both as departures from their bin. One
    setting (condition and scaling) at a time. Columns: condition, scaling, variant, bin, accuracy,
    by_distance, by_histogram (shares).
    """
    table = _prepared(accuracy, histogram)
    table = table[~table["variant"].isin(without)]
    found = []
    for setting, part in table.groupby(["condition", "scaling"]):
        if part["variant"].nunique() < 3:
            continue
        for variant in part["variant"].unique():
            mine, others = part[part["variant"] == variant], part[part["variant"] != variant]
            means = others.groupby("bin")[["x", "y"]].mean()
            mine = mine[mine["bin"].isin(means.index)]
            around = others[["x", "y"]] - means.loc[others["bin"]].to_numpy()
            spread = (around["x"] ** 2).sum()
            slope = (around["x"] * around["y"]).sum() / spread if spread else 0.0
            base = means.loc[mine["bin"]].to_numpy()
            more = base[:, 1] + slope * (mine["x"].to_numpy() - base[:, 0])
            shares = 1 / (1 + np.exp(-base[:, 1])), 1 / (1 + np.exp(-more))
            found += [
                (*setting, variant, *row)
                for row in zip(mine["bin"], mine["accuracy"], *shares, strict=True)
            ]
    columns = ["condition", "scaling", "variant", "bin", "accuracy", "by_distance", "by_histogram"]
    return pd.DataFrame(found, columns=columns)


def law(
    accuracy: pd.DataFrame, histogram: pd.DataFrame, without: Sequence[str] = ()
) -> pd.DataFrame:
    """Return what the histogram adds, a row a condition and scaling.

    `rank` is Spearman's correlation of told pairs and accuracy over all cells, `rank_in_bin` that
    of their departures from the bin's mean: between methods at one distance. `error_distance` and
    `error_histogram` are root mean square errors, in points, on methods left out of the fit;
    `methods` and `cells` are how many. A law would have `error_histogram` well below
    `error_distance`.
    """
    table = _prepared(accuracy, histogram)
    table = table[~table["variant"].isin(without)]
    predicted = left_out(accuracy, histogram, without)
    found = []
    for setting, part in predicted.groupby(["condition", "scaling"]):
        cells = table[(table["condition"] == setting[0]) & (table["scaling"] == setting[1])]
        inside = cells[["x", "y"]] - cells.groupby("bin")[["x", "y"]].transform("mean")
        errors = [
            100 * np.sqrt(((part[name] - part["accuracy"]) ** 2).mean())
            for name in ("by_distance", "by_histogram")
        ]
        found.append((*setting, _rank(cells["x"], cells["y"]), _rank(inside["x"], inside["y"]),
                      *errors, part["variant"].nunique(), len(part)))  # fmt: skip
    return pd.DataFrame(
        found,
        columns=[
            "condition",
            "scaling",
            "rank",
            "rank_in_bin",
            "error_distance",
            "error_histogram",
            "methods",
            "cells",
        ],
    )


def _rank(x: pd.Series, y: pd.Series) -> float:
    if x.nunique() < 2 or y.nunique() < 2:
        return float("nan")
    return float(stats.spearmanr(x, y).statistic)


@printed
def picture(accuracy: pd.DataFrame, histogram: pd.DataFrame, scale: int, bins: int = 16) -> Figure:
    """Draw accuracy over distance, a panel a setting, beside what was told of each distance."""
    settings = sorted(set(zip(accuracy["condition"], accuracy["scaling"], strict=True)))
    if not settings:
        raise ValueError("there are no accuracies by distance to draw; run a grid first")
    conditions = sorted({condition for condition, _ in settings}, reverse=True)
    scalings = sorted({scaling for _, scaling in settings})
    shape = (len(conditions), 1 + len(scalings))
    figure, axes = sheet(max(6.6, 1.9 * shape[1]), 0.9 + 2.2 * shape[0], *shape, sharex=True)
    ticks = np.linspace(0, scale, 5)
    for line, condition in zip(axes, conditions, strict=True):
        here = accuracy[accuracy["condition"] == condition]
        for variant in in_order(here["variant"]):
            one = histogram[histogram["variant"] == variant]
            pairs = one["told"].clip(lower=SEEN_SO_RARELY)
            _curve(line[0], variant, (one["bin"] + 0.5) * scale / bins, pairs)
        line[0].set_yscale("log")
        finish(line[0], condition, "", "told: pairs a distance\nand 1,000 tokens")
        for panel, scaling in zip(line[1:], scalings, strict=True):
            part = here[here["scaling"] == scaling]
            for variant in in_order(part["variant"]):
                mine = part[part["variant"] == variant]
                x = (mine["bin"] + 0.5) * scale / bins
                _curve(panel, variant, x, 100 * mine["accuracy"])
            panel.set_ylim(-4, 104)
            finish(panel, f"{condition}, {scaling}", "", "correct (%)" if panel is line[1] else "")
    for panel in axes[-1]:
        panel.set_xticks(ticks, [times_n(tick) for tick in ticks])
        panel.set_xlabel("relative distance")
    legend(figure)
    return figure


def _curve(panel: Axes, variant: str, x: pd.Series, y: pd.Series) -> None:
    look = style(variant)
    panel.plot(x, y, color=look.color, linestyle=look.line, marker=look.marker, markersize=3.5,
               linewidth=1.1, markerfacecolor="white", label=look.label)  # fmt: skip
