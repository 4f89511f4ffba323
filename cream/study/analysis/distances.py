"""Do the distances that a sampler assigns predict the accuracy at them?

A question about a line d tokens back is answered over the relative distance d. For each variant
this counts how often training assigned that distance, and asks whether the count says more about
the accuracy at d than the distance itself does. The test is on variants left out of the fit,
because a fit over those it has seen would always find something. What belongs here is that one
question.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cream.plots.style import finish, in_order, legend, printed, sheet, style, times_n
from cream.positions import METHODS, Sampler, sampler
from cream.positions.coverage import total_counts
from cream.results.rows import needs
from cream.study.conditions import condition_name

__all__ = [
    "assigned",
    "by_distance",
    "law",
    "left_out",
    "picture",
    "query_distances",
    "samplers_of",
]

EXAMPLES = 2_000
SEEN_SO_RARELY = 1e-3  # what is never assigned counts as this; else shares are >= 7e-4
CELL = 10  # answers below which a cell's accuracy is not used
ANSWERED = 0.01  # a setting of which less is right has no accuracies to predict
SETTING = ["condition", "scaling"]


# -------------------------------------------------------------------------------- what was assigned


def samplers_of(frame: pd.DataFrame) -> dict[str, Sampler]:
    """Return the sampler of every tuned variant of a grid's rows, from its method and options.

    Variants whose examples share a coin (`mode_group`) are left out: their positions depend on
    the seed alone.
    """
    if frame.empty:
        return {}
    tuned = frame[frame["method"].isin(METHODS)]
    columns = ["variant", "method", "scale", "window", "options"]
    found = {}
    for row in tuned[columns].drop_duplicates("variant").itertuples(index=False):
        options = json.loads(row.options) if isinstance(row.options, str) else {}
        if options.get("mode_group", 1) > 1:
            continue
        found[row.variant] = sampler(row.method, int(row.window), int(row.scale), **options)
    return found


def assigned(
    samplers: Mapping[str, Sampler], bins: int = 16, examples: int = EXAMPLES, seed: int = 0
) -> pd.DataFrame:
    """Return how often each variant assigns the distances of `bins` equal parts of [0, L).

    Columns: variant, bin, assigned: pairs of tokens per distance and 1,000 tokens read, so that
    examples of other lengths compare. What never changes (plain, full) is drawn once.
    """
    found = []
    for variant, draw in samplers.items():
        length = draw.target_length
        often = 1 if draw.name in ("plain", "full") else examples
        drawn = [draw.draw(length + draw.window, seed, 0, k).positions for k in range(often)]
        total, tokens = total_counts(drawn, length), sum(map(len, drawn))
        total[0] = 0
        edges = np.arange(bins + 1) * length // bins
        sums = np.add.reduceat(total, edges[:-1]) / np.diff(edges)
        found += [(variant, k, 1000 * each / tokens) for k, each in enumerate(sums)]
    return pd.DataFrame(found, columns=["variant", "bin", "assigned"])


def query_distances(counts: Mapping, condition: str, bins: int = 16) -> pd.DataFrame:
    """Return the same of the queries that windows can answer, from what `training_data.read` gives.

    `assigned` is queries a window in each of the `bins` parts. Empty where the condition has none.
    """
    found = []
    for variant, row in counts.get(condition, {}).get("variants", {}).items():
        each = np.array(row["told_distances_of_queries"], float).reshape(bins, -1).sum(axis=1)
        if each.sum():
            each *= row["queries_a_window"] / each.sum()
            found += [(variant, k, value) for k, value in enumerate(each)]
    return pd.DataFrame(found, columns=["variant", "bin", "assigned"])


# -------------------------------------------------------------------------------- what was found


def by_distance(frame: pd.DataFrame, bins: int = 16) -> pd.DataFrame:
    """Return accuracy by distance from rows of LongChat-Lines beyond N: a row a variant and bin.

    The distance of a question is (1 - depth) times its length, in `bins` equal parts of [0, L);
    cells of at least ten answers. Columns: condition, scaling, base, variant, bin, accuracy
    (share), n. Empty without rows.
    """
    if frame.empty:
        return pd.DataFrame(columns=[*SETTING, "base", "variant", "bin", "accuracy", "n"])
    rows = frame[(frame["task"] == "longchat_lines") & frame["method"].isin(METHODS)]
    rows = needs(rows[rows["depth_percent"].notna()], "window", "scale", "token_length")
    rows = rows[rows["token_length"] > 1.05 * rows["window"]]
    numbers = rows[["depth_percent", "token_length", "window", "scale", "score"]].astype(float)
    distance = (1 - numbers["depth_percent"] / 100) * numbers["token_length"]
    place = np.floor(bins * distance / (numbers["window"] * numbers["scale"]))
    rows = rows.assign(bin=place.clip(0, bins - 1).astype(int), score=numbers["score"])
    grouped = rows.groupby([*SETTING, "base", "variant", "bin"])["score"]
    table = grouped.agg(accuracy="mean", n="size").reset_index()
    return table[table["n"] >= CELL].reset_index(drop=True)


# -------------------------------------------------------------------------------- the law


def left_out(accuracy: pd.DataFrame, histogram: pd.DataFrame) -> pd.DataFrame:
    """Predict each variant's accuracies from the others', without and with the histogram.

    By distance: the mean log odds of the others in the same bin. By the histogram: that, plus the
    others' slope of log odds on log10 of the histogram, both as departures from their bin's mean.
    For each condition, scaling and base by itself; settings of fewer than three variants are left
    out, and those where less than one answer of a hundred is right. Columns: condition, scaling,
    base, variant, bin, accuracy, by_distance, by_histogram (shares), slope.
    """
    table = accuracy.merge(histogram[["variant", "bin", "assigned"]], on=["variant", "bin"])
    table["x"] = np.log10(table["assigned"].clip(lower=SEEN_SO_RARELY))
    table["y"] = _log_odds(table["accuracy"], table["n"])
    found = [
        _predicted(part[part["variant"] == variant], part[part["variant"] != variant])
        for _, part in table.groupby([*SETTING, "base"])
        if part["variant"].nunique() > 2 and part["accuracy"].mean() >= ANSWERED
        for variant in part["variant"].unique()
    ]
    columns = [*SETTING, "base", "variant", "bin", "accuracy", "by_distance", "by_histogram",
               "slope"]  # fmt: skip
    return pd.concat(found)[columns] if found else pd.DataFrame(columns=columns)


def _log_odds(share: pd.Series, n: pd.Series) -> pd.Series:
    """Half an answer is added each way, so that 0 and 1 have some."""
    return np.log((share * n + 0.5) / ((1 - share) * n + 0.5))


def _predicted(mine: pd.DataFrame, others: pd.DataFrame) -> pd.DataFrame:
    means = others.groupby("bin")[["x", "y"]].mean()
    mine = mine[mine["bin"].isin(means.index)]
    around = others[["x", "y"]] - means.loc[others["bin"]].to_numpy()
    spread = (around["x"] ** 2).sum()
    slope = (around["x"] * around["y"]).sum() / spread if spread else 0.0
    x, y = means.loc[mine["bin"]].to_numpy().T
    more = y + slope * (mine["x"].to_numpy() - x)
    shares = {"by_distance": 1 / (1 + np.exp(-y)), "by_histogram": 1 / (1 + np.exp(-more))}
    return mine.assign(**shares, slope=slope)


def law(accuracy: pd.DataFrame, histogram: pd.DataFrame) -> pd.DataFrame:
    """Return what the histogram adds to predictions of left-out variants, a row a setting.

    `error_distance` and `error_histogram` are root mean square errors in points (every variant
    weighs alike), means over the bases; `gain` is their difference, `gain_low` and `gain_high` that
    of the worst and the best base. `slope` is the median of the fits: log odds for ten times as
    many assigned. A law would have gains clearly above 0 in every base.
    """
    predicted = left_out(accuracy, histogram)
    found = []
    for setting, part in predicted.groupby(SETTING):
        errors = pd.DataFrame(
            {name: _error(part, name) for name in ("by_distance", "by_histogram")}
        )
        gains = errors["by_distance"] - errors["by_histogram"]
        found.append((*setting, *errors.mean(), gains.mean(), gains.min(), gains.max(),
                      part["slope"].median(), part["variant"].nunique(), len(errors),
                      len(part)))  # fmt: skip
    columns = [*SETTING, "error_distance", "error_histogram", "gain", "gain_low", "gain_high",
               "slope", "variants", "bases", "cells"]  # fmt: skip
    return pd.DataFrame(found, columns=columns)


def _error(part: pd.DataFrame, name: str) -> pd.Series:
    """Root mean square error of each base, in points."""
    squares = (part[name] - part["accuracy"]).pow(2)
    each = squares.groupby([part["base"], part["variant"]]).mean()
    return 100 * each.groupby("base").mean().pow(0.5)


# -------------------------------------------------------------------------------- drawn


@printed
def picture(accuracy: pd.DataFrame, histogram: pd.DataFrame, scale: int, bins: int = 16) -> Figure:
    """Draw how often each distance was assigned beside the accuracy at it, a panel a setting.

    Points are means over the bases. Settings where less than one answer of a hundred is right are
    left out; ValueError where that is all of them.
    """
    means = accuracy.groupby(SETTING)["accuracy"].mean()
    settings = sorted(means.index[means >= ANSWERED], reverse=True)
    if not settings:
        raise ValueError("there are no accuracies by distance to draw; run a grid first")
    figure, axes = sheet(max(6.6, 2.2 * (1 + len(settings))), 3.3, 1, 1 + len(settings))
    for variant in in_order(accuracy["variant"]):
        one = histogram[histogram["variant"] == variant]
        pairs = one["assigned"].where(one["assigned"] > 0)  # what is never assigned has no point
        _curve(axes[0][0], variant, (one["bin"] + 0.5) * scale / bins, pairs)
    axes[0][0].set_yscale("log")
    label = "pairs of tokens a distance\nand 1,000 tokens read"
    finish(axes[0][0], "assigned distances", "", label)
    for panel, (condition, scaling) in zip(axes[0][1:], settings, strict=True):
        here = (accuracy["condition"] == condition) & (accuracy["scaling"] == scaling)
        part = accuracy[here].groupby(["variant", "bin"])["accuracy"].mean()
        for variant in in_order(part.index.get_level_values("variant")):
            mine = part[variant]
            _curve(panel, variant, (mine.index + 0.5) * scale / bins, 100 * mine)
        panel.set_ylim(-4, 104)
        title = f"{condition_name(condition)},\n{scaling}"
        finish(panel, title, "", "correct (%)" if panel is axes[0][1] else "")
    for panel in axes[0]:
        ticks = np.linspace(0, scale, 5)
        panel.set_xticks(ticks, [times_n(tick) for tick in ticks])
        panel.set_xlabel("relative distance")
    legend(figure)
    return figure


def _curve(panel: Axes, variant: str, x: pd.Series, y: pd.Series) -> None:
    look = style(variant)
    panel.plot(x, y, color=look.color, linestyle=look.line, marker=look.marker, markersize=3.5,
               linewidth=1.1, markerfacecolor="white", label=look.label)  # fmt: skip
