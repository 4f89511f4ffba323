"""Matrices of parameters, of which the fast set takes a few cells and `make test` takes all.

A test marked `thinned` has several `parametrize`. Cells that are not needed to have every line of
each of them once are marked `slow`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence

import pytest


def thin(items: Sequence[pytest.Item]) -> None:
    """Mark as slow what the fast set needs not; cells slow already or for a card are left alone."""
    for cells in matrices(items).values():
        kept = representatives([lines(cell) for cell in cells])
        for place, cell in enumerate(cells):
            if place not in kept:
                cell.add_marker("slow")


def matrices(items: Sequence[pytest.Item]) -> dict[str, list[pytest.Item]]:
    """Return the cells of each thinned test, but for those slow by themselves and for a card."""
    found: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        apart = {mark.name for mark in item.iter_markers()} & {"slow", "gpu"}
        if item.get_closest_marker("thinned") and not apart:
            found[item.nodeid.partition("[")[0]].append(item)
    return found


def lines(cell: pytest.Item) -> set[Hashable]:
    """Return which line of each `parametrize` a cell has; arguments of one line go together."""
    found = set()
    for mark in cell.iter_markers("parametrize"):
        names = mark.args[0].split(",") if isinstance(mark.args[0], str) else mark.args[0]
        names = tuple(name.strip() for name in names)
        found.add((names, repr([cell.callspec.params[name] for name in names])))
    return found


def representatives(cells: Sequence[set[Hashable]]) -> set[int]:
    """Return the places of few cells that have every line between them, each about as often."""
    taken, kept = Counter(), set()
    missing = set().union(*cells)
    while missing:
        worth = [(len(cell & missing), -sum(taken[line] for line in cell)) for cell in cells]
        place = worth.index(max(worth))
        kept.add(place)
        taken.update(cells[place])
        missing -= cells[place]
    return kept
