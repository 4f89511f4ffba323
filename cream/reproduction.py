"""REPRODUCTION.md from the rows: each claim of the paper, what it says, what was measured.

    python -m cream.reproduction data/results --out REPRODUCTION.md   # fill the tables in again
    python -m cream.reproduction data/results --check REPRODUCTION.md # are they what the rows say?

The prose of that file is written by hand; what stands between `<!-- rows: NAME -->` and
`<!-- end: NAME -->` is written from rows by this module and replaced whole. No number is typed.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cream import ablations, claims, gallery, layout, notebook, published, results
from cream.ablations import UNLIKE
from cream.coverage import cumulative_coverage
from cream.paper_claims import ENTRIES, Entry, Evidence, Line, counted, ends
from cream.positions import Sampler, sampler

__all__ = ["check", "details", "evidence_of", "fill", "main", "markdown", "parts", "releases",
           "slips", "summary"]  # fmt: skip

NOT_RUN, HOLDS, FAILS, OPEN = "not run", claims.HOLDS, claims.FAILS, claims.OPEN
ORDER = [(condition, scaling) for condition in ("text", "mixed")
         for scaling in ("linear", "ntk", "yarn")]  # fmt: skip


# ---------------------------------------------------------------------------------------- claims


def _settings(entry: Entry, found: pd.DataFrame) -> dict[tuple[str, str], pd.DataFrame]:
    """The contrasts of a claim that have runs, by setting, the paper's own kind of data first."""
    part = found[found["claim"].isin([*entry.claims, *entry.beside]) & (found["n"] > 0)]
    if entry.scaling:
        part = part[part["scaling"] == entry.scaling]
    grouped = dict(list(part.groupby(["condition", "scaling"])))
    known = [key for key in ORDER if key in grouped]
    return {key: grouped[key] for key in [*known, *(k for k in grouped if k not in known)]}


def _together(verdicts: Sequence[str]) -> str:
    """A conjunction: it holds where all do, and not where one does not."""
    if FAILS in verdicts:
        return FAILS
    return HOLDS if all(one == HOLDS for one in verdicts) else OPEN


def _tally(verdicts: Sequence[str]) -> str:
    if not verdicts:
        return NOT_RUN
    if len(set(verdicts)) == 1:
        several = f" (all {len(verdicts)} settings)" if len(verdicts) > 1 else ""
        return f"**{verdicts[0]}**{several}"
    counts = [f"{name} in {verdicts.count(name)}" for name in (HOLDS, FAILS, OPEN)
              if name in verdicts]  # fmt: skip
    return f"**{'; '.join(counts)}** of {len(verdicts)} settings"


def _measured(entry: Entry, evidence: Evidence) -> tuple[list[Line], str]:
    """The lines of a claim, the first setting's alone, and the verdict over all settings."""
    if entry.measure:
        lines = entry.measure(evidence)
        return lines, _tally([line.verdict for line in lines])
    settings = _settings(entry, evidence.contrasts)
    counted_in = [part[part["claim"].isin(entry.claims)] for part in settings.values()]
    results_in = [part for part in counted_in if not (part["family"] == UNLIKE).any()]
    verdict = _tally([_together(list(part["verdict"])) for part in results_in if len(part)])
    left = len(counted_in) - len(results_in)
    if left:
        verdict += f"; {left} left out, where the data differ"
    first = next(iter(settings.values())) if settings else evidence.contrasts.iloc[:0]
    order = {name: number for number, name in enumerate((*entry.claims, *entry.beside))}
    rows = sorted(first.itertuples(), key=lambda row: order[row.claim])
    return [_contrast_line(row) for row in rows], verdict


def _contrast_line(row: tuple) -> Line:
    where = "" if row.condition == "none" else f"{row.condition}, {row.scaling}: "
    against = f"{_name(row.a)} - {_name(row.b)}" if isinstance(row.b, str) else _name(row.a)
    return Line(f"{where}{against}, {row.endpoint.replace('_', ' ')}", _value(row),
                ends(row.low, row.high), counted(row.n, row.seeds, row.bases),
                row.verdict)  # fmt: skip


def _name(variant: str) -> str:
    return {"cream": "CREAM", "pose": "PoSE", "randpos": "RandPos"}.get(variant, variant)


def _value(row: tuple) -> str:
    if not isinstance(row.b, str):
        return _no_minus_zero(f"{row.value:.1f}")
    return f"{_no_minus_zero(f'{row.value:+.1f}')} ({row.level_a:.1f} against {row.level_b:.1f})"


def _no_minus_zero(text: str) -> str:
    return text.replace("-0.0", "0.0") if float(text) == 0 else text


# ---------------------------------------------------------------------------------------- tables


def summary(evidence: Evidence, paper: Path) -> pd.DataFrame:
    """Return a row a claim of the issue, none left out, as texts.

    Where several settings were run the measured number is that of the first: text only and the
    paper's own scaling where it was run; the verdict counts all settings, which `details` lists.
    """
    found = []
    for entry in ENTRIES:
        lines, verdict = _measured(entry, evidence)
        cells = ["<br>".join(getattr(line, name) for line in lines) or "-"
                 for name in ("value", "interval", "counted")]  # fmt: skip
        value = "<br>".join(f"{line.where}: {line.value}" for line in lines) or "-"
        found.append((entry.title, entry.paper(paper), value, *cells[1:], verdict,
                      f"`{entry.command}`"))  # fmt: skip
    columns = ["claim", "the paper says", "measured, in points", "95 % interval",
               "n, seeds, bases", "verdict", "command"]  # fmt: skip
    return pd.DataFrame(found, columns=columns)


def details(evidence: Evidence, paper: Path) -> pd.DataFrame:
    """Return a row a contrast that was run: every claim in every setting, as texts.

    The paper's number is on the same endpoint, and of text alone (`published.endpoints`). A
    comparison of variants of which one saw much more of what is asked is no result.
    """
    rows, numbers = [], published.endpoints(paper)
    for row in evidence.contrasts[evidence.contrasts["n"] > 0].itertuples():
        line = _contrast_line(row)
        holm = "" if np.isnan(row.holm) else f"{row.holm:.3f}"
        theirs = numbers.get((row.claim, row.scaling)) if row.condition == "text" else None
        verdict = f"({row.verdict}: the data differ)" if row.family == UNLIKE else row.verdict
        given = "-" if np.isnan(row.seeds_low) else ends(row.seeds_low, row.seeds_high)
        rows.append((row.plan, row.claim, row.condition, row.scaling, line.value, line.interval,
                     given, line.counted, "" if theirs is None else f"{theirs:+.1f}", holm,
                     verdict))  # fmt: skip
    columns = ["plan", "claim", "data", "scaling", "points", "95 % over bases",
               "over seeds, these bases", "counted", "paper", "Holm's p", "verdict"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


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


def releases(window: int = 512, examples: int = 300) -> pd.DataFrame:
    """Return which share of distances `examples` draws tell with each release's mean, as texts.

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


# ------------------------------------------------------------------------------------- the file


def evidence_of(*paths: Path) -> tuple[Evidence, str]:
    """Read what `paths` hold: a grid where there is one, rows of answers; and say what it is."""
    file = gallery.find_grid(*paths)
    rows = results.read(*paths)
    if file is None:
        empty = pd.DataFrame(columns=["claim", "n", "condition", "scaling"])
        counts = layout.read(paths[0] / "grid.parquet")
        said = "No grid was run: there is no grid.parquet."
        return Evidence(pd.DataFrame(), empty, rows, counts), said
    frame, runs = ablations.load(file)
    drawn = gallery.grid_source(file, frame)
    said = (f"From {file.name} (SHA-256 {drawn['rows']}...; {len(frame):,} answers of "
            f"{len(runs):,} models; commit {drawn['commit']}).")  # fmt: skip
    counts = layout.read(file)
    found = claims.contrasts(runs, flagged=layout.flagged(counts))
    return Evidence(runs, found, rows, counts), said


def parts(paths: Sequence[Path], paper: Path) -> dict[str, str]:
    """Return every part of the file that is made from rows, by name."""
    evidence, said = evidence_of(*paths)
    every = details(evidence, paper) if len(evidence.contrasts) else pd.DataFrame()
    seen = layout.queries(evidence.layout).reset_index() if evidence.layout else pd.DataFrame()
    if len(seen):
        seen = seen.round(2).assign(flagged=seen["flagged"].map({True: "yes", False: ""}))
    return {
        "source": said,
        "claims": markdown(summary(evidence, paper)),
        "contrasts": markdown(every) if len(every) else "Not run.",
        "queries": markdown(seen[seen["condition"] == "mixed"]) if len(seen) else "Not counted.",
        "slips": slips(paper),
        "releases": markdown(releases()),
    }


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
            beside = path.with_name(f".{path.name}.{os.getpid()}")
            beside.write_text(fill(path.read_text(encoding="utf-8"), made), encoding="utf-8")
            os.replace(beside, path)
            print(f"{given.out}: {len(made)} parts written from rows")
        else:
            print("\n\n".join(made.values()))
    except (OSError, ValueError) as error:
        print(f"cream.reproduction: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
