"""The search of steps and rate: what its page says, its figure, its command."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from PIL import Image
from primary_rows import runs
from search_rows import DOCUMENTS, RATES, Searched, every, publish, table

from cream import presets, results
from cream.reproduction.smollm2 import search
from cream.reproduction.smollm2.search import drawn, markdown, reason
from cream.reproduction.smollm2.search_recipes import RECIPES, chosen
from cream.study.design import Recipe

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "data" / "smollm2-search"
NAN, SPLIT = math.nan, "How the split is known."
TEXT = {(150, 1e-4): (30.0, 36.0), (150, 2e-4): (50.0, 53.0), (150, 4e-4): (47.0, 49.0),
        (300, 2e-4): (52.0, 54.0), (300, 4e-4): (70.0, NAN)}  # fmt: skip
WITH = {(150, 1e-4): 40.0, (150, 2e-4): 45.0, (150, 4e-4): 54.0}


@pytest.fixture(scope="module")
def said() -> str:
    """300 steps at 2e-4 find most, 150 at 2e-4 are within 2 points, one recipe is not whole."""
    return markdown(table(TEXT, WITH), SPLIT)


def test_each_recipe_has_a_line_and_a_reason(said):
    lines = [
        "| 150 | 1e-4 | 30.0 | 36.0 | 33.0 | 19.7 M | 20.0 points below |",
        "| 150 | 2e-4 | 50.0 | 53.0 | 51.5 | 19.7 M | **chosen**: within 2 points of the highest, "
        "of fewer steps |",
        "| 150 | 4e-4 | 47.0 | 49.0 | 48.0 | 19.7 M | 5.0 points below |",
        "| 300 | 1e-4 | not run | not run | not run | not run | not run |",
        "| 300 | 2e-4 | 52.0 | 54.0 | 53.0 | 39.3 M | highest |",
        "| 300 | 4e-4 | 70.0 | lacks 64K | not whole | 39.3 M | not whole |",
    ]  # fmt: skip
    assert "\n".join(lines) in said
    assert "**150 steps at 2e-4 is chosen.** The preset's recipe stays." in said
    assert "not whole or not run: 300 steps at 1e-4; 300 steps at 4e-4." in said


@pytest.mark.parametrize(
    "levels, expected",
    [({(150, 2e-4): 50.0, (150, 1e-4): 49.0},
      {(150, 1e-4): "**chosen**: within 2 points of the highest, of a lower rate"}),
     ({(150, 2e-4): 50.0, (300, 2e-4): 49.0},
      {(150, 2e-4): "**chosen**: highest", (300, 2e-4): "within 2 points of the highest"}),
     ({(150, 2e-4): 50.0, (300, 2e-4): 50.0},
      {(150, 2e-4): "**chosen**: highest", (300, 2e-4): "within 2 points of the highest"})],
)  # fmt: skip
def test_the_reason_is_that_of_the_rule(levels, expected):
    found = table({key: (value, value) for key, value in levels.items()})
    assert {key: reason(found, Recipe(*key)) for key in expected} == expected


def test_one_recipe_is_chosen_on_the_page(said):
    assert said.count("**chosen**") == 1


@pytest.mark.parametrize(
    ("steps", "expected"),
    [(300, "The preset takes it in place of 150 steps at 2e-4."),
     (150, "**The preset has 150 steps at 2e-4, which departs from the rule**; README.md here "
           "says why.")],
)  # fmt: skip
def test_the_page_says_whether_the_preset_has_what_was_chosen(monkeypatch, steps, expected):
    preset = presets.get("smollm2-135m", steps=steps, learning_rate=2e-4)
    monkeypatch.setattr(presets, "get", lambda name: preset)
    found = table({(150, 2e-4): (40.0, 44.0), (300, 2e-4): (50.0, 56.0)})
    assert f"**300 steps at 2e-4 is chosen.** {expected}" in markdown(found, SPLIT)


def test_the_spread_of_seeds_says_what_is_told():
    found = table({(150, 2e-4): (40.0, 44.0), (300, 2e-4): (50.0, 56.0)})
    said = markdown(found, SPLIT)
    # sqrt((8 + 18) / 2) is 3.6, and Student's t of 2 degrees of freedom 4.303
    assert "one seed is 3.6 points, pooled over 2 recipes with both. So the means of two recipes " \
        "are told apart from 15.5 points on (95 %" in said  # fmt: skip
    assert "less the preset's is +11.0 points: the search does not tell the two apart." in said


def test_a_difference_beyond_the_spread_is_told():
    found = table({(150, 2e-4): (40.0, 41.0), (300, 2e-4): (50.0, 51.0)})
    assert "less the preset's is +10.0 points: the search tells the two apart." in \
        markdown(found, SPLIT)  # fmt: skip


def test_the_presets_recipe_is_not_compared_with_itself(said):
    assert "less the preset's" not in said
    assert "less the preset's" not in markdown(table({(150, 1e-4): (40.0, 41.0)}), SPLIT)


def test_with_documents_each_recipe_stands_beside_the_choice(said):
    lines = [
        "| 150 | 1e-4 | 40.0 | -5.0 |  |", "| 150 | 2e-4 | 45.0 |  | chosen on text |",
        "| 150 | 4e-4 | 54.0 | +9.0 |  |", "| 300 | 2e-4 | not run |  |  |",
    ]  # fmt: skip
    assert "\n".join(lines) in said
    assert "**150 steps at 2e-4 stays**: no other that was run whole finds 10 points more." in said


@pytest.mark.parametrize(
    "text, documents, expected",
    [(TEXT, {**WITH, (150, 4e-4): 55.0}, "**150 steps at 4e-4 is taken**: it finds 10.0 points "
      "more than 150 steps at 2e-4."),
     (TEXT, {(150, 4e-4): 55.0}, "**Not decided**: 150 steps at 2e-4, which text chose, was not "
      "run whole with them."),
     ({}, WITH, "**Not decided**: text chose no recipe.")],
)  # fmt: skip
def test_with_documents_another_is_taken_or_nothing_is_decided(text, documents, expected):
    assert expected in markdown(table(text, documents), SPLIT)


def test_a_recipe_that_only_documents_were_run_with_has_a_line():
    said = markdown(table({(300, 4e-4): (60.0, 60.0)}, {(300, 4e-4): 50.0}), SPLIT)
    assert "| 300 | 4e-4 | 50.0 |  | chosen on text |" in said


def test_every_run_stands_with_its_lengths_and_its_loss(said):
    assert "| text | 150 | 2e-4 | 101 | 60 | 40 | 40 | 53 | 1.500 |" in said
    assert "| text | 300 | 4e-4 | 101 | 60 | 40 | 40 | not run | 1.500 |" in said
    assert "| text | 300 | 1e-4 | 100 |  | not run | not run | not run | not run |" in said
    assert "| retrieval documents | 150 | 4e-4 | 100 | 60 | 40 | 40 | 54 | 1.500 |" in said
    assert "| retrieval documents | 300 | 2e-4 | 100 |  | not run |" in said
    assert said.count("| text |") == 12 and said.count("| retrieval documents |") == 4


def test_a_run_beside_the_plan_is_shown():
    """A second seed with retrieval documents decides nothing."""
    found = table({}, {(150, 2e-4): 50.0})
    found = runs(found, found.assign(seed=101))
    assert "| retrieval documents | 150 | 2e-4 | 101 | 60 |" in markdown(found, SPLIT)


def test_an_empty_search_decides_nothing():
    said = markdown(table({}), SPLIT)
    assert "**No recipe is chosen**, because none is whole." in said
    assert "No recipe has both seeds whole, so how far seeds lie apart is not known." in said
    assert said.count("not run") > 50 and "nan" not in said


def test_the_rule_and_the_split_stand_before_the_table(said):
    above = said[: said.index("| steps |")]
    assert "Of recipes within 2 points of it the one of fewest steps is chosen" in above
    assert SPLIT in above
    assert "stays unless another finds 10 points more with seed 100." in above


# --------------------------------------------------------------------- the figure, the command


def test_the_figure_has_whole_runs_on_text_alone():
    panel = drawn(table(TEXT, WITH)).axes[0]
    lines = {line.get_label(): line for line in panel.lines if line.get_label()[0] != "_"}
    assert list(lines["150 steps"].get_ydata()) == [33, 51.5, 48]
    assert list(lines["300 steps"].get_ydata()) == [53]
    assert list(lines["chosen"].get_ydata()) == [51.5]
    assert drawn(table({}, WITH)) is None


def asked(folder: Path, *given: str) -> Path:
    """The command's page; what it draws lies in figures in the folder."""
    known = folder / "known"
    known.mkdir(exist_ok=True)
    one = Searched(150, 2e-4).rows
    results.to_parquet(one.assign(prompt_hash=one["prompt_hash"] + "?"), known / "test.parquet")
    results.to_parquet(one[one["sample"] == 0], known / "validation.parquet")
    usual = ["--test", str(known / "test.parquet"), "--figures", str(folder / "figures"),
             "--validation", str(known / "validation.parquet")]  # fmt: skip
    search.main([str(folder / "rows"), *usual, *given])
    return folder / "rows" / "SEARCH.md"


@pytest.mark.slow
def test_the_command_writes_the_page_and_the_figure(tmp_path):
    levels = {(steps, rate): 0.4 + steps / 3000 for steps in (150, 300) for rate in RATES}
    made = [*every(levels), Searched(150, 1e-4, 100, 0.7, DOCUMENTS)]
    (tmp_path / "rows").mkdir()
    path = asked(publish(tmp_path / "rows", *made).parent)
    said = path.read_text(encoding="utf-8")
    assert "| 300 | 1e-4 | 47.5 | 52.5 | 50.0 | 39.3 M | **chosen**: highest |" in said
    assert "None of the 180 prompts is one that known/test.parquet asked of test text." in said
    assert "60 of them are prompts that known/validation.parquet asked of validation" in said
    assert "**Not decided**: 300 steps at 1e-4, which text chose, was not run whole" in said
    assert Image.open(tmp_path / "figures" / "smollm2_search.png").info["Rows"]
    assert (tmp_path / "figures" / "smollm2_search.pdf").is_file()


@pytest.mark.slow
def test_the_command_refuses_test_questions_and_writes_nothing(tmp_path):
    (tmp_path / "rows").mkdir()
    publish(tmp_path / "rows", Searched(150, 2e-4))
    with pytest.raises(ValueError, match="answered test questions"):
        asked(tmp_path, "--test", str(tmp_path / "rows" / "search.parquet"))
    assert not (tmp_path / "rows" / "SEARCH.md").exists()


def test_a_folder_without_runs_is_said(tmp_path, capsys):
    results.to_parquet(Searched(150, 2e-4).rows.assign(method="cream"), tmp_path / "search.parquet")
    with pytest.raises(SystemExit):
        search.main([str(tmp_path)])
    assert "holds no sentence beyond N of PoSE by YaRN with seeds 100 and 101" in \
        capsys.readouterr().err  # fmt: skip


@pytest.mark.skipif(not (FOLDER / "SEARCH.md").exists(), reason="the runs are not published")
def test_the_committed_page_is_what_its_rows_say(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    rows = search.read("data/smollm2-search")
    found = search.values(rows)
    page = (FOLDER / "SEARCH.md").read_text(encoding="utf-8")
    split = search.split_of(rows, *search.KNOWN)
    assert page == markdown(found, split)
    assert chosen(found) is None or chosen(found) in RECIPES
