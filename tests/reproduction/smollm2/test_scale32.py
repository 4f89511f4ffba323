"""Scale 32 on SmolLM2-135M: what is found by length, what is missing, tied and free content."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from primary_rows import DEPTHS, run, runs
from retrieval_rows import texts, trained
from scipy import stats

from cream import results
from cream.reproduction.smollm2 import scale32
from cream.reproduction.smollm2.variants import VARIANTS, run_name
from cream.study.campaign_models import jobs

FOLDER = Path(__file__).resolve().parents[3] / "data" / "smollm2-scale32"
LENGTHS = {8192: "8K", 65536: "64K", 131072: "128K", 262044: "256K"}
PROMPTS = tuple(LENGTHS)
TEXTS = (8192, 65536, 131072, 262144)
FOUND = {  # depths of ten at which each length's sentences are found, by seed
    "cream": {10: (7, 4, 3, 2), 11: (8, 5, 2, 0)},
    "content free": {10: (7, 6, 4, 3), 11: (7, 6, 5, 2)},
    "pose": {10: (8, 5, 4, 3), 11: (6, 5, 4, 1)},
    "plain": {10: (9, 2, 0, 0), 11: (8, 3, 1, 0)},
}
NATS = {"cream": 2.0, "content free": 1.9, "pose": 1.95, "plain": 2.5}


def who(variant: str, seed: int, **about: object) -> dict[str, object]:
    name = f"runs/scale32/{run_name(variant, seed, 32)}"
    return {"run": name, "model_hash": name, "scale": 32, **about}


def sentences(variant: str, seed: int, depths: tuple[int, ...], **about: object) -> pd.DataFrame:
    """One sentence a length, depth and kind; those of the first `depths` of a length are found."""
    usual = {"lengths": PROMPTS, "samples": 1, **who(variant, seed, **about)}
    rows = run(VARIANTS[variant].method, seed, **usual)
    places = rows["depth_percent"].map({depth: place for place, depth in enumerate(DEPTHS)})
    limits = rows["token_length"].map(dict(zip(PROMPTS, depths, strict=True)))
    stretch = rows["token_length"].astype(str) + " tokens, stretch 0-" + places.astype(str)
    return rows.assign(score=(places < limits).astype(float), document=stretch)


def documents(variant: str, seed: int, **about: object) -> pd.DataFrame:
    """Eight documents, each length losing a tenth of a nat less; seed 11 loses 0.02 more."""
    each = {length: NATS[variant] - 0.1 * place + 0.02 * (seed - 10)
            for place, length in enumerate(TEXTS)}  # fmt: skip
    return texts(trained(variant, seed, **who(variant, seed, **about)), each, documents=8)


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    """All eight runs, whole."""
    return runs(*(part for variant, seeds in FOUND.items() for seed, depths in seeds.items()
                  for part in (sentences(variant, seed, depths),
                               documents(variant, seed))))  # fmt: skip


@pytest.fixture(scope="module")
def said(rows) -> str:
    return page(rows)


def page(rows: pd.DataFrame) -> str:
    return scale32.markdown(scale32.values(rows))


def cells(said: str, section: str, *starts: str) -> list[str]:
    """The other cells of the line of a section that starts so."""
    part = said.split(f"{section}\n")[1].split("\n## ")[0]
    (line,) = [one for one in part.splitlines() if one.startswith(f"| {' | '.join(starts)} |")]
    return line.strip("| ").split(" | ")[len(starts) :]


def without(rows: pd.DataFrame, name: str, task: str, *lengths: int) -> pd.DataFrame:
    gone = rows["run"].str.endswith(f"/{name}") & (rows["task"] == task)
    return rows[~(gone & rows["token_length"].isin(lengths or rows["token_length"].unique()))]


def wilson(share: float, n: int, effective: float | None = None) -> str:
    """A cell by Wilson's formula (1927), at a size in place of n."""
    z, size = stats.norm.ppf(0.975), effective or n
    middle = (share + z**2 / (2 * size)) / (1 + z**2 / size)
    half = z / (1 + z**2 / size) * math.sqrt(share * (1 - share) / size + z**2 / (4 * size**2))
    low, high = middle - half, middle + half
    return f"{100 * share:.0f} % ({round(100 * low)} to {round(100 * high)}; n = {n})"


def perplexity(variant: str, seed: int, place: int) -> float:
    """Tokens weigh alike: a document of 200 tokens and seven of 100; one of these loses 10 nats."""
    return math.exp(NATS[variant] - 0.1 * place + 0.02 * (seed - 10) + 10 / 900)


TITLE, WITHIN, CONTENT, BY_LENGTH = (
    "# SmolLM2-135M, scale 32", "## Beyond N and within",
    "## CREAM with free and with tied content", "## Perplexity by length",
)  # fmt: skip


def test_runs_are_called_as_the_campaign_calls_them():
    models = ["cream:yarn:32:10", "cream:yarn:32:10:sampler_options.content=free",
              "pose:yarn:32:10", "plain:yarn:32:10"]  # fmt: skip
    names = [run_name(each, 10, 32) for each in ("cream", "content free", "pose", "plain")]
    assert names == [jobs(model)[0].name for model in models]


@pytest.mark.parametrize("variant", FOUND)
def test_each_seed_has_what_it_found_at_each_length(said, variant):
    for seed, depths in FOUND[variant].items():
        assert cells(said, TITLE, VARIANTS[variant].label, str(seed)) == [
            "20", *(str(10 * each) for each in depths)
        ]


def test_a_mean_has_wilsons_interval_over_the_questions_of_both_seeds(said):
    """Both seeds answer 20 questions: at 64K plain finds four of them twice and two once."""
    at_64k, at_256k = (cells(said, TITLE, "plain fine-tuning", "mean of 10 and 11")[k]
                       for k in (2, 4))  # fmt: skip
    few = stats.norm.ppf(0.975) / stats.t.ppf(0.975, 19)
    assert at_256k == wilson(0.0, 40, 40 * few**2)
    sums = [1.5] * 4 + [0.5] * 2 + [-0.5] * 14
    effect = 20 / 19 * sum(x**2 for x in sums) / 40**2 * 40 / (0.25 * 0.75)
    assert effect > 1.5 and at_64k == wilson(0.25, 40, 40 / effect * few**2)


def test_the_page_says_how_many_tokens_lie_beyond_the_window(said):
    assert "at most 57,344 at 64K, 122,880 at 128K, 253,852 at 256K." in said
    assert "L = 262,144 = 32 N" in said


def test_beyond_n_stands_beside_8k(said):
    """CREAM: 30 and 70 % with seed 10, 7/30 and 80 % with seed 11; Student's by scipy."""
    each = np.array([30 - 70, 70 / 3 - 80])
    low, high = stats.t.interval(0.95, 1, each.mean(), stats.sem(each))
    assert cells(said, WITHIN, "CREAM") == [
        f"{(30 + 70 / 3) / 2:.1f}", "75.0", f"{each.mean():+.1f} [{low:+.1f}, {high:+.1f}]",
        "10, 11"]  # fmt: skip


def test_free_is_compared_with_tied_content_in_pairs(said):
    level, other, difference, seeds, more = cells(said, CONTENT, "sentences", "64K")
    assert (level, other, seeds, more) == ("60.0", "45.0", "10, 11", "2 of 2")
    low, high = stats.t.interval(0.95, 1, 15, stats.sem([20, 10]))
    assert difference == f"+15.0 [{low:+.1f}, {high:+.1f}]"
    assert cells(said, CONTENT, "sentences", "beyond N")[:2] == ["43.3", "26.7"]


def test_less_perplexity_of_free_content_is_negative(said):
    free, tied = (np.mean([perplexity(each, seed, 3) for seed in (10, 11)])
                  for each in ("content free", "cream"))  # fmt: skip
    found = cells(said, CONTENT, "perplexity", "256K")
    assert found[:2] == [f"{free:.2f}", f"{tied:.2f}"]
    assert found[2].startswith(f"{free - tied:+.2f} [") and found[4] == "0 of 2"


def test_perplexity_of_each_seed_and_their_mean(said):
    each = [[perplexity("pose", seed, place) for place in range(4)] for seed in (10, 11)]
    for seed, expected in zip((10, 11), each, strict=True):
        assert cells(said, BY_LENGTH, "PoSE", str(seed)) == ["8", *(f"{x:.2f}" for x in expected)]
    assert cells(said, BY_LENGTH, "PoSE", "mean of 10 and 11")[1:] == [
        f"{x:.2f}" for x in np.mean(each, axis=0)
    ]


def test_nothing_is_called_missing_where_all_is_there(said):
    assert "not whole" not in said and "| not run" not in said


@pytest.mark.parametrize("left", [0, 19])
def test_a_run_that_lacks_a_length_is_in_no_mean_and_is_named(rows, left):
    """At 256K CREAM of seed 11 has no answer, or all but one; its other lengths are shown."""
    part = without(rows, "cream-yarn-32-seed11", "needle", 262044)
    lost = rows[~rows.index.isin(part.index)]
    said = page(runs(part, lost.iloc[:left]))
    assert cells(said, TITLE, "CREAM", "11") == ["20", "80", "50", "20", "not run"]
    assert cells(said, TITLE, "CREAM", "mean of 10")[1] == wilson(0.7, 20)
    assert "In no mean and no difference, because not whole: CREAM, seed 11 (lacks 256K)." in said
    assert cells(said, WITHIN, "CREAM") == ["30.0", "70.0", "-40.0", "10"]
    assert cells(said, CONTENT, "sentences", "64K") == ["60.0", "40.0", "+20.0", "10", "1 of 1"]
    assert cells(said, CONTENT, "perplexity", "64K")[3] == "10, 11"
    assert cells(said, TITLE, "PoSE", "mean of 10 and 11")[2] == cells(
        page(rows), TITLE, "PoSE", "mean of 10 and 11")[2]  # fmt: skip


def test_a_missing_seed_and_missing_perplexity_are_named(rows):
    part = rows[~rows["run"].str.endswith("/pose-yarn-32-seed11")]
    part = without(part, "plain-yarn-32-seed10", "perplexity")
    part = without(part, "cream-yarn-32-seed10", "perplexity", 131072)
    above, below = page(part).split(BY_LENGTH)
    none = "PoSE, seed 11 (lacks 8K, 64K, 128K, 256K)"
    assert f"because not whole: {none}.\n" in above
    assert (f"because not whole: CREAM, seed 10 (lacks 128K); {none}; plain fine-tuning, seed 10 "
            "(lacks 8K, 64K, 128K, 256K).\n") in below  # fmt: skip
    assert "| PoSE | 11 |  | not run | not run | not run | not run |" in above
    assert "| plain fine-tuning | 10 |  | not run | not run | not run | not run |" in below
    assert "| plain fine-tuning | mean of 11 |" in below and "| CREAM | mean of 11 |" in below


def test_seven_of_eight_documents_are_not_whole(rows):
    part = without(rows, "pose-yarn-32-seed11", "perplexity", 262144)
    lost = rows[~rows.index.isin(part.index)]
    below = page(runs(part, lost.iloc[:7])).split(BY_LENGTH)[1]
    assert "because not whole: PoSE, seed 11 (lacks 256K).\n" in below
    assert "| PoSE | mean of 10 |" in below


def test_a_method_without_a_run_has_no_mean(rows):
    said = page(rows[~rows["run"].str.contains("content-free")])
    assert cells(said, TITLE, "CREAM, free content", "mean of none")[1:] == ["not run"] * 4
    assert cells(said, CONTENT, "sentences", "8K")[2:4] == ["not run", "none"]
    assert "nan" not in said


def test_other_runs_do_not_count(rows):
    other = runs(
        sentences("cream", 10, (9, 9, 9, 9), run="x/cream-yarn-8-seed10", scale=8, model_hash="8"),
        sentences("cream", 12, (9, 9, 9, 9)), sentences("sigma 1", 10, (9, 9, 9, 9)),
    )  # fmt: skip
    assert page(runs(rows, other)) == page(rows)


@pytest.mark.parametrize(
    "more, why",
    [(lambda: sentences("pose", 10, (1, 1, 1, 1), model_hash="again"), "two models of PoSE"),
     (lambda: documents("pose", 10, model_hash="again"), "two models of PoSE"),
     (lambda: sentences("cream", 11, (8, 5, 2, 0), tokens_trained=1000, model_hash="1"),
      "two models of CREAM")],
)  # fmt: skip
def test_two_models_of_a_run_are_refused(rows, more, why):
    with pytest.raises(ValueError, match=f"{why}, seed .* are in this folder"):
        scale32.values(runs(rows, more()))


def test_other_tokens_and_other_questions_are_refused(rows):
    pose = rows["method"] == "pose"
    with pytest.raises(ValueError, match="was trained on 1000 tokens"):
        scale32.values(rows.assign(tokens_trained=rows["tokens_trained"].mask(pose, 1000)))
    for task in ("needle", "perplexity"):
        other = rows["prompt_hash"].mask(pose & (rows["task"] == task), rows["prompt_hash"] + "?")
        with pytest.raises(ValueError, match="answered different questions"):
            scale32.values(rows.assign(prompt_hash=other))


# --------------------------------------------------------------------- the figure, the command


def test_the_figure_has_seeds_as_marks_and_whole_runs_in_the_means(rows):
    part = without(rows, "cream-yarn-32-seed11", "needle", 262044)
    figure = scale32.drawn(scale32.values(part))
    found, perplexities = figure.axes
    lines = {line.get_label(): line for line in found.lines if line.get_label()[0] != "_"}
    assert list(lines["CREAM"].get_ydata()) == [70, 40, 30, 20]
    assert list(lines["PoSE"].get_ydata()) == [70, 50, 40, 20]
    marks = [line for line in found.lines if line.get_label() == "_seeds"]
    assert sorted(len(line.get_ydata()) for line in marks) == [7, 8, 8, 8]
    texts_of = {line.get_label(): line for line in perplexities.lines}
    expected = [np.mean([perplexity("plain", seed, k) for seed in (10, 11)]) for k in range(4)]
    assert list(texts_of["plain fine-tuning"].get_ydata()) == pytest.approx(expected)


def test_a_task_that_nobody_answered_has_no_panel(rows):
    figure = scale32.drawn(scale32.values(rows[rows["task"] == "needle"]))
    assert [panel.get_ylabel() for panel in figure.axes] == ["sentences found (%)"]
    with pytest.raises(ValueError, match="no run to draw"):
        scale32.drawn(scale32.values(rows.iloc[:0]))


@pytest.mark.slow
def test_the_command_writes_the_page_and_the_figure(rows, tmp_path):
    results.to_parquet(rows, tmp_path / "scale32.parquet")
    scale32.main([str(tmp_path), "--figures", str(tmp_path / "figures")])
    assert (tmp_path / "SCALE32.md").read_text(encoding="utf-8") == page(rows)
    assert Image.open(tmp_path / "figures" / "smollm2_scale32.png").info["Rows"]
    assert (tmp_path / "figures" / "smollm2_scale32.pdf").is_file()


def test_a_folder_without_runs_is_said(rows, tmp_path, capsys):
    results.to_parquet(rows[rows["seed"] == 12], tmp_path / "scale32.parquet")
    with pytest.raises(SystemExit):
        scale32.main([str(tmp_path)])
    assert "holds no run at scale 32, seeds 10 and 11" in capsys.readouterr().err
    assert not (tmp_path / "SCALE32.md").exists()


@pytest.mark.skipif(not (FOLDER / "SCALE32.md").exists(), reason="the runs are not published")
def test_the_committed_page_is_what_its_rows_say():
    assert (FOLDER / "SCALE32.md").read_text(encoding="utf-8") == page(results.read(FOLDER))
