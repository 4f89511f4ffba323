"""Index samplers: which tokens of a document are read, and the positions they are told.

Everything here is a pure function of numbers: no tensors, no files, no global random state. A
sampler is made by `sampler(name, window, scale, **options)` and drawn from by document length:

    draw = sampler("cream", window=4096, scale=8)
    tokens, positions = draw(num_tokens=20_000, rng=example_rng(seed=0, epoch=0, index=17))

Below the samplers lie functions without randomness (`cream_indices`, `pose_indices`), so that any
published draw can be replayed.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, NamedTuple

import numpy as np
from scipy.special import ndtr

__all__ = [
    "METHODS",
    "RELEASES",
    "Indices",
    "Sampler",
    "alpha_probabilities",
    "continuity_ends",
    "cream_indices",
    "end_bounds",
    "example_rng",
    "pose_indices",
    "sampler",
]

MODES = ("relativity", "continuity")
MIDDLES = ("clamped", "truncated", "uniform")
CONTENTS = ("tied", "free")
EXAMPLE_STREAM, GROUP_STREAM, PERMUTATION_STREAM = 0, 1, 2


class Indices(NamedTuple):
    """Which tokens of a document are read and where they are told to stand: int64 `(window,)`."""

    tokens: np.ndarray
    positions: np.ndarray


def example_rng(
    seed: int, epoch: int, index: int, stream: int = EXAMPLE_STREAM
) -> np.random.Generator:
    """Return the generator of one example, a function of its three numbers and of nothing else.

    Philox is counter-based: workers, processes, order and resumption cannot change a draw.
    """
    for name, value in (("seed", seed), ("epoch", epoch), ("index", index)):
        if value < 0:
            raise ValueError(f"{name} is {value}; it must be 0 or larger")
    key = np.array([seed, epoch], dtype=np.uint64)
    counter = np.array([0, 0, stream, index], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


@dataclass(frozen=True)
class Sampler:
    """What all samplers share: a window of N tokens, a scale s and the target length s x N."""

    window: int
    scale: int
    name: ClassVar[str]
    min_scale: ClassVar[int] = 2

    def __post_init__(self) -> None:
        _check_whole("window", self.window, 2)
        _check_whole("scale", self.scale, self.min_scale)

    @property
    def target_length(self) -> int:
        """L = s x N, the number of positions the model is extended to."""
        return self.window * self.scale

    @property
    def min_tokens(self) -> int:
        """The shortest document, in tokens, that can be drawn from."""
        return self.window

    def __call__(self, num_tokens: int, rng: np.random.Generator) -> Indices:
        """Draw from a document of `num_tokens` tokens; ValueError if it is too short."""
        if num_tokens < self.min_tokens:
            raise ValueError(
                f"the document has {num_tokens} tokens and {self.name} needs {self.min_tokens}; "
                "drop documents shorter than that before training"
            )
        return self._draw(num_tokens, rng)

    def draw(self, num_tokens: int, seed: int, epoch: int, index: int) -> Indices:
        """Draw example `index` of an epoch: the same numbers give the same indices anywhere."""
        return self(num_tokens, example_rng(seed, epoch, index))

    def _draw(self, num_tokens: int, rng: np.random.Generator) -> Indices:
        raise TypeError(f"{type(self).__name__} draws nothing by itself; use sampler(name, ...)")


@dataclass(frozen=True)
class Plain(Sampler):
    """The first N tokens at positions 0 to N-1: ordinary fine-tuning, nothing skipped."""

    name: ClassVar[str] = "plain"
    min_scale: ClassVar[int] = 1

    def _draw(self, num_tokens: int, rng: np.random.Generator) -> Indices:
        return Indices(np.arange(self.window), np.arange(self.window))


@dataclass(frozen=True)
class Full(Sampler):
    """The first L tokens at positions 0 to L-1: what skipped positions stand in for."""

    name: ClassVar[str] = "full"

    @property
    def min_tokens(self) -> int:
        """A full-length example takes a document of at least L tokens."""
        return self.target_length

    def _draw(self, num_tokens: int, rng: np.random.Generator) -> Indices:
        return Indices(np.arange(self.target_length), np.arange(self.target_length))


@dataclass(frozen=True)
class RandPos(Sampler):
    """The first N tokens at N sorted positions drawn from [0, L) (protocols 2.2)."""

    name: ClassVar[str] = "randpos"

    def _draw(self, num_tokens: int, rng: np.random.Generator) -> Indices:
        chosen = rng.choice(self.target_length, self.window, replace=False, shuffle=False)
        return Indices(np.arange(self.window), np.sort(chosen))


@dataclass(frozen=True)
class PoSE(Sampler):
    """Two chunks, the second shifted in the document and, on its own, in position (protocols 2.1).

    `first_shift` shifts the first chunk too, as in PoSE's first version. Content is taken from the
    first `content_windows` x N tokens of a document: s by default as in CREAM's comparison, 5 in
    PoSE's own code.
    """

    first_shift: bool = False
    content_windows: int | None = None
    name: ClassVar[str] = "pose"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.content_windows is not None:
            _check_whole("content_windows", self.content_windows, 1)

    def _draw(self, num_tokens: int, rng: np.random.Generator) -> Indices:
        reach = min(num_tokens, self.window * (self.content_windows or self.scale))
        longest_skip = self.target_length - self.window
        first_length = int(rng.integers(1, (self.window + 1) // 2, endpoint=True))
        content_end = int(rng.integers(self.window, reach, endpoint=True))
        first = int(rng.integers(0, longest_skip, endpoint=True)) if self.first_shift else 0
        second = int(rng.integers(first, longest_skip, endpoint=True))
        return pose_indices(self.window, first_length, content_end, first, second)


def pose_indices(
    window: int, first_length: int, content_end: int, first_shift: int, second_shift: int
) -> Indices:
    """Replay one PoSE draw (protocols 2.1).

    The first `first_length` tokens stand `first_shift` late; the rest of the window ends before
    token `content_end` of the document and stands `second_shift` late.
    """
    ours = np.arange(window)
    tokens = np.where(ours < first_length, ours, ours + content_end - window)
    return Indices(tokens, ours + np.where(ours < first_length, first_shift, second_shift))


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
        _check_choice("mode", self.mode, ("both", *MODES))
        _check_choice("middle", self.middle, MIDDLES)
        _check_choice("content", self.content, CONTENTS)
        if self.overlap and self.content == "free":
            raise ValueError("overlap is of content tied to positions; leave it out with free")
        _check_whole("mode_group", self.mode_group, 1)
        if not self.sigma > 0:
            raise ValueError(f"sigma is {self.sigma}; it must be larger than 0 (the paper: 3)")
        for mode in MODES if self.mode == "both" else (self.mode,):
            _end_length(self.window, self.scale, mode, self.ends)

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
    _check_choice("mode", mode, MODES)
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
    _check_choice("middle", middle, MIDDLES)
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


def _check_whole(name: str, value: int, least: int) -> None:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < least:
        raise ValueError(f"{name} is {value!r}; it must be a whole number of at least {least}")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; choose one of {', '.join(choices)}")


_SAMPLERS: dict[str, tuple[type[Sampler], dict]] = {
    "cream": (Cream, {}),
    "pose": (PoSE, {}),
    "pose-v1": (PoSE, {"first_shift": True}),
    "randpos": (RandPos, {}),
    "full": (Full, {}),
    "plain": (Plain, {}),
}

METHODS = tuple(_SAMPLERS)


def _release(scale: int, mean: int) -> dict:
    return {"ends": 4 * scale, "mean": mean, "mode_group": 3000, "overlap": True}


RELEASES = {
    # What each official code does at a scale, as options of `cream` (protocols 1.1 and 1.4).
    "bigai-nlco": lambda scale: _release(scale, 1 + scale),
    "wutong4012": lambda scale: _release(scale, 9),
}


def sampler(name: str, window: int, scale: int, **options: object) -> Sampler:
    """Make the sampler called `name` (one of METHODS) for a window N and a scale s.

    Options are the fields of the sampler's class; ValueError for an unknown name or option and
    for numbers that cannot work together.
    """
    _check_choice("method", name, METHODS)
    kind, preset = _SAMPLERS[name]
    known = {field.name for field in dataclasses.fields(kind)} - {"window", "scale", *preset}
    if unknown := sorted(set(options) - known):
        raise ValueError(
            f"{name} has no option {', '.join(unknown)}; it has: {', '.join(sorted(known)) or '-'}"
        )
    return kind(window, scale, **preset, **options)
