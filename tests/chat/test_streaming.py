"""Answers in parts: the cache kept between turns changes nothing, and is not read twice."""

import threading

import pytest
import torch
from tiny_models import alternating
from transformers import AutoModelForCausalLM

from cream import models
from cream.chat import streaming
from cream.chat.streaming import Answers, Reading, keeps_positions
from cream.rope import clex
from cream.rope.length import start_afresh


@pytest.fixture
def tiny(tiny_model, monkeypatch):
    monkeypatch.setitem(streaming.AT_ONCE, "cpu", 16)
    return tiny_model(512)


def run(answers, ids, new=10, stop=None):
    pieces = list(answers.stream(ids, new, stop))
    reading = [piece for piece in pieces if isinstance(piece, Reading)]
    return "".join(piece for piece in pieces if isinstance(piece, str)), reading


def ids(count, seed=0):
    drawn = torch.Generator().manual_seed(seed)
    return torch.randint(5, 600, (count,), generator=drawn).tolist()


def test_a_kept_cache_gives_what_reading_everything_gives(tiny, tiny_tokenizer):
    answers, first = Answers(tiny, tiny_tokenizer), ids(70)
    run(answers, first)
    told = answers._read
    assert told[:70] == first and len(told) in range(70, 80)
    for following in (told + ids(30, 1), first[:40] + ids(50, 2), ids(45, 3)):
        again, reading = run(answers, following)
        assert again == run(Answers(tiny, tiny_tokenizer), following)[0]
        assert reading[-1] == Reading(len(following) - 1, len(following))


def test_only_what_is_new_is_read(tiny, tiny_tokenizer):
    answers, first = Answers(tiny, tiny_tokenizer), ids(100)
    _, reading = run(answers, first)
    assert [one.done for one in reading] == [0, 16, 32, 48, 64, 80, 96, 99]
    _, reading = run(answers, answers._read + ids(20, 1))
    assert len(reading) == 1 + 2  # 19 tokens in parts of 16


def test_stopping_while_the_prompt_is_read_keeps_what_was_read(tiny, tiny_tokenizer):
    answers, first = Answers(tiny, tiny_tokenizer), ids(100)
    pieces = answers.stream(first, 10)
    while next(pieces).done < 16:
        pass
    pieces.close()
    assert answers._read == first[: len(answers._read)]
    assert run(answers, first)[0] == run(Answers(tiny, tiny_tokenizer), first)[0]


def test_an_answer_that_ends_by_itself_was_not_stopped(tiny, tiny_tokenizer):
    stop = threading.Event()
    run(Answers(tiny, tiny_tokenizer), ids(30), stop=stop)
    assert not stop.is_set()


def test_rope_that_changes_with_the_length_is_read_anew(tiny_model, tiny_tokenizer):
    changing = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10_000.0}
    model = tiny_model(64, rope_parameters=changing)
    start_afresh(model)  # as models.load does
    assert not keeps_positions(model) and keeps_positions(tiny_model(64))
    answers = Answers(model, tiny_tokenizer)
    run(answers, ids(50))
    assert answers._cache is None
    following = ids(90)
    assert run(answers, following)[0] == run(Answers(model, tiny_tokenizer), following)[0]


def test_a_clex_model_is_read_at_the_t_of_prompt_and_answer(tiny_model, tiny_tokenizer, tmp_path):
    base = models.save(tiny_model(64), tiny_tokenizer, tmp_path / "base")
    model = models.load(base, scaling="clex", scale=4, device="cpu")
    prompt = ids(150)
    answer = run(Answers(model, tiny_tokenizer), prompt)[0]
    with clex.chosen(model, 150 + 10), torch.no_grad():
        wanted = model.generate(torch.tensor([prompt]), max_new_tokens=10, do_sample=False)
    assert answer == tiny_tokenizer.decode(wanted[0, 150:], skip_special_tokens=True)


def test_sliding_windows_are_read_anew():
    assert not keeps_positions(AutoModelForCausalLM.from_config(alternating()))


def test_sampling_of_the_models_own_config_does_not_apply(tiny, tiny_tokenizer):
    tiny.generation_config.do_sample, tiny.generation_config.temperature = True, 5.0
    answers = Answers(tiny, tiny_tokenizer)
    assert len({run(answers, ids(30))[0] for _ in range(3)}) == 1


def test_an_error_reaches_who_asks_and_leaves_nothing_behind(tiny, tiny_tokenizer, monkeypatch):
    answers = Answers(tiny, tiny_tokenizer)
    with monkeypatch.context() as patched:
        patched.setattr(tiny, "generate", lambda *a, **k: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(answers, ids(30))
    assert answers._cache is None and run(answers, ids(30))[0]


def test_what_does_not_fit_into_memory_is_refused_with_the_arithmetic(tiny, tiny_tokenizer):
    answers = Answers(tiny, tiny_tokenizer)
    answers.check_memory(500)
    with pytest.raises(MemoryError, match="KV cache"):
        answers.check_memory(10**11)
