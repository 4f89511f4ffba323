"""How figures look and are saved: one palette, one way to draw an interval, one way to write files.

A method has the same colour, marker and line in every figure. The four that `make reproduce`
compares also differ in lightness, so that a grey print can be read. Which figures there are
belongs in `evaluations` and `positions`.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from cream.utils.files import atomic_path

__all__ = [
    "PAPER",
    "Sheet",
    "Style",
    "curve",
    "finish",
    "in_order",
    "in_windows",
    "interval_band",
    "legend",
    "level_curve",
    "note",
    "printed",
    "published_curve",
    "save",
    "sheet",
    "style",
    "times_n",
]

PAPER = "paper, Llama-2-7B"
GREY = "#555555"

_RC = {
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.linewidth": 0.8,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.0,
    "legend.frameon": False,
    "legend.handlelength": 2.4,
    "pdf.fonttype": 42,
}


class Style(NamedTuple):
    """How one method is drawn and what it is called."""

    label: str
    color: str
    marker: str
    line: str | tuple


_STYLES = {
    "original": Style("original", "#222222", "x", (0, (1, 1.4))),
    "scaled": Style("scaled, untuned", "#B8B8B8", "D", (0, (4, 1.5))),
    "plain": Style("plain fine-tuning", "#9970AB", "v", (0, (3, 1, 1, 1))),
    "randpos": Style("RandPos", "#E08214", "^", (0, (2, 1))),
    "clex": Style("CLEX", "#B8A000", "p", (0, (1, 1, 3, 1))),
    "endprompt": Style("EndPrompt", "#5AAE61", "h", (0, (7, 1, 1, 1, 1, 1))),
    "pose-v1": Style("PoSE v1", "#92C5DE", "P", (0, (6, 1.5))),
    "pose": Style("PoSE", "#4393C3", "s", (0, (5, 1, 1, 1))),
    "full": Style("full length", "#01665E", "*", (0, (8, 1.5))),
    "cream": Style("CREAM", "#B2182B", "o", "-"),
}
# CREAM with something of it changed (grid plans "ablations" and "scale64"), in the same family.
_VARIANTS = {
    "relativity": Style("CREAM, relativity only", "#67001F", "<", (0, (5, 1))),
    "continuity": Style("CREAM, continuity only", "#F4A582", ">", (0, (2, 1.2))),
    "uniform": Style("CREAM, uniform", "#D6604D", "h", (0, (4, 1, 1, 1, 1, 1))),
    "sigma 1": Style("CREAM, sigma 1", "#FDAE61", "1", (0, (1, 1))),
    "sigma 2": Style("CREAM, sigma 2", "#D9A441", "2", (0, (2, 2))),
    "sigma 4": Style("CREAM, sigma 4", "#B35806", "3", (0, (4, 2))),
    "sigma grown": Style("CREAM, sigma grown", "#7F3B08", "d", (0, (7, 1, 1, 1))),
    "mean 9": Style("CREAM, mean 9", "#5E4FA2", "p", (0, (3, 2))),
    "mode by batch": Style("CREAM, mode by batch", "#C51B7D", "H", (0, (1, 2))),
    "mode by 70": Style("CREAM, mode by 70", "#DE77AE", "8", (0, (3, 1))),
    "ends x4": Style("CREAM, ends x4", "#1B7837", "4", (0, (6, 2))),
    "ends x16": Style("CREAM, ends x16", "#00441B", "X", (0, (6, 3, 1, 3))),
    "content free": Style("CREAM, free content", "#E78AC3", "*", (0, (2, 1, 1, 1))),
    "truncated": Style("CREAM, truncated", "#A6611A", "|", (0, (5, 3))),
}
# Methods that are named by more than their rows' `method` (`method_names`).
_NAMED = {
    "RandPos on frozen NTK": Style("RandPos on frozen NTK", "#7A6A00", "P", (0, (1, 2))),
    "CLEX, matrices clipped apart at 1.0": Style(
        "CLEX, matrices clipped apart at 1.0", "#DFC27D", "8", (0, (2, 1, 1, 1))
    ),
    "CoPE, CREAM's positions": Style("CoPE, CREAM's positions", "#CE1256", "D", (0, (3, 1))),
    "DroPE, plain fine-tuning": Style("DroPE, plain fine-tuning", "#7F7F7F", "X", (0, (4, 2))),
}
_SPARE = [("#8C510A", "<"), ("#5E4FA2", ">"), ("#66A61E", "h"), ("#E7298A", "d"), ("#7F7F7F", "p")]


def style(method: str) -> Style:
    """Return how `method` is drawn; a name without a style of its own gets a spare one by name."""
    if known := _STYLES.get(method) or _VARIANTS.get(method) or _NAMED.get(method):
        return known
    color, marker = _SPARE[sum(map(ord, method)) % len(_SPARE)]
    return Style(method, color, marker, (0, (3, 1.2)))


def in_order(methods: Iterable[str]) -> list[str]:
    """Return the methods in the order of the palette, others after them by name."""
    known = [*_STYLES, *_VARIANTS, *_NAMED]
    return sorted(set(methods), key=lambda m: (known.index(m) if m in known else len(known), m))


class Sheet(Figure):
    """A figure that a notebook shows by itself, without pyplot and its global state.

    `drawn` says what it was drawn from (hash of rows, commit); its files carry it.
    """

    drawn: Mapping[str, str] = MappingProxyType({})

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        with _laid_out(self, 90):
            self.savefig(buffer, format="png", dpi=90, metadata={"Software": None})
        return buffer.getvalue()


def sheet(
    width: float, height: float, rows: int = 1, columns: int = 1, **options: object
) -> tuple[Sheet, np.ndarray]:
    """Return an empty figure of `width` x `height` inches and its axes, shape (rows, columns)."""
    figure = Sheet(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def printed(draw: Callable[..., Sheet]) -> Callable[..., Sheet]:
    """Make a figure function draw with our settings and leave the reader's own alone."""

    @wraps(draw)
    def inside(*args: object, **named: object) -> Sheet:
        with mpl.rc_context(_RC):
            return draw(*args, **named)

    return inside


def curve(axes: Axes, method: str, x: pd.Series, table: pd.DataFrame, factor: float = 1.0) -> None:
    """Draw value, low and high of `table` (times `factor`) over `x` with bars for the interval.

    A point without an interval (NaN, from one unit) has no bar: caps at the point would say that
    nothing is uncertain.
    """
    look = style(method)
    value, low, high = (table[name].to_numpy(float) * factor for name in ("value", "low", "high"))
    bars = np.maximum([value - low, high - value], 0.0)
    axes.errorbar(
        x, value, yerr=bars, color=look.color, marker=look.marker, linestyle=look.line,
        label=look.label, capsize=2, elinewidth=0.9, markeredgecolor=look.color,
        markerfacecolor=look.color if method == "cream" else "white", zorder=3,
    )  # fmt: skip


def level_curve(
    axes: Axes, method: str, x: Iterable[float], table: pd.DataFrame, ends: tuple = (0.0, 100.0)
) -> None:
    """Draw `table` of `group_means` over `x`: its two intervals as bars, cut at `ends`.

    Thin: over bases (low, high). Thick: over seeds with these bases given (seeds_low, seeds_high).
    """
    look, x = style(method), np.asarray(x, float)
    axes.plot(x, table["value"], color=look.color, marker=look.marker, linestyle=look.line,
              label=look.label, markeredgecolor=look.color, zorder=3,
              markerfacecolor=look.color if method == "cream" else "white")  # fmt: skip
    for low, high, width, alpha in (("low", "high", 0.8, 0.55),
                                    ("seeds_low", "seeds_high", 3.2, 0.4)):  # fmt: skip
        bar = table[[low, high]].to_numpy(float).clip(*ends)
        axes.vlines(x, bar[:, 0], bar[:, 1], color=look.color, linewidth=width, alpha=alpha,
                    zorder=2)  # fmt: skip


def interval_band(axes: Axes, method: str, x: pd.Series, low: np.ndarray, high: np.ndarray) -> None:
    """Shade an interval around a curve, paler than any line."""
    axes.fill_between(x, low, high, color=style(method).color, alpha=0.16, linewidth=0, zorder=1)


def published_curve(axes: Axes, method: str, x: pd.Series, y: pd.Series) -> None:
    """Draw a published curve: thin, dashed, in the method's colour, with its marker made small."""
    look = style(method)
    axes.plot(
        x, y, color=look.color, linestyle=(0, (2.5, 2)), linewidth=0.9, alpha=0.85,
        marker=look.marker, markersize=2.6, markeredgewidth=0.7,
        label=f"_{PAPER}: {style(method).label}", zorder=2,
    )  # fmt: skip


def finish(axes: Axes, title: str = "", x: str = "", y: str = "") -> None:
    """Name the axes."""
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)


def legend(figure: Figure, published: str | None = None) -> None:
    """Put one legend above all axes, with a line for the published curves where there are any."""
    found = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if published:
        found[published] = Line2D([], [], color=GREY, linestyle=(0, (2.5, 2)), linewidth=0.9)
    if found:
        figure.legend(
            found.values(), found.keys(), loc="outside upper left", fontsize=8.5,
            columnspacing=1.4, ncols=_columns(list(found), figure.get_figwidth()),
        )  # fmt: skip


def note(figure: Figure, *said: str) -> None:
    """Write sentences below all axes, wrapped to the figure's width; empty ones are left out."""
    lines = textwrap.wrap(" ".join(filter(None, said)), int(16.5 * figure.get_figwidth()))
    figure.supxlabel("\n".join(lines), fontsize=7.5, color=GREY, x=0.01, ha="left")


def _columns(labels: list[str], inches: float) -> int:
    """As many columns as fit: a handle and its gaps take half an inch, a letter 0.07."""
    fits = 1
    for columns in range(1, len(labels) + 1):
        # matplotlib fills columns from the top, longer ones first
        sizes = [len(labels) // columns + (k < len(labels) % columns) for k in range(columns)]
        ends = np.cumsum([0, *sizes])
        letters = sum(max(map(len, labels[a:b])) for a, b in zip(ends, ends[1:], strict=False))
        if 0.5 * columns + 0.07 * letters < inches:
            fits = columns
    return fits


def in_windows(axes: Axes, multiples: Iterable[float]) -> None:
    """Make x the length in multiples of N on a log2 scale, and mark the window itself.

    Few lengths are named as they were measured, many by powers of two; of two names that would
    touch in a narrow panel the later stays.
    """
    found = sorted({float(m) for m in multiples})
    ticks = found
    if len(found) > 8:
        first, last = np.ceil(np.log2(found[0]) - 1e-9), np.floor(np.log2(found[-1]) + 0.05)
        ticks = [2.0**k for k in np.arange(first, last + 1)]
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    place = axes.get_subplotspec()
    share = len(place.colspan) / place.get_gridspec().ncols
    room = 0.8 * axes.figure.get_figwidth() * share / np.log2(ticks[-1] / ticks[0])
    close = {
        a
        for a, b in zip(ticks, ticks[1:], strict=False)
        if room * np.log2(b / a) < max(0.26, 0.045 * len(times_n(a) + times_n(b)))
    }
    axes.xaxis.set_major_formatter(FuncFormatter(lambda m, _: "" if m in close else times_n(m)))
    axes.axvline(1, color=GREY, linewidth=0.7, linestyle=(0, (1, 2)), zorder=1)
    axes.set_xlim(found[0] * 0.88, found[-1] * 1.14)


def times_n(multiple: float) -> str:
    """Return 1.0 as "N" and 7.8 as "7.8N"."""
    return "N" if abs(multiple - 1) < 0.005 else f"{multiple:.3g}N" if multiple else "0"


def save(figure: Figure, stem: str | Path, meta: Mapping[str, str]) -> list[Path]:
    """Write `stem`.png and `stem`.pdf and return them; equal figures give equal bytes.

    `meta` (see `results.drawn_from`: rows, commit) goes into the PNG's text and the PDF's keywords.
    """
    stem = Path(stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    words = ", ".join(f"{name} {value}" for name, value in meta.items())
    forms = {
        "png": {"Software": None, **{name.capitalize(): value for name, value in meta.items()}},
        "pdf": {"CreationDate": None, "Producer": None, "Creator": None, "Keywords": words},
    }
    written = []
    with _laid_out(figure, 160):
        for form, metadata in forms.items():
            path = stem.with_name(f"{stem.name}.{form}")
            with atomic_path(path) as beside:
                figure.savefig(beside, format=form, dpi=160, metadata=metadata)
            written.append(path)
    return written


@contextmanager
def _laid_out(figure: Figure, dpi: float) -> Iterator[None]:
    """Find where everything stands once, for all that is saved inside.

    With a layout engine `savefig` would find it each time, and draw everything twice.
    """
    engine, before = figure.get_layout_engine(), figure.dpi
    if engine is not None:
        figure.dpi = dpi
        engine.execute(figure)
        figure.dpi = before
    figure.set_layout_engine(None)
    try:
        yield
    finally:
        figure.set_layout_engine(engine)
