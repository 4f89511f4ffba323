"""What README and REPRODUCTION.md say of all methods is what the tables of methods hold."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINES = {  # a column of REPRODUCTION.md, and the beginning of its line in a table
    "plain": "plain fine-tuning | yarn", "EndPrompt": "EndPrompt | yarn", "PoSE": "PoSE | yarn",
    "CREAM": "CREAM | yarn", "CLEX": "CLEX | clex", "CLEX, W_down = 0": "RandPos on frozen NTK |",
    "untuned by YaRN": "scaled, untuned | yarn",
}  # fmt: skip
APART = {"CLEX": "CLEX, matrices clipped apart at 1.0 |"}  # SmolLM2's row of CLEX


def line(folder: str, begins: str) -> str:
    """Return the one line of a folder's table that begins so."""
    lines = (ROOT / "data" / folder / "TABLE.md").read_text().splitlines()
    (found,) = [each for each in lines if each.startswith(f"| {begins}")]
    return found


def cells() -> list[tuple[str, str, str]]:
    """Return (folder, column, cell) of REPRODUCTION.md's table."""
    text = (ROOT / "REPRODUCTION.md").read_text()
    part = text.partition("## All methods, two models")[2].partition("\n## ")[0]
    rows = [each.strip("|").split("|") for each in part.splitlines() if each.startswith("| ")]
    head, *rest = [[cell.strip() for cell in each] for each in rows]
    folders = ["smollm2" if "SmolLM2" in each[0] else "methods" for each in rest]
    return [(folder, *pair) for folder, row in zip(folders, rest, strict=True)
            for pair in zip(head[1:], row[1:], strict=True)]  # fmt: skip


def as_in_tables(cell: str) -> str:
    value, low, high = re.fullmatch(r"(\d+)(?: %)? \[(\d+), (\d+)\]", cell).groups()
    return f"| {value} % ({low} to {high};"


@pytest.mark.parametrize("folder,column,cell", cells())
def test_reproduction_says_what_the_tables_hold(folder, column, cell):
    begins = {**LINES, **(APART if folder == "smollm2" else {})}[column]
    assert as_in_tables(cell) in line(folder, begins)


@pytest.mark.parametrize("method", ["PoSE finds", "CREAM", "plain fine-tuning"])
def test_reproduction_says_of_ntk_what_smollm2s_table_holds(method):
    text = (ROOT / "REPRODUCTION.md").read_text().partition("By NTK in place of YaRN")[2]
    (found,) = re.findall(rf"{method} (\d+ \[\d+, \d+\])", text.partition("\n\n")[0])
    assert as_in_tables(found) in line("smollm2", f"{method.removesuffix(' finds')} | ntk")


@pytest.mark.parametrize("method", ["PoSE", "CREAM", "EndPrompt", "plain"])
def test_the_readme_says_what_smollm2s_table_holds(method):
    text = " ".join((ROOT / "README.md").read_text().split())
    said = re.search(rf"{method} (\d+(?: %)? \[\d+, \d+\])", text.partition("mean over 16K")[2])
    assert as_in_tables(said[1]) in line("smollm2", LINES[method])


def test_the_readme_says_by_how_much_plain_leads_on_the_miniature():
    text = " ".join((ROOT / "README.md").read_text().split())
    value, low, high = re.search(r"plain leads CREAM by (\d+) \[(\d+), (\d+)\]", text).groups()
    assert f"| -{value} (-{high} to -{low};" in line("methods", LINES["CREAM"])


@pytest.mark.parametrize(("begins", "endpoint", "said"), [
    ("CREAM less PoSE", "sentences", r"trails PoSE by (\S+) points \[(.*?), (.*?)\] .*?p (\S+)\)"),
    ("CREAM less PoSE", "middle third", r"of the text by (\S+) \[(.*?), (.*?)\] \((\S+)\)"),
    ("PoSE less plain", "sentences", r"PoSE leads plain by (\S+) \[(.*?), (.*?)\] \((\S+):"),
])  # fmt: skip
def test_the_readme_says_what_the_primary_comparisons_are(begins, endpoint, said):
    """The difference without its sign, the interval's ends by size, and Holm's p."""
    lines = (ROOT / "data/smollm2/PRIMARY.md").read_text(encoding="utf-8").splitlines()
    row = next(x for x in lines if x.startswith(f"| {begins}") and f"| {endpoint} |" in x)
    _, _, _, difference, interval, _, _, holm, _ = (x.strip() for x in row.strip("|").split("|"))
    ends = sorted(abs(float(x)) for x in interval.strip("[]").split(","))
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    found = [float(x) for x in re.search(said, text).groups()]
    assert found == [abs(float(difference)), *ends, float(holm)]


@pytest.mark.parametrize("other", ["EndPrompt", "CLEX"])
def test_the_readme_says_how_far_cream_is_from_endprompt_and_clex(other):
    lines = (ROOT / "data/smollm2/PRIMARY.md").read_text(encoding="utf-8").splitlines()
    row = next(x for x in lines if x.startswith(f"| CREAM less {other} | sentences | "))
    difference, interval = (row.split("|")[place].strip() for place in (4, 5))
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    found = re.search(rf"less {other}: (\S+) \[(\S+), (\S+)\]", text).groups()
    wanted = [difference, *interval.strip("[]").split(",")]
    assert [float(x) for x in found] == [float(x) for x in wanted]
