"""Perplexity: the same documents at every length, every token but the first scored once."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cream import corpus
from cream.tasks.perplexity import examples, from_corpus, measure, perplexity

DOCUMENTS = [(f"d{i}", np.random.default_rng(i).integers(2, 600, 100 * (i + 1))) for i in range(4)]


def test_the_same_documents_serve_every_length():
    built = examples(DOCUMENTS, [50, 201], samples=2, bos_token_id=0)
    assert [(e.document, e.token_length, e.sample) for e in built] == [
        ("d1", 50, 0), ("d1", 201, 0), ("d2", 50, 1), ("d2", 201, 1),
    ]  # fmt: skip
    for example in built:
        ids = dict(DOCUMENTS)[example.document]
        assert example.tokens == (0, *ids[: example.token_length - 1].tolist())
    assert built[0].settings == {"mode": "truncate", "bos": "prepended"}


def test_without_bos_the_first_tokens_are_read():
    example = examples(DOCUMENTS, [50], samples=1)[0]
    assert example.tokens == tuple(DOCUMENTS[0][1][:50].tolist())
    assert example.settings["bos"] == "none"
    assert example.prompt_hash != examples(DOCUMENTS, [50], 1, bos_token_id=0)[0].prompt_hash


def test_a_measure_is_the_models_own_loss(tiny_model):
    model = tiny_model(256, initializer_range=0.02)
    example = examples(DOCUMENTS, [150], samples=1, bos_token_id=0)[0]
    ids = torch.tensor([example.tokens])
    (index, found), *more = measure(model, [example])
    assert index == 0 and not more
    loss = model.double()(ids, labels=ids).loss.item()
    assert found["num_tokens"] == 150 and found["scored_tokens"] == 149
    assert found["nll"] / 149 == pytest.approx(loss, abs=1e-6)


@pytest.mark.parametrize("rope_type", ["default", "dynamic"])
def test_a_document_is_read_once_for_all_its_lengths(rope_type, tiny_model):
    rope = {"rope_type": rope_type, "rope_theta": 1e4, "factor": 4.0}
    model = tiny_model(64, initializer_range=0.02, rope_parameters=rope)
    built = examples(DOCUMENTS, [40, 90, 200], samples=2, bos_token_id=0)
    alone = [next(measure(model, [replace(e, context=None)], True))[1]["nll"] for e in built]
    read = []
    model.model.register_forward_pre_hook(
        lambda _, args, kwargs: read.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    found = dict(measure(model, built, allow_beyond=True))
    assert [found[k]["nll"] for k in range(6)] == pytest.approx(alone, rel=1e-6)
    long = [length for length in read if length > 8]  # 8: log_likelihood's look at the head
    assert long == ([200, 200] if rope_type == "default" else [40, 90, 200] * 2)


def test_a_part_measured_later_gives_the_same_to_the_last_bit(tiny_model):
    model = tiny_model(256)
    built = examples(DOCUMENTS, [40, 90, 200], samples=1, bos_token_id=0)
    whole = dict(measure(model, built))
    assert next(measure(model, built[:1]))[1] == whole[0]


def test_perplexity_weighs_tokens_not_documents():
    assert perplexity([2.0, 0.0], [1, 3]) == pytest.approx(np.exp(0.5))


@pytest.mark.parametrize("bos", [True, False])
def test_documents_of_a_corpus_come_without_their_bos(bos, tmp_path, haystack, tiny_tokenizer):
    texts = {"one": haystack[:2000], "two": haystack[2000:5000]}
    documents = [
        {"split": "test", "source": "here", "name": name, "kind": kind, "text": text}
        for kind in ("text", "lines")
        for name, text in texts.items()
    ]
    corpus.build(tmp_path / "made", documents, tiny_tokenizer, 64, {}, bos=bos, progress=False)
    made = corpus.open_corpus(tmp_path / "made", tiny_tokenizer)
    found = {name: ids.tolist() for name, ids in from_corpus(made, tiny_tokenizer.bos_token_id)}
    assert found == {
        name: tiny_tokenizer(text, add_special_tokens=False)["input_ids"]
        for name, text in texts.items()
    }


@pytest.mark.parametrize(
    ("lengths", "message"),
    [([1000], "no document has 999 tokens .the longest has 400."), ([1], "length 1 leaves")],
)
def test_impossible_lengths_are_refused(lengths, message):
    with pytest.raises(ValueError, match=message):
        examples(DOCUMENTS, lengths, 1, bos_token_id=0)
