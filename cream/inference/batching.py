"""Which prompts are decoded together: by length, by what fits, and by what they have in common.

What belongs here: planning only, over token ids. `inference` does what is planned here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

__all__ = ["Batch", "plan", "shared_prefixes"]

_LEAST_SHARED = 32  # tokens; below this a beginning read once saves nothing


class Batch(NamedTuple):
    """Prompts decoded together, the first `shared` tokens of each read before, without padding.

    Those that agree in these tokens stand together, and their common beginning is read once.
    """

    indices: list[int]
    shared: int = 0


@dataclass
class _Draft:
    """A batch in the making: `heads` beginnings of `shared` tokens; `alone`: tokens if not joined.

    The tokens that a batch reads are its heads, and every row from there to the longest's end.
    """

    indices: list[int]
    heads: int
    shared: int
    longest: int
    alone: int

    @property
    def tokens(self) -> int:
        """Tokens that go through the model until the first new one."""
        return self.heads * self.shared + len(self.indices) * (self.longest - self.shared)

    def joined(self, other: _Draft) -> _Draft:
        """Return this batch with another one's rows."""
        return _Draft(
            [*self.indices, *other.indices],
            self.heads + other.heads,
            min(self.shared, other.shared),
            max(self.longest, other.longest),
            self.alone + other.alone,
        )


def plan(
    ids: Sequence[Sequence[int]],
    limit: Callable[..., int],
    share: bool = True,
    waste: float = 0.25,
    most_tokens: int | None = None,
) -> list[Batch]:
    """Group prompts, longest first, so that what does not fit fails at once.

    `limit` says how many rows of so many tokens a batch may have, the last so many of which (its
    second argument) are read for all rows at once. With `share`, prompts that are
    nearly the same to their end read their common beginning once, and what differs in length is
    padded behind what is read before; without, prompts are padded on the left. Prompts are joined
    as long as a batch reads at most `waste` more tokens than its parts would alone, and not more
    than `most_tokens`.
    """
    rows = [np.asarray(row, dtype=np.int64) for row in ids]
    drafts: list[_Draft] = []
    for part in _parts(rows, limit, share):
        if drafts:
            joined = drafts[-1].joined(part)
            enough = min((1 + waste) * joined.alone, most_tokens or math.inf)
            most = limit(joined.longest, joined.longest - joined.shared)
            if joined.tokens <= enough and len(joined.indices) <= most:
                drafts[-1] = joined
                continue
        drafts.append(part)
    return [Batch(one.indices, one.shared if len(one.indices) > 1 else 0) for one in drafts]


def _parts(rows: Sequence[np.ndarray], limit: Callable[..., int], share: bool) -> list[_Draft]:
    """What stays together: prompts with a common beginning, as many as fit, and single ones."""
    groups = shared_prefixes(rows) if share else []
    grouped = {index for group in groups for index in group.indices}
    drafts = []
    for indices, shared in groups:
        longest = max(len(rows[i]) for i in indices)
        most = limit(longest, longest - shared)
        for start in range(0, len(indices), most):
            drafts.append(_draft(rows, indices[start : start + most], shared))
    for index in set(range(len(rows))) - grouped:
        drafts.append(_draft(rows, [index], len(rows[index]) - 1 if share else 0))
    return sorted(drafts, key=lambda one: (-one.longest, -one.shared, one.indices))


def _draft(rows: Sequence[np.ndarray], indices: list[int], shared: int) -> _Draft:
    longest = max(len(rows[i]) for i in indices)
    alone = shared + len(indices) * (longest - shared)
    return _Draft(indices, 1, shared, longest, alone)


def shared_prefixes(ids: Sequence[Sequence[int]]) -> list[Batch]:
    """Find groups of two or more prompts that share three quarters of their tokens from the start.

    The shared part leaves every prompt at least its last token.
    """
    rows = [np.asarray(row, dtype=np.int64) for row in ids]
    order = sorted(range(len(rows)), key=lambda i: rows[i].astype(">u8").tobytes())
    groups: list[Batch] = []
    longest = 0
    for index in order:
        row = rows[index]
        if groups:
            indices, shared = groups[-1]
            common = min(shared, _common(rows[indices[0]], row), len(row) - 1)
            if common >= max(_LEAST_SHARED, 0.75 * max(longest, len(row))):
                groups[-1] = Batch([*indices, index], common)
                longest = max(longest, len(row))
                continue
        groups.append(Batch([index], len(row) - 1))
        longest = len(row)
    return [group for group in groups if len(group.indices) > 1]


def _common(first: np.ndarray, second: np.ndarray) -> int:
    """How many tokens two prompts have in common from the start."""
    least = min(len(first), len(second))
    differs = first[:least] != second[:least]
    return int(differs.argmax()) if differs.any() else least
