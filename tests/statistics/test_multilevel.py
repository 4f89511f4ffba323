"""Means with both of their intervals: bases weigh alike, seeds lie inside them."""

import numpy as np
import pandas as pd
import pytest
from made_campaign import campaign
from made_grid import runs as made_runs

from cream import statistics
from cream.statistics import multilevel
from cream.study.analysis import contrasts


def test_levels_are_means_of_bases_not_of_runs():
    """A base with more seeds counts once."""
    made = pd.DataFrame({"base": ["a"] * 4 + ["b"], "seed": [0, 1, 2, 3, 0],
                         "scaling": "yarn", "lines": [50.0] * 4 + [70.0]})  # fmt: skip
    (row,) = multilevel.group_means(made, ["scaling"]).itertuples()
    assert (row.value, row.bases, row.runs, row.unit) == (60.0, 2, 5, "base")
    assert row.high - row.value == pytest.approx(12.706 * 10, rel=1e-3)
    assert row.seeds_high - row.seeds_low == 0.0  # seeds alike, these bases given


def test_runs_without_a_base_are_refused():
    """pandas would leave them out of the mean."""
    made = pd.DataFrame({"base": ["a", None], "seed": 0, "scaling": "yarn", "lines": [50.0, 70.0]})
    with pytest.raises(ValueError, match="1 of 2 runs have no base"):
        multilevel.group_means(made, ["scaling"])


def test_differences_are_those_of_the_claims():
    """The same value and both intervals as `claims.contrasts`, which tests the paper's claims."""
    runs = made_runs({"cream": 8.0, "pose": 3.0}, bases=3, seeds=4)
    runs.loc[0, "lines"] = np.nan  # a run that was not asked
    (ours,) = multilevel.differences(runs, "cream", "pose", "lines").itertuples()
    found = contrasts.contrasts(runs, ("primary",)).set_index(["claim", "condition", "scaling"])
    theirs = found.loc[("lines average", ours.condition, ours.scaling)]
    for name in ("value", "low", "high", "seeds_low", "seeds_high", "bases"):
        assert getattr(ours, name) == pytest.approx(theirs[name]), name
    assert ours.runs == theirs["n"] == 11
    assert ours.level_a - ours.level_b == pytest.approx(ours.value)


@pytest.mark.parametrize("bases", [1, 3])
def test_levels_are_those_of_two_level(bases):
    """Counted for all groups at once here, group by group there; one base's unit is the seed."""
    runs = made_runs({"cream": 8.0, "pose": 3.0}, bases=bases, seeds=4).drop(index=0)
    table = multilevel.group_means(runs, ["variant"]).set_index("variant")
    for variant, part in runs.groupby("variant"):
        theirs, ours = statistics.two_level(part, "lines"), table.loc[variant]
        assert ours["unit"] == theirs.unit and ours["runs"] == theirs.n_runs
        middle = part.groupby("base")["lines"].mean().mean()
        assert ours["value"] == pytest.approx(middle)
        for name in ("low", "high"):
            assert ours[name] == pytest.approx(getattr(theirs, name))
    with pytest.raises(ValueError, match="one row a run"):
        multilevel.group_means(pd.concat([runs, runs]), ["variant"])


@pytest.mark.slow
def test_levels_of_answers_and_perplexities_are_means_over_bases():
    """Against the mean of runs computed by hand; perplexity as exp of the mean loss."""
    frame = campaign(("primary",), samples=4)
    lines = frame[frame["task"] == "longchat_lines"].assign(x=1.0)
    found = multilevel.of_answers(lines).set_index(["variant", "condition", "scaling"])
    mine = lines[(lines["variant"] == "pose") & (lines["condition"] == "text")]
    mine = mine[mine["scaling"] == "yarn"]
    by_run = mine.groupby(["base", "seed"])["score"].mean().astype(float)
    assert found.loc[("pose", "text", "yarn"), "value"] == pytest.approx(100 * by_run.mean())
    texts = pd.DataFrame({"condition": "text", "scaling": "yarn", "variant": "pose", "x": 1.0,
                          "base": ["a", "a", "b"], "seed": [0, 0, 0], "nll": [10.0, 30.0, 60.0],
                          "scored_tokens": [10, 10, 20]})  # fmt: skip
    (row,) = multilevel.perplexities(texts).itertuples()
    assert row.value == pytest.approx(np.exp((2.0 + 3.0) / 2)) and row.runs == 2


def test_a_setting_at_0_is_one_where_no_tuned_model_leaves_it():
    """Untuned ones stand in every setting and say nothing of it."""
    table = pd.DataFrame({
        "condition": ["text"] * 3, "scaling": ["linear", "linear", "yarn"],
        "variant": ["scaled", "cream", "cream"], "value": [30.0, 0.2, 40.0],
    })  # fmt: skip
    assert multilevel.floored(table) == [("text", "linear")]
