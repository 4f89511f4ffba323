"""What a sampler's draws reach: relative distances, their share of token pairs, the middle's place.

Measured from draws, never from formulas, so that the numbers speak of the code that trains.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from scipy import fft

from cream.positions.base import Indices, Sampler
from cream.positions.cream import continuity_ends
from cream.positions.registry import sampler

__all__ = [
    "answerable",
    "cumulative_coverage",
    "distance_counts",
    "middle_centres",
    "pair_mass",
    "single_coverage",
    "total_counts",
]


def distance_counts(positions: np.ndarray, target_length: int) -> np.ndarray:
    """Return how many token pairs stand at each distance 0 .. L-1: int64, shape (L,).

    The autocorrelation of the assigned positions, exact: from the ends of their runs where these
    are few, as CREAM's and PoSE's are, otherwise by a transform whose counts are rounded.
    """
    return total_counts([positions], target_length)


def total_counts(drawn: Iterable[np.ndarray], target_length: int) -> np.ndarray:
    """Return the sum of `distance_counts` over many examples' positions: int64, shape (L,)."""
    total, bends = np.zeros((2, target_length), dtype=np.int64)
    tokens = 0
    for positions in drawn:
        ends, signs = _ends(positions)
        if len(ends) ** 2 > 4 * target_length:
            total += _transformed(positions, target_length)
            continue
        # The second difference of an autocorrelation is minus that of its steps.
        apart = (ends[None, :] - ends[:, None]).ravel()
        inside = (apart > 0) & (apart < target_length)
        np.subtract.at(bends, apart[inside], np.outer(signs, signs).ravel()[inside])
        bends[0] -= len(ends) // 2  # the slope from distance 0 to 1: a pair less a run
        tokens -= int((ends * signs).sum())
    rest = np.cumsum(np.cumsum(bends)) + tokens
    return total + np.concatenate([[tokens], rest[:-1]])


def _ends(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where runs of positions begin (sign 1) and the places behind their ends (sign -1)."""
    assigned = np.unique(positions)
    last = np.flatnonzero(np.diff(assigned) != 1)
    begins = assigned[np.concatenate([[0], last + 1])]
    behind = assigned[np.concatenate([last, [-1]])] + 1
    return np.concatenate([begins, behind]), np.repeat([1, -1], len(begins))


def _transformed(positions: np.ndarray, target_length: int) -> np.ndarray:
    """`distance_counts` by a Fourier transform."""
    assigned = np.zeros(target_length)
    assigned[positions] = 1
    size = fft.next_fast_len(2 * target_length, real=True)
    spectrum = fft.rfft(assigned, size)
    counts = fft.irfft(spectrum.real**2 + spectrum.imag**2, size)[:target_length]
    return np.rint(counts).astype(np.int64)


def _counts(draw: Sampler, num_tokens: int, examples: int, seed: int) -> Iterator[np.ndarray]:
    for index in range(examples):
        positions = draw.draw(num_tokens, seed, 0, index).positions
        yield distance_counts(positions, draw.target_length)


def single_coverage(draw: Sampler, num_tokens: int, examples: int, seed: int = 0) -> np.ndarray:
    """Return the share of distances 1 .. L-1 that each example shows, shape (examples,)."""
    return np.array([(c[1:] > 0).mean() for c in _counts(draw, num_tokens, examples, seed)])


def cumulative_coverage(draw: Sampler, num_tokens: int, examples: int, seed: int = 0) -> np.ndarray:
    """Return the share of distances 1 .. L-1 seen in the first k examples, shape (examples,)."""
    seen = np.zeros(draw.target_length, dtype=bool)
    shares = []
    for counts in _counts(draw, num_tokens, examples, seed):
        seen |= counts > 0
        shares.append(seen[1:].mean())
    return np.array(shares)


def pair_mass(
    draw: Sampler, num_tokens: int, examples: int, bins: int = 8, seed: int = 0
) -> np.ndarray:
    """Return the share of token pairs in each of `bins` equal ranges of distance, shape (bins,)."""
    total = np.zeros(draw.target_length, dtype=np.int64)
    for counts in _counts(draw, num_tokens, examples, seed):
        total += counts
    total[0] = 0
    edges = np.arange(bins) * draw.target_length // bins
    return np.add.reduceat(total, edges) / total.sum()


def middle_centres(
    window: int, scale: int, mode: str, examples: int, seed: int = 0, **options: object
) -> np.ndarray:
    """Return where CREAM's middle is centred, as a share of L, shape (examples,).

    `mode` is "relativity" or "continuity"; `options` are those of the sampler (`mean`, ...).
    """
    draw = sampler("cream", window, scale, mode=mode, **options)
    first = window // 3 if mode == "relativity" else draw.ends or continuity_ends(window, scale)
    places = (draw.draw(window, seed, 0, index).positions for index in range(examples))
    return np.array([(p[first] + p[-first - 1]) / 2 for p in places]) / draw.target_length


def answerable(
    indices: Indices, questions: np.ndarray, records: np.ndarray, num_tokens: int
) -> np.ndarray:
    """Return the assigned distance of every query that a window can answer, int64 (answerable,).

    `study.scoring` are token spans (queries, 3): start, first token of the answer, end;
    `data.retrieval.records` those of what each asks for, (queries, 2). A window can answer a query
    if it holds all tokens of both; the distance is from the record's last token to the answer's
    first.
    """
    place = np.full(num_tokens + 1, -1)
    place[indices.tokens] = np.arange(len(indices.tokens))
    held = np.concatenate([[0], np.cumsum(place[:num_tokens] >= 0)])
    whole = [held[e] - held[s] == e - s for s, e in (questions[:, [0, 2]].T, records.T)]
    asked = whole[0] & whole[1]
    last, first = place[records[asked, 1] - 1], place[questions[asked, 1]]
    return indices.positions[first] - indices.positions[last]
