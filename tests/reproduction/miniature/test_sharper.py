"""Sharper attention when a model is used: the rule of the factor, verdicts, the page."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cream.reproduction.miniature import sharper
from cream.study.analysis import tables
from cream.study.analysis.endpoints import units
from cream.study.analysis.gap import gaps
from cream.study.conditions import SHARPER

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "data" / "sharper"
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
    means = sharper.choice(tried)
    assert means.round(2).tolist() == [63.33, 70.0, 70.67, 60.0]
    assert sharper.chosen(means) == 1.1
    assert sharper.chosen(means + [10, 0, 0, 0]) == 1.0
    assert sharper.chosen(means + [0, 0, 1, 0]) == 1.2


def test_factors_that_were_not_all_asked_choose_nothing(tried):
    lacking = tried[~((tried["variant"] == "pose x1.2") & (tried["seed"] == 101))]
    one_model = tried[tried["variant"].str.startswith("cream") & (tried["seed"] == 100)]
    for frame, said in ((lacking, "1 of 16"), (one_model, "12 of 16"),
                        (tried[tried["variant"] != "cream x1.35"], "2 of 16")):  # fmt: skip
        with pytest.raises(ValueError, match=f"{said} runs of the plan sharper-choice are missing"):
            sharper.choice(frame)


def test_verdicts_are_of_the_chosen_factor_alone(runs):
    found = sharper.claims(runs, 1.2).set_index(["b", "endpoint"])
    assert len(found) == 6 and set(found["a"].str.partition(" ")[2]) == {"x1.2"}
    gain = found.loc["cream", "lines_last"]
    assert gain["value"] == pytest.approx(22) and gain["n"] == 3 and gain["verdict"] == "holds"
    assert found.loc["pose", "lines_last"]["verdict"] == "does not hold"
    assert found.loc["cream", "in_window"]["verdict"] == "holds"
    assert sharper.claims(runs, 1.1).set_index("b").loc["cream", "value"].max() == 10
    assert sharper.claims(runs, 1.0).empty
    with pytest.raises(ValueError, match="rows are of 2 bases"):
        sharper.claims(pd.concat([runs, runs.assign(base="other")]), 1.2)


def test_the_page_has_the_choice_the_claims_and_the_gap(runs, tried):
    means = sharper.choice(tried)
    said = sharper.markdown(means, runs)
    assert "**Chosen: 1.1**" in said and "| 63.3 | 70.0 | 70.7 | 60.0 |" in said
    assert "| CREAM | lines at 7.8 N | 30.0 | 40.0 | +10.0 [+7.5, +12.5] | 3 | **holds** |" in said
    assert "| CREAM, tuned for 1.25 L | 40, 83 (3) | 50, 83 (3) | 62, 83 (3) | 45, 83 (3) |" in said
    assert "| full length | 70, 83 (3) | not run | not run | not run |" in said
    gap = "| CREAM | 7.8 N | +40.0 [+40.0, +40.0]"
    assert f"{gap} | +10.0 | 25 % | -10.0 [-12.5, -7.5] | 3 |" in said
    both = said.partition("both, tuned for 1.25 L and attention x1.1")[2]
    assert f"{gap} | +20.0 | 50 % | +0.0 [-2.5, +2.5] | 3 |" in both
    nothing = sharper.markdown(means + [10, 0, 0, 0], runs)
    assert "**Chosen: 1**" in nothing and "there is no claim to be told" in nothing
    assert "to full length: attention x1" not in nothing


def test_a_folder_without_rows_is_said(tmp_path, capsys):
    with pytest.raises(SystemExit):
        sharper.main([str(tmp_path)])
    assert "holds no choice.parquet: merge the records" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def measured() -> tuple[pd.Series, pd.DataFrame]:
    """The committed rows: the mean of each factor, and the runs."""
    found = {name: tables.load(FOLDER / f"{name}.parquet") for name in ("choice", "sharper")}
    return sharper.choice(found["choice"][0]), found["sharper"][1]


def _said(name: str) -> str:
    return " ".join((ROOT / name).read_text(encoding="utf-8").split())


def test_the_committed_page_is_that_of_the_rows(measured):
    made = sharper.markdown(*measured)
    assert (FOLDER / "SHARPER.md").read_text(encoding="utf-8") == made
    assert sharper.chosen(measured[0]) == 1.2
    assert measured[1].groupby("variant").size().tolist() == [8] * 25


def test_reproduction_has_the_verdicts_of_the_rows(measured):
    """Its tables are typed; each line is what the rows give."""
    said = _said("REPRODUCTION.md")
    page = sharper.markdown(*measured)
    cells = [line.split(" | ") for line in page.splitlines() if line.endswith("** |")]
    assert len(cells) == 6
    for gain, kept in zip(cells[:3], cells[3:], strict=True):
        verdicts = [one[-1].removesuffix(" |") for one in (gain, kept)]
        assert f"{gain[0]} | {gain[4]} | {verdicts[0]} | {kept[4]} | {verdicts[1]} |" in said


def test_the_shares_of_the_gap_that_are_typed_are_those_of_the_rows(measured):
    """In the table of REPRODUCTION.md, with the gap that they are shares of."""
    said = _said("REPRODUCTION.md")
    remedies = sharper._remedies(1.2).values()
    found = [gaps(measured[1], one).set_index(["endpoint", "method"]) for one in remedies]
    labels = {"cream": "CREAM", "pose": "PoSE", "plain": "plain fine-tuning"}
    for method, label in labels.items():
        rows = [one.loc[("lines_last", method)] for one in found]
        line = " | ".join(f"{100 * row['share']:.0f} % | {_range(row, 'more', 'low', 'high')}"
                          for row in rows)  # fmt: skip
        assert f"| {label} | {line} |" in said
        assert f"{_range(rows[0], 'gap', 'gap_low', 'gap_high')} over {label}" in said


def _range(row: pd.Series, *names: str) -> str:
    value, low, high = (f"{row[name]:+.1f}" for name in names)
    return f"{value} [{low}, {high}]"


@pytest.mark.parametrize("name", ["README.md", "notebooks/README.md", "data/sharper/README.md",
                                  "data/results/PREREGISTRATION.md"])  # fmt: skip
def test_what_other_texts_say_of_it_is_on_the_page(name):
    """Every value with an interval that stands there beside the topic."""
    text, page = _said(name), (FOLDER / "SHARPER.md").read_text(encoding="utf-8").replace("+", "")
    start = {"README.md": "Sharper attention finds", "notebooks/README.md": "## Sharper attention",
             "data/results/PREREGISTRATION.md": "session: **sharper attention** ran"}  # fmt: skip
    part = re.sub(r"\]\([^)]*\)", "", text.partition(start.get(name, "# "))[2][:2500])
    part = part.partition("Perplexity is flat")[0].partition(" ## RULER")[0].replace("+", "")
    found = re.findall(r"(-?\d+\.\d)(?: points)? (\[-?\d+\.\d, -?\d+\.\d\])", part)
    assert len(found) >= 2
    assert not [one for one in found if " ".join(one) not in page]
