"""Where in a text an answer's words are found, and that chance words are not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cream.chat.sources import find_source

FILLER = "The committee met on the first day and talked about the garden for a while.\n" * 40
TEXT = FILLER + "The key of the\nnorth gate is 'Marble 4271'.\n" + FILLER


def test_a_whole_answer_is_found_over_a_line_break_and_quotes():
    found = find_source("the key of the north gate is Marble-4271", TEXT)
    assert found.exact and found.places == 1
    assert TEXT[found.start : found.end] == "The key of the\nnorth gate is 'Marble 4271"
    assert found.depth_percent == pytest.approx(100 * found.start / len(TEXT))
    assert found.line == TEXT[: found.start].count("\n") + 1 == 41


def test_the_rare_words_of_a_longer_answer_are_what_is_shown():
    found = find_source("As the committee said, you need Marble 4271 to get in.", TEXT)
    assert TEXT[found.start : found.end] == "Marble 4271"
    assert not found.exact and (found.words, found.of) == (2, 11)
    assert "2 of the answer's 11 words at 50 % of the text" in str(found)


def test_a_number_alone_is_found():
    found = find_source("I think that it is 4271.", TEXT)
    assert TEXT[found.start : found.end] == "4271"


def test_words_of_the_question_count_less():
    answer = "The key of the north gate, they say, is 4271."
    question = "What is the key of the north gate?"
    plain, asked = find_source(answer, TEXT), find_source(answer, TEXT, question)
    assert plain.words == 6 and TEXT[asked.start : asked.end] == "4271"


def test_an_answer_that_stands_at_many_places_says_so():
    found = find_source("talked about the garden", TEXT)
    assert found.places == 80 and found.line == 1
    assert "the first of 80 places" in str(found)


@pytest.mark.parametrize(
    "answer", ["", "...", "Zebra umbrella", "the a on", "I do not know the", "so marble"]
)
def test_common_words_alone_are_no_source(answer):
    assert find_source(answer, TEXT) is None


def test_the_excerpt_is_the_text_around():
    found = find_source("Marble 4271", TEXT)
    before, here, after = found.excerpt(TEXT)
    assert here == "Marble 4271"
    assert before.startswith("…") and after.endswith("…")
    assert before[1:] + here + after[:-1] in TEXT


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=12),
       st.lists(st.sampled_from("abc"), min_size=1, max_size=30))  # fmt: skip
def test_what_is_said_to_stand_there_stands_there(asked, told):
    text = " ".join(told)
    found = find_source(" ".join(asked), text)
    whole = f" {' '.join(asked)} " in f" {text} "
    assert (found is not None and found.exact) == whole
    if found:
        run = text[found.start : found.end]
        assert f" {run} " in f" {' '.join(asked)} " and len(run.split()) == found.words
