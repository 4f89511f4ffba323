"""RULER-6 and the effective length, against sums by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from ruler_rows import ruler_rows

from cream.statistics import proportion
from cream.tasks import ruler_scores
from cream.tasks.ruler import TASKS

LENGTHS = (512, 1024, 4096)


def skill(method, task, length, sample):
    """The original all at N and nothing beyond; CREAM a task less each length, but for sample 0."""
    if method == "original":
        return float(length <= 512)
    lost = LENGTHS.index(length) + 1
    return float(TASKS.index(task) >= lost - 1 or sample == 0)


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return ruler_rows(skill)


def of(table: pd.DataFrame, method: str) -> pd.DataFrame:
    return table[table["method"] == method].set_index("token_length")


def test_the_mean_is_unweighted_over_tasks(rows):
    """Also where one task has more samples than the others."""
    more = ruler_rows(lambda *_: 0.0, methods=["cream"], samples=40, tasks=["vt"])
    found = of(ruler_scores.averages(rows), "cream")
    assert found["value"].tolist() == [1, (5 + 0.25) / 6, (4 + 2 * 0.25) / 6]
    assert found["n"].tolist() == [24] * 3 and set(found["runs"]) == {1}
    other = rows[(rows["method"] == "cream") & (rows["task"] != "ruler-vt")]
    weighed = of(ruler_scores.averages(pd.concat([other, more])), "cream")
    assert weighed["value"][512] == pytest.approx(5 / 6) and weighed["n"][512] == 20 + 40


def test_one_models_interval_adds_the_tasks_variances(rows):
    """Zou and Donner: each side is the root of the squared sides of the tasks, a sixth of them."""
    part = rows[(rows["method"] == "cream") & (rows["token_length"] == 4096)]
    tasks = [proportion(one["score"]) for _, one in part.groupby("task")]
    found = of(ruler_scores.averages(rows), "cream").loc[4096]
    below = np.linalg.norm([one.value - one.low for one in tasks]) / 6
    above = np.linalg.norm([one.high - one.value for one in tasks]) / 6
    assert (found["low"], found["high"]) == pytest.approx(
        (found["value"] - below, found["value"] + above)
    )
    assert found["unit"] == "sample"


def test_several_models_are_the_units():
    """Three models at 1, 1 and 0: their mean, and an interval wider than that of 72 answers."""
    parts = [ruler_rows(lambda *_, right=right: right, ["cream"], models=[name])
             for name, right in (("a", 1.0), ("b", 1.0), ("c", 0.0))]  # fmt: skip
    found = of(ruler_scores.averages(pd.concat(parts)), "cream").loc[512]
    assert found["value"] == pytest.approx(2 / 3) and found["runs"] == 3
    assert found["n"] == 72 and found["unit"] != "sample"
    assert found["high"] - found["low"] > 0.5


def test_a_mean_over_fewer_tasks_is_none(rows):
    """NaN, not a number that would look like RULER-6; the effective length passes it over."""
    short = (rows["task"] == "ruler-cwe") & (rows["token_length"] == 512)
    means = ruler_scores.averages(rows[~short])
    assert of(means, "cream")["value"].isna().tolist() == [True, False, False]
    ends = ruler_scores.effective_lengths(means).set_index("method")
    assert ends.loc["cream", "effective"] == 1024 and ends.loc["cream", "longest"] == 4096
    some = ruler_scores.averages(rows[rows["task"] != "ruler-cwe"])
    assert some["value"].isna().all() and ruler_scores.effective_lengths(some).empty
    assert ruler_scores.sentences(some, 512) == []


def test_effective_is_the_longest_length_before_the_first_that_fails(rows):
    """87.5 % at 1,024 exceed 85.6; 75 at 4,096 do not; by the interval's ends it is otherwise."""
    means = ruler_scores.averages(rows)
    ends = ruler_scores.effective_lengths(means).set_index("method")
    assert ends["effective"].to_dict() == {"cream": 1024, "original": 512}
    assert (ends["surely"] <= ends["effective"]).all()
    assert (ends["at_most"] >= ends["effective"]).all()
    assert ends["longest"].tolist() == [4096, 4096]
    none = ruler_scores.effective_lengths(means, 100).set_index("method")
    assert none["effective"].to_dict() == {"cream": 0, "original": 0}  # it has to exceed
    again = means.assign(value=means["value"].where(means["token_length"] != 512, 0.1))
    assert ruler_scores.effective_lengths(again)["effective"].tolist() == [0, 0]


def test_the_table_has_the_tasks_and_their_mean(rows):
    found = ruler_scores.table(rows)
    assert set(found["task"]) == {*TASKS, "RULER-6"} and len(found) == 2 * 7 * 3
    cell = found[(found["task"] == "niah_multikey_2") & (found["method"] == "cream")]
    assert cell.set_index("token_length")["value"].tolist() == [1, 1, 0.25]


def test_sentences_name_the_shortest_and_the_longest_length(rows):
    said = ruler_scores.sentences(ruler_scores.averages(rows), 512)
    assert len(said) == 2 and said[0].startswith("cream, yarn: RULER-6 100 [")
    assert "at 512 tokens (1 N)" in said[0] and "75 [" in said[0] and "(8 N)." in said[0]
    assert "RULER-6 100 [" in said[1] and ", 0 [0, " in said[1]


def test_rows_of_other_tasks_are_no_ruler(rows):
    others = rows.assign(task="longchat_lines")
    assert not ruler_scores.is_ruler(others).any() and ruler_scores.is_ruler(rows).all()
    mixed = ruler_scores.of_ruler(pd.concat([rows, others]))
    assert len(mixed) == len(rows) and set(mixed["task"]) == set(TASKS)
    with pytest.raises(ValueError, match="run notebooks/12_ruler.ipynb first"):
        ruler_scores.averages(others)
    assert math.isclose(ruler_scores.THRESHOLD, 85.6)
