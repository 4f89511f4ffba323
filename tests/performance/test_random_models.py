"""Shapes without weights: what is laid out, and what stands in for a model."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig

from cream import models, rope
from cream.data.corpus import open_corpus
from cream.performance import (
    harness,
    lora,
    multi_gpu,
    random_models,
    resume,
    step_cost,
    training,
)


def test_a_shape_at_another_depth():
    assert random_models.shape("llama2-7b").num_hidden_layers == 32
    other = random_models.shape("llama2-7b", 4)
    assert (other.num_hidden_layers, other.hidden_size, other.vocab_size) == (4, 4096, 32000)


def test_what_is_laid_out_is_a_base_and_its_corpus(tmp_path):
    """Documents of a window at least, cut by the base's own tokenizer."""
    config = random_models.shape("tiny")
    random_models.lay_out(tmp_path, config)
    assert AutoConfig.from_pretrained(tmp_path / "base").hidden_size == 64
    tokenizer = models.load_tokenizer(tmp_path / "base")
    documents = open_corpus(tmp_path / "corpus", tokenizer).split("train")
    assert len(documents.num_tokens) == 256 and min(documents.num_tokens) >= 64


def test_random_weights_stand_in_for_a_loaded_model(tmp_path):
    """Float32, scaled, guarded, and the same each time: a resumed process starts from them."""
    random_models.shape("tiny").save_pretrained(tmp_path)
    model = random_models.random_weights(
        str(tmp_path), rope.scaling("yarn", 8), revision=None, dtype=torch.float32
    )
    again = random_models.random_weights(random_models.shape("tiny"), rope.scaling("yarn", 8))
    assert models.describe(model.config)["target_length"] == 8 * 64
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    tokens = torch.arange(2, 50)[None]
    positions = torch.cat([torch.arange(24), torch.arange(400, 424)])[None]
    moved = tokens.clone()
    moved[0, 0] = 99
    still, changed = (
        model(one, position_ids=positions, use_cache=False).logits[0, -1] for one in (tokens, moved)
    )
    assert not torch.equal(still, changed)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
@pytest.mark.parametrize("command", [training, lora, resume, step_cost, multi_gpu])
def test_a_large_shape_is_not_trained_without_a_card(command, monkeypatch, capsys):
    """It would fill the machine's memory for hours; the small shapes are named instead."""
    monkeypatch.setattr(random_models, "lay_out", lambda *given: pytest.fail("files were written"))
    monkeypatch.setattr(harness, "in_child", lambda *given: pytest.fail("a process was started"))
    with pytest.raises(SystemExit):
        command.main([])
    said = capsys.readouterr().err
    assert "no GPU" in said and "smollm2-135m" in said
    for small in ("smollm2-135m", "tiny"):
        assert random_models.refuse_without_card(None, small) is None
