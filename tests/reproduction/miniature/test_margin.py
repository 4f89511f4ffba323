"""Tuned for more than it is used to: differences against scipy, verdicts over seeds, the page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from cream.plots.margin import margin_by_length
from cream.reproduction.miniature import margin
from cream.study.analysis import tables
from cream.study.analysis.endpoints import units

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "data" / "margin"
LENGTHS = (307, 512, 2048, 3072, 3994)
GAINS = (20, 24, 28)  # lines of 100 that the wider tuning gains at 7.8 N, a seed


def _run(method: str, wider: bool, seed: int, last: int, base: str = "miniature") -> list[dict]:
    """A run that finds 80 of 100 lines at every length but the last, and 90 pairs of 100."""
    about = {
        "plan": "margin", "condition": "mixed", "method": method, "scaling": "yarn",
        "variant": f"{method}, wider" if wider else method, "scale": 10 if wider else 8,
        "options": "{}", "base": base, "seed": seed, "steps": 300, "learning_rate": 1e-3,
        "window": 512, "commit": "0123abc", "gold_index": np.nan, "depth_percent": np.nan,
        "num_keys": np.nan, "nll": np.nan, "scored_tokens": np.nan, "key": "",
    }  # fmt: skip
    right = {length: last if length == 3994 else 80 for length in LENGTHS}
    lines = [{**about, "task": "longchat_lines", "token_length": length, "sample": k,
              "score": float(k < right[length])}
             for length in LENGTHS for k in range(100)]  # fmt: skip
    pairs = [{**about, "task": "kv_retrieval", "token_length": 512, "sample": k, "num_keys": 46,
              "gold_index": k % 5, "score": float(k < 90)} for k in range(100)]  # fmt: skip
    return lines + pairs


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    found = []
    for seed, gain in enumerate(GAINS):
        for method in ("cream", "pose", "plain", "full"):
            found += _run(method, False, seed, 30)
            found += _run(method, True, seed, 30 + (gain if method == "cream" else 0))
    return pd.DataFrame(found)


def test_a_gain_is_over_seeds_of_one_base(frame):
    """Student's interval of the seeds' differences; the rule is that it lies above 5 points."""
    found = margin.claims(units(frame)).set_index(["b", "endpoint"])
    gain = found.loc["cream", "lines_last"]
    low, high = stats.t.interval(0.95, 2, np.mean(GAINS), stats.sem(GAINS))
    assert (gain["value"], gain["n"]) == (np.mean(GAINS), 3)
    assert (gain["seeds_low"], gain["seeds_high"]) == pytest.approx((low, high))
    assert gain["verdict"] == "holds" and found.loc["pose", "lines_last"]["verdict"] != "holds"
    assert found.loc["cream", "in_window"]["verdict"] == "holds"


def test_methods_are_compared_tuned_alike(frame):
    pairs = margin.leads(units(frame)).set_index(["a", "b", "wider"])
    assert pairs.loc[("cream", "pose", False), "value"] == pytest.approx(0)
    assert pairs.loc[("cream", "pose", True), "value"] == pytest.approx(np.mean(GAINS) / 3)


def test_a_share_of_the_gap_is_of_runs_with_equal_seeds():
    """Of 60 points to full length 24 are gained: 40 %, and 6 less than half of it."""
    lasts = {"cream": (30, GAINS), "pose": (30, (0, 0, 0)), "plain": (10, (40, 40, 40)),
             "full": (90, (0, 0, 0))}  # fmt: skip
    runs = units(pd.DataFrame([
        row for method, (last, gains) in lasts.items() for seed, gain in enumerate(gains)
        for wider in (False, True) for row in _run(method, wider, seed, last + gain * wider)
    ]))  # fmt: skip
    found = margin.closed(runs).set_index(["endpoint", "method"])
    cream = found.loc["lines_last", "cream"]
    assert (cream["gap"], cream["gain"], cream["share"], cream["more"]) == (60, 24, 0.4, -6)
    low, high = stats.t.interval(0.95, 2, -6, stats.sem(GAINS))
    assert (cream["low"], cream["high"]) == pytest.approx((low, high))
    assert found.loc["lines", "cream"]["gap"] == pytest.approx(20)  # the mean of three lengths
    assert found.loc["lines_last", "plain"]["share"] == 0.5
    without = runs[~((runs["variant"] == "cream, wider") & (runs["seed"] == 2))]
    one = margin.closed(without).set_index(["endpoint", "method"])
    assert one.loc["lines_last", "cream"]["gain"] == np.mean(GAINS[:2])


def test_bases_are_not_taken_for_seeds(frame):
    two = pd.concat([frame, frame.assign(base="other")])
    with pytest.raises(ValueError, match="rows are of 2 bases .* give those of one"):
        margin.claims(units(two))


def test_the_page_and_the_figure_show_every_method(frame):
    lines = margin.by_length(frame)
    runs = units(frame)
    said = margin.markdown(
        margin.claims(runs), lines, margin.leads(runs),
        margin.closed(runs),
    )  # fmt: skip
    assert "| CREAM | lines at 7.8 N | 30.0 | 54.0 | +24.0 [+14.1, +33.9] | 3 | **holds** |" in said
    assert "| PoSE | within N | 83.3 | 83.3 | +0.0 [+0.0, +0.0] | 3 | **kept** |" in said
    assert "| CREAM | 80 → 80 | 80 → 80 | 80 → 80 | 80 → 80 | 30 → 54 |" in said
    assert "| PoSE | 7.8 N | +0.0 [+0.0, +0.0] | +0.0 | no gap | +0.0 [+0.0, +0.0] | 3 |" in said
    figure = margin_by_length(lines)
    assert len(figure.axes) == 4 and "3 training seeds" in figure._supxlabel.get_text()
    with pytest.raises(ValueError, match="nothing to draw"):
        margin_by_length(lines.iloc[:0])


def test_a_folder_without_rows_is_said(tmp_path, capsys):
    with pytest.raises(SystemExit):
        margin.main([str(tmp_path), "--figures", str(tmp_path)])
    assert "holds no margin.parquet: merge the records" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_committed_page_is_what_its_rows_say():
    frame, runs = tables.load(FOLDER / "margin.parquet")
    made = margin.markdown(
        margin.claims(runs), margin.by_length(frame),
        margin.leads(runs), margin.closed(runs),
    )  # fmt: skip
    assert (FOLDER / "MARGIN.md").read_text(encoding="utf-8") == made
    assert runs.groupby("variant").size().tolist() == [8] * 8 and runs["seed"].min() == 8


def test_reproduction_has_the_verdicts_of_the_rows():
    """Its table is typed; each line is what the rows give."""
    said = (ROOT / "REPRODUCTION.md").read_text(encoding="utf-8")
    _, runs = tables.load(FOLDER / "margin.parquet")
    page = margin.markdown(
        found := margin.claims(runs),
        margin.by_length(tables.load(FOLDER / "margin.parquet")[0]),
        margin.leads(runs), margin.closed(runs),
    )  # fmt: skip
    cells = [line.split(" | ") for line in page.splitlines() if line.endswith("** |")]
    assert len(cells) == len(found) == 8
    for gain, kept in zip(cells[:4], cells[4:], strict=True):
        verdicts = [one[-1].removesuffix(" |") for one in (gain, kept)]
        assert f"{gain[0]} | {gain[4]} | {verdicts[0]} | {kept[4]} | {verdicts[1]} |" in said


def test_the_shares_of_the_gap_that_are_typed_are_those_of_the_rows():
    _, runs = tables.load(FOLDER / "margin.parquet")
    found = margin.closed(runs).set_index(["endpoint", "method"]).loc["lines_last"]
    methods = ("cream", "pose", "plain")
    cream, pose, plain = (f"{100 * found.loc[one, 'share']:.0f}" for one in methods)
    words = f"closes {cream} % for CREAM, {pose} % for PoSE and {plain} % for plain fine-tuning"
    more = [f"{one.more:+.1f} [{one.low:+.1f}, {one.high:+.1f}]"
            for one in found.loc[list(methods)].itertuples()]  # fmt: skip
    page = " ".join((ROOT / "REPRODUCTION.md").read_text(encoding="utf-8").split())
    assert words in page and f"half of the lead is {more[0]}, {more[1]} and {more[2]} " in page
    assert words in " ".join((FOLDER / "README.md").read_text(encoding="utf-8").split())
