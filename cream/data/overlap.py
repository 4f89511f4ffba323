"""What held-out documents share with training: runs of 13 tokens that stand in both.

What belongs here: counting, over token ids, for a corpus's manifest. Licence headers, imports and
tables make some overlap between any two packages; a copied file would make nearly all.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np

__all__ = ["GRAM", "shared_grams"]

GRAM = 13
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd: an id's power series modulo 2^64 is a good hash


class _Documents(Protocol):
    def __len__(self) -> int: ...

    def tokens(self, index: int) -> np.ndarray: ...

    def column(self, name: str) -> list[str]: ...


def shared_grams(splits: Mapping[str, _Documents], n: int = GRAM) -> list[dict[str, Any]]:
    """Return, a source and kind held out, how many of its different n-grams training has.

    Grams are compared by a 64-bit hash, so that about one in 10^11 counts by accident.
    """
    held = [
        (name, *key, np.unique(_hashes(opened, indices, n)))
        for name, opened in splits.items() if name != "train"
        for key, indices in _by_source(opened).items()
    ]  # fmt: skip
    known = [np.zeros(len(grams), dtype=bool) for *_, grams in held]
    if "train" in splits:
        train = splits["train"]
        for index in range(len(train)):
            found = np.unique(_hashes(train, [index], n))
            for seen, (*_, grams) in zip(known, held, strict=True):
                seen |= _contains(found, grams)
    return [
        {"split": split, "source": source, "kind": kind, "n": n, "grams": len(grams),
         "shared": int(seen.sum()), "share": round(float(seen.mean()), 4) if len(grams) else 0.0}
        for (split, source, kind, grams), seen in zip(held, known, strict=True)
    ]  # fmt: skip


def _contains(known: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Which of the sorted `wanted` are in the sorted `known`, which is the shorter as a rule."""
    found = np.zeros(len(wanted), dtype=bool)
    if len(wanted) and len(known):
        places = np.minimum(np.searchsorted(wanted, known), len(wanted) - 1)
        found[places[wanted[places] == known]] = True
    return found


def _by_source(opened: _Documents) -> dict[tuple[str, str], list[int]]:
    found: dict[tuple[str, str], list[int]] = {}
    for index, key in enumerate(zip(opened.column("source"), opened.column("kind"), strict=True)):
        found.setdefault(key, []).append(index)
    return found


def _hashes(opened: _Documents, indices: list[int], n: int) -> np.ndarray:
    parts = list(_each(opened, indices, n))
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.uint64)


def _each(opened: _Documents, indices: list[int], n: int) -> Iterator[np.ndarray]:
    for index in indices:
        ids = opened.tokens(index).astype(np.uint64) + np.uint64(1)
        count = len(ids) - n + 1
        if count < 1:
            continue
        value = np.zeros(count, dtype=np.uint64)
        for place in range(n):
            value = value * _FACTOR + ids[place : place + count]
        yield value ^ (value >> np.uint64(29))
