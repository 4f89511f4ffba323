"""The plans: what they hold, in which order, and how a recipe is chosen."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pandas as pd
import pytest

from cream.positions import sampler
from cream.study import design
from cream.study.conditions import DENSE, SHARPER, asked_as
from cream.study.design import (
    DENSE_RATES,
    DENSE_STEPS,
    LONGER,
    RATES,
    STEPS,
    Recipe,
    choose,
    groups,
    plan,
)
from cream.study.scoring import SETS

BASES = ["a", "b", "c"]
PRIMARY = {key: Recipe(300, 3e-4) for key in itertools.product(("text", "mixed"), STEPS)}
RECIPES = PRIMARY | {("dense-same", "linear"): Recipe(1500, 1e-3)}


def runs(name: str, seeds: int = 8) -> list[design.Run]:
    """A plan of three bases."""
    return plan(name, BASES, range(seeds), RECIPES)


@pytest.mark.parametrize("name", design.PLANS)
def test_every_run_can_be_made_and_none_is_there_twice(name):
    """Its sampler takes its options, its questions exist, its steps hold the warm-up."""
    listed = runs(name)
    assert len(set(listed)) == len(listed) > 0
    for run in listed:
        assert asked_as(run.asked)[0] in SETS
        if run.steps:
            sampler(run.method, 512, run.scale, **run.sampler_options)
            assert run.steps > 10 and run.batch >= 1


def test_the_primary_grid_is_complete():
    """Five methods x three scalings x two conditions x three bases x eight seeds; the untuned."""
    table = pd.DataFrame(map(vars, runs("primary")))
    tuned = table[table["steps"] > 0]
    assert len(tuned) == 5 * 3 * 2 * 3 * 8
    assert (tuned.groupby(["method", "scaling", "condition"]).size() == 24).all()
    assert len(table) - len(tuned) == 3 * 4


def test_all_methods_read_as_many_tokens_a_step():
    """The full-length one an eighth as many examples of eight times the length."""
    for run in runs("primary"):
        length = 512 * (run.scale if run.method == "full" else 1)
        assert run.batch * length == 32 * 512


def test_a_wider_scale_is_tuned_beside_its_own():
    """Four methods at 8 and 10, by YaRN with retrieval: what they are asked is the same."""
    table = pd.DataFrame(map(vars, runs("margin", 2)))
    assert len(table) == 4 * 2 * 2 * 3 and set(table["asked"]) == {"main"}
    assert set(zip(table["variant"], table["method"], table["scale"], strict=True)) == {
        (name, method, scale) for method in ("cream", "pose", "plain", "full")
        for name, scale in ((method, 8), (f"{method}, wider", 10))
    }  # fmt: skip
    assert set(table["condition"]) == {"mixed"} and set(table["scaling"]) == {"yarn"}


def test_a_model_is_asked_by_every_factor_after_one_training():
    """Runs that differ in name and factor alone follow each other, in one group of a process."""
    listed = runs("sharper", 2)
    assert len(listed) == (3 * 2 * (1 + len(SHARPER)) + 1) * 2 * 3
    trainings = [dataclasses.replace(run, variant="", asked="") for run in listed]
    follow = [one for one, _ in itertools.groupby(trainings)]
    assert len(follow) == len(set(follow)) == (3 * 2 + 1) * 2 * 3
    for group in groups(listed):
        assert len({(run.method, run.scale, run.seed, run.base) for run in group}) == 1
        assert [run.sharper for run in group] == [1, *SHARPER][: len(group)]
    names = {run.variant: run.asked for run in listed}
    assert names["cream"] == names["cream, wider"] == names["full"] == "main"
    assert names["cream, wider x1.2"] == names["plain x1.2"] == "main x1.2"
    chosen = runs("sharper-choice")
    assert {run.seed for run in chosen} == set(design.VALIDATION_SEEDS)
    assert {asked_as(run.asked)[0] for run in chosen} == {"validation"}


def test_a_cut_grid_is_balanced():
    """After any whole number of seeds every base has every variant of these seeds."""
    listed = [r for r in runs("primary") if r.steps]
    for seeds in (1, 2, 5, 8):
        part = listed[: 30 * (3 * min(seeds, 2) + 2 * max(seeds - 2, 0))]
        table = pd.DataFrame(map(vars, part)).groupby(["method", "condition", "base"])["seed"]
        assert (table.nunique() == seeds).all() and len(table) == 5 * 2 * 3
    assert {r.scaling for r in listed[len(part) :]} == {"linear"}


@pytest.mark.parametrize("name", design.PLANS)
def test_shards_are_the_plan(name):
    """All of it, once, in order within a shard; a group learns from the same examples."""
    listed = runs(name, 2)
    parts = [groups(listed, (k, 3)) for k in range(3)]
    flat = [run for part in parts for group in part for run in group]
    assert sorted(map(str, flat)) == sorted(map(str, listed))
    for group in itertools.chain(*parts):
        same = {(r.condition, r.method, r.options, r.scale, r.seed) for r in group}
        assert len(same) == 1


def test_keys_change_with_everything_that_decides_a_result():
    """The run, the base's weights, the corpus, the questions."""
    first, second = runs("primary")[-2:]
    keys = {first.key("x", "y", "z"), second.key("x", "y", "z"), first.key("w", "y", "z"),
            first.key("x", "w", "z"), first.key("x", "y", "w")}  # fmt: skip
    assert len(keys) == 5


def test_validation_has_seeds_and_questions_of_its_own():
    """None of which a reported number uses."""
    recipe, primary = runs("recipe"), runs("primary")
    assert not {r.seed for r in recipe} & {r.seed for r in primary}
    assert {r.method for r in recipe} == {"pose"} and {r.base for r in recipe} == {"a"}
    assert {SETS[r.asked].seed for r in recipe} == {7} and SETS["main"].seed == 0


def test_unknown_plans_and_missing_recipes_are_refused():
    """With what to do instead."""
    with pytest.raises(ValueError, match="no plan 'x'"):
        plan("x", BASES, [0])
    with pytest.raises(ValueError, match="run the plan 'recipe' before"):
        plan("primary", BASES, [0])
    with pytest.raises(ValueError, match="different folders"):
        plan("recipe", ["a", "a"], [0])


def validation(score, seeds=(100, 101)) -> pd.DataFrame:
    """Answers of the recipe runs, all scores of a run being score(condition, scaling, ...)."""
    rows = []
    for condition, scaling in PRIMARY:
        tried = [*itertools.product(STEPS[scaling], RATES), *LONGER[scaling]]
        for (steps, rate), seed in itertools.product(tried, seeds):
            value = score(condition, scaling, steps, rate, seed)
            run = {"plan": "recipe", "condition": condition, "variant": "pose", "method": "pose",
                   "scaling": scaling, "scale": 8, "base": "a", "seed": seed, "steps": steps,
                   "learning_rate": rate, "options": "{}", "window": 512}  # fmt: skip
            lines = [{"task": "longchat_lines", "token_length": n} for n in (2048, 3072, 3994)]
            pairs = [{"task": "kv_retrieval", "token_length": 1229, "gold_index": g}
                     for g in range(5)]  # fmt: skip
            texts = {"task": "perplexity", "token_length": 512, "nll": 1.0, "scored_tokens": 511}
            rows += [{**run, **one, "score": value} for one in [*lines, *pairs]]
            rows.append({**run, **texts})
    return pd.DataFrame(rows)


def test_the_highest_mean_wins():
    """Over both seeds, of lines and pairs."""
    frame = validation(lambda c, s, n, r, k: 0.5 + 0.3 * (r == 3e-4) + 0.1 * (n == max(STEPS[s])))
    found, table = choose(frame)
    assert found == {key: Recipe(max(STEPS[key[1]]), 3e-4) for key in PRIMARY}
    assert table["chosen"].sum() == 6 and len(table) == 42
    assert table.loc[table["chosen"], "score"].tolist() == pytest.approx([90] * 6)


def test_within_a_point_fewer_steps_and_then_the_lower_rate_win():
    """What costs more must be better by more."""
    frame = validation(lambda c, s, n, r, k: 0.5 + 0.009 * (n == max(STEPS[s])))
    found, _ = choose(frame)
    assert found == {key: Recipe(min(STEPS[key[1]]), 1e-4) for key in PRIMARY}


def test_steps_cost_more_than_rates():
    """Of two as good, the one of fewer steps, though its rate is higher."""
    good = {("min", 1e-3), ("max", 1e-4)}
    frame = validation(
        lambda c, s, n, r, k: 0.6 * (("min" if n == min(STEPS[s]) else "max", r) in good)
    )
    found, _ = choose(frame)
    assert found == {key: Recipe(min(STEPS[key[1]]), 1e-3) for key in PRIMARY}


def test_what_was_added_later_is_chosen_from_as_well():
    """Linear at 3,000 steps, if that is what brings it back."""
    found, _ = choose(validation(lambda c, s, n, r, k: 0.4 * (n == 3000 and r == 1e-3)))
    assert found["mixed", "linear"] == found["text", "linear"] == Recipe(3000, 1e-3)


def test_all_at_zero_is_the_cheapest():
    """Nothing to choose by."""
    found, _ = choose(validation(lambda *_: 0.0))
    assert found["text", "linear"] == Recipe(300, 1e-4)


def test_nothing_is_chosen_from_half_of_the_runs():
    """A seed missing anywhere."""
    frame = validation(lambda *_: np.float64(0.5), seeds=(100,))
    with pytest.raises(ValueError, match="finish the plan 'recipe'"):
        choose(frame)


def test_dense_retrieval_is_run_where_a_recipe_was_chosen():
    """By linear alone, every method; beside them what is only scaled."""
    table = pd.DataFrame(map(vars, runs("dense")))
    tuned = table[table["steps"] > 0]
    assert set(tuned["condition"]) == {"dense-same"} and set(tuned["scaling"]) == {"linear"}
    assert len(tuned) == 5 * 3 * 4 and set(tuned["steps"]) == {1500}
    assert set(table[table["steps"] == 0]["variant"]) == {"scaled"}


def test_a_dense_recipe_is_chosen_by_the_same_rule():
    """From its own plan's runs; the primary plan's runs do not count."""
    frame = validation(lambda c, s, n, r, k: 0.4 + 0.3 * (n == 1500 and r == 1e-3))
    frame = frame[(frame["scaling"] == "linear") & (frame["condition"] == "text")]
    tried = frame[frame["steps"] == 1000].drop_duplicates(
        ["seed", "learning_rate", "task", "token_length", "gold_index"]
    )
    made = [
        tried[tried["learning_rate"] == rate].assign(
            plan="dense-recipe", condition=condition, steps=steps,
            score=0.4 + 0.3 * (steps == 1500 and rate == 1e-3),
        )
        for condition in DENSE for steps in DENSE_STEPS for rate in DENSE_RATES
    ]  # fmt: skip
    found, table = choose(pd.concat([frame, *made]), "dense-recipe")
    assert found == {(name, "linear"): Recipe(1500, 1e-3) for name in DENSE}
    assert len(table) == 8
    with pytest.raises(ValueError, match="7 of 8 runs: finish the plan 'dense-recipe'"):
        choose(pd.concat([made[0][made[0]["seed"] == 100], *made[1:]]), "dense-recipe")
