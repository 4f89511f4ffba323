"""SmolLM2-135M tuned for more than it is used to: which runs count, claims, page and figure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from primary_rows import run, runs
from scipy import stats

from cream import results
from cream.plots.margin import margin_by_length
from cream.reproduction.smollm2 import margin

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "data" / "smollm2-margin"
LENGTHS = tuple(margin.LENGTHS)
GAINS = {1: 0.20, 2: 0.24, 3: 0.28}


def wider(method: str, seed: int, found: float, at_l: float, **more: object) -> pd.DataFrame:
    """A run tuned for 1.25 L that finds the share `found`, and `at_l` at 64K."""
    name = f"runs/margin/{method}-yarn-10-seed{seed}"
    about = {"run": name, "model_hash": name, "scale": 10} | more
    rows = run(method, seed, found, lengths=LENGTHS, **about)
    return rows.assign(score=rows["score"].where(rows["token_length"] != LENGTHS[-1], at_l))


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    found = []
    for seed, gain in GAINS.items():
        found += [run(method, seed, 0.4, lengths=LENGTHS) for method in ("cream", "pose")]
        found += [wider("pose", seed, 0.4, 0.4 + gain), wider("cream", seed, 0.3, 0.4)]
    return runs(*found)


def test_gain_and_cost_are_over_pairs_of_equal_seed(rows):
    """Student's interval by scipy; CREAM gains nothing and loses 10 points in every seed."""
    found = margin.claims(margin.values(rows)).set_index(["method", "end"])
    gain, points = found.loc["pose", "at 64K"], [100 * each for each in GAINS.values()]
    low, high = stats.t.interval(0.95, 2, np.mean(points), stats.sem(points))
    assert (gain["value"], gain["low"], gain["high"]) == pytest.approx((24, low, high))
    assert gain["verdict"] == "holds" and gain["seeds"] == (1, 2, 3)
    assert found.loc["cream", "at 64K"]["verdict"] == "does not hold"
    assert found.loc["pose", "within N"]["verdict"] == "holds"
    cost = found.loc["cream", "within N"]
    assert cost["value"] == pytest.approx(-10) and cost["verdict"] == "does not hold"


def test_methods_are_compared_tuned_alike(rows):
    pairs = margin.leads(margin.values(rows)).set_index(["end", "wider"])["value"]
    assert pairs["at 64K", False] == pytest.approx(0)
    assert pairs["at 64K", True] == pytest.approx(24)
    assert pairs["within N", True] == pytest.approx(10)


def test_a_run_that_lacks_a_length_or_was_changed_is_not_compared(rows):
    short = wider("pose", 1, 0.9, 0.9)
    short = short[short["token_length"] != 2048]
    changed = wider("pose", 1, 0.9, 0.9, run="runs/margin/pose-yarn-10-seed1-float8-tensorwise",
                    model_hash="other")  # fmt: skip
    rest = rows[~((rows["method"] == "pose") & (rows["scale"] == 10) & (rows["seed"] == 1))]
    found = margin.values(runs(rest, short, changed))
    assert found[found["wider"] & (found["method"] == "pose")]["seed"].tolist() == [2, 3]
    (gain,) = margin.claims(found).query("method == 'pose' and end == 'at 64K'").to_dict("records")
    assert gain["seeds"] == (2, 3) and gain["value"] == pytest.approx(26)


def test_two_models_of_one_seed_are_refused(rows):
    again = wider("pose", 1, 0.9, 0.9, run="runs/again/pose-yarn-10-seed1", model_hash="other")
    with pytest.raises(ValueError, match=r"two models of pose, seed 1.*runs/again/pose-yarn-10"):
        margin.values(runs(rows, again))


def test_what_was_not_run_is_said():
    alone = runs(run("cream", 1, 0.4, lengths=LENGTHS), wider("cream", 1, 0.4, 0.5))
    said = margin.markdown(margin.values(alone))
    assert "| CREAM | found at 64K | 40.0 | 50.0 | +10.0 | 1 | **not decided** |" in said
    assert "| PoSE | found at 64K | not run | not run | not run | none | **not decided** |" in said


def test_the_page_and_the_figure_show_both_methods(rows):
    found = margin.values(rows)
    said = margin.markdown(found)
    assert "| found at 64K | 40.0 | 64.0 | +24.0 [+14.1, +33.9] | 1, 2, 3 | **holds** |" in said
    assert "| within N | 40.0 | 30.0 | -10.0 [-10.0, -10.0] | 1, 2, 3 | **not kept** |" in said
    assert "| PoSE | 1 | 60 | 40 → 40 | 40 → 40 | 40 → 40 | 40 → 40 | 40 → 40 | 40 → 60 |" in said
    each = margin.each_seed(found)
    figure = margin_by_length(margin.by_length(found), "sentences found (%)", each)
    assert len(figure.axes) == 2 and figure.axes[0].get_ylabel() == "sentences found (%)"
    assert all(len(panel.lines) >= 2 + 2 * 3 for panel in figure.axes)
    assert "thin: each seed" in figure._supxlabel.get_text()


def test_a_folder_without_runs_is_said(tmp_path, capsys):
    with pytest.raises(SystemExit):
        margin.main([str(tmp_path), "--beside", str(ROOT / "data" / "smollm2"),
                     "--figures", str(tmp_path)])  # fmt: skip
    assert "holds no run tuned for 1.25 L" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_committed_page_is_what_its_rows_say():
    found = margin.values(results.read(ROOT / "data" / "smollm2", FOLDER))
    assert (FOLDER / "MARGIN.md").read_text(encoding="utf-8") == margin.markdown(found)
    assert found.groupby(["method", "wider"])["seed"].apply(list).tolist() == [[1, 2, 3]] * 4


def test_reproduction_has_the_verdicts_of_the_rows():
    """Its table is typed; each line is what the rows give."""
    said = (ROOT / "REPRODUCTION.md").read_text(encoding="utf-8")
    page = (FOLDER / "MARGIN.md").read_text(encoding="utf-8")
    cells = [line.split(" | ") for line in page.splitlines() if line.endswith("** |")]
    assert len(cells) == 4
    for gain, kept in zip(cells[:2], cells[2:], strict=True):
        verdicts = [one[-1].removesuffix(" |") for one in (gain, kept)]
        assert f"{gain[0]} | {gain[4]} | {verdicts[0]} | {kept[4]} | {verdicts[1]} |" in said
