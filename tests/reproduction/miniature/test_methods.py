"""The miniature's table of methods: seeds as units, against scipy and counting by hand."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from cream import results
from cream.reproduction.miniature import methods
from cream.reproduction.miniature.methods import comparison, markdown, per_run

BEYOND, WITHIN = (1024, 2048, 3072, 3994), (307, 512)
SEEDS = range(4)


def _rows(model: str, found: dict[int, int], seed: int | None = None, n: int = 20) -> pd.DataFrame:
    """`found` of n lines a length, the first ones."""
    parts = model.split(":")
    method, scaling, scale = parts[0], parts[1] if len(parts) > 1 else "none", 8
    name = f"{'-'.join(parts)}-8-seed{seed}" if seed is not None else model
    about = {
        "schema": results.SCHEMA, "run": f"runs/methods/{name}", "model_hash": name,
        "base": "miniature", "preset": "miniature", "method": method,
        "scaling": scaling.split("+")[0], "scale": 1 if scaling == "none" else scale,
        "window": 512, "seed": seed, "settings": json.dumps({"style": "miniature"}),
        "tokens_trained": None if seed is None else 409_600, "commit": "0123abc",
        "date": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    made = [
        {**about, "task": "longchat_lines", "token_length": length, "sample": k,
         "prompt_hash": f"{length} {k}", "score": float(k < right)}
        for length, right in found.items() for k in range(n)
    ]  # fmt: skip
    made += [
        {**about, "task": "perplexity", "token_length": length, "sample": k, "document": f"d{k}",
         "prompt_hash": f"text {length} {k}", "scored_tokens": 100,
         "nll": 100 * (1 + 0.01 * k + 0.001 * (seed or 0)) * (1 + length / 4096)}
        for length, k in itertools.product((512, 4096), range(5))
    ]  # fmt: skip
    return _keyed(pd.DataFrame(made))


def _keyed(rows: pd.DataFrame) -> pd.DataFrame:
    key = rows["model_hash"] + rows["task"] + rows["prompt_hash"]
    return rows.assign(key=key).reindex(columns=list(results.COLUMNS)).astype(results.COLUMNS)


def _ruler(rows: pd.DataFrame, tasks: int = 6) -> pd.DataFrame:
    first = rows.iloc[0].to_dict()
    made = [
        {**first, "task": f"ruler-{t}", "token_length": 1126, "sample": k, "score": float(k < t),
         "prompt_hash": f"ruler {t} {k}"}
        for t in range(tasks) for k in range(6)
    ]  # fmt: skip
    return _keyed(pd.DataFrame(made))


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    whole = {**dict.fromkeys(WITHIN, 16), **dict.fromkeys(BEYOND, 8)}
    parts = [_rows("original", {**whole, **dict.fromkeys(BEYOND, 0), 512: 18}),
             _rows("scaled:yarn", {**whole, 3994: 2})]  # fmt: skip
    for seed in SEEDS:
        parts.append(_rows("plain:yarn", {**whole, 1024: 6 + seed}, seed))
        parts.append(_rows("cream:yarn", {**whole, 2048: 10 + 2 * seed, 307: 12}, seed))
        parts.append(_rows("clex:clex", whole, seed))
        parts.append(_rows("clex:clex+frozen", {**whole, 1024: 0}, seed))
    parts.append(_rows("endprompt:linear", {512: 10, 307: 10, 1024: 5}, 0))  # cut off
    parts.append(_rows("cream:cope", whole, 0))
    parts.append(_ruler(parts[3]))
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def table(rows) -> pd.DataFrame:
    return comparison(per_run(rows)).set_index(["method", "scaling"])


def test_a_level_is_students_interval_over_seeds(table):
    of_seed = [(8 + 10 + 2 * s + 8 + 8) / 80 for s in SEEDS]
    low, high = stats.t.interval(0.95, 3, np.mean(of_seed), stats.sem(of_seed))
    one = table.loc["cream", "yarn"]
    assert one["beyond"] == pytest.approx(np.mean(of_seed))
    assert (one["beyond_low"], one["beyond_high"]) == pytest.approx((low, high))
    assert (one["beyond_seeds"], one["beyond_n"]) == (4, 320)


def test_the_difference_to_plain_is_paired_by_seed(table):
    apart = [(10 + 2 * s - 8) / 80 - (6 + s - 8) / 80 for s in SEEDS]
    low, high = stats.t.interval(0.95, 3, np.mean(apart), stats.sem(apart))
    one = table.loc["cream", "yarn"]
    assert one["difference"] == pytest.approx(np.mean(apart))
    assert (one["difference_low"], one["difference_high"]) == pytest.approx((low, high))
    assert one["difference_seeds"] == 4
    assert math.isnan(table.loc["plain", "yarn"]["difference"])
    assert math.isnan(table.loc["original", "none"]["difference"])


def test_seeds_that_one_side_lacks_are_in_no_pair(rows):
    less = rows[~((rows["method"] == "plain") & (rows["seed"] == 3))]
    one = comparison(per_run(less)).set_index(["method", "scaling"]).loc["cream", "yarn"]
    assert (one["difference_seeds"], one["beyond_seeds"]) == (3, 4)


def test_lost_inside_n_is_less_the_originals(table):
    assert table.loc["cream", "yarn"]["lost"] == pytest.approx((12 + 16) / 40 - (16 + 18) / 40)
    one = table.loc["scaled", "yarn"]
    assert one["lost"] == pytest.approx(-0.05) and one["lost_low"] < -0.05 < one["lost_high"]


def test_perplexity_is_a_mean_over_seeds(table):
    one = table.loc["cream", "yarn"]
    each = [math.exp(2 * (1.02 + 0.001 * s)) for s in SEEDS]
    assert one["perplexity_l"] == pytest.approx(np.mean(each))
    assert one["perplexity_l_low"] < one["perplexity_l"] < one["perplexity_l_high"]


def test_what_was_not_run_and_what_has_no_seed_beside_it(table):
    cut = table.loc["endprompt", "linear"]
    assert math.isnan(cut["beyond"]) and cut["within"] == 0.5 and math.isnan(cut["within_low"])
    page = markdown(table.reset_index())
    (line,) = [one for one in page.splitlines() if "EndPrompt" in one]
    assert "| not run |" in line and "50 % (no interval; 1, 40)" in line
    assert line.endswith("| yes | `endprompt:linear:8:SEED` |")


def test_six_tasks_are_ruler_and_five_are_not(rows, table):
    assert table.loc["cream", "yarn"]["ruler"] == pytest.approx(15 / 36)
    fewer = comparison(per_run(rows[rows["task"] != "ruler-3"])).set_index(["method", "scaling"])
    assert math.isnan(fewer.loc["cream", "yarn"]["ruler"])


def test_clex_and_its_ablation_are_two_lines(table):
    assert table.loc["clex", "clex"]["beyond"] == pytest.approx(0.4)
    assert table.loc["RandPos on frozen NTK", "clex"]["beyond"] == pytest.approx(0.3)
    page = markdown(table.reset_index())
    assert "| RandPos on frozen NTK | clex x8 |" in page and "`clex:clex+frozen:8:SEED`" in page
    assert "| CoPE, CREAM's positions | cope x8 |" in page and "yes, one t at a time" in page


def test_two_models_of_one_seed_are_refused(rows):
    ours = (rows["method"] == "cream") & (rows["scaling"] == "yarn")
    again = rows[ours].assign(model_hash="another", key="another")
    with pytest.raises(ValueError, match="two models are cream by yarn"):
        per_run(pd.concat([rows, again], ignore_index=True))


def test_two_bases_are_refused(rows):
    with pytest.raises(ValueError, match="2 bases"):
        per_run(pd.concat([rows, rows.assign(base="other")], ignore_index=True))


def test_the_command_writes_the_page_and_the_figure(rows, tmp_path):
    results.to_parquet(rows, tmp_path / "rows" / "miniature.parquet")
    methods.main([str(tmp_path / "rows"), "--figures", str(tmp_path / "figures")])
    page = (tmp_path / "rows" / "TABLE.md").read_text()
    assert page.count("\n| ") == 1 + 8  # the head, and a line a method and scaling
    assert "python -m cream.study.campaign" in page
    assert sorted(one.name for one in (tmp_path / "figures").iterdir()) == [
        "methods_miniature.pdf", "methods_miniature.png"
    ]  # fmt: skip
