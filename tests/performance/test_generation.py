"""Measured numbers: of the right thing, by the same work both ways, with the tiny model."""

from __future__ import annotations

import dataclasses
import types

import pandas as pd
import pytest
import torch

from cream import models
from cream.evaluation import models as evaluation_models
from cream.inference import recorded
from cream.performance import generation, harness
from cream.tasks import longchat_lines

LENGTHS = (150, 300)


@pytest.fixture(scope="module")
def base(tmp_path_factory, tiny_model, tiny_tokenizer) -> str:
    """A tiny base of window 64 on disk."""
    place = tmp_path_factory.mktemp("speed") / "base"
    models.save(tiny_model(window=64, eos_token_id=None), tiny_tokenizer, place)
    return str(place)


@pytest.fixture(scope="module")
def measured(base):
    """Both ways, timed once."""
    (subject,) = evaluation_models.find("scaled:yarn:8", base)
    return generation.generation(subject, LENGTHS, samples=6, questions=3, repeats=2)


def test_both_ways_answer_the_same_questions_with_the_same_tokens(measured):
    """A line a length and way; in float32 nothing parts."""
    table, header, parted = measured
    assert list(zip(table["token_length"], table["way"], strict=True)) == [
        (length, way) for length in LENGTHS for way in ("one by one", "batches")
    ]
    assert (table["samples"] == 6).all() and (table["same"] == 6).all() and not parted
    assert (table["seconds"] > 0).all()
    assert table["prompt_tokens"].between(0.85 * 6 * table["token_length"],
                                          6 * table["token_length"]).all()  # fmt: skip
    assert header["settings"] == {
        "dtype": "float32", "questions": 3, "batch_size": "auto", "repeats": 2,
    }  # fmt: skip
    assert header["scaling"] == "yarn" and header["window"] == 64


def test_computed_steps_are_a_third_way_and_refused_where_there_are_no_others(base, monkeypatch):
    """In the same run, in turns with the others; a recording on a CPU is the step itself."""
    (subject,) = evaluation_models.find("scaled:yarn:8", base)
    with pytest.raises(ValueError, match="cannot be recorded: it is on the cpu"):
        generation.generation(subject, [60], samples=2, repeats=1, unrecorded=True)
    monkeypatch.setattr(recorded, "obstacle", lambda model: None)
    plays = []

    def record(compute):
        result = compute().clone()
        return (lambda: plays.append(result.copy_(compute()))), result

    monkeypatch.setattr(recorded, "record", record)
    table, _, parted = generation.generation(subject, [60], samples=2, repeats=1, unrecorded=True)
    assert table["way"].tolist() == ["one by one", "batches", "computed"] and plays
    assert table["same"].tolist() == [2, 2, 2] and not parted
    said = generation._compared(table)
    assert said["same tokens, computed"].tolist() == [2, 2]
    assert (said["times as fast as computed"] > 0).all()
    with pytest.raises(ValueError, match="no recorded step was played, so there is nothing to com"):
        generation.generation(subject, [60], 2, batch_size=1, repeats=1, unrecorded=True)


def test_the_loop_decodes_one_prompt_at_a_time_with_a_cache(base, tiny_tokenizer):
    """As one would write it: generate, the stop rule, and a step a new token."""
    model = models.load(base)
    asked = longchat_lines.examples(tiny_tokenizer, [120], 3)
    shapes = []
    model.model.register_forward_pre_hook(
        lambda _, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    found = generation.one_by_one(model, tiny_tokenizer, asked)
    prompts = [(1, len(tiny_tokenizer(one.prompt)["input_ids"])) for one in asked]
    steps = [[(1, 1)] * (len(tokens) - 1) for tokens in found]
    assert shapes == [shape for p, s in zip(prompts, steps, strict=True) for shape in (p, *s)]


def test_medians_of_passes_in_turns(monkeypatch):
    """Each way is warmed up on two samples, then timed over all, the two in turns."""
    calls, clock, takes = [], [0.0], iter([9, 9, 2, 0.5, 3, 0.5, 7, 0.25])
    monkeypatch.setattr(harness.time, "perf_counter", lambda: clock[0])

    def way(name):
        def answer(model, tokenizer, asked):
            calls.append((name, len(asked)))
            clock[0] += next(takes)
            return [(1, 2)] * len(asked)

        return answer

    ways = {"a": way("a"), "b": way("b")}
    taken, found = generation._timed(ways, None, None, [None] * 5, repeats=3)
    assert calls == [("a", 2), ("b", 2), *[("a", 5), ("b", 5)] * 3]
    assert generation._numbers(taken["a"]) == {"seconds": 3, "peak_gib": None}
    assert generation._numbers(taken["b"]) == {"seconds": 0.5, "peak_gib": None}
    assert generation._numbers([(1.0, 1.0), (2.0, 2.0)]) == {"seconds": 1.5, "peak_gib": 2.0}
    assert found == {"a": [(1, 2)] * 5, "b": [(1, 2)] * 5}


def test_answers_that_part_are_named_with_their_logits(tiny_model, tiny_tokenizer):
    """By the model itself, at the first token that differs."""
    model = tiny_model(window=256)
    asked = longchat_lines.examples(tiny_tokenizer, [120], 3)
    ids = tiny_tokenizer(asked[1].prompt)["input_ids"]
    with torch.no_grad():
        logits = model(torch.tensor([[*ids, 7]])).logits[0, -1]
    gap = abs(float(logits[8] - logits[9]))
    said = generation._parted(
        model, tiny_tokenizer, asked, [(3,), (7, 8), (5,)], [(3,), (7, 9), (5, 6)], "batches"
    )
    where = "batches, 120 tokens, sample"
    assert said[0] == f"{where} 1: parts at new token 2, by logits {gap:.2g} apart"
    assert said[1:] == [f"{where} 2: one ends before the other"]


@pytest.fixture
def batched(base, tiny_tokenizer, monkeypatch):
    """A model whose `generate_batch` is `generate` prompt by prompt, and what it was given."""
    model, given = models.load(base), {}

    def generate_batch(prompts, generation_config):
        given["config"], answers = generation_config, {}
        for number, ids in enumerate(prompts):
            ids = torch.tensor([ids])
            mask = torch.ones_like(ids)
            out = model.generate(ids, attention_mask=mask, generation_config=generation_config)
            tokens = out[0, ids.shape[1] :].tolist()
            answers[f"req_{number}"] = types.SimpleNamespace(generated_tokens=tokens, error=None)
        return answers

    monkeypatch.setattr(model, "generate_batch", generate_batch)
    return model, given, generate_batch


def test_continuous_batching_is_asked_the_same_and_ends_as_the_loop_does(batched, tiny_tokenizer):
    """Every token that holds the stop string is an end; here the model's likeliest one does."""
    model, given, _ = batched
    asked = longchat_lines.examples(tiny_tokenizer, [120], 3)
    plain = generation.one_by_one(model, tiny_tokenizer, asked)
    stop = tiny_tokenizer.decode([plain[0][1]])  # its second token
    asked = [dataclasses.replace(one, stop=stop) for one in asked]
    found = generation.continuous(model, tiny_tokenizer, asked)
    assert found == generation.one_by_one(model, tiny_tokenizer, asked)
    assert len(found[0]) <= 2 < len(plain[0])
    assert plain[0][1] in given["config"].eos_token_id


def test_an_answer_that_continuous_batching_lost_is_an_error(batched, tiny_tokenizer, monkeypatch):
    """A speed of fewer answers than were asked for would be wrong."""
    model, _, whole = batched
    asked = longchat_lines.examples(tiny_tokenizer, [120], 3)
    monkeypatch.setattr(
        model, "generate_batch", lambda *a, **k: dict(list(whole(*a, **k).items())[:2])
    )
    with pytest.raises(RuntimeError, match="2 of 3 answers"):
        generation.continuous(model, tiny_tokenizer, asked)


def test_three_ways_stand_beside_each_other():
    """Samples a second of each, and how many times as fast batches are as either."""
    line = {"token_length": 64, "samples": 6, "same": 6, "peak_gib": None}
    ways = {"one by one": 12.0, "batches": 2.0, "continuous": 3.0}
    table = pd.DataFrame([{**line, "way": way, "seconds": took} for way, took in ways.items()])
    found = generation._compared(table).set_index("tokens").loc[64]
    assert found["times as fast"] == 6 and found["times as fast as continuous"] == 1.5
    assert found["continuous, samples/s"] == 2 and found["same tokens, continuous"] == 6
    two = generation._compared(table[table["way"] != "continuous"])
    assert not [name for name in two if "continuous" in name]
