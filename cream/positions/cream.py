"""The CREAM sampler: head, truncated-Gaussian middle, tail (paper section 3, protocols 1.1).

`Cream` draws; below it lie functions without randomness, so that any published draw can be
replayed with `cream_indices`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
from scipy.special import ndtr

from cream.positions.base import GROUP_STREAM, MOST_WHOLE, Indices, Sampler, example_rng
from cream.utils.options import check_choice, check_flag, check_number, check_whole

__all__ = ["Cream", "alpha_probabilities", "continuity_ends", "cream_indices", "end_bounds"]


MODES = ("relativity", "continuity")


MIDDLES = ("clamped", "truncated", "uniform")


CONTENTS = ("tied", "free")


@dataclass(frozen=True)
class Cream(Sampler):
    """Head, truncated-Gaussian middle, tail (paper section 3, protocols 1.1), accidents mended.

    `mode` is "both" (a coin for each example), "relativity" (head = tail = N // 3) or "continuity"
    (head = tail = `ends` tokens, sN/1024 by default). `middle` is how alpha is drawn: "clamped"
    as released (the mass outside [2, 2s] falls on the ends), "truncated" (renormalised) or
    "uniform"; `mean` (1 + s by default) and `sigma` are in half windows. `mode_group` examples
    share a coin (1; the releases 3,000). `overlap` lets middle tokens repeat tail tokens, as the
    releases do.

    `content`: the middle's tokens are "tied" to its positions as released, so that a shorter
    document gives the same ones each time, or "free", anywhere between head and tail, as PoSE's. At
    scale 64 "free" read 75 % of our corpus, not 13 %, and perplexity at the target was 38, not 275
    (10_ablations: exploratory, text, 3 bases of 2 seeds).
    """

    mode: str = "both"
    ends: int | None = None
    middle: str = "clamped"
    mean: float | None = None
    sigma: float = 3.0
    mode_group: int = 1
    overlap: bool = False
    content: str = "tied"
    name: ClassVar[str] = "cream"

    def __post_init__(self) -> None:
        super().__post_init__()
        for mode in MODES if self.mode == "both" else (self.mode,):
            _end_length(self.window, self.scale, mode, self.ends)

    def _check_options(self) -> None:
        check_choice("mode", self.mode, ("both", *MODES))
        check_choice("middle", self.middle, MIDDLES)
        check_choice("content", self.content, CONTENTS)
        check_flag("overlap", self.overlap)
        if self.overlap and self.content == "free":
            raise ValueError("overlap is of content tied to positions; leave it out with free")
        check_whole("mode_group", self.mode_group, 1, MOST_WHOLE)
        if self.ends is not None:
            check_whole("ends", self.ends, 1)
        check_number("sigma", self.sigma, 1e-3, 1e6, note="in half windows, the paper's 3")
        if self.mean is not None:
            reach = f"in half windows, of which there are {2 * self.scale}"
            check_number("mean", self.mean, -1e6, 1e6, note=reach)
        self._refuse_unread()
        self._check_mass()

    def _refuse_unread(self) -> None:
        """Refuse options that nothing would read: a sweep over one would have equal numbers."""
        mode, middle = self.mode, self.middle
        unread = [
            ("ends", self.ends is not None and mode == "relativity",
             "mode 'relativity' has ends of window // 3: choose mode 'both' or 'continuity'"),
            ("mode_group", self.mode_group > 1 and mode != "both",
             f"mode {mode!r} throws no coin: choose mode 'both'"),
            ("mean", self.mean is not None and middle == "uniform",
             "middle 'uniform' has no Gaussian: choose 'clamped' or 'truncated'"),
            ("sigma", self.sigma != type(self).sigma and middle == "uniform",
             "middle 'uniform' has no Gaussian: choose 'clamped' or 'truncated'"),
        ]  # fmt: skip
        for name, given, why in unread:
            if given:
                raise ValueError(f"{name} is {getattr(self, name)!r}, but {why}, or leave it out")

    def _check_mass(self) -> None:
        """Refuse a Gaussian none of which lies where a truncated one is drawn from."""
        mean = 1 + self.scale if self.mean is None else self.mean
        low, high = ndtr((np.array([2.0, 2.0 * self.scale]) - mean) / self.sigma)
        if self.middle == "truncated" and high - low < 1e-9:
            raise ValueError(
                f"mean is {mean} and sigma {self.sigma}: nothing of this Gaussian lies in [2, "
                f"{2 * self.scale}], from which middle 'truncated' draws; bring mean nearer"
            )

    def _draw(self, num_tokens: int, rng: np.random.Generator) -> Indices:
        mode = MODES[int(rng.integers(2))] if self.mode == "both" else self.mode
        return self._draw_mode(num_tokens, mode, rng)

    def draw(self, num_tokens: int, seed: int, epoch: int, index: int) -> Indices:
        """Draw example `index` of an epoch; with `mode_group` > 1 its group throws the coin."""
        if self.mode != "both" or self.mode_group == 1 or num_tokens < self.window:
            return super().draw(num_tokens, seed, epoch, index)
        coin = example_rng(seed, epoch, index // self.mode_group, GROUP_STREAM)
        mode = MODES[int(coin.integers(2))]
        return self._draw_mode(num_tokens, mode, example_rng(seed, epoch, index))

    def _draw_mode(self, num_tokens: int, mode: str, rng: np.random.Generator) -> Indices:
        mean = 1 + self.scale if self.mean is None else self.mean
        alpha_index = _alpha_index(rng.random(), self.scale, self.middle, mean, self.sigma)
        ends = _end_length(self.window, self.scale, mode, self.ends)
        low, high = end_bounds(self.window, self.scale, ends, alpha_index)
        end = int(rng.integers(low, high, endpoint=True))
        token_end = _tied_end(num_tokens, ends, end, self.overlap)
        if self.content == "free":
            token_end = int(rng.integers(self.window - ends - 1, num_tokens - ends))
        return _cream_indices(self.window, self.scale, num_tokens, ends, end, token_end)


def continuity_ends(window: int, scale: int) -> int:
    """Tokens of head and of tail in continuity mode: sN/1024, the release's 4s at N = 4,096."""
    return max(1, scale * window // 1024)


def end_bounds(window: int, scale: int, ends: int, alpha_index: int) -> tuple[int, int]:
    """First and last position, inclusive, at which the middle may end (protocols 1.1).

    `alpha_index` is 2 alpha, a whole number in [2, 2s]. An odd product is floored: the releases
    crash there.
    """
    length = window - 2 * ends
    return ends + (length - 1) * alpha_index // 2, window * alpha_index // 2 - ends - 1


def cream_indices(
    window: int,
    scale: int,
    num_tokens: int,
    mode: str,
    alpha_index: int,
    end: int,
    *,
    ends: int | None = None,
    overlap: bool = False,
) -> Indices:
    """Replay one CREAM draw: `end` is the last position of the middle (protocols 1.1).

    ValueError when `alpha_index` or `end` could not have been drawn, or the document is shorter
    than the window.
    """
    check_choice("mode", mode, MODES)
    length = _end_length(window, scale, mode, ends)
    if not 2 <= alpha_index <= 2 * scale:
        raise ValueError(f"alpha_index is {alpha_index}; scale {scale} draws 2 to {2 * scale}")
    low, high = end_bounds(window, scale, length, alpha_index)
    if not low <= end <= high:
        raise ValueError(f"end is {end}; alpha_index {alpha_index} draws {low} to {high}")
    if num_tokens < window:
        raise ValueError(f"the document has {num_tokens} tokens; the window takes {window}")
    token_end = _tied_end(num_tokens, length, end, overlap)
    return _cream_indices(window, scale, num_tokens, length, end, token_end)


def _tied_end(num_tokens: int, ends: int, end: int, overlap: bool) -> int:
    """The middle's last token: that of its last position, else the one before the tail."""
    # Past this the middle would repeat tokens of the tail (releases: past the document's end).
    last_token = num_tokens - 1 if overlap else num_tokens - ends - 1
    return end if end <= last_token else num_tokens - ends - 1


def _cream_indices(
    window: int, scale: int, num_tokens: int, ends: int, end: int, token_end: int
) -> Indices:
    length = window - 2 * ends
    tokens, positions = np.arange(window), np.arange(window)
    positions[ends:-ends] += end - length + 1 - ends
    tokens[ends:-ends] += token_end - length + 1 - ends
    positions[-ends:] += (scale - 1) * window
    tokens[-ends:] += num_tokens - window
    return Indices(tokens, positions)


@lru_cache(maxsize=256)
def _alpha_grid(scale: int, mean: float, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    grid = np.linspace(2, 2 * scale, 1000)
    return grid, ndtr((grid - mean) / sigma)


def _alpha_index(uniform: float, scale: int, middle: str, mean: float, sigma: float) -> int:
    if middle == "uniform":
        return 2 + int(uniform * (2 * scale - 1))
    grid, cdf = _alpha_grid(scale, mean, sigma)
    if middle == "truncated":
        uniform = cdf[0] + uniform * (cdf[-1] - cdf[0])
    return int(np.interp(uniform, cdf, grid))


def alpha_probabilities(
    scale: int, middle: str = "clamped", mean: float | None = None, sigma: float = 3.0
) -> np.ndarray:
    """Probability of each alpha index 2 .. 2s, shape `(2s - 1,)` (protocols 1.1)."""
    check_choice("middle", middle, MIDDLES)
    if middle == "uniform":
        return np.full(2 * scale - 1, 1 / (2 * scale - 1))
    cdf = ndtr((np.arange(2, 2 * scale + 1) - (1 + scale if mean is None else mean)) / sigma)
    if middle == "truncated":
        cdf = (cdf - cdf[0]) / (cdf[-1] - cdf[0])
    return np.diff(np.concatenate([[0.0], cdf[1:-1], [cdf[-1], 1.0]]))


def _end_length(window: int, scale: int, mode: str, ends: int | None) -> int:
    if mode == "relativity":
        length, what = window // 3, "window // 3"
    else:
        length, what = (continuity_ends(window, scale), "scale * window / 1024")
        if ends is not None:
            length, what = ends, "ends"
    if not 1 <= length <= (window - 1) // 2:
        raise ValueError(
            f"{mode} ends of {length} tokens ({what}) leave no middle in a window of {window}; "
            f"choose ends between 1 and {(window - 1) // 2}, a smaller scale or a larger window"
        )
    return length
