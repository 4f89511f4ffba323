"""Figures of the method itself: what the samplers do, drawn from their own draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MultipleLocator

from cream.plots.style import GREY, finish, in_order, legend, printed, sheet, style, times_n
from cream.positions import Sampler, sampler
from cream.positions.coverage import distance_counts, middle_centres

__all__ = ["coverage_far", "distance_coverage", "indices_picture", "middle_histogram"]

STRIP = 1200  # columns of one example's strip


@printed
def indices_picture(
    samplers: Mapping[str, Sampler],
    num_tokens: int,
    examples: int = 6,
    seed: int = 0,
    window: int | None = None,
) -> Figure:
    """Draw the positions that some examples of each method are assigned, a line an example.

    Everything is drawn over [0, L) of a document of `num_tokens` tokens. Coloured: assigned,
    paler where only some of the positions are. Positions are counted in windows N of the base,
    `window` tokens, by default as many as an example has.
    """
    methods = in_order(samplers)
    window = window or samplers[methods[0]].window
    length = max(each.target_length for each in samplers.values())
    figure, axes = sheet(7.2, 0.5 + 0.62 * len(methods))
    panel, pitch = axes[0][0], 0.7 / examples
    for place, method in enumerate(reversed(methods)):
        lines = place - (np.arange(examples) - (examples - 1) / 2) * pitch
        panel.hlines(lines, 0, length, color="#EAEAEA", linewidth=0.6, zorder=1)
        for index, y in enumerate(lines):
            told = samplers[method].draw(num_tokens, seed, 0, index).positions
            _strip(panel, told, length, (y - 0.36 * pitch, y + 0.36 * pitch), style(method).color)
    panel.set_yticks(range(len(methods)), [style(m).label for m in reversed(methods)])
    panel.set_ylim(-0.5, len(methods) - 0.5)
    panel.set_xlim(-0.004 * length, 1.004 * length)
    panel.xaxis.set_major_locator(MultipleLocator(window * max(1, length // window // 8)))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: times_n(x / window)))
    panel.grid(False, axis="y")
    panel.tick_params(axis="y", length=0)
    finish(panel, "", "assigned position")
    return figure


def _strip(
    panel: Axes, positions: np.ndarray, length: int, y: tuple[float, float], color: str
) -> None:
    """One example as a strip, paler where only some of the positions are assigned."""
    places = (positions * STRIP // length).astype(int)  # of CLEX beyond N tokens no whole numbers
    all_of_them = np.bincount(np.arange(length) * STRIP // length, minlength=STRIP)
    share = np.bincount(places, minlength=STRIP) / np.maximum(all_of_them, 1)
    strip = np.zeros((1, STRIP, 4))
    strip[0, :, :3] = to_rgb(color)
    strip[0, :, 3] = np.where(share > 0, 0.3 + 0.7 * np.minimum(share, 1), 0)
    panel.imshow(strip, extent=(0, length, *y), aspect="auto", interpolation="nearest", zorder=2)


def coverage_far(window: int = 512, scale: int = 64, examples: int = 400) -> Figure:
    """Draw `distance_coverage` at a scale where sigma matters (protocols 1.3), in a small window.

    CREAM with the means of both releases, sigma grown with the scale and a uniform middle, beside
    PoSE.
    """
    samplers = {
        "pose": sampler("pose", window, scale),
        "cream": sampler("cream", window, scale),
        "mean 9": sampler("cream", window, scale, mean=9.0),
        "sigma grown": sampler("cream", window, scale, sigma=3 * scale / 8),
        "uniform": sampler("cream", window, scale, middle="uniform"),
    }
    return distance_coverage(samplers, window * scale, examples, said=f", s = {scale}")


@printed
def distance_coverage(
    samplers: Mapping[str, Sampler],
    num_tokens: int,
    examples: int = 300,
    bins: int = 8,
    said: str = "",
) -> Figure:
    """Draw which relative distances training ever sees, by method.

    Left: the share of distances 1 .. L-1 seen after so many examples. Right: the share of token
    pairs in each range of distances; the first range is what the model knew before. `said` follows
    the titles.
    """
    figure, axes = sheet(7.2, 3.4, 1, 2)
    left, right = axes[0]
    methods, edges = in_order(samplers), np.arange(bins)
    for place, method in enumerate(methods):
        look, draw = style(method), samplers[method]
        shares, mass = _coverage_and_mass(draw, num_tokens, examples, bins)
        left.plot(np.arange(1, examples + 1), 100 * shares, color=look.color, linestyle=look.line,
                  marker=look.marker, markevery=_decades(examples), label=look.label)  # fmt: skip
        mass[mass == 0] = np.nan  # no place on a log scale
        shift = 0.06 * (place - (len(methods) - 1) / 2)
        right.plot(edges + 0.5 + shift, 100 * mass, color=look.color, linestyle=look.line,
                   marker=look.marker, markerfacecolor="white")  # fmt: skip
    left.set_xscale("log")
    left.xaxis.set_major_formatter("{x:g}")
    left.set_ylim(0, 104)
    right.set_yscale("log")
    right.set_ylim(0.05, 130)
    right.yaxis.set_major_formatter("{x:g}")
    widest = max(each.scale for each in samplers.values())
    right.set_xticks(range(bins + 1), [times_n(widest * k / bins) for k in range(bins + 1)])
    finish(left, f"Distances seen{said}", "examples read", "of the distances 1 … L − 1 (%)")
    finish(right, f"Where the token pairs lie{said}", "relative distance", "of all token pairs (%)")
    legend(figure)
    return figure


def _coverage_and_mass(
    draw: Sampler, num_tokens: int, examples: int, bins: int
) -> tuple[np.ndarray, np.ndarray]:
    """`cumulative_coverage` and `pair_mass` of the same draws, made once."""
    total, shares = np.zeros(draw.target_length, dtype=np.int64), []
    last, counts = None, total
    for index in range(examples):
        positions = draw.draw(num_tokens, 0, 0, index).positions
        if not np.array_equal(positions, last):  # plain and full assign the same each time
            last, counts = positions, distance_counts(positions, draw.target_length)
        total += counts
        shares.append((total[1:] > 0).mean())
    total[0] = 0
    edges = np.arange(bins) * draw.target_length // bins
    return np.array(shares), np.add.reduceat(total, edges) / total.sum()


def _decades(examples: int) -> list[int]:
    marks = np.unique(np.geomspace(1, examples, 6).round().astype(int))
    return list(marks - 1)


@printed
def middle_histogram(
    window: int, scales: Sequence[int] = (8, 64), examples: int = 4000, seed: int = 0
) -> Figure:
    """Draw where CREAM's middle lands, for the means of both official releases.

    The paper's Figure 2 from the sampler itself: the centre of the middle as a share of L, a row a
    mode and a column a scale, with the mean 1 + s (bigai-nlco) and 9 whatever s is (wutong4012).
    The central third is shaded.
    """
    figure, axes = sheet(7.2, 4.4, 2, len(scales), sharex=True)
    for row, mode in zip(axes, ("relativity", "continuity"), strict=True):
        for panel, scale in zip(row, scales, strict=True):
            panel.axvspan(1 / 3, 2 / 3, color="#F1F1F1", zorder=0)
            panel.axvline(0.5, color=GREY, linewidth=0.6, zorder=1)
            ours = middle_centres(window, scale, mode, examples, seed, mean=1 + scale)
            theirs = middle_centres(window, scale, mode, examples, seed, mean=9)
            _share(panel, ours, style("cream").color, "mean 1 + s (bigai-nlco)", filled=True)
            _share(panel, theirs, "#08306B", "mean 9 (wutong4012)", filled=False)
            panel.set_xlim(0, 1)
            finish(panel, f"{mode}, s = {scale}")
    for panel in axes[-1]:
        panel.set_xlabel("centre of the middle, share of L")
    for row in axes:
        row[0].set_ylabel("of examples (%)")
    legend(figure)
    return figure


def _share(panel: Axes, centres: np.ndarray, color: str, name: str, filled: bool) -> None:
    bins, weights = np.linspace(0, 1, 61), np.full(len(centres), 100 / len(centres))
    if filled:
        panel.hist(centres, bins, weights=weights, color=color, alpha=0.55, label=name)
    else:
        panel.hist(centres, bins, weights=weights, histtype="step", color=color,
                   linestyle=(0, (2, 1)), linewidth=1.2, label=name)  # fmt: skip
