"""The secondary comparisons in one figure: the pages' numbers and verdicts, what was not run."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from primary_rows import runs
from variant_rows import asked

from cream import results
from cream.plots.smollm2_secondary import DECIDED, DESCRIPTIVE, INCONCLUSIVE, LACKING
from cream.reproduction.smollm2 import secondary

ROOT = Path(__file__).resolve().parents[3]
DATA = ROOT / "data"
PAGES = {name: DATA / f"smollm2-{name}" / f"{name.upper()}.md"
         for name in ("retrieval", "seeds", "parts", "margin")}  # fmt: skip
LESS, TIMES = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"
BOTH, DOCUMENTS = "Both with retrieval documents", f"With retrieval documents {LESS} text alone"
UNIFORM, PART = f"Uniform middle {LESS} Gaussian", f"CREAM {LESS} a part of it"
SHARPER = f"Attention {TIMES}1.2 when asked {LESS} as it is"
WIDER = f"Tuned for 1.25 L {LESS} for L"
PLAIN, MIDDLE = "plain fine-tuning", "CREAM, uniform middle"
ON_A_PAGE = {  # a line of the figure: its page, and how the page's line begins
    (BOTH, f"CREAM {LESS} PoSE, beyond N"): ("retrieval", "CREAM less PoSE | sentences |"),
    (BOTH, f"CREAM {LESS} PoSE, lines beyond N"): ("retrieval", "CREAM less PoSE | lines |"),
    (BOTH, f"PoSE {LESS} {PLAIN}, beyond N"): ("retrieval", f"PoSE less {PLAIN} | sentences |"),
    (BOTH, f"PoSE {LESS} {PLAIN}, lines beyond N"): ("retrieval", f"PoSE less {PLAIN} | lines |"),
    **{(DOCUMENTS, f"{name}, {end}"): ("retrieval", f"{name} | {end} |")
       for name in ("CREAM", "PoSE") for end in ("beyond N", "within N")},
    (UNIFORM, "CREAM, beyond N"): ("seeds", ""),
    **{(PART, f"{name}, beyond N"): ("parts", f"CREAM, {name} |")
       for name in ("continuity only", "relativity only", "sigma 1")},
    **{(SHARPER, f"{name}, {end}"): ("seeds", f"{name} | {found} |")
       for name in ("CREAM", MIDDLE, "PoSE")
       for end, found in (("at 64K", "found at 64K"), ("within N", "within N"))},
    **{(WIDER, f"{name}, {end}"): ("margin", f"{name} | {found} |") for name in ("CREAM", "PoSE")
       for end, found in (("at 64K", "found at 64K"), ("within N", "within N"))},
}  # fmt: skip


@pytest.fixture(scope="module")
def rows() -> dict[str, pd.DataFrame]:
    return secondary.read(DATA)


@pytest.fixture(scope="module")
def found(rows) -> pd.DataFrame:
    return secondary.comparisons(rows)


def on_its_page(line: tuple[str, str]) -> list[str]:
    """The cells of the first line of a page that begins so and has a verdict, where there is one.

    The uniform middle's begins with a level.
    """
    name, begins = ON_A_PAGE[line]
    lines = PAGES[name].read_text(encoding="utf-8").splitlines()
    starts = re.compile(rf"\| {re.escape(begins) or '[0-9]'}")
    same = [one for one in lines if starts.match(one) and ("**" in one or line[0] == DOCUMENTS)]
    return [cell.strip() for cell in same[0].strip("|").split("|")]


def drawn_texts(found: pd.DataFrame) -> list[str]:
    return [text.get_text() for text in secondary.drawn(found).axes[0].texts]


def test_the_lines_are_those_of_the_pages_in_groups(found):
    assert list(zip(found["group"], found["what"], strict=True)) == list(ON_A_PAGE)


@pytest.mark.parametrize("line", ON_A_PAGE, ids=", ".join)
def test_a_line_has_the_numbers_the_seeds_and_the_verdict_of_its_page(found, line):
    cells = on_its_page(line)
    (mine,) = [text for text in secondary.markdown(found).splitlines()
               if text.startswith(f"| {line[0]} | {line[1]} |")]  # fmt: skip
    points, seeds, verdict = [cell.strip() for cell in mine.strip("|").split("|")][2:]
    assert points in cells and "[" in points
    assert seeds in cells or line[0] == UNIFORM  # which its page has in another table
    given = [cell.replace("*", "") for cell in cells if "**" in cell]
    assert [verdict.replace("*", "")] == (given or [""])


def test_the_figure_prints_the_numbers_that_it_draws(found):
    said = drawn_texts(found)
    for one in found[found["near"] == ""].itertuples():
        text = f"{one.value:+.1f} [{one.low:+.1f}, {one.high:+.1f}]".replace("-", LESS)
        assert text in said
    assert said.count("inconclusive") == 8 and said.count("not decided") == 6
    assert said.count("leads") == said.count("the distances are not why") == 1


def test_marks_say_what_an_interval_decides(found):
    kinds = found.set_index(["group", "what"])["kind"]
    assert kinds[kinds == DECIDED].index.tolist() == [(BOTH, f"PoSE {LESS} {PLAIN}, beyond N")]
    assert set(kinds[DOCUMENTS]) == {DESCRIPTIVE} and set(kinds[SHARPER]) == {LACKING}
    assert set(kinds[PART]) == set(kinds[WIDER]) == set(kinds[UNIFORM]) == {INCONCLUSIVE}


def test_what_stands_at_an_end_of_the_scale_is_named_and_not_drawn(found):
    figure = secondary.drawn(found)
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(names) == 20 and not any("lines" in name for name in names)
    assert (
        f"Not drawn, because both near 0: CREAM {LESS} PoSE, lines beyond N; PoSE {LESS} {PLAIN}, "
        "lines beyond N." in " ".join(figure.get_supxlabel().split())
    )


def test_the_committed_figure_is_of_the_committed_rows(rows):
    drawn = results.drawn_from(secondary.counted(rows))
    assert Image.open(ROOT / "figures" / "smollm2_secondary.png").text["Rows"] == drawn["rows"]


# --------------------------------------------------------------------- made up


SHARES = {7: 0.40, 8: 0.50, 9: 0.45}


def every(variant: str, more: float, seeds: tuple = (7, 8, 9), **how: float) -> pd.DataFrame:
    return runs(*(asked(variant, seed, SHARES[seed] + more * (1 + seed / 100), **how)
                  for seed in seeds))  # fmt: skip


def published(rows: pd.DataFrame, folder: Path) -> None:
    folder.mkdir(parents=True)
    results.to_parquet(rows, folder / "rows.parquet")


def test_a_uniform_middle_is_decided_where_its_interval_leaves_0_out(tmp_path):
    published(runs(every("cream", 0), every("pose", 0.1), every("uniform", 0.08)),
              tmp_path / "smollm2-seeds")  # fmt: skip
    found = secondary.comparisons(secondary.read(tmp_path)).set_index("group")
    assert (found.loc[UNIFORM, "verdict"], found.loc[UNIFORM, "kind"]) == ("as predicted", DECIDED)


def test_a_cost_within_n_has_the_pages_words(tmp_path):
    published(runs(*(asked("cream", seed, SHARES[seed], sharper=SHARES[seed] - 0.2 - seed / 1000)
                     for seed in SHARES)), tmp_path / "smollm2-seeds")  # fmt: skip
    found = secondary.comparisons(secondary.read(tmp_path))
    said = secondary.markdown(found)
    numbers = "-20.8 [-21.0, -20.6] | 7, 8, 9"
    assert f"| {SHARPER} | CREAM, at 64K | {numbers} | **does not hold** |" in said
    assert f"| {SHARPER} | CREAM, within N | {numbers} | **not kept** |" in said
    assert list(found["kind"]).count(DECIDED) == 2


def test_a_folder_that_is_not_there_is_not_run(tmp_path, found):
    """Seeds alone: the other three pages' lines are there and say so."""
    (tmp_path / "smollm2-seeds").symlink_to(DATA / "smollm2-seeds", target_is_directory=True)
    few = secondary.comparisons(secondary.read(tmp_path))
    assert list(few["what"]) == list(found["what"])
    run = few["value"].notna()
    assert set(few.loc[run, "group"]) == {UNIFORM, SHARPER}
    assert f"| {PART} | sigma 1, beyond N | not run | none | **not decided** |" \
        in secondary.markdown(few)  # fmt: skip
    assert drawn_texts(few).count("not run") == (~run).sum()
    assert len(secondary.pictures(few)) == 1


def test_retrieval_documents_without_text_alone_are_compared_with_each_other(tmp_path):
    (tmp_path / "smollm2-retrieval").symlink_to(DATA / "smollm2-retrieval",
                                                target_is_directory=True)  # fmt: skip
    few = secondary.comparisons(secondary.read(tmp_path))
    assert set(few.loc[few["value"].notna(), "group"]) == {BOTH}


def test_without_any_run_there_is_no_figure(tmp_path, capsys):
    for folder in (None, tmp_path):
        nothing = secondary.comparisons(secondary.read(folder))
        assert nothing["value"].isna().all() and secondary.pictures(nothing) == {}
    with pytest.raises(SystemExit):
        secondary.main([str(tmp_path), "--figures", str(tmp_path / "figures")])
    said = capsys.readouterr().err
    assert "holds no run of smollm2-retrieval, smollm2-seeds, smollm2-parts, smollm2-margin" in said
    assert not (tmp_path / "figures").exists()


def test_a_misspelt_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder .*dta; give the one"):
        secondary.read(tmp_path / "dta")


@pytest.mark.slow
def test_the_command_writes_both_files_and_equal_rows_give_equal_bytes(
    rows, found, monkeypatch, tmp_path
):
    """Once from the committed files, and once from the rows that other tests have read of them."""
    secondary.main([str(DATA), "--figures", str(tmp_path / "first")])
    monkeypatch.setattr(secondary, "read", lambda folder: rows)
    monkeypatch.setattr(secondary, "comparisons", lambda given: found)
    secondary.main([str(DATA), "--figures", str(tmp_path / "second")])
    first, second = ((tmp_path / name / "smollm2_secondary.png").read_bytes()
                     for name in ("first", "second"))  # fmt: skip
    assert first == second and (tmp_path / "first" / "smollm2_secondary.pdf").stat().st_size > 0
