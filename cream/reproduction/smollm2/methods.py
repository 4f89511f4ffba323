"""The real model's table and figure, from its rows alone.

    python -m cream.reproduction.smollm2 data/smollm2

reads every file of rows in the folder, writes TABLE.md beside them and figures/smollm2.png and
.pdf, and the primary comparisons (`primary_page`): PRIMARY.md and figures/smollm2_primary.png and
.pdf. What belongs here: which numbers stand in the table, and how the lengths are read. Nothing is
typed: what was not run is "not run".
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cream import results
from cream.plots.method_names import by_name
from cream.plots.smollm2 import in_multiples, sentences_found
from cream.plots.style import in_order, save, style
from cream.reproduction.method_cells import (
    answers,
    interval_of,
    method_cells,
    number,
    page,
    points,
    ruler_share,
    served,
    three,
    with_models,
)
from cream.reproduction.smollm2 import primary, primary_page
from cream.results import drawn_from
from cream.statistics import Interval, difference, share_over_lengths
from cream.utils.files import atomic_write

__all__ = ["comparison", "main", "markdown", "pictures"]

MODEL = ["method", "scaling", "scale"]
BEYOND, WITHIN = (2, 4, 8), (0.25, 0.5, 1)  # lengths in windows of the sentences' two means
RULER_AT = 4
SAID = [
    "Written by `python -m cream.reproduction.smollm2 data/smollm2` from the rows in this folder; "
    "its README.md says where and when they were made.",
    "The command for a line, MODEL being its last column and SEED a number: "
    "`python -m cream.study.campaign runs/smollm2 --tasks needle,perplexity,ruler --models MODEL`.",
    "N = 8,192, L = 65,536 tokens. Found beyond N: mean over 2, 4 and 8 N; within N: over N/4, N/2 "
    "and N. Intervals are over questions, those of several runs pooled, and say nothing of other "
    "training seeds. Lost inside N: found within N less what the original finds there, in points. "
    "Stock engines serve every scaling by stock `rope_parameters`, CLEX as longrope of one t that "
    "is chosen at export.",
]


def comparison(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one line a method, scaling and scale, NaN where something was not run.

    Columns: model (as a campaign names it), tokens (trained on), perplexity_n and perplexity_l (at
    N and L = 8 N), and with _low, _high and _n: beyond (share of sentences found, mean over 2, 4
    and 8 N), at_l (8 N alone), within (mean over N/4, N/2 and N), lost (within less the original's)
    and ruler (RULER-6 at 4 N). beyond, at_l and within have the number of models as _runs. Shares
    are `statistics.share_over_lengths`; methods are apart by `method_names.by_name`.
    """
    rows = with_models(in_multiples(rows))
    keys = rows[MODEL].drop_duplicates()
    original = _within(rows[rows["method"] == "original"])[0]
    found = [
        {**dict(zip(MODEL, key, strict=True)), **_line(_of(rows, *key), original)}
        for key in keys.itertuples(index=False)
    ]
    order = in_order(each["method"] for each in found)
    found.sort(key=lambda each: (order.index(each["method"]), each["scaling"], each["scale"]))
    return pd.DataFrame(found)


def _of(rows: pd.DataFrame, method: str, scaling: str, scale: int) -> pd.DataFrame:
    same = (rows["method"] == method) & (rows["scaling"] == scaling) & (rows["scale"] == scale)
    return rows[same]


def _within(rows: pd.DataFrame) -> tuple[Interval, int]:
    return share_over_lengths(rows[rows["task"] == "needle"], WITHIN)


def _line(rows: pd.DataFrame, original: Interval) -> dict[str, object]:
    """What the table says of one model, all its seeds together."""
    needle, texts = rows[rows["task"] == "needle"], rows[rows["task"] == "perplexity"]
    ruler = rows[rows["task"].str.startswith("ruler-")]
    tokens = rows["tokens_trained"].dropna()
    within = _within(rows)
    return {
        "model": rows["model"].iloc[0],
        "tokens": int(tokens.max()) if len(tokens) else 0,
        "perplexity_n": _perplexity(texts, 1),
        "perplexity_l": _perplexity(texts, max(BEYOND)),
        **_share("beyond", *share_over_lengths(needle, BEYOND)),
        **_share("at_l", *share_over_lengths(needle, BEYOND[-1:])),
        **_share("within", *within),
        **_share("lost", difference(within[0], original), within[1]),
        **_share("ruler", ruler_share(ruler[ruler["multiple"] == RULER_AT]), 0),
    }  # fmt: skip


def _share(name: str, found: Interval, runs: int) -> dict[str, float]:
    """A share with its interval, its answers and its models."""
    ends = {f"{name}_low": found.low, f"{name}_high": found.high}
    return {name: found.value, **ends, f"{name}_n": found.n, f"{name}_runs": runs}


def _perplexity(texts: pd.DataFrame, multiple: float) -> float:
    part = texts[texts["multiple"] == multiple]
    if part.empty:
        return math.nan
    return float(np.exp(part["nll"].sum() / part["scored_tokens"].sum()))


# --------------------------------------------------------------------- the page


def markdown(table: pd.DataFrame) -> str:
    """Return the comparison as a page of Markdown: what it is, its commands, and the table."""
    head = [
        "method", "scaling", "trained tokens", "perplexity at N", "perplexity at L",
        "sentence found beyond N (95 %; runs, n)", "found at L (95 %; runs, n)",
        "found within N (95 %; runs, n)", "lost inside N (points, 95 %)",
        "RULER-6 at 4 N (95 %; n)", "served by stock engines", "MODEL",
    ]  # fmt: skip
    return page("SmolLM2-135M, every method", SAID, head, [_cells(x) for x in _records(table)])


def _records(table: pd.DataFrame) -> list[dict]:
    return table.to_dict("records")


def _cells(one: dict) -> list[str]:
    about = style(one["method"]).label, one["scaling"], one["scale"], one["tokens"]
    lost = "-" if one["method"] == "original" else points(*interval_of(one, "lost"))
    return [
        *method_cells(*about),
        number(one["perplexity_n"], three), number(one["perplexity_l"], three),
        _found(one, "beyond"), _found(one, "at_l"), _found(one, "within"), lost,
        answers(*interval_of(one, "ruler"), str(one["ruler_n"])),
        served(one["scaling"], one["method"]), f"`{one['model']}`",
    ]  # fmt: skip


def _found(one: dict, name: str) -> str:
    counted = f"{one[f'{name}_runs']}, {one[f'{name}_n']}" if one["tokens"] else one[f"{name}_n"]
    return answers(*interval_of(one, name), str(counted))


def pictures(every: pd.DataFrame) -> dict[str, Figure]:
    """Return both figures by their files' names, the second where comparisons have three seeds.

    `every` is of `results.read`. Where there is no row there is no figure.
    """
    if every.empty:
        return {}
    comparisons = primary_page.drawn(primary.values(every))
    found = {"smollm2": sentences_found(by_name(results.current(every)))}
    return found if comparisons is None else {**found, primary_page.FIGURE: comparisons}


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the table, the primary comparisons and the figures of a folder of rows."""
    parser = argparse.ArgumentParser(
        prog="python -m cream.reproduction.smollm2", description=main.__doc__
    )
    parser.add_argument("rows", type=Path, help="a folder of rows")
    parser.add_argument("--figures", type=Path, default=Path("figures"))
    parser.add_argument("--table", type=Path, help="default: TABLE.md in the folder of rows")
    given = parser.parse_args(arguments)
    every = results.read(given.rows)
    rows, path = results.current(every), given.table or given.rows / "TABLE.md"
    table, figure = markdown(comparison(rows)), sentences_found(by_name(rows))
    comparisons = primary_page.write(every, path.with_name("PRIMARY.md"), given.figures)
    atomic_write(path, table)
    written = save(figure, given.figures / "smollm2", drawn_from(rows))
    print(*[path, *written, *comparisons], sep="\n")
