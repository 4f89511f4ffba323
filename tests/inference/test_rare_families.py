"""Families off the beaten way: as stock transformers has them, or refused with the reason."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
import tiny_models
import torch
import transformers
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from cream import models, rope
from cream.inference import kv_cache, memory
from cream.inference.generation import greedy
from cream.inference.likelihood import log_likelihood
from cream.inference.padding import heeds_padding
from cream.inference.stopping import until_end
from cream.inference.tiling import Tiling
from cream.models.backbone import backbone
from cream.rope.length import depends_on_length, start_afresh

WORDS = tiny_models.tokenizer(40)
WORDS.backend_tokenizer.pre_tokenizer = WhitespaceSplit()  # else a text is one unknown word
PROMPTS = ["a b w1 w2 " * 10, "a b w3", "b " * 25 + "w4", "b " * 25 + "w5", "w6 a w7 w8 " * 7]
MAMBA = {"mamba_n_heads": 2, "mamba_d_head": 24, "mamba_d_ssm": 48, "mamba_d_state": 8}
SHAPES = {
    "Llama4TextConfig": {
        "num_key_value_heads": 1, "head_dim": 24, "intermediate_size_mlp": 64,
        "num_local_experts": 2, "attention_chunk_size": 32,
    },
    "MiniMaxConfig": {
        "num_key_value_heads": 1, "head_dim": 24, "num_local_experts": 2, "block_size": 16,
    },
    "JetMoeConfig": {
        "kv_channels": 24, "num_key_value_heads": 1, "num_local_experts": 2,
        "num_experts_per_tok": 2,
    },
    "BioGptConfig": {},
    "BartConfig": {"d_model": 48, "decoder_layers": 2, "decoder_attention_heads": 2,
                   "decoder_ffn_dim": 64, "forced_eos_token_id": None},
    "FalconH1Config": {"num_key_value_heads": 1, "head_dim": 24, **MAMBA},
    "RwkvConfig": {},
    "MptConfig": {"d_model": 48, "n_heads": 2, "n_layers": 2, "max_seq_len": 128},
    "GPTNeoConfig": {
        "num_layers": 2, "num_heads": 2, "window_size": 16, "max_position_embeddings": 512,
        "attention_types": [[["global", "local"], 1]],
    },
    "BloomConfig": {"n_head": 2, "n_layer": 2},
    "CohereConfig": {"num_key_value_heads": 1, "logit_scale": 0.25},
    "GraniteConfig": {"num_key_value_heads": 1, "logits_scaling": 8.0},
    "Gemma2Config": {"num_key_value_heads": 1, "head_dim": 24, "sliding_window": 16},
}  # fmt: skip
each = pytest.mark.parametrize("name", SHAPES)


def made(name: str, **changes: object) -> PreTrainedModel:
    config = getattr(transformers, name)(**{**tiny_models.SHAPE, **SHAPES[name], **changes})
    return models.create(config, seed=0)


def stock(model: PreTrainedModel, prompts: list[str], new: int = 5) -> list[list[int]]:
    """Each prompt alone through generate."""
    found = []
    for prompt in prompts:
        ids = torch.tensor([WORDS(prompt)["input_ids"]])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new,
                             do_sample=False, pad_token_id=0)  # fmt: skip
        found.append(list(until_end(out[0, ids.shape[1] :].tolist(), 1)))
    return found


def ours(model: PreTrainedModel, prompts: list[str], new: int = 5, **how: object) -> list:
    done = sorted(greedy(model, WORDS, prompts, new, allow_beyond=True, **how))
    return [list(one.tokens) for one in done]


@functools.cache
def answered(name: str) -> tuple[PreTrainedModel, list[list[int]]]:
    """A model, not to be changed, and what it says to each of `PROMPTS` alone."""
    model = made(name)
    return model, stock(model, PROMPTS)


@pytest.mark.thinned
@each
@pytest.mark.parametrize("batch_size", [1, 3, "auto"])
def test_greedy_answers_are_those_of_generate(name, batch_size):
    """One by one, and several at once where the family allows it."""
    model, wanted = answered(name)
    assert ours(model, PROMPTS, batch_size=batch_size) == wanted


@pytest.mark.thinned
@each
@pytest.mark.parametrize("tiling", [None, Tiling(tokens=8)])
def test_losses_are_those_of_the_whole_forward(name, tiling):
    model, ids = made(name), torch.randint(3, 40, (1, 30))
    with torch.no_grad():
        logits = model(ids, use_cache=False).logits[0, :-1].double()
    wanted = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
    np.testing.assert_allclose(log_likelihood(model, ids[0], 7, tiling=tiling), wanted, atol=1e-4)


def test_a_model_whose_tokens_see_those_behind_them_has_no_losses():
    """BERT as a causal model without is_decoder: perplexities near 1, which mean nothing."""
    config = transformers.BertConfig(**{**tiny_models.SHAPE, "pad_token_id": 0})
    model = models.create(config, seed=0)
    with pytest.raises(ValueError, match="a token sees the tokens behind it"):
        log_likelihood(model, np.arange(3, 30))


def test_padding_is_text_to_some():
    """RWKV takes a mask and does not use it; a Llama does."""
    assert not heeds_padding(made("RwkvConfig"))
    assert heeds_padding(models.create(tiny_models.config("llama"), seed=0))
    assert heeds_padding(models.create(tiny_models.alternating(), seed=0))


def test_padding_within_a_prompt_moves_what_is_before_it_to_some():
    """MPT takes distances from places in the cache; Bloom from the mask."""
    assert heeds_padding(made("MptConfig")) and not heeds_padding(made("MptConfig"), 2)
    assert heeds_padding(made("BloomConfig"), 2)


def test_what_cannot_be_counted_from_a_config_is_counted_on_the_model():
    """JetMoe's routing looks at numbers, which an empty twin has none of."""
    model = made("JetMoeConfig")
    needs = memory.generation(model, 2, 40)
    assert needs.cache > 0 and memory.footprint(model).stock_cache
    with pytest.raises(ValueError, match="a jetmoe caches cannot be counted from its config al"):
        memory.generation(model.config, 2, 40)
    for name in ("MiniMaxConfig", "RwkvConfig"):  # a cache of its own; none, whatever is given
        assert not memory.footprint(made(name)).stock_cache


def test_the_module_below_the_head_is_found_by_what_it_is():
    model = made("Llama4TextConfig")
    assert model.base_model is model and backbone(model) is model.model
    llama = models.create(tiny_models.config("llama"), seed=0)
    assert backbone(llama) is llama.model


REFUSED = {
    "BioGptConfig": "no rope_parameters",
    "RwkvConfig": "no rope_parameters",
    "RecurrentGemmaConfig": "slides over",
}


@pytest.mark.parametrize("name", REFUSED)
def test_extending_is_refused_with_the_reason(name):
    config = getattr(transformers, name)(**{
        **tiny_models.SHAPE, "max_position_embeddings": 8192, "attention_window_size": 2048,
    })  # fmt: skip
    with pytest.raises(ValueError, match=REFUSED[name]):
        models.extend(config, rope.Linear(2))


def test_a_window_that_must_be_a_number_is_made_one_that_never_acts():
    config = transformers.ExaoneMoeConfig(**{
        **tiny_models.SHAPE, "sliding_window": 64, "num_experts": 2, "num_experts_per_tok": 1,
        "layer_types": ["sliding_attention"] * 2, "moe_intermediate_size": 32,
    })  # fmt: skip
    assert models.extend(config, rope.Linear(2)).sliding_window in (None, 128)


# ------------------------------------------------------------------- RoPE that depends on length

DYNAMIC = {"rope_type": "dynamic", "rope_theta": 520.0, "factor": 4.0}
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 520.0, "factor": 4.0, "short_factor": [1.0] * 32,
    "long_factor": [1.0 + i / 8 for i in range(32)], "original_max_position_embeddings": 64,
}  # fmt: skip


MINIATURE = Path(__file__).resolve().parents[2] / "data" / "miniature"


def turned(rotation: dict[str, object], window: int) -> PreTrainedModel:
    """The miniature, whose answers hang on positions as a random model's do not, turned anew."""
    config = AutoConfig.from_pretrained(MINIATURE)
    config.rope_parameters, config.max_position_embeddings = dict(rotation), window
    return AutoModelForCausalLM.from_pretrained(MINIATURE, config=config, dtype=torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize(("rotation", "window"), [(DYNAMIC, 64), (LONGROPE, 256)])
def test_rope_that_depends_on_length_answers_as_a_fresh_stock_model(rotation, window):
    """After a prompt of 300 tokens, in any batch: the longest must not decide for the others."""
    words = models.load_tokenizer(MINIATURE)
    records = "".join(f"line {n} of the record: the value is {n * n}.\n" for n in range(40))
    prompts = [records[:size] + "\nline" for size in (1300, 300, 380, 610, 150, 90)]
    wanted = []
    for prompt in prompts:
        ids = torch.tensor([words(prompt)["input_ids"]])
        out = turned(rotation, window).generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, min_new_tokens=12,
            do_sample=False, pad_token_id=0,
        )  # fmt: skip
        wanted.append(tuple(out[0, ids.shape[1] :].tolist()))
    model = turned(rotation, window)
    start_afresh(model)
    assert depends_on_length(model.config) and len(set(wanted)) > 3
    for batch_size in (1, 4, "auto"):
        done = sorted(greedy(model, words, prompts, 12, None, batch_size, 12, allow_beyond=True))
        assert [one.tokens for one in done] == wanted, batch_size


def test_a_dynamic_rope_forgets_where_a_sequence_begins():
    """Also between the model's own window and the longest that was read."""
    model = models.create(tiny_models.config("llama", rope_parameters=dict(DYNAMIC)), seed=0)
    ids = torch.randint(3, 40, (1, 100))
    with torch.no_grad():
        before = model(ids).logits
        model(torch.randint(3, 40, (1, 300)))
        assert torch.equal(model(ids).logits, before)


def test_one_rope_for_all_lengths_is_read_in_batches():
    model = models.create(tiny_models.config("llama"), seed=0)
    assert not depends_on_length(model.config) and kv_cache.keeps_all(model)
