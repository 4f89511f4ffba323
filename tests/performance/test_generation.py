"""Measured numbers: of the right thing, by the same work both ways, with the tiny model."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import training_runs

from cream import models, presets
from cream.evaluation import models as evaluation_models
from cream.performance import generation
from cream.tasks import longchat_lines
from cream.training.config import TrainConfig

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
    monkeypatch.setattr(generation.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(generation, "_fresh", lambda: False)

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
    assert generation._numbers([(1.0, 2**30), (2.0, 2**31)]) == {"seconds": 1.5, "peak_gib": 2.0}
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
        model, tiny_tokenizer, asked, [(3,), (7, 8), (5,)], [(3,), (7, 9), (5, 6)]
    )
    assert said[0] == f"120 tokens, sample 1: parts at new token 2, by logits {gap:.2g} apart"
    assert said[1:] == ["120 tokens, sample 2: one ends before the other"]


# ----------------------------------------------------------------------------------- training


def test_every_choice_runs_the_real_trainer(base, monkeypatch):
    """Compilation and workers crossed, on a corpus made on the spot, nothing saved or probed."""
    runs = []
    real = generation.train

    def recorded(config: TrainConfig, run_dir, **options):
        runs.append(config)
        return real(config, run_dir, **options)

    monkeypatch.setattr(generation, "train", recorded)
    table = generation.training(
        "tiny", ["none"], [0, 1], steps=4, base=base, corpus="random", batch_size=2, micro_batch=2
    )
    assert [(c.compile, c.workers, c.steps) for c in runs] == [("none", 0, 4), ("none", 1, 4)]
    assert all(c.save_steps == c.probe_steps == 0 and c.log_steps == 1 for c in runs)
    assert list(table["workers"]) == [0, 1] and (table["corpus"] == "random").all()
    assert (table["tokens_a_step"] == 2 * 64).all()
    np.testing.assert_allclose(
        table["ms_a_step"], 1000 * table["tokens_a_step"] / table["tokens_per_second"]
    )
    assert (table["ms_a_step"] / 1000 * 4 < table["wall"]).all()


def test_only_the_second_half_counts(tmp_path):
    """The first holds compilation; a probe's line has no speed."""
    rates = [1.0, 2.0, 3.0, 500.0, 600.0, 10.0]
    rows = [{"step": 5 * n, "tokens": 640 * n, "tokens_per_second": rate, "loss": 1.0}
            for n, rate in enumerate(rates, 1)]  # fmt: skip
    rows.insert(2, {"step": 10, "probe_lines": 1.0})
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert generation._steady(path) == (500.0, 128)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 3}, "steps is 3; it must be at least 4"),
        ({"compiles": ["none", "all"]}, "compile is 'all'"),
        ({"workers": [0, -1]}, "workers is -1"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_bad_choices_are_refused_before_the_first_run(options, message, base, monkeypatch):
    """Also those of the last run."""
    monkeypatch.setattr(generation, "train", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(ValueError, match=message):
        generation.training("tiny", **{"corpus": "x", "base": base, **options})


def test_a_corpus_of_ones_own_is_taken(training_place, monkeypatch):
    """Its name stands in the table."""
    monkeypatch.chdir(training_place)
    changes = {"base": "base", "corpus": "corpus", "batch_size": 2, "micro_batch": 2}
    table = generation.training("tiny", ["none"], steps=4, scale=training_runs.SCALE, **changes)
    assert table.loc[0, "corpus"] == "corpus" and table.loc[0, "base"] == "base"
    assert presets.get("tiny").train.corpus != "corpus"
