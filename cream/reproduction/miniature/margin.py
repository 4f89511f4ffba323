"""Tuned for 1.25 L and used to L: the plan `margin` on the miniature, from rows alone.

    python -m cream.reproduction.miniature.margin data/margin

reads margin.parquet in the folder, writes MARGIN.md beside it and figures/margin.png and .pdf. The
claims and their rules are those of `study.analysis.contrasts`. The rows are of one base, so
intervals and verdicts are over its training seeds. What belongs here: which numbers stand on the
page. Nothing is typed: what was not run is "not run".
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from cream.plots.margin import margin_by_length
from cream.plots.style import save, style
from cream.reproduction.figures import grid_source
from cream.reproduction.method_cells import NOT_RUN, lines_of, page
from cream.statistics import mean_interval
from cream.study.analysis import tables
from cream.study.analysis.contrasts import MARGIN, contrasts, verdict
from cream.study.analysis.gap import ENDS, gaps
from cream.study.conditions import WIDER, WIDER_NAME
from cream.utils.files import atomic_write

__all__ = [
    "GAP_HEAD", "by_length", "claim_lines", "claims", "closed", "gap_lines", "leads", "main",
    "markdown",
]  # fmt: skip

PLAN = "margin"
METHODS = ("cream", "pose", "plain", "full")
PAIRS = (("cream", "pose"), ("pose", "plain"), ("cream", "plain"), ("full", "cream"))
GAP_HEAD = ["method", "LongChat lines at", "gap to full length (points, 95 %)", "gain",
            "share of the gap", "gain less half the gap (points, 95 %)", "seeds"]  # fmt: skip
SAID = [
    "Written by `python -m cream.reproduction.miniature.margin data/margin` from the rows in this "
    "folder; README.md there has the command of the runs.",
    f"Each method is tuned for L = 8 N and for {WIDER:g} L, with the same seeds, data and steps, "
    "and asked up to 7.8 N. N = 512 tokens, YaRN, text with retrieval. One base: intervals are "
    "Student's over its training seeds, 95 %, and speak of this base alone.",
    f"Fixed before the runs (data/results/PREREGISTRATION.md): the gain at 7.8 N *holds* if its "
    f"interval lies above {MARGIN:g} points; the cost within N (lines and pairs up to N) is "
    f"*kept* if its interval lies above -{MARGIN:g}.",
]  # fmt: skip


# --------------------------------------------------------------------- the numbers


def claims(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the plan's claims with their verdicts over seeds, a row a claim.

    `contrasts` gives no verdict for one base, whose seeds are the units here. ValueError for rows
    of several: there bases are the units.
    """
    if len(bases := sorted(runs["base"].unique())) > 1:
        raise ValueError(f"rows are of {len(bases)} bases ({', '.join(bases)}): give those of one")
    found = contrasts(runs, plans=(PLAN,))
    said = [verdict(one.kind, one.seeds_low, one.seeds_high) for one in found.itertuples()]
    return found.assign(verdict=said)


def leads(runs: pd.DataFrame) -> pd.DataFrame:
    """Return differences between methods tuned alike, at the mean of 4, 6 and 7.8 N, a row a pair.

    Columns: a, b, wider, value, low, high (points, over seeds) and n. They have no verdict.
    """
    values = runs.pivot(index="seed", columns="variant", values="lines")
    found = []
    for wider in (False, True):
        for pair in PAIRS:
            a, b = (WIDER_NAME.format(one) if wider else one for one in pair)
            each = (values[a] - values[b]).dropna()
            found.append({"a": pair[0], "b": pair[1], "wider": wider,
                          **mean_interval(each)._asdict()})  # fmt: skip
    return pd.DataFrame(found)


def closed(runs: pd.DataFrame) -> pd.DataFrame:
    """Return what the wider scale closes of each method's gap to full length (`gap.gaps`)."""
    return gaps(runs, {one: WIDER_NAME.format(one) for one in METHODS[:-1]})


def by_length(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the share of lines found by method, tuning and length, with its interval over seeds.

    Columns: method, wider, multiple (of N), value, low, high and n (seeds).
    """
    lines = frame[frame["task"] == "longchat_lines"]
    lines = lines.assign(multiple=(lines["token_length"] / lines["window"]).round(1))
    keys = ["method", "variant", "multiple"]
    each = lines.groupby([*keys, "seed"])["score"].mean().reset_index()
    found = [
        {"method": method, "wider": variant != method, "multiple": multiple,
         **mean_interval(part["score"])._asdict()}
        for (method, variant, multiple), part in each.groupby(keys)
    ]  # fmt: skip
    return pd.DataFrame(found)


# --------------------------------------------------------------------- the page


def markdown(
    found: pd.DataFrame, lines: pd.DataFrame, pairs: pd.DataFrame, shares: pd.DataFrame
) -> str:
    """Return the page: claims, accuracy by length, which method leads, what closes the gap."""
    head = ["method", "what", "tuned for L", f"for {WIDER:g} L", "difference (points, 95 %)",
            "seeds", "verdict"]  # fmt: skip
    title = "The miniature, tuned for more than it is used to"
    parts = [page(title, SAID, head, claim_lines(found))]
    parts.append(
        "## By length\n\nLongChat lines found (%), tuned for L and, after the arrow, for "
        f"{WIDER:g} L.\n\n{_by_length(lines)}\n"
    )
    names = ["difference at 4 to 7.8 N (points, 95 %)", "both tuned for L",
             f"both for {WIDER:g} L"]  # fmt: skip
    parts.append(f"## Which method leads\n\nWithout a verdict.\n\n{lines_of(names, _leads(pairs))}")
    parts.append(
        "\n## Of the gap to full length\n\nBoth tuned for L, full length less the method is the "
        f"gap; tuned for {WIDER:g} L, the method's gain closes a share of it. Computed after the "
        f"runs, without a verdict.\n\n{lines_of(GAP_HEAD, gap_lines(shares))}"
    )
    return "\n".join(parts) + "\n"


def claim_lines(found: pd.DataFrame) -> list[list[str]]:
    """Return the cells of claims with their verdicts over seeds: method, what, b, a, difference."""
    what = {"lines_last": "lines at 7.8 N", "in_window": "within N"}
    return [
        [style(one.b).label, what[one.endpoint], _one(one.level_b), _one(one.level_a),
         _points(one.value, one.seeds_low, one.seeds_high), str(one.n), f"**{_said(one)}**"]
        for one in found.sort_values("endpoint", ascending=False, kind="stable").itertuples()
    ]  # fmt: skip


def _said(one: object) -> str:
    """The verdict in the claim's own words."""
    if one.kind == "kept":
        return {"holds": "kept", "does not hold": "not kept"}.get(one.verdict, one.verdict)
    return one.verdict


def _by_length(lines: pd.DataFrame) -> str:
    table = lines.pivot(index=["method", "wider"], columns="multiple", values="value")
    head = ["method", *(f"{multiple:g} N" for multiple in table.columns)]
    cells = [
        [style(method).label, *(
            f"{100 * one:.0f} → {100 * other:.0f}" for one, other in
            zip(table.loc[method, False], table.loc[method, True], strict=True))]
        for method in METHODS if {(method, False), (method, True)} <= set(table.index)
    ]  # fmt: skip
    return lines_of(head, cells)


def _leads(pairs: pd.DataFrame) -> list[list[str]]:
    return [
        [f"{style(a).label} less {style(b).label}",
         *(_points(one.value, one.low, one.high) for one in part.sort_values("wider").itertuples())]
        for (a, b), part in pairs.groupby(["a", "b"], sort=False)
    ]  # fmt: skip


def gap_lines(shares: pd.DataFrame) -> list[list[str]]:
    """Return the cells under `GAP_HEAD` of a table of `gap.gaps`."""
    return [
        [style(one.method).label, ENDS[one.endpoint],
         _points(one.gap, one.gap_low, one.gap_high),
         NOT_RUN if math.isnan(one.gain) else f"{one.gain:+.1f}", _share(one.gap, one.share),
         _points(one.more, one.low, one.high), str(one.n)]
        for one in shares.itertuples()
    ]  # fmt: skip


def _share(gap: float, share: float) -> str:
    if math.isnan(gap):
        return NOT_RUN
    return "no gap" if math.isnan(share) else f"{100 * share:.0f} %"


def _one(value: float) -> str:
    return NOT_RUN if math.isnan(value) else f"{value:.1f}"


def _points(value: float, low: float, high: float) -> str:
    """Write a difference in points with its interval, or that it was not run."""
    if math.isnan(value):
        return NOT_RUN
    return f"{value:+.1f} " + ("(one seed)" if math.isnan(low) else f"[{low:+.1f}, {high:+.1f}]")


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page and the figure of a folder of rows."""
    parser = argparse.ArgumentParser(
        prog="python -m cream.reproduction.miniature.margin", description=main.__doc__
    )
    parser.add_argument("rows", type=Path, help="the folder that holds margin.parquet")
    parser.add_argument("--figures", type=Path, default=Path("figures"))
    given = parser.parse_args(arguments)
    file = given.rows / "margin.parquet"
    frame, runs = tables.load(file)
    if frame.empty:
        parser.error(f"{given.rows} holds no margin.parquet: merge the records of the plan margin "
                     "there (python -m cream.study merge)")  # fmt: skip
    lines, path = by_length(frame), given.rows / "MARGIN.md"
    atomic_write(path, markdown(claims(runs), lines, leads(runs), closed(runs)))
    written = save(margin_by_length(lines), given.figures / "margin", grid_source(file, frame))
    print(*[path, *written], sep="\n")


if __name__ == "__main__":
    main()
