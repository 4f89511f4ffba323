"""The formula of MFU, on the numbers that a study measured by it."""

from __future__ import annotations

import pytest
from transformers import LlamaConfig

from cream.models.hardware import forward_flops, peak_flops, training_flops, utilisation
from cream.training.memory import parameters


def test_llama2_7b_on_an_h200_as_it_was_measured():
    """13,279 tokens/s are 58.6 % of 989 TFLOP/s, 8,125 are 35.9 %."""
    config = LlamaConfig(max_position_embeddings=4096)
    flops = training_flops(config, parameters(config), 4096)
    assert parameters(config) == 6_738_415_616
    assert flops == 6 * 6_738_415_616 + 6 * 32 * 4096 * 4096
    for speed, share in ((13_279, 0.586), (8_125, 0.359), (10_104, 0.446)):
        assert utilisation(speed, flops, "NVIDIA H200") == pytest.approx(share, abs=1e-3)
    assert utilisation(2 * 13_279, flops, "NVIDIA H200", cards=2) == pytest.approx(0.586, abs=1e-3)


def test_a_forward_of_128k_tokens_as_it_was_measured():
    """11.6 s are 540 TFLOP/s by 2 P + 2 x layers x hidden x T a token; 3.71 s at 64K, 541."""
    config = LlamaConfig()
    for tokens, seconds, speed in ((131_072, 11.6, 540.5), (65_536, 3.71, 541.5)):
        flops = tokens * forward_flops(config, 6_738_415_616, tokens)
        assert flops == tokens * (2 * 6_738_415_616 + 2 * 32 * 4096 * tokens)
        assert flops / seconds / 1e12 == pytest.approx(speed, abs=0.5)


def test_cards_are_known_by_name_or_not_at_all():
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_flops("NVIDIA H100 PCIe") == 756e12
    assert peak_flops("NVIDIA A100-SXM4-80GB") == 312e12
    assert utilisation(100.0, 1.0, "NVIDIA GeForce RTX 9999") is None
