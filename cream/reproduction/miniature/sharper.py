"""Attention made sharper when a model is used: the plans `sharper-choice` and `sharper`.

    python -m cream.reproduction.miniature.sharper data/sharper

reads choice.parquet and sharper.parquet in the folder and writes SHARPER.md beside them. The factor
is chosen by validation questions, the verdicts are of test questions; both rules stand in
data/results/PREREGISTRATION.md. The rows are of one base, so intervals are over its training seeds.
What belongs here: which numbers stand on the page. What was not run is "not run".
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from cream.plots.style import style
from cream.reproduction.method_cells import lines_of, page
from cream.reproduction.miniature.margin import GAP_HEAD, claim_lines, gap_lines
from cream.study.analysis import tables
from cream.study.analysis.contrasts import MARGIN, contrasts, verdict
from cream.study.analysis.endpoints import units
from cream.study.analysis.gap import gaps
from cream.study.conditions import SHARPER, SHARPER_NAME, WIDER, WIDER_NAME, asked_as
from cream.study.design import CHOICE_METHODS, VALIDATION_SEEDS
from cream.utils.files import atomic_write

__all__ = ["choice", "chosen", "claims", "main", "markdown"]

METHODS = ("cream", "pose", "plain")
AS_GOOD = 1.0  # points: of two factors so near each other the smaller is chosen
SAID = [
    "Written by `python -m cream.reproduction.miniature.sharper data/sharper` from the rows in "
    "this folder; README.md there has the commands of the runs.",
    "The logits of attention are multiplied by a factor when a model is asked, not when it is "
    "tuned. N = 512 tokens, L = 8 N, YaRN, text with retrieval. One base: intervals are Student's "
    "over its training seeds, 95 %, and speak of this base alone.",
    f"Fixed before the runs (data/results/PREREGISTRATION.md): validation questions choose the "
    f"factor; the gain at 7.8 N *holds* if its interval lies above {MARGIN:g} points; the cost "
    f"within N (lines and pairs up to N) is *kept* if its interval lies above -{MARGIN:g}.",
]  # fmt: skip


# --------------------------------------------------------------------- the numbers


def choice(frame: pd.DataFrame) -> pd.Series:
    """Return the mean of `lines` over methods and seeds of each factor, by validation answers.

    ValueError where a factor was not asked of a model, or a model of the plan is missing.
    """
    runs = _factored(units(frame[frame["plan"] == "sharper-choice"]))
    table = runs.pivot(index=["of", "seed"], columns="factor", values="lines")
    wanted = pd.MultiIndex.from_product([CHOICE_METHODS, VALIDATION_SEEDS])
    table = table.reindex(index=wanted, columns=[1.0, *SHARPER])
    if lacking := int(table.isna().sum().sum()):
        raise ValueError(f"{lacking} of {table.size} runs of the plan sharper-choice are missing: "
                         "finish it before a factor is chosen")  # fmt: skip
    return table.mean()


def _factored(runs: pd.DataFrame) -> pd.DataFrame:
    """Put beside each run of which variant it is (`of`), and its factor."""
    named = [asked_as(name) for name in runs["variant"]]
    return runs.assign(of=[name for name, _ in named], factor=[factor for _, factor in named])


def chosen(means: pd.Series) -> float:
    """Return the factor with the highest mean, the smaller where two are as good; of `choice`."""
    return float(means[means >= means.max() - AS_GOOD].index.min())


def claims(runs: pd.DataFrame, factor: float) -> pd.DataFrame:
    """Return the claims of one factor with their verdicts over seeds; none for the factor 1.

    ValueError for rows of several bases: there bases are the units.
    """
    if len(bases := sorted(runs["base"].unique())) > 1:
        raise ValueError(f"rows are of {len(bases)} bases ({', '.join(bases)}): give those of one")
    found = contrasts(runs, plans=("sharper",))
    found = found[found["a"].isin([SHARPER_NAME.format(one, factor) for one in METHODS])]
    said = [verdict(one.kind, one.seeds_low, one.seeds_high) for one in found.itertuples()]
    return found.assign(verdict=said)


def _remedies(factor: float) -> dict[str, dict[str, str]]:
    """Which variant each remedy makes of a method."""
    wider = {one: WIDER_NAME.format(one) for one in METHODS}
    if factor == 1:
        return {f"tuned for {WIDER:g} L": wider}
    by = f"attention x{factor:g}"
    return {
        by: {one: SHARPER_NAME.format(one, factor) for one in METHODS},
        f"tuned for {WIDER:g} L": wider,
        f"both, tuned for {WIDER:g} L and {by}": {
            one: SHARPER_NAME.format(name, factor) for one, name in wider.items()},
    }  # fmt: skip


# --------------------------------------------------------------------- the page


def markdown(means: pd.Series, runs: pd.DataFrame) -> str:
    """Return the page: the factor, its claims, every factor by length, the gap to full length."""
    factor, runs = chosen(means), runs[runs["plan"] == "sharper"]
    head = ["method", "what", "as it is", f"attention x{factor:g}", "difference (points, 95 %)",
            "seeds", "verdict"]  # fmt: skip
    said = [*SAID, f"**Chosen: {factor:g}**, by validation questions:\n\n{_choice(means)}"]
    lines = claim_lines(claims(runs, factor))
    title = "The miniature, asked with sharper attention"
    parts = [page(title, said, head, lines) if lines else
             f"# {title}\n\n" + "\n\n".join([*said, "So there is no claim to be told."]) + "\n"]
    parts.append(f"## Every factor\n\nWithout a verdict.\n\n{_every(runs)}\n")
    for name, variants in _remedies(factor).items():
        parts.append(f"## Of the gap to full length: {name}\n\n"
                     f"{lines_of(GAP_HEAD, gap_lines(gaps(runs, variants)))}\n")  # fmt: skip
    return "\n".join(parts)


def _choice(means: pd.Series) -> str:
    head = ["factor", *(f"{factor:g}" for factor in means.index)]
    return lines_of(head, [["lines at 4 to 7.8 N (%)", *(f"{one:.1f}" for one in means)]])


def _every(runs: pd.DataFrame) -> str:
    """Lines at 7.8 N, lines and pairs within N, and seeds, by variant and factor."""
    runs = _factored(runs)
    groups = runs.groupby(["of", "factor"])
    ends = groups[["lines_last", "in_window"]].mean().assign(seeds=groups.size())
    factors = sorted(runs["factor"].unique())
    head = ["lines at 7.8 N, within N (%), seeds", *(f"x{factor:g}" for factor in factors)]
    cells = [
        [_label(name), *(_cell(ends, name, factor) for factor in factors)]
        for one in METHODS for name in (one, WIDER_NAME.format(one))
    ]  # fmt: skip
    return lines_of(head, [*cells, [_label("full"), *(_cell(ends, "full", f) for f in factors)]])


def _label(name: str) -> str:
    method, _, wider = name.partition(", ")
    return style(method).label + (f", tuned for {WIDER:g} L" if wider else "")


def _cell(ends: pd.DataFrame, name: str, factor: float) -> str:
    if (name, factor) not in ends.index:
        return "not run"
    last, near, seeds = ends.loc[(name, factor)]
    return f"{last:.0f}, {near:.0f} ({seeds:.0f})"


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page of a folder of rows."""
    parser = argparse.ArgumentParser(
        prog="python -m cream.reproduction.miniature.sharper", description=main.__doc__
    )
    parser.add_argument("rows", type=Path, help="the folder of choice.parquet and sharper.parquet")
    given = parser.parse_args(arguments)
    found = {name: tables.load(given.rows / f"{name}.parquet") for name in ("choice", "sharper")}
    if missing := [name for name, (frame, _) in found.items() if frame.empty]:
        parser.error(f"{given.rows} holds no {missing[0]}.parquet: merge the records of the plans "
                     "sharper-choice and sharper there (python -m cream.study merge)")  # fmt: skip
    try:
        said = markdown(choice(found["choice"][0]), found["sharper"][1])
    except ValueError as error:
        parser.error(str(error))
    atomic_write(given.rows / "SHARPER.md", said)
    print(given.rows / "SHARPER.md")


if __name__ == "__main__":
    main()
