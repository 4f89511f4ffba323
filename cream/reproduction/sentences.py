"""The sentences at the head of REPRODUCTION.md and below its tables, written from rows.

    opening(evidence)   # what holds, what does not, what is inconclusive: a list of sentences

A sentence whose rows are lacking is left out. What belongs here: sentences alone; verdicts belong
in `verdicts`, tables in `tables`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from cream.plots.style import style
from cream.reproduction.paper_claims import ENTRIES, SCALING, Entry, Evidence, counted, ends, signed
from cream.reproduction.verdicts import (
    DATA,
    VERDICTS,
    Setting,
    is_fragile,
    of_lines,
    places,
    settings_of,
)
from cream.statistics import intervals
from cream.study.analysis import contrasts
from cream.study.figures.forest import UNLIKE

__all__ = ["bases_and_seeds", "dense_retrieval", "first_look", "needle", "opening"]

HOLDS, FAILS, OPEN = VERDICTS
NO_GRID = "The study was not run: there is no verdict."
PERPLEXITY = "scale 64: perplexity no higher than pose"
FREE_CONTENT = "scale 64: free content, perplexity no higher than pose"


def opening(evidence: Evidence) -> list[str]:
    """Return the sentences that open the file, in their order."""
    found = evidence.contrasts
    found = found[found["n"] > 0]
    if found.empty:
        return [NO_GRID]
    primary = found[found["family"] == "primary"]
    lines = primary[(primary["endpoint"] == "lines") & (primary["bound"] == "")]
    pairs = found[(found["claim"] == "key-value average") & (found["bound"] == "")]
    sentences = [
        "The models are small ones of this package, so no verdict speaks of Llama-2-7B.",
        _counts(primary),
        _spread(lines, "LongChat-Lines"),
        _over_seeds(lines),
        _spread(pairs, "key-value retrieval"),
        _claims(evidence, HOLDS, "hold in every setting that can be measured", every=True),
        _claims(evidence, FAILS, "do not hold in one setting or more"),
        _claims(
            evidence, OPEN, "are inconclusive in every setting that can be measured", every=True
        ),
        _linear(evidence),
        _full_length(found),
        _scale64(found),
        _width(primary),
    ]
    return [sentence for sentence in sentences if sentence]


def _counts(primary: pd.DataFrame) -> str:
    """Give the verdicts on the paper's own claim, CREAM against PoSE."""
    if primary.empty:
        return ""
    apart = primary[primary["bound"] == ""]
    holds, fails, unclear = ((apart["verdict"] == verdict).sum() for verdict in VERDICTS)
    ends_of = primary.loc[primary["bound"] != "", "bound"]
    near = ""
    if len(ends_of):
        sides = " or ".join(dict.fromkeys(ends_of))
        near = f" and {len(ends_of)} {_plural(len(ends_of), 'has', 'have')} both sides {sides}"
    comma = "," if near else " and"
    return (
        f"Of {len(primary)} preregistered comparisons of CREAM with PoSE {holds or 'none'} "
        f"{_plural(holds, 'holds', 'hold')}, {fails} {_plural(fails, 'does', 'do')} not hold"
        f"{comma} {unclear} {_plural(unclear, 'is', 'are')} inconclusive{near}."
    )


def _plural(number: int, one: str, several: str) -> str:
    return several if number > 1 else one


def _spread(rows: pd.DataFrame, task: str) -> str:
    """Give the range of CREAM less PoSE over the settings where either answers."""
    if rows.empty:
        return ""
    low, high = signed(rows["value"].min()), signed(rows["value"].max())
    return f"CREAM - PoSE on {task} is between {low} and {high} points."


def _over_seeds(lines: pd.DataFrame) -> str:
    """Give the verdict for these bases alone, seeds as units."""
    if lines.empty or lines["seeds_low"].isna().all():
        return ""
    behind, ahead = (lines["seeds_high"] < 0).sum(), (lines["seeds_low"] > 0).sum()
    return (
        f"For these {int(lines['bases'].max())} bases alone CREAM trails PoSE on LongChat-Lines in "
        f"{behind} of {len(lines)} settings and leads it in {ahead or 'none'}."
    )


def _claims(evidence: Evidence, verdict: str, words: str, every: bool = False) -> str:
    """Name the paper's claims with this verdict in one setting or in every one."""
    titles = [entry.title for entry in ENTRIES if _says(entry, evidence, verdict, every)]
    if not titles:
        return f"No claim of the paper: {words}."
    return f"{len(titles)} of {len(ENTRIES)} claims {words}: {'; '.join(titles)}."


def _says(entry: Entry, evidence: Evidence, verdict: str, every: bool) -> bool:
    if entry.measure:
        measured = entry.measure(evidence)
        return bool(measured) and of_lines(measured) == verdict
    settings = settings_of(entry, evidence.contrasts)
    known = [each.verdict for each in settings if each.verdict in VERDICTS]
    return bool(known) and (set(known) == {verdict} if every else verdict in known)


def _linear(evidence: Evidence) -> str:
    """Name the scalings by which both methods are at an end of the range in every setting."""
    found = evidence.contrasts
    rows = found[(found["claim"] == "lines average") & (found["n"] > 0)]
    silent = [name for name, part in rows.groupby("scaling") if (part["bound"] != "").all()]
    if not silent:
        return ""
    names = " and ".join(SCALING[name] for name in silent)
    data = " and ".join(dict.fromkeys(DATA[name] for name in rows["condition"]))
    return f"By {names} scaling CREAM and PoSE are both near 0 on LongChat-Lines ({data})."


def _full_length(found: pd.DataFrame) -> str:
    rows = found[(found["claim"] == "full length is no better") & (found["verdict"] == FAILS)]
    rows = rows[(rows["family"] != UNLIKE) & (rows["bound"] == "")]
    if rows.empty:
        return ""
    settings = [Setting(row.condition, row.scaling, rows, row.verdict, is_fragile(row))
                for row in rows.itertuples()]  # fmt: skip
    return (
        f"Training at full length on as many tokens leads CREAM on LongChat-Lines by "
        f"{-rows['value'].max():.0f} to {-rows['value'].min():.0f} points by {places(settings)}."
    )


def _scale64(found: pd.DataFrame) -> str:
    """Give the perplexities at the target, on text where it was run."""
    rows = found[(found["claim"] == PERPLEXITY) & (found["family"] != UNLIKE)]
    if rows.empty:
        return ""
    row = next(rows.itertuples())
    free = found[(found["claim"] == FREE_CONTENT) & (found["condition"] == row.condition)]
    label = style("content free").label.removeprefix("CREAM, ")
    levels = [(row.level_a, "after CREAM"), *((each, f"with {label}") for each in free["level_a"]),
              (row.level_b, "after PoSE")]  # fmt: skip
    *first, last = [f"{np.exp(level / 100):.0f} {words}" for level, words in levels]
    return (
        f"At scale 64 perplexity at the target is {', '.join(first)} and {last} "
        f"({DATA[row.condition]}; exploratory)."
    )


def _width(primary: pd.DataFrame) -> str:
    """Say how wide an interval over so few bases is."""
    rows = primary[(primary["bound"] == "") & (primary["bases"] > 1)]
    if rows.empty:
        return ""
    halves = (rows["high"] - rows["low"]) / 2
    return (
        f"Intervals are 95 % over {int(rows['bases'].max())} bases and reach {halves.min():.0f} to "
        f"{halves.max():.0f} points to either side in the preregistered comparisons."
    )


# ----------------------------------------------------------------------- sentences below the tables


def first_look(evidence: Evidence) -> str:
    """Return how many primary comparisons were decided before runs were added; "" without one."""
    if not len(evidence.first):
        return ""
    then = contrasts.contrasts(evidence.first, ("primary",))
    then = then[(then["family"] == "primary") & (then["bound"] == "")]
    decided = int((then["verdict"] != OPEN).sum())
    return (
        f"The first look had {int(then['bases'].max())} bases. It decided {decided or 'none'} of "
        f"the {len(then)} primary comparisons that could be measured."
    )


def bases_and_seeds(evidence: Evidence) -> str:
    """Return why intervals over bases are wide, and what the seeds alone would say."""
    found = evidence.contrasts
    rows = found[(found["n"] > 0) & (found["family"] == "primary") & (found["bound"] == "")]
    rows = rows[rows["bases"] > 1]
    if rows.empty:
        return "No comparison has several bases."
    bases, alone = int(rows["bases"].max()), (rows["seeds_high"] - rows["seeds_low"]) / 2
    reach = stats.t.ppf(0.5 + intervals.CONFIDENCE / 2, bases - 1)
    return (
        f"An interval over bases speaks of bases that were not trained. Student's t with "
        f"{bases - 1} degrees of freedom reaches {reach:.1f} standard errors to either side. With "
        f"these bases taken as given the primary differences are known to {alone.min():.0f} to "
        f"{alone.max():.0f} points. More bases would narrow the intervals most."
    )


def dense_retrieval(evidence: Evidence) -> str:
    """Return what linear scaling gives after dense retrieval, where anything is answered."""
    found, prefix = evidence.contrasts, "linear, dense retrieval: "
    rows = found[(found["plan"] == "dense") & (found["n"] > 0)].set_index("claim")
    wanted = [prefix + name for name in
              ("skipped positions help, pose", "lines average", "key-value average")]  # fmt: skip
    if not set(wanted) <= set(rows.index):
        return "Dense retrieval was not run."
    gaps, lines, pairs = (
        f"{signed(row.value)} {ends(row.low, row.high)}" for row in rows.loc[wanted].itertuples()
    )
    one = rows.loc[wanted[0]]
    ratio = _ratio_of_queries(evidence.query_counts, one["condition"])
    return (
        f"After dense retrieval documents linear scaling answers (exploratory, n = "
        f"{counted(one['n'], one['seeds'], one['seeds_most'], one['bases'])}). PoSE - plain "
        f"fine-tuning is {gaps} points of LongChat-Lines, but a window of plain fine-tuning holds "
        f"{ratio:.1f} times as many answerable queries, so this is no result. CREAM - PoSE is "
        f"{lines} on LongChat-Lines and {pairs} on key-value retrieval."
    )


def _ratio_of_queries(query_counts: Mapping, condition: str) -> float:
    """Return answerable queries of a window of plain fine-tuning over those of PoSE's."""
    seen = query_counts.get(condition, {}).get("variants", {})
    plain, pose = (seen.get(name, {}).get("queries_a_window", np.nan) for name in ("plain", "pose"))
    return plain / pose


def needle(evidence: Evidence) -> str:
    """Return means over bases on the needle at 4 N by NTK and YaRN, a range a method."""
    runs = evidence.runs
    if not len(runs):
        return "The needle was not run."
    runs = runs[(runs["plan"] == "primary") & runs["scaling"].isin(["ntk", "yarn"])]
    means = runs.groupby(["variant", "condition", "scaling", "base"])["needle"].mean()
    means = means.groupby(["variant", "condition", "scaling"]).mean()
    known = [name for name in ("cream", "pose", "plain", "scaled") if name in means.index]
    ranges = [f"{style(name).label} {_range(means[name])}" for name in known]
    return f"Means on the needle at 4 N by NTK and YaRN are: {'; '.join(ranges)}."


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.0f} %" if f"{low:.0f}" == f"{high:.0f}" else f"{low:.0f} to {high:.0f} %"
