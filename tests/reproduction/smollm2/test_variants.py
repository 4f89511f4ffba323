"""Variants of CREAM on SmolLM2-135M: which run is which, which count, what is refused."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from primary_rows import run, runs
from variant_rows import asked

from cream.reproduction.smollm2.margin import LENGTHS
from cream.reproduction.smollm2.variants import (
    VARIANTS,
    by_seed,
    cells,
    in_order,
    not_whole,
    run_name,
    values,
)
from cream.results.run_names import options_of
from cream.study.campaign_models import jobs

BOTH = ("cream", "pose")


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    """CREAM and PoSE of all three seeds, CREAM finding a little more with each."""
    found = [asked("cream", seed, seed / 20) for seed in (7, 8, 9)]
    return runs(*found, *(asked("pose", seed, 0.5) for seed in (7, 8, 9)))


@pytest.mark.parametrize(
    "variant, model, options",
    [("cream", "cream:yarn:8:7", {}), ("pose", "pose:yarn:8:7", {}),
     ("plain", "plain:yarn:8:7", {}),
     ("sigma 1", "cream:yarn:8:7:sampler_options.sigma=1", {"sampler_options.sigma": "1"}),
     ("relativity", "cream:yarn:8:7:sampler_options.mode=relativity",
      {"sampler_options.mode": "relativity"}),
     ("continuity", "cream:yarn:8:7:sampler_options.mode=continuity",
      {"sampler_options.mode": "continuity"}),
     ("uniform", "cream:yarn:8:7:sampler_options.middle=uniform",
      {"sampler_options.middle": "uniform"}),
     ("content free", "cream:yarn:8:7:sampler_options.content=free",
      {"sampler_options.content": "free"})],
)  # fmt: skip
def test_a_run_is_called_as_its_campaign_calls_it(variant, model, options):
    (job,) = jobs(model)
    assert run_name(variant, 7) == job.name
    assert options_of(run_name(variant, 7)) == options


def test_each_run_is_found_by_its_name():
    every = runs(*(asked(each, 7, 0.1 * place) for place, each in enumerate(VARIANTS, 1)))
    found = in_order(values(every, VARIANTS))
    assert found["variant"].tolist() == list(VARIANTS)
    assert found["beyond N"].tolist() == pytest.approx([10, 20, 30, 40, 50, 60, 70, 80])
    assert set(values(every, BOTH)["variant"]) == set(BOTH)


def test_a_seed_that_was_not_run_is_nan(rows):
    found = values(rows[rows["seed"] != 8], BOTH)
    each = by_seed(found, "cream", "at 64K")
    assert each[[7, 9]].tolist() == pytest.approx([35, 45]) and math.isnan(each[8])
    assert cells(found.to_dict("records")[0]) == ["7", "60", "35", "35", "35", "35", "35", "35"]


def test_other_runs_and_factors_do_not_count(rows):
    strange = runs(
        asked("cream", 6, 0.9), asked("sigma 1", 7, 0.9),
        asked("cream", 7, 0.9, run="runs/cream-yarn-10-seed7", scale=10, model_hash="wider"),
        asked("cream", 7, 0.9, run="runs/cream-yarn-8-seed7-float8-tensorwise", model_hash="eight"),
        asked("cream", 8, 0.9, run="runs/cream-yarn-8-seed7", model_hash="another seed"),
        run("cream", 7, 0.9, lengths=tuple(LENGTHS), how={"sharper": 1.2}),
        run("cream", 7, 0.9, lengths=tuple(LENGTHS), how={"style": "plain"}, model_hash="plain"),
    )  # fmt: skip
    pd.testing.assert_frame_equal(values(runs(rows, strange), BOTH), values(rows, BOTH))


def test_a_run_that_lacks_lengths_is_left_out_and_named(rows):
    short = (rows["seed"] == 9) & (rows["method"] == "pose") & (rows["token_length"] < 8192)
    found, rest = values(rows[~short], BOTH), not_whole(rows[~short], BOTH)
    assert len(found) == 5 and math.isnan(by_seed(found, "pose", "beyond N")[9])
    assert rest.to_dict("records") == [
        {"variant": "pose", "factor": 1.0, "seed": 9, "lacks": ("2K", "4K")}
    ]
    assert not_whole(rows, BOTH).empty and values(rows.iloc[:0], BOTH).empty


def test_an_answer_given_again_counts_once(rows):
    again = asked("pose", 7, 0.9).assign(date="2026-12-01T00:00:00Z")
    found = values(runs(again, rows), BOTH)
    assert by_seed(found, "pose", "beyond N").tolist() == pytest.approx([90, 50, 50])
    assert set(found["n"]) == {60}


def test_two_models_of_a_seed_are_refused(rows):
    again = asked("pose", 7, 0.4).assign(model_hash="again")
    sharper = run("pose", 7, 0.6, how={"sharper": 1.2}, run="x/pose-yarn-8-seed7",
                  model_hash="again", lengths=tuple(LENGTHS))  # fmt: skip
    for other in (again, sharper):
        with pytest.raises(ValueError, match="two models of PoSE, seed 7"):
            values(runs(rows, other), BOTH, (1, 1.2))


def test_other_questions_are_refused(rows):
    other = rows["prompt_hash"].where(rows["method"] != "pose", rows["prompt_hash"] + "?")
    with pytest.raises(ValueError, match="answered different questions"):
        values(rows.assign(prompt_hash=other), BOTH)


def test_more_questions_than_the_others_are_refused(rows):
    more = asked("sigma 1", 7, 0.4, samples=4)
    with pytest.raises(ValueError, match=r"1 of 7 runs answered the sentence.*sample 3; ask each"):
        values(runs(rows, more), (*BOTH, "sigma 1"))


def test_more_tokens_are_refused(rows):
    trained = rows["tokens_trained"].where(rows["seed"] != 8, 1000 * 16 * 8192)
    with pytest.raises(ValueError, match=r"cream-yarn-8-seed8 was trained on 131072000 tokens"):
        values(rows.assign(tokens_trained=trained), BOTH)
