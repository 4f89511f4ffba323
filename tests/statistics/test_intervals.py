"""Intervals against closed forms, scipy, and how often they hold the truth in simulation."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from cream import statistics as st
from cream.statistics import intervals

REPEATS = 600


@pytest.mark.parametrize(("successes", "n"), [(0, 50), (1, 50), (25, 50), (50, 50), (491, 500)])
def test_wilson_is_scipys(successes, n):
    """Scipy has it for whole numbers."""
    theirs = stats.binomtest(successes, n).proportion_ci(method="wilson")
    ours = st.wilson(successes, n)
    assert ours[1:3] == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert ours.value == successes / n and ours.n == n


def test_wilson_by_hand():
    """At 0 of n the upper end is z^2 / (n + z^2)."""
    z2 = stats.norm.ppf(0.975) ** 2
    assert st.wilson(0, 50) == pytest.approx((0.0, 0.0, z2 / (50 + z2), 50))


@pytest.mark.parametrize(("successes", "n"), [(1, 0), (3, 2), (-1, 5)])
def test_wilson_refuses_what_is_no_share(successes, n):
    """The message names both numbers."""
    with pytest.raises(ValueError, match=f"{successes} of {n}"):
        st.wilson(successes, n)


def test_a_proportion_of_independent_samples_is_wilsons():
    """No unit, or a unit each: the plain interval."""
    scores = [1, 0, 1, 1, 0, 1]
    assert st.proportion(scores) == pytest.approx(st.wilson(4, 6))
    assert st.proportion(scores, unit=list("abcdef")) == pytest.approx(st.wilson(4, 6))


def test_a_proportion_whose_units_are_all_or_nothing_counts_units():
    """Five copies of ten answers are ten answers, but for the few-units correction."""
    unit = np.repeat(np.arange(40), 5)
    scores = np.repeat([0, 1] * 20, 5)
    few = stats.norm.ppf(0.975) / stats.t.ppf(0.975, 39)
    expected = st.wilson(20 * few**2, 40 * few**2)
    found = st.proportion(scores, unit)
    assert found[:3] == pytest.approx(expected[:3], abs=1e-12) and found.n == 200
    assert np.isnan(st.proportion([1, 0], unit=["a", "a"]).low)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        st.proportion([0.5, 2.0])


def test_a_mean_interval_is_students():
    """Against scipy, and unchanged by naming every sample its own unit."""
    values = np.random.default_rng(0).normal(3, 2, 17)
    theirs = stats.ttest_1samp(values, 0).confidence_interval()
    assert st.mean_interval(values)[:3] == pytest.approx((values.mean(), *theirs))
    assert st.mean_interval(values, range(17)) == pytest.approx(st.mean_interval(values))


def test_a_mean_over_equal_units_is_students_over_their_means():
    """With equally large units the cluster-robust interval is the t-interval of unit means."""
    values = np.random.default_rng(1).normal(size=(12, 5))
    theirs = stats.ttest_1samp(values.mean(axis=1), 0).confidence_interval()
    found = st.mean_interval(values.ravel(), np.repeat(np.arange(12), 5))
    assert found[:3] == pytest.approx((values.mean(), *theirs))


def test_a_paired_difference_is_scipys_paired_test():
    """Unbounded, unclustered: the paired t-test."""
    a, b = np.random.default_rng(2).normal(size=(2, 30))
    theirs = stats.ttest_rel(a, b).confidence_interval()
    assert st.paired_difference(a, b)[1:3] == pytest.approx(tuple(theirs))


def test_a_paired_difference_of_accuracies_is_bonett_and_prices():
    """Their closed form, with Student's quantile for the normal one."""
    a = np.array([1] * 30 + [0] * 20)
    b = np.array([1] * 10 + [0] * 20 + [1] * 5 + [0] * 15)
    p12, p21, n = (20 + 1) / 52, (5 + 1) / 52, 52
    error = np.sqrt((p12 + p21 - (p12 - p21) ** 2) / n) * np.sqrt(n / (n - 1))
    half = stats.t.ppf(0.975, 49) * error
    found = st.paired_difference(a, b, span=1)
    assert found[1:3] == pytest.approx((p12 - p21 - half, p12 - p21 + half))
    assert found.value == pytest.approx(0.3) and found.excludes_zero


def test_a_difference_at_the_ceiling_keeps_a_width():
    """All of a right, all of b wrong: Student's interval would be a point."""
    found = st.paired_difference(np.ones(50), np.zeros(50), span=1)
    assert found.value == 1 and 0.8 < found.low < 0.95 and found.excludes_zero
    plain = st.paired_difference(np.ones(50), np.zeros(50))
    assert plain.low == plain.high == 1
    assert not st.paired_difference(np.ones(9), np.ones(9), span=1).excludes_zero


def clustered(rng, units: int, size: int, share: float, correlation: float) -> np.ndarray:
    """Beta-binomial answers: `size` questions about each of `units` documents."""
    a, b = share * (1 - correlation) / correlation, (1 - share) * (1 - correlation) / correlation
    return (rng.random((units, size)) < rng.beta(a, b, (units, 1))).ravel().astype(float)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_clustered_intervals_hold_the_truth(share):
    """Ten documents of five questions: naive Wilson fails, ours holds 90 in 100 and more."""
    rng, unit = np.random.default_rng(3), np.repeat(np.arange(10), 5)
    hits = naive = pairs = 0
    for _ in range(REPEATS):
        a, b = (clustered(rng, 10, 5, share, 0.3) for _ in range(2))
        found, wrong = st.proportion(a, unit), st.wilson(a.sum(), 50)
        difference = st.paired_difference(a, b, unit, span=1)
        hits += found.low <= share <= found.high
        naive += wrong.low <= share <= wrong.high
        pairs += difference.low <= 0 <= difference.high
    assert hits / REPEATS > 0.90 and pairs / REPEATS > 0.93
    assert share != 0.5 or naive / REPEATS < 0.88


def documents(rng, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Documents of unequal length whose loss differs: mean 2 nats a token, sd 0.5."""
    tokens = rng.integers(1000, 4000, n).astype(float)
    return rng.normal(2, 0.5, n) * tokens, tokens


def test_perplexity_is_token_weighted():
    """exp of total over total, never a mean of means."""
    found = st.perplexity([10.0, 60.0, 3.0], [10, 20, 1])
    assert found.value == pytest.approx(np.exp(73 / 31)) and found.n == 3
    assert found.low < found.value < found.high
    both = st.perplexity([10.0, 60.0, 3.0, 7.0], [10, 20, 1, 9], unit=["a", "b", "c", "c"])
    assert both.n == 3


def test_the_bootstrap_agrees_with_scipy_where_there_are_many_documents():
    """With 400 documents every bootstrap interval is about the same."""
    top, bottom = documents(np.random.default_rng(4), 400)
    theirs = stats.bootstrap(
        (top, bottom), lambda a, b, axis: a.sum(axis) / b.sum(axis), paired=True, vectorized=True,
        n_resamples=2000).confidence_interval  # fmt: skip
    ours = st.bootstrap_ratio(top, bottom)
    width = theirs.high - theirs.low
    assert ours[1:3] == pytest.approx(tuple(theirs), abs=0.1 * width)
    assert ours == st.bootstrap_ratio(top, bottom)


@pytest.mark.parametrize("n", [5, 10])
def test_the_bootstrap_holds_the_truth_with_few_documents(n):
    """Where percentile and BCa intervals hold it 86 to 90 times in 100."""
    rng, hits = np.random.default_rng(5), 0
    for _ in range(REPEATS):
        found = st.bootstrap_ratio(*documents(rng, n), resamples=500)
        hits += found.low <= 2 <= found.high
    assert hits / REPEATS > 0.92


def test_the_bootstrap_at_its_limits():
    """Of one document or two there is no interval, of equal ones hardly; empty ones are refused."""
    assert np.isnan(st.perplexity([5.0], [2]).low)
    assert np.isnan(st.perplexity([5.0, 9.0], [2, 3]).low)
    assert st.perplexity([4.0, 8.0, 6.0], [2, 4, 3])[:3] == pytest.approx((np.exp(2),) * 3)
    with pytest.raises(ValueError, match="without a scored token"):
        st.perplexity([4.0, 0.0], [2, 0])
    with pytest.raises(ValueError, match="1 of 2 values are not finite"):
        st.perplexity([4.0, np.nan], [2, 1])
    with pytest.raises(ValueError, match="at least one sample"):
        st.mean_interval([])
    with pytest.raises(ValueError, match="3 values have 2 units"):
        st.mean_interval([1, 2, 3], ["a", "b"])


def runs(rng, bases: int, seeds: int, sd_base: float, sd_seed: float) -> pd.DataFrame:
    base, seed = np.divmod(np.arange(bases * seeds), seeds)
    noise = sd_base * rng.normal(size=bases)[base] + sd_seed * rng.normal(size=len(base))
    return pd.DataFrame({"base": base, "seed": seed, "difference": 1 + noise})


def test_two_levels_hold_the_truth_where_seeds_alone_do_not():
    """Four bases of five seeds: counting 20 runs as independent is wrong most of the time."""
    rng, hits, naive = np.random.default_rng(6), 0, 0
    for _ in range(REPEATS):
        frame = runs(rng, 4, 5, 1.0, 0.5)
        found, wrong = st.two_level(frame, "difference"), st.mean_interval(frame["difference"])
        hits += found.low <= 1 <= found.high
        naive += wrong.low <= 1 <= wrong.high
    assert 0.92 < hits / REPEATS < 0.98 and naive / REPEATS < 0.8


def test_two_levels_find_both_spreads():
    """Moments against what was simulated; the value is the mean of base means."""
    found = st.two_level(runs(np.random.default_rng(7), 2000, 3, 1.0, 0.5), "difference")
    assert (found.sd_outer, found.sd_inner) == pytest.approx((1.0, 0.5), rel=0.05)
    assert found.unit == "base" and found.n_units == 2000 and found.n_runs == 6000
    uneven = pd.DataFrame({"base": [0, 0, 1], "seed": [0, 1, 0], "difference": [0.0, 2.0, 5.0]})
    assert st.two_level(uneven, "difference").value == 3


def test_two_levels_with_one_base_speak_of_seeds():
    """And one run has no interval at all."""
    frame = runs(np.random.default_rng(8), 1, 4, 1.0, 0.5)
    found = st.two_level(frame, "difference")
    theirs = stats.ttest_1samp(frame["difference"], 0).confidence_interval()
    assert found.unit == "seed" and found.n_units == 4
    assert (found.low, found.high) == pytest.approx(tuple(theirs))
    assert np.isnan(st.two_level(frame.iloc[:1], "difference").low)
    with pytest.raises(ValueError, match="one row a run"):
        st.two_level(pd.concat([frame, frame]), "difference")


def rows(scores: list[float], **more: object) -> pd.DataFrame:
    n = len(scores)
    made = {"task": "lines", "prompt_hash": [f"p{i}" for i in range(n)], "sample": range(n),
            "score": scores, "document": pd.Series([pd.NA] * n, dtype="string")}  # fmt: skip
    return pd.DataFrame({**made, **more})


def test_match_pairs_the_same_prompts_only():
    """Rows in another order, and one without a partner."""
    first, second = rows([1, 0, 1]), rows([0, 0, 1, 1]).iloc[::-1]
    a, b, unit = st.match(first, second)
    assert a.tolist() == [1, 0, 1] and b.tolist() == [0, 0, 1] and unit.tolist() == [0, 1, 2]
    assert st.match(rows([1, 0], document="d"), rows([1, 0]))[2].tolist() == ["d", "d"]
    with pytest.raises(ValueError, match="no sample in common"):
        st.match(first, rows([1], task="pairs"))


def test_tables_have_an_interval_and_n_in_every_row():
    """One row a group, in the group's order."""
    frame = rows([1, 0, 1, 1], token_length=[512, 512, 1024, 1024], nll=4.0, scored_tokens=2)
    table = st.accuracies(frame, ["token_length"])
    assert list(table) == ["token_length", "value", "low", "high", "n"]
    assert table["value"].tolist() == [0.5, 1.0] and table["n"].tolist() == [2, 2]
    assert tuple(table.iloc[0, 1:]) == pytest.approx(st.wilson(1, 2))
    assert st.perplexities(frame, ["token_length"])["value"].tolist() == pytest.approx(
        [np.e**2] * 2
    )
    assert list(st.accuracies(frame.iloc[:0], ["token_length"])) == list(table)


def test_the_p_of_two_levels_is_students():
    """Against scipy's t test over the means of the bases."""
    frame = pd.DataFrame(
        {"base": list("aabbcc"), "seed": [0, 1] * 3, "value": [1, 2, 4, 3, 2, 2.5]}
    )
    theirs = stats.ttest_1samp(frame.groupby("base")["value"].mean(), 0).pvalue
    assert st.p_value(st.two_level(frame, "value")) == pytest.approx(theirs)


def test_p_without_spread_or_units():
    """Nothing but zeros is no evidence; a single run has no p."""
    frame = pd.DataFrame({"base": list("abc"), "seed": 0, "value": 0.0})
    assert st.p_value(st.two_level(frame, "value")) == 1
    assert np.isnan(st.p_value(st.two_level(frame[:1], "value")))


def test_runs_that_a_mean_would_leave_out_are_refused():
    """pandas skips a missing base or value, which counted as a run all the same."""
    frame = pd.DataFrame(
        {"base": list("aabb"), "seed": [0, 1, 0, 1], "value": [1.0, 2.0, 3.0, 5.0], "by": "x"}
    )
    lost = frame.assign(value=[np.nan, 2.0, 3.0, 5.0])
    unnamed = frame.assign(base=[None, "a", "b", "b"])
    for wrong, said in ((lost, "value is not finite in 1 of 4"), (unnamed, "1 of 4 runs have no")):
        with pytest.raises(ValueError, match=said):
            st.two_level(wrong, "value")
        with pytest.raises(ValueError, match=said):
            intervals.two_levels(wrong, "value", "by")
    with pytest.raises(ValueError, match="4 of 4 runs have no by"):
        intervals.two_levels(frame.assign(by=None), "value", "by")


def test_a_mean_of_no_parts_is_refused():
    with pytest.raises(ValueError, match="nothing to average"):
        st.mean_of([])


@pytest.mark.parametrize("interval", [st.mean_interval, st.proportion])
def test_samples_without_a_unit_are_refused(interval):
    """A missing unit is neither a unit of its own nor one that all of them share."""
    for units in ([None, "a", "b"], [None, None, None], ["a", np.nan, "b"]):
        with pytest.raises(ValueError, match="of 3 values have no unit"):
            interval([1.0, 0.0, 1.0], units)


def test_holm_by_hand():
    """Holm's steps: 4 x 0.01, then 3 x 0.02, 2 x 0.03 raised to it, and the last; in any order."""
    assert st.holm([0.03, 0.01, 0.2, 0.02]) == pytest.approx([0.06, 0.04, 0.2, 0.06])
    assert st.holm([0.4, np.nan, 0.6]) == pytest.approx([1, 1, 1])
    assert len(st.holm([])) == 0


def test_seeds_inside_given_bases_are_a_one_way_layout():
    """As scipy's t over the pooled residuals of equal groups; NaN where no base has two seeds."""
    rng = np.random.default_rng(0)
    values = rng.normal([[1.0], [4.0], [9.0]], 0.5, (3, 5))
    residuals = values - values.mean(1, keepdims=True)
    error = np.sqrt((residuals**2).sum() / (15 - 3) / 15)
    theirs = stats.t.interval(0.95, 15 - 3, loc=values.mean(), scale=error)
    frame = pd.DataFrame(
        {"base": np.repeat(range(3), 5), "seed": np.tile(range(5), 3), "x": values.ravel()}
    )
    found = st.two_level(frame, "x")
    ours = intervals.inner_interval(found.value, found.sd_inner, [5, 5, 5])
    assert ours == pytest.approx(theirs, abs=1e-12)
    assert np.isnan(intervals.inner_interval(1.0, np.nan, [1, 1])).all()


def test_two_levels_of_many_groups_are_those_of_each():
    """One base, one run and unequal seeds among them; rows in any order."""
    rng = np.random.default_rng(5)
    frame = pd.DataFrame(
        [(group, f"base{base}", seed, rng.standard_normal())
         for group, seeds in {"a": (3, 1, 4), "b": (5,), "c": (1,), "d": (1, 1)}.items()
         for base, many in enumerate(seeds) for seed in range(many)],
        columns=["group", "base", "seed", "value"],
    )  # fmt: skip
    mixed = frame.sample(frac=1, random_state=0)
    found = intervals.two_levels(mixed, "value", "group")
    assert list(found) == ["a", "b", "c", "d"]
    for group, part in mixed.groupby("group"):
        alone = st.two_level(part, "value")
        assert found[group].unit == alone.unit
        numbers = [[*one[:3], *one[4:]] for one in (found[group], alone)]
        assert numbers[0] == pytest.approx(numbers[1], nan_ok=True)
    with pytest.raises(ValueError, match="one row a run"):
        intervals.two_levels(pd.concat([frame, frame.tail(1)]), "value", "group")


def test_an_interval_is_written_only_where_there_is_one():
    """03_longchat_lines printed "[nan%, nan%]" of two questions about one record."""
    assert st.bracket(0.304, 0.47, ".0%") == "[30%, 47%]"
    assert st.bracket(-1.25, 3, "+.1f") == "[-1.2, +3.0]" and st.bracket(30.4, 47) == "[30, 47]"
    one = st.proportion([1, 0], ["a", "a"])
    assert st.bracket(one.low, one.high) == "[one unit: no interval]"
