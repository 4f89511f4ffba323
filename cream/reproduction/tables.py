"""The parts of REPRODUCTION.md that are made from rows, as tables of texts and as sentences.

A table takes evidence (`paper_claims.Evidence`) and returns texts. What is read, and how the parts
come into the file, belongs in `document`; claims and their verdicts belong in
`study.analysis.contrasts`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from cream import statistics
from cream.plots import published
from cream.plots.style import in_order
from cream.positions import Sampler, sampler
from cream.positions.coverage import cumulative_coverage
from cream.reproduction.paper_claims import (
    ENTRIES,
    SCALING,
    Entry,
    Evidence,
    Line,
    counted,
    ends,
    signed,
)
from cream.reproduction.verdicts import (
    DATA,
    NOT_RUN,
    ORDER,
    Setting,
    at_an_end,
    compared,
    is_fragile,
    named,
    of_lines,
    settings_of,
)
from cream.study import conditions, training_data
from cream.study.analysis import contrasts, endpoints
from cream.study.figures import exposure
from cream.study.figures.forest import UNLIKE

__all__ = ["GROUPS", "comparisons", "leakage", "markdown", "measured", "queries", "releases",
           "second_look", "sensitivity", "slips", "verdicts"]  # fmt: skip

# What differs between two looks at a contrast.
LOOK = ("verdict", "value", "low", "high", "n", "seeds", "seeds_most", "bases")
# What the lines of a row differ in.
SHORT = {"lines": "lines", "middle": "middle - ends", "middle_accuracy": "middle", "rise": "from N",
         "log_ppl_far": "less PoSE"}  # fmt: skip
COLUMNS = tuple(f"{DATA[data]}, {SCALING[scaling]}" for data, scaling in ORDER)
UNTUNED = DATA["none"]
NO_BREAK = "\u00a0"  # lines of a cell stand beside those of the next one: none may wrap


# ------------------------------------------------------------------------------------- numbers


def _percent(value: float) -> float:
    """100 times a logarithm as per cent."""
    return 100 * float(np.expm1(value / 100))


def _value(row: tuple) -> str:
    """A difference, or a level."""
    if row.endpoint in endpoints.PERPLEXITIES:
        return signed(_percent(row.value), " %")
    return signed(row.value) if isinstance(row.b, str) else f"{abs(row.value):.1f}"


def _levels(row: tuple) -> str:
    """What a difference stands between."""
    if row.endpoint in endpoints.PERPLEXITIES:
        high, low = (f"{np.exp(level / 100):.1f}" for level in (row.level_a, row.level_b))
        return f" ({low} to {high})" if row.endpoint == "rise" else f" ({high} against {low})"
    return f" ({row.level_a:.1f} against {row.level_b:.1f})" if isinstance(row.b, str) else ""


def _interval(row: tuple, low: float, high: float) -> str:
    if row.endpoint in endpoints.PERPLEXITIES:
        return ends(_percent(low), _percent(high), " %")
    return ends(low, high)


def _line(row: tuple, where: str) -> Line:
    verdict = row.verdict + (", over bases only" if is_fragile(row) else "")
    if row.verdict == contrasts.FAILS and row.kind == "lead" and not row.bound and row.high > 0:
        verdict += f" (within {contrasts.MARGIN:g} points of 0)"
    verdict = at_an_end(row) if row.bound else verdict
    verdict = f"({row.verdict}: the training data differ)" if row.family == UNLIKE else verdict
    return Line(where, _value(row), _interval(row, row.low, row.high),
                _interval(row, row.seeds_low, row.seeds_high),
                counted(row.n, row.seeds, row.seeds_most, row.bases), verdict)  # fmt: skip


# -------------------------------------------------------------------------------------- tables


def verdicts(evidence: Evidence) -> pd.DataFrame:
    """Return a row a claim of the paper, none left out, and its verdict in each setting.

    The last column is of claims that neither data nor scaling can change.
    """
    return pd.DataFrame([(entry.title, *_verdicts_of(entry, evidence)) for entry in ENTRIES],
                        columns=["claim", *COLUMNS, "any setting"])  # fmt: skip


def _verdicts_of(entry: Entry, evidence: Evidence) -> list[str]:
    if entry.measure:
        lines = entry.measure(evidence)
        return [""] * len(COLUMNS) + [of_lines(lines) if lines else NOT_RUN]
    words = {f"{DATA[each.condition]}, {SCALING[each.scaling]}".rstrip(", "): each.words
             for each in settings_of(entry, evidence.contrasts)}  # fmt: skip
    if not set(words) & {*COLUMNS, UNTUNED}:
        return [NOT_RUN, *[""] * len(COLUMNS)]
    return [words.get(name, "") for name in (*COLUMNS, UNTUNED)]


def measured(evidence: Evidence, paper: Path) -> pd.DataFrame:
    """Return a row a claim, none left out, with its numbers on text, as texts.

    The paper trains on text alone. Each scaling has a line of its own in a cell.
    """
    found = []
    for entry in ENTRIES:
        settings = settings_of(entry, evidence.contrasts)
        shown = [each for each in settings if each.condition != "mixed"] or settings
        lines = entry.measure(evidence) if entry.measure else _lines_of(shown)
        values = [f"{line.where}: {line.value}" if line.where else line.value for line in lines]
        values = [f"{value} {line.interval}".removesuffix(" -")
                  for value, line in zip(values, lines, strict=True)]  # fmt: skip
        columns = (values, [line.given for line in lines], [line.counted for line in lines])
        cells = ["<br>".join(column) or "-" for column in columns]
        if not entry.measure:
            cells = [cell.replace(" ", NO_BREAK) for cell in cells]
        found.append((_titled(entry, shown), entry.paper(paper), *cells, f"`{entry.command}`"))
    columns = ["claim", "the paper says", "measured on text [95 % over bases]",
               "[95 % over seeds, these bases]", "n = seeds x bases", "command"]  # fmt: skip
    return pd.DataFrame(found, columns=columns)


def _titled(entry: Entry, settings: Sequence[Setting]) -> str:
    """A claim's title and, below it, what was compared on which endpoint, and its one scaling."""
    found: dict[str, list[str]] = {}
    for row in settings[0].rows.itertuples() if settings else ():
        found.setdefault(endpoints.ENDPOINTS[row.endpoint], []).append(compared(row))
    said = [f"**{entry.title}**"]
    for endpoint, pairs in found.items():
        said.append(f"{pairs[0] if len(pairs) == 1 else 'CREAM less each'}, {endpoint}")
    speak = [each for each in settings if each.measurable]
    if _alone(speak):
        said[-1] += f", {SCALING[speak[0].scaling]}"
    return "<br>".join(said)


def _alone(settings: Sequence[Setting]) -> bool:
    """Whether the lines of a row are several comparisons by one scaling."""
    return len({each.scaling for each in settings}) == 1 and len(settings[0].rows) > 1


def _lines_of(settings: Sequence[Setting]) -> list[Line]:
    """A line a comparison of each setting, which says what it differs in.

    Beside a setting of several comparisons one with both sides near 0 has a line in all.
    """
    found, speak = [], [each for each in settings if each.measurable]
    silent = [each for each in settings if not each.measurable]
    if speak and _alone(speak):
        for each in silent:
            found.append(Line(SCALING[each.scaling], each.verdict, "-", "-", "-", each.verdict))
        settings = speak
    for each in settings:
        for row in each.rows.itertuples():
            words = [] if _alone(settings) else [SCALING[row.scaling]]
            words += [f"{DATA[row.condition]} (exploratory)"] * (row.condition in conditions.DENSE)
            if each.rows["endpoint"].nunique() > 1:
                words.append(SHORT.get(row.endpoint, row.endpoint))
            elif each.rows["b"].nunique() > 1:
                words.append(f"less {named(row.b)}")
            line = _line(row, ", ".join(word for word in words if word))
            if row.bound:
                line = line._replace(value=at_an_end(row), interval="-", given="-")
            found.append(line)
    return found


GROUPS = (
    ("Primary claims, corrected for their number", ("primary",), "primary"),
    ("Other claims at scale 8", ("secondary",), "primary"),
    ("Parts of CREAM", ("secondary",), "ablations"),
    ("A tenth of the steps", ("secondary",), "tenth"),
    ("Scale 64", ("secondary",), "scale64"),
    ("Exploratory: added after the rows had been seen", ("exploratory",), None),
)


def comparisons(found: pd.DataFrame, paper: Path) -> dict[str, pd.DataFrame]:
    """Return every contrast that was run, a table a group of claims, as texts.

    `found` is of `study.analysis.contrasts`. Both sides near 0 have no difference to speak of, so
    such a row says so in place of a verdict.

    The paper's number is on the same endpoint, and of text alone (`plots.published.endpoints`). A
    comparison of variants of which one saw much more of what is asked is no result.
    """
    numbers, families = published.endpoints(paper), {c.name: c.family for c in contrasts.CLAIMS}
    there = found[found["n"] > 0]
    tables = {}
    for title, family, plan in GROUPS:
        part = there[there["claim"].map(families).isin(family)]
        part = part if plan is None else part[part["plan"] == plan]
        if len(part):
            tables[title] = _every(part, numbers)
    return tables


def _every(part: pd.DataFrame, numbers: Mapping[tuple[str, str], float]) -> pd.DataFrame:
    rows = []
    for row in part.itertuples():
        line = _line(row, "")
        theirs = numbers.get((row.claim, row.scaling)) if row.condition == "text" else None
        data = f"{DATA[row.condition]}, {SCALING[row.scaling]}".rstrip(", ")
        texts = [line.value + _levels(row), line.interval, line.given, line.counted]
        rows.append((row.claim, f"{compared(row)}, {endpoints.ENDPOINTS[row.endpoint]}", data,
                     line.verdict, *(text.replace(" ", NO_BREAK) for text in texts),
                     "" if theirs is None else signed(theirs),
                     "" if np.isnan(row.holm) else f"{row.holm:.2f}"))  # fmt: skip
    columns = ["claim", "compared", "data, scaling", "verdict", "measured", "95 % over bases",
               "95 % over seeds, these bases", "n = seeds x bases", "the paper's own",
               "Holm's p"]  # fmt: skip
    table = pd.DataFrame(rows, columns=columns)
    return table.drop(columns=[name for name in columns[-2:] if (table[name] == "").all()])


def second_look(evidence: Evidence) -> pd.DataFrame:
    """Return the verdicts that runs added after a first look changed, with both, as texts.

    Comparisons with both sides near 0 are left out, and those without runs at the first look.
    Empty where no run was added.
    """
    if not len(evidence.first) or len(evidence.first) == len(evidence.runs):
        return pd.DataFrame()
    first = contrasts.contrasts(
        evidence.first, flagged=training_data.flagged(evidence.query_counts)
    )
    keys = ["claim", "condition", "scaling"]
    both = first[first["n"] > 0].merge(evidence.contrasts, on=keys, suffixes=("_then", ""))
    both = both[(both["verdict_then"] != both["verdict"]) & (both["bound"] == "")]
    rows = []
    for row in both.itertuples():
        then = row._replace(**{name: getattr(row, f"{name}_then") for name in LOOK})
        rows.append((row.claim, f"{DATA[row.condition]}, {SCALING[row.scaling]}".rstrip(", "),
                     *_look(then), *_look(row), row.family))  # fmt: skip
    columns = ["claim", "data, scaling", "at the first look", "n = seeds x bases", "now",
               "n = seeds x bases, now", "family"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def _look(row: tuple) -> tuple[str, str]:
    value = f"{row.verdict}: {_value(row)} {_interval(row, row.low, row.high)}"
    return value, counted(row.n, row.seeds, row.seeds_most, row.bases)


def sensitivity(runs: pd.DataFrame, endpoint: str = "lines") -> pd.DataFrame:
    """Return the plan `sensitivity` as texts: a row a method and kind of data, a column a rate.

    One base: means over its seeds with their 95 % interval. Last in each kind of data is CREAM less
    PoSE of the same seed.
    """
    runs = runs[runs["plan"] == "sensitivity"] if len(runs) else runs
    if not len(runs):
        return pd.DataFrame()
    rows, rates = [], sorted(runs["learning_rate"].unique())
    for condition in (c for c in conditions.CONDITIONS if c in set(runs["condition"])):
        part = runs[runs["condition"] == condition]
        for variant in in_order(part["variant"]):
            mine = part[part["variant"] == variant]
            cells = [_over_seeds(mine[mine["learning_rate"] == rate], endpoint) for rate in rates]
            rows.append((DATA[condition], named(variant), *cells))
        wide = part.pivot(index=["learning_rate", "base", "seed"], columns="variant",
                          values=endpoint)  # fmt: skip
        if {"cream", "pose"} <= set(wide):
            gap = (wide["cream"] - wide["pose"]).rename("gap").reset_index().dropna()
            cells = [_over_seeds(gap[gap["learning_rate"] == rate], "gap") for rate in rates]
            rows.append((DATA[condition], "CREAM - PoSE", *cells))
    columns = ["data", "method", *(f"rate {rate:g}" for rate in rates)]
    return pd.DataFrame(rows, columns=columns)


def _over_seeds(part: pd.DataFrame, value: str) -> str:
    if part.empty:
        return "-"
    found = statistics.two_level(part, value)
    text = signed(found.value) if value == "gap" else f"{found.value:.1f}"
    return f"{text} {ends(found.low, found.high)}, n = {len(part)}"


def queries(counts: Mapping) -> pd.DataFrame:
    """Return what a window of each variant can answer where there is something, as texts."""
    if not counts:
        return pd.DataFrame()
    seen = exposure.queries(counts).reset_index()
    seen = seen[seen["condition"] == "mixed"].drop(columns="condition")
    parts = seen["variant"].str.partition(", ")
    return seen.assign(
        variant=[", ".join(filter(None, (named(a), b))) for a, b in zip(parts[0], parts[2],
                                                                       strict=True)],
        flagged=seen["flagged"].map({True: "yes", False: ""}),
    ).round(2)  # fmt: skip


def leakage(query_counts: Mapping) -> pd.DataFrame:
    """Return what training and evaluation share, by kind of training data, as texts."""
    rows = []
    for condition in (c for c in conditions.CONDITIONS if c in query_counts):
        known = query_counts[condition]
        if "words" not in known:
            continue
        parts = [f"{each['shared']:,} of {each['of']:,}" for each in
                 (known["overlap_of_text"], known["overlap_of_questions"])]  # fmt: skip
        words = known["words"]
        rows.append((DATA[condition], *parts, f"{words['shared']:,}", f"{words['training']:,}",
                     f"{words['evaluation']:,}"))  # fmt: skip
    columns = ["training data", "13-grams of the held-out text found in it",
               "13-grams of the questions found in it", "words and values asked for in both",
               "in training", "in evaluation"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


# ------------------------------------------------------------------------- of the paper's own files


def slips(paper: Path) -> str:
    """Return what in the published tables does not follow from their own rows."""
    table, lines = published.key_value_table(paper), []
    for row in table[~table["follows"]].to_dict("records"):
        for method in ("PoSE", "CREAM"):
            if abs(row[method] - row[f"{method}, printed"]) > 0.06:
                lines.append(
                    f"- Key-value retrieval, {row['scaling'].upper()}, {row['keys']} keys: "
                    f"{method} is printed as {row[f'{method}, printed']:.1f}; its five positions "
                    f"average {row[method]:.1f}."
                )
    return "\n".join(lines) or "None."


@cache
def releases(window: int = 512, examples: int = 300) -> pd.DataFrame:
    """Return which share of distances `examples` draws assign with each release's mean, as texts.

    The coin of the mode is thrown for each example, as here: with the releases' one coin for 3,000
    examples it would be that of a single mode.
    """
    variants = {
        "mean 1 + s (bigai-nlco, `cream` here)": lambda scale: {},
        "mean 9 (wutong4012)": lambda scale: {"mean": 9.0},
        "mean 1 + s, sigma grown to 3s / 8": lambda scale: {"sigma": 3 * scale / 8},
    }
    scales, found = (8, 16, 64), []
    for name, options in variants.items():
        draws = [sampler("cream", window, scale, **options(scale)) for scale in scales]
        found.append((name, *(_seen(draw, examples) for draw in draws)))
    found.append(("PoSE", *(_seen(sampler("pose", window, s), examples) for s in scales)))
    return pd.DataFrame(found, columns=["sampler", *(f"s = {scale}" for scale in scales)])


def _seen(draw: Sampler, examples: int) -> str:
    return f"{100 * cumulative_coverage(draw, draw.target_length, examples)[-1]:.1f} %"


def markdown(table: pd.DataFrame) -> str:
    """Return a table of texts and numbers in Markdown; a bar inside a cell is escaped."""
    lines = [list(map(str, table.columns)), ["---"] * len(table.columns)]
    lines += [[str(cell).replace("|", "\\|") for cell in row] for row in table.to_numpy()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
