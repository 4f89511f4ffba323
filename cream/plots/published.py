"""The paper's own figures and tables, drawn again from data/paper with the noise they came with.

Where rows of ours answer the same question they stand beside the published numbers, and where
nobody ran it the figure says so. Intervals of published numbers are ours, from how many samples a
number stands on (50 a length, 500 a position): the paper prints none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, PercentFormatter

from cream.plots.evaluations import extensions, lengths_panel, of_extension
from cream.plots.style import (
    GREY,
    curve,
    finish,
    in_order,
    in_windows,
    interval_band,
    legend,
    level_curve,
    note,
    printed,
    sheet,
    style,
)
from cream.results.published import PAPER_WINDOW, read_published
from cream.statistics import Interval, by_method, wilson
from cream.statistics.multilevel import floored, of_answers

__all__ = [
    "PRINTED_AVERAGES",
    "clex",
    "endpoints",
    "infinitebench_table",
    "key_value_table",
    "longbench",
    "longbench_rows",
    "longbench_table",
    "longchat_lines",
    "lost_in_the_middle",
    "perplexity",
    "two_shares",
]

LINES_SAMPLES, POSITION_SAMPLES = 50, 500
# Of the paper's key-value table, as printed (protocols 5.2): scaling, keys, method.
PRINTED_AVERAGES = {
    ("linear", 75, "pose"): 50.9, ("linear", 75, "cream"): 65.2,
    ("linear", 140, "pose"): 28.7, ("linear", 140, "cream"): 39.4,
    ("ntk", 75, "pose"): 54.9, ("ntk", 75, "cream"): 63.5,
    ("ntk", 140, "pose"): 25.7, ("ntk", 140, "cream"): 29.9,
    ("yarn", 75, "pose"): 50.0, ("yarn", 75, "cream"): 73.4,
    ("yarn", 140, "pose"): 24.4, ("yarn", 140, "cream"): 45.2,
}  # fmt: skip
NOT_RUN = "ours: not run (no weights of 7 B parameters here)"
ABOUT = ("train_samples", "train_length", "source", "truncated")  # no scores
_MARKERS = ("s", "^", "D", "v", "P", "X")


def two_shares(first: float, second: float, n: int) -> Interval:
    """Return first - second of two shares of `n` separate samples each, with its 95 % interval.

    Newcombe's method 10 (1998), which combines two Wilson intervals: shares near 0 and 1 keep one.
    """
    a, b = wilson(first * n, n), wilson(second * n, n)
    gap = first - second
    low = gap - np.hypot(first - a.low, b.high - second)
    high = gap + np.hypot(a.high - first, second - b.low)
    return Interval(gap, float(low), float(high), n)


@printed
def longchat_lines(folder: str | Path, rows: pd.DataFrame | None = None) -> Figure:
    """Draw the paper's Figure 1, and in panels beside it what our rows say, by scaling.

    `folder` is data/paper; `rows` of LongChat-Lines, as for `plots.accuracy_by_length`, or of a
    grid, of which scalings that leave every tuned model at 0 are named and not drawn. Bands and
    bars are 95 % intervals.
    """
    published = read_published(folder, "longchat_lines")
    found = [] if rows is None or rows.empty else extensions(rows)
    said = ["Bands: 95 % of n answers."]
    if rows is not None and "plan" in rows:
        rows = rows[rows["variant"].isin(published["method"])]
        rows = rows.assign(x=(rows["token_length"] / rows["window"]).round(2))
        levels = of_answers(rows)
        empty = [scaling for _, scaling in floored(levels)]
        found = [each for each in found if each[0] not in empty]
        said += [_caption_of_ours(levels, empty)]
    width = 4.3 + 3.2 * len(found) if len(found) < 2 else 8.6
    figure, axes = sheet(width, 4.0, 1, 1 + len(found), sharey=True)
    _figure_1(axes[0][0], published)
    if found and "plan" in rows:
        for panel, (scaling, scale) in zip(axes[0][1:], found, strict=True):
            part = levels[levels["scaling"].isin([scaling, "none"])]
            _our_levels(panel, part, lambda x, place: x * 2 ** (0.04 * place))
            in_windows(panel, part["x"])
            finish(panel, f"ours, N = {_windows(rows)}, {scaling} x{scale}", "length of the record")
    elif found:
        said += ["Bars: 95 % intervals."]
        rows = rows.assign(multiple=rows["token_length"] / rows["window"])
        table = by_method(rows, ["multiple"])
        for panel, extension in zip(axes[0][1:], found, strict=True):
            scaled = f"{extension[0]} x{extension[1]}"
            lengths_panel(panel, of_extension(table, extension))
            finish(panel, f"ours, N = {_windows(rows)}, {scaled}", "length of the record", "")
    axes[0][0].set_ylim(-4, 104)
    axes[0][0].set_ylabel("LongChat-Lines, correct (%)")
    legend(figure)
    note(figure, *said)
    return figure


def _our_levels(
    panel: Axes, table: pd.DataFrame, beside: Callable[[pd.Series, float], pd.Series]
) -> None:
    methods = in_order(table["variant"])
    for number, method in enumerate(methods):
        part = table[table["variant"] == method].sort_values("x")
        level_curve(panel, method, beside(part["x"], number - (len(methods) - 1) / 2), part)


def _caption_of_ours(levels: pd.DataFrame, empty: Sequence[str]) -> str:
    tuned = levels[(levels["condition"] != "none") & ~levels["scaling"].isin(empty)]
    if tuned.empty:
        return "Ours: every tuned model is at 0."
    few, many = tuned["runs"].min(), tuned["runs"].max()
    counted = f"{few}" if few == many else f"{few} to {many}"
    said = (
        f"Ours: means of {counted} models a point, trained on "
        f"text alone; bars 95 %, thin over {tuned['bases'].max()} bases, thick over seeds with "
        "these bases given, cut at 0 and 100 %."
    )
    gone = (
        f" By {', '.join(sorted(set(empty)))} every tuned model of ours is at 0." if empty else ""
    )
    return said + gone


def _figure_1(panel: Axes, published: pd.DataFrame) -> None:
    said = []
    for method in in_order(published["method"]):
        part, look = published[published["method"] == method], style(method)
        x, share = part["token_length"] / PAPER_WINDOW, part["accuracy"].to_numpy() / 100
        _published_curve(panel, method, x, share, LINES_SAMPLES)
        said.append(f"{look.label} {part['accuracy'].mean():.1f}")
    panel.text(0.99, 0.98, "means of 17 lengths:\n" + "\n".join(reversed(said)), fontsize=7.5,
               ha="right", va="top", transform=panel.transAxes, color=GREY)  # fmt: skip
    in_windows(panel, published["token_length"] / PAPER_WINDOW)
    finish(panel, f"paper: Llama-2-7B, linear x8 (n = {LINES_SAMPLES})", "length of the record", "")


def _published_curve(
    panel: Axes, method: str, x: pd.Series, share: np.ndarray, samples: int
) -> None:
    """A published curve with its noise as a band, from `samples` answers a point."""
    ends = 100 * np.array([wilson(p * samples, samples)[1:3] for p in share])
    look = style(method)
    interval_band(panel, method, x, ends[:, 0], ends[:, 1])
    panel.plot(x, 100 * share, color=look.color, linestyle=look.line, marker=look.marker,
               markersize=3.5, linewidth=1.2, label=look.label, zorder=3,
               markerfacecolor=look.color if method == "cream" else "white")  # fmt: skip


def _windows(rows: pd.DataFrame) -> str:
    return " and ".join(f"{window:,}" for window in sorted(rows["window"].unique()))


@printed
def lost_in_the_middle(folder: str | Path, rows: pd.DataFrame | None = None) -> Figure:
    """Draw the paper's key-value table by place, a column a scaling; ours in lines below it.

    `rows` of key-value retrieval, as for `plots.accuracy_by_position`; a scaling without any says
    that it was not run.
    """
    published = read_published(folder, "lost_in_the_middle")
    rows = None if rows is None or rows.empty else rows
    said, of_grid = "Bands: 95 % of 500 answers.", rows is not None and "plan" in rows
    if of_grid:
        rows = rows[rows["variant"].isin(published["method"])]
        rows = rows[rows["token_length"] > 1.8 * rows["window"]]  # as in the claims
        rows = rows.assign(x=100 * rows["gold_index"].astype(float) / (rows["num_keys"] - 1))
        levels = of_answers(rows.assign(x=rows["x"].astype(float).round(0)))
        said = f"{said} {_caption_of_ours(levels, [scaling for _, scaling in floored(levels)])}"
    ours = [] if rows is None else sorted(rows["num_keys"].unique())
    theirs, scalings = sorted(published["num_keys"].unique()), ("linear", "ntk", "yarn")
    lines = len(theirs) + len(ours)
    figure, axes = sheet(7.4, 1.0 + 1.75 * lines, lines, 3, sharex=True, sharey=True)
    for column, scaling in zip(axes.T, scalings, strict=True):
        for panel, keys in zip(column, theirs, strict=False):
            part = published[(published["scaling"] == scaling) & (published["num_keys"] == keys)]
            for method, each in part.groupby("method"):
                place = 100 * each["gold_index"] / (keys - 1)
                _published_curve(panel, method, place, each["accuracy"].to_numpy() / 100,
                                 POSITION_SAMPLES)  # fmt: skip
            finish(panel, f"paper: {scaling} x8, {keys} keys")
        for panel, keys in zip(column[len(theirs) :], ours, strict=True):
            if of_grid:
                part = levels[levels["scaling"] == scaling]
                _our_places_of_grid(panel, part, f"ours: {scaling} x8, {keys} keys")
                continue
            _our_places(panel, rows[(rows["num_keys"] == keys) & (rows["scaling"] == scaling)],
                        f"ours: {scaling} x8, {keys} keys")  # fmt: skip
    _share_axes(axes, len(theirs))
    legend(figure)
    note(figure, said)
    return figure


def _our_places_of_grid(panel: Axes, levels: pd.DataFrame, title: str) -> None:
    finish(panel, title)
    said = "not run" if levels.empty else "every tuned model\nat 0" if floored(levels) else ""
    if said:
        panel.text(0.5, 0.5, said, ha="center", va="center", transform=panel.transAxes, color=GREY)
        return
    _our_levels(panel, levels, lambda x, place: x + 1.2 * place)


def _our_places(panel: Axes, rows: pd.DataFrame, title: str) -> None:
    finish(panel, title)
    rows = rows[rows["scale"] == 8]
    if rows.empty:
        panel.text(0.5, 0.5, "not run", ha="center", transform=panel.transAxes, color=GREY)
        return
    table, keys = by_method(rows, ["gold_index"]), int(rows["num_keys"].iloc[0])
    methods = in_order(table["method"])
    for place, method in enumerate(methods):
        part = table[table["method"] == method]
        shift = 1.2 * (place - (len(methods) - 1) / 2)
        curve(panel, method, 100 * part["gold_index"].to_numpy(float) / (keys - 1) + shift, part,
              100)  # fmt: skip


def _share_axes(axes: np.ndarray, published: int) -> None:
    for panel in axes.flat:
        panel.set_ylim(-4, 104)
        panel.set_xticks([0, 25, 50, 75, 100])
        panel.xaxis.set_major_formatter(PercentFormatter())
    for panel in axes[-1]:
        panel.set_xlabel("place of the gold record")
    for number, line in enumerate(axes):
        line[0].set_ylabel("answer contained (%)" if number < published else "exactly right (%)")


def key_value_table(folder: str | Path) -> pd.DataFrame:
    """Return the paper's key-value table: means, the middle three places, and what does not follow.

    One row a scaling and number of keys, in %. `printed` is the paper's own average, `follows`
    whether it is that of its five positions; intervals are of CREAM - PoSE, from n = 500 a place.
    """
    published = read_published(folder, "lost_in_the_middle")
    found = []
    for (scaling, keys), part in published.groupby(["scaling", "num_keys"]):
        means = part.groupby("method")["accuracy"].mean()
        inner = part[part["gold_index"].between(1, keys - 2)]
        middle = inner.groupby("method")["accuracy"].mean()
        many = POSITION_SAMPLES * (len(inner) // 2)
        gap = two_shares(middle["cream"] / 100, middle["pose"] / 100, many)
        printed_one = {m: PRINTED_AVERAGES[scaling, keys, m] for m in ("pose", "cream")}
        follows = all(abs(means[m] - printed_one[m]) < 0.06 for m in printed_one)
        found.append((scaling, keys, *(means[m] for m in printed_one), *printed_one.values(),
                      follows, *(middle[m] for m in printed_one),
                      *(100 * end for end in gap[:3])))  # fmt: skip
    names = ["scaling", "keys", "PoSE", "CREAM", "PoSE, printed", "CREAM, printed", "follows",
             "PoSE, middle", "CREAM, middle", "difference", "low", "high"]  # fmt: skip
    return pd.DataFrame(found, columns=names).round(1)


def endpoints(folder: str | Path) -> dict[tuple[str, str], float]:
    """Return the paper's CREAM - PoSE on the grid's endpoints, by claim and scaling, in points.

    Lines from 3.9 N on (linear alone), and the five places of 140 keys (2.4 N): their mean, the
    middle one, and the middle one less the mean of the two ends.
    """
    lines = read_published(folder, "longchat_lines")
    far = lines[lines["token_length"] >= 3.9 * PAPER_WINDOW].groupby("method")["accuracy"].mean()
    found = {("lines average", "linear"): far["cream"] - far["pose"]}
    table = read_published(folder, "lost_in_the_middle")
    for scaling, part in table[table["num_keys"] == 140].groupby("scaling"):
        wide = part.pivot(index="gold_index", columns="method", values="accuracy")
        gap = (wide["cream"] - wide["pose"]).sort_index().to_numpy()
        found["key-value average", scaling] = gap.mean()
        found["accuracy at the middle", scaling] = gap[2]
        found["middle of key-value pairs", scaling] = gap[2] - (gap[0] + gap[-1]) / 2
    return {key: float(value) for key, value in found.items()}


def longbench_table(
    folder: str | Path, name: str, rows: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Return a published LongBench table (`name`: categories, tasks, clex), ours last.

    Categories and tasks are of the CREAM paper, clex of CLEX's README; a row is a model. Ours are
    rows of tasks longbench-* of models with a window of 2,048 tokens or more: below that there is
    no room for the benchmark, and made-up samples stand in for it.
    """
    table = read_published(folder, f"longbench_{name}").set_index("model")
    table = table.drop(columns=[c for c in ABOUT if c in table])
    for called, part in _longbench_evaluations(longbench_rows(rows)):
        from cream.tasks.longbench.task import averages  # reads models: only where there are rows

        means = averages(part)["value"]
        means = means.rename({"average_12": "average"} if name == "tasks" else {})
        table.loc[called] = [means[~means.index.duplicated("last")].get(c) for c in table]
    return table


def _longbench_evaluations(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Each run's rows and its name; with its base, or how it was asked, where there are several."""
    for run, of_run in rows.groupby("run", sort=False):
        from cream.tasks.longbench.task import evaluations  # as above

        models = list(of_run.groupby(of_run["base"].fillna(""), sort=False))
        for base, part in models:
            called = f"ours: {run}" + (f" of {base}" if len(models) > 1 else "")
            asked = list(evaluations(part))
            for said, one in asked:
                yield called + (f" ({said})" if len(asked) > 1 else ""), one


def longbench_rows(rows: pd.DataFrame | None) -> pd.DataFrame:
    """Return the rows of `rows` that answer LongBench itself (see `longbench_table`)."""
    if rows is None or rows.empty:
        return pd.DataFrame({"run": []})
    return rows[rows["task"].str.startswith("longbench-") & (rows["window"] >= 2048)]


@printed
def longbench(folder: str | Path, rows: pd.DataFrame | None = None) -> Figure:
    """Draw both LongBench tables of the paper (chat, 100 steps), ours where it was run."""
    figure, axes = sheet(7.4, 5.0, 1, 2)
    ours = len(longbench_rows(rows)) > 0
    figure.suptitle("LongBench as published, chat models; " + ("ours below" if ours else NOT_RUN),
                    fontsize=9, x=0.01, ha="left")  # fmt: skip
    for panel, (name, title) in zip(
        axes[0], (("categories", "six categories"), ("tasks", "twelve tasks")), strict=True
    ):
        table = longbench_table(folder, name, rows)
        _dots(panel, table)
        finish(panel, title, "points of 100", "")
        panel.legend(loc="upper left", bbox_to_anchor=(-0.1, -0.12), fontsize=7.5, ncols=2,
                     columnspacing=1.0, handletextpad=0.2)  # fmt: skip
    return figure


def infinitebench_table(folder: str | Path) -> pd.DataFrame:
    """Return CLEX's InfiniteBench table in %, a row a model; what it prints as "<5" stays text."""
    return read_published(folder, "infinitebench_clex").set_index("model")


@printed
def clex(folder: str | Path, rows: pd.DataFrame | None = None) -> Figure:
    """Draw what CLEX publishes of its chat models on LongBench and InfiniteBench.

    Ours stand in the left panel where LongBench was run. "<5" is an arrow at 5.
    """
    figure, axes = sheet(7.4, 5.6, 1, 2)
    ours = len(longbench_rows(rows)) > 0
    figure.suptitle("As CLEX published, chat models; " + ("ours below" if ours else NOT_RUN),
                    fontsize=9, x=0.01, ha="left")  # fmt: skip
    printed_table = infinitebench_table(folder)
    below = printed_table.astype(str).apply(lambda column: column.str.startswith("<"))
    numbers = printed_table.apply(pd.to_numeric, errors="coerce").where(~below)
    titles = ("LongBench, six categories", "InfiniteBench (◄: below 5)")
    tables = (longbench_table(folder, "clex", rows), numbers)
    for panel, title, table in zip(axes[0], titles, tables, strict=True):
        _dots(panel, table)
        finish(panel, title, "points of 100", "")
        panel.legend(loc="upper left", bbox_to_anchor=(-0.3, -0.11), fontsize=7, ncols=2,
                     columnspacing=1.0, handletextpad=0.2)  # fmt: skip
    _arrows(axes[0][1], below)
    return figure


def _arrows(panel: Axes, below: pd.DataFrame) -> None:
    """Mark what is only known to lie below 5, at the heights of `_dots`."""
    lines = np.arange(below.shape[1])[::-1]
    for place, (_, hidden) in enumerate(below.iterrows()):
        heights = (lines + _shift(place, len(below)))[hidden.to_numpy()]
        panel.plot(np.full(len(heights), 5.0), heights, "<", color=GREY, markersize=4)


def _dots(panel: Axes, table: pd.DataFrame) -> None:
    lines = np.arange(table.shape[1])[::-1]
    for line in lines:
        panel.axhspan(line - 0.5, line + 0.5, color="#F6F6F6" if line % 2 else "white", zorder=0)
    shades = np.linspace(0.2, 0.7, max(1, len(table)))
    for place, (model, values) in enumerate(table.iterrows()):
        mine, named = model.startswith(("CREAM", "ours")), model.startswith("CLEX")
        look = style("cream" if model.startswith("CREAM") else "full")
        color = look.color if mine else "black" if named else str(shades[place])
        panel.plot(values, lines + _shift(place, len(table)), linestyle="none",
                   marker=look.marker if mine else _MARKERS[place % len(_MARKERS)], color=color,
                   markerfacecolor=color if mine or named else "white", label=model,
                   markersize=5.5 if mine or named else 4.5)  # fmt: skip
    panel.set_yticks(lines, [name.replace("_", " ") for name in table])
    panel.set_ylim(-0.5, len(lines) - 0.5)
    panel.grid(False, axis="y")
    panel.tick_params(axis="y", length=0)


def _shift(place: int, models: int) -> float:
    """How far from its line a model's dot stands, so that no two of them cover each other."""
    return min(0.1, 0.8 / models) * (place - (models - 1) / 2)


@printed
def perplexity(folder: str | Path) -> Figure:
    """Draw the published perplexities by length (CLEX's table: RedPajama-Book, Llama-2-7B).

    What the table gives as ">100" is an arrow at the top. Ours belong to another tokenizer and
    other text, and stand in a figure of their own (`plots.perplexity_by_length`).
    """
    table = read_published(folder, "perplexity_clex").set_index("model")
    table = table[table.index.str.contains("LLaMA|PI|YaRN|Naive|RandomPos")]
    lengths = np.array([2**k for k in range(len(table.columns) - 1)], float)
    figure, axes = sheet(6.6, 3.7)
    panel, top = axes[0][0], 100.0
    for place, (model, values) in enumerate(table.drop(columns="train_length").iterrows()):
        beyond = values.astype(str).str.startswith(">").to_numpy()
        numbers = pd.to_numeric(values, errors="coerce").to_numpy(float)
        shade = str(np.linspace(0.0, 0.7, len(table))[place])
        marker = _MARKERS[place % len(_MARKERS)]
        panel.plot(
            lengths,
            np.where(beyond, top, numbers),
            color=shade,
            marker=marker,
            linestyle=(0, (1 + place % 4, 1)),
            linewidth=1.1,
            markersize=4,
            markerfacecolor="white",
            label=f"{model}, trained at {_trained(table, model)}",
        )
        panel.plot(lengths[beyond], np.full(beyond.sum(), top), "^", color=shade, markersize=6)
    panel.set_yscale("log")
    panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.yaxis.set_major_formatter("{x:g}")
    panel.set_ylim(4.5, 115)
    panel.set_xscale("log", base=2)
    panel.set_xticks(lengths, [f"{4 * length:g}K" for length in lengths])
    finish(panel, "Perplexity as published (▲: above 100)", "tokens", "perplexity")
    legend(figure)
    return figure


def _trained(table: pd.DataFrame, model: str) -> str:
    return str(table.loc[model, "train_length"]).upper()
