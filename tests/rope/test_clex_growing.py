"""CLEX's growing cache against a loop of our own that keeps un-rotated keys, as the authors do."""

from __future__ import annotations

import math

import pytest
import tiny_models
import torch
from transformers import DynamicCache

from cream import models
from cream.inference import generation
from cream.rope import clex, clex_growing

N, T = tiny_models.WINDOW, 4
IDS = (torch.arange(3 * N) * 7 % 61 + 2)[None]
PROMPT = N - 6  # the first rise comes six tokens later


def made(tmp_path, family: str = "llama", **changes: object) -> torch.nn.Module:
    """Return a CLEX model whose matrices matter, of one or more layers."""
    base = models.create(tiny_models.config(family, **changes), seed=0)
    models.save(base, tiny_models.tokenizer(tiny_models.VOCABULARY - 5), tmp_path / "base")
    model = models.load(tmp_path / "base", scaling="clex", scale=T)
    torch.manual_seed(5)
    with torch.no_grad():
        for one in clex.layer_of(model).proj_func.parameters():
            one.normal_(0, 0.3 / math.sqrt(one.shape[1]))
    return model


@torch.no_grad()
def stepwise(model: torch.nn.Module, tokens: int, prompt: int = PROMPT) -> torch.Tensor:
    """Read a prompt and then one token after another; the logits of the last of each forward."""
    cache, found, at = DynamicCache(config=model.config), [], 0
    for end in range(prompt, tokens + 1):
        out = model(input_ids=IDS[:, at:end], past_key_values=cache, use_cache=True)
        found.append(out.logits[0, -1])
        at = end
    return torch.stack(found)


@torch.no_grad()
def by_hand(model: torch.nn.Module, tokens: int, prompt: int = PROMPT) -> torch.Tensor:
    """The authors' rule for a Llama, in float64: un-rotated keys kept, all turned at every step."""
    layer, config = clex.layer_of(model), model.config
    heads, size = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    kept: list[list[torch.Tensor]] = [[] for _ in model.model.layers]
    found, at = [], 0
    for end in range(prompt, tokens + 1):
        t = min(T, math.ceil(end / N))
        angle = torch.arange(end).double()[:, None] * layer.inv_freq_at((t,))[0]
        cos, sin = (torch.cat((x, x), -1) for x in (angle.cos(), angle.sin()))

        def turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
            half = x.shape[-1] // 2
            return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin

        hidden = model.model.embed_tokens(IDS[0, at:end])
        for number, block in enumerate(model.model.layers):
            normed, own = block.input_layernorm(hidden), block.self_attn
            q = own.q_proj(normed).view(-1, heads, size).transpose(0, 1)
            k, v = (p(normed).view(-1, 1, size).transpose(0, 1) for p in (own.k_proj, own.v_proj))
            kept[number].append((k, v))
            keys, values = (torch.cat(x, dim=1) for x in zip(*kept[number], strict=True))
            scores = turned(q, cos[at:], sin[at:]) @ turned(keys, cos, sin).mT / math.sqrt(size)
            late = torch.arange(end)[None] > torch.arange(at, end)[:, None]
            mixed = scores.masked_fill(late, -math.inf).softmax(-1) @ values
            hidden = hidden + own.o_proj(mixed.transpose(0, 1).reshape(end - at, -1))
            hidden = hidden + block.mlp(block.post_attention_layernorm(hidden))
        found.append(model.lm_head(model.model.norm(hidden))[-1])
        at = end
    return torch.stack(found)


def fresh(model: torch.nn.Module, tokens: int) -> torch.Tensor:
    """The last logits of one forward over so many tokens, at their own t."""
    with torch.no_grad(), clex.chosen(model, tokens):
        return model(input_ids=IDS[:, :tokens], use_cache=False).logits[0, -1]


def test_one_layer_is_a_fresh_forward_at_the_current_t(tmp_path):
    """Keys of the first layer come from embeddings, which no t has touched."""
    model = made(tmp_path, num_hidden_layers=1)
    with clex_growing.growing(model):
        grown = stepwise(model, 2 * N + 9)
    for number, tokens in enumerate(range(PROMPT, 2 * N + 10)):
        assert torch.allclose(grown[number], fresh(model, tokens), atol=2e-5), tokens


def test_more_layers_are_the_authors_rule_and_no_fresh_forward(tmp_path):
    model = made(tmp_path, num_hidden_layers=3)
    with clex_growing.growing(model):
        grown = stepwise(model, 2 * N + 9)
    double = models.load(tmp_path / "base", scaling="clex", scale=T).double()
    double.load_state_dict(model.state_dict())
    assert (grown - by_hand(double, 2 * N + 9)).abs().max() < 1e-4
    risen = N + 1 - PROMPT  # the first forward at t = 2
    assert torch.allclose(grown[risen - 1], fresh(model, N), atol=2e-5)
    assert (grown[risen] - fresh(model, N + 1)).abs().max() > 1e-2


def test_where_t_never_steps_both_rules_agree(tmp_path):
    model = made(tmp_path)
    with clex.chosen(model, N):
        usual = stepwise(model, N)
    with clex_growing.growing(model):
        grown = stepwise(model, N)
        again = stepwise(model, N + 1)
    assert torch.equal(usual, grown)
    with clex.chosen(model, N + 1):
        usual = stepwise(model, N + 1)
    assert (usual - again).abs().max() > 1e-3  # its one t is 2 from the start


def test_a_head_that_is_rotated_in_part(tmp_path):
    model = made(tmp_path, "phi", num_hidden_layers=1)
    with clex_growing.growing(model):
        grown = stepwise(model, N + 3)
    assert torch.allclose(grown[-1], fresh(model, N + 3), atol=2e-5)


def test_rows_of_one_length_and_a_cache_that_the_model_makes(tmp_path):
    model = made(tmp_path)
    both = torch.cat((IDS[:, :N], IDS[:, N : 2 * N]))
    with torch.no_grad(), clex_growing.growing(model):
        out = model(input_ids=both, use_cache=True)
        out = model(input_ids=both[:, :1], past_key_values=out.past_key_values, use_cache=True)
        alone = model(input_ids=both[:1], use_cache=True)
        alone = model(input_ids=both[:1, :1], past_key_values=alone.past_key_values)
    assert torch.allclose(out.logits[0], alone.logits[0], atol=1e-5)


def test_greedy_answers_alone_by_the_growing_rule(tmp_path, monkeypatch):
    model, tokenizer = made(tmp_path), models.load_tokenizer(tmp_path / "base")
    model.generation_config.eos_token_id = None
    tokenizer.eos_token = None
    prompts = [" ".join(f"w{k * 5 % 50}" for k in range(n)) for n in (N - 4, N - 4, 20)]
    with clex_growing.growing(model):
        found = {c.index: c.tokens for c in generation.greedy(model, tokenizer, prompts, 12)}
        for index, prompt in enumerate(prompts):
            ids, cache, given = generation.tokenize(tokenizer, prompt), DynamicCache(), []
            read = torch.tensor([ids])
            for _ in range(12):
                with torch.no_grad():
                    out = model(input_ids=read, past_key_values=cache, use_cache=True)
                given.append(int(out.logits[0, -1].argmax()))
                read = torch.tensor([[given[-1]]])
            assert list(found[index]) == given
    with pytest.raises(ValueError, match="no t is chosen"):
        model(input_ids=IDS[:, :4])


def test_what_it_cannot_do_is_refused(tmp_path):
    model, ids = made(tmp_path), IDS[:, :8]
    with clex.chosen(model, 8), torch.no_grad():
        filled = model(input_ids=ids, use_cache=True).past_key_values
    with torch.no_grad(), clex_growing.growing(model):
        mask = torch.ones_like(ids)
        mask[0, 0] = 0
        with pytest.raises(ValueError, match="padded"):
            model(input_ids=ids, attention_mask=mask)
        with pytest.raises(ValueError, match="positions are not 0 to 7"):
            model(input_ids=ids, position_ids=torch.arange(1, 9)[None])
        with pytest.raises(ValueError, match="outside of clex_growing"):
            model(input_ids=ids, past_key_values=filled)
        with pytest.raises(ValueError, match="grows already"):
            clex_growing.grow(model)
        cut = model(input_ids=IDS[:, :N], use_cache=True).past_key_values
        cut.layers[1].keys = cut.layers[1].keys[..., 1:, :]
        with pytest.raises(ValueError, match=f"layer 1 .* all {N} tokens"):
            model(input_ids=ids, past_key_values=cut)
    assert not clex_growing.is_growing(model)
    clex.choose(model, 8, t=2)
    with pytest.raises(ValueError, match="by number"):
        clex_growing.grow(model)
    plain = models.load(tmp_path / "base")
    with pytest.raises(ValueError, match="no CLEX"):
        clex_growing.grow(plain)


def test_log_scale_is_refused(tmp_path):
    models.save(models.create(tiny_models.config("llama"), seed=0), tiny_models.tokenizer(),
                tmp_path / "base")  # fmt: skip
    options = {"log_scale": True}
    model = models.load(tmp_path / "base", scaling="clex", scale=T, scaling_options=options)
    with pytest.raises(ValueError, match="log_scale is true"):
        clex_growing.grow(model)
