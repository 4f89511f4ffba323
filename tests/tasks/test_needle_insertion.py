"""Where a sentence stands: both placements, and pages that share a text."""

import pytest

from cream.tasks.haystack import Stretch
from cream.tasks.needle_insertion import Page, Sentence, place


def test_depth_is_of_the_text_alone():
    assert [place(200, depth) for depth in (0, 11, 50, 100)] == [0, 22, 100, 200]
    assert [place(1, depth) for depth in (0, 100)] == [0, 1]


@pytest.mark.parametrize(
    ("tokens", "depth", "before", "at"),
    [(1000, 0, 30, 30), (1000, 50, 30, 530), (1000, 96, 30, 989), (1000, 97, 30, 999),
     (1000, 98, 30, 1000), (1000, 100, 30, 1000), (1000, 100, 0, 999)],
)  # fmt: skip
def test_the_release_adds_its_description_and_stops_at_the_end(tokens, depth, before, at):
    """D + round((C - p - n - 1 - D) depth / 100) of the haystack's C - D - n - p tokens."""
    assert place(tokens, depth, "release", before) == at


def words(text: str) -> int:
    return len(text.split())


def test_a_page_puts_each_sentence_at_its_depth_and_asks_for_each():
    """Counted in words, one token each."""
    text = Stretch("".join(f"w{k} " for k in range(10, 60)), list(range(0, 204, 4)))
    chosen = [(100, Sentence("[C] ", "c?", " x")), (0, Sentence("[A] ", "a?", " x y")),
              (50, Sentence("[B] ", "b?", " x"))]  # fmt: skip
    page = Page(words, "Read: ", lambda prompt: f"<< {prompt} >>", chosen)
    prompts = page.prompts(text, 29)
    body = "<< Read: [A] " + "".join(f"w{k} " for k in range(10, 20)) + "[B] "
    body += "".join(f"w{k} " for k in range(20, 30)) + "[C] "
    assert prompts[0].startswith("<< Read: [A] w10 ")
    assert [prompt.split()[-2] for prompt in prompts] == ["c?", "a?", "b?"]
    assert prompts[1] == body + "a? >>"
    assert max(words(p + s.answer) for p, (_, s) in zip(prompts, chosen, strict=True)) == 29


def test_a_page_takes_less_text_until_the_longest_prompt_fits():
    """Where words cost more together than apart, the first guess is too long."""

    def count(text: str) -> int:
        return 11 * len(text.split()) // 10

    text = Stretch("".join(f"w{k} " for k in range(100, 1100)), list(range(0, 5005, 5)))
    page = Page(
        count, "", str, [(50, Sentence("[A] ", "a?", " x")), (9, Sentence("[B] ", "b?", ""))]
    )
    for length in range(20, 400, 7):
        asked, _ = page.prompts(text, length)
        assert length - 5 <= count(asked + " x") <= length
