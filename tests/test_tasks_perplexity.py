"""Perplexity: the same documents at every length, every token but the first scored once."""

import numpy as np
import pytest
import torch

from cream.tasks.perplexity import examples, measure, perplexity

DOCUMENTS = [(f"d{i}", np.random.default_rng(i).integers(2, 600, 100 * (i + 1))) for i in range(4)]


def test_the_same_documents_serve_every_length():
    built = examples(DOCUMENTS, [50, 201], samples=2, bos_token_id=0)
    assert [(e.document, e.token_length, e.sample) for e in built] == [
        ("d1", 50, 0), ("d2", 50, 1), ("d1", 201, 0), ("d2", 201, 1),
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
    found = measure(model, example)
    loss = model.double()(ids, labels=ids).loss.item()
    assert found["num_tokens"] == 150 and found["scored_tokens"] == 149
    assert found["nll"] / 149 == pytest.approx(loss, abs=1e-6)


def test_perplexity_weighs_tokens_not_documents():
    assert perplexity([2.0, 0.0], [1, 3]) == pytest.approx(np.exp(0.5))


@pytest.mark.parametrize(
    ("lengths", "message"),
    [([1000], "no document has 999 tokens .the longest has 400."), ([1], "length 1 leaves")],
)
def test_impossible_lengths_are_refused(lengths, message):
    with pytest.raises(ValueError, match=message):
        examples(DOCUMENTS, lengths, 1, bos_token_id=0)
