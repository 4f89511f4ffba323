"""Causal kernels by name: what they compute, by torch's own; what they refuse."""

from __future__ import annotations

import functools
import sys
import types

import families
import pytest
import tiny_models
import torch
from torch.nn.attention import SDPBackend

from cream import models, rope
from cream.models import attention


def reference(query, key, value, softmax_scale, causal, return_lse):
    """Attention (batch, tokens, heads, size) by its formula, with the logarithms of its sums."""
    groups = query.shape[2] // key.shape[2]
    key, value = (each.repeat_interleave(groups, 2) for each in (key, value))
    logits = torch.einsum("bqhd,bkhd->bhqk", query, key).float() * softmax_scale
    beyond = torch.ones(logits.shape[-2:], dtype=torch.bool).triu(1)
    logits = logits.masked_fill(beyond, float("-inf"))
    out = torch.einsum("bhqk,bkhd->bqhd", logits.softmax(-1).to(value.dtype), value)
    return out.contiguous(), logits.logsumexp(-1)


def backward(query, key, value, out, outer, lse, scale, causal):
    """Gradients by the formula of the paper of FlashAttention, from the logarithms of the sums."""
    groups = query.shape[2] // key.shape[2]
    keys, values = (each.repeat_interleave(groups, 2) for each in (key, value))
    logits = torch.einsum("bqhd,bkhd->bhqk", query, keys) * scale
    share = (logits - lse.unsqueeze(-1)).exp().tril()
    inner = torch.einsum("bqhd,bkhd->bhqk", outer, values)
    by_logits = share * (inner - (outer * out).sum(-1).transpose(1, 2).unsqueeze(-1)) * scale
    by_keys = torch.einsum("bhqk,bqhd->bkhd", by_logits, query)
    by_values = torch.einsum("bhqk,bqhd->bkhd", share, outer)
    grouped = [each.unflatten(2, (-1, groups)).sum(3) for each in (by_keys, by_values)]
    return torch.einsum("bhqk,bkhd->bqhd", by_logits, keys), *grouped


@pytest.fixture
def flash4(monkeypatch):
    """Stand in for flash-attn-4 with the same two functions."""
    cute = types.ModuleType("flash_attn.cute")
    cute.flash_attn_func = reference
    cute.interface = types.ModuleType("flash_attn.cute.interface")
    cute.interface._flash_attn_bwd = backward
    for name, module in (("flash_attn", types.ModuleType("flash_attn")), (cute.__name__, cute),
                         ("flash_attn.cute.interface", cute.interface)):  # fmt: skip
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(attention, "check_kernel", lambda name: None)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["causal-fa4", "causal-fa2"])
@pytest.mark.parametrize("compiled", [False, True])
def test_the_same_loss_and_gradients_as_torch(flash4, tiny_model, name, compiled):
    """Positions with gaps in one window: read as one document; grouped queries."""
    if name == "causal-fa2" and compiled:
        pytest.skip("torch's CPU kernel is the same one")
    tokens = torch.randint(2, 600, (1, 64), generator=torch.Generator().manual_seed(0))
    positions = torch.arange(64) + 300 * (torch.arange(64) > 20)
    found = []
    for kind in ("sdpa", name):
        model = models.guard_positions(tiny_model(num_key_value_heads=1))
        model.set_attn_implementation(kind)
        if compiled:
            for layer in model.model.layers:
                layer.compile(backend="aot_eager")
        loss = model(tokens, position_ids=positions[None], labels=tokens).loss
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in model.parameters())])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_what_has_a_mask_or_a_cache_is_refused(flash4, tiny_model):
    model = tiny_model()
    model.set_attn_implementation("causal-fa4")
    tokens, mask = torch.arange(2, 10)[None], torch.ones(1, 8, dtype=torch.long)
    model(tokens, attention_mask=mask)
    mask[0, 0] = 0
    with pytest.raises(ValueError, match="was given a padded batch"):
        model(tokens, attention_mask=mask)
    with pytest.raises(ValueError, match="was given a KV cache"):
        model.generate(tokens, max_new_tokens=2, do_sample=False)


@pytest.mark.parametrize("name", ["Gemma 2", "Gemma 3 1B", "OLMo 3", "gpt-oss"])
def test_a_base_that_slides_or_caps_is_refused_before_its_weights(name):
    """Computed anyway, every layer saw everything and logits were uncapped, without a word."""
    config = next(one for one in families.FAMILIES if one.name == name).make()
    why = "capped at 50" if name == "Gemma 2" else "layers of sliding_attention"
    with pytest.raises(ValueError, match=f"{why}.*choose 'auto'"):
        models.create(config, 0, "causal-fa2")
    models.create(config, 0)


def test_a_window_that_acts_within_the_base_is_refused_as_well():
    """Mistral's, which is of all layers; one as long as the base never acts."""
    sliding, whole = (tiny_models.config("mistral", sliding_window=n) for n in (32, 64))
    with pytest.raises(ValueError, match="a sliding window of 32 tokens: choose 'auto'"):
        models.create(sliding, 0, "causal-fa2")
    models.create(whole, 0, "causal-fa2")
    models.create(models.extend(whole, rope.Linear(4)), 0, "causal-fa2")


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ({"sliding_window": 7}, "a sliding window of 7 tokens"),
        ({"softcap": 50.0}, "logits capped at 50"),
        ({"s_aux": torch.zeros(2)}, "attention sinks"),
        ({"dropout": 0.1}, "dropout of 0.1"),
    ],
)
def test_what_a_layer_hands_over_is_computed_or_refused(flash4, more, what):
    """Whatever the config says of it; a window of 8 tokens over 8 never acts."""
    given = [torch.randn(1, 2, 8, 16, generator=torch.Generator().manual_seed(0))] * 3
    for kernel in (functools.partial(attention._by_torch, SDPBackend.MATH, True),
                   attention._by_flash4):  # fmt: skip
        kernel(None, *given, None, sliding_window=8, softcap=None, s_aux=None, dropout=0.0)
        with pytest.raises(ValueError, match=f"was given {what}"):
            kernel(None, *given, None, **more)


@pytest.mark.parametrize("missing", ["flash_attn.cute", "cutlass.cute"])
def test_a_missing_package_is_named(monkeypatch, missing):
    """Also where the package of another FlashAttention has its name, or the compiler is not there.

    A module whose package is not there is missing like one that its package lacks.
    """

    def find_spec(name: str) -> object:
        if name == missing == "cutlass.cute":
            raise ModuleNotFoundError(name)
        return None if name == missing else object()

    monkeypatch.setattr(attention.importlib.util, "find_spec", find_spec)
    with pytest.raises(ModuleNotFoundError, match=rf"{missing} is not installed: pip install"):
        attention.check_kernel("causal-fa4")
    attention.check_kernel("causal-cudnn")


def test_a_kernel_whose_packages_are_there_is_taken(monkeypatch):
    monkeypatch.setattr(attention.importlib.util, "find_spec", lambda name: object())
    attention.check_kernel("causal-fa4")
