"""The figure of RoPE scalings: how much longer each makes every wavelength, by s and by t."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cream import rope
from cream.plots.style import GREY, finish, legend, note, printed, sheet
from cream.rope.scalings import Clex

__all__ = ["wavelengths"]


class _Look(NamedTuple):
    label: str
    color: str
    line: str | tuple


_LOOKS = {
    "none": _Look("none (RoPE)", "#222222", (0, (1, 1.4))),
    "linear": _Look("linear by s", "#4393C3", (0, (5, 1, 1, 1))),
    "ntk": _Look("NTK by s", "#01665E", (0, (8, 1.5))),
    "yarn": _Look("YaRN, revised, by s", "#B2182B", "-"),
    "yarn-original": _Look("YaRN, original, by s", "#F4A582", (0, (4, 1.5))),
    "clex": _Look("CLEX before training, t = s", "#B8A000", "-"),
    "cope": _Look("CoPE, any s", "#5AAE61", (0, (2, 1))),
}


@printed
def wavelengths(theta: float, dim: int, window: int, scales: Sequence[int] = (8, 64)) -> Figure:
    """Draw how many times longer each scaling makes the wavelengths of RoPE, a panel a scale.

    `dim` rotated dimensions give dim / 2 pairs, the fastest first. Pairs right of the dotted line
    turn less than once within N = `window`. CLEX is drawn as it begins, with W_down at 0: strong at
    t = s, pale at the t between 1 and s that are powers of 2.
    """
    figure, axes = sheet(7.2, 3.6, 1, len(scales), sharey=True)
    for panel, scale in zip(axes[0], scales, strict=True):
        _stretches(panel, theta, dim, window, scale)
        panel.set_yscale("log", base=2)
        panel.yaxis.set_major_formatter("{x:g}")
        panel.set_ylim(0.8, 4.5 * max(scales))
        finish(panel, f"s = {scale}", "pair of dimensions, fastest first")
    axes[0][0].set_ylabel("wavelength, times RoPE's")
    legend(figure)
    note(figure, "Above the axis: DroPE, 1e12 at every pair, and the last of CoPE, 1e9.")
    return figure


def _stretches(panel: Axes, theta: float, dim: int, window: int, scale: int) -> None:
    plain = rope.scaling("none").inv_freq(theta, dim, window)
    pairs = np.arange(dim // 2)
    panel.axvline(int((2 * np.pi / plain <= window).sum()) - 0.5, color=GREY, linewidth=0.8,
                  linestyle=(0, (1, 2)), zorder=1)  # fmt: skip
    for name, look in _LOOKS.items():
        kind = rope.scaling(name, scale)
        panel.plot(pairs, plain / kind.inv_freq(theta, dim, window), color=look.color,
                   linestyle=look.line, label=look.label)  # fmt: skip
    untrained = Clex(scale)
    for t in (2**k for k in range(1, int(np.log2(scale)))):
        panel.plot(pairs, plain / untrained.ntk(theta, dim, t), color=_LOOKS["clex"].color,
                   linewidth=0.7, alpha=0.5)  # fmt: skip
