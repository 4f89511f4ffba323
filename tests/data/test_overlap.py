"""Shared 13-grams against sets of tuples, and what a copied file does."""

import numpy as np

from cream.data.overlap import shared_grams


class Listed:
    """Documents in memory."""

    def __init__(self, *documents: tuple[str, list[int]]):
        self.documents = documents

    def __len__(self) -> int:
        return len(self.documents)

    def tokens(self, index: int) -> np.ndarray:
        return np.asarray(self.documents[index][1], dtype=np.uint16)

    def column(self, name: str) -> list[str]:
        return [source if name == "source" else "code" for source, _ in self.documents]


def test_counts_are_those_of_sets():
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, 3, 400).tolist() for _ in range(5)]
    splits = {
        "train": Listed(("a", texts[0]), ("b", texts[1])),
        "test": Listed(("c", texts[2]), ("c", texts[3]), ("d", texts[0][:300] + texts[4])),
    }
    for n in (3, 5, 13):

        def grams(*listed: list[int], n: int = n) -> set[tuple[int, ...]]:
            return {tuple(one[i : i + n]) for one in listed for i in range(len(one) - n + 1)}

        known = grams(texts[0], texts[1])
        wanted = {"c": grams(texts[2], texts[3]), "d": grams(texts[0][:300] + texts[4])}
        for found in shared_grams(splits, n):
            mine = wanted[found["source"]]
            assert (found["grams"], found["shared"]) == (len(mine), len(mine & known))
            assert found["split"] == "test" and found["n"] == n


def test_a_copy_is_seen_whole_and_a_short_document_not_at_all():
    copied = list(range(100))
    splits = {"train": Listed(("a", copied)), "test": Listed(("b", copied), ("c", [1, 2]))}
    copy, short = shared_grams(splits)
    assert copy["share"] == 1.0 and copy["grams"] == 88
    assert short["grams"] == 0 and short["share"] == 0.0
