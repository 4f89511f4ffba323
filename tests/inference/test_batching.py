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
    assert indices(batches) == expected and not any(any(batch.shared) for batch in batches)


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
    groups = {tuple(indices): shared for indices, shared in shared_prefixes(ids)}
    assert groups == {(0, 2): 100, (1, 3): 100}


@pytest.mark.parametrize(("length", "apart", "shared"), [
    (400, 100, True), (400, 101, False), (2000, 256, True), (2000, 257, False),
    (16_000, 1000, True), (16_000, 1001, False),
])  # fmt: skip
def test_a_beginning_is_shared_where_little_is_read_behind_it(length, apart, shared):
    """Texts that part at a needle late in them: what is read behind it is read under a mask."""
    first = list(range(length))
    second = [*first[: length - apart], *(-1 - k for k in range(apart))]
    assert shared_prefixes([first, second]) == ([([0, 1], length - apart)] if shared else [])


def test_a_long_text_behind_a_beginning_does_not_make_other_prompts_be_read_under_a_mask():
    rng = np.random.default_rng(0)
    texts = rng.integers(0, 50, (3, 9000)).tolist()
    texts[1] = texts[1][:8990]
    asked = [*texts, [*texts[0][:8500], *rng.integers(50, 90, 500).tolist()]]
    batches = plan(asked, at_most(9), waste=ANY)
    assert indices(batches) == [[2, 1], [0, 3]]
    assert [batch.shared for batch in batches] == [[8999, 8989], [8500, 8500]]
    short = [*texts, [*texts[0][:8900], *rng.integers(50, 90, 100).tolist()]]
    assert len(plan(short, at_most(9), waste=ANY)) == 1


def test_records_of_like_length_share_a_batch_and_each_is_read_to_its_own_end():
    rng = np.random.default_rng(0)
    records = [rng.integers(0, 50, length).tolist() for length in (203, 200, 206, 40)]
    ids = [[*record, 60 + q, 70] for q in range(3) for record in records]
    near, short = plan(ids, at_most(100))
    # A record's questions stand together: its beginning is then read once.
    assert near == Batch([2, 6, 10, 0, 4, 8, 1, 5, 9], [206] * 3 + [203] * 3 + [200] * 3)
    assert short == Batch([3, 7, 11], [40] * 3)
    assert not any(any(batch.shared) for batch in plan(ids, at_most(100), share=False))


def test_many_questions_of_a_short_record_are_not_held_at_the_length_of_a_long_one():
    """What is read would be 3 % more, but what is held twice as much."""
    rng = np.random.default_rng(0)
    record = rng.integers(0, 50, 100).tolist()
    ids = [rng.integers(0, 50, 300).tolist() for _ in range(10)]
    ids += [[*record, question] for question in range(30)]
    assert [len(batch.indices) for batch in plan(ids, at_most(100))] == [10, 30]


def test_prompts_with_nothing_in_common_are_read_to_their_last_token():
    rng = np.random.default_rng(0)
    ids = [rng.integers(0, 50, length).tolist() for length in (100, 103, 97)]
    assert plan(ids, at_most(8)) == [Batch([1, 0, 2], [102, 99, 96])]
    assert plan([[1], [2, 3]], at_most(8), waste=ANY) == [Batch([1, 0], [1, 0])]


def test_what_is_read_for_all_rows_at_once_is_left_of_every_beginning():
    """The rows of a record end 20 tokens behind it; so many are left of a prompt beside them."""
    rng = np.random.default_rng(0)
    record = rng.integers(0, 50, 100).tolist()
    ids = [[*record, *rng.integers(50, 60, 20)], [*record, *rng.integers(60, 70, 15)]]
    ids += [rng.integers(0, 50, length).tolist() for length in (119, 12)]
    assert plan(ids, at_most(8), waste=ANY) == [Batch([0, 1, 2, 3], [100, 100, 99, 0])]


def test_the_limit_is_asked_for_what_is_read_for_all_rows_at_once():
    rng = np.random.default_rng(0)
    asked = []
    ids = [rng.integers(0, 50, length).tolist() for length in (100, 103, 97)]
    plan(ids, lambda tokens, tail: asked.append((tokens, tail)) or 8)
    assert asked == [(103, 1), (103, 1)]


def test_what_is_shared_leaves_every_prompt_a_token():
    row = list(range(100))
    ((indices, shared),) = shared_prefixes([row, row, [*row, 7]])
    assert shared == 99 and len(indices) == 3


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
            for i, own in zip(batch.indices, batch.shared, strict=True):
                assert 0 <= own < len(ids[i])


def test_no_prompts_give_no_batches():
    assert plan([], at_most(4)) == [] and shared_prefixes([]) == []
