"""The search of steps and rate: which rows count, what is refused, what the rules choose."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from search_rows import DOCUMENTS, RATES, TEXT, Searched, every, publish, table

from cream import results
from cream.reproduction.smollm2.search_recipes import (
    PRESET,
    RECIPES,
    check_split,
    chosen,
    gains,
    levels,
    read,
    spread,
    values,
    with_documents,
)
from cream.study.design import Recipe

NAN = math.nan
FLAT = {(steps, rate): (40.0, 42.0) for steps in (150, 300) for rate in RATES}


def found(*made: Searched, folder) -> pd.DataFrame:
    return values(read(publish(folder, *made)))


# --------------------------------------------------------------------- the rule


def test_the_highest_mean_of_both_seeds_is_chosen():
    """And not the highest seed."""
    one = {**FLAT, (300, 2e-4): (50.0, 50.0), (150, 4e-4): (60.0, 30.0)}
    assert chosen(table(one)) == Recipe(300, 2e-4)


@pytest.mark.parametrize(
    "near, expected",
    [({(150, 4e-4): 48.0}, (150, 4e-4)), ({(150, 4e-4): 47.9}, (300, 2e-4)),
     ({(300, 1e-4): 48.0}, (300, 1e-4)), ({(300, 4e-4): 49.9}, (300, 2e-4)),
     ({(300, 1e-4): 49.0, (150, 4e-4): 48.5}, (150, 4e-4)),
     ({(150, 1e-4): 48.5, (150, 4e-4): 49.5}, (150, 1e-4)),
     ({(150, 4e-4): 48.2, (150, 1e-4): 46.5}, (150, 4e-4))],
)  # fmt: skip
def test_within_two_points_fewest_steps_then_the_lowest_rate(near, expected):
    """300 steps at 2e-4 find 50 %; 2 points are within, and they are from the highest alone."""
    means = {(300, 2e-4): 50.0, **near}
    one = {**FLAT, **{key: (mean - 3, mean + 3) for key, mean in means.items()}}
    assert chosen(table(one)) == Recipe(*expected)


@pytest.mark.parametrize("seeds", [(90.0,), (90.0, NAN), (NAN, 90.0), (NAN, NAN)])
def test_a_recipe_that_lacks_a_seed_or_a_length_is_never_chosen(seeds):
    one = table({**FLAT, (150, 1e-4): seeds})
    assert chosen(one) == Recipe(150, 2e-4) and math.isnan(levels(one).loc[(150, 1e-4), "mean"])


def test_nothing_is_chosen_where_nothing_is_whole():
    assert chosen(table({(150, 2e-4): (50.0,)})) is None and chosen(table({})) is None


def test_runs_with_documents_do_not_count_for_text():
    one = table({(150, 2e-4): (50.0, 50.0)}, {(150, 4e-4): 90.0})
    assert chosen(one) == PRESET
    assert levels(one)["mean"].count() == 1 and len(levels(one)) == len(RECIPES)


@pytest.mark.parametrize(
    "documents, expected",
    [({(150, 2e-4): 50.0, (150, 4e-4): 59.9}, (150, 2e-4)),
     ({(150, 2e-4): 50.0, (150, 4e-4): 60.0}, (150, 4e-4)),
     ({(150, 2e-4): 50.0, (150, 1e-4): 61.0, (300, 2e-4): 62.0}, (300, 2e-4)),
     ({(150, 2e-4): 50.0, (150, 1e-4): 62.0, (300, 2e-4): 62.0}, (150, 1e-4)),
     ({(150, 2e-4): 50.0, (150, 4e-4): NAN}, (150, 2e-4)),
     ({(150, 2e-4): 57.0, (150, 4e-4): 45.0}, (150, 2e-4)),
     ({(150, 2e-4): NAN, (150, 4e-4): 90.0}, None), ({(150, 4e-4): 90.0}, None), ({}, None)],
)  # fmt: skip
def test_with_documents_the_choice_stays_unless_another_finds_ten_points_more(documents, expected):
    one = table({(150, 2e-4): (50.0, 50.0)}, documents)
    assert with_documents(one, PRESET) == (expected and Recipe(*expected))


def test_ten_points_are_eighteen_of_180_sentences():
    """Also where their difference in floating point is a little below 10."""
    low, high = 100 * 15 / 180, 100 * (15 + 18) / 180
    assert high - low < 10
    one = table({(150, 2e-4): (50.0, 50.0)}, {(150, 2e-4): low, (150, 4e-4): high})
    assert with_documents(one, PRESET) == Recipe(150, 4e-4)


def test_without_a_choice_on_text_there_is_none_with_documents():
    one = table({}, {(150, 2e-4): 50.0, (150, 4e-4): 90.0})
    assert with_documents(one, chosen(one)) is None and gains(one, None).isna().all()


def test_gains_are_less_what_text_chose():
    one = gains(table({}, {(150, 2e-4): 50.0, (150, 4e-4): 44.0}), PRESET).dropna()
    assert one.to_dict() == {(150, 2e-4): 0, (150, 4e-4): -6}


# --------------------------------------------------------------------- what seeds say


def test_the_spread_of_seeds_is_pooled_over_recipes_with_both():
    """By numpy and scipy: the half width of Student's interval of two means of two, equal noise."""
    one = spread(table({(150, 1e-4): (40.0, 44.0), (150, 2e-4): (50.0, 44.0), (300, 2e-4): (9.0,),
                        (150, 4e-4): (9.0, NAN)}))  # fmt: skip
    deviation = math.sqrt(np.mean([np.var([40, 44], ddof=1), np.var([50, 44], ddof=1)]))
    assert (one.deviation, one.recipes) == (pytest.approx(deviation), 2)
    wide = stats.t.interval(0.95, 2, 0, deviation * math.sqrt(1 / 2 + 1 / 2))
    assert one.tells == pytest.approx(wide[1])


def test_without_a_recipe_with_both_seeds_there_is_no_spread():
    one = spread(table({(150, 2e-4): (50.0,)}))
    assert one.recipes == 0 and math.isnan(one.deviation) and math.isnan(one.tells)


# --------------------------------------------------------------------- which rows count


def test_a_run_is_read_with_its_settings_and_its_last_loss(tmp_path):
    """Whatever its name says."""
    made = [Searched(150, 2e-4), Searched(300, 1e-4, 101, 0.6), Searched(150, 4e-4, 100, 0.3,
                                                                         DOCUMENTS)]  # fmt: skip
    assert [one.name for one in made][:2] == [
        "pose-yarn-8-seed100", "pose-yarn-8-seed101-steps-300-learning_rate-0.0001"
    ]  # fmt: skip
    one = found(*made, folder=tmp_path).set_index(["corpus", "steps", "learning_rate", "seed"])
    assert one["beyond N"].to_dict() == pytest.approx({
        (TEXT, 150, 2e-4, 100): 50, (TEXT, 300, 1e-4, 101): 60, (DOCUMENTS, 150, 4e-4, 100): 30
    })  # fmt: skip
    assert set(one["loss"]) == {1.5} and set(one["n"]) == {60}
    assert one["tokens"].tolist() == [19660800, 19660800, 39321600]


def test_a_rate_may_stand_in_a_name_as_it_likes(tmp_path):
    """The settings say which it is."""
    publish(tmp_path, Searched(150, 1e-4))
    rows = results.read(tmp_path / "search.parquet")
    rows["run"] = "runs/search/pose-yarn-8-seed100-learning_rate-1e-4"
    results.to_parquet(rows, tmp_path / "search.parquet")
    for path in (tmp_path / "metrics" / "search").iterdir():
        path.rename(path.with_name(path.name.replace("0.0001", "1e-4")))
    assert values(read(tmp_path))["learning_rate"].tolist() == [1e-4]


def test_a_value_is_the_mean_of_three_lengths(tmp_path):
    publish(tmp_path, Searched(150, 2e-4))
    rows = read(tmp_path)
    score = rows["token_length"].map({16384: 0.9, 32768: 0.6, 65436: 0.3})
    one = values(rows.assign(score=score)).iloc[0]
    assert one[["16K", "32K", "64K", "beyond N"]].tolist() == pytest.approx([90, 60, 30, 60])


def test_a_length_that_is_not_whole_has_no_value(tmp_path):
    """One length not asked, and one answer of another gone: the rest is shown."""
    publish(tmp_path, Searched(150, 2e-4), Searched(300, 2e-4, lengths=(16384, 65436)))
    rows = read(tmp_path)
    gone = (rows["steps"] == 300) & (rows["token_length"] == 65436) & (rows["sample"] == 2)
    gone &= (rows["depth_percent"] == 55) & (rows["kind"] == "code")
    whole, short = values(rows[~gone]).to_dict("records")
    assert short["lacks"] == ("32K", "64K") and whole["lacks"] == ()
    assert (short["16K"], short["n"]) == (pytest.approx(50), 60)
    assert all(math.isnan(short[name]) for name in ("32K", "64K", "beyond N"))


def test_other_runs_do_not_count(tmp_path):
    publish(tmp_path, Searched(150, 2e-4))
    rows = results.read(tmp_path / "search.parquet")
    name = "runs/search/cream-yarn-8-seed100"
    others = [
        {"run": name, "method": "cream"}, {"run": "x/pose-yarn-8-seed7", "seed": 7},
        {"run": "x/pose-linear-8-seed100", "scaling": "linear"},
        {"run": "x/pose-yarn-8-seed100-float8-tensorwise"}, {"task": "passkey"},
        {"token_length": 8192},
        {"settings": json.dumps({**json.loads(rows["settings"][0]), "sharper": 1.2})},
    ]  # fmt: skip
    parts = [rows, *(rows.assign(key=rows["key"] + str(k), score=1.0, **one)
                     for k, one in enumerate(others))]  # fmt: skip
    results.to_parquet(pd.concat(parts, ignore_index=True), tmp_path / "search.parquet")
    assert len(read(tmp_path)) == 180
    assert values(read(tmp_path))["beyond N"].tolist() == pytest.approx([50])


def test_an_answer_given_again_counts_once(tmp_path):
    publish(tmp_path, Searched(150, 2e-4))
    rows = results.read(tmp_path / "search.parquet")
    again = rows.assign(key=rows["key"] + "+", score=0.9, date="2026-12-01T00:00:00Z")
    results.to_parquet(pd.concat([again, rows], ignore_index=True), tmp_path / "search.parquet")
    one = values(read(tmp_path)).iloc[0]
    assert (one["n"], one["beyond N"]) == (60, pytest.approx(90))


def test_no_row_is_no_run(tmp_path):
    rows = read(publish(tmp_path, Searched(150, 2e-4)))
    assert values(rows.iloc[:0]).empty and levels(values(rows.iloc[:0])).isna().all(axis=None)


# --------------------------------------------------------------------- what is refused


def test_test_questions_are_refused(tmp_path):
    """A single one, also with retrieval documents and at a length that is not whole."""
    rows = read(publish(tmp_path, Searched(150, 2e-4), Searched(150, 4e-4, corpus=DOCUMENTS)))
    check_split(rows, rows.assign(prompt_hash="test " + rows["prompt_hash"]))
    with pytest.raises(ValueError, match=r"runs/retrieval/pose.*answered test questions \(1 rows"):
        other = rows["prompt_hash"].where(rows.index != 200, "a test question")
        check_split(rows.assign(prompt_hash=other), pd.DataFrame({"prompt_hash": [
            "a test question"]}))  # fmt: skip


@pytest.mark.parametrize("corpus", [TEXT, DOCUMENTS])
def test_different_questions_are_refused(tmp_path, corpus):
    """Also of runs with retrieval documents beside text, and at a length that is not whole."""
    other = Searched(150, 4e-4, corpus=corpus, lengths=(16384,))
    rows = read(publish(tmp_path, Searched(150, 2e-4), other))
    strange = rows["prompt_hash"].where(rows["learning_rate"] == 2e-4, rows["prompt_hash"] + "?")
    with pytest.raises(ValueError, match="different questions.*rows of validation questions"):
        values(rows.assign(prompt_hash=strange))


def test_more_questions_than_the_others_are_refused(tmp_path):
    publish(tmp_path, Searched(150, 2e-4), Searched(150, 4e-4))
    rows = read(tmp_path)
    fourth = rows[(rows["learning_rate"] == 4e-4) & (rows["sample"] == 2)]
    more = fourth.assign(sample=3, prompt_hash=fourth["prompt_hash"] + "+")
    with pytest.raises(ValueError, match="1 of 2 runs answered the sentence"):
        values(pd.concat([rows, more], ignore_index=True))


def test_two_models_of_one_recipe_and_seed_are_refused(tmp_path):
    """Trained again under its name, and under one that says the preset's steps."""
    rows = read(publish(tmp_path, Searched(150, 2e-4), Searched(150, 2e-4, 101)))
    first = rows[rows["seed"] == 100]
    for other in (first, first.assign(run="runs/search/pose-yarn-8-seed100-steps-150")):
        again = pd.concat([rows, other.assign(model_hash="again")], ignore_index=True)
        with pytest.raises(ValueError, match="two models of 150 steps at 0.0002, seed 100"):
            values(again)


def test_a_recipe_that_was_not_planned_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has 300 steps at 0.0008, which the search did not plan"):
        found(Searched(300, 8e-4), folder=tmp_path)


@pytest.mark.parametrize("field, value", [("seed", 101), ("corpus", "runs/corpora/long-text")])
def test_settings_of_another_run_are_refused(tmp_path, field, value):
    one = Searched(150, 2e-4, corpus=DOCUMENTS)
    publish(tmp_path, one)
    path = tmp_path / "metrics" / "retrieval" / f"{one.name}.json"
    path.write_text(json.dumps({**one.settings, field: value}))
    with pytest.raises(ValueError, match=r"should be of seed 100 on long-text-retrieval"):
        read(tmp_path)


def test_tokens_that_are_not_those_of_the_steps_are_refused(tmp_path):
    one = Searched(300, 2e-4, about={"tokens_trained": 19660800})
    with pytest.raises(ValueError, match="19660800 tokens, which are not those of its 300 steps"):
        read(publish(tmp_path, one))


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="no search.parquet and no retrieval.parquet"):
        read(tmp_path)
    publish(tmp_path, *every({(150, 2e-4): 0.5}))
    shutil.rmtree(tmp_path / "metrics")
    with pytest.raises(FileNotFoundError, match="says how runs/search/pose-yarn-8-seed100 was"):
        read(tmp_path)
