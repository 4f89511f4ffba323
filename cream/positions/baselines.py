"""The samplers that CREAM is compared with: plain, full length, RandPos, PoSE and others.

`pose_indices` replays one PoSE draw without randomness.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cream.positions.base import MOST_WHOLE, Indices, Sampler
from cream.utils.options import check_flag, check_whole

__all__ = ["EndPrompt", "Full", "Plain", "PoSE", "RandPos", "pose_indices"]


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
    def example_length(self) -> int:
        """A full-length example has L tokens."""
        return self.target_length

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
class EndPrompt(Sampler):
    """The head at positions 0 to N-e-1 and the last e tokens at L-e to L-1 (arXiv 2605.14589).

    No middle and no randomness: CREAM's head and tail alone. `tail` is e; the paper puts a fixed
    terminal prompt of 18 to 20 tokens there, whose text was not seen, and here it is the document's
    own tail. Its budget: 1B tokens at 8,192, lr 2e-5 constant, 64 sequences, position
    interpolation, Llama-3-8B to 64K. It claims 76.03 on RULER, full-length training 69.23. At s = 8
    a quarter of all distances is ever seen, however many the examples.
    """

    tail: int = 20
    name: ClassVar[str] = "endprompt"

    def _check_options(self) -> None:
        check_whole("tail", self.tail, 1, MOST_WHOLE)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tail >= self.window:
            raise ValueError(
                f"tail is {self.tail}; it must leave a head in the window of {self.window}"
            )

    def _draw(self, num_tokens: int, rng: np.random.Generator) -> Indices:
        tokens, positions = np.arange(self.window), np.arange(self.window)
        tokens[-self.tail :] += num_tokens - self.window
        positions[-self.tail :] += self.target_length - self.window
        return Indices(tokens, positions)


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

    def _check_options(self) -> None:
        check_flag("first_shift", self.first_shift)
        if self.content_windows is not None:
            check_whole("content_windows", self.content_windows, 1, MOST_WHOLE)

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
