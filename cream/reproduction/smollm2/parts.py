"""SmolLM2-135M, seeds 7 to 9: CREAM beside its parts, from rows alone.

    python -m cream.reproduction.smollm2.parts data/smollm2-parts --beside data/smollm2-seeds

reads the parts in the folder (continuity only, relativity only, sigma 1) and CREAM, CREAM with a
uniform middle and PoSE in the other (`--beside`), and writes PARTS.md in the folder. The rules were
written before the runs (data/results/PREREGISTRATION.md). What belongs here: which runs are
compared, and which numbers stand on the page. Nothing is typed: what was not run is "not run".
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from cream import results
from cream.reproduction.method_cells import lines_of, page
from cream.reproduction.paired import compared, lead, leads_in, level, points, seeds_of
from cream.reproduction.smollm2 import variants
from cream.reproduction.smollm2.margin import LENGTHS, WITHIN
from cream.reproduction.smollm2.variants import (
    MEASURED,
    SEEDS,
    VARIANTS,
    by_seed,
    cells,
    in_order,
    said_left_out,
)
from cream.utils.files import atomic_write

__all__ = ["comparisons", "main", "markdown", "not_whole", "values"]

PARTS = ("continuity", "relativity", "sigma 1")  # each has a verdict, in the order of the runs
REFERENCE = ("uniform", "pose")  # decided elsewhere, so without one here
NAMES = ("cream", *PARTS, *REFERENCE)
DECIDED = "beyond N"  # the end that a verdict is of
SHOWN = ("within N", "at 64K")
SAID = [
    "Written by `python -m cream.reproduction.smollm2.parts data/smollm2-parts --beside "
    "data/smollm2-seeds` from the rows in both folders; README.md here has the command of the "
    "runs.",
    "CREAM draws continuity or relativity for each example, by a coin. Its middle is drawn by a "
    "Gaussian of sigma 3. A part has one of the two modes alone (`sampler_options.mode`), or sigma "
    "1 in place of 3. Every run was trained on equally many tokens. Every run answered the same "
    "sentences.",
    MEASURED,
    "Fixed before the runs (data/results/PREREGISTRATION.md): CREAM *leads* a part if the interval "
    "of CREAM less the part beyond N lies above 0 and *trails* it if the interval lies below, else "
    "the comparison is *inconclusive*. A part that lacks a seed is *not decided*. The three "
    "comparisons are secondary, so they are not corrected. CREAM with a uniform middle and PoSE "
    "are a reference without a verdict here. Their verdicts are in data/smollm2-seeds/SEEDS.md and "
    "data/smollm2/PRIMARY.md.",
]  # fmt: skip


# --------------------------------------------------------------------- the numbers


def values(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a line a run that answered all six lengths, with what it found in per cent.

    `rows` is of `results.read`. Columns and errors are those of `variants.values`; variants are
    of `NAMES`, each asked as it is (factor 1).
    """
    return variants.values(rows, NAMES)


def not_whole(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a line a run that is in no comparison: variant, factor, seed, lacks (of lengths)."""
    return variants.not_whole(rows, NAMES)


def comparisons(found: pd.DataFrame) -> pd.DataFrame:
    """Return CREAM less each other run, in pairs of equal seed: beyond N, within N and at 64K.

    Columns: other (of `NAMES`), end, seeds, level and other_level (means of these seeds, per cent),
    value, low, high (points), leads (seeds in which CREAM found more) and verdict, "" where none is
    asked for. NaN without a pair.
    """
    ends = (DECIDED, *SHOWN)
    return pd.DataFrame([_compared(found, other, end) for other in NAMES[1:] for end in ends])


def _compared(found: pd.DataFrame, other: str, end: str) -> dict[str, object]:
    one = compared(by_seed(found, "cream", end), by_seed(found, other, end))
    asked_for = other in PARTS and end == DECIDED
    return {"other": other, "end": end, **one,
            "verdict": lead(one, len(SEEDS)) if asked_for else ""}  # fmt: skip


# --------------------------------------------------------------------- the page


def markdown(found: pd.DataFrame, left_out: pd.DataFrame) -> str:
    """Return the page: comparisons beyond N, within N and at 64K, and each run by length.

    `found` is of `values`, `left_out` of `not_whole`.
    """
    table = comparisons(found)
    head = ["compared with", "CREAM", "the other", "CREAM less the other (points, 95 %)", "seeds",
            "CREAM leads in", "verdict"]  # fmt: skip
    lines = [_line(one) for one in table[table["end"] == DECIDED].itertuples()]
    parts = [page("SmolLM2-135M, parts of CREAM", [*SAID, "Sentences found beyond N (%):"],
                  head, lines)]  # fmt: skip
    said = (
        "Without a verdict. CREAM less the other (points, 95 %), the same seeds; within N is the "
        f"mean of {', '.join(WITHIN[:-1])} and {WITHIN[-1]}."
    )
    ends = lines_of(["compared with", *SHOWN], _shown(table))
    parts.append(f"## Within N and at 64K\n\n{said}\n\n{ends}\n")
    return "\n".join([*parts, _by_length(found, left_out)])


def _line(one: tuple) -> list[str]:
    cream = level(one.level) if one.seeds else ""
    return [VARIANTS[one.other].label, cream, level(one.other_level), points(one), seeds_of(one),
            leads_in(one), f"**{one.verdict}**" if one.verdict else ""]  # fmt: skip


def _shown(table: pd.DataFrame) -> list[list[str]]:
    lines = []
    for other, part in table.groupby("other", sort=False):
        ends = part.set_index("end").loc[list(SHOWN)]
        lines.append([VARIANTS[other].label, *map(points, ends.itertuples())])
    return lines


def _by_length(found: pd.DataFrame, left_out: pd.DataFrame) -> str:
    lines = [[VARIANTS[one["variant"]].label, *cells(one)]
             for one in in_order(found).to_dict("records")]  # fmt: skip
    table = lines_of(["run", "seed", "n", *LENGTHS.values()], lines)
    return f"## By length\n\nSentences found (%).\n\n{table}\n{said_left_out(left_out)}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page of CREAM beside its parts."""
    parser = argparse.ArgumentParser(
        prog="python -m cream.reproduction.smollm2.parts", description=main.__doc__
    )
    parser.add_argument("rows", type=Path, help="the folder of the parts")
    parser.add_argument("--beside", type=Path, default=Path("data/smollm2-seeds"),
                        help="the folder of CREAM, its uniform middle and PoSE")  # fmt: skip
    given = parser.parse_args(arguments)
    rows = results.read(given.beside, given.rows)
    found, path = values(rows), given.rows / "PARTS.md"
    if not found["variant"].isin(PARTS).any():
        parser.error(f"{given.rows} holds no part ({', '.join(PARTS)}) of seeds 7 to 9 that "
                     "answered all lengths; publish the campaign there first")  # fmt: skip
    if not (found["variant"] == "cream").any():
        parser.error(f"{given.beside} holds no CREAM of seeds 7 to 9 that answered all lengths; "
                     "give the folder that does with --beside")  # fmt: skip
    atomic_write(path, markdown(found, not_whole(rows)))
    print(path)


if __name__ == "__main__":
    main()
