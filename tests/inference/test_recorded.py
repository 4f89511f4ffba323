"""Recorded steps: the tokens of `generate` by steps whose memory stays where it is.

On a CPU nothing can be recorded: there a recording is the step itself, computed again into the
memory of its first result. On a GPU it is a CUDA graph.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_models
import torch

from cream import models, rope
from cream.inference import recorded
from cream.inference.generation import greedy
from cream.inference.kv_cache import read_heads

LENGTHS = [3, 40, 7, 40, 21, 1, 33]
FAMILIES = sorted(set(tiny_models.FAMILIES) - {"mixtral"})  # it has experts


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let steps be "recorded" on a CPU; return a list that grows by one for each played."""
    return _recordings(monkeypatch, apart=0.0)


def _recordings(monkeypatch: pytest.MonkeyPatch, apart: float) -> list[int]:
    """`apart`: how far, of its size, what is played is from what is computed."""
    plays: list[int] = []

    def record(compute: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
        result = torch.zeros_like(compute())

        def replay() -> None:
            plays.append(1)
            result.copy_(compute().flip(-1) * apart + compute())

        return replay, result

    monkeypatch.setattr(recorded, "record", record)
    refused = recorded._distrusted
    monkeypatch.setattr(recorded, "obstacle", lambda model: "apart" if model in refused else None)
    return plays


def prompts() -> list[str]:
    return [" ".join(f"word{(7 * n + k) % 10}" for k in range(n)) for n in LENGTHS]


def made(family: str, scaling: str = "yarn") -> torch.nn.Module:
    grouped = {} if family == "gpt_neox" else {"num_key_value_heads": 2}
    config = tiny_models.config(
        family, num_attention_heads=4, max_position_embeddings=64, eos_token_id=None,
        vocab_size=600, **grouped,
    )  # fmt: skip
    return models.create(models.extend(config, rope.scaling(scaling, 8)), 0)


def answers(model, tokenizer, **how: object) -> dict[int, tuple[int, ...]]:
    found = greedy(model, tokenizer, prompts(), 12, allow_beyond=True, **how)
    return {one.index: one.tokens for one in found}


def computed(model, tokenizer, **how: object) -> dict[int, tuple[int, ...]]:
    with recorded.computed():
        return answers(model, tokenizer, **how)


@pytest.mark.thinned
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch_size", ["auto", 3])
def test_the_tokens_are_those_of_generate(family, batch_size, played, tiny_tokenizer):
    """Rows of many lengths, padded behind what is read before."""
    model = made(family)
    wanted = computed(model, tiny_tokenizer, batch_size=batch_size)
    assert not played
    assert answers(model, tiny_tokenizer, batch_size=batch_size) == wanted
    assert played
    assert "forward" not in vars(model)


def test_all_steps_but_two_are_played(played, tiny_tokenizer):
    """Of 12 new tokens two are computed, ten played: no prompt shares a beginning with another."""
    with recorded.counted() as taken:
        answers(made("llama"), tiny_tokenizer, batch_size=len(LENGTHS))
    assert len(played) == taken.played == 12 - recorded.CHECKED
    with recorded.counted() as taken:
        answers(made("llama"), tiny_tokenizer, batch_size=1)  # alone, nothing is read before
    assert taken.played == 0


@pytest.mark.parametrize(
    ("kind", "said", "tries"),
    [(torch.OutOfMemoryError, "could not be recorded and is computed: CUDA error", 2),
     (RuntimeError, "recorded (CUDA error): from here on the steps of this model are computed", 1)],
)  # fmt: skip
def test_a_step_that_cannot_be_recorded_is_computed_and_said(
    kind, said, tries, played, tiny_tokenizer, monkeypatch, caplog
):
    """Without memory the next batch is tried again; after any other error none is."""
    tried = []

    def fail(compute: Callable[[], torch.Tensor]) -> None:
        tried.append(compute)
        raise kind("CUDA error")

    monkeypatch.setattr(recorded, "record", fail)
    model = made("llama")
    wanted = computed(model, tiny_tokenizer)
    assert answers(model, tiny_tokenizer) == answers(model, tiny_tokenizer) == wanted
    assert said in caplog.text and len(tried) == tries


def test_one_row_that_is_apart_is_enough():
    """Of 256, whose mean would hide it."""
    logits = torch.randn(256, 1, 50, generator=torch.Generator().manual_seed(0))
    logits = logits.to(torch.bfloat16)
    recorded._compare(logits, logits)
    other = logits.clone()
    other[7] = logits[8]
    with pytest.raises(recorded.Apart, match="apart from the same step computed"):
        recorded._compare(other, logits)


def test_rounding_is_believed_and_a_token_that_is_not_seen_is_not():
    """Of the shipped model, in the narrowest dtype that cards decode in."""
    base = Path(__file__).parents[2] / "data" / "miniature"
    tokens = torch.randint(5, 1000, (8, 300), generator=torch.Generator().manual_seed(0))
    places = torch.arange(300).expand(8, -1)
    unseen = torch.ones_like(tokens)
    unseen[:, -2] = 0
    narrow, wide = (models.load(base, dtype=dtype, device="cpu").eval()
                    for dtype in (torch.bfloat16, torch.float32))  # fmt: skip
    with torch.inference_mode():
        logits = narrow(tokens).logits[:, -1:]
        recorded._compare(wide(tokens).logits[:, -1:].to(torch.bfloat16), logits)
        blind = narrow(tokens, attention_mask=unseen, position_ids=places).logits[:, -1:]
    with pytest.raises(recorded.Apart):
        recorded._compare(blind, logits)


def test_few_new_tokens_are_computed(played, tiny_tokenizer):
    list(greedy(made("llama"), tiny_tokenizer, prompts(), recorded.LEAST - 1, allow_beyond=True))
    assert not played


@pytest.mark.parametrize("apart", [0.01, float("nan")])
def test_a_recording_that_is_apart_from_the_step_is_not_believed(
    apart, tiny_tokenizer, monkeypatch, caplog
):
    """The batch is decoded again, and nothing of this model is played after it."""
    plays = _recordings(monkeypatch, apart)
    model, other = made("llama"), made("qwen3")
    wanted = computed(model, tiny_tokenizer)
    assert answers(model, tiny_tokenizer) == wanted
    assert len(plays) == 1 and "a recorded decoding step gave logits" in caplog.text
    assert "forward" not in vars(model)
    assert answers(model, tiny_tokenizer) == wanted and len(plays) == 1
    answers(other, tiny_tokenizer)
    assert len(plays) == 2


def test_rounding_is_no_reason_to_decode_again(tiny_tokenizer, monkeypatch, caplog):
    plays = _recordings(monkeypatch, apart=1e-6)
    model = made("llama")
    assert answers(model, tiny_tokenizer) == computed(model, tiny_tokenizer)
    assert len(plays) > 1 and not caplog.text


def test_a_forward_that_was_there_before_is_there_after(played, tiny_tokenizer):
    """A hook's, on the model itself."""
    model = made("llama")
    model.forward = hook = functools.partial(model.forward)
    functools.update_wrapper(hook, type(model).forward)
    answers(model, tiny_tokenizer)
    assert vars(model)["forward"] is hook and played


@pytest.mark.parametrize("how", [{"stop": "word3"}, {"stop": "w", "min_new_tokens": 5}])
def test_rows_end_where_they_do_without(how, played, tiny_tokenizer):
    model = made("llama")
    assert answers(model, tiny_tokenizer, **how) == computed(model, tiny_tokenizer, **how)


def test_on_a_cpu_every_step_is_computed(tiny_tokenizer):
    with recorded.counted() as taken:
        answers(made("llama"), tiny_tokenizer)
    assert taken.played == 0


def test_what_is_not_filled_does_not_matter(tiny_tokenizer):
    """A cache whose empty room holds anything finite gives the same logits at a fixed place."""
    model, found = made("llama"), []
    rows = [torch.arange(2, 22).numpy(), torch.arange(3, 23).numpy()]
    for rubbish in (0.0, 1e4):
        cache = read_heads(model, rows, [19, 19], 32)
        for layer in cache.layers:
            layer.all_keys[:, :, 20:] = layer.all_values[:, :, 20:] = rubbish
        with torch.inference_mode(), recorded.played(model, cache):
            mask = torch.ones((2, 20), dtype=torch.long)
            ids = torch.tensor([[21], [22]])
            places = torch.full((2, 1), 19)
            found.append(model(ids, attention_mask=mask, position_ids=places,
                               past_key_values=cache).logits)  # fmt: skip
        assert cache.get_seq_length() == 20
    assert torch.equal(*found)
    with torch.inference_mode():
        whole = model(torch.tensor([row.tolist() for row in rows])).logits[:, -1:]
    torch.testing.assert_close(found[0], whole, atol=1e-5, rtol=1e-4)


def test_a_model_whose_steps_cannot_be_recorded_is_told_why(monkeypatch):
    with pytest.raises(ValueError, match="cannot be recorded: it is on the cpu, not on a CUDA dev"):
        recorded.check(made("llama"))
    capped = models.create(tiny_models.alternating(), 0)  # Gemma 2 caps its logits
    for model, why in (
        (made("llama"), None), (made("llama", "ntk"), None), (made("mixtral"), "it has experts"),
        (capped, "its attention is 'eager', not 'sdpa'"),
    ):  # fmt: skip
        model.__class__ = type("", (type(model),), {"device": torch.device("cuda", 1)})
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
        assert recorded.obstacle(model) == why
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        assert recorded.obstacle(model) == "it is not on the current CUDA device"


@pytest.mark.gpu
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_on_a_gpu_the_tokens_are_those_of_generate(family, tiny_tokenizer):
    """By a CUDA graph, in float32."""
    model = made(family).to("cuda")
    wanted = computed(model, tiny_tokenizer)
    with recorded.counted() as taken:
        assert answers(model, tiny_tokenizer) == wanted
    assert taken.played
