"""One function a figure: rows in, a matplotlib Figure out.

Measured values are drawn thick, with marker and 95 % interval; published ones, where given, thin
and dashed beside them. Figures of the method itself (what the samplers do) lie in `positions` and
figures' looks in `style`; both are reached from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, PercentFormatter

from cream.plots.style import (
    PAPER,
    curve,
    finish,
    in_order,
    in_windows,
    legend,
    printed,
    published_curve,
    sheet,
    style,
)
from cream.results.published import PAPER_WINDOW
from cream.results.rows import needs
from cream.statistics import by_method, wilson
from cream.tasks.kv_retrieval import KEYS_PAPER, LENGTHS_PAPER
from cream.utils.jsonl import whole_objects

__all__ = [
    "accuracy_by_length",
    "accuracy_by_position",
    "document_lengths",
    "dodge",
    "extensions",
    "lengths_panel",
    "log_where_wide",
    "of_extension",
    "perplexity_by_length",
    "training_curves",
    "training_metrics",
]


def extensions(rows: pd.DataFrame) -> list[tuple[str, int]]:
    """Return the scalings and scales in `rows`; each gets a panel."""
    scaled = rows[rows["scaling"].fillna("none") != "none"]
    return sorted(set(zip(scaled["scaling"], scaled["scale"], strict=True))) or [("none", 1)]


def of_extension(table: pd.DataFrame, extension: tuple[str, int]) -> pd.DataFrame:
    """Return the part of one scaling and scale, and the unscaled model beside it."""
    scaling, scale = extension
    ours = (table["scaling"] == scaling) & (table["scale"] == scale)
    return table[ours.fillna(False) | (table["scaling"].fillna("none") == "none")]


def dodge(x: pd.Series, place: int, of: int, step: float) -> np.ndarray:
    """Return x moved a little, so that what is drawn `of` times stands side by side (log2 scale).

    `place` is which of them this one is, `step` the distance between two, in powers of two.
    """
    return x.to_numpy(float) * 2 ** (step * (place - (of - 1) / 2))


@printed
def accuracy_by_length(
    rows: pd.DataFrame, published: pd.DataFrame | None = None, score: str = "score"
) -> Figure:
    """Draw LongChat-Lines: accuracy over length in multiples of N, a panel a scaling and scale.

    `rows` of one task with method, scaling, window and token_length; `published` is longchat_lines
    (N = 4,096). `score` may be "contained", the official metric.
    """
    rows = needs(rows, "method", "window", "token_length", score)
    rows = rows.assign(multiple=rows["token_length"] / rows["window"])
    table, panels = by_method(rows, ["multiple"], score), extensions(rows)
    figure, axes = sheet(max(6.6, 3.6 * len(panels)), 3.7, 1, len(panels), sharey=True)
    for panel, extension in zip(axes[0], panels, strict=True):
        part = of_extension(table, extension)
        if published is not None:
            part_methods = set(part["method"])
            _published_lengths(panel, published[published["method"].isin(part_methods)])
        lengths_panel(panel, part)
        panel.set_ylim(-4, 104)
        finish(panel, _title("LongChat-Lines", extension, part), "length of the record", "")
    axes[0][0].set_ylabel("correct (%)" if score == "score" else "contained (%)")
    legend(figure, None if published is None else f"{PAPER}, linear")
    return figure


def lengths_panel(panel: Axes, table: pd.DataFrame) -> None:
    """Draw shares (columns method, multiple, value, low, high) over length in windows, in %."""
    methods = in_order(table["method"])
    for place, method in enumerate(methods):
        ours = table[table["method"] == method]
        curve(panel, method, dodge(ours["multiple"], place, len(methods), 0.035), ours, 100)
    in_windows(panel, table["multiple"])


def _title(name: str, extension: tuple[str, int], table: pd.DataFrame, what: str = "") -> str:
    scaled = "" if extension[0] == "none" else f", {extension[0]} x{extension[1]}"
    return name + scaled + _n(table, what)


def _n(table: pd.DataFrame, what: str = "") -> str:
    least, most = table["n"].min(), table["n"].max()
    return f" (n = {least}{what})" if least == most else f" (n = {least} to {most}{what})"


def _published_lengths(panel: Axes, published: pd.DataFrame) -> None:
    for method, part in published.groupby("method"):
        published_curve(panel, method, part["token_length"] / PAPER_WINDOW, part["accuracy"])


@printed
def accuracy_by_position(
    rows: pd.DataFrame, published: pd.DataFrame | None = None, score: str = "score"
) -> Figure:
    """Draw key-value retrieval: accuracy over the gold record's place, a panel a number of keys.

    `rows` of one task, scaling and scale, with num_keys, gold_index, token_length and window;
    `published` is lost_in_the_middle, of one scaling: its sizes (75 and 140 keys, 1.2 N and 2.4 N)
    are drawn beside measured objects of as many keys or of that length, and of no others.
    """
    rows = needs(rows, "method", "num_keys", "gold_index", score)
    if len(found := extensions(rows)) > 1:
        names = ", ".join(f"{scaling} x{scale}" for scaling, scale in found)
        raise ValueError(f"these rows are of {names}; choose one for this figure")
    table = by_method(rows, ["num_keys", "gold_index"], score)
    sizes = sorted(rows["num_keys"].unique())
    figure, axes = sheet(max(6.6, 3.3 * len(sizes)), 3.5, 1, len(sizes), sharey=True)
    beside = 0
    for panel, keys in zip(axes[0], sizes, strict=True):
        part, asked = table[table["num_keys"] == keys], rows[rows["num_keys"] == keys]
        methods = in_order(part["method"])
        if published is not None and (size := _published_size(asked, keys)):
            theirs = published[published["num_keys"] == size]
            beside += _published_positions(panel, theirs, methods)
        for place, method in enumerate(methods):
            ours = part[part["method"] == method]
            x = 100 * ours["gold_index"].to_numpy(float) / (keys - 1)
            curve(panel, method, x + 1.2 * (place - (len(methods) - 1) / 2), ours, 100)
        panel.set_ylim(-4, 104)
        panel.set_xticks([0, 25, 50, 75, 100])
        panel.xaxis.set_major_formatter(PercentFormatter())
        title = _size(asked, keys) + _n(part)
        finish(panel, title, "place of the gold record", "")
    axes[0][0].set_ylabel("correct (%)" if score == "score" else "contained (%)")
    legend(figure, PAPER if beside else None)
    return figure


def _published_size(asked: pd.DataFrame, keys: int) -> int | None:
    """The published number of keys that objects compare with: their own, or of their length."""
    multiple = _multiple(asked)
    near = [size for size, length in zip(KEYS_PAPER, LENGTHS_PAPER, strict=True)
            if size == keys or abs(multiple / length - 1) < 0.1]  # fmt: skip
    return keys if keys in near else next(iter(near), None)


def _published_positions(panel: Axes, published: pd.DataFrame, methods: list[str]) -> int:
    """Draw the published curves of these methods; return how many."""
    found = published[published["method"].isin(methods)].groupby("method")
    for method, part in found:
        share = 100 * part["gold_index"] / (part["num_keys"] - 1)
        published_curve(panel, method, share, part["accuracy"])
    return found.ngroups


def _multiple(part: pd.DataFrame) -> float:
    """The length of objects in windows N; NaN where it is unknown."""
    multiple = (part["token_length"] / part["window"]).dropna()
    return float(multiple.median()) if len(multiple) else np.nan


def _size(part: pd.DataFrame, keys: int) -> str:
    multiple = _multiple(part)
    return f"{keys} keys" + ("" if np.isnan(multiple) else f", {multiple:.2g} N")


@printed
def perplexity_by_length(rows: pd.DataFrame) -> Figure:
    """Draw perplexity over length in multiples of N, a panel a scaling and scale.

    `rows` with nll, scored_tokens, document, window and token_length; bars are over documents.
    Published perplexities belong to another tokenizer and are not drawn beside these.
    """
    rows = needs(rows, "method", "window", "token_length", "nll", "scored_tokens")
    rows = rows.assign(multiple=rows["token_length"] / rows["window"])
    table, panels = by_method(rows, ["multiple"], "perplexity"), extensions(rows)
    figure, axes = sheet(max(6.6, 3.6 * len(panels)), 3.5, 1, len(panels), sharey=True)
    for panel, extension in zip(axes[0], panels, strict=True):
        part = of_extension(table, extension)
        methods = in_order(part["method"])
        for place, method in enumerate(methods):
            ours = part[part["method"] == method]
            curve(panel, method, dodge(ours["multiple"], place, len(methods), 0.035), ours)
        in_windows(panel, table["multiple"])
        finish(panel, _title("Perplexity", extension, part, " documents"), "tokens read", "")
    log_where_wide(axes[0][0], table["value"])
    axes[0][0].set_ylabel("perplexity")
    legend(figure)
    return figure


def log_where_wide(panel: Axes, perplexities: pd.Series) -> None:
    """Make y logarithmic where the largest perplexity is more than three times the smallest."""
    if perplexities.max() > 3 * perplexities.min():
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
        panel.yaxis.set_major_formatter("{x:g}")
        panel.yaxis.set_minor_locator(NullLocator())


def training_metrics(run: str | Path) -> pd.DataFrame:
    """Read metrics.jsonl of a run directory; a torn last line is left out."""
    path = Path(run) / "metrics.jsonl" if Path(run).is_dir() else Path(run)
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path.name} in {path.parent}; train the run first")
    return pd.DataFrame([row for _, row in whole_objects(path)])


@printed
def training_curves(metrics: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw loss and in-window retrieval over training, by method.

    `metrics` maps a method to its metrics (see `training_metrics`): step, loss, and every column
    `probe_NAME` a share in [0, 1], with an interval where `probe_n` says of how many.
    """
    if not metrics:
        raise ValueError("there are no metrics to draw; train a model first")
    figure, axes = sheet(7.2, 3.3, 1, 2)
    for place, method in enumerate(in_order(metrics)):
        frame, look = metrics[method], style(method)
        if "loss" in frame:
            loss = frame.dropna(subset=["loss"])
            axes[0][0].plot(
                loss["step"], loss["loss"], color=look.color, linestyle=look.line, label=look.label
            )
        _probe_curve(axes[0][1], method, frame, place)
    finish(axes[0][0], "Training loss", "step", "nats a token")
    finish(axes[0][1], "Retrieval inside the window", "step", "correct (%)")
    axes[0][1].set_ylim(-4, 104)
    legend(figure)
    return figure


def _probe_curve(panel: Axes, method: str, frame: pd.DataFrame, place: int) -> None:
    names = [c for c in frame if c.startswith("probe_") and c != "probe_n"]
    frame = frame.dropna(subset=names, how="all") if names else frame.iloc[:0]
    if frame.empty:
        return
    share = frame[names].mean(axis=1)
    table = pd.DataFrame({"value": share, "low": share, "high": share})
    if "probe_n" in frame:
        asked = frame["probe_n"] * len(names)
        found = [wilson(p * n, n) for p, n in zip(share, asked, strict=True)]
        table[["low", "high"]] = [each[1:3] for each in found]
    # Beside each other: two runs are often both at the ceiling.
    shift = 0.008 * frame["step"].max() * place
    curve(panel, method, frame["step"] + shift, table, 100)


@printed
def document_lengths(
    documents: pd.DataFrame, window: int, target_length: int, by: str = "kind"
) -> Figure:
    """Draw how long a corpus's documents are: log2 bins stacked by `by`, N and L marked.

    `documents` has num_tokens and the column `by`.
    """
    if documents.empty:
        raise ValueError("there are no documents to draw; prepare a corpus first")
    figure, axes = sheet(6.6, 3.2)
    panel = axes[0][0]
    kinds = documents.groupby(by)["num_tokens"].size().sort_values(ascending=False).index
    low = np.floor(np.log2(max(1, documents["num_tokens"].min())) * 4) / 4
    high = np.ceil(np.log2(documents["num_tokens"].max() + 1) * 4) / 4
    shades = [str(shade) for shade in np.linspace(0.25, 0.85, len(kinds))]
    panel.hist(
        [documents.loc[documents[by] == kind, "num_tokens"] for kind in kinds],
        bins=2 ** np.arange(low, high + 0.25, 0.25), stacked=True, color=shades,
        edgecolor="white", linewidth=0.5,
        label=[f"{kind} ({(documents[by] == kind).sum():,})" for kind in kinds],
    )  # fmt: skip
    panel.set_xscale("log", base=2)
    panel.xaxis.set_major_formatter("{x:,.0f}")
    panel.margins(y=0.14)
    for length, name in ((window, "N"), (target_length, "L")):
        panel.axvline(length, color="#B2182B", linewidth=1)
        panel.annotate(name, (length, 1), xycoords=("data", "axes fraction"), color="#B2182B",
                       xytext=(3, -9), textcoords="offset points")  # fmt: skip
    finish(panel, "", "tokens in a document", "documents")
    legend(figure)
    return figure
