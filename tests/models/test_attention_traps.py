"""Skipped positions must never cut attention: move token 0, and watch the last token's logits."""

from __future__ import annotations

import copy
import importlib.util
import pickle

import pytest
import tiny_models
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from cream import models
from cream.models import loading

# A head, a middle and a tail, as the samplers make them (field.md 0.1).
HEAD, MIDDLE, TAIL = range(0, 32), range(500, 532), range(736, 768)
POSITIONS = torch.tensor([*HEAD, *MIDDLE, *TAIL])
FAMILIES = sorted(tiny_models.FAMILIES)
TRAINED = [(family, kind) for family in FAMILIES for kind in ("eager", "sdpa")]
MASKED = TRAINED + [(family, "flex_attention") for family in FAMILIES]
BACKENDS = [*MASKED, pytest.param("llama", "flash_attention_2", marks=pytest.mark.gpu)]


@pytest.fixture(autouse=True)
def uncompiled():
    """Run flex_attention as written: its masks are in question here, not torch's compiler."""
    with torch.compiler.set_stance("force_eager"):
        yield


def _scaled(family: str, attention: str) -> torch.nn.Module:
    config = models.extend(tiny_models.config(family), loading.rope.scaling("yarn", 16))
    model = loading.create(config, seed=0, attention=attention)
    return model.to("cuda", torch.bfloat16) if attention == "flash_attention_2" else model


def _skip_absent(attention: str) -> None:
    if attention == "flash_attention_2":
        if importlib.util.find_spec("flash_attn") is None:
            pytest.skip("flash_attention_2 needs the package flash_attn")


def _effect(model, batch: int, **arguments) -> torch.Tensor:
    """Return how far each row's last logits move when token 0 changes, shape (batch,)."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(2, tiny_models.VOCABULARY, (batch, 96), generator=generator)
    tokens = tokens.to(model.device)
    positions = POSITIONS.to(model.device).expand(batch, -1)
    moved = tokens.clone()
    moved[:, 0] = (tokens[:, 0] + 7) % tiny_models.VOCABULARY
    arguments |= {"position_ids": positions, "use_cache": False}
    with torch.set_grad_enabled(model.training):  # flex_attention has no backward on the CPU
        still, changed = (model(input_ids=t, **arguments).logits[:, -1] for t in (tokens, moved))
    return (still - changed).detach().abs().amax(-1)


@pytest.mark.thinned
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(("family", "attention"), BACKENDS)
def test_the_tail_sees_the_head(family, attention, batch):
    """With our guard alone (no mask), and the same as with the collator's mask of ones."""
    _skip_absent(attention)
    model = _scaled(family, attention)
    guarded = _effect(model, batch)
    mask = torch.ones(batch, 96, dtype=torch.long, device=model.device)
    masked = _effect(model, batch, attention_mask=mask)
    assert (guarded > 1e-4).all()
    torch.testing.assert_close(guarded, masked, rtol=0, atol=0)


@pytest.mark.thinned
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(("family", "attention"), TRAINED)
def test_the_tail_sees_the_head_under_gradient_checkpointing(family, attention, batch):
    model = _scaled(family, attention)
    plain = _effect(model, batch)
    model.train()
    model.gradient_checkpointing_enable()
    torch.testing.assert_close(_effect(model, batch), plain, rtol=1e-5, atol=1e-6)


@pytest.mark.thinned
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(("family", "attention"), MASKED)
def test_without_both_guards_the_tail_is_blind(family, attention, batch):
    """The trap itself: if this fails, transformers mended it and the guard may go."""
    model = tiny_models.unguarded(_scaled(family, attention))
    assert (_effect(model, batch) == 0).all()
    mask = torch.ones(batch, 96, dtype=torch.long)
    assert (_effect(model, batch, attention_mask=mask) > 1e-4).all()


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("attention", ["auto", "eager", "sdpa"])
def test_a_loaded_model_is_guarded_too(tmp_path, device, attention, batch):
    """In the dtype that each device gets by default."""
    base = loading.create(tiny_models.config("llama"), 0)
    models.save(base, tiny_models.tokenizer(), tmp_path / "m")
    model = loading.load(tmp_path / "m", "linear", 16, attention=attention, device=device)
    guarded = _effect(model, batch)
    assert (guarded > 1e-4).all()
    mask = torch.ones(batch, 96, dtype=torch.long, device=device)
    torch.testing.assert_close(guarded, _effect(model, batch, attention_mask=mask))
    assert (_effect(tiny_models.unguarded(model), batch) == 0).all()


def test_the_guard_survives_copies_and_pickles():
    """Launchers and DataParallel copy models."""
    model = _scaled("llama", "eager")
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(_effect(twin, 1), _effect(model, 1))


def test_the_guard_holds_where_the_backbone_is_called_alone():
    """Long log-likelihoods call the backbone and then the head, chunk by chunk."""
    model = _scaled("llama", "sdpa")
    tokens = torch.randint(2, 64, (1, 96), generator=torch.Generator().manual_seed(0))
    whole = model(tokens, position_ids=POSITIONS[None], use_cache=False).logits
    hidden = model.base_model(tokens, position_ids=POSITIONS[None], use_cache=False)
    torch.testing.assert_close(model.lm_head(hidden.last_hidden_state), whole)


@pytest.mark.parametrize("positional", [1, 2, 3])
def test_the_guard_reads_positional_arguments(positional):
    """Ids, mask (None) and positions may come by place; embeddings may stand for ids."""
    model = _scaled("llama", "eager")
    tokens = torch.randint(2, 64, (2, 96), generator=torch.Generator().manual_seed(0))
    positions = POSITIONS.expand(2, -1)
    expected = model(tokens, attention_mask=torch.ones_like(tokens), position_ids=positions).logits
    given = (tokens, None, positions)[:positional]
    rest = {} if positional == 3 else {"position_ids": positions}
    got = model.base_model(*given, **rest, use_cache=False).last_hidden_state
    torch.testing.assert_close(model.lm_head(got), expected)
    embeddings = model.get_input_embeddings()(tokens)
    got = model(inputs_embeds=embeddings, position_ids=positions, use_cache=False).logits
    torch.testing.assert_close(got, expected)


def test_the_guard_leaves_masks_and_caches_alone():
    """A padding mask stays what it was; cached decoding equals one whole forward."""
    model = _scaled("llama", "sdpa")
    tokens = torch.randint(2, 64, (1, 24), generator=torch.Generator().manual_seed(0))
    padded = torch.cat([torch.full((1, 8), 5), tokens], dim=1)
    mask = torch.cat([torch.zeros(1, 8), torch.ones(1, 24)], dim=1).long()
    places = (mask.cumsum(-1) - 1).clamp(min=0)
    left = model(padded, attention_mask=mask, position_ids=places, use_cache=False).logits[:, 8:]
    whole = model(tokens, use_cache=False).logits
    torch.testing.assert_close(left, whole, rtol=1e-4, atol=1e-4)
    first = model(tokens[:, :16], use_cache=True)
    rest = model(
        tokens[:, 16:],
        position_ids=torch.arange(16, 24)[None],
        past_key_values=first.past_key_values,
    )
    torch.testing.assert_close(rest.logits, whole[:, 16:], rtol=1e-4, atol=1e-4)


def test_a_scaling_set_after_building_does_nothing():
    """Trap 2: why `load` puts the scaling into the config first (field.md 0.2)."""
    tokens = torch.arange(2, 62)[None]
    model = loading.create(tiny_models.config("llama"), 0)
    before = model(tokens).logits
    after_the_fact = models.extend(model.config, loading.rope.scaling("linear", 8))
    model.config.rope_parameters = after_the_fact.rope_parameters
    assert torch.equal(model(tokens).logits, before)
    assert not torch.equal(loading.create(after_the_fact, 0)(tokens).logits, before)


def test_stock_yarn_is_not_the_revised_yarn():
    """Why a `yarn` checkpoint is exported as longrope: the stock key means another model."""
    ours = _scaled("llama", "eager")
    stock = LlamaConfig(**ours.config.to_dict())
    stock.rope_parameters = loading.rope.YarnOriginal(16).hf_parameters(10000.0, 24, 64)
    naive = AutoModelForCausalLM.from_config(stock, attn_implementation="eager").eval()
    naive.load_state_dict(ours.state_dict())
    tokens = torch.randint(2, 64, (1, 200), generator=torch.Generator().manual_seed(0))
    assert (naive(tokens).logits - ours(tokens).logits).abs().max() > 1e-2
