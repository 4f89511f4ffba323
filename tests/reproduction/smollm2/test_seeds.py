"""Seeds 7 to 9 of SmolLM2-135M: which runs count, both hypotheses, the page."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from primary_rows import run, runs
from scipy import stats
from variant_rows import asked

from cream import results
from cream.reproduction.smollm2 import seeds
from cream.reproduction.smollm2.margin import LENGTHS

FOLDER = Path(__file__).resolve().parents[3] / "data" / "smollm2-seeds"
GAINS = {7: 0.10, 8: 0.12, 9: 0.17}


def three(uniform: dict[int, float], **more: float) -> pd.DataFrame:
    """CREAM finds 30 %, PoSE 50 %, and the uniform middle more than CREAM by each seed's gain."""
    parts = []
    for seed, gain in uniform.items():
        parts += [asked("cream", seed, 0.3, **more), asked("pose", seed, 0.5),
                  asked("uniform", seed, 0.3 + gain)]  # fmt: skip
    return runs(*parts)


def claim(rows: pd.DataFrame) -> dict[str, object]:
    return seeds.uniform_claim(seeds.values(rows))


def test_a_uniform_middle_that_leads_and_closes_half_of_the_gap_is_as_predicted():
    """Student's interval by scipy, over pairs of equal seed."""
    found, gains = claim(three(GAINS)), [100 * gain for gain in GAINS.values()]
    low, high = stats.t.interval(0.95, 2, np.mean(gains), stats.sem(gains))
    assert (found["value"], found["low"], found["high"]) == pytest.approx((13, low, high))
    assert found["share"] == pytest.approx(0.65) and found["leads"] == 3
    assert found["verdict"] == "as predicted"


@pytest.mark.parametrize(
    "gains, said",
    [({7: 0.2, 8: 0.2, 9: -0.01}, "the distances are not why"),
     ({7: 0.05, 8: 0.05, 9: 0.05}, "leads, and closes less than half of the gap"),
     ({7: 0.2, 8: 0.2}, "not decided")],
)  # fmt: skip
def test_every_other_outcome_has_its_words(gains, said):
    assert claim(three(gains))["verdict"] == said


def test_without_a_gap_there_is_no_share():
    rows = three(GAINS)
    rows.loc[rows["method"] == "pose", "score"] = 0.2
    found = claim(rows)
    assert math.isnan(found["share"]) and found["verdict"] == "leads, and there is no gap to PoSE"


def test_sharper_attention_is_compared_with_the_same_model():
    """CREAM gains 20 points at every length; PoSE was not asked so."""
    claims = seeds.sharper_claims(seeds.values(three(GAINS, sharper=0.5)))
    found = claims.set_index(["variant", "end"])
    gain = found.loc["cream", "at 64K"]
    assert gain["value"] == pytest.approx(20) and gain["seeds"] == (7, 8, 9)
    assert (gain["level"], gain["sharper_level"]) == pytest.approx((30, 50))
    assert gain["verdict"] == "holds" and found.loc["cream", "within N"]["verdict"] == "holds"
    assert found.loc["cream", "beyond N"]["verdict"] == ""
    assert found.loc["pose", "at 64K"]["verdict"] == "not decided"
    said = seeds.markdown(seeds.values(three(GAINS, sharper=0.5)))
    assert "Recommended for this base (a gain that holds, no cost): CREAM." in said


def test_other_runs_factors_and_lengths_half_asked_do_not_count():
    whole = three(GAINS)
    other = run("cream", 7, 0.9, lengths=tuple(LENGTHS), folder="runs/margin", scale=10,
                run="runs/margin/cream-yarn-10-seed7", model_hash="margin")  # fmt: skip
    part = run("cream", 7, 0.9, lengths=(65436,), how={"sharper": 1.2})
    strange = run("cream", 7, 0.9, lengths=tuple(LENGTHS), how={"sharper": 1.35})
    found = seeds.values(runs(whole, other, part, strange))
    pd.testing.assert_frame_equal(found, seeds.values(whole))
    assert len(found) == 9 and set(found["n"]) == {60}


def test_two_seeds_of_three_decide_nothing():
    found = seeds.values(three({7: 0.1, 8: 0.12}, sharper=0.5))
    claims = seeds.sharper_claims(found)
    assert set(claims["verdict"]) == {"not decided", ""} and not claims["low"].isna().all()


def test_the_page_says_what_was_not_run(tmp_path, capsys):
    results.to_parquet(three({7: 0.1}, sharper=0.4), tmp_path / "seeds.parquet")
    seeds.main([str(tmp_path)])
    said = (tmp_path / "SEEDS.md").read_text(encoding="utf-8")
    assert "| 30.0 | 40.0 | 50.0 | +10.0 | 50 % | 1 of 1 | **not decided** |" in said
    assert "| CREAM | found at 64K | 30.0 | 40.0 | +10.0 | 7 | **not decided** |" in said
    assert "| PoSE | within N | not run | not run | not run | none | **not decided** |" in said
    assert "Recommended for this base: not decided." in said
    assert "| CREAM | x1.2 | 7 | 60 | 40 | 40 | 40 | 40 | 40 | 40 |" in said
    results.to_parquet(three({7: 0.1}).iloc[:0], tmp_path / "seeds.parquet")
    with pytest.raises(SystemExit):
        seeds.main([str(tmp_path)])
    assert "holds no run of seeds 7 to 9" in capsys.readouterr().err


def test_the_committed_page_is_what_its_rows_say():
    found = seeds.values(results.read(FOLDER))
    assert (FOLDER / "SEEDS.md").read_text(encoding="utf-8") == seeds.markdown(found)
