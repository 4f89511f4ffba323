"""From text to tokens: where the answers of a document lie among them."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from tokenizers import processors

from cream.data.retrieval.documents import training_document
from cream.data.tokenization import encoded


@pytest.fixture(scope="module")
def trimming(tiny_tokenizer):
    """The same tokenizer, in whose offsets a token begins after its space."""
    tokenizer = copy.deepcopy(tiny_tokenizer)
    backend = tokenizer.backend_tokenizer
    trim = processors.ByteLevel(trim_offsets=True)
    backend.post_processor = processors.Sequence([trim, backend.post_processor])
    return tokenizer


def spans_of(tokenizer, text, answers):
    document = {"name": "d 7", "kind": "generated", "text": text, "answers": answers}
    (found,) = encoded([document], tokenizer, bos=True)
    return found["tokens"], found["answers"]


@pytest.mark.parametrize("family", ["lines", "pairs", "needle"])
def test_answers_are_found_where_a_tokenizer_trims_offsets(
    family, trimming, tiny_tokenizer, haystack
):
    """Their tokens are those of the untrimmed offsets, but for a token of a space alone."""
    made = training_document(family, np.random.default_rng(0), 600, text=haystack[:4000])
    answers = [(each.answer_start, each.end) for each in made.queries]
    tokens, trimmed = spans_of(trimming, made.text, answers)
    same, whole = spans_of(tiny_tokenizer, made.text, answers)
    assert (tokens == same).all() and trimmed
    for (first, end), (start, stop), (a, b) in zip(trimmed, whole, answers, strict=True):
        assert end == stop and tiny_tokenizer.decode(tokens[start:first]).strip() == ""
        assert tiny_tokenizer.decode(tokens[first:end]).strip() == made.text[a:b].strip()


def test_an_answer_without_tokens_is_refused_by_its_document(trimming):
    with pytest.raises(ValueError, match="document d 7: .*answer .characters 3 to 4. no token"):
        spans_of(trimming, "one   two", [(3, 4)])
