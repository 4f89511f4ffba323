"""On a GPU as on the CPU: documents read in tiles and after a cache, prompts decoded together.

In float32, the dtype that small models get: equal but for the order of sums.
"""

from __future__ import annotations

import numpy as np
import pytest
import tiny_models
import torch

from cream import models, rope
from cream.inference.generation import greedy
from cream.inference.likelihood import cached_log_likelihood, log_likelihood
from cream.inference.tiling import Tiling

NEAR = 1e-4  # nats a token
FAMILIES = sorted(tiny_models.FAMILIES)


@pytest.fixture
def document() -> np.ndarray:
    return np.random.default_rng(0).integers(2, tiny_models.VOCABULARY, 150)


def made(family: str, device: torch.device) -> torch.nn.Module:
    grouped = {} if family == "gpt_neox" else {"num_key_value_heads": 2}
    config = tiny_models.config(
        family, num_attention_heads=4, max_position_embeddings=512, **grouped
    )
    return models.create(config, 0).to(device)


def by_logits(model: torch.nn.Module, document: np.ndarray) -> np.ndarray:
    """The losses of one whole forward, from its full logits."""
    ids = torch.from_numpy(document).to(model.device)
    with torch.inference_mode():
        logits = model(ids[None], use_cache=False).logits[0, :-1].double()
    return torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none").cpu().numpy()


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_in_parts_are_those_of_one_whole_forward(device, document, family):
    """The head over 7 tokens at a time; layers in tiles, attention head by head; after a cache."""
    model = made(family, device)
    wanted = by_logits(model, document)
    for tiling in (None, Tiling(tokens=32, heads=1), Tiling(tokens=64, heads=2)):
        found = log_likelihood(model, document, chunk=7, tiling=tiling)
        np.testing.assert_allclose(found, wanted, atol=NEAR)
    runs = list(cached_log_likelihood(model, document, 40))
    parts = [wanted[start : start + 39] for start in range(0, 150, 40)]
    np.testing.assert_allclose(np.concatenate(runs), np.concatenate(parts), atol=NEAR)


@pytest.mark.gpu
@pytest.mark.parametrize("family", FAMILIES)
def test_losses_on_a_gpu_are_those_of_the_cpu(document, family):
    found = by_logits(made(family, torch.device("cuda")), document)
    np.testing.assert_allclose(found, by_logits(made(family, torch.device("cpu")), document),
                               atol=NEAR)  # fmt: skip


@pytest.mark.gpu
def test_long_losses_in_tiles_by_the_kernels_of_a_gpu():
    """16,384 tokens in bfloat16, where tiles, heads and head chunks are all many: the mean loss."""
    config = tiny_models.config("llama", hidden_size=256, num_attention_heads=4, vocab_size=4096,
                                max_position_embeddings=16_384, initializer_range=0.05)  # fmt: skip
    model = models.create(config, 0).to("cuda", torch.bfloat16)
    ids = np.random.default_rng(0).integers(2, 4096, 16_384)
    whole = log_likelihood(model, ids, tiling=None)
    for how in (Tiling(tokens=4096, heads=1), Tiling(tokens=5000, heads=2)):
        assert log_likelihood(model, ids, tiling=how).mean() == pytest.approx(whole.mean(), 1e-3)


def one_by_one(model, tokenizer, prompts: list[str], new_tokens: int) -> list[tuple[int, ...]]:
    """Each prompt by itself through transformers' own `generate`."""
    found = []
    for prompt in prompts:
        ids = torch.tensor([tokenizer(prompt)["input_ids"]], device=model.device)
        out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False,
                             max_new_tokens=new_tokens, pad_token_id=1)  # fmt: skip
        found.append(tuple(out[0, ids.shape[1] :].tolist()))
    return found


@pytest.mark.parametrize("scaling", ["none", "linear", "yarn"])
def test_prompts_decoded_together_give_what_generate_gives_of_each(
    device, tiny_model, tiny_tokenizer, scaling
):
    """Padded, with a common beginning read once, and in batches of every size."""
    config = tiny_model(window=64, eos_token_id=None).config
    scaled = models.extend(config, rope.scaling(scaling, 1 if scaling == "none" else 8))
    model = models.create(scaled, seed=0).to(device)
    rng = np.random.default_rng(0)
    record = " ".join(f"word{n}" for n in rng.integers(0, 10, 30))
    prompts = [f"{record} {n}" for n in range(3)]
    prompts += [" ".join(["word"] * length) for length in (3, 40, 7, 21)]
    wanted = one_by_one(model, tiny_tokenizer, prompts, 12)
    assert len(set(wanted)) > 3
    for size in ("auto", 1, 4):
        done = greedy(model, tiny_tokenizer, prompts, 12, batch_size=size, allow_beyond=True)
        assert {one.index: one.tokens for one in done} == dict(enumerate(wanted))
