"""What every sampler shares: a window, a scale, and the generator of one example.

Pure functions of numbers: no tensors, no files, no global random state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

__all__ = ["Indices", "Sampler", "check_choice", "check_whole", "example_rng"]


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
        check_whole("window", self.window, 2)
        check_whole("scale", self.scale, self.min_scale)

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


def check_whole(name: str, value: int, least: int) -> None:
    """Refuse (ValueError) a value that is no whole number of at least `least`."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < least:
        raise ValueError(f"{name} is {value!r}; it must be a whole number of at least {least}")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse (ValueError) a value that is none of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; choose one of {', '.join(choices)}")
