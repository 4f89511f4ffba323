"""Lines, pairs and perplexity of SmolLM2-135M's runs by size: by hand, and what is refused."""

from __future__ import annotations

import json
import math

import pandas as pd
import pytest
from primary_rows import runs
from retrieval_rows import SCALED, lines, pairs, sentences, texts, trained

from cream.evaluation.models import token_lengths
from cream.presets import get
from cream.reproduction.smollm2.tasks import (
    TASKS,
    UNTUNED,
    by_size,
    not_whole,
    size_name,
    whole,
)
from cream.tasks.prompts import spared

NAMES = ("cream", "pose")
FOUND = {2048: 16, 4096: 12, 8192: 8, 16384: 4, 32768: 2, 65536: 0}


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    """CREAM of one seed finds fewer of longer lines, PoSE of another all; the base finds none."""
    return runs(lines(trained("cream", 7), FOUND), lines(trained("pose", 8), 16),
                lines(SCALED, 0), sentences("cream", 9, 0.5))  # fmt: skip


def lined(rows: pd.DataFrame) -> pd.DataFrame:
    return by_size(rows, "longchat_lines", NAMES)


def test_lengths_are_called_as_the_preset_asks_them():
    """Also where a prompt of the whole target length leaves room for the answer."""
    asked = get("smollm2-135m").evaluation
    given = {"longchat_lines": asked.lines_lengths, "perplexity": asked.perplexity_lengths}
    for task, multiples in given.items():
        tokens = token_lengths(multiples, 8192)
        for each in (tokens, spared(tokens, 65536)):
            assert tuple(size_name(task, length) for length in each) == TASKS[task].sizes


def test_lines_are_counted_by_size(rows):
    found = lined(rows).set_index("variant")
    assert set(found.index) == {"cream", "pose", UNTUNED}
    each = found.loc["cream", list(TASKS["longchat_lines"].sizes)].astype(float).tolist()
    assert each == [100, 75, 50, 25, 12.5, 0] and set(found["n"]) == {16}
    runs_alone = whole(lined(rows)).set_index("variant")
    assert runs_alone.loc["cream", "within N"] == pytest.approx((100 + 75 + 50) / 3)
    assert runs_alone.loc["cream", "beyond N"] == pytest.approx((25 + 12.5 + 0) / 3)
    assert runs_alone.loc["cream", "at 64K"] == 0 and list(runs_alone.index) == ["cream", "pose"]


def test_prompts_that_leave_room_are_of_the_same_length(rows):
    shorter = rows.assign(token_length=rows["token_length"].replace({65536: 65436}))
    pd.testing.assert_frame_equal(lined(shorter), lined(rows))


def test_pairs_are_counted_over_all_places():
    """Prompts of one number of keys have lengths of their own."""
    rows = runs(pairs(trained("cream", 7), {75: 5, 140: 3, 800: 1}),
                pairs(SCALED, {75: 1, 800: 0}))  # fmt: skip
    assert rows["token_length"].nunique() > 3
    found = by_size(rows, "kv_retrieval", NAMES).set_index("variant")
    assert found.loc["cream", ["75 keys", "140 keys", "800 keys"]].tolist() == [100, 60, 20]
    assert found.loc[UNTUNED, ["75 keys", "800 keys"]].tolist() == [20, 0]
    assert math.isnan(found.loc[UNTUNED, "140 keys"]) and set(found["n"]) == {30}


def test_perplexity_weighs_tokens_alike():
    """One document of 200 tokens and 15 of 100; one of these loses 10 nats more."""
    found = by_size(texts(trained("pose", 9), {2048: 2.0, 65536: 1.5}), "perplexity", NAMES)
    assert found["2K"].item() == pytest.approx(math.exp((2.0 * 1700 + 10) / 1700))
    assert found["64K"].item() == pytest.approx(math.exp(1.5 + 10 / 1700))
    assert math.isnan(found["4K"].item()) and found["n"].item() == 16


@pytest.mark.parametrize("left", [0, 12])
def test_a_run_that_lacks_a_length_is_not_whole(rows, left):
    """None of its answers is there, or twelve."""
    gone = (rows["run"].str.contains("cream-yarn-8-seed7") & (rows["token_length"] == 16384)
            & (rows["sample"] >= left))  # fmt: skip
    found = lined(rows[~gone])
    assert whole(found)["variant"].tolist() == ["pose"]
    assert not_whole(found).to_dict("records") == [
        {"variant": "cream", "seed": 7, "factor": 1.0, "lacks": ("16K",)}
    ]
    assert not_whole(lined(rows)).empty


def test_without_rows_there_is_nothing(rows):
    for part in (rows.iloc[:0], rows[rows["task"] == "needle"]):
        found = lined(part)
        assert found.empty and whole(found).empty and not_whole(found).empty


def test_other_runs_and_forms_do_not_count(rows):
    def how(**changed: object) -> str:
        return json.dumps({"style": "chat", "dtype": "bfloat16", **changed})

    again = lines(trained("cream", 8), 16)
    strange = runs(
        lines(trained("plain", 7), 16), lines(trained("cream", 6), 16),
        lines(trained("cream", 7, scale=10, model_hash="wider"), 16),
        lines(SCALED | {"run": "scaled:ntk:8", "scaling": "ntk", "model_hash": "ntk"}, 16),
        *(again.assign(settings=how(**changed)) for changed in (
            {"style": "official"}, {"mode": "last number"}, {"sharper": 1.2}, {"seed": 1},
            {"dtype": "float32"})),
        again[again["token_length"] == 2048].assign(token_length=1024),
    )  # fmt: skip
    pd.testing.assert_frame_equal(lined(runs(rows, strange)), lined(rows))


def test_an_answer_given_again_counts_once(rows):
    again = lines(trained("pose", 8), 8).assign(date="2026-12-01T00:00:00Z")
    found = lined(runs(again, rows)).set_index("variant")
    assert found.loc["pose", "8K"] == 50 and found.loc["pose", "n"] == 16


@pytest.mark.parametrize("other", ["prompt", "more", "two lengths"])
def test_other_questions_are_refused(rows, other):
    """Other words, more lines than another run, or a length asked in two ways."""
    more = lines(trained("cream", 9), 16, samples=17)
    if other == "prompt":
        more = more[more["sample"] < 16].assign(prompt_hash=more["prompt_hash"] + "?")
    elif other == "two lengths":
        same = lines(trained("cream", 7), {65436: 3})
        more = same.assign(token_length=65436, prompt_hash=same["prompt_hash"] + "?")
    with pytest.raises(ValueError, match=r"different questions of longchat_lines \(size"):
        lined(runs(rows, more))


def test_other_tokens_and_two_bases_are_refused(rows):
    with pytest.raises(ValueError, match="cream-yarn-8-seed8 was trained on 1000 tokens"):
        lined(runs(rows, lines(trained("cream", 8, tokens_trained=1000), 3)))
    with pytest.raises(ValueError, match="two models of the base by YaRN untuned"):
        lined(runs(rows, lines(SCALED | {"model_hash": "again"}, 3)))
