"""Which verdict came out where, in words: a claim over its settings, and what all come to.

    settings_of(entry, evidence.contrasts)  # a claim's settings, each with its verdict
    told(evidence)                          # the sentences at the head of REPRODUCTION.md

A setting is a kind of training data and a scaling. What belongs here: how contrasts of one claim
make one verdict, and how verdicts are said; tables belong in `tables`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from cream.plots.style import style
from cream.reproduction.paper_claims import ENTRIES, SCALING, Entry, Evidence, counted, ends, signed
from cream.statistics import intervals
from cream.study import conditions
from cream.study.analysis import contrasts
from cream.study.analysis.tables import UNLIKE

__all__ = ["DATA", "FRAGILE", "NOTHING", "NOT_RUN", "Setting", "compared", "fragile", "named",
           "places", "settings_of", "tally", "told"]  # fmt: skip

HOLDS, FAILS, OPEN = contrasts.HOLDS, contrasts.FAILS, contrasts.OPEN
NOT_RUN, NOTHING, LEFT_OUT = "not run", "compares nothing", "left out, the data differ"
EXPLORED = "beside them, exploratory and in no count"
SILENT = (NOTHING, LEFT_OUT, EXPLORED)  # neither for a claim nor against it
ORDER = list(product(conditions.CONDITIONS, conditions.SCALINGS))
DATA = {"text": "text", "mixed": "with retrieval", "none": "untuned",
        "dense": "dense retrieval, other words", "dense-same": "dense retrieval"}  # fmt: skip
FRAGILE = "†"  # the interval over seeds alone does not say the same
ALIKE = "≈"  # a lead does not hold because both sides are alike, not because it is behind


# ------------------------------------------------------------------------- a claim over settings


class Setting(NamedTuple):
    """A claim in one setting: its contrasts, and what follows from those that count."""

    condition: str
    scaling: str
    rows: pd.DataFrame
    verdict: str
    fragile: bool

    @property
    def marks(self) -> str:
        """What qualifies the verdict: see ALIKE and FRAGILE."""
        leads = self.rows[(self.rows["verdict"] == FAILS) & (self.rows["kind"] == "lead")]
        alike = self.verdict == FAILS and len(leads) and (leads["high"] > 0).all()
        return ALIKE * bool(alike) + FRAGILE * self.fragile


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
        return LEFT_OUT, False
    if (rows["bound"] != "").any():
        return NOTHING, False
    said = _together(list(rows["verdict"]))
    return said, any(fragile(row) for row in rows.itertuples() if row.verdict == said)


def _together(verdicts: Sequence[str]) -> str:
    """A conjunction: it holds where all do, and not where one does not."""
    if FAILS in verdicts:
        return FAILS
    return HOLDS if verdicts and all(one == HOLDS for one in verdicts) else OPEN


def fragile(row: tuple) -> bool:
    """Return whether an interval over bases decides that is by chance narrower than over seeds."""
    if row.verdict == OPEN or np.isnan(row.seeds_low):
        return False
    return contrasts.verdict(row.kind, row.seeds_low, row.seeds_high) == OPEN


def tally(settings: Sequence[Setting]) -> str:
    """Return which verdict came out where, a line a verdict."""
    if not settings:
        return NOT_RUN
    said = []
    for verdict in (HOLDS, FAILS, OPEN, *SILENT):
        mine = [each for each in settings if each.verdict == verdict]
        if mine:
            word = verdict if verdict in SILENT else f"**{verdict}**"
            where = places(mine)
            said.append(f"{word}: {where}" if where else word)
    return "<br>".join(said)


def places(settings: Iterable[Setting]) -> str:
    """Return settings as words: "NTK, YaRN (both data)", or "NTK (text); YaRN (both data)"."""
    scalings: dict[str, list[str]] = {}
    for each in settings:
        if each.scaling != "none":
            name = SCALING[each.scaling] + each.marks
            scalings.setdefault(name, []).append(DATA[each.condition])
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


# ----------------------------------------------------------------------------- what it comes to


def told(evidence: Evidence) -> str:
    """Return what holds, what does not and what cannot be told, and why, a point each."""
    found = evidence.contrasts
    found = found[found["n"] > 0]
    if found.empty:
        return "No grid was run: nothing can be told."
    points = [_lead(found, evidence.first), _held(evidence), _not_held(evidence), _untold(evidence),
              _dense(found, evidence.layout), _why(found)]  # fmt: skip
    return "\n".join(f"- {point}" for point in points if point)


def _lead(found: pd.DataFrame, first: pd.DataFrame) -> str:
    """CREAM against PoSE: the paper's own claim."""
    primary = found[found["family"] == "primary"]
    speak, empty = primary[primary["bound"] == ""], primary[primary["bound"] != ""]
    if speak.empty:
        return ""
    numbers = [(speak["verdict"] == word).sum() for word in (HOLDS, FAILS, OPEN)]
    words = (("holds", "hold"), ("does not", "do not"), ("cannot be told",) * 2)
    counts = [f"{number or 'none'} {said[int(number > 1)]}"
              for number, said in zip(numbers, words, strict=True)]  # fmt: skip
    if len(empty):
        by = " and ".join(dict.fromkeys(SCALING[name] for name in empty["scaling"]))
        counts.append(f"{len(empty)} (by {by}) compare nothing, both sides being "
                      f"{' or '.join(dict.fromkeys(empty['bound']))}")  # fmt: skip
    lines = speak[speak["endpoint"] == "lines"]
    behind, ahead = (lines["seeds_high"] < 0).sum(), (lines["seeds_low"] > 0).sum()
    pairs = found[(found["claim"] == "key-value average") & (found["bound"] == "")]
    return (f"**CREAM above PoSE**, the paper's claim: of {len(primary)} preregistered comparisons "
            f"{', '.join(counts)}{_at_first(first)}. CREAM less PoSE is {_span(lines)} points in "
            f"LongChat-Lines and (secondary) {_span(pairs)} in key-value pairs; for the very bases "
            f"at hand, with their seeds as units, it is behind in lines in {behind} of "
            f"{len(lines)} settings and ahead in {ahead or 'none'}.")  # fmt: skip


def _at_first(first: pd.DataFrame) -> str:
    """How many of the primary comparisons were decided before runs were added."""
    if not len(first):
        return ""
    then = contrasts.contrasts(first, ("primary",))
    then = then[(then["family"] == "primary") & (then["bound"] == "")]
    decided = (then["verdict"] != OPEN).sum()
    return (f" (at a first look, with {int(then['bases'].max())} bases, {decided or 'none'} of "
            f"them was decided)")  # fmt: skip


def _span(rows: pd.DataFrame) -> str:
    return f"{signed(rows['value'].min())} to {signed(rows['value'].max())}"


def _by_verdict(evidence: Evidence, verdict: str) -> list[str]:
    """The claims of the paper with this verdict; where not all their settings say so, which do."""
    said = []
    for entry in ENTRIES:
        if entry.measure:
            lines = [line.verdict for line in entry.measure(evidence)]
            said += [entry.title] if lines and _together(lines) == verdict else []
            continue
        settings = settings_of(entry, evidence.contrasts)
        speak = [each for each in settings if each.verdict not in SILENT]
        mine = [each for each in speak if each.verdict == verdict]
        if mine:
            all_ = len(mine) == len(speak) and not any(each.marks for each in mine)
            said.append(entry.title if all_ else f"{entry.title} {_where(entry, mine)}")
    return said


def _where(entry: Entry, settings: Sequence[Setting]) -> str:
    """Of a claim about one scaling the data alone."""
    if not entry.scaling:
        return _by(settings)
    return f"({', '.join(DATA[each.condition] + each.marks for each in settings)})"


def _by(settings: Iterable[Setting]) -> str:
    return f"by {places(settings).replace('; ', ' and ')}"


def _sentence(word: str, said: Sequence[str]) -> str:
    return f"**{word}**: {'; '.join(said) or 'nothing'}."


def _held(evidence: Evidence) -> str:
    """With what holds beside the paper's own list."""
    found = evidence.contrasts
    known = {name for entry in ENTRIES for name in (*entry.claims, *entry.beside)}
    more = found[(found["verdict"] == HOLDS) & (found["kind"] == "lead") & (found["bound"] == "")
                 & (found["plan"] == "primary") & (found["family"] == "secondary")
                 & ~found["claim"].isin(known)]  # fmt: skip
    also = [f"{compared(next(part.itertuples())).replace(' - ', ' above ')} in lines "
            f"{_by(_alone(part))}" for _, part in more.groupby("claim", sort=False)]  # fmt: skip
    beside = f" Beside the paper's list: {'; '.join(also)}." if also else ""
    return _sentence("Holds", _by_verdict(evidence, HOLDS)) + beside


def _alone(part: pd.DataFrame) -> list[Setting]:
    return [Setting(row.condition, row.scaling, part, row.verdict, fragile(row))
            for row in part.itertuples()]  # fmt: skip


def _not_held(evidence: Evidence) -> str:
    """With what full length gains, and what scale 64 costs."""
    found, also = evidence.contrasts, []
    failed = found[(found["verdict"] == FAILS) & (found["family"] != UNLIKE)]
    full = failed[failed["claim"] == "full length is no better"]
    if len(full):
        also.append(f"full length, with as many tokens, gains {-full['value'].max():.0f} to "
                    f"{-full['value'].min():.0f} points of lines over CREAM "
                    f"{_by(_alone(full))}")  # fmt: skip
    for row in failed[failed["claim"] == "scale 64: perplexity no higher than pose"].itertuples():
        free = found[(found["claim"] == "scale 64: free content, perplexity no higher than pose")
                     & (found["condition"] == row.condition)]  # fmt: skip
        between = "".join(f", {np.exp(level / 100):.0f} with its content read freely"
                          for level in free["level_a"])  # fmt: skip
        also.append(f"at scale 64 the perplexity at the target is {np.exp(row.level_a / 100):.0f} "
                    f"after CREAM{between} and {np.exp(row.level_b / 100):.0f} after PoSE "
                    f"({DATA[row.condition]}; exploratory)")  # fmt: skip
    beside = f" Beside the paper's list: {'; '.join(also)}." if also else ""
    return _sentence("Does not hold", _by_verdict(evidence, FAILS)) + beside


def _untold(evidence: Evidence) -> str:
    """With the claims of which no setting compares anything."""
    silent = []
    for entry in ENTRIES:
        settings = [] if entry.measure else settings_of(entry, evidence.contrasts)
        if settings and all(each.verdict in (NOTHING, EXPLORED) for each in settings):
            silent.append(entry.title)
    said = _sentence("Cannot be told", _by_verdict(evidence, OPEN))
    return said + (f" Compares nothing anywhere: {'; '.join(silent)}." if silent else "")


def _dense(found: pd.DataFrame, layout: Mapping) -> str:
    """What linear says where it learns anything."""
    rows = (
        found[found["plan"] == "dense"]
        .set_index("claim")
        .rename(lambda name: name.removeprefix("linear, dense retrieval: "))
    )
    wanted = ("skipped positions help, pose", "lines average", "key-value average")
    if not set(wanted) <= set(rows.index):
        return ""
    skips, lines, pairs = (
        f"{signed(row.value)} {ends(row.low, row.high)}" for row in rows.loc[[*wanted]].itertuples()
    )
    one = rows.loc[wanted[0]]
    seen = layout.get(one["condition"], {}).get("variants", {})
    asked = [seen.get(name, {}).get("queries_a_window", np.nan) for name in ("plain", "pose")]
    return (f"**Linear**, which answers nothing after either of the grid's data, does after dense "
            f"retrieval in the evaluations' words (exploratory; n = "
            f"{counted(one['n'], one['seeds'], one['seeds_most'], one['bases'])}): PoSE less plain "
            f"fine-tuning is {skips} points of lines, though a window of plain can answer "
            f"{asked[0] / asked[1]:.1f} times as many queries (unlike data: no result); CREAM less "
            f"PoSE is {lines} in lines and {pairs} in key-value pairs.")  # fmt: skip


def _why(found: pd.DataFrame) -> str:
    """How wide an interval over so few bases is."""
    primary = found[(found["family"] == "primary") & (found["bound"] == "") & (found["bases"] > 1)]
    if primary.empty:
        return ""
    bases = int(primary["bases"].max())
    halves = (primary["high"] - primary["low"]) / 2
    alone = (primary["seeds_high"] - primary["seeds_low"]) / 2
    wide = stats.t.ppf(0.5 + intervals.CONFIDENCE / 2, bases - 1)
    return (f"**Why so much cannot be told**: an interval speaks of bases that were not trained "
            f"and stands on {bases}; Student's t with {bases - 1} degrees of freedom reaches "
            f"{wide:.1f} standard errors to either side. So the primary comparisons are known to "
            f"within {halves.min():.0f} to {halves.max():.0f} points, and with these bases taken "
            f"as given to within {alone.min():.0f} to {alone.max():.0f}: more bases would narrow "
            f"them most, more seeds a little.")  # fmt: skip
