"""Haystacks: folders and corpora read, stretches cut to the token."""

from pathlib import Path

import numpy as np
import pytest

from cream.tasks.haystack import from_corpus, from_folder, stretch
from cream.tasks.paragraphs import Paragraphs


class Documents:
    """Two texts and a document of another kind, as a corpus's split gives them."""

    def __init__(self, tokenizer) -> None:
        self.texts = ["One text. It is", "lines", "Another  one\\n"]
        self.ids = [np.array(tokenizer(text)["input_ids"]) for text in self.texts]

    def column(self, name: str) -> list[str]:
        return ["text", "lines", "text"]

    def tokens(self, index: int) -> np.ndarray:
        return self.ids[index]


class Held:
    """A corpus with one split."""

    path = Path("somewhere")

    def __init__(self, tokenizer) -> None:
        self.documents = Documents(tokenizer)

    def split(self, name: str) -> Documents:
        assert name == "test"
        return self.documents


def test_a_corpus_gives_its_texts_without_special_tokens(tiny_tokenizer):
    found = from_corpus(Held(tiny_tokenizer), tiny_tokenizer)
    assert found == "One text. It is\nAnother  one\\n"
    with pytest.raises(ValueError, match="test split of somewhere has no songs"):
        from_corpus(Held(tiny_tokenizer), tiny_tokenizer, kind="songs")


def test_a_folder_is_read_by_name(tmp_path):
    """In one order on every machine, nothing but .txt."""
    for name, text in (("b.txt", "two"), ("a.txt", "one é"), ("c.md", "three")):
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert from_folder(tmp_path) == "one é\ntwo"


def test_bad_folders_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no such folder"):
        from_folder(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="holds no .txt file"):
        from_folder(tmp_path)
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match="a.txt is not UTF-8"):
        from_folder(tmp_path)


@pytest.mark.parametrize("start", [0, 17, 5_000, 10**6])
def test_a_stretch_has_its_tokens_and_is_the_haystacks_text(start, haystack, tiny_tokenizer):
    start = min(start, len(haystack))
    found = stretch(Paragraphs(tiny_tokenizer), haystack, start, 700)
    assert found.num_tokens == 700 and found.ends[0] == 0
    assert found.ends == sorted(found.ends)
    text = found.between(0, 700)
    assert text in haystack + "\n" + haystack
    ids = tiny_tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(ids) == pytest.approx(700, abs=1)
    parts = [found.between(k, k + 1) for k in range(700)]
    assert "".join(parts) == text
    assert parts[:600] == [tiny_tokenizer.decode([each]) for each in ids[:600]]
    assert start or haystack.startswith(text)


def slow_stretch(tokenizer, haystack: str, start: int, num_tokens: int) -> tuple[str, list[int]]:
    """A stretch's text and ends, by the whole haystack from `start` on."""
    start = haystack.find(" ", start) + 1 if start else 0
    turned, characters = haystack[start:] + "\n" + haystack[:start], 6 * num_tokens
    while True:
        found = tokenizer(
            turned[:characters], add_special_tokens=False, return_offsets_mapping=True
        )["offset_mapping"]
        if len(found) > num_tokens + 8 or characters >= len(turned):
            ends = np.maximum.accumulate([0, *(end for _, end in found[:num_tokens])])
            return turned[:characters], ends.tolist()
        characters *= 2


@pytest.mark.parametrize("text", ["prose", "no empty lines", "long words"])
def test_a_stretch_is_that_of_a_copied_haystack(text, haystack, tiny_tokenizer):
    """Also where it goes over the haystack's end, and where its last word is longer than it."""
    rng = np.random.default_rng(0)
    words = "".join("x" * n + (" ", "\n\n ")[n % 2] for n in rng.integers(1, 300, 200).tolist())
    hay = {"prose": haystack[:20_000], "no empty lines": haystack[:20_000].replace("\n", " "),
           "long words": words}[text]  # fmt: skip
    paragraphs = Paragraphs(tiny_tokenizer)
    for start in (0, 1, len(hay) // 2, len(hay) - 90, len(hay)):
        for num_tokens in (1, 2, 30, 700, 3000):
            found = stretch(paragraphs, hay, start, num_tokens)
            assert found == slow_stretch(tiny_tokenizer, hay, start, num_tokens)


def test_a_character_of_several_tokens_is_never_cut(tiny_tokenizer):
    found = stretch(Paragraphs(tiny_tokenizer), "naïve œuvre, 日本語 " * 40, 0, 200)
    assert "\ufffd" not in found.between(0, 101) + found.between(101, 200)
    assert found.between(0, 101) + found.between(101, 200) == found.between(0, 200)


def test_a_short_haystack_is_refused_with_its_tokens(tiny_tokenizer):
    with pytest.raises(ValueError, match=r"has \d+ tokens, fewer than the 50 of the longest"):
        stretch(Paragraphs(tiny_tokenizer), "A short text.", 0, 50)
    with pytest.raises(ValueError, match="has 0 tokens"):
        stretch(Paragraphs(tiny_tokenizer), "", 0, 50)
