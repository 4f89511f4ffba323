"""From answers to verdicts: endpoints against hand arithmetic, intervals against simulation."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from made_grid import answers, runs
from scipy import stats

from cream.study.analysis import contrasts as analysis_contrasts
from cream.study.analysis import endpoints
from cream.study.analysis.contrasts import CLAIMS, Claim, contrasts, verdict
from cream.study.analysis.endpoints import units


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    """A small grid of known levels."""
    return answers(samples=40)


@pytest.fixture(scope="module")
def table(frame) -> pd.DataFrame:
    """What it says."""
    return contrasts(frame)


def row(table: pd.DataFrame, claim: str, condition: str = "text", scaling: str = "yarn"):
    """One claim's row."""
    found = table.query("claim == @claim and condition == @condition and scaling == @scaling")
    assert len(found) == 1
    return found.iloc[0]


def test_endpoints_are_the_means_of_their_cells(frame):
    """Against plain pandas on one run."""
    run = {"variant": "cream", "condition": "text", "scaling": "yarn", "base": "base1", "seed": 1}
    rows = frame[np.logical_and.reduce([frame[k] == v for k, v in run.items()])]
    found = units(rows).iloc[0]
    lines = rows[rows["task"] == "longchat_lines"].groupby("token_length")["score"].mean() * 100
    assert found["lines"] == pytest.approx(lines[[2048, 3072, 3994]].mean())
    assert found["lines_last"] == pytest.approx(lines[3994])
    assert found["lines_all"] == pytest.approx(lines[[1024, 2048, 3072, 3994]].mean())
    pairs = rows[rows["task"] == "kv_retrieval"].groupby("gold_index")["score"].mean() * 100
    assert found["kv"] == pytest.approx(pairs.mean())
    assert found["middle"] == pytest.approx(pairs[40] - (pairs[0] + pairs[80]) / 2)
    assert found["in_window"] == 100 and found["rise"] == pytest.approx(0)
    assert found["log_ppl_near"] == pytest.approx(200)


def test_a_run_is_one_row(frame):
    """The original and the scaled have one a base; the tuned one a base, seed and condition."""
    counts = units(frame).groupby("variant").size()
    assert counts["original"] == 3 and counts["scaled"] == 9
    assert (counts.drop(["original", "scaled"]) == 3 * 2 * 2 * 3).all()


def test_every_claim_of_the_plan_has_a_row_for_each_condition_and_scaling(table):
    """None is left out, also where there are no runs."""
    primary = [c for c in CLAIMS if c.plan == "primary"]
    wanted = {(c.name, x, y) for c in primary for x in ("text", "mixed")
              for y in ("linear", "ntk", "yarn") if c.a != "original"}  # fmt: skip
    found = set(zip(table["claim"], table["condition"], table["scaling"], strict=True))
    assert found >= wanted and ("original is 0 beyond N", "none", "none") in found
    assert (contrasts(units(answers({"plain": 0.5})))["verdict"] == analysis_contrasts.OPEN).all()


def test_a_large_lead_holds_and_a_tie_does_not(table):
    """0.6 and 0.5 with 120 answers a run; cream and pose are alike."""
    help_ = row(table, "tuning helps")
    assert (
        help_["value"] == pytest.approx(30, abs=8) and help_["verdict"] == analysis_contrasts.HOLDS
    )
    assert help_["bases"] == 3 and help_["n"] == 6 and help_["seeds"] == 2
    assert (
        row(table, "original is 0 beyond N", "none", "none")["verdict"] == analysis_contrasts.HOLDS
    )
    assert row(table, "randpos is 0")["verdict"] == analysis_contrasts.HOLDS
    assert row(table, "lines average")["verdict"] != analysis_contrasts.HOLDS
    assert row(table, "lines average")["holm"] >= row(table, "lines average")["p"]
    assert table.loc[table["family"] == "primary", "holm"].notna().sum() == 12
    assert table.loc[table["family"] == "secondary", "holm"].isna().all()


def test_the_interval_is_students_over_the_means_of_the_bases():
    """Against scipy's paired t test on base means."""
    made = runs({"cream": 3.0, "pose": 0.0}, bases=4, seeds=3, of_base=2.0)
    found = row(contrasts(made), "lines average")
    wide = made.pivot(index=["base", "seed"], columns="variant", values="lines")
    means = (wide["cream"] - wide["pose"]).groupby("base").mean()
    test = stats.ttest_1samp(means, 0)
    ends = test.confidence_interval(0.95)
    assert (found["value"], found["p"]) == pytest.approx((means.mean(), test.pvalue))
    assert (found["low"], found["high"]) == pytest.approx((ends.low, ends.high))


def drawn(draws: int = 200, **spread: float) -> pd.DataFrame:
    """The first claim's rows of as many made grids, each under a condition of its own."""
    made = [runs({"cream": 5.0, "pose": 0.0}, seed=draw, **spread).assign(condition=str(draw))
            for draw in range(draws)]  # fmt: skip
    settings = [analysis_contrasts._Setting(CLAIMS[0], str(draw), "yarn") for draw in range(draws)]
    return pd.DataFrame(analysis_contrasts._measured(pd.concat(made), settings))


def test_two_levels_cover_the_truth_and_seeds_alone_do_not():
    """3 x 8 runs whose bases differ: 95 in 100 intervals hold it, those over seeds far fewer."""
    found = drawn(of_base=1.5, of_run=2.0)
    assert len(found) == 200 and (found["n"] == 24).all()
    assert 0.91 < ((found["low"] <= 5) & (found["high"] >= 5)).mean() < 0.99
    assert ((found["seeds_low"] <= 5) & (found["seeds_high"] >= 5)).mean() < 0.75


def test_seeds_alone_cover_the_truth_where_bases_are_alike():
    """The second interval is right about what it speaks of."""
    found = drawn(of_base=0.0, of_run=2.0)
    assert 0.91 < ((found["seeds_low"] <= 5) & (found["seeds_high"] >= 5)).mean() < 0.99


def test_runs_are_paired_by_base_and_seed():
    """What a base or seed adds to both methods is not in the difference."""
    made = runs({"cream": 4.0, "pose": 0.0}, of_run=0.0)
    shift = made["base"].map({"base0": 0.0, "base1": 30.0, "base2": 60.0}) + made["seed"]
    found = row(contrasts(made.assign(lines=made["lines"] + shift)), "lines average")
    assert (found["value"], found["low"], found["high"]) == pytest.approx((4, 4, 4))


def test_a_cut_grid_pairs_what_both_have_and_weighs_bases_alike():
    """A base with fewer seeds counts as much as the others."""
    made = runs({"cream": 0.0, "pose": 0.0}, of_run=0.0, seeds=4)
    made.loc[(made["variant"] == "cream") & (made["base"] == "base0"), "lines"] = 9.0
    cut = made[(made["base"] != "base0") | (made["seed"] == 0)]
    found = row(contrasts(cut), "lines average")
    assert found["value"] == pytest.approx(3.0) and found["n"] == 9 and found["seeds"] == 1


def test_one_base_cannot_tell():
    """Its seeds speak of that base only."""
    found = row(contrasts(runs({"cream": 50.0, "pose": 0.0}, bases=1)), "lines average")
    assert found["verdict"] == analysis_contrasts.OPEN and np.isnan(found["p"])
    assert found["seeds_low"] > 45


def test_primary_claims_are_adjusted_for_their_number():
    """A p of 0.01 is lost among twelve claims."""
    made = runs({"cream": 4.0, "pose": 0.0}, bases=3, seeds=8, of_base=0.35, of_run=0.1, seed=3)
    found = row(contrasts(made), "lines average")
    assert found["low"] > 0 and found["p"] < 0.05 and found["holm"] > 0.05
    assert found["verdict"] == analysis_contrasts.OPEN


@pytest.mark.parametrize(
    ("kind", "low", "high", "holm", "said"),
    [
        ("lead", 1, 9, None, "holds"),
        ("lead", 1, 9, 0.01, "holds"),
        ("lead", 1, 9, 0.2, "inconclusive"),
        ("lead", -9, -1, 0.2, "does not hold"),
        ("lead", -4, 4, 1.0, "does not hold"),
        ("lead", -6, 4, None, "inconclusive"),
        ("lead", np.nan, np.nan, None, "inconclusive"),
        ("more", 6, 9, None, "holds"),
        ("more", 1, 9, None, "inconclusive"),
        ("more", 1, 4, None, "does not hold"),
        ("most", 0, 4, None, "holds"),
        ("most", 6, 9, None, "does not hold"),
        ("most", 4, 6, None, "inconclusive"),
        ("kept", -4, 9, None, "holds"),
        ("kept", -9, -6, None, "does not hold"),
        ("kept", -6, 1, None, "inconclusive"),
    ],
)  # fmt: skip
def test_verdicts(kind, low, high, holm, said):
    """Each rule of the preregistration, at a margin of 5."""
    assert verdict(kind, low, high, holm, margin=5.0) == said


def test_a_wider_scale_is_compared_with_its_own_method_and_flagged_by_none():
    """A gain must be larger than the margin; in the window it may cost as much."""
    wider = {"plain, wider": 20.0, "plain": 0.0, "pose, wider": 7.0, "pose": 3.0}
    made = runs(wider, endpoint="lines_last", plan="margin", of_run=0.2).assign(condition="mixed")
    found = contrasts(made, ("margin",), {"mixed": ["plain"]}).set_index("claim")
    gains = found.loc[["tuned for 1.25 L, plain: gains at 7.8 N",
                       "tuned for 1.25 L, pose: gains at 7.8 N"]]  # fmt: skip
    assert gains["value"].tolist() == pytest.approx([20, 4], abs=1)
    assert gains["verdict"].tolist() == ["holds", "does not hold"]
    assert set(found["family"]) == {"secondary"} and set(found["condition"]) == {"mixed"}


def test_ablations_lean_on_the_primary_runs_of_the_variant_they_compare_with():
    """The plan trains the changed sampler only."""
    made = pd.concat([runs({"cream": 9.0}), runs({"uniform": 1.0}, plan="ablations")])
    found = row(contrasts(made, plans=("ablations",)), "gaussian over uniform")
    assert (
        found["value"] == pytest.approx(8, abs=1) and found["verdict"] == analysis_contrasts.HOLDS
    )


def test_flagged_variants_are_sensitivity_rows(frame):
    """In their condition only, and only where they are compared."""
    found = contrasts(frame, flagged={"mixed": ["plain", "randpos"]})
    uneven = found[found["family"] == "sensitivity"]
    assert set(uneven["condition"]) == {"mixed"} and set(uneven["b"]) == {"plain"}
    assert len(uneven) == 6
    far = runs({"cream": 1.0, "pose": 0.0}, endpoint="far", plan="scale64")
    said = contrasts(far, ("scale64",), {"text": ["pose, scale 64"]}).set_index("claim")["family"]
    with_pose = {c.name for c in CLAIMS if c.plan == "scale64" and "pose" in (c.a, c.b)}
    assert set(said[said == "sensitivity"].index) == with_pose
    assert "scale 64: cream over pose" in with_pose


def test_claims_have_names_of_their_own():
    """A table's rows can be told apart."""
    assert len({c.name for c in CLAIMS}) == len(CLAIMS)
    assert all(isinstance(c, Claim) and c.kind in ("lead", "more", "most", "kept") for c in CLAIMS)


def test_levels_weigh_bases_as_their_difference_does():
    """With unequal seeds, too: the two levels differ by the value."""
    made = runs({"cream": 0.0, "pose": 0.0}, of_run=0.0, seeds=4)
    made.loc[(made["variant"] == "cream") & (made["base"] == "base0"), "lines"] = 9.0
    cut = made[(made["base"] != "base0") | (made["seed"] == 0)]
    found = row(contrasts(cut), "lines average")
    assert (found["level_a"], found["level_b"]) == pytest.approx((3.0, 0.0))
    assert (found["n"], found["seeds"], found["seeds_most"]) == (9, 1, 4)


@pytest.mark.parametrize(
    ("levels", "bound"),
    [((0.0, 0.0), "near 0"), ((4.0, 1.0), "near 0"), ((6.0, 0.0), ""), ((98.0, 99.0), "near 100"),
     ((98.0, 60.0), "")],
)  # fmt: skip
def test_a_comparison_at_an_end_of_the_scale_says_so(levels, bound):
    """Where a difference as large as the margin could not show."""
    cream, pose = levels
    found = row(contrasts(runs({"cream": cream, "pose": pose}, of_run=0.1)), "lines average")
    assert found["bound"] == bound


def test_the_middle_is_at_an_end_where_its_places_are():
    """Not where middle and ends are alike: that difference is 0 of a model that answers all."""
    made = runs({"cream": 0.1, "pose": 0.0}, endpoint="middle", of_run=0.1)
    for kv, bound in ((50.0, ""), (1.0, "near 0")):
        found = row(contrasts(made.assign(kv=kv)), "middle of key-value pairs")
        assert found["bound"] == bound


@pytest.mark.slow
def test_being_0_says_something_where_another_is_not(frame, table):
    """RandPos at 0 beside others that are not; where all are, no difference can be measured."""
    assert row(table, "randpos is 0")["bound"] == ""
    assert row(table, "original is 0 beyond N", "none", "none")["bound"] == ""
    low = frame.assign(score=frame["score"].where(frame["scaling"] != "linear", 0.0))
    assert row(contrasts(low), "randpos is 0", scaling="linear")["bound"] == "near 0"


def test_to_keep_what_the_original_can_do_says_something(table):
    """At the top of the scale, too: a loss would have shown."""
    found = row(table, "short tasks kept")
    assert found["level_a"] > 95 and found["level_b"] > 95 and found["bound"] == ""


def test_a_rise_has_the_losses_it_stands_between(table):
    """Of one run of made rows: 2 nats a token at both lengths."""
    found = row(table, "flat perplexity")
    assert (found["level_a"], found["level_b"]) == pytest.approx((200.0, 200.0))


def test_a_tenth_of_the_steps_is_paired_with_the_whole_run_of_its_base_and_seed():
    """Of the primary grid, not of other learning rates."""
    made = pd.concat([
        runs({"cream": 50.0}, of_run=0.0),
        runs({"cream": 10.0}, of_run=0.0, plan="sensitivity"),
        runs({"cream": 48.0}, of_run=0.0, plan="tenth", seeds=2),
    ])  # fmt: skip
    found = row(contrasts(made), "a tenth of the steps")
    assert (found["value"], found["n"], found["verdict"]) == (
        pytest.approx(-2.0),
        6,
        analysis_contrasts.HOLDS,
    )
    assert (found["a"], found["b"], found["level_b"]) == ("a tenth", "cream", pytest.approx(50.0))


def test_what_was_added_later_is_in_no_correction(table):
    """Exploratory claims have no Holm's p and do not change that of the twelve."""
    later = [c for c in CLAIMS if c.family == "exploratory"]
    assert later and not any(c.plan == "primary" for c in later)
    assert sum(c.family == "primary" for c in CLAIMS) * 6 == 12


def test_every_endpoint_of_a_claim_has_words():
    """Readers do not see column names."""
    assert {c.endpoint for c in CLAIMS} <= set(endpoints.ENDPOINTS)
