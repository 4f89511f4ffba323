"""Plans of batches: longest first, nothing lost, what is common found, little read for nothing."""

import numpy as np
import pytest

from cream.inference.batching import Batch, plan, shared_prefixes

ROWS = {length: [length * 1000 + k for k in range(length)] for length in (3, 4, 5, 9)}
ANY = 1000.0  # waste that never keeps prompts apart


def at_most(rows: int):
    return lambda tokens, tail: rows


def indices(batches: list[Batch]) -> list[list[int]]:
    return [batch.indices for batch in batches]


@pytest.mark.parametrize(("size", "expected"), [(2, [[1, 3], [0, 4], [2]]), (5, [[1, 3, 0, 4, 2]])])
def test_batches_are_planned_longest_first(size, expected):
    ids = [ROWS[length] for length in (5, 9, 3, 9, 4)]
    batches = plan(ids, at_most(size), share=False, waste=ANY)
    assert indices(batches) == expected and not any(batch.shared for batch in batches)


def test_what_is_read_for_nothing_stays_within_the_waste():
    ids = [ROWS[length] for length in (5, 9, 3, 9, 5, 4)]
    assert indices(plan(ids, at_most(9), share=False, waste=0)) == [[1, 3], [0, 4], [5], [2]]
    # 5, 5 and 4 tokens are padded to 15, a fourteenth more.
    assert indices(plan(ids, at_most(9), share=False, waste=1 / 14)) == [[1, 3], [0, 4, 5], [2]]
    assert indices(plan(ids, at_most(9), share=False, waste=0.2)) == [[1, 3, 0], [4, 5], [2]]


def test_a_cpu_reads_few_tokens_at_once_but_what_is_shared_together():
    rng = np.random.default_rng(0)
    ids = [rng.integers(0, 50, 40).tolist() for _ in range(4)]
    assert indices(plan(ids, at_most(9), most_tokens=80)) == [[0, 1], [2, 3]]
    record = rng.integers(0, 50, 100).tolist()
    asked = [[*record, question] for question in range(5)]
    assert [len(batch.indices) for batch in plan(asked, at_most(9), most_tokens=80)] == [5]


def test_the_limit_is_asked_for_the_longest_of_a_batch():
    ids = [list(range(length)) for length in (8, 8, 4, 4, 4, 4)]
    batches = plan(ids, lambda tokens, _: 16 // tokens, share=False, waste=ANY)
    assert indices(batches) == [[0, 1], [2, 3, 4, 5]]


def test_common_beginnings_are_found():
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 50, (2, 100)).tolist()
    ids = [[*first, 60], [*second, 60, 61], [*first, 61, 62], [*second, 62], first[:40]]
    groups = {tuple(group.indices): group.shared for group in shared_prefixes(ids)}
    assert groups == {(0, 2): 100, (1, 3): 100}


def test_records_of_like_length_share_a_batch_cut_to_what_all_have():
    rng = np.random.default_rng(0)
    records = [rng.integers(0, 50, length).tolist() for length in (203, 200, 206, 90)]
    ids = [[*record, 60 + q, 70] for q in range(3) for record in records]
    near, short = plan(ids, at_most(100))
    # A record's questions stand together: its beginning is then read once.
    assert near == Batch([2, 6, 10, 0, 4, 8, 1, 5, 9], 200) and short == Batch([3, 7, 11], 90)
    assert all(batch.shared == 0 for batch in plan(ids, at_most(100), share=False))


def test_prompts_with_nothing_in_common_are_read_to_the_length_of_the_shortest():
    rng = np.random.default_rng(0)
    ids = [rng.integers(0, 50, length).tolist() for length in (100, 103, 97)]
    assert plan(ids, at_most(8)) == [Batch([1, 0, 2], 96)]


def test_a_prompt_by_itself_shares_nothing():
    row = list(range(100))
    batches = plan([row] * 5, at_most(2))
    assert [len(batch.indices) for batch in batches] == [2, 2, 1]
    assert [batch.shared for batch in batches] == [99, 99, 0]
    assert [batch.shared for batch in plan([row, row], at_most(1))] == [0, 0]


def test_what_is_shared_leaves_every_prompt_a_token():
    row = list(range(100))
    (group,) = shared_prefixes([row, row, [*row, 7]])
    assert group.shared == 99 and len(group.indices) == 3


def test_every_prompt_is_planned_once():
    rng = np.random.default_rng(1)
    records = [rng.integers(0, 9, length).tolist() for length in rng.integers(1, 80, 12)]
    ids = [[*record, *rng.integers(0, 9, rng.integers(1, 5))] for record in records * 3]
    for share in (True, False):
        batches = plan(ids, lambda tokens, _: 200 // tokens, share)
        assert sorted(i for batch in batches for i in batch.indices) == list(range(len(ids)))
        longest = [max(len(ids[i]) for i in batch.indices) for batch in batches]
        assert all(len(b.indices) <= 200 // most for b, most in zip(batches, longest, strict=True))
        for batch in batches:
            assert batch.shared < min(len(ids[i]) for i in batch.indices)


def test_no_prompts_give_no_batches():
    assert plan([], at_most(4)) == [] and shared_prefixes([]) == []
