"""The primary comparisons on SmolLM2-135M: which runs count, their values, and every verdict."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from primary_rows import run, runs
from scipy import stats

from cream import results
from cream.reproduction.smollm2 import methods
from cream.reproduction.smollm2.primary import (
    COMPARISONS,
    by_seed,
    compared,
    counted_answers,
    difference,
    left_out,
    values,
    words,
)
from cream.reproduction.smollm2.primary_page import ONE_BASE, drawn, markdown

ROOT = Path(__file__).resolve().parents[3]
SIX = range(1, 7)
STEADY = [10.0, 11.0, 9.0, 10.5, 9.5, 10.0]


# --------------------------------------------------------------------- the value of a run


def test_the_value_of_a_run_is_the_mean_of_lengths_of_means_over_depths_and_kinds():
    """Counted with loops; lengths that were asked more often weigh as much as others."""
    rows = run("cream", 1, samples={16384: 5, 32768: 4, 65436: 3})
    rows["score"] = np.random.default_rng(0).integers(0, 2, len(rows)).astype(float)
    (found,) = values(rows).to_dict("records")
    each = {16384: [], 32768: [], 65436: []}
    middle = {16384: [], 32768: [], 65436: []}
    for row in rows.to_dict("records"):
        each[row["token_length"]].append(row["score"])
        if row["depth_percent"] in (33, 44, 55, 66):
            middle[row["token_length"]].append(row["score"])
    for column, scores in (("sentences", each), ("middle third", middle)):
        means = [100 * sum(part) / len(part) for part in scores.values()]
        assert found[column] == pytest.approx(sum(means) / 3)
        assert [found[f"{column}, {x}"] for x in ("16K", "32K", "64K")] == pytest.approx(means)
    assert [found[f"n_{x}"] for x in ("16K", "32K", "64K")] == [100, 80, 60]
    thirds = found["first third"] * 3 + found["middle third"] * 4 + found["last third"] * 3
    assert thirds / 10 == pytest.approx(found["sentences"])


def test_kinds_of_text_weigh_alike():
    rows = run("cream", 1)
    rows["score"] = rows["settings"].str.contains("manual").astype(float)
    assert values(rows)["sentences"].tolist() == [50.0]


# --------------------------------------------------------------------- which run counts


def test_the_run_that_answered_all_lengths_counts_and_the_other_is_named():
    cut = run("pose", 3, 0.9, lengths=(32768, 65436), folder="runs/smollm2")
    whole = run("pose", 3, 0.4)
    rows = runs(cut, whole)
    (found,) = values(rows).to_dict("records")
    assert found["sentences"] == pytest.approx(40) and found["run"].startswith("runs/primary")
    (other,) = left_out(rows).to_dict("records")
    assert other["run"] == "runs/smollm2/pose-yarn-8-seed3"
    assert other["why"] == "not whole at 16K" and other["n_64K"] == 60


def _uneven() -> pd.DataFrame:
    return run("pose", 3).iloc[:-1]


def _without_a_depth() -> pd.DataFrame:
    rows = run("pose", 3)
    return rows[~((rows["token_length"] == 16384) & (rows["depth_percent"] == 55))]


@pytest.mark.parametrize("rows,where", [
    (_uneven, "64K"), (_without_a_depth, "16K"),
    (lambda: run("pose", 3, samples={16384: 3, 32768: 2, 65436: 3}), "32K"),
], ids=["an answer lacks", "a depth lacks", "too few"])  # fmt: skip
def test_a_length_that_is_not_whole_does_not_count(rows, where):
    assert values(rows()).empty
    assert left_out(rows())["why"].tolist() == [f"not whole at {where}"]


def test_two_whole_runs_of_a_seed_are_a_persons_choice():
    first, again = run("cream", 5, folder="runs/smollm2"), run("cream", 5)
    said = r"2 models of cream with seed 5 .*smollm2/cream.* and .*primary/cream.*PREREGISTRATION"
    with pytest.raises(ValueError, match=said):
        values(runs(first, again))


def test_a_run_trained_twice_under_one_name_is_not_hidden():
    """`results.current` would keep the last alone."""
    again = run("cream", 5, model_hash="other weights", date="2026-11-28T23:00:00Z")
    again["key"] = again["key"] + "b"
    rows = runs(run("cream", 5), again)
    assert results.current(rows)["model_hash"].nunique() == 1
    with pytest.raises(ValueError, match="2 models of cream with seed 5"):
        values(rows)


def test_the_same_weights_under_two_names_are_one_run():
    rows = run("cream", 5, 0.4)
    again = rows.assign(run="runs/other/cream-yarn-8-seed5", key=rows["key"] + "b")
    (found,) = values(runs(rows, again)).to_dict("records")
    assert (found["n_64K"], found["sentences"]) == (60, pytest.approx(40))


def test_a_question_answered_again_by_the_same_weights_counts_once_as_last_answered():
    rows = run("cream", 5, 0.4)
    again = rows.assign(score=0.6, key=rows["key"] + "b", date="2026-11-28T23:00:00Z")
    (found,) = values(runs(again, rows)).to_dict("records")
    assert (found["n_64K"], found["sentences"]) == (60, pytest.approx(60))


@pytest.mark.parametrize("about", [
    {"run": "runs/x/clex-clex-8-seed2"}, {"run": "runs/x/clex-clex+frozen-8-seed2"},
    {"run": "runs/x/clex-clex-8-seed2-clex_grad_norm-1.0-learning_rate-0.001"},
])  # fmt: skip
def test_clex_counts_in_its_primary_form_alone(about):
    other = run("clex", 2, 0.9, **about, model_hash="other")
    assert values(other).empty
    assert left_out(other)["why"].tolist() == ["another form of the method"]
    both = values(runs(run("clex", 2, 0.1), other))
    assert both["sentences"].tolist() == pytest.approx([10])


@pytest.mark.parametrize("about", [
    {"scaling": "ntk", "run": "runs/x/cream-ntk-8-seed2"}, {"scale": 32}, {"seed": 7},
    {"seed": 100}, {"base": "miniature"}, {"task": "passkey"}, {"method": "rank19"},
    {"how": {"style": "official"}}, {"how": {"dtype": "float32"}}, {"how": {"haystack": "prose"}},
    {"how": {"decoding": "sampled"}}, {"how": {"clex_t": "growing"}},
])  # fmt: skip
def test_what_is_no_primary_run_is_not_taken_for_one(about):
    method, seed = about.pop("method", "cream"), about.pop("seed", 2)
    rows = run(method, seed, **about)
    assert values(rows).empty and left_out(rows).empty


def test_a_run_with_fields_of_its_own_is_another_form():
    lora = run("cream", 4, run="runs/x/cream-yarn-8-seed4-lora_rank-16")
    assert values(lora).empty
    assert left_out(lora)["why"].tolist() == ["another form of the method"]


def test_answers_to_other_questions_are_refused():
    """Validation text, or another seed of questions: rows say so by their prompts alone."""
    other = run("pose", 1)
    other["prompt_hash"] = "validation " + other["prompt_hash"]
    with pytest.raises(ValueError, match=r"cream.* and .*pose.* answered different questions"):
        values(runs(run("cream", 1), other))


def test_a_run_of_another_length_of_training_is_refused():
    longer = run("pose", 1, tokens_trained=200 * 16 * 8192)
    with pytest.raises(ValueError, match="trained on 26214400 tokens and a .* run on 19660800"):
        values(longer)
    with pytest.raises(ValueError, match="trained on <NA> tokens"):
        values(longer.assign(tokens_trained=pd.array([None] * len(longer), dtype="Int64")))


def test_seed_0_is_shown_and_in_no_comparison():
    rows = runs(*(run(method, seed) for method in ("cream", "pose") for seed in (0, 1)))
    found = values(rows)
    assert sorted(found["seed"]) == [0, 0, 1, 1]
    assert by_seed(found, COMPARISONS[0], "sentences")["seed"].tolist() == [1]
    assert "| CREAM | 0 (in no comparison) | 50.0 |" in markdown(rows)


# --------------------------------------------------------------------- intervals, Holm, verdicts


def made(**found: dict[int, float]) -> pd.DataFrame:
    """`values` of methods whose sentences and middle third are as given, by seed."""
    lines = [
        {"method": method, "seed": seed, "sentences": value, "middle third": value}
        for method, by in found.items() for seed, value in by.items()
    ]  # fmt: skip
    return pd.DataFrame(lines, columns=["method", "seed", "sentences", "middle third"])


def pair(differences: list[float], level: float = 40.0) -> pd.DataFrame:
    return made(
        cream=dict(zip(SIX, (level + d for d in differences), strict=False)),
        pose=dict.fromkeys(SIX, level),
    )


def test_the_interval_and_p_are_students_over_seeds():
    differences = [3.0, -1.0, 4.5, 8.0, 2.0, 0.5]
    table = compared(pair(differences))
    test = stats.ttest_1samp(differences, 0)
    first = table.iloc[0]
    assert (first.low, first.high) == pytest.approx(test.confidence_interval(0.95))
    assert first.p == pytest.approx(test.pvalue)
    assert first.value == pytest.approx(np.mean(differences))


def test_differences_are_between_runs_of_equal_seed():
    """Seeds differ by 20 points and every difference is 2: no spread is left of the seeds'."""
    found = made(
        cream={6: 62.0, 1: 12.0, 3: 32.0, 2: 22.0, 5: 52.0},
        pose={1: 10.0, 2: 20.0, 3: 30.0, 4: 99.0, 5: 50.0, 6: 60.0},
    )
    one = difference(found, COMPARISONS[0], "sentences")
    assert one["seeds"] == (1, 2, 3, 5, 6)
    assert (one["value"], one["low"], one["high"]) == pytest.approx((2, 2, 2))
    assert (one["level_a"], one["level_b"]) == pytest.approx((36, 34))


def closed_bonferroni(p: list[float]) -> list[float]:
    """Holm's p by what it is a shortcut of: the largest Bonferroni p of all sets of hypotheses."""
    every = range(len(p))
    sets = [s for n in every for s in itertools.combinations(every, n + 1)]
    level = {s: min(1.0, len(s) * min(p[i] for i in s)) for s in sets}
    return [max(level[s] for s in sets if i in s) for i in every]


def test_holms_p_takes_undecided_comparisons_as_1():
    rng = np.random.default_rng(1)
    cream, pose, plain = (
        dict(zip(SIX, mean + rng.normal(0, 3, 6), strict=True)) for mean in (45, 40, 30)
    )
    clex = dict.fromkeys((1, 2, 3, 4, 5), 0.0)  # five seeds: not decided
    table = compared(made(cream=cream, pose=pose, plain=plain, clex=clex))
    both = [stats.ttest_rel(list(a.values()), list(b.values())).pvalue
            for a, b in ((cream, pose), (pose, plain))]  # fmt: skip
    p = [*both, 1.0, 1.0, both[0]]
    decided = [0, 1, 4]
    assert table["holm"][decided].tolist() == pytest.approx(
        [closed_bonferroni(p)[at] for at in decided]
    )
    assert table["holm"][[2, 3]].isna().all() and table["p"][[2, 3]].isna().all()
    assert table["verdict"][[2, 3]].tolist() == ["not decided"] * 2


@pytest.mark.parametrize("differences,level,said", [
    (STEADY, 40, "holds"),
    ([-x for x in STEADY], 40, "does not hold (CREAM trails)"),
    ([1.0, -1.0, 2.0, -2.0, 0.5, -0.5], 40, "does not hold (within 5 points)"),
    ([-2.0, -3.0, -2.5, -2.0, -3.0, -2.5], 40, "does not hold (CREAM trails)"),
    ([20.0, -8.0, 15.0, -3.0, 9.0, 2.0], 40, "inconclusive"),
    (STEADY[:5], 40, "not decided"),
    ([], 40, "not decided"),
    ([0.5, 1.0, 0.0, 1.5, 0.5, 1.0], 1, "both near 0"),
    ([0.5, 1.0, 0.0, 1.5, 0.5, 1.0], 97, "both near 100"),
    ([-x for x in STEADY], 12, "does not hold (CREAM trails)"),  # one side alone near 0
])  # fmt: skip
def test_every_verdict(differences, level, said):
    table = compared(pair(differences, level))
    assert [words(row) for row in table.itertuples()][::4] == [said, said]  # both of CREAM, PoSE
    assert table["verdict"].iloc[0] == said.partition(" (")[0]
    assert table["verdict"][1:4].tolist() == ["not decided"] * 3


def test_an_interval_above_0_holds_by_holms_p_alone():
    """p = 0.02 alone is 0.1 among five, and the interval reaches beyond the margin."""
    table = compared(pair([8.0, 1.0, 14.0, 3.0, 12.0, 1.5]))
    first = table.iloc[0]
    assert first.low > 0 and first.p < 0.05 < first.holm and first.verdict == "inconclusive"


def test_six_seeds_of_one_side_decide_nothing():
    found = made(cream=dict.fromkeys(SIX, 90.0), pose=dict.fromkeys((0, *range(1, 6)), 10.0))
    assert compared(found)["verdict"].tolist() == ["not decided"] * 5


# --------------------------------------------------------------------- page, figure, command


@pytest.fixture(scope="module")
def six() -> pd.DataFrame:
    """CREAM, PoSE and plain with six seeds, EndPrompt with four, CLEX with two."""
    parts = [
        run(method, seed, (level + 0.7 * (seed % 3) + (method == "cream") * STEADY[seed - 1]) / 100)
        for method, level, seeds in (("cream", 30, SIX), ("pose", 30, SIX), ("plain", 20, SIX),
                                     ("endprompt", 22, (1, 2, 5, 6)), ("clex", 0, (1, 2)))
        for seed in seeds
    ]  # fmt: skip
    return runs(*parts)


def test_the_page_says_the_difference_the_seeds_and_the_verdict(six):
    page = markdown(six)
    found = "| CREAM less PoSE | sentences | 40.7 against 30.7 | +10.0 | [+9.3, +10.7] "
    assert found + "| 1, 2, 3, 4, 5, 6 | below 0.001 | below 0.001 | **holds** |" in page
    undecided = "| 1, 2, 5, 6 | taken as 1 | - | **not decided** |"
    assert any(one.startswith("| CREAM less EndPrompt |") and one.endswith(undecided)
               for one in page.splitlines())  # fmt: skip
    assert ONE_BASE in page and "None." in page.partition("do not count")[2]


def test_without_a_primary_run_the_page_says_so():
    page = markdown(run("cream", 1).iloc[:0])
    assert page.count("| - | - | - | none | taken as 1 | - | **not decided** |") == 5
    assert drawn(values(run("cream", 1).iloc[:0])) is None


def test_what_has_three_seeds_of_both_sides_is_drawn(six):
    titles = [axes.get_title(loc="left") for axes in drawn(values(six)).axes]
    assert titles == [
        "CREAM \N{MINUS SIGN} PoSE\nall lengths and depths: holds\nmiddle third of depths: holds",
        "PoSE \N{MINUS SIGN} plain fine-tuning\nall lengths and depths: holds",
        "CREAM \N{MINUS SIGN} EndPrompt\nnot decided: 4 of 6 seeds",
    ]


@pytest.mark.slow
def test_the_command_writes_the_page_and_the_figure(six, tmp_path):
    results.to_parquet(six, tmp_path / "rows" / "primary.parquet")
    methods.main([str(tmp_path / "rows"), "--figures", str(tmp_path / "figures")])
    assert (tmp_path / "rows" / "PRIMARY.md").read_text() == markdown(six)
    text = Image.open(tmp_path / "figures" / "smollm2_primary.png").text
    assert text["Rows"] == results.drawn_from(six)["rows"] and text["Commit"] == "0123abc"
    assert {one.name for one in (tmp_path / "figures").iterdir()} == {
        "smollm2.pdf", "smollm2.png", "smollm2_primary.pdf", "smollm2_primary.png"
    }  # fmt: skip


def test_nothing_is_written_where_rows_are_refused(tmp_path):
    two = runs(run("cream", 5, folder="runs/smollm2"), run("cream", 5))
    results.to_parquet(two, tmp_path / "rows" / "primary.parquet")
    with pytest.raises(ValueError, match="2 models of cream"):
        methods.main([str(tmp_path / "rows"), "--figures", str(tmp_path / "figures")])
    assert [one.name for one in (tmp_path / "rows").iterdir()] == ["primary.parquet"]
    assert not (tmp_path / "figures").exists()


@pytest.fixture(scope="module")
def committed() -> pd.DataFrame:
    return results.read(ROOT / "data" / "smollm2")


@pytest.mark.slow
def test_the_committed_page_is_what_the_rows_say(committed):
    page = (ROOT / "data" / "smollm2" / "PRIMARY.md").read_text()
    assert page == markdown(committed), "python -m cream.reproduction.smollm2 data/smollm2"


@pytest.mark.slow
def test_the_committed_figure_is_there_where_it_can_be_drawn_and_of_these_rows(committed):
    path = ROOT / "figures" / "smollm2_primary.png"
    assert path.exists() == (drawn(values(committed)) is not None), "make figures"
    if path.exists():
        rows = results.drawn_from(counted_answers(committed))["rows"]
        assert Image.open(path).text["Rows"] == rows, "draw it again: make figures"


def test_seed_2_has_the_values_that_the_pre_registration_saw(committed):
    table = values(committed).set_index(["seed", "method"])["sentences"].loc[2].round()
    seen = {"pose": 57, "cream": 53, "plain": 39, "endprompt": 39, "clex": 0}
    assert table.to_dict() == seen
