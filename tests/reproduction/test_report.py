"""The table that ends `make reproduce`: its numbers, its verdicts and what it says of one seed."""

import numpy as np
import pandas as pd
import pytest
from made_rows import LENGTHS, WINDOW, frame, write
from ruler_rows import ruler_rows

from cream import statistics
from cream.reproduction import report


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> pd.DataFrame:
    return frame(tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def said(rows) -> str:
    """The report on all rows."""
    return report.report(rows)


def test_every_model_and_cell_is_in_the_table(rows):
    """Four models, six lengths, two sizes, four lengths; tokens trained; n and N in the heading."""
    text = report.report(rows, ["runs/reproduce/figures"])
    lines = text.splitlines()
    assert "n = 50 samples a cell; N = 512" in lines[0]
    assert lines[1].split() == ["model", "tokens", "trained", "0.6N", "N", "2N", "4N", "6N", "7.8N"]
    assert [line.split()[0] for line in lines[2:6]] == ["original", "scaled,", "PoSE,", "CREAM,"]
    assert lines[4].startswith("PoSE, yarn x8 ") and "409,600" in lines[4]
    assert all(line.count("[") == len(LENGTHS) for line in lines[2:6])
    assert "23 keys" in text and "47 keys" in text and "Perplexity" in text
    assert text.endswith("Figures: runs/reproduce/figures")
    assert max(map(len, lines)) < 200


def test_a_cell_is_its_rows(rows, said):
    """One cell by hand."""
    part = rows.query("method == 'cream' and task == 'longchat_lines'")
    part = part[part["token_length"] == 2 * WINDOW]
    found = statistics.proportion(part["score"], part["document"])
    cell = f"{100 * found.value:.0f} [{100 * found.low:.0f}, {100 * found.high:.0f}]"
    line = next(line for line in said.splitlines() if line.startswith("CREAM"))
    assert line.split("  ")[-4].strip() == cell or cell in line


def test_differences_are_paired_and_have_a_verdict(rows, said):
    """Against pairing by hand; original is no tuned model of this scaling."""
    table = report.differences(rows)
    assert table[["method", "multiple"]].to_numpy().tolist() == [
        ["pose", 2], ["cream", 2], ["pose", 4], ["cream", 4]]  # fmt: skip
    part = rows[(rows["task"] == "longchat_lines") & (rows["token_length"] == 4 * WINDOW)]
    wide = part.pivot(index=["document", "sample"], columns="method", values="score")
    by_hand = statistics.paired_difference(
        wide["cream"], wide["scaled"], wide.index.get_level_values("document"), span=1)  # fmt: skip
    ours = table.iloc[-1]
    assert (ours["value"], ours["low"], ours["high"]) == pytest.approx(by_hand[:3])
    assert said.count("excludes 0") == 4 and "CREAM - scaled, yarn x8, 4N: +" in said


def test_equal_models_do_not_exclude_zero(rows):
    """The verdict follows the interval."""
    same = rows[rows["method"] == "scaled"]
    copy = same.assign(method="cream", model_hash="copy", key=same["key"] + "x", run="copy")
    text = report.report(pd.concat([same, copy]))
    assert text.count("does not exclude 0") == 2


@pytest.mark.slow
def test_one_seed_says_that_a_gap_means_nothing(rows, said, tmp_path):
    """With three seeds the gap is over pairs of runs instead."""
    assert report.gap(rows) is None
    assert "on one seed means nothing" in said
    made = frame(tmp_path, seeds=(0, 1, 2))
    found = report.gap(made)
    assert found.n == 3 and found.low < found.value < found.high
    text = report.report(made)
    assert "over 3 pairs of runs" in text and "means nothing" not in text
    assert "PoSE, yarn x8 (3 models)" in text
    assert set(report.differences(made)["models"]) == {3}


@pytest.mark.slow
def test_the_gap_is_the_mean_of_the_seeds_gaps(tmp_path):
    """By hand, from each seed's mean."""
    made = frame(tmp_path, methods=("pose", "cream"), seeds=(0, 1, 2, 3))
    part = made[(made["task"] == "longchat_lines") & (made["token_length"] > WINDOW)]
    means = part.groupby(["seed", "method"])["score"].mean().unstack()
    gaps = (means["cream"] - means["pose"]).to_numpy(float)
    found = report.gap(made)
    assert found.value == pytest.approx(gaps.mean())
    half = 3.1824463 * gaps.std(ddof=1) / np.sqrt(4)  # Student's quantile with 3 degrees
    assert found.high - found.value == pytest.approx(half)
    assert "No comparison with the scaled, untuned model" in report.report(made)


def test_scales_are_kept_apart(rows):
    """Two scales of a method are two lines, and each is compared with its own untuned model."""
    tuned = rows[rows["scaling"] == "yarn"]
    wider = tuned.assign(scale=64, model_hash=tuned["model_hash"] + "w", key=tuned["key"] + "w",
                         run=tuned["run"] + "w")  # fmt: skip
    text = report.report(pd.concat([rows, wider]))
    assert "CREAM, yarn x8 " in text and "CREAM, yarn x64 " in text and "models" not in text
    assert len(report.differences(pd.concat([rows, wider]))) == 8


def test_old_rows_of_a_run_trained_again_do_not_count(rows):
    """Newer weights of the same run replace its table, they are not averaged in."""
    lines = rows.query("task == 'longchat_lines'")
    cream = lines[lines["method"] == "cream"]
    again = cream.assign(model_hash="new", key=cream["key"] + "n", score=0.0, date="2026-02-01")
    text = report.report(pd.concat([lines, again]))
    line = next(line for line in text.splitlines() if line.startswith("CREAM"))
    assert "models" not in line and line.count("0 [0,") == len(LENGTHS)


def test_two_styles_of_a_task_are_two_tables(rows):
    """They are never averaged."""
    lines = rows.query("task == 'longchat_lines'")
    official = lines.assign(settings='{"style": "official"}', key=lines["key"] + "o")
    text = report.report(pd.concat([lines, official]))
    assert "(miniature)" in text and "(official)" in text


def test_the_command_prints_it_and_says_what_is_wrong(tmp_path, capsys):
    """Exit 1 and one line on stderr for missing rows and rows of no known task."""
    write(tmp_path / "rows", methods=("original",))
    assert report.main([str(tmp_path / "rows"), "--figures", "figures"]) == 0
    assert "LongChat-Lines" in capsys.readouterr().out
    assert report.main([str(tmp_path / "nowhere")]) == 1
    assert "there are no rows at" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert report.main([str(tmp_path / "empty")]) == 1
    assert "run an evaluation notebook first" in capsys.readouterr().err


def _falling(method, task, length, sample):
    return 1.0 if length <= 512 else 0.0 if method == "original" else 0.5


@pytest.mark.slow
def test_rows_of_ruler_have_a_table_and_without_any_nothing_is_said(rows, said):
    """By form; the cells are the means, and a length that lacks a task is a dash."""
    assert "RULER" not in said
    made = ruler_rows(_falling)
    short = (made["task"] == "ruler-vt") & (made["token_length"] == 1024)
    text = report.report(pd.concat([rows, made[~(short & (made["method"] == "cream"))]]))
    lines = text[text.index("RULER-6, the mean of six generated tasks") :].splitlines()
    assert "n = 24 samples a cell; N = 512" in lines[0]
    assert lines[1].split() == ["model", "tokens", "trained", "N", "2N", "8N"]
    assert [line.split()[0] for line in lines[2:4]] == ["original", "CREAM,"]
    assert "100 [" in lines[2] and " 0 [0, " in lines[2] and "50 [" in lines[3]
    assert lines[3].split().count("-") == 1
    assert lines[4].endswith("in tokens: original 512; CREAM, yarn x8 512")
    both = pd.concat([made, ruler_rows(_falling, style="chat")])
    assert "six generated tasks" in report.report(made)
    assert {"(official);", "(chat);"} <= set(report.report(both).split())
    part = made[made["task"] == "ruler-vt"]
    assert "no length has all six tasks, N = 512" in report.report(part)
