"""Numbers and options of the wrong kind or out of range: refused by name, before any run."""

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cream import presets
from cream.positions import METHODS, RELEASES, sampler
from cream.positions.registry import check_options
from cream.training.config import TrainConfig
from cream.utils.options import check_choice, check_flag, check_number, check_text, check_whole

ODD = st.one_of(
    st.none(), st.booleans(), st.text(max_size=8), st.floats(), st.integers(),
    st.sampled_from(["1e1", "false", "true", "4", "0.5", ".inf", "nan", "１"]),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=2), st.none(), max_size=1),
)  # fmt: skip
OPTIONS = ("mode", "ends", "middle", "mean", "sigma", "mode_group", "overlap", "content",
           "first_shift", "content_windows")  # fmt: skip


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.sampled_from(METHODS), st.dictionaries(st.sampled_from(OPTIONS), ODD, max_size=2))
def test_options_draw_windows_or_are_refused_by_name(method, options):
    """Nothing that is accepted fails later, and no error is raw."""
    try:
        draw = sampler(method, 64, 8, **options)
    except ValueError as error:
        assert any(name in str(error) for name in options)
        return
    check_options(method, 8, options)
    found = draw.draw(1000, 0, 0, 0)
    assert found.positions.min() >= 0 and found.positions.max() < 512
    assert (np.diff(found.positions) > 0).all() and found.tokens.max() < 1000
    config = presets.get("tiny", method=method, sampler_options=options).train
    assert TrainConfig.from_json(config.to_json()) == config


FIELDS = [f.name for f in dataclasses.fields(TrainConfig) if f.name != "sampler_options"]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(FIELDS), ODD)
def test_a_field_of_a_run_is_taken_as_it_is_or_refused_by_name(name, value):
    try:
        config = presets.get("tiny", {name: value}).train
    except ValueError as error:
        assert name.rstrip("s") in str(error) or "warmup_steps" in str(error)
        return
    kept = getattr(config, name)
    assert kept == (tuple(value) if isinstance(value, list) else value)
    numbers = [each for each in vars(config).values() if isinstance(each, float)]
    assert all(map(math.isfinite, numbers))
    assert TrainConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"mean": "1e1"}, r"mean is '1e1'; .* this is text, write 10.0 \(YAML takes 1e1 for text"),
        ({"ends": 4.0}, "ends is 4.0; it must be a whole number of at least 1: write 4"),
        ({"ends": True}, "ends is True; it must be a whole number"),
        ({"overlap": "false"}, "overlap is 'false'; it must be true or false, without quotes"),
        ({"overlap": 1}, "overlap is 1; it must be true or false"),
        ({"sigma": math.nan}, "sigma is nan; it must be a finite number, at least 0.001"),
        ({"sigma": math.inf}, "sigma is inf; it must be a finite number"),
        ({"sigma": 1e-300}, "sigma is 1e-300; .* at least 0.001"),
        ({"mean": -math.inf}, "mean is -inf; it must be a finite number"),
        ({"mean": 500, "middle": "truncated"}, r"mean is 500 .* nothing of this Gaussian lies in"),
        ({"mode_group": 10**30}, "mode_group is 1000.* at most 1,000,000,000"),
        ({"mode": None}, "mode is None; choose one of both"),
        ({3: 4}, "cream has no option 3"),
    ],
)
def test_options_are_checked_before_a_window_is_known(options, says):
    """A dry run, which knows no window, refuses what training would."""
    with pytest.raises(ValueError, match=says):
        presets.get("llama2-7b", sampler_options=options)


def test_a_method_is_not_given_another_ones_options():
    with pytest.raises(ValueError, match="pose has no option sigma; it has: content_windows"):
        presets.get("tiny", method="pose", sampler_options={"sigma": 2})


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"learning_rate": math.inf}, "learning_rate is inf; it must be a finite number, larger"),
        ({"learning_rate": "3e-4"}, "learning_rate is '3e-4'; .* write 0.0003"),
        ({"learning_rate": 20}, "learning_rate is 20; .* at most 1"),
        ({"weight_decay": math.nan}, "weight_decay is nan; it must be a finite number"),
        ({"adam_betas": [0.9, 1.0]}, r"adam_betas\[1\] is 1.0; .* at most 1"),
        ({"adam_betas": [0.9, "x"]}, r"adam_betas\[1\] is 'x'; it must be a finite number"),
        ({"seed": 2**32}, "seed is 4294967296; .* at most 4,294,967,295"),
        ({"scale": 10**12, "steps": 5}, "scale is 1000000000000; .* at most"),
        ({"batch_size": 8.0}, "batch_size is 8.0; .* write 8"),
        ({"gradient_checkpointing": "false"}, "gradient_checkpointing is 'false'; .* quotes"),
        ({"base": " "}, "base is ' '; it must be a text that is not empty"),
        ({"steps": None}, "steps is None; it must be a whole number"),
        ({"batchsize": 8}, r"a run has no batchsize \(did you mean batch_size\?\)"),
        ({7: 8}, "a run has no 7"),
    ],
)
def test_every_field_from_a_notebook_is_checked_like_the_named_ones(fields, says):
    with pytest.raises(ValueError, match=says):
        presets.get("miniature", fields)


def test_every_field_of_a_run_can_be_set_from_a_notebook():
    given_fields = {"batch_size": 8, "micro_batch": 1, "save_steps": 50, "probe": None,
                    "precision": "float32", "adam_betas": [0.9, 0.95]}  # fmt: skip
    config = presets.get("miniature", given_fields, method="pose", seed=1).train
    assert (config.batch_size, config.micro_batch, config.save_steps) == (8, 1, 50)
    assert config.probe is None and config.adam_betas == (0.9, 0.95) and config.method == "pose"
    # what the notebook's own parameters hold by default does not stand against it
    assert presets.get("tiny", {"seed": 3}, seed=0, method="cream").train.seed == 3
    with pytest.raises(ValueError, match="seed is given twice, as 1 and as 3: give it once"):
        presets.get("tiny", {"seed": 3}, seed=1)
    assert presets.get("tiny", {"seed": 3}, seed=3).train.seed == 3


def test_a_target_length_beyond_what_kernels_count_is_refused():
    with pytest.raises(ValueError, match="scale is 1048576 .* at most 2,147,483,647 positions"):
        sampler("pose", 4096, 2**20)


def test_releases_are_accepted_and_numpy_numbers_are_numbers():
    for scale in (2, 8, 64):
        for options in RELEASES.values():
            check_options("cream", scale, options(scale))
    options = {"ends": np.int64(4), "mean": np.float32(3), "overlap": np.bool_(True)}
    config = presets.get("tiny", sampler_options=options).train
    kept = json.loads(config.to_json())["sampler_options"]
    assert kept == {"ends": 4, "mean": 3, "overlap": True}


@pytest.mark.parametrize(
    ("check", "value"),
    [(check_flag, 1), (check_text, ""), (check_text, None),
     (lambda n, v: check_whole(n, v, 0), "1"),
     (lambda n, v: check_number(n, v, 0, 1, above=True), 0),
     (lambda n, v: check_choice(n, v, (0, 1)), True)],
)  # fmt: skip
def test_errors_begin_with_the_name(check, value):
    with pytest.raises(ValueError, match="^x is "):
        check("x", value)
