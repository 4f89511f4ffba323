"""CLEX's sampler: N tokens at real-valued positions over N t, t drawn for each forward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cream.positions.base import MOST_WHOLE, Indices, Sampler
from cream.utils.options import check_flag, check_whole

__all__ = ["Clex"]


@dataclass(frozen=True)
class Clex(Sampler):
    """The first n tokens at sorted positions drawn from [0, N t) for a random factor t (CLEX).

    t is drawn from `least` .. s (arXiv 2310.16450; the code of 2023-10 drew from 2 on). With
    k = n / N rounded up the positions are 0, n - 2 distinct ones of {1 .. k N t - 2} / k, and
    (k N t - 1) / k: whole numbers up to n = N, else multiples of 1 / k. `official` draws as the
    released code does. It rounds k down, so it reaches N t only where n is a multiple of N, and it
    ends at floor(n t / k) - 1, which for k >= 3 can lie below the position before it. `tokens` is
    n, N by default. `shared`: all examples of one forward pass have the same t and positions, as
    published; else each has its own.
    """

    tokens: int | None = None
    least: int = 1
    official: bool = False
    shared: bool = True
    name: ClassVar[str] = "clex"

    def _check_options(self) -> None:
        check_whole("least", self.least, 1, MOST_WHOLE)
        if self.least > self.scale:
            raise ValueError(f"least is {self.least}; t is drawn from it up to {self.scale}")
        for name in ("official", "shared"):
            check_flag(name, getattr(self, name))
        if self.tokens is not None:
            check_whole("tokens", self.tokens, 3, MOST_WHOLE)

    @property
    def example_length(self) -> int:
        """The tokens of an example: `tokens`, or N."""
        return self.window if self.tokens is None else self.tokens

    @property
    def min_tokens(self) -> int:
        """A document has an example's tokens at least."""
        return self.example_length

    @property
    def compression(self) -> int:
        """k: how many positions that can be drawn lie within 1."""
        if self.official:
            return max(1, self.min_tokens // self.window)
        return -(-self.min_tokens // self.window)

    @property
    def _places(self) -> int:
        """How many positions can be drawn at t = 1."""
        return self.min_tokens if self.official else self.compression * self.window

    def factor(self, positions: np.ndarray) -> int:
        """Return the t that positions were drawn at."""
        return round(float(positions[-1] + 1) * self.compression / self._places)

    def _draw(self, num_tokens: int, rng: np.random.Generator) -> Indices:
        t = int(rng.integers(self.least, self.scale + 1))
        length = self.min_tokens
        chosen = rng.choice(self._places * t - 2, length - 2, replace=False, shuffle=False)
        return Indices(np.arange(length), self.positions_of(t, np.sort(chosen)))

    def positions_of(self, t: int, chosen: np.ndarray) -> np.ndarray:
        """Return the positions that n - 2 sorted numbers give at t, (n,).

        The numbers lie in {0 .. k N t - 3}, those of `official` in {0 .. n t - 3}.
        """
        most, k = self._places * t, self.compression
        whole = np.concatenate([[0], chosen + 1, [most - 1]])
        if k == 1:
            return whole
        places = whole / k
        if self.official:
            places[-1] = most // k - 1
        return places
