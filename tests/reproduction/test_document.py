"""The command that writes REPRODUCTION.md: it says what the rows say, and finds what does not."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from made_campaign import campaign

from cream import results
from cream.reproduction import document
from cream.reproduction.paper_claims import ENTRIES

ROOT = Path(__file__).resolve().parents[2]
PAPER = ROOT / "data" / "paper"
TITLES = ["", *(entry.title for entry in ENTRIES)]


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    """What the command makes of the committed rows."""
    return document.parts([ROOT / "data" / "results"], PAPER)


@pytest.mark.slow
def test_the_committed_file_says_what_the_rows_say(made):
    """Every part; if not, the lines that differ: python -m cream.reproduction --out ..."""
    text = (ROOT / "REPRODUCTION.md").read_text(encoding="utf-8")
    wrong = document.check(text, made)
    assert not wrong, "\n".join(wrong)
    assert "\n".join(table_of_verdicts(text)) == made["verdicts"]


def table_of_verdicts(text: str) -> list[str]:
    """The miniature's, after the file's twelve sentences."""
    return second_lines(text)[13:31]


def second_lines(text: str) -> list[str]:
    second = text.split("\n## ")[2]
    return [line for line in second.splitlines() if line and not line.startswith("<!--")]


def test_the_file_opens_with_the_real_models_verdicts_and_then_the_miniatures():
    """The table of PRIMARY.md, then twelve sentences and the table of verdicts; at most 40,000."""
    text = (ROOT / "REPRODUCTION.md").read_text(encoding="utf-8")
    assert len(text) <= 40_000
    title, first = text.split("\n## ")[:2]
    assert title.startswith("# ") and first.startswith("On a real model")
    page = (ROOT / "data" / "smollm2" / "PRIMARY.md").read_text(encoding="utf-8")
    table = page.partition("## Verdicts\n\n")[2].partition("\n\n")[0]
    assert table.startswith("| comparison |") and table in first
    lines = second_lines(text)
    assert [line.partition(". ")[0] for line in lines[1:13]] == [str(n) for n in range(1, 13)]
    assert all(line.endswith(".") and "..." not in line for line in lines[1:13])
    assert lines[13].startswith("| claim | text, linear |")
    words = set("|".join(table_of_verdicts(text)[2:]).split("|")) - {""}
    known = ("holds", "does not hold", "inconclusive", "both near 0", "all near 0")
    assert all(word.strip().startswith(known) for word in words if word.strip() not in TITLES)


@pytest.mark.slow
def test_a_changed_number_in_the_file_is_found(made):
    """One digit of one cell, and a row that is gone."""
    text = document.fill((ROOT / "REPRODUCTION.md").read_text(encoding="utf-8"), made)
    assert document.check(text, made) == []
    other = text.replace("+15.9 points", "+16.9 points")
    (was, now) = document.check(other, made)
    assert was.startswith("- | **CREAM leads") and "+16.9" in was and "+15.9" in now
    lines = [line for line in text.splitlines() if not line.startswith("| **RandPos is 0")]
    assert [line[:18] for line in document.check("\n".join(lines), made)] == ["+ | **RandPos is 0"]


@pytest.mark.slow
def test_the_command_fills_checks_and_says_what_is_wrong(tmp_path, capsys):
    """From a folder with a grid: numbers go in, are found there, and a changed one is shown."""
    table = pa.Table.from_pandas(campaign(("scale64",), samples=4), preserve_index=False)
    schema = {"cream": "cream-grid-1", **(table.schema.metadata or {})}
    parquet.write_table(table.replace_schema_metadata(schema), tmp_path / "grid.parquet")
    file = tmp_path / "R.md"
    file.write_text((ROOT / "REPRODUCTION.md").read_text(encoding="utf-8"), encoding="utf-8")
    given = [str(tmp_path)]
    assert document.main([*given, "--out", str(file)]) == 0
    text = file.read_text(encoding="utf-8")
    assert "of 24 models" in text and "## How to read the verdicts" in text
    assert document.main([*given, "--check", str(file)]) == 0
    file.write_text(text.replace("6\u00a0=\u00a02", "7\u00a0=\u00a02", 1), encoding="utf-8")
    capsys.readouterr()
    assert document.main([*given, "--check", str(file)]) == 1
    assert "7\u00a0=\u00a02" in capsys.readouterr().out
    file.write_text("no marks", encoding="utf-8")
    assert document.main([*given, "--out", str(file)]) == 1
    assert "<!-- rows: sentences -->" in capsys.readouterr().err
    assert file.read_text(encoding="utf-8") == "no marks" and len(list(tmp_path.iterdir())) == 2


def test_rows_of_a_grid_are_passed_over_in_a_folder_and_refused_by_name(tmp_path):
    """`results.read` reads rows of answers alone."""
    table = pa.table({"a": [1]}).replace_schema_metadata({"cream": "cream-grid-1"})
    parquet.write_table(table, tmp_path / "grid.parquet")
    assert results.read(tmp_path).empty
    with pytest.raises(ValueError, match="cream-grid-1"):
        results.read(tmp_path / "grid.parquet")
    parquet.write_table(table.replace_schema_metadata({"cream": "cream-rows-9"}),
                        tmp_path / "later.parquet")  # fmt: skip
    with pytest.raises(ValueError, match="cream-rows-9"):
        results.read(tmp_path)


def test_without_a_study_the_file_says_so(tmp_path):
    """Every part is there, and no number of it."""
    made = document.parts([tmp_path], PAPER)
    assert made["sentences"] == "1. The study was not run: there is no verdict."
    assert made["primary"] == "Not run." and made["dense"] == "Dense retrieval was not run."
    assert set(made["verdicts"].splitlines()[-1].split(" | ")[1:]) <= {"", "not run |"}
