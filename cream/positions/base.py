"""What every sampler shares: a window, a scale, and the generator of one example.

Pure functions of numbers: no tensors, no files, no global random state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from cream.utils.options import check_whole

__all__ = ["Indices", "Sampler", "example_rng"]


MOST_POSITIONS = 2**31 - 1  # what kernels count with


MOST_WHOLE = 10**9


EXAMPLE_STREAM, GROUP_STREAM, PERMUTATION_STREAM, FORWARD_STREAM = 0, 1, 2, 3


class Indices(NamedTuple):
    """Tokens of a document and the positions they are assigned, int64 `(window,)` each."""

    tokens: np.ndarray
    positions: np.ndarray


def example_rng(
    seed: int, epoch: int, index: int, stream: int = EXAMPLE_STREAM
) -> np.random.Generator:
    """Return the generator of one example, a function of its three numbers and of nothing else.

    Philox is counter-based: workers, processes, order and resumption cannot change a draw.
    """
    for name, value in (("seed", seed), ("epoch", epoch), ("index", index)):
        check_whole(name, value, 0, 2**64 - 1)
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
        check_whole("window", self.window, 2)
        check_whole("scale", self.scale, self.min_scale)
        if self.target_length > MOST_POSITIONS:
            raise ValueError(
                f"scale is {self.scale} and the window {self.window}: a target length of at most "
                f"{MOST_POSITIONS:,} positions can be assigned, so choose a smaller scale"
            )
        self._check_options()

    def _check_options(self) -> None:
        """Refuse (ValueError) options of the wrong kind or out of range."""

    @property
    def target_length(self) -> int:
        """L = s x N, the number of positions the model is extended to."""
        return self.window * self.scale

    @property
    def example_length(self) -> int:
        """How many tokens an example has: N, and L for full length."""
        return self.window

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
