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
# What is read behind a beginning is read for all rows at once and under a mask, which takes a card
# more than twice as long and holds a number for every token and key.
_SHORT_TAIL = 256  # tokens


class Batch(NamedTuple):
    """Prompts decoded together; of each, so many tokens as `shared` says are read before.

    Those that agree in these tokens stand together, and their common beginning is read once.
    """

    indices: list[int]
    shared: list[int]


@dataclass
class _Draft:
    """A batch in the making: `heads` beginnings, and behind them `tail` tokens of every row.

    `ends` has for each row the length of the longest with its beginning, which is read but for
    `tail` tokens. `alone`: tokens if not joined.
    """

    indices: list[int]
    ends: list[int]
    heads: int
    tail: int
    alone: int

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return max(self.ends)

    @property
    def tokens(self) -> int:
        """The most tokens that go through the model until the first new one, padding included."""
        return self.heads * (self.longest - self.tail) + len(self.indices) * self.tail

    def wastes(self, most: float) -> bool:
        """Whether more is read, or held, than `most` times what is if not joined."""
        held = len(self.ends) * self.longest
        return self.tokens > most * self.alone or held > most * sum(self.ends)

    @property
    def batch(self) -> Batch:
        """What is decoded together."""
        return Batch(self.indices, [max(0, end - self.tail) for end in self.ends])

    def joined(self, other: _Draft) -> _Draft:
        """Return this batch with another one's rows."""
        return _Draft(
            [*self.indices, *other.indices],
            [*self.ends, *other.ends],
            self.heads + other.heads,
            max(self.tail, other.tail),
            self.alone + other.alone,
        )


def plan(
    ids: Sequence[Sequence[int]],
    limit: Callable[..., int],
    share: bool = True,
    waste: float = 0.25,
    most_tokens: int | None = None,
) -> list[Batch]:
    """Group prompts, longest first, and last those of which much is read for all rows at once.

    `limit` says how many rows of so many tokens a batch may have, the last so many of which (its
    second argument) are read for all rows at once. With `share`, prompts that are nearly the same
    to their end read their common beginning once, and others all but their last token before, so
    that little is read for all rows at once; without, prompts are padded on the left. Prompts are
    joined as long as a batch reads and holds at most `waste` more tokens than its parts would
    alone, and reads not more than `most_tokens`; not where one of them would be read for all rows
    at once from 256 tokens earlier on.
    """
    rows = [np.asarray(row, dtype=np.int64) for row in ids]
    drafts: list[_Draft] = []
    for part in _parts(rows, limit, share):
        if drafts:
            joined = drafts[-1].joined(part)
            few = joined.tokens <= (most_tokens or math.inf) and not joined.wastes(1 + waste)
            alike = not share or abs(drafts[-1].tail - part.tail) <= _SHORT_TAIL
            if few and alike and len(joined.indices) <= limit(joined.longest, joined.tail):
                drafts[-1] = joined
                continue
        drafts.append(part)
    return [one.batch for one in drafts]


def _parts(rows: Sequence[np.ndarray], limit: Callable[..., int], share: bool) -> list[_Draft]:
    """What stays together: prompts with a common beginning, as many as fit, and single ones."""
    groups = shared_prefixes(rows) if share else []
    grouped = {index for indices, _ in groups for index in indices}
    drafts = []
    for indices, shared in groups:
        longest = max(len(rows[i]) for i in indices)
        most = limit(longest, longest - shared)
        for start in range(0, len(indices), most):
            drafts.append(_draft(rows, indices[start : start + most], shared))
    for index in set(range(len(rows))) - grouped:
        drafts.append(_draft(rows, [index], len(rows[index]) - 1 if share else 0))
    late = _SHORT_TAIL if share else math.inf  # those that join no others do not stand between them
    return sorted(drafts, key=lambda one: (one.tail > late, -one.longest, one.tail, one.indices))


def _draft(rows: Sequence[np.ndarray], indices: list[int], shared: int) -> _Draft:
    longest = max(len(rows[i]) for i in indices)
    tail = longest - shared
    return _Draft(indices, [longest] * len(indices), 1, tail, shared + len(indices) * tail)


def shared_prefixes(ids: Sequence[Sequence[int]]) -> list[tuple[list[int], int]]:
    """Find groups of two or more prompts that share nearly all of their tokens from the start.

    That is all but a sixteenth of the longest, or all but a quarter where that is 256 tokens or
    less. A group is its prompts and how many tokens they share, which leaves each at least its
    last.
    """
    rows = [np.asarray(row, dtype=np.int64) for row in ids]
    order = sorted(range(len(rows)), key=lambda i: rows[i].astype(">u8").tobytes())
    groups: list[tuple[list[int], int]] = []
    longest = 0
    for index in order:
        row = rows[index]
        if groups:
            indices, shared = groups[-1]
            common = min(shared, _common(rows[indices[0]], row), len(row) - 1)
            most = max(longest, len(row))
            if common >= max(_LEAST_SHARED, most - max(most / 16, min(most / 4, _SHORT_TAIL))):
                groups[-1] = [*indices, index], common
                longest = max(longest, len(row))
                continue
        groups.append(([index], len(row) - 1))
        longest = len(row)
    return [group for group in groups if len(group[0]) > 1]


def _common(first: np.ndarray, second: np.ndarray) -> int:
    """How many tokens two prompts have in common from the start."""
    least = min(len(first), len(second))
    differs = first[:least] != second[:least]
    return int(differs.argmax()) if differs.any() else least
