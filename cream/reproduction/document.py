"""REPRODUCTION.md from the rows: each claim of the paper, what it says, what was measured.

    python -m cream.reproduction data/results --out REPRODUCTION.md   # fill the tables in again
    python -m cream.reproduction data/results --check REPRODUCTION.md # are they what the rows say?

The prose of that file is written by hand; what stands between `<!-- rows: NAME -->` and
`<!-- end: NAME -->` is written from rows by this module and replaced whole. No number is typed.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from cream import notebook, results
from cream.reproduction import figures, sentences
from cream.reproduction.paper_claims import Evidence
from cream.reproduction.tables import (
    GROUPS,
    comparisons,
    leakage,
    markdown,
    measured,
    queries,
    releases,
    second_look,
    slips,
    verdicts,
)
from cream.study import records, training_data
from cream.study.analysis import contrasts, endpoints, tables
from cream.utils.files import atomic_write

__all__ = ["check", "evidence_of", "fill", "main", "parts"]

# The commits that measured the rows of the first look (PREREGISTRATION, changes).
FIRST_LOOK = ("80e8537", "dd79957", "0652a18", "f19db07", "34f6964")


# ------------------------------------------------------------------------------------- the file


def evidence_of(*paths: Path) -> tuple[Evidence, str]:
    """Read what `paths` hold, the study's rows and rows of answers, and the words for them."""
    file = records.find_grid(*paths)
    rows = results.read(*paths)
    if file is None:
        columns = ["claim", "n", "plan", "family", "bound", "bases", "condition", "scaling"]
        empty = pd.DataFrame(columns=columns)
        counts = training_data.read(paths[0] / "grid.parquet")
        source = "The study was not run: there is no grid.parquet."
        return Evidence(pd.DataFrame(), empty, rows, counts), source
    frame, runs = tables.load(file)
    drawn = figures.grid_source(file, frame)
    source = (f"From {file.name} (SHA-256 {drawn['rows']}...; {len(frame):,} answers of "
            f"{len(runs):,} models; commit {drawn['commit']}).")  # fmt: skip
    counts = training_data.read(file)
    found = contrasts.contrasts(runs, flagged=training_data.flagged(counts))
    then = frame["commit"].astype(str).str[:7].isin(FIRST_LOOK)
    first = endpoints.units(frame[then]) if then.any() else pd.DataFrame()
    return Evidence(runs, found, rows, counts, first), source


def parts(paths: Sequence[Path], paper: Path) -> dict[str, str]:
    """Return every part of the file that is made from rows, by name.

    Of the tables of comparisons the first alone: 10_ablations shows them all.
    """
    evidence, source = evidence_of(*paths)
    opening = sentences.opening(evidence)
    primary = comparisons(evidence.contrasts, paper).get(GROUPS[0][0], pd.DataFrame())
    return {
        "sentences": "\n".join(f"{n}. {text}" for n, text in enumerate(opening, 1)),
        "verdicts": markdown(verdicts(evidence)),
        "source": source,
        "measured": markdown(measured(evidence, paper)),
        "dense": sentences.dense_retrieval(evidence),
        "needle": sentences.needle(evidence),
        "primary": _table(primary, "Not run."),
        "bases": sentences.bases_and_seeds(evidence),
        "first look": sentences.first_look(evidence) or "No run was added after a first look.",
        "second look": _table(second_look(evidence), "No verdict changed."),
        "queries": _table(queries(evidence.query_counts), "Not counted."),
        "leakage": _table(leakage(evidence.query_counts), "Not counted."),
        "slips": slips(paper),
        "releases": markdown(releases()),
    }


def _table(table: pd.DataFrame, otherwise: str) -> str:
    return markdown(table) if len(table) else otherwise


def fill(text: str, made: dict[str, str]) -> str:
    """Return the text with each marked part replaced; ValueError for a mark that is not there."""
    for name, part in made.items():
        pattern = re.compile(rf"(<!-- rows: {name} -->\n).*?(\n?<!-- end: {name} -->)", re.S)
        if len(pattern.findall(text)) != 1:
            raise ValueError(
                f"the file must have one <!-- rows: {name} --> and <!-- end: {name} -->; put them "
                "where that part belongs"
            )
        before, after = pattern.search(text).span()
        marked = f"<!-- rows: {name} -->\n{part}\n<!-- end: {name} -->"
        text = text[:before] + marked + text[after:]
    return text


def check(text: str, made: dict[str, str]) -> list[str]:
    """Return the lines that the rows would write and the text does not have, with those it has."""
    filled = fill(text, made).splitlines()
    there, wanted = set(text.splitlines()), set(filled)
    return [*(f"- {line}" for line in text.splitlines() if line not in wanted),
            *(f"+ {line}" for line in filled if line not in there)]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Fill the tables of REPRODUCTION.md from rows, or compare them with what rows say."""
    parser = argparse.ArgumentParser(prog="python -m cream.reproduction", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("rows", nargs="*", default=["data/results"], help="files or folders")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--out", metavar="FILE", help="fill its marked parts; default: print them")
    what.add_argument("--check", metavar="FILE", help="exit 1 where it differs, with the lines")
    given = parser.parse_args(arguments)
    root = notebook.find_root()
    try:
        made = parts([root / path for path in given.rows], root / "data" / "paper")
        if given.check:
            wrong = check((root / given.check).read_text(encoding="utf-8"), made)
            print("\n".join(wrong) or f"{given.check} says what the rows say.")
            return int(bool(wrong))
        if given.out:
            path = root / given.out
            atomic_write(path, fill(path.read_text(encoding="utf-8"), made))
            print(f"{given.out}: {len(made)} parts written from rows")
        else:
            print("\n\n".join(made.values()))
    except (OSError, ValueError) as error:
        print(f"cream.reproduction: {error}", file=sys.stderr)
        return 1
    return 0
