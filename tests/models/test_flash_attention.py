"""flash-attn without flash-attn: how transformers reads our batches on its path.

No registry that we reach has a build of it, and it needs a card, so torch's own attention stands in
for its functions, sequence by sequence. What is tested is transformers' code around them: whether
it takes a batch's skipped positions for packed documents, and where it would cut them.
"""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import tiny_models
import torch
from transformers import modeling_flash_attention_utils as flash

from cream import models
from cream.data.dataset import collate
from cream.models import loading
from cream.positions import METHODS, sampler

WINDOW, SCALE, DOCUMENT = 64, 8, 700


def _batch(method: str, count: int) -> dict[str, torch.Tensor]:
    """A micro-batch as a run makes it."""
    skipping = {"least": 2} if method == "clex" else {}  # which draws t = 1, too
    draw = sampler(method, WINDOW, SCALE, **skipping)
    tokens = np.random.default_rng(0).integers(2, tiny_models.VOCABULARY, DOCUMENT)
    drawn = [draw.draw(DOCUMENT, 0, 0, index) for index in range(count)]
    return collate([{"input_ids": tokens[d.tokens], "position_ids": d.positions} for d in drawn])


@pytest.mark.parametrize("method", METHODS)
def test_every_samplers_batch_is_one_sequence(method):
    """Skipped positions of a single window count as packed: then they must have one beginning."""
    positions = _batch(method, 1)["position_ids"]
    size = positions.shape[1]
    packed = bool(flash._is_packed_sequence(positions, 1))
    assert packed == (method not in ("plain", "full"))
    (queries, keys), (longest, _) = flash.prepare_fa_kwargs_from_position_ids(positions)
    assert queries.tolist() == keys.tolist() == [0, size] and int(longest) == size


@pytest.mark.parametrize("method", METHODS)
def test_several_windows_are_never_taken_for_packed_ones(method):
    batch = _batch(method, 2)["position_ids"]
    assert not bool(flash._is_packed_sequence(batch, 2))


def test_two_beginnings_would_be_cut():
    """What the tests above would see if a sampler's positions came back to their least."""
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4]])
    (starts, _), (longest, _) = flash.prepare_fa_kwargs_from_position_ids(positions)
    assert starts.tolist() == [0, 3, 8] and int(longest) == 5


@pytest.fixture
def calls(monkeypatch) -> list[list[int]]:
    """Give transformers a flash-attn; what it was told of the sequences in each call."""
    told: list[list[int]] = []

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
        q, k, v = (one.transpose(1, 2) for one in (q, k, v))
        out = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=scale, enable_gqa=True
        )
        return out.transpose(1, 2)

    def whole(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False):
        assert causal
        told.append([])
        return attend(q, k, v, softmax_scale)

    def packed(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0,
               softmax_scale=None, causal=False):  # fmt: skip
        assert causal
        told.append(cu_seqlens_q.tolist())
        parts = [slice(a, b) for a, b in zip(told[-1], told[-1][1:], strict=False)]
        return torch.cat(
            [attend(q[None, p], k[None, p], v[None, p], softmax_scale)[0] for p in parts]
        )

    package, padding = types.ModuleType("flash_attn"), types.ModuleType("flash_attn.bert_padding")
    package.flash_attn_func, package.flash_attn_varlen_func = whole, packed
    package.flash_attn_with_kvcache = packed
    padding.pad_input = padding.unpad_input = None
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    monkeypatch.setitem(sys.modules, "flash_attn.bert_padding", padding)
    monkeypatch.setattr(flash, "is_flash_attn_2_available", lambda *_, **__: True)
    for name in ("_loaded_implementation", "_flash_fn", "_flash_varlen_fn", "_pad_fn", "_unpad_fn",
                 "_process_flash_kwargs_fn"):  # fmt: skip
        monkeypatch.setattr(flash, name, None, raising=False)
    return told


def _logits(model: torch.nn.Module, batch: dict[str, torch.Tensor], masked: bool) -> torch.Tensor:
    inputs = {name: batch[name] for name in ("input_ids", "position_ids")}
    if masked:
        inputs["attention_mask"] = batch["attention_mask"]
    with torch.no_grad():
        return model(**inputs, use_cache=False).logits


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("method", ["cream", "pose", "pose-v1", "randpos"])
def test_on_its_path_a_model_computes_what_it_does_elsewhere(calls, method, count, masked):
    """With the collator's mask and with our guard's; one window and several; tail sees head."""
    config = models.extend(tiny_models.config("llama"), loading.rope.scaling("linear", SCALE))
    model = loading.create(config, 0, attention="sdpa")
    batch = _batch(method, count)
    expected = _logits(model, batch, masked=True)
    assert not calls
    model.config._attn_implementation = "flash_attention_2"
    torch.testing.assert_close(_logits(model, batch, masked), expected, rtol=1e-4, atol=1e-5)
    layers = config.num_hidden_layers
    assert calls == ([[0, WINDOW]] if count == 1 else [[]]) * layers
    moved = {**batch, "input_ids": batch["input_ids"].clone()}
    moved["input_ids"][:, 0] = (batch["input_ids"][:, 0] + 7) % tiny_models.VOCABULARY
    effect = (_logits(model, moved, masked) - expected)[:, -1].abs().amax(-1)
    assert (effect > 1e-4).all()
