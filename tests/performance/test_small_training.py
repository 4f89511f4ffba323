"""A small model's steps: of the real Trainer, the warm half of them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import training_runs

from cream import models, presets
from cream.performance import small_training
from cream.training.config import TrainConfig


@pytest.fixture(scope="module")
def base(tmp_path_factory, tiny_model, tiny_tokenizer) -> str:
    """A tiny base of window 64 on disk."""
    place = tmp_path_factory.mktemp("speed") / "base"
    models.save(tiny_model(window=64, eos_token_id=None), tiny_tokenizer, place)
    return str(place)


@pytest.mark.slow
def test_every_choice_runs_the_real_trainer(base, monkeypatch):
    """Compilation and workers crossed, on a corpus made on the spot, nothing saved or probed."""
    runs = []
    real = small_training.train

    def recorded(config: TrainConfig, run_dir, **options):
        runs.append(config)
        return real(config, run_dir, **options)

    monkeypatch.setattr(small_training, "train", recorded)
    table = small_training.training(
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
    assert small_training._steady(path) == (500.0, 128)


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
    monkeypatch.setattr(small_training, "train", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(ValueError, match=message):
        small_training.training("tiny", **{"corpus": "x", "base": base, **options})


@pytest.mark.slow
def test_a_corpus_of_ones_own_is_taken(training_place, monkeypatch):
    """Its name stands in the table."""
    monkeypatch.chdir(training_place)
    changes = {"base": "base", "corpus": "corpus", "batch_size": 2, "micro_batch": 2}
    table = small_training.training("tiny", ["none"], steps=4, scale=training_runs.SCALE, **changes)
    assert table.loc[0, "corpus"] == "corpus" and table.loc[0, "base"] == "base"
    assert presets.get("tiny").train.corpus != "corpus"
