"""Decoding and scoring: equal to doing it one at a time, in double precision, the slow way."""

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from cream import batching, inference
from cream.inference import greedy, log_likelihood

SCALINGS = {
    "none": {},
    "linear": {"rope_parameters": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e4}},
    "yarn": {
        "rope_parameters": {
            "rope_type": "yarn",
            "factor": 8.0,
            "rope_theta": 1e4,
            "original_max_position_embeddings": 64,
        }
    },
}


def prompts_of(lengths: list[int], seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(f"word{rng.integers(10)}" for _ in range(length)) for length in lengths]


def by_hand(model, tokenizer, prompt: str, new_tokens: int) -> list[int]:
    """Greedy decoding without cache, padding, batches or `generate`."""
    ids = tokenizer(prompt)["input_ids"]
    for _ in range(new_tokens):
        with torch.inference_mode():
            ids = [*ids, int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())]
    return ids[-new_tokens:]


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("batch_size", ["auto", 1, 4])
def test_batches_give_the_tokens_of_one_at_a_time(scaling, batch_size, tiny_model, tiny_tokenizer):
    model = tiny_model(window=512, eos_token_id=None, **SCALINGS[scaling])
    prompts = prompts_of([3, 40, 7, 40, 21, 1, 33])
    done = list(greedy(model, tiny_tokenizer, prompts, 12, batch_size=batch_size))
    assert sorted(one.index for one in done) == list(range(len(prompts)))
    lengths = [one.num_prompt_tokens for one in done]
    assert lengths == sorted(lengths, reverse=True) and max(lengths) > 64
    for one in done:
        ids = by_hand(model, tiny_tokenizer, prompts[one.index], 12)
        assert one.text == tiny_tokenizer.decode(ids, skip_special_tokens=True)
        assert one.num_prompt_tokens == len(tiny_tokenizer(prompts[one.index])["input_ids"])


def test_the_stop_string_ends_a_row_and_its_tail_is_cut(tiny_model, tiny_tokenizer):
    model = tiny_model(window=256, eos_token_id=None)
    prompts = prompts_of([5, 9, 13, 17])
    free = {one.index: one.text for one in greedy(model, tiny_tokenizer, prompts, 20)}
    stop = free[0][4:6]
    stopped = greedy(model, tiny_tokenizer, prompts, 20, stop=stop, batch_size=4)
    for one in stopped:
        assert one.text == inference.cut(free[one.index], stop)
    assert inference.cut("12>3>", ">") == "12>" and inference.cut("12", ">") == "12"


def test_stopping_saves_steps(tiny_model, tiny_tokenizer):
    model = tiny_model(window=256, eos_token_id=None)
    steps = []
    model.lm_head.register_forward_hook(lambda *_: steps.append(1))
    text = next(greedy(model, tiny_tokenizer, ["word1"], 40)).text
    assert len(steps) == 40
    steps.clear()
    next(greedy(model, tiny_tokenizer, ["word1"], 40, stop=text[0]))
    assert len(steps) <= 2


def test_settings_of_the_models_generation_config_do_not_apply(tiny_model, tiny_tokenizer):
    model = tiny_model(window=256, eos_token_id=None)
    prompts = prompts_of([5, 9])
    wanted = [one.text for one in greedy(model, tiny_tokenizer, prompts, 10)]
    own = GenerationConfig(do_sample=True, temperature=5.0, top_k=3, repetition_penalty=9.0)
    model.generation_config = own
    assert [one.text for one in greedy(model, tiny_tokenizer, prompts, 10)] == wanted
    assert model.generation_config is own


def test_an_end_token_ends_a_row_not_its_batch(tiny_model, tiny_tokenizer):
    prompts = prompts_of([5, 9, 13])
    model = tiny_model(window=256, eos_token_id=None)
    ids = {i: by_hand(model, tiny_tokenizer, prompt, 10) for i, prompt in enumerate(prompts)}
    eos = ids[0][3]
    model.generation_config.eos_token_id = eos
    for one in greedy(model, tiny_tokenizer, prompts, 10, batch_size=3):
        kept = ids[one.index]
        kept = kept[: kept.index(eos) + 1] if eos in kept else kept
        assert one.text == tiny_tokenizer.decode(kept, skip_special_tokens=True)


def test_batches_finish_one_by_one(tiny_model, tiny_tokenizer):
    model = tiny_model(window=256)
    calls = []
    generate = model.generate
    model.generate = lambda *a, **k: calls.append(1) or generate(*a, **k)
    done = greedy(model, tiny_tokenizer, prompts_of([5, 9, 13]), 3, batch_size=1)
    assert not calls
    next(done)
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 30}, "63 tokens and 30 new ones exceed the model's window of 64"),
        ({"max_new_tokens": 0}, "max_new_tokens 0"),
        ({"max_new_tokens": 1, "batch_size": 0}, "batch_size 0"),
        ({"max_new_tokens": 1, "batch_size": "large"}, "batch_size 'large'"),
    ],
)
def test_bad_input_is_refused_before_compute(options, message, tiny_model, tiny_tokenizer):
    prompt = tiny_tokenizer.decode([40] * 62)
    assert len(tiny_tokenizer(prompt)["input_ids"]) == 63
    with pytest.raises(ValueError, match=message):
        greedy(tiny_model(window=64), tiny_tokenizer, [prompt], **options)


def test_a_model_can_be_questioned_beyond_its_window(tiny_model, tiny_tokenizer):
    prompt = prompts_of([80])
    done = list(greedy(tiny_model(64), tiny_tokenizer, prompt, 4, allow_beyond=True))
    assert done[0].num_prompt_tokens > 64


def test_no_prompts_give_no_completions(tiny_model, tiny_tokenizer):
    assert list(greedy(tiny_model(64), tiny_tokenizer, [], 4)) == []


# ------------------------------------------------------------------------- shared beginnings


def record_with_questions(tokenizer, record: int, questions: int) -> list[str]:
    text = prompts_of([60], seed=record)[0]
    return [f"{text} ask {'word' * (q % 3)}{q}?" for q in range(questions)]


@pytest.mark.parametrize("scaling", SCALINGS)
def test_a_shared_beginning_is_read_once_and_changes_nothing(scaling, tiny_model, tiny_tokenizer):
    model = tiny_model(window=512, eos_token_id=None, **SCALINGS[scaling])
    prompts = [*record_with_questions(tiny_tokenizer, 1, 5), *prompts_of([30, 9])]
    prompts += record_with_questions(tiny_tokenizer, 2, 3)
    read = []
    model.model.register_forward_pre_hook(
        lambda _, args, kwargs: read.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    together = {one.index: one.text for one in greedy(model, tiny_tokenizer, prompts, 12)}
    tokens_together = sum(read)
    read.clear()
    alone = {
        one.index: one.text for one in greedy(model, tiny_tokenizer, prompts, 12, batch_size=1)
    }
    assert together == alone
    assert tokens_together < 0.5 * sum(read)
    assert len(tiny_tokenizer(prompts[0])["input_ids"]) > 64


def test_a_cache_that_forgets_is_not_shared(tiny_tokenizer):
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=600,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        sliding_window=16,
        initializer_range=0.2,
        eos_token_id=None,
        pad_token_id=1,
    )
    model = MistralForCausalLM(config).eval()
    prompts = record_with_questions(tiny_tokenizer, 1, 4)
    assert all(b.shared == 0 for b in batching.plan([[1] * 50 + [k] for k in range(4)], 4, model))
    done = {one.index: one.text for one in greedy(model, tiny_tokenizer, prompts, 6)}
    assert done == {
        i: tiny_tokenizer.decode(by_hand(model, tiny_tokenizer, prompt, 6)).split("</s>")[0]
        for i, prompt in enumerate(prompts)
    }


# ------------------------------------------------------------------------------ log-likelihood


def reference(model, ids: np.ndarray) -> np.ndarray:
    logits = model.double()(torch.tensor(ids)[None], use_cache=False).logits[0].detach()
    loss = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(ids[1:]), reduction="none")
    return loss.numpy()


@pytest.mark.parametrize("chunk", [1, 7, 4096])
@pytest.mark.parametrize("first_scored", [1, 50])
def test_losses_equal_a_double_precision_reference(chunk, first_scored, tiny_model):
    ids = np.random.default_rng(0).integers(2, 600, size=200)
    model = tiny_model(window=200, initializer_range=0.02)
    losses = log_likelihood(model, ids, chunk, first_scored)
    assert losses.dtype == np.float64 and losses.shape == (200 - first_scored,)
    expected = reference(tiny_model(window=200, initializer_range=0.02), ids)[first_scored - 1 :]
    np.testing.assert_allclose(losses, expected, atol=1e-6, rtol=0)


def test_full_logits_never_exist(tiny_model):
    model, rows = tiny_model(window=400), []
    model.lm_head.register_forward_hook(lambda _, args, out: rows.append(out.shape[-2]))
    log_likelihood(model, np.arange(2, 402), chunk=32)
    assert max(rows) <= 32 and sum(rows) >= 399


def test_no_cache_is_built(tiny_model, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a key-value cache was made")

    monkeypatch.setattr("transformers.cache_utils.DynamicCache.update", refuse)
    log_likelihood(tiny_model(window=64), np.arange(2, 60))


def test_a_capped_head_is_followed_and_a_stranger_one_refused(tiny_model):
    model = tiny_model(window=64)
    forward = model.forward

    def doubled(*args: object, **kwargs: object):
        out = forward(*args, **kwargs)
        out.logits = out.logits * 2
        return out

    model.forward = doubled
    with pytest.raises(ValueError, match="llama are not its head"):
        log_likelihood(model, np.arange(2, 40))


@pytest.mark.parametrize(
    ("ids", "options", "message"),
    [
        (range(2, 67), {}, "65 tokens exceed the model's window of 64"),
        ([5], {}, "first_scored 1 must be from 1 to 0 for 1 tokens"),
        (range(2, 20), {"first_scored": 0}, "first_scored 0"),
        (range(2, 20), {"chunk": 0}, "chunk 0"),
    ],
)
def test_bad_documents_are_refused(ids, options, message, tiny_model):
    with pytest.raises(ValueError, match=message):
        log_likelihood(tiny_model(window=64), list(ids), **options)


def test_losses_that_are_not_finite_are_refused(tiny_model):
    model = tiny_model(window=64)
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        log_likelihood(model, np.arange(2, 40))
