"""The real model's table: its means against counting by hand, and what was not run."""

from __future__ import annotations

import itertools
import math
import re

import pandas as pd
import pytest

from cream.reproduction.smollm2.methods import comparison, markdown

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
    ends = "yes | `pose:yarn:8:SEED` |"
    assert f"| PoSE | yarn x8 | 19.7 M |{' not run |' * 7} {ends}" in page
    assert re.search(
        r"\| CREAM \| yarn x8 \| 19.7 M \| not run \| not run \| 33 % \(\d+ to \d+; 2, 60\) \|",
        page,
    )


def test_lost_inside_n_is_less_what_the_original_finds(rows):
    worse = _rows("clex", "clex", 8, 0, dict.fromkeys(LENGTHS, 1))
    table = comparison(pd.concat([rows, worse], ignore_index=True))
    clex, cream = _of(table, "clex"), _of(table, "cream")
    assert clex["lost"] == pytest.approx(0.1 - 0.4) and cream["lost"] == pytest.approx(0)
    assert cream["lost_low"] < 0 < cream["lost_high"] and clex["lost_high"] < 0
    (line,) = [one for one in markdown(table).splitlines() if one.startswith("| CLEX |")]
    assert re.search(r"\| -30 \(-\d+ to -\d+\) \| .*yes, one t at a time", line)


def test_without_the_original_nothing_is_lost_or_kept(rows):
    page = markdown(comparison(rows[rows["method"] != "original"]))
    (line,) = [one for one in page.splitlines() if one.startswith("| CREAM")]
    assert line.split("|")[9].strip() == "not run"


def test_seeds_with_other_numbers_of_questions_are_pooled_by_length(rows):
    """Ten questions of one seed and forty of another: each length is a share of fifty."""
    many = pd.concat(
        [_rows("plain", "yarn", 8, 1, dict.fromkeys(LENGTHS, 0))] + [
            _rows("plain", "yarn", 8, 2, dict.fromkeys(LENGTHS, 10)).assign(
                sample=lambda part, k=k: part["sample"] + 10 * k
            ) for k in range(4)
        ], ignore_index=True,
    )  # fmt: skip
    plain = _of(comparison(pd.concat([rows, many], ignore_index=True)), "plain")
    assert plain["beyond"] == pytest.approx(40 / 50)
    assert (plain["beyond_n"], plain["beyond_runs"]) == (150, 2)


def test_runs_that_differ_in_more_than_their_method_are_lines_of_their_own(rows):
    """What rows have no column for: read from the names that `study.campaign` gives runs."""
    names = {
        "clex-clex-8-seed2": 1, "clex-clex+frozen-8-seed2": 2, "cream-cope-8-seed2": 3,
        "clex-clex-8-seed2-clex_grad_norm-1.0": 4, "plain-drope-8-seed2": 5,
        "cream-yarn-8-seed2-lora_rank-16-learning_rate-0.001": 6,
    }  # fmt: skip
    parts = [rows]
    for name, found in names.items():
        method, scaling = name.split("-")[:2]
        part = _rows(method, scaling.split("+")[0], 8, 2, dict.fromkeys(LENGTHS, found))
        parts.append(part.assign(run=f"runs/smollm2/{name}", model_hash=name))
    table = comparison(pd.concat(parts, ignore_index=True)).set_index("method")
    shares = {
        "clex": 0.1, "RandPos on frozen NTK": 0.2, "CoPE, CREAM's positions": 0.3,
        "CLEX, matrices clipped apart at 1.0": 0.4, "DroPE, plain fine-tuning": 0.5,
        "CREAM, LoRA rank 16, rate 0.001": 0.6,
    }  # fmt: skip
    assert table.loc[list(shares)]["beyond"].to_dict() == pytest.approx(shares)
    assert table.loc["cream"]["beyond_runs"] == 2  # without the adapter
    page = markdown(table.reset_index())
    assert "`cream:yarn:8:SEED:lora_rank=16:learning_rate=0.001` |" in page
    assert re.search(r"\| RandPos on frozen NTK \| clex x8 .* `clex:clex\+frozen:8:SEED` \|", page)


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
