"""PRIMARY.md and its figure: the primary comparisons on SmolLM2-135M, from rows alone.

    write(rows, Path("data/smollm2/PRIMARY.md"), Path("figures"))

What belongs here: how verdicts are written and which differences are drawn. The verdicts themselves
are `primary`'s, the drawing is `plots.smollm2_primary`'s.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cream.plots.smollm2_primary import primary_differences
from cream.plots.style import in_order, save, style
from cream.reproduction.method_cells import lines_of
from cream.reproduction.paired import NOT_DECIDED
from cream.reproduction.paper_claims import ends, signed
from cream.reproduction.smollm2.primary import (
    BESIDE,
    COMPARISONS,
    FEWEST,
    LENGTHS,
    METHODS,
    SEEDS,
    THIRDS,
    by_seed,
    compared,
    counted_answers,
    difference,
    left_out,
    values,
    words,
)
from cream.results import drawn_from
from cream.study.analysis.contrasts import MARGIN, Claim
from cream.utils.files import atomic_write

__all__ = ["FIGURE", "ONE_BASE", "drawn", "markdown", "verdicts", "write"]

FIGURE = "smollm2_primary"
DRAWN_FROM = 3  # seeds of both sides that a comparison needs to be drawn
PARTS = {  # columns of `values`: the group they are drawn in, and their name there
    "sentences": ("mean", "all"),
    **{f"sentences, {name}": ("length", name) for name in LENGTHS.values()},
    **{third: ("depth (%)", f"{at[0]:g}\N{EN DASH}{at[-1]:g}") for third, at in THIRDS.items()},
}
TITLED = {"sentences": "all lengths and depths", "middle third": "middle third of depths"}
ONE_BASE = (
    "**One base**: all of this speaks of SmolLM2-135M alone. Intervals are over its training seeds "
    "and do not say what another base would give."
)
SAID = [
    "Written by `python -m cream.reproduction.smollm2 data/smollm2` from the rows in this folder, "
    'by the rules of "SmolLM2-135M" in data/results/PREREGISTRATION.md.',
    ONE_BASE,
    "Hidden sentences found (task needle, chat template, greedy, test split), in per cent: "
    "`sentences` is the mean over 16K, 32K and 64K (16,384, 32,768 and 65,436 tokens) and ten "
    "depths, `middle third` the same at 33, 44, 55 and 66 %; code and manuals weigh alike. A "
    f"difference is taken between runs of equal seed, seeds {SEEDS[0]} to {SEEDS[-1]}, its "
    f"interval is Student's over seeds, the margin {MARGIN:g} points.",
    f"Holds: the interval lies above 0 and Holm's p over the {len(COMPARISONS)} is below 0.05. "
    "Does not hold: the interval lies below 0 or wholly within the margin. Not decided: fewer than "
    f"{len(SEEDS)} seeds of both sides; Holm's correction takes its p as 1.",
]
DESCRIPTIVE = "Points, with 95 % over the same seeds; descriptive, without a verdict."


def markdown(rows: pd.DataFrame, found: pd.DataFrame | None = None) -> str:
    """Return the page: comparisons, the same by length and depth, values, and what is left out.

    `found` is `values` of the rows, where it is there already.
    """
    found = values(rows) if found is None else found
    parts = ["# SmolLM2-135M, the primary comparisons", *SAID]
    parts += ["## Verdicts", verdicts(found)]
    parts += ["## The same by length and by depth", DESCRIPTIVE]
    parts += [_by_length(found), _by_depth(found)]
    parts += ["## What each run found", _counting(), _values(found)]
    parts += ["## Runs of these methods and seeds that do not count", _left_out(left_out(rows))]
    return "\n\n".join(parts) + "\n"


def _counting() -> str:
    return (
        "Per cent, and n answers a length. A run counts that answered all three lengths, "
        f"at each of ten depths and two kinds of text alike and {FEWEST} times or more. Seed "
        f"{BESIDE} was seen before the rules were written and is in no comparison."
    )


def _pair(claim: Claim | tuple) -> str:
    return f"{style(claim.a).label} less {style(claim.b).label}"


def verdicts(found: pd.DataFrame) -> str:
    """Return the five comparisons as a table of Markdown; `found` is of `values`."""
    head = ["comparison", "endpoint", "found", "difference (points)", "95 % over seeds", "seeds",
            "p", "Holm's p", "verdict"]  # fmt: skip
    return lines_of(head, [_verdict(row) for row in compared(found).itertuples()])


def _verdict(row: tuple) -> list[str]:
    sides = "-" if not row.seeds else f"{_level(row.level_a)} against {_level(row.level_b)}"
    p = ["taken as 1", "-"] if row.verdict == NOT_DECIDED else [_p(row.p), _p(row.holm)]
    return [_pair(row), row.column, sides, _points(row.value), _ends(row.low, row.high),
            _seeds(row.seeds), *p, f"**{words(row)}**"]  # fmt: skip


# Sums differ in the last bit from one machine to another: a tie must not fall to either side.
def _level(value: float) -> str:
    return f"{round(value, 9):.1f}"


def _points(value: float) -> str:
    return "-" if np.isnan(value) else signed(round(value, 9))


def _ends(low: float, high: float) -> str:
    return ends(round(low, 9), round(high, 9))


def _p(p: float) -> str:
    return "below 0.001" if p < 0.001 else f"{p:.3f}"


def _seeds(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds)) or "none"


def _cell(found: pd.DataFrame, claim: Claim, column: str) -> str:
    one = difference(found, claim, column)
    return f"{_points(one['value'])} {_ends(one['low'], one['high'])}".removesuffix(" -")


def _by_length(found: pd.DataFrame) -> str:
    lines = [
        [_pair(claim), claim.endpoint]
        + [_cell(found, claim, f"{claim.endpoint}, {name}") for name in LENGTHS.values()]
        for claim in COMPARISONS
    ]
    return lines_of(["comparison", "endpoint", *LENGTHS.values()], lines)


def _by_depth(found: pd.DataFrame) -> str:
    head = [f"depth {at[0]:g} to {at[-1]:g} %" for at in THIRDS.values()]
    lines = [
        [_pair(claim), *(_cell(found, claim, third) for third in THIRDS)]
        for claim in COMPARISONS
        if claim.endpoint == "sentences"
    ]
    return lines_of(["comparison, mean over the three lengths", *head], lines)


def _values(found: pd.DataFrame) -> str:
    head = ["method", "seed", "sentences", *(f"{x} (n)" for x in LENGTHS.values()), *THIRDS, "run"]
    order = {method: place for place, method in enumerate(in_order(METHODS))}
    ordered = found.sort_values(["method", "seed"], key=lambda x: x.map(order) if x.name == "method"
                                else x)  # fmt: skip
    return lines_of(head, [_value(one) for one in ordered.to_dict("records")])


def _value(one: dict) -> list[str]:
    beside = " (in no comparison)" * (one["seed"] == BESIDE)
    lengths = [
        f"{_level(one[f'sentences, {name}'])} ({one[f'n_{name}']})" for name in LENGTHS.values()
    ]
    thirds = [_level(one[name]) for name in THIRDS]
    label = style(one["method"]).label
    return [label, f"{one['seed']}{beside}", _level(one["sentences"]), *lengths, *thirds,
            f"`{one['run']}`"]  # fmt: skip


def _left_out(table: pd.DataFrame) -> str:
    if table.empty:
        return "None."
    lines = [
        [f"`{one['run']}`", *(str(one[f"n_{name}"]) for name in LENGTHS.values()), one["why"]]
        for one in table.to_dict("records")
    ]
    return lines_of(["run", *(f"n at {name}" for name in LENGTHS.values()), "why"], lines)


# --------------------------------------------------------------------- the figure


def drawn(found: pd.DataFrame) -> Figure | None:
    """Return the figure of the comparisons with three seeds of both sides; None where none has."""
    claims = [
        claim for claim in COMPARISONS
        if claim.endpoint == "sentences" and len(by_seed(found, claim, "sentences")) >= DRAWN_FROM
    ]  # fmt: skip
    if not claims:
        return None
    asked = list(itertools.product(claims, PARTS.items()))
    means = [{**difference(found, claim, x), "group": group, "part": part}
             for claim, (x, (group, part)) in asked]  # fmt: skip
    seeds = [by_seed(found, claim, x)[["seed", "value"]].assign(a=claim.a, b=claim.b, part=part)
             for claim, (x, (_, part)) in asked]  # fmt: skip
    said = {(row.a, row.b, row.column): f"{TITLED[row.column]}: {words(row)}"
            for row in compared(found).itertuples()}  # fmt: skip
    table = pd.DataFrame(means)
    keys = zip(table["a"], table["b"], table["column"], strict=True)
    table["verdict"] = [said.get(key, "") for key in keys]
    return primary_differences(table, pd.concat(seeds, ignore_index=True), MARGIN, len(SEEDS))


def write(rows: pd.DataFrame, page: Path, figures: Path) -> list[Path]:
    """Write the page, and the figure where a comparison can be drawn; return what was written.

    `rows` is of `results.read`. Nothing is written where `values` refuses the rows.
    """
    found = values(rows)
    text, figure = markdown(rows, found), drawn(found)
    atomic_write(page, text)
    if figure is None:
        return [page]
    return [page, *save(figure, figures / FIGURE, drawn_from(counted_answers(rows)))]
