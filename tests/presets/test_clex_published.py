"""CLEX's published runs: what is published becomes fields of a run, what is not is named."""

from __future__ import annotations

import pytest

from cream import presets
from cream.models import clex_checkpoints
from cream.presets import clex_published


def test_the_run_at_4k_is_the_readmes():
    fields = clex_published.fields("CLEX-7B-4K")
    train = presets.get("llama2-7b", fields).train
    assert (train.method, train.scaling, train.scale) == ("clex", "clex", 16)
    assert train.batch_size * 4096 * train.steps == pytest.approx(2e9, rel=1e-3)
    assert (train.learning_rate, train.weight_decay) == (2e-5, 0.0)
    assert train.warmup_steps == round(0.03 * train.steps)
    assert train.sampler_options == {} and train.scaling_options["act"] == "tanh"
    assert clex_published.not_published("CLEX-7B-4K") == []


def test_what_is_not_published_is_named_and_not_invented():
    for name in ("CLEX-7B-16K", "CLEX-LLaMA-2-7B-64K"):
        assert {"steps", "batch_size"} <= set(clex_published.not_published(name))
        assert not {"steps", "batch_size"} & set(clex_published.fields(name))
        assert presets.get("llama2-7b", clex_published.fields(name)).train.scaling == "clex"
    with pytest.raises(ValueError, match="max_factor of CLEX-Phi-2-32K is not published"):
        clex_published.fields("CLEX-Phi-2-32K")
    with pytest.raises(ValueError, match="choose one of CLEX-7B-4K"):
        clex_published.fields("CLEX")


@pytest.mark.parametrize("name", clex_checkpoints.RELEASES)
def test_runs_agree_with_the_released_checkpoints(name):
    run, released = clex_published.RUNS[name], clex_checkpoints.RELEASES[name]
    assert (run.window, run.tokens) == (released["window"], released["tokens"])
    for ours, theirs in (("max_factor", "scale"), ("param_factor",) * 2, ("act",) * 2,
                         ("log_scale",) * 2):  # fmt: skip
        assert getattr(run, ours) == released[theirs]
