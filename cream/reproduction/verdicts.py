"""The verdict of each claim in each setting, and its words.

    settings_of(entry, evidence.contrasts)  # a claim's settings, each with its verdict

A setting is a kind of training data and a scaling. What belongs here: how contrasts of one claim
make one verdict. The sentences of all of them belong in `sentences`, tables in `tables`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd

from cream.plots.style import style
from cream.reproduction.paper_claims import SCALING, Entry, Line
from cream.study import conditions
from cream.study.analysis import contrasts
from cream.study.figures.forest import UNLIKE

__all__ = [
    "DATA",
    "DIFFER",
    "EXPLORED",
    "NOT_RUN",
    "ORDER",
    "VERDICTS",
    "Setting",
    "all_of",
    "at_an_end",
    "compared",
    "is_fragile",
    "named",
    "of_lines",
    "places",
    "settings_of",
]

HOLDS, FAILS, OPEN = VERDICTS = contrasts.HOLDS, contrasts.FAILS, contrasts.OPEN
NOT_RUN, DIFFER, EXPLORED = "not run", "training data differ", "exploratory"
ORDER = list(product(conditions.CONDITIONS, conditions.SCALINGS))
DATA = {"text": "text", "mixed": "with retrieval", "none": "untuned",
        "dense": "dense retrieval, other words", "dense-same": "dense retrieval"}  # fmt: skip


# ------------------------------------------------------------------------- a claim over settings


class Setting(NamedTuple):
    """A claim in one setting: its contrasts, and what follows from those that count."""

    condition: str
    scaling: str
    rows: pd.DataFrame
    verdict: str
    fragile: bool

    @property
    def within_margin(self) -> bool:
        """Whether a lead does not hold because both sides are alike, and not because it trails."""
        leads = self.rows[(self.rows["verdict"] == FAILS) & (self.rows["kind"] == "lead")]
        return self.verdict == FAILS and len(leads) > 0 and bool((leads["high"] > 0).all())

    @property
    def measurable(self) -> bool:
        """Whether a difference can be measured: not where both sides are near 0 or near 100."""
        return not self.verdict.startswith(("both", "all"))

    @property
    def words(self) -> str:
        """The verdict and what qualifies it."""
        alike = f", within {contrasts.MARGIN:g} points" if self.within_margin else ""
        return self.verdict + alike + ", over bases only" * self.fragile


def settings_of(entry: Entry, found: pd.DataFrame) -> list[Setting]:
    """Return the settings of a claim that have runs, the paper's own kind of data first."""
    part = found[found["claim"].isin([*entry.claims, *entry.beside]) & (found["n"] > 0)]
    if entry.scaling:
        part = part[part["scaling"] == entry.scaling]
    grouped = dict(list(part.groupby(["condition", "scaling"])))
    known = [key for key in ORDER if key in grouped]
    names = {name: place for place, name in enumerate((*entry.claims, *entry.beside))}
    made = []
    for key in [*known, *(k for k in grouped if k not in known)]:
        rows = grouped[key].sort_values("claim", key=lambda column: column.map(names))
        counts = rows[rows["claim"].isin(entry.claims)]
        verdict = _verdict(counts) if len(counts) else (EXPLORED, False)
        made.append(Setting(*key, rows, *verdict))
    return made


def _verdict(rows: pd.DataFrame) -> tuple[str, bool]:
    """The verdict of all rows together, and whether it hangs on the interval over bases alone."""
    if (rows["family"] == UNLIKE).any():
        return DIFFER, False
    if (rows["bound"] != "").any():
        return at_an_end(next(rows.loc[rows["bound"] != "", ["b", "bound"]].itertuples())), False
    verdict = all_of(list(rows["verdict"]))
    # A row of all columns takes as long as everything else here.
    read = rows[["kind", "verdict", "seeds_low", "seeds_high"]].itertuples()
    return verdict, any(is_fragile(row) for row in read if row.verdict == verdict)


def at_an_end(row: tuple) -> str:
    """Return "both near 0" (or near 100), the verdict that no difference can be measured there."""
    return f"{'both' if isinstance(row.b, str) else 'all'} {row.bound}"


def all_of(verdicts: Sequence[str]) -> str:
    """Return the verdict of a conjunction: it holds where all do, and not where one does not."""
    if FAILS in verdicts:
        return FAILS
    return HOLDS if verdicts and all(one == HOLDS for one in verdicts) else OPEN


def of_lines(lines: Iterable[Line]) -> str:
    """Return the verdict of a claim that no contrast measures: of all lines that tell something."""
    return all_of([line.verdict for line in lines if line.verdict in VERDICTS])


def is_fragile(row: tuple) -> bool:
    """Return whether an interval over bases decides that is by chance narrower than over seeds."""
    if row.verdict == OPEN or np.isnan(row.seeds_low):
        return False
    return contrasts.verdict(row.kind, row.seeds_low, row.seeds_high) == OPEN


def places(settings: Iterable[Setting]) -> str:
    """Return settings as words: "NTK, YaRN (both data)", or "NTK (text); YaRN (both data)"."""
    scalings: dict[str, list[str]] = {}
    for each in settings:
        if each.scaling != "none":
            scalings.setdefault(SCALING[each.scaling], []).append(DATA[each.condition])
    by_data: dict[str, list[str]] = {}
    for scaling, data in scalings.items():
        words = "both data" if len(data) == len(conditions.CONDITIONS) else data[0]
        by_data.setdefault(words, []).append(scaling)
    return "; ".join(f"{', '.join(names)} ({data})" for data, names in by_data.items())


def named(variant: str) -> str:
    """Return what a reader calls a variant; CREAM with something changed by what was changed."""
    label = "a tenth of the steps" if variant == "a tenth" else style(variant).label
    return label.removeprefix("CREAM, ")


def compared(row: tuple) -> str:
    """Return what a contrast compares: "CREAM - PoSE", or the one variant it is of."""
    return f"{named(row.a)} - {named(row.b)}" if isinstance(row.b, str) else named(row.a)
