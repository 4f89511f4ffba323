"""Examples shorter than the base's window: what is read is short, what is extended is not."""

from __future__ import annotations

import json

import families
import numpy as np
import pytest
import training_runs

from cream import models, rope
from cream.evaluation import models as evaluation_models
from cream.export import checkpoint
from cream.positions import METHODS, sampler
from cream.training import memory
from cream.training.callbacks import read_metrics

WINDOW, SCALE = training_runs.WINDOW, training_runs.SCALE
SHORT = 32  # of 64


@pytest.fixture(scope="module")
def run(training_place, tmp_path_factory):
    """A finished run on half windows."""
    place = tmp_path_factory.mktemp("short") / "run"
    training_runs.train(training_place, place, train_window=SHORT, scaling="yarn")
    return place


def test_rope_is_stretched_from_the_base_s_own_window(run, training_place):
    """The scale stays L over the base's N, whatever an example has: the same model as without."""
    about = models.describe(models.load_config(run / "model"))
    assert (about["window"], about["scale"], about["target_length"]) == (64, SCALE, 512)
    whole = models.load(training_place / "base", "yarn", SCALE, device="cpu")
    short = models.load(run / "model", device="cpu")
    tables = [one.base_model.rotary_emb.inv_freq.numpy() for one in (whole, short)]
    np.testing.assert_array_equal(*tables)


def test_tokens_are_counted_as_they_were_read(run):
    """In the metrics, in the rows of its evaluations, in the card."""
    rows = read_metrics(run / "metrics.jsonl")
    assert rows[-1]["tokens"] == 3 * 4 * SHORT
    (subject,) = evaluation_models.find(str(run), "data/miniature")
    assert subject.tokens_trained == 3 * 4 * SHORT
    out = checkpoint.export(run, licence="MIT")
    card = (out / "README.md").read_text()
    assert f"| window N | {WINDOW} tokens |" in card and f"| tokens an example | {SHORT} |" in card
    assert json.loads((out / "cream.json").read_text())["train_window"] == SHORT


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"full", "clex"}))
def test_positions_reach_the_same_target(method):
    """The sampler of `train_window` tokens for s N positions; plain ones stay in the example."""
    config = training_runs.config(method=method, train_window=SHORT)
    draw = config.sampler(WINDOW)
    assert draw == sampler(method, SHORT, SCALE * WINDOW // SHORT)
    told = [draw.draw(300, 0, 0, k).positions for k in range(300)]
    assert {len(one) for one in told} == {SHORT}
    most = max(int(one.max()) for one in told)
    assert most == SHORT - 1 if method == "plain" else 0.9 * SCALE * WINDOW < most < 512


def test_without_it_nothing_changes():
    for method in METHODS:
        config = training_runs.config(method=method)
        assert config.sampler(WINDOW) == sampler(method, WINDOW, SCALE)


def test_llama_3_1_at_8k_windows():
    """131,072 stretched by 2 from what it turns by, examples of 8,192, memory of 8,192."""
    about = next(one for one in families.FAMILIES if one.name == "Llama 3.1").make()
    config = training_runs.config(scale=2, train_window=8192, method="cream", scaling="yarn")
    draw = config.sampler(models.describe(about)["window"])
    assert (draw.window, draw.scale, draw.target_length) == (8192, 32, 262_144)
    told = draw.draw(20_000, 0, 0, 1).positions
    assert len(told) == 8192 and told[0] == 0 and 8192 < told[-1] < 262_144
    extended = models.extend(about, rope.scaling("yarn", 2))
    assert extended.max_position_embeddings == 262_144
    held = [memory.needs(about, config, n).activations for n in (8192, 131_072)]
    assert held[1] == 16 * held[0]


def test_a_base_is_tuned_within_its_own_window():
    """Scale 1: positions reach N, from examples of a part of it, and RoPE is left alone."""
    config = training_runs.config(scale=1, scaling="none", train_window=SHORT)
    assert config.sampler(WINDOW).target_length == WINDOW


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train_window": 128}, "train_window is 128 and the base's window 64"),
        ({"train_window": 48}, "must be a proper divisor of the target length 8 x 64 = 512; "
                               "choose 64, 32, 16, 8"),
        ({"train_window": 64, "scale": 1, "scaling": "none"}, "choose 32"),
        ({"train_window": 48, "scale": 128}, "= 8,192; choose 64, 32, 16, 8"),  # none was named
    ],
)  # fmt: skip
def test_windows_that_do_not_fit_are_refused(training_place, tmp_path, changes, said):
    with pytest.raises(ValueError, match=said):
        training_runs.train(training_place, tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train_window": -1}, "train_window is -1"),
        ({"train_window": 1.5}, "train_window is 1.5"),
        ({"train_window": 32, "method": "full"}, "leave train_window at 0"),
        ({"train_window": 32, "method": "clex"}, "set sampler_options to {'tokens': 32}"),
        ({"train_window": 32, "method": "clex", "scaling": "clex"}, "leave train_window at 0"),
        ({"scale": 1, "scaling": "none"}, "scale is 1"),
    ],
)
def test_values_that_no_base_makes_right_are_refused_at_once(changes, said):
    with pytest.raises(ValueError, match=said):
        training_runs.config(**changes)


def test_a_preset_takes_it_for_a_base_that_is_not_here(tmp_path):
    """Of a hub base the window is not known yet: the run will check it."""
    from cream.presets import named

    words = ["llama2-7b", str(tmp_path / "run"), "train_window=8192", "base=someone/their-128k"]
    named.main(words)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["train_window"] == 8192
