"""Sharper attention when a model is used: the rule of the factor, verdicts, the page."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cream.reproduction import miniature_sharper
from cream.study.analysis.endpoints import units
from cream.study.conditions import SHARPER

LENGTHS = (307, 512, 2048, 3072, 3994)
FACTORS = (1.0, *SHARPER)
GAINS = {1.0: 0, 1.1: 10, 1.2: 22, 1.35: 5}  # lines of 100 at 7.8 N that a factor gains


def _run(plan: str, variant: str, seed: int, last: int, base: str = "miniature") -> list[dict]:
    """A run that finds 80 of 100 lines at every length but the last, and 90 pairs of 100."""
    wider = "wider" in variant
    about = {
        "plan": plan, "condition": "mixed", "method": variant.partition(" ")[0].strip(","),
        "scaling": "yarn", "variant": variant, "scale": 10 if wider else 8, "options": "{}",
        "base": base, "seed": seed, "steps": 300, "learning_rate": 1e-3, "window": 512,
        "commit": "0123abc", "depth_percent": np.nan, "nll": np.nan, "scored_tokens": np.nan,
    }  # fmt: skip
    lines = [{**about, "task": "longchat_lines", "token_length": length, "sample": k,
              "score": float(k < (last if length == 3994 else 80))}
             for length in LENGTHS for k in range(100)]  # fmt: skip
    pairs = [{**about, "task": "kv_retrieval", "token_length": 512, "sample": k,
              "gold_index": k % 5, "score": float(k < 90)} for k in range(100)]  # fmt: skip
    return lines + pairs


def _named(name: str, factor: float) -> str:
    return name if factor == 1 else f"{name} x{factor:g}"


@pytest.fixture(scope="module")
def runs() -> pd.DataFrame:
    """CREAM gains by a factor what `GAINS` says, others nothing; the wider ones find 10 more."""
    found = []
    for seed in (16, 17, 18):
        for method in ("cream", "pose", "plain"):
            for name, more in ((method, 0), (f"{method}, wider", 10)):
                for factor in FACTORS:
                    gain = GAINS[factor] + (seed - 17) if method == "cream" and factor > 1 else 0
                    found += _run("sharper", _named(name, factor), seed, 30 + gain + more)
        found += _run("sharper", "full", seed, 70)
    return units(pd.DataFrame(found))


@pytest.fixture(scope="module")
def tried() -> pd.DataFrame:
    """Validation answers, by which 1.1 and 1.2 are within a point of each other."""
    last = {1.0: 30, 1.1: 50, 1.2: 52, 1.35: 20}  # a third of it in the mean of three lengths
    return pd.DataFrame([
        row for method in ("cream", "pose") for seed in (100, 101) for factor in FACTORS
        for row in _run("sharper-choice", _named(method, factor), seed, last[factor])
    ])  # fmt: skip


def test_of_factors_as_good_the_smaller_is_chosen(tried):
    means = miniature_sharper.choice(tried)
    assert means.round(2).tolist() == [63.33, 70.0, 70.67, 60.0]
    assert miniature_sharper.chosen(means) == 1.1
    assert miniature_sharper.chosen(means + [10, 0, 0, 0]) == 1.0
    assert miniature_sharper.chosen(means + [0, 0, 1, 0]) == 1.2


def test_factors_that_were_not_all_asked_choose_nothing(tried):
    lacking = tried[~((tried["variant"] == "pose x1.2") & (tried["seed"] == 101))]
    one_model = tried[tried["variant"].str.startswith("cream") & (tried["seed"] == 100)]
    for frame, said in ((lacking, "1 of 16"), (one_model, "12 of 16"),
                        (tried[tried["variant"] != "cream x1.35"], "2 of 16")):  # fmt: skip
        with pytest.raises(ValueError, match=f"{said} runs of the plan sharper-choice are missing"):
            miniature_sharper.choice(frame)


def test_verdicts_are_of_the_chosen_factor_alone(runs):
    found = miniature_sharper.claims(runs, 1.2).set_index(["b", "endpoint"])
    assert len(found) == 6 and set(found["a"].str.partition(" ")[2]) == {"x1.2"}
    gain = found.loc["cream", "lines_last"]
    assert gain["value"] == pytest.approx(22) and gain["n"] == 3 and gain["verdict"] == "holds"
    assert found.loc["pose", "lines_last"]["verdict"] == "does not hold"
    assert found.loc["cream", "in_window"]["verdict"] == "holds"
    assert miniature_sharper.claims(runs, 1.1).set_index("b").loc["cream", "value"].max() == 10
    assert miniature_sharper.claims(runs, 1.0).empty
    with pytest.raises(ValueError, match="rows are of 2 bases"):
        miniature_sharper.claims(pd.concat([runs, runs.assign(base="other")]), 1.2)


def test_the_page_has_the_choice_the_claims_and_the_gap(runs, tried):
    means = miniature_sharper.choice(tried)
    said = miniature_sharper.markdown(means, runs)
    assert "**Chosen: 1.1**" in said and "| 63.3 | 70.0 | 70.7 | 60.0 |" in said
    assert "| CREAM | lines at 7.8 N | 30.0 | 40.0 | +10.0 [+7.5, +12.5] | 3 | **holds** |" in said
    assert "| CREAM, tuned for 1.25 L | 40, 83 (3) | 50, 83 (3) | 62, 83 (3) | 45, 83 (3) |" in said
    assert "| full length | 70, 83 (3) | not run | not run | not run |" in said
    gap = "| CREAM | 7.8 N | +40.0 [+40.0, +40.0]"
    assert f"{gap} | +10.0 | 25 % | -10.0 [-12.5, -7.5] | 3 |" in said
    both = said.partition("both, tuned for 1.25 L and attention x1.1")[2]
    assert f"{gap} | +20.0 | 50 % | +0.0 [-2.5, +2.5] | 3 |" in both
    nothing = miniature_sharper.markdown(means + [10, 0, 0, 0], runs)
    assert "**Chosen: 1**" in nothing and "there is no claim to be told" in nothing
    assert "to full length: attention x1" not in nothing


def test_a_folder_without_rows_is_said(tmp_path, capsys):
    with pytest.raises(SystemExit):
        miniature_sharper.main([str(tmp_path)])
    assert "holds no choice.parquet: merge the records" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
