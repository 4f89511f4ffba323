"""The arithmetic of generation, against caches and activations as they are, family by family."""

from __future__ import annotations

import weakref

import pytest
import tiny_models
import torch
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import DeepseekV3Config, DynamicCache, LlamaConfig, MistralConfig

from cream import models
from cream.inference import memory

GIB = 2**30
LATENT = DeepseekV3Config(
    vocab_size=64, hidden_size=48, intermediate_size=64, moe_intermediate_size=32,
    num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, n_routed_experts=4,
    num_experts_per_tok=2, n_group=1, topk_group=1, kv_lora_rank=16, q_lora_rank=16,
    qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=12,
)  # fmt: skip
CONFIGS = {
    **{family: tiny_models.config(family) for family in tiny_models.FAMILIES},
    "gemma2, every other layer sliding": tiny_models.alternating(),
    "deepseek, a compressed cache": LATENT,
}
families = pytest.mark.parametrize("name", CONFIGS)
# DeepSeek's keys are wider than its values, for which CPUs have no kernel: all scores exist.
with_kernels = pytest.mark.parametrize("name", list(CONFIGS)[:-1])


def held(cache: DynamicCache) -> int:
    """Bytes of the storages that a cache keeps alive."""
    tensors = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


class Peak(TorchDispatchMode):
    """The most bytes that tensors made under this mode held at once."""

    def __init__(self) -> None:
        super().__init__()
        self.users: dict[int, int] = {}
        self.now = self.most = 0

    def _gone(self, place: int, size: int) -> None:
        self.users[place] -= 1
        if not self.users[place]:
            self.now -= size

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        known = {t.data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        for tensor in tree_leaves(out):
            if not isinstance(tensor, torch.Tensor):
                continue
            storage = tensor.untyped_storage()
            place, size = storage.data_ptr(), storage.nbytes()
            if not self.users.get(place):
                if place in known:  # made before, a weight or an input
                    continue
                self.users[place] = 0
                self.now += size
                self.most = max(self.most, self.now)
            self.users[place] += 1
            weakref.finalize(tensor, self._gone, place, size)
        return out


@families
def test_the_cache_is_counted_as_transformers_keeps_it(name):
    """Grouped heads, head sizes of their own, sliding windows: at the end, to the byte."""
    config, rows, tokens = CONFIGS[name], 3, 100
    model = models.create(config, seed=0)
    cache = DynamicCache(config=config)
    ids = torch.randint(2, 60, (rows, tokens))
    with torch.no_grad():
        model(input_ids=ids[:, :-1], past_key_values=cache, use_cache=True)
        model(input_ids=ids[:, -1:], past_key_values=cache, use_cache=True)
    needs = memory.generation(model, rows, tokens)
    assert needs.cache == held(cache)
    assert needs.weights == sum(p.nbytes for p in [*model.parameters(), *model.buffers()])


@with_kernels
@pytest.mark.parametrize("rows", [1, 3])
def test_reading_prompts_takes_no_more_than_was_said(name, rows):
    """Activations are an upper bound, also with masks and with sliding layers still full."""
    config, tokens = CONFIGS[name], 300
    model = models.create(config, seed=0)
    mask = torch.ones((rows, tokens), dtype=torch.long)
    mask[:-1, :5] = 0
    with torch.no_grad(), Peak() as peak:
        cache = DynamicCache(config=config)
        model(
            input_ids=torch.randint(2, 60, (rows, tokens)),
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
    needs = memory.generation(model, rows, tokens, in_parts=False)
    said = needs.cache + needs.activations
    assert held(cache) < peak.most <= said < 4 * peak.most


def test_sliding_layers_are_full_while_a_prompt_is_read():
    """They let go of what lies before their window with the first new token, not before."""
    config = tiny_models.config("mistral", num_hidden_layers=40, sliding_window=16)
    model, tokens = models.create(config, seed=0), 100
    with torch.no_grad(), Peak() as peak:
        cache = DynamicCache(config=config)
        ids = torch.randint(2, 60, (2, tokens))
        model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    needs = memory.generation(model, 2, tokens, in_parts=False)
    assert 5 * needs.cache < held(cache) < peak.most <= needs.cache + needs.activations


def test_llama_2_7b_by_its_config_alone():
    """6,738,415,616 parameters and half a MiB of cache a token: published numbers of Llama-2-7B."""
    config = LlamaConfig(
        vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32,
        num_attention_heads=32, max_position_embeddings=4096,
    )  # fmt: skip
    needs = memory.generation(config, 2, 32_768, device="cpu")
    assert needs.weights == 2 * 6_738_415_616
    assert needs.cache == 2 * 32_768 * 2**19
    assert 2 * GIB < needs.activations < 6 * GIB
    assert memory.generation(config, 2, 32_768, dtype=torch.float32).cache == 2 * needs.cache
    said = str(needs)
    assert "2 prompts at once of 32,768 tokens: weights 12.6 GiB + KV cache 32 GiB" in said
    assert "32 layers x 32 heads x 2 x 128 x 32,768 tokens x 2 bytes x 2" in said


def test_grouped_heads_and_windows_are_said():
    """Mistral-7B: 8 heads of 128, and of 4,096 tokens no more than that is kept."""
    config = MistralConfig()
    needs = memory.generation(config, 1, 32_768, device="cpu")
    assert needs.cache == 2 * 8 * 128 * 32 * 4096 * 2
    assert "32 layers x 8 heads x 2 x 128 x 4,096 tokens x 2 bytes x 1" in str(needs)


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_rotations_that_follow_the_length_are_counted_too(kind):
    """An empty twin has no positions to look at."""
    factors = {"short_factor": [1.0] * 12, "long_factor": [2.0] * 12}
    more = factors if kind == "longrope" else {"factor": 8.0}
    rope = {"rope_type": kind, "rope_theta": 1e4, "original_max_position_embeddings": 64, **more}
    plain = memory.generation(tiny_models.config("llama"), 2, 100).cache
    assert (
        memory.generation(tiny_models.config("llama", rope_parameters=rope), 2, 100).cache == plain
    )


def test_reading_in_parts_needs_less():
    """Many prompts read together hold the activations of one part, and no mask."""
    config = LlamaConfig(hidden_size=256, intermediate_size=688, num_attention_heads=4)
    few, many = (memory.generation(config, rows, 4096, device="cpu") for rows in (8, 64))
    assert many.cache == 8 * few.cache and many.activations < 1.5 * few.activations
    whole = memory.generation(config, 64, 4096, in_parts=False, device="cpu")
    assert whole.activations > 7 * many.activations


@pytest.mark.parametrize("room", [3 * 10**6, 10**7, 10**9])
@pytest.mark.parametrize("in_parts", [True, False])
def test_the_most_rows_fit_and_one_more_does_not(room, in_parts, tiny_model, monkeypatch):
    """With a tenth to spare."""
    model = tiny_model(window=512)
    monkeypatch.setattr(memory, "_free", lambda device: room)
    most = memory.footprint(model).most_rows(500, in_parts)
    room = 0.9 * memory.generation(model, 1, 500, in_parts).available
    totals = [memory.generation(model, most + k, 500, in_parts).total for k in (0, 1)]
    assert most >= 1 and totals[0] <= room < totals[1]


def test_nothing_fits_or_nobody_can_tell(tiny_model, monkeypatch):
    """0 and None, which are not the same."""
    model = tiny_model(window=512)
    monkeypatch.setattr(memory, "_free", lambda device: 1000)
    assert memory.footprint(model).most_rows(500) == 0
    assert not memory.generation(model, 1, 500).fits
    monkeypatch.setattr(memory, "_free", lambda device: None)
    needs = memory.generation(model, 1, 500)
    assert memory.footprint(model).most_rows(500) is None and needs.fits and "unknown" in str(needs)


def test_what_a_loaded_model_holds_already_counts_as_there(tiny_model, monkeypatch):
    """Its weights are part of what is needed and of what is available."""
    monkeypatch.setattr(memory, "_free", lambda device: 1000)
    model = tiny_model(window=512)
    needs = memory.generation(model, 1, 500)
    assert needs.available == 1000 + needs.weights
    assert memory.generation(model.config, 1, 500, device="cpu").available == 1000


def test_counting_leaves_random_numbers_alone(tiny_model):
    """A probe in the middle of a training must not change it."""
    model = tiny_model(window=512, hidden_size=64)
    memory._counted.cache_clear()
    before = torch.get_rng_state()
    memory.generation(model, 1, 500)
    assert torch.equal(before, torch.get_rng_state())


def _prompts(lengths: list[int]) -> list[str]:
    return [" ".join(["a", "b"][(k * n) % 3 % 2] for k in range(n)) for n in lengths]


@pytest.mark.thinned
@pytest.mark.parametrize("name", ["llama", "gemma", "phi", "qwen3"])
@pytest.mark.parametrize("common", [0, 230])
@pytest.mark.parametrize("lengths", [[300, 260, 250, 240] * 4, [300] * 16, [300, 150] * 8])
def test_decoding_batches_takes_no_more_than_was_said(name, lengths, common, monkeypatch):
    """Prompts that differ in length or early: their ends are read for all rows at once, padded.

    What was said counted the part that is read first alone, and no mask.
    """
    from cream.inference import generation, kv_cache

    monkeypatch.setattr(memory, "AT_ONCE", 320)
    monkeypatch.setattr(kv_cache, "AT_ONCE", 320)
    config = tiny_models.config(name, num_attention_heads=4, max_position_embeddings=512)
    model, words = models.create(config, seed=0), tiny_models.tokenizer()
    words.backend_tokenizer.pre_tokenizer = WhitespaceSplit()
    said, tails, real = [], [], generation._generate

    def kept(model, tokenizer, rows, shared, config, stop):
        width = max(map(len, rows))
        tail = generation._tail([len(row) for row in rows], shared)
        needs = memory.generation(model, len(rows), width + config.max_new_tokens, tail=tail)
        with Peak() as peak:
            found = real(model, tokenizer, rows, shared, config, stop)
        said.append((peak.most, needs.cache + needs.activations))
        tails.append(tail)
        return found

    monkeypatch.setattr(generation, "_generate", kept)
    monkeypatch.setattr(generation, "_MOST_TOKENS", {"cpu": None, "cuda": None})
    monkeypatch.setattr(generation, "_WASTE", {"cpu": 1.0, "cuda": 1.0})
    prompts = ["c " * min(common, n) + text[2 * common :]
               for n, text in zip(lengths, _prompts(lengths), strict=True)]  # fmt: skip
    list(generation.greedy(model, words, prompts, 3, min_new_tokens=3))
    assert max(tails) > 30 if common and len(set(lengths)) == 4 else max(tails) < 80
    assert said and all(most <= wanted for most, wanted in said), said


def test_ends_that_are_read_together_count():
    """By shapes alone: 64 rows whose last 2,000 tokens differ, of 4,096."""
    config = LlamaConfig(hidden_size=256, intermediate_size=688, num_attention_heads=4)
    about = memory.footprint(config, device="cpu")
    alike, apart = (about.needs(64, 4096, tail=tail) for tail in (1, 2000))
    assert apart.activations - alike.activations > 64 * 2000 * 4096 * 3  # the mask of their ends
    assert about.needs(1, 4096, tail=4096).activations == about.needs(1, 4096).activations
    grouped = LlamaConfig(
        hidden_size=256, intermediate_size=688, num_attention_heads=4, num_key_value_heads=1
    )
    more = memory.footprint(grouped, device="cpu").needs(64, 4096, tail=2)
    repeated = 64 * 4096 * 2 * 256 * 2  # keys and values of one layer for every head, bfloat16
    less = memory.footprint(grouped, device="cpu").needs(64, 4096, tail=0)
    assert more.activations - less.activations >= repeated
