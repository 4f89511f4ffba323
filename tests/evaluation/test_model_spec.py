"""A model of an evaluation by itself; names that lead to one are in test_models."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig

from cream import models
from cream.evaluation.model_spec import ModelSpec, device_name
from cream.tasks.base import Example


def test_cards_have_names():
    assert device_name(torch.device("cpu")) == "cpu"


def test_a_checkpoint_of_clexs_authors_is_asked_up_to_its_target_length(tmp_path, tiny_tokenizer):
    """Its config names N; what it is read as has N times max_factor, as when it is loaded."""
    theirs = {"type": "clex", "max_factor": 4, "param_factor": 1, "act": "silu"}
    LlamaConfig(max_position_embeddings=64, rope_scaling=theirs).save_pretrained(tmp_path)
    spec = ModelSpec("theirs", str(tmp_path), "theirs", foreign=True)
    assert models.describe(spec.config())["target_length"] == 256

    def asked(tokens: int) -> list[Example]:
        return [Example("lines", 0, "", "", tokens, tokens=tuple(range(tokens)))]

    spec.check(asked(256), tiny_tokenizer)
    with pytest.raises(ValueError, match="window of 256 tokens .by the config of theirs.*with 257"):
        spec.check(asked(257), tiny_tokenizer)
