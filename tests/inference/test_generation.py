"""Decoding and scoring: equal to doing it one at a time, in double precision, the slow way."""

import functools
import math

import numpy as np
import pytest
import tiny_models
import torch
from transformers import DynamicCache, GenerationConfig, LlamaForCausalLM

from cream import models, rope
from cream.inference import generation, memory, stopping
from cream.inference.generation import greedy
from cream.inference.kv_cache import keeps_all, read_heads
from cream.inference.likelihood import log_likelihood

scalings = pytest.mark.parametrize("scaling", tiny_models.STOCK_KINDS)


def scaled(tiny_model, scaling: str, **changes: object) -> LlamaForCausalLM:
    """A random model of window 64 whose positions are stretched 8 times."""
    config = tiny_model(window=64, eos_token_id=None, **changes).config
    return models.create(models.extend(config, rope.scaling(scaling, 8)), seed=0)


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


@pytest.fixture(scope="module")
def told(tiny_model, tiny_tokenizer):
    """What `by_hand` gives 12 tokens after a prompt, by scaling: computed once for all sizes."""

    @functools.cache
    def tell(scaling: str, prompt: str) -> tuple[int, ...]:
        return tuple(by_hand(scaled(tiny_model, scaling), tiny_tokenizer, prompt, 12))

    return tell


@pytest.mark.thinned
@scalings
@pytest.mark.parametrize("batch_size", ["auto", 1, 4])
def test_batches_give_the_tokens_of_one_at_a_time(
    scaling, batch_size, tiny_model, tiny_tokenizer, told
):
    model = scaled(tiny_model, scaling)
    prompts = prompts_of([3, 40, 7, 40, 21, 1, 33, 37, 38])
    answers = greedy(model, tiny_tokenizer, prompts, 12, batch_size=batch_size, allow_beyond=True)
    done = list(answers)
    assert sorted(one.index for one in done) == list(range(len(prompts)))
    assert max(one.num_prompt_tokens for one in done) > 64
    for one in done:
        ids = told(scaling, prompts[one.index])
        assert one.tokens == ids
        assert one.text == tiny_tokenizer.decode(ids, skip_special_tokens=True)
        assert one.num_prompt_tokens == len(tiny_tokenizer(prompts[one.index])["input_ids"])


def test_the_longest_come_first(tiny_model, tiny_tokenizer):
    prompts = prompts_of([3, 40, 7, 21])
    done = list(greedy(tiny_model(window=256), tiny_tokenizer, prompts, 3, batch_size=2))
    lengths = [one.num_prompt_tokens for one in done]
    assert lengths == sorted(lengths, reverse=True)


def test_the_stop_string_ends_a_row_and_its_tail_is_cut(tiny_model, tiny_tokenizer):
    model = tiny_model(window=256, eos_token_id=None)
    prompts = prompts_of([5, 9, 13, 17])
    free = {one.index: one.text for one in greedy(model, tiny_tokenizer, prompts, 20)}
    stop = free[0][4:6]
    stopped = greedy(model, tiny_tokenizer, prompts, 20, stop=stop, batch_size=4)
    for one in stopped:
        assert one.text == stopping.cut(free[one.index], stop)
        kept = tiny_tokenizer.decode(one.tokens, skip_special_tokens=True)
        assert kept.startswith(one.text) and (stop not in kept[: len(one.text) - 1])


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


def many_records(tokenizer) -> list[str]:
    """Records of like length with questions, two other lengths, and prompts by themselves."""
    prompts = [*record_with_questions(tokenizer, 1, 5), *prompts_of([30, 9, 31])]
    return prompts + record_with_questions(tokenizer, 2, 3) + record_with_questions(tokenizer, 3, 4)


@pytest.fixture(scope="module")
def of_records(tiny_model, tiny_tokenizer):
    """The answers to `many_records` in batches of a size, and how many tokens were read."""

    @functools.cache
    def ask(scaling: str, size: int | str) -> tuple[dict[int, tuple[int, ...]], int]:
        model, prompts = scaled(tiny_model, scaling), many_records(tiny_tokenizer)
        read = read_of(model)
        done = greedy(model, tiny_tokenizer, prompts, 12, batch_size=size, allow_beyond=True)
        return {one.index: one.tokens for one in done}, sum(math.prod(shape) for shape in read)

    return ask


@pytest.mark.thinned
@scalings
@pytest.mark.parametrize("batch_size", ["auto", 3, 64])
def test_a_shared_beginning_is_read_once_and_changes_nothing(
    scaling, batch_size, tiny_tokenizer, of_records, told
):
    prompts = many_records(tiny_tokenizer)
    together, read = of_records(scaling, batch_size)
    alone, read_alone = of_records(scaling, 1)
    assert together == alone
    assert read < (0.5 if batch_size != 3 else 0.75) * read_alone
    assert len(tiny_tokenizer(prompts[0])["input_ids"]) > 64
    for index in (0, 7, 9):
        assert alone[index] == told(scaling, prompts[index])


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_every_family_gives_in_batches_what_it_gives_alone(family, tiny_tokenizer):
    """Grouped heads, sliding windows, head sizes of their own, experts; beyond the window."""
    changes = {"vocab_size": 600, "eos_token_id": None, "pad_token_id": 1}
    if family == "mistral":
        changes["sliding_window"] = 16
    model = models.create(tiny_models.config(family, **changes), seed=0)
    prompts = many_records(tiny_tokenizer)
    done = greedy(model, tiny_tokenizer, prompts, 6, batch_size=8, allow_beyond=True)
    found = {one.index: one.tokens for one in done}
    assert keeps_all(model) == (family != "mistral")
    assert found == {
        i: tuple(by_hand(model, tiny_tokenizer, prompt, 6)) for i, prompt in enumerate(prompts)
    }


def test_layers_that_take_turns_share_nothing(tiny_tokenizer):
    config = tiny_models.alternating(vocab_size=600, eos_token_id=None, pad_token_id=1)
    model = models.create(config, seed=0)
    prompts = many_records(tiny_tokenizer)[:8]
    done = greedy(model, tiny_tokenizer, prompts, 6, batch_size=8, allow_beyond=True)
    assert not keeps_all(model)
    for one in done:
        assert one.tokens == tuple(by_hand(model, tiny_tokenizer, prompts[one.index], 6))


def test_a_batchs_memory_is_taken_once(tiny_model, tiny_tokenizer, monkeypatch):
    """Room for every token from the start, and nothing of it is copied while decoding."""
    model = tiny_model(window=512, eos_token_id=None)
    caches, places = [], []
    made = generation.read_heads

    def kept(*given: object) -> DynamicCache:
        caches.append(made(*given))
        places.append([layer.keys.data_ptr() for layer in caches[-1].layers])
        return caches[-1]

    monkeypatch.setattr(generation, "read_heads", kept)
    prompts = record_with_questions(tiny_tokenizer, 1, 5)
    assert len(list(greedy(model, tiny_tokenizer, prompts, 12))) == 5
    (cache,), (before,) = caches, places
    assert [layer.keys.data_ptr() for layer in cache.layers] == before
    longest = max(len(tiny_tokenizer(prompt)["input_ids"]) for prompt in prompts)
    for layer in cache.layers:
        assert layer.all_keys.shape == layer.all_values.shape == (5, 2, longest + 12, 16)
        assert layer.keys.shape[-2] == longest + 11  # the last token is never read


@pytest.mark.parametrize("at_once", [1, 40, 100, 10_000])
@pytest.mark.parametrize("lengths", [(20, 20, 20, 20), (17, 18, 20, 3), (20, 1, 0, 12)])
def test_heads_are_read_in_parts_and_given_to_all_their_rows(
    at_once, lengths, tiny_model, monkeypatch
):
    """Each row's cache is the one it would have alone; no part is larger than was allowed."""
    monkeypatch.setattr("cream.inference.kv_cache.AT_ONCE", at_once)
    model, rng = tiny_model(window=64), np.random.default_rng(0)
    heads = [rng.integers(2, 600, length) for length in lengths]
    order = (2, 2, 2, 0, 1, 1, 3)
    rows, shared = [np.append(heads[h], 5) for h in order], [lengths[h] for h in order]
    sizes = []
    model.model.register_forward_pre_hook(
        lambda _, args, kwargs: sizes.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    with torch.inference_mode():
        cache = read_heads(model, rows, shared, 30)
        assert cache.get_seq_length() == 20
        assert sum(rows for rows, _ in sizes) == 4
        assert all(rows * tokens <= max(at_once, 20) for rows, tokens in sizes)
        for place, own in enumerate(shared):
            if not own:
                continue
            alone = DynamicCache(config=model.config)
            ids = torch.from_numpy(rows[place][None, :own])
            model.model(input_ids=ids, past_key_values=alone, use_cache=True)
            for ours, theirs in zip(cache.layers, alone.layers, strict=True):
                torch.testing.assert_close(ours.keys[place, :, :own], theirs.keys[0])
                torch.testing.assert_close(ours.values[place, :, :own], theirs.values[0])
                assert ours.all_keys.isfinite().all() and ours.all_values.isfinite().all()


def ragged(tokenizer) -> list[str]:
    """Records of other lengths with questions of other lengths, and prompts that share nothing."""
    texts = [prompts_of([length], seed=length)[0] for length in (60, 52, 57)]
    ends = ["?", "word1 word2?", "word3?", "word4 " * 9]
    asked = [f"{text} ask {end}" for text in texts for end in ends]
    return [*asked, *prompts_of([64, 1, 55, 59, 0])]


def read_of(model) -> list[tuple[int, ...]]:
    """A list to which the shape of what a forward reads is appended."""
    read: list[tuple[int, ...]] = []
    model.model.register_forward_pre_hook(
        lambda _, args, kwargs: read.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    return read


@pytest.fixture(scope="module")
def ragged_alone(tiny_model, tiny_tokenizer):
    """The answers to `ragged` one at a time, by scaling, and the fewest tokens of a prompt."""

    @functools.cache
    def ask(scaling: str) -> tuple[dict[int, tuple[int, ...]], int]:
        model, prompts = scaled(tiny_model, scaling), ragged(tiny_tokenizer)
        done = list(greedy(model, tiny_tokenizer, prompts, 12, batch_size=1, allow_beyond=True))
        return {one.index: one.tokens for one in done}, min(one.num_prompt_tokens for one in done)

    return ask


@pytest.mark.thinned
@scalings
@pytest.mark.parametrize("first", [0, 12])
def test_rows_of_any_lengths_and_beginnings_give_what_they_give_alone(
    scaling, first, tiny_model, tiny_tokenizer, ragged_alone, monkeypatch
):
    """In one batch, down to a prompt of one token; what shares nothing ends in one token a row."""
    alone, fewest = ragged_alone(scaling)
    monkeypatch.setattr(generation, "_WASTE", {"cpu": 100.0, "cuda": 100.0})
    model, prompts = scaled(tiny_model, scaling), ragged(tiny_tokenizer)[first:]
    assert fewest == 1
    read = read_of(model)
    found = greedy(model, tiny_tokenizer, prompts, 12, batch_size=64, allow_beyond=True)
    assert {first + one.index: one.tokens for one in found} == {
        index: tokens for index, tokens in alone.items() if index >= first
    }
    assert len(read) == 13 and read[1][0] == len(prompts)
    assert (read[1][1] == 1) == (first == 12)


def test_what_a_row_holds_between_its_parts_does_not_matter(
    tiny_model, tiny_tokenizer, monkeypatch
):
    """Anything finite behind a row's own beginning leaves its answer as it is."""
    monkeypatch.setattr(generation, "_WASTE", {"cpu": 100.0, "cuda": 100.0})
    model, prompts = scaled(tiny_model, "yarn"), ragged(tiny_tokenizer)
    how = {"batch_size": 64, "allow_beyond": True}
    wanted = {one.index: one.tokens for one in greedy(model, tiny_tokenizer, prompts, 12, **how)}
    spoiled, read = [], generation.read_heads

    def rubbish(model, rows, shared, room) -> DynamicCache:
        cache = read(model, rows, shared, room)
        for place, own in enumerate(shared):
            spoiled.append(max(shared) - own)
            for layer in cache.layers:
                layer.all_keys[place, :, own:] = layer.all_values[place, :, own:] = 1e4
        return cache

    monkeypatch.setattr(generation, "read_heads", rubbish)
    found = greedy(model, tiny_tokenizer, prompts, 12, **how)
    assert {one.index: one.tokens for one in found} == wanted
    assert sum(one > 0 for one in spoiled) > 8


# ------------------------------------------------------------------------------------- memory


class Small:
    """A model that runs out of memory above so many rows, and says what was tried."""

    def __init__(self, model: LlamaForCausalLM, most: int, error: Exception) -> None:
        self.generate, self.most, self.error, self.tried = model.generate, most, error, []
        model.generate = self

    def __call__(self, input_ids: torch.Tensor, **options: object) -> torch.Tensor:
        self.tried.append(len(input_ids))
        if len(input_ids) > self.most:
            raise self.error
        return self.generate(input_ids, **options)


CPU_SAYS = (
    "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory"
)
errors = pytest.mark.parametrize(
    "error", [torch.cuda.OutOfMemoryError("CUDA out of memory"), RuntimeError(CPU_SAYS)]
)


@pytest.mark.thinned
@errors
@pytest.mark.parametrize("share", [True, False])
def test_out_of_memory_halves_the_batch_from_there_on(
    error, share, tiny_model, tiny_tokenizer, caplog
):
    model = tiny_model(window=512, eos_token_id=None)
    lengths = [30, 30, 30, 30, 30, 30, 30, 20, 20, 20, 20, 20, 20]
    prompts = prompts_of(lengths)
    if share:
        prompts = [p for r in (1, 2, 3) for p in record_with_questions(tiny_tokenizer, r, 4)]
        prompts.append(prompts[0][:60])
    alone = {o.index: o.tokens for o in greedy(model, tiny_tokenizer, prompts, 5, batch_size=1)}
    small = Small(model, 3, error)
    done = {o.index: o.tokens for o in greedy(model, tiny_tokenizer, prompts, 5, batch_size=8)}
    assert done == alone
    first = small.tried[0]
    assert first in (7, 8) and small.tried[1:2] == [first // 2]
    assert sum(rows > 3 for rows in small.tried) == (2 if first == 8 else 1)
    assert sum(rows for rows in small.tried if rows <= 3) == len(prompts)
    assert "from here on at most" in caplog.text


def test_halves_of_a_batch_of_any_lengths_give_what_they_give_alone(
    tiny_model, tiny_tokenizer, monkeypatch
):
    """Down to single prompts; a record's questions are torn apart."""
    monkeypatch.setattr(generation, "_WASTE", {"cpu": 100.0, "cuda": 100.0})
    model, prompts = scaled(tiny_model, "yarn"), ragged(tiny_tokenizer)
    how = {"allow_beyond": True}
    alone = greedy(model, tiny_tokenizer, prompts, 12, batch_size=1, **how)
    wanted = {one.index: one.tokens for one in alone}
    small = Small(model, 16, torch.cuda.OutOfMemoryError("CUDA out of memory"))
    for most in (16, 7, 3, 1):
        small.most = most
        done = greedy(model, tiny_tokenizer, prompts, 12, batch_size=64, **how)
        assert {one.index: one.tokens for one in done} == wanted
    assert small.tried[:2] == [17, 8] and small.tried[-1] == 1


@errors
def test_one_prompt_that_runs_out_of_memory_is_an_error_with_the_arithmetic(
    error, tiny_model, tiny_tokenizer
):
    model = tiny_model(window=512)
    Small(model, 0, error)
    done = greedy(model, tiny_tokenizer, prompts_of([9, 9, 9]), 5)
    with pytest.raises(RuntimeError) as raised:
        next(done)
    (note,) = raised.value.__notes__
    assert "Not even one prompt" in note and "KV cache" in note


def test_other_errors_are_not_tried_again(tiny_model, tiny_tokenizer):
    model = tiny_model(window=512)
    small = Small(model, 0, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes"):
        next(greedy(model, tiny_tokenizer, prompts_of([9, 9, 9]), 5))
    assert small.tried == [3]


def with_free(monkeypatch, model: LlamaForCausalLM, rows: float, tokens: int) -> None:
    """Let there be memory for so many rows."""
    one, two = (memory.generation(model, n, tokens).total for n in (1, 2))
    weights = memory.generation(model, 1, tokens).weights
    monkeypatch.setattr(memory, "_free", lambda _: int(one + (rows - 1) * (two - one)) - weights)


def test_what_cannot_fit_is_refused_before_compute(tiny_model, tiny_tokenizer, monkeypatch):
    model = tiny_model(window=512)
    prompts = prompts_of([40, 40])
    tokens = len(tiny_tokenizer(prompts[0])["input_ids"]) + 5
    model.generate = model.model.forward = None
    with_free(monkeypatch, model, 0.9, tokens)
    with pytest.raises(
        MemoryError, match=r"1 prompt of \d+ tokens: weights .* shorten the prompts"
    ):
        greedy(model, tiny_tokenizer, prompts[:1], 5)
    with_free(monkeypatch, model, 5, tokens)
    with pytest.raises(MemoryError, match=r"8 prompts at once .*set batch_size to [34] or 'auto'"):
        greedy(model, tiny_tokenizer, prompts[:1] * 8, 5, batch_size=8)


def test_auto_takes_as_many_as_fit(tiny_model, tiny_tokenizer, monkeypatch):
    model = tiny_model(window=512)
    prompts = prompts_of([40] * 12)
    small = Small(model, 100, RuntimeError())
    tokens = max(len(ids) for ids in tiny_tokenizer(prompts)["input_ids"]) + 5
    with_free(monkeypatch, model, 7, tokens)
    assert len(list(greedy(model, tiny_tokenizer, prompts, 5))) == 12
    most = memory.footprint(model).most_rows(tokens)
    assert 4 <= most < 8 and max(small.tried) == most


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


def test_what_a_model_does_with_its_logits_is_followed_and_a_stranger_one_refused(tiny_model):
    """Logits doubled after the head (Cohere, Granite), and logits that hang on the tokens."""
    model, ids = tiny_model(window=64), np.arange(2, 40)
    forward, plain = model.forward, model(torch.tensor(ids)[None]).logits[0, :-1].double()

    def changed(input_ids: torch.Tensor, **kwargs: object):
        out = forward(input_ids=input_ids, **kwargs)
        out.logits = out.logits * 2 + (input_ids[..., None] if stranger else 0)
        return out

    model.forward, stranger = changed, False
    wanted = torch.nn.functional.cross_entropy(2 * plain, torch.tensor(ids[1:]), reduction="none")
    np.testing.assert_allclose(log_likelihood(model, ids, 7), wanted.detach(), atol=1e-4)
    stranger = True
    with pytest.raises(ValueError, match="llama are not its head"):
        log_likelihood(model, ids)


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


def test_a_stop_string_is_not_said_before_the_least_length(tiny_model, tiny_tokenizer):
    """As with an end token: LongBench's samsum forbids newlines for its first 40 tokens."""
    model, prompt = tiny_model(256), "Dialogue: a\nSummary:"
    ids = tiny_tokenizer(prompt, return_tensors="pt")["input_ids"]
    how = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 1}
    free = model.generate(ids, **how)[0, ids.shape[1] :].tolist()
    texts = {token: tiny_tokenizer.decode([token]) for token in free[:4]}
    encoded = {t: tiny_tokenizer.encode(s, add_special_tokens=False) for t, s in texts.items()}
    token = next(t for t, again in encoded.items() if again == [t])
    wanted = model.generate(ids, **how, min_new_tokens=6, eos_token_id=[1, token])
    wanted = wanted[0, ids.shape[1] :].tolist()
    (one,) = greedy(model, tiny_tokenizer, [prompt], 12, stop=texts[token], min_new_tokens=6)
    assert token in free[:4] and token not in wanted[:6]
    assert one.text == tiny_tokenizer.decode(wanted, skip_special_tokens=True)
