"""The fast set of a thinned matrix: every line of each `parametrize`, in few cells."""

from __future__ import annotations

import itertools

import pytest
import thinning


@pytest.mark.parametrize("sizes", [(7,), (8, 7), (3, 7), (2, 3, 4), (1, 5)])
def test_every_line_is_there_and_no_cell_too_many(sizes):
    """A matrix has as many cells in the fast set as its longest argument has values."""
    cells = [set(enumerate(cell)) for cell in itertools.product(*map(range, sizes))]
    kept = thinning.representatives(cells)
    assert set().union(*(cells[place] for place in kept)) == set().union(*cells)
    assert len(kept) == max(sizes)


def test_holes_of_a_matrix_are_no_reason_to_lose_a_line():
    cells = [{("a", a), ("b", b)} for a, b in ((0, 0), (0, 1), (1, 1), (2, 1), (2, 2))]
    kept = [cells[place] for place in thinning.representatives(cells)]
    assert set().union(*kept) == set().union(*cells)


@pytest.mark.thinned
@pytest.mark.parametrize(("first", "then"), [(1, 2), (1, 3), (2, 3)])
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("hard", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_arguments_of_one_line_go_together(first, then, times, hard, request):
    """Three lines, each in the fast set once; what is slow by itself stands for none of them."""
    assert (("first", "then"), repr([first, then])) in thinning.lines(request.node)
    assert len(thinning.lines(request.node)) == 3
    test = request.node.originalname  # cells of notebooks have no such name
    cells = [one for one in request.session.items if getattr(one, "originalname", "") == test]
    fast = [one.callspec.params for one in cells if not one.get_closest_marker("slow")]
    assert {one["hard"] for one in fast} == {1}
    if len({one.callspec.id for one in cells}) > 2:  # else one was asked for by its name
        assert sorted((one["first"], one["then"]) for one in fast) == [(1, 2), (1, 3), (2, 3)]
        assert {one["times"] for one in fast} == {1, 2}
