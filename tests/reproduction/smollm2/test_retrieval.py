"""Retrieval documents on SmolLM2-135M: four comparisons and their verdicts, refusals, the page."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from primary_rows import runs
from retrieval_rows import KEYS, LINES, SCALED, lines, pairs, sentences, texts, trained
from scipy import stats
from variant_rows import asked

from cream import results
from cream.reproduction.smollm2 import retrieval
from cream.reproduction.smollm2.margin import LENGTHS

ROOT = Path(__file__).resolve().parents[3]
FOLDER, BESIDE = ROOT / "data" / "smollm2-retrieval", ROOT / "data" / "smollm2-seeds"
SEEDS = (7, 8, 9)
SENTENCES = {  # the share that each finds: CREAM trails PoSE, which leads plain fine-tuning
    "cream": (0.40, 0.50, 0.45),
    "pose": (0.60, 0.72, 0.68),
    "plain": (0.30, 0.40, 0.33),
}
RIGHT = {  # lines of 16 beyond N: CREAM leads PoSE, which decides nothing beside plain fine-tuning
    "cream": (12, 13, 14),
    "pose": (8, 9, 9),
    "plain": (8, 10, 7),
}
WITHIN = 15


def beyond(right: int) -> dict[int, int]:
    """So many lines right beyond N, and `WITHIN` within."""
    return {length: WITHIN if length <= 8192 else right for length in LINES}


def of(method: str, seed: int) -> pd.DataFrame:
    """Sentences and lines of one run with retrieval documents."""
    share, right = (each[method][seed - 7] for each in (SENTENCES, RIGHT))
    return runs(sentences(method, seed, share), lines(trained(method, seed), beyond(right)))


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    """All nine runs, pairs and perplexity of one, lines and pairs of the base."""
    found = [of(method, seed) for method in SENTENCES for seed in SEEDS]
    who = trained("cream", 7)
    more = [pairs(who, {75: 5, 140: 3, 800: 1}), texts(who, dict.fromkeys(LINES, 2.0)),
            lines(SCALED, beyond(0)),
            pairs(SCALED, dict.fromkeys(KEYS, 0))]  # fmt: skip
    return runs(*found, *more)


@pytest.fixture(scope="module")
def beside() -> pd.DataFrame:
    """Text alone: CREAM finds 10 points less in each seed, PoSE as much; and what is not read."""
    found = [asked("cream", seed, share - 0.1, sharper=0.9)
             for seed, share in zip(SEEDS, SENTENCES["cream"], strict=True)]  # fmt: skip
    found += [asked("pose", seed, share)
              for seed, share in zip(SEEDS, SENTENCES["pose"], strict=True)]  # fmt: skip
    return runs(*found, asked("uniform", 7, 0.9))


@pytest.fixture(scope="module")
def usual(rows, beside) -> retrieval.Found:
    """What they answered; not to be written into."""
    return retrieval.values(rows, beside)


@pytest.fixture(scope="module")
def usual_comparisons(usual) -> pd.DataFrame:
    """As `compared` has them; not to be written into."""
    return indexed(usual)


def indexed(found: retrieval.Found) -> pd.DataFrame:
    return retrieval.comparisons(found).set_index(["a", "b", "endpoint"])


def compared(rows: pd.DataFrame, beside: pd.DataFrame) -> pd.DataFrame:
    return indexed(retrieval.values(rows, beside))


def page(rows: pd.DataFrame, beside: pd.DataFrame) -> str:
    return retrieval.markdown(retrieval.values(rows, beside))


def without(rows: pd.DataFrame, run: str, task: str, *lengths: int) -> pd.DataFrame:
    """The rows without a task of a run, or without some of its lengths."""
    gone = rows["run"].str.endswith(run) & (rows["task"] == task)
    return rows[~(gone & rows["token_length"].isin(lengths or rows["token_length"].unique()))]


@pytest.mark.parametrize(
    "a, b, endpoint, verdict",
    [("cream", "pose", "sentences", "trails"), ("cream", "pose", "lines", "leads"),
     ("pose", "plain", "sentences", "leads"), ("pose", "plain", "lines", "inconclusive")],
)  # fmt: skip
def test_each_comparison_is_over_pairs_of_equal_seed(usual_comparisons, a, b, endpoint, verdict):
    """Student's interval by scipy; the verdict by the rule as it is written."""
    table = SENTENCES if endpoint == "sentences" else RIGHT
    first, other = (100 * np.array(table[name]) / (1 if table is SENTENCES else 16)
                    for name in (a, b))  # fmt: skip
    low, high = stats.t.interval(0.95, 2, (first - other).mean(), stats.sem(first - other))
    one = usual_comparisons.loc[(a, b, endpoint)]
    expected = ((first - other).mean(), low, high)
    assert (one["value"], one["low"], one["high"]) == pytest.approx(expected)
    assert (one["level"], one["other_level"]) == pytest.approx((first.mean(), other.mean()))
    assert one["seeds"] == SEEDS and one["leads"] == (first > other).sum() and one["near"] == ""
    assert one["verdict"] == verdict
    assert verdict == ("leads" if low > 0 else "trails" if high < 0 else "inconclusive")


def test_there_are_four_comparisons_in_order(usual_comparisons):
    assert list(usual_comparisons.index) == [
        ("cream", "pose", "sentences"), ("cream", "pose", "lines"),
        ("pose", "plain", "sentences"), ("pose", "plain", "lines"),
    ]  # fmt: skip


@pytest.mark.parametrize("task", ["longchat_lines", "needle"])
def test_a_verdict_is_of_the_lengths_beyond_n_alone(rows, beside, usual_comparisons, task):
    within = rows["run"].str.contains("pose") & (rows["token_length"] <= 8192)
    every = rows.assign(score=rows["score"].mask(within & (rows["task"] == task), 0.0))
    pd.testing.assert_frame_equal(compared(every, beside), usual_comparisons)


@pytest.mark.thinned
@pytest.mark.parametrize("lost", ["seed", "length"])
@pytest.mark.parametrize("task, endpoint, length", [("needle", "sentences", 2048),
                                                    ("longchat_lines", "lines", 4096)])  # fmt: skip
def test_what_lacks_a_seed_is_not_decided_there_alone(
    rows, beside, usual_comparisons, task, endpoint, length, lost
):
    """PoSE of seed 9 lacks a task or a length of it; the other task stays as it is."""
    lacks = (length,) if lost == "length" else ()
    found = compared(without(rows, "pose-yarn-8-seed9", task, *lacks), beside)
    usual = usual_comparisons
    for (a, b, end), one in found.iterrows():
        whole = end != endpoint
        assert one["verdict"] == (usual.loc[(a, b, end), "verdict"] if whole else "not decided")
        assert one["seeds"] == (SEEDS if whole else (7, 8))
    each = np.array(SENTENCES["cream"]) - SENTENCES["pose"] if endpoint == "sentences" else (
        np.array(RIGHT["cream"]) - RIGHT["pose"]) / 16  # fmt: skip
    assert found.loc[("cream", "pose", endpoint), "value"] == pytest.approx(100 * each[:2].mean())


@pytest.mark.parametrize(
    "levels, near, verdict",
    [((0.0, 0.0), "both near 0", "inconclusive"), ((0.04, 0.01), "both near 0", "leads"),
     ((0.05, 0.0), "", "leads"), ((0.97, 0.99), "both near 100", "trails"),
     ((0.94, 0.97), "", "trails"), ((0.97, 0.02), "", "leads")],
)  # fmt: skip
def test_where_both_lie_near_an_end_the_page_says_so(rows, beside, levels, near, verdict):
    """The verdict stays beside it; every seed has the same difference."""
    shares = rows["method"].map({"cream": levels[0], "pose": levels[1]})
    changed = (rows["task"] == "needle") & shares.notna()
    every = rows.assign(score=rows["score"].mask(changed, shares))
    found = retrieval.values(every, beside)
    one = indexed(found).loc[("cream", "pose", "sentences")]
    assert (one["near"], one["verdict"]) == (near, verdict)
    said = f"**{verdict}** ({near}) |" if near else f"**{verdict}** |"
    (line,) = [one for one in retrieval.markdown(found).splitlines()
               if one.startswith("| CREAM less PoSE | sentences")]  # fmt: skip
    assert line.endswith(said)


def test_lines_near_0_are_said(rows, beside):
    none = rows["score"].mask((rows["task"] == "longchat_lines") & (rows["token_length"] > 8192), 0)
    said = page(rows.assign(score=none), beside)
    assert "| CREAM less PoSE | lines | 0.0 | 0.0 | +0.0 [+0.0, +0.0] | 7, 8, 9 | 0 of 3 | " \
        "**inconclusive** (both near 0) |" in said  # fmt: skip


def test_runs_are_compared_with_text_alone_of_the_same_seed(rows, beside):
    """CREAM finds 10 points more in each seed; PoSE of seed 8 was not run on text alone."""
    part = without(beside, "pose-yarn-8-seed8", "needle")
    found = retrieval.less_text(retrieval.values(rows, part))
    found = found.set_index(["method", "end"])
    for end in ("beyond N", "within N", "at 64K"):
        cream, pose = found.loc[("cream", end)], found.loc[("pose", end)]
        assert (cream["value"], cream["low"], cream["high"]) == pytest.approx((10, 10, 10))
        assert (cream["level"], cream["other_level"]) == pytest.approx((45, 35))
        assert cream["seeds"] == SEEDS and cream["leads"] == 3
        assert pose["value"] == pytest.approx(0) and pose["leads"] == 0
        assert pose["seeds"] == (7, 9) and pose["level"] == pytest.approx(64)


def test_ends_of_text_alone_are_of_their_lengths(rows, beside):
    at_l = rows["run"].str.contains("retrieval/pose") & (rows["token_length"] == 65436)
    every = rows.assign(score=rows["score"].mask(at_l & (rows["task"] == "needle"), 0.0))
    found = retrieval.less_text(retrieval.values(every, beside))
    each = found[found["method"] == "pose"].set_index("end")["value"]
    mean = 100 * np.mean(SENTENCES["pose"])
    assert each["at 64K"] == pytest.approx(-mean) and each["within N"] == pytest.approx(0)
    assert each["beyond N"] == pytest.approx(-mean / 3)


def test_two_models_of_a_seed_in_one_folder_are_refused(rows, beside):
    """Also where one answered the sentences and the other the lines."""
    again = lines(trained("plain", 8, model_hash="again"), beyond(3))
    for lost in (rows, without(rows, "plain-yarn-8-seed8", "longchat_lines")):
        with pytest.raises(ValueError, match="two models of plain fine-tuning, seed 8, are in one"):
            retrieval.values(runs(lost, again), beside)
    again = asked("pose", 7, 0.4).assign(model_hash="again")
    with pytest.raises(ValueError, match="two models of PoSE, seed 7, are in one folder"):
        retrieval.values(rows, runs(beside, again))


def test_a_model_in_both_folders_is_refused(rows, beside):
    with pytest.raises(ValueError, match="seed7 is in both folders, with equal weights"):
        retrieval.values(rows, rows)


def test_folders_that_were_asked_otherwise_are_refused(rows, beside):
    other = beside.assign(prompt_hash=beside["prompt_hash"] + "?")
    with pytest.raises(ValueError, match="runs/.* and runs/.* answered different questions"):
        retrieval.values(rows, other)
    more = runs(*(asked(method, 7, 0.4, samples=4) for method in ("cream", "pose")))
    with pytest.raises(ValueError, match=r"2 of 11 runs answered the sentence.*sample 3"):
        retrieval.values(rows, more)
    with pytest.raises(ValueError, match="was trained on 1000 tokens"):
        retrieval.values(rows, beside.assign(tokens_trained=1000))


def test_the_page_has_every_table(usual):
    said = retrieval.markdown(usual)
    assert "| PoSE less plain fine-tuning | lines | 54.2 | 52.1 | +2.1 [-21.6, +25.8] | 7, 8, 9 " \
        "| 1 of 3 | **inconclusive** |" in said  # fmt: skip
    assert "| CREAM | at 64K | 45.0 | 35.0 | +10.0 [+10.0, +10.0] | 7, 8, 9 | 3 of 3 |" in said
    with_, alone = said.split("## Sentences by length, text alone")
    assert "| CREAM | 8 | 60 | 50 | 50 | 50 | 50 | 50 | 50 |" in with_
    assert "| CREAM | 8 | 60 | 40 | 40 | 40 | 40 | 40 | 40 |" in alone
    assert "| plain fine-tuning | 9 | 16 | 94 | 94 | 94 | 44 | 44 | 44 |" in said
    assert "| untuned by YaRN |  | 16 | 94 | 94 | 94 | 0 | 0 | 0 |" in said
    assert "| CREAM | 7 | 30 | 100 | 60 | 20 |" in said
    assert "| untuned by YaRN |  | 30 | 0 | 0 | 0 |" in said
    loss = f"{math.exp((2.0 * 1700 + 10) / 1700):.2f}"
    assert f"| CREAM | 7 | 16 |{f' {loss} |' * 6}" in said
    assert "not whole:" not in said and "**not decided**" not in said


def test_tables_are_in_the_order_of_the_page(rows, beside, usual):
    said = page(rows.sample(frac=1, random_state=0), beside.sample(frac=1, random_state=1))
    assert said == retrieval.markdown(usual)
    assert [line for line in said.splitlines() if line.startswith("#")] == [
        "# SmolLM2-135M, trained with retrieval documents",
        "## With these documents less text alone", "## Sentences by length",
        "## Sentences by length, text alone", "## Lines by length", "## Pairs by number of keys",
        "## Perplexity by length",
    ]  # fmt: skip


def test_the_page_says_what_was_not_run(rows, beside, tmp_path, capsys):
    """CREAM of seed 7 is there, PoSE of seed 8 lacks a length of each task, the base no pairs."""
    here = rows["run"].str.contains("cream-yarn-8-seed7|pose-yarn-8-seed8|scaled")
    part = without(rows[here], "pose-yarn-8-seed8", "needle", 2048, 4096)
    part = without(part, "pose-yarn-8-seed8", "longchat_lines", 65536)
    part = without(part, "scaled:yarn:8", "kv_retrieval")
    (tmp_path / "beside").mkdir()
    results.to_parquet(part, tmp_path / "retrieval.parquet")
    text = without(beside, "cream-yarn-8-seed9", "needle", 65436)
    results.to_parquet(text, tmp_path / "beside" / "seeds.parquet")
    (tmp_path / "own").mkdir()
    (tmp_path / "retrieval.parquet").rename(tmp_path / "own" / "retrieval.parquet")
    retrieval.main([str(tmp_path / "own"), "--beside", str(tmp_path / "beside")])
    assert capsys.readouterr().out.strip().endswith("RETRIEVAL.md")
    said = (tmp_path / "own" / "RETRIEVAL.md").read_text(encoding="utf-8")
    none = "not run | not run | not run | none |  | **not decided** |"
    assert f"| CREAM less PoSE | sentences | {none}" in said
    assert f"| PoSE less plain fine-tuning | lines | {none}" in said
    assert "| CREAM | beyond N | 40.0 | 30.0 | +10.0 | 7 | 1 of 1 |" in said
    assert "| PoSE | beyond N | not run | not run | not run | none |  |" in said
    assert f"| CREAM | 8 |  |{' not run |' * 6}" in said
    assert f"| untuned by YaRN |  |  |{' not run |' * 3}" in said
    sentences_part, rest = said.split("## Sentences by length, text alone")
    alone, lines_part = rest.split("## Lines by length")
    left_out = "In no comparison, because not whole: "
    assert f"{left_out}PoSE, seed 8 (lacks 2K, 4K).\n" in sentences_part
    assert f"{left_out}CREAM, seed 9 (lacks 64K).\n" in alone
    assert f"{left_out}PoSE, seed 8 (lacks 64K).\n" in lines_part
    assert said.count(left_out) == 3
    assert "| PoSE | 8 |" not in lines_part.split("## Pairs")[0]
    assert "| PoSE | 8 |" not in sentences_part.split("## Sentences by length")[1]


def test_a_folder_without_runs_is_said(rows, beside, tmp_path, capsys):
    folders = {}
    for name, part in (("own", rows), ("text", beside),
                       ("other", rows[rows["method"] == "plain"]),
                       ("none", rows[rows["token_length"] == 4096])):  # fmt: skip
        folders[name] = tmp_path / name
        folders[name].mkdir()
        results.to_parquet(part, folders[name] / "rows.parquet")
    for own, text, said in (
        ("none", "text", "holds no run of CREAM, PoSE or plain fine-tuning, seeds 7 to 9"),
        ("own", "other", "holds no CREAM or PoSE of seeds 7 to 9"),
    ):
        with pytest.raises(SystemExit):
            retrieval.main([str(folders[own]), "--beside", str(folders[text])])
        assert said in capsys.readouterr().err
        assert not (folders[own] / "RETRIEVAL.md").exists()


def test_made_runs_stand_beside_the_committed_rows():
    """Text alone of seeds 7 to 9 is read as it is, and every seed of it counts."""
    found = retrieval.values(results.read(BESIDE).iloc[:0], results.read(BESIDE))
    assert found.text_alone.groupby("variant")["seed"].apply(list).to_dict() == {
        each: [7, 8, 9] for each in ("cream", "pose")
    }
    assert set(found.text_alone.columns) >= set(LENGTHS.values()) and found.lines.empty


@pytest.mark.skipif(not (FOLDER / "RETRIEVAL.md").exists(), reason="the runs are not published")
def test_the_committed_page_is_what_its_rows_say():
    said = (FOLDER / "RETRIEVAL.md").read_text(encoding="utf-8")
    assert said == page(results.read(FOLDER), results.read(BESIDE))
