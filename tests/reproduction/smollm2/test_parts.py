"""Parts of CREAM on SmolLM2-135M: three comparisons, their verdicts, what is refused, the page."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from primary_rows import runs
from scipy import stats
from variant_rows import asked

from cream import results
from cream.reproduction.smollm2 import parts

ROOT = Path(__file__).resolve().parents[3]
FOLDER, BESIDE = ROOT / "data" / "smollm2-parts", ROOT / "data" / "smollm2-seeds"
CREAM = {7: 0.40, 8: 0.50, 9: 0.45}
LEADS, TRAILS, OPEN = (0.10, 0.12, 0.17), (-0.10, -0.12, -0.17), (0.10, -0.10, 0.05)


def part(name: str, less: tuple[float, ...]) -> pd.DataFrame:
    """A part of CREAM that finds less than CREAM by a share for each seed."""
    return runs(*(asked(name, seed, CREAM[seed] - by)
                  for seed, by in zip(CREAM, less, strict=False)))  # fmt: skip


@pytest.fixture(scope="module")
def beside() -> pd.DataFrame:
    """CREAM, its uniform middle and PoSE, each also with sharper attention, which is not read."""
    found = [asked("cream", seed, share, sharper=0.9) for seed, share in CREAM.items()]
    return runs(*found, part("uniform", (0.02, 0.02, 0.05)), part("pose", (-0.1, -0.1, -0.1)))


@pytest.fixture(scope="module")
def own() -> pd.DataFrame:
    """CREAM leads continuity, trails relativity, and sigma 1 decides nothing."""
    return runs(part("continuity", LEADS), part("relativity", TRAILS), part("sigma 1", OPEN))


def every_end(rows: pd.DataFrame) -> pd.DataFrame:
    return parts.comparisons(parts.values(rows)).set_index(["end", "other"])


def compared(rows: pd.DataFrame) -> pd.DataFrame:
    return every_end(rows).loc["beyond N"]


def page(rows: pd.DataFrame) -> str:
    return parts.markdown(parts.values(rows), parts.not_whole(rows))


def test_differences_are_over_pairs_of_equal_seed(beside, own):
    """Student's interval by scipy."""
    one, gains = compared(runs(beside, own)).loc["continuity"], 100 * np.array(LEADS)
    low, high = stats.t.interval(0.95, 2, gains.mean(), stats.sem(gains))
    assert (one["value"], one["low"], one["high"]) == pytest.approx((13, low, high))
    assert (one["level"], one["other_level"]) == pytest.approx((45, 32))
    assert one["seeds"] == (7, 8, 9) and one["leads"] == 3


def test_each_part_has_the_verdict_of_the_rule_beyond_n_alone(beside, own):
    said = every_end(runs(beside, own))["verdict"]
    assert said["beyond N"].to_dict() == {"continuity": "leads", "relativity": "trails",
                                          "sigma 1": "inconclusive", "uniform": "",
                                          "pose": ""}  # fmt: skip
    assert set(said["within N"]) == set(said["at 64K"]) == {""}


def test_a_verdict_is_of_the_lengths_beyond_n_alone(beside, own):
    """Continuity finds everything within N, and its verdict stays."""
    rows = runs(beside, own)
    within = rows["run"].str.contains("continuity") & (rows["token_length"] <= 8192)
    found = every_end(rows.assign(score=rows["score"].mask(within, 1.0)))
    assert found.loc[("beyond N", "continuity"), "verdict"] == "leads"
    values = [found.loc[(end, "continuity"), "value"] for end in ("within N", "at 64K")]
    assert values == pytest.approx([-55, 13])


def test_equal_runs_lead_nowhere(beside):
    one = compared(runs(beside, part("sigma 1", (0, 0, 0)))).loc["sigma 1"]
    assert (one["value"], one["leads"], one["verdict"]) == (0, 0, "inconclusive")


@pytest.mark.parametrize("lost", ["seed", "length", "cream"])
def test_a_part_that_lacks_a_seed_is_not_decided(beside, own, lost):
    rows = runs(beside, own)
    of = "cream-yarn-8-seed9" if lost == "cream" else "cream-yarn-8-seed9-sampler_options.mode-cont"
    gone = rows["run"].str.endswith(of) if lost == "cream" else rows["run"].str.contains(of)
    gone &= (rows["token_length"] == 2048) if lost == "length" else True
    found = compared(rows[~gone])
    assert found.loc["continuity", "verdict"] == "not decided"
    assert found.loc["continuity", "value"] == pytest.approx(11)
    assert found.loc["continuity", "seeds"] == (7, 8)
    others = {"not decided"} if lost == "cream" else {"trails", "inconclusive"}
    assert set(found.loc[["relativity", "sigma 1"], "verdict"]) == others


def test_two_models_of_a_part_are_refused(beside, own):
    again = asked("relativity", 8, 0.4).assign(model_hash="again")
    with pytest.raises(ValueError, match="two models of CREAM, relativity only, seed 8"):
        parts.values(runs(beside, own, again))


def test_parts_that_were_asked_otherwise_are_refused(beside, own):
    with pytest.raises(ValueError, match="answered different questions"):
        parts.values(runs(beside, own.assign(prompt_hash=own["prompt_hash"] + "?")))
    with pytest.raises(ValueError, match="was trained on 1000 tokens"):
        parts.values(runs(beside, own.assign(tokens_trained=1000)))


def test_the_page_has_every_comparison(beside, own):
    said = page(runs(beside, own))
    assert "| CREAM, relativity only | 45.0 | 58.0 | -13.0 [-22.0, -4.0] | 7, 8, 9 | 0 of 3 | " \
        "**trails** |" in said  # fmt: skip
    assert "| PoSE | 45.0 | 55.0 | -10.0 [-10.0, -10.0] | 7, 8, 9 | 0 of 3 |  |" in said
    assert "| CREAM, sigma 1 | +1.7 [-24.2, +27.5] | +1.7 [-24.2, +27.5] |" in said
    assert "| CREAM, sigma 1 | 8 | 60 | 60 | 60 | 60 | 60 | 60 | 60 |" in said
    assert "not whole" not in said and said.count("**not decided**") == 0


def test_the_page_says_what_was_not_run(beside, tmp_path):
    short = asked("relativity", 7, 0.3)
    rows = runs(part("continuity", (0.1,)), short[short["token_length"] > 4096])
    results.to_parquet(rows, tmp_path / "parts.parquet")
    (tmp_path / "beside").mkdir()
    results.to_parquet(beside, tmp_path / "beside" / "seeds.parquet")
    parts.main([str(tmp_path), "--beside", str(tmp_path / "beside")])
    said = (tmp_path / "PARTS.md").read_text(encoding="utf-8")
    assert "| CREAM, continuity only | 40.0 | 30.0 | +10.0 | 7 | 1 of 1 | **not decided** |" in said
    assert "| CREAM, sigma 1 |  | not run | not run | none |  | **not decided** |" in said
    assert "In no comparison, because not whole: CREAM, relativity only, seed 7 (lacks 2K, 4K)." \
        in said  # fmt: skip
    assert math.isnan(compared(runs(beside, rows)).loc["sigma 1", "value"])


def test_a_folder_without_runs_is_said(beside, own, tmp_path, capsys):
    one, other = tmp_path / "one", tmp_path / "other"
    for folder, rows in ((one, beside), (other, own)):
        folder.mkdir()
        results.to_parquet(rows, folder / "rows.parquet")
    for given, said in (([one, one], "holds no part (continuity, relativity, sigma 1)"),
                        ([other, other], "holds no CREAM of seeds 7 to 9")):  # fmt: skip
        with pytest.raises(SystemExit):
            parts.main([str(given[0]), "--beside", str(given[1])])
        assert said in capsys.readouterr().err
        assert not (given[0] / "PARTS.md").exists()


def test_parts_stand_beside_the_committed_rows():
    """The three of seeds 7 to 9 are read as they are, and every seed of them counts."""
    found = parts.values(results.read(BESIDE))
    assert found.groupby("variant")["seed"].apply(list).to_dict() == {
        each: [7, 8, 9] for each in ("cream", "pose", "uniform")
    }
    assert set(found["factor"]) == {1.0}


@pytest.mark.skipif(not (FOLDER / "PARTS.md").exists(), reason="the runs are not published")
def test_the_committed_page_is_what_its_rows_say():
    said = (FOLDER / "PARTS.md").read_text(encoding="utf-8")
    assert said == page(results.read(BESIDE, FOLDER))
