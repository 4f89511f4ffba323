"""The real model's table: its means against counting by hand, and what was not run."""

from __future__ import annotations

import itertools
import math
import re

import pandas as pd
import pytest

from cream.reproduction.smollm2 import comparison, markdown

LENGTHS = (2048, 4096, 8192, 16384, 32768, 65436)


def _rows(method: str, scaling: str, scale: int, seed: int | None, found: dict) -> pd.DataFrame:
    """Ten questions a length, of which `found` says how many are answered."""
    about = {
        "method": method, "scaling": scaling, "scale": scale, "window": 8192, "seed": seed,
        "model_hash": f"{method}{scaling}{seed}", "document": None,
        "nll": math.nan, "scored_tokens": 0,
        "tokens_trained": 19_660_800 if method not in ("original", "scaled") else None,
    }  # fmt: skip
    made = [
        {
            **about,
            "task": "needle",
            "token_length": length,
            "sample": k,
            "score": float(k < found[length]),
        }
        for length, k in itertools.product(found, range(10))
    ]
    return pd.DataFrame(made)


@pytest.fixture
def rows() -> pd.DataFrame:
    whole = dict.fromkeys(LENGTHS, 4)
    parts = [
        _rows("original", "none", 1, None, {**whole, 16384: 0, 32768: 0, 65436: 0}),
        _rows("cream", "yarn", 8, 0, {**whole, 65436: 1}),
        _rows("cream", "yarn", 8, 1, {**whole, 65436: 3}),
        _rows("pose", "yarn", 8, 0, {16384: 5, 32768: 5}),  # cut off before 64K
    ]
    text = {**parts[0].iloc[0].to_dict(), "task": "perplexity", "score": math.nan}
    parts.append(pd.DataFrame([
        {**text, "token_length": 8192, "nll": 10.0, "scored_tokens": 10},
        {**text, "token_length": 65536, "nll": 40.0, "scored_tokens": 10},
    ]))  # fmt: skip
    ruler = {**parts[1].iloc[0].to_dict(), "token_length": 32768, "score": 0.5}
    parts.append(pd.DataFrame([{**ruler, "task": f"ruler-{k}"} for k in range(6)]))
    return pd.concat(parts, ignore_index=True)


def _of(table: pd.DataFrame, method: str) -> pd.Series:
    return table[table["method"] == method].iloc[0]


def test_means_weigh_lengths_and_seeds_alike(rows):
    cream = _of(comparison(rows), "cream")
    assert cream["beyond"] == pytest.approx((0.4 + 0.4 + 0.1 + 0.4 + 0.4 + 0.3) / 6)
    assert (cream["beyond_n"], cream["beyond_runs"]) == (60, 2)
    assert cream["beyond_low"] < cream["beyond"] < cream["beyond_high"]
    assert cream["at_l"] == pytest.approx(0.2) and cream["within"] == pytest.approx(0.4)
    assert cream["ruler"] == 0.5


def test_a_length_that_is_missing_is_no_mean(rows):
    pose = _of(comparison(rows), "pose")
    assert math.isnan(pose["beyond"]) and math.isnan(pose["within"]) and math.isnan(pose["ruler"])
    page = markdown(comparison(rows))
    assert f"| PoSE | yarn x8 | 19.7 M |{' not run |' * 6}" in page
    assert re.search(
        r"\| CREAM \| yarn x8 \| 19.7 M \| not run \| not run \| 33 % \(\d+ to \d+; 2, 60\) \|",
        page,
    )


def test_a_model_that_lacks_a_length_is_in_the_share_at_the_target_alone(rows):
    cut = _rows("cream", "yarn", 8, 2, {65436: 10})
    cream = _of(comparison(pd.concat([rows, cut], ignore_index=True)), "cream")
    assert (cream["beyond_runs"], cream["at_l_runs"], cream["at_l_n"]) == (2, 3, 30)
    assert cream["at_l"] == pytest.approx((0.1 + 0.3 + 1) / 3)


def test_perplexity_is_of_all_tokens_at_n_and_at_the_target(rows):
    original = _of(comparison(rows), "original")
    assert original["perplexity_n"] == pytest.approx(math.e)
    assert original["perplexity_l"] == pytest.approx(math.exp(4))
    assert original["beyond"] == 0 and original["tokens"] == 0


def test_five_tasks_are_not_ruler_6(rows):
    assert math.isnan(_of(comparison(rows[rows["task"] != "ruler-3"]), "cream")["ruler"])
