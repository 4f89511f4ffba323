"""Reading in tiles: the same losses as in one piece, in less memory, for every family and scaling.

The modules of a model are its own before and after; what cannot be taken apart stays whole.
"""

from __future__ import annotations

import logging

import numpy as np
import pytest
import tiny_models
import torch
from transformers import LlamaConfig, Olmo2Config
from watched_tensors import Largest

from cream import models, rope
from cream.inference import tiling
from cream.inference.likelihood import log_likelihood
from cream.inference.tiling import Tiling, tiled
from cream.rope import clex

FINE = Tiling(tokens=32, heads=1)
HEADS = {"num_attention_heads": 4, "max_position_embeddings": 512}
FAMILIES = sorted(tiny_models.FAMILIES)


def made(family: str, attention: str = "sdpa"):
    grouped = {} if family == "gpt_neox" else {"num_key_value_heads": 2}
    return models.create(tiny_models.config(family, **HEADS, **grouped), 0, attention)


def losses(model, how: Tiling | None, tokens: int = 150, **options) -> np.ndarray:
    ids = np.random.default_rng(0).integers(2, tiny_models.VOCABULARY, tokens)
    return log_likelihood(model, ids, tiling=how, **options)


def same(model, how: Tiling = FINE, **options) -> None:
    whole = losses(model, None, **options)
    found = losses(model, how, **options)
    np.testing.assert_allclose(found, whole, rtol=1e-6, atol=1e-6 * whole.mean())


# ------------------------------------------------------------------------------------ results


@pytest.mark.thinned
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_losses_are_those_of_the_whole_forward(family, attention):
    """To 1e-6 in float32, with grouped heads where the family has them; little stays whole."""
    model = made(family, attention)
    same(model)
    with tiled(model, 150, FINE) as whole:
        assert whole == (["GPTNeoXAttention"] if family == "gpt_neox" else [])


@pytest.mark.parametrize("kind", tiny_models.STOCK_KINDS)
def test_every_scaling_beyond_the_window(kind):
    """300 tokens of a model of window 64, extended eightfold."""
    base = LlamaConfig(vocab_size=tiny_models.VOCABULARY, hidden_size=48, intermediate_size=64,
                       num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                       max_position_embeddings=64, initializer_range=0.2)  # fmt: skip
    config = models.extend(base, rope.scaling(kind, 1 if kind == "none" else 8))
    same(models.create(config, 0), tokens=300, allow_beyond=True)


def test_layers_that_slide_and_cap():
    """Masks of two kinds, four norms a layer."""
    same(models.create(tiny_models.alternating(**HEADS), 0, "eager"))


def test_a_compiled_setting_gives_the_same(monkeypatch):
    """Compiled functions run for whole tiles, the others are for the rest."""
    ran = []

    def compiled(function, dynamic):
        assert dynamic is False
        return lambda *given, **named: (ran.append(given[1:]), function(*given, **named))[1]

    monkeypatch.setattr(torch, "compile", compiled)
    same(made("llama"), Tiling(tokens=32, heads=2, compiled=True))
    tiles = [given[0].shape[1] for given in ran if given]
    assert set(tiles) == {32} and len(tiles) == 4 * (1 + 2 * 3)  # the last norm; 3 in each layer
    assert len(ran) - len(tiles) == 2 * 2  # an attention is given all by name, group by group


@pytest.mark.parametrize("tokens", [33, 64, 95])
def test_lengths_around_whole_tiles(tokens):
    same(made("qwen2"), tokens=tokens)


# ------------------------------------------------------------------------------------- memory


def test_the_largest_tensor_is_one_hidden_state():
    """Neither the feed-forward's width nor all heads' queries, keys and values grow with tokens."""
    config = LlamaConfig(vocab_size=300, hidden_size=32, intermediate_size=200, head_dim=16,
                         num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
                         max_position_embeddings=4096)  # fmt: skip
    model = models.create(config, 0)
    ids = np.random.default_rng(0).integers(0, 300, 2048)
    for how, most in ((None, 2048 * 200), (Tiling(256, heads=1), 2048 * 32)):
        with Largest() as seen:
            log_likelihood(model, ids, chunk=64, tiling=how)
        assert seen.elements == most, seen.of


def test_heads_are_as_many_as_their_queries_allow():
    """Whole groups, and never less than a key's own queries."""
    model = made("llama")  # 4 heads of 12 on 2 keys
    for numbers, heads in ((10**6, 4), (100 * 12 * 4, 4), (100 * 12 * 4 - 1, 2), (1, 2)):
        for one in tiling._attentions(model, Tiling(tokens=32, numbers=numbers), 100):
            assert (one.at_once, one.groups) == (heads, 4 // heads)
    assert tiling._attentions(model, Tiling(heads=3), 100)[0].at_once == 2


@pytest.mark.parametrize(("heads", "parts"), [(None, 2), (2, 2), (1, 4)])
def test_trying_costs_few_forwards(monkeypatch, heads, parts):
    """A layer's attention whole and in the parts it will run in: that is paid for every document.

    One for every head would be a thousand forwards for a 7B.
    """
    config = LlamaConfig(vocab_size=64, hidden_size=48, intermediate_size=64, num_hidden_layers=3,
                         num_attention_heads=4, num_key_value_heads=4)  # fmt: skip
    model = models.create(config, 0, "sdpa")
    kind, called = type(model.base_model.layers[0].self_attn), []
    own = kind.forward
    monkeypatch.setattr(
        kind, "forward", lambda self, *a, **k: (called.append(0), own(self, *a, **k))[1]
    )
    with tiled(model, 100, Tiling(tokens=32, heads=heads)):
        assert len(called) == (1 + parts) * model.config.num_hidden_layers


def test_projections_of_more_numbers_than_kernels_index_run_in_parts(monkeypatch):
    """As at a million tokens of 4,096 numbers."""
    seen, real = [], torch.nn.functional.linear
    monkeypatch.setattr(tiling, "INDEXED", 60 * 48)
    monkeypatch.setattr(tiling, "_PART", 40)

    def linear(given, *rest, **named):
        seen.append(given.shape[-2])
        return real(given, *rest, **named)

    monkeypatch.setattr(torch.nn.functional, "linear", linear)
    same(made("qwen2"), Tiling(tokens=70, heads=1), tokens=100)
    assert seen.count(40) == 2 * seen.count(20) > 0  # queries, keys and values; not the rest


def test_an_attention_that_is_whole_and_too_large_is_refused_on_a_gpu(monkeypatch):
    """Before the long forward; one that is split is not."""
    monkeypatch.setattr("cream.inference.tiling.INDEXED", 150 * 48 - 1)
    for family in ("gpt_neox", "llama"):
        model = made(family)
        monkeypatch.setattr(
            type(model), "device", property(lambda _: torch.device("cuda")), raising=False
        )
        taken = [*tiling._pointwise(model, FINE), *tiling._attentions(model, FINE, 150)]
        if family == "llama":
            tiling._check_indices(model, taken, 150)
            continue
        with pytest.raises(ValueError, match="150 tokens give 7,200 numbers to one attention"):
            tiling._check_indices(model, taken, 150)


# ------------------------------------------------------------------------------ what is taken


def forwards(model) -> dict[str, object]:
    return {name: one.__dict__.get("forward") for name, one in model.named_modules()}


def test_modules_are_given_back_also_after_an_error():
    """And one whose forward others had set has theirs again."""
    model = made("llama")
    theirs = model.model.norm.forward
    model.model.norm.forward = theirs
    before = forwards(model)
    with pytest.raises(RuntimeError, match="within"), tiled(model, 100, FINE):
        assert forwards(model) != before
        raise RuntimeError("within")
    assert forwards(model) == before and before["model.norm"] is theirs


def test_short_documents_are_read_as_ever(monkeypatch):
    """No longer than one tile: nothing is taken over."""
    monkeypatch.setattr("cream.inference.likelihood.tiled", lambda *_: pytest.fail("tiled"))
    losses(made("llama"), Tiling(tokens=150))
    losses(made("llama"), None)


@pytest.mark.parametrize(
    ("model", "whole"),
    [
        (made("gpt_neox"), ["GPTNeoXAttention"]),
        (models.create(Olmo2Config(**{**tiny_models.SHAPE, **HEADS}), 0), ["Olmo2Attention"]),
    ],
    ids=["one projection for all", "a norm over all heads"],
)
def test_what_stays_whole_is_named(model, whole, caplog):
    """By its class, and it says why; the losses are right all the same."""
    with tiled(model, 100, FINE) as found:
        assert found == whole
    assert [name in caplog.text for name in whole] == [True] * len(whole)
    same(model)


def test_clex_gives_angles_and_is_no_candidate(caplog):
    model = models.create(models.extend(tiny_models.config("llama"), rope.scaling("clex", 4)), 0)
    with clex.chosen(model, 200), tiled(model, 200, FINE) as whole:
        assert whole == []
    assert "ClexLayer" not in caplog.text
    same(model)


class Mixes(torch.nn.Module):
    """Gives every token the mean of those before it: not one by one."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        count = torch.arange(1, states.shape[1] + 1)[:, None]
        return self.inner(states.cumsum(1) / count)


def test_a_module_that_mixes_tokens_is_found_out(caplog):
    """Whatever its name: it is tried, not believed."""
    model = made("llama")
    for layer in model.model.layers:
        layer.mlp = Mixes(layer.mlp)
    with caplog.at_level(logging.WARNING), tiled(model, 100, FINE) as whole:
        assert whole == ["Mixes"]
    assert "Mixes stays whole: its parts do not add up to the whole" in caplog.text
    same(model)


def test_a_model_without_such_layers_is_read_whole(caplog):
    model = made("llama")
    model.config.num_hidden_layers = 1  # of the two in its list
    same(model)
    assert "no 1 layers in LlamaForCausalLM: it is read whole" in caplog.text


@pytest.mark.parametrize("wrong", [{"tokens": 0}, {"numbers": 0}, {"heads": -1}])
def test_parts_of_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match="tokens, numbers and heads must be at least 1"):
        Tiling(**wrong)


@pytest.mark.gpu
def test_on_a_card_in_bfloat16():
    """The mean loss to two digits: products of other sizes round otherwise."""
    model = made("llama").to("cuda", torch.bfloat16)
    whole, found = losses(model, None), losses(model, FINE)
    assert found.mean() == pytest.approx(whole.mean(), rel=1e-2)


@pytest.mark.gpu
def test_the_last_of_a_million_tokens_on_a_card():
    """Tensors of 2^32 numbers and attention over 2^20 tokens are right to their end."""
    if torch.cuda.get_device_properties(0).total_memory < 40 * 2**30:
        pytest.skip("needs a CUDA device of 40 GiB")
    tokens, width = 2**20, 4096
    torch.manual_seed(0)
    with torch.inference_mode(), torch.device("cuda"):
        table = torch.randn(1000, width, dtype=torch.bfloat16)
        ids = torch.randint(0, 1000, (1, tokens))
        states = torch.nn.functional.embedding(ids, table)
        end = table[ids[0, -8:]]
        assert torch.equal(states[0, -8:], end)
        states = states + states
        assert torch.equal(states[0, -8:], 2 * end)
        linear = torch.nn.Linear(width, 256, bias=False, dtype=torch.bfloat16)
        found = tiling._Rows(linear, slice(0, 256))(states)[0, -8:]
        torch.testing.assert_close(found, linear(2 * end), rtol=2e-2, atol=2e-2)
        del states
        query, key, value = (torch.randn(1, tokens, 2, 128, dtype=torch.bfloat16).transpose(1, 2)
                             for _ in range(3))  # fmt: skip
        read = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        scores = (query[:, :, -1:].float() @ key.float().mT) / 128**0.5
        expected = scores.softmax(-1) @ value.float()
        near = 0.1 / tokens**0.5  # means of so many values are about 1.6 / tokens**0.5
        torch.testing.assert_close(read[:, :, -1:].float(), expected, rtol=5e-2, atol=near)
