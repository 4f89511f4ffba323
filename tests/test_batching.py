"""Plans of batches: longest first, nothing lost, and what is common found."""

import numpy as np
import pytest

from cream.batching import plan, shared_prefixes

ROWS = {length: [length * 1000 + k for k in range(length)] for length in (3, 4, 5, 9)}


@pytest.mark.parametrize(("size", "expected"), [(2, [[1, 3], [0, 4], [2]]), (5, [[1, 3, 0, 4, 2]])])
def test_batches_are_planned_longest_first(size, expected):
    ids = [ROWS[length] for length in (5, 9, 3, 9, 4)]
    assert [batch.indices for batch in plan(ids, size)] == expected


def test_a_batch_on_a_cpu_holds_equal_lengths_only():
    ids = [ROWS[length] for length in (5, 9, 3, 9, 5)]
    assert [batch.indices for batch in plan(ids, "auto")] == [[1, 3], [0, 4], [2]]


def test_common_beginnings_are_found():
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 50, (2, 100)).tolist()
    ids = [[*first, 60], [*second, 60, 61], [*first, 61, 62], [*second, 62], first[:40]]
    groups = {tuple(group.indices): group.shared for group in shared_prefixes(ids)}
    assert groups == {(0, 2): 100, (1, 3): 100}
    batches = plan(ids, "auto")
    assert sorted(i for batch in batches for i in batch.indices) == [0, 1, 2, 3, 4]
    assert [batch.shared for batch in batches] == [100, 100, 0]


def test_what_is_shared_leaves_every_prompt_a_token():
    row = list(range(100))
    (group,) = shared_prefixes([row, row, [*row, 7]])
    assert group.shared == 99 and len(group.indices) == 3


def test_a_batch_of_one_shares_nothing():
    row = list(range(100))
    assert [batch.shared for batch in plan([row, row], 1)] == [0, 0]
    assert [len(batch.indices) for batch in plan([row] * 5, 2)] == [2, 2, 1]


def test_no_prompts_give_no_batches():
    assert plan([], "auto") == [] and shared_prefixes([]) == []
