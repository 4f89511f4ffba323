"""The real model's table and figure, from its rows alone.

    python -m cream.reproduction.smollm2 data/smollm2

reads every file of rows in the folder, writes TABLE.md beside them and figures/smollm2.png and
.pdf. What belongs here: which numbers stand in the table, and how the lengths are read. Nothing is
typed: what was not run is "not run".
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cream import results
from cream.plots.smollm2 import in_multiples, sentences_found
from cream.plots.style import in_order, save, style
from cream.results import drawn_from
from cream.statistics import share_over_lengths

__all__ = ["comparison", "main", "markdown"]

MODEL = ["method", "scaling", "scale"]
BEYOND, WITHIN = (2, 4, 8), (0.25, 0.5, 1)  # lengths in windows of the sentences' two means
RULER_AT = 4
NOT_RUN = "not run"


def comparison(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one line a method, scaling and scale, NaN where something was not run.

    Columns: tokens (trained on), perplexity_n and perplexity_l (at N and L = 8 N), beyond with
    beyond_low, beyond_high, beyond_n and beyond_runs (share of sentences found, mean over 2, 4 and
    8 N), the same for at_l (8 N alone), within (mean over N/4, N/2 and N) and ruler (RULER-6 at
    4 N). Shares are `statistics.share_over_lengths`.
    """
    rows = in_multiples(rows)
    keys = rows[MODEL].drop_duplicates()
    found = [
        {**dict(zip(MODEL, key, strict=True)), **_line(_of(rows, *key))}
        for key in keys.itertuples(index=False)
    ]
    order = in_order(each["method"] for each in found)
    found.sort(key=lambda each: (each["scaling"], each["scale"], order.index(each["method"])))
    return pd.DataFrame(found)


def _of(rows: pd.DataFrame, method: str, scaling: str, scale: int) -> pd.DataFrame:
    same = (rows["method"] == method) & (rows["scaling"] == scaling) & (rows["scale"] == scale)
    return rows[same]


def _line(rows: pd.DataFrame) -> dict[str, object]:
    """What the table says of one model, all its seeds together."""
    needle, texts = rows[rows["task"] == "needle"], rows[rows["task"] == "perplexity"]
    ruler = rows[rows["task"].str.startswith("ruler-")]
    tokens = rows["tokens_trained"].dropna()
    return {
        "tokens": int(tokens.max()) if len(tokens) else 0,
        "perplexity_n": _perplexity(texts, 1),
        "perplexity_l": _perplexity(texts, max(BEYOND)),
        **_share("beyond", needle, BEYOND),
        **_share("at_l", needle, BEYOND[-1:]),
        "within": share_over_lengths(needle, WITHIN)[0].value,
        "ruler": _ruler(ruler[ruler["multiple"] == RULER_AT]),
    }  # fmt: skip


def _share(name: str, rows: pd.DataFrame, multiples: Sequence[float]) -> dict[str, float]:
    """A share with its interval, its answers and its models."""
    found, runs = share_over_lengths(rows, multiples)
    ends = {f"{name}_low": found.low, f"{name}_high": found.high}
    return {name: found.value, **ends, f"{name}_n": found.n, f"{name}_runs": runs}


def _perplexity(texts: pd.DataFrame, multiple: float) -> float:
    part = texts[texts["multiple"] == multiple]
    if part.empty:
        return math.nan
    return float(np.exp(part["nll"].sum() / part["scored_tokens"].sum()))


def _ruler(rows: pd.DataFrame) -> float:
    """The mean of the six tasks; NaN where one of them was not run."""
    means = rows.groupby("task")["score"].mean()
    return float(means.mean()) if len(means) == 6 else math.nan


# --------------------------------------------------------------------- the page


def markdown(table: pd.DataFrame) -> str:
    """Return the comparison as a Markdown table."""
    head = [
        "method", "scaling", "trained tokens", "perplexity at N", "perplexity at L",
        "found beyond N (95 %; runs, n)", "found at L (95 %; runs, n)", "found within N",
        "RULER-6 at 4 N",
    ]  # fmt: skip
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    lines += [f"| {' | '.join(_cells(one))} |" for one in table.to_dict("records")]
    return "\n".join(lines) + "\n"


def _cells(one: dict) -> list[str]:
    scaled = "none" if one["scaling"] == "none" else f"{one['scaling']} x{one['scale']}"
    return [
        style(one["method"]).label, scaled,
        f"{one['tokens'] / 1e6:.1f} M" if one["tokens"] else "0",
        _number(one["perplexity_n"], _three), _number(one["perplexity_l"], _three),
        _found(one, "beyond"), _found(one, "at_l"), _number(one["within"], _percent),
        _number(one["ruler"], _percent),
    ]  # fmt: skip


def _found(one: dict, name: str) -> str:
    if math.isnan(one[name]):
        return NOT_RUN
    low, high = 100 * one[f"{name}_low"], 100 * one[f"{name}_high"]
    counted = f"{one[f'{name}_runs']}, {one[f'{name}_n']}" if one["tokens"] else one[f"{name}_n"]
    return f"{_percent(one[name])} ({low:.0f} to {high:.0f}; {counted})"


def _number(value: float, form: Callable[[float], str]) -> str:
    return NOT_RUN if math.isnan(value) else form(value)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _three(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the table and the figure of a folder of rows."""
    parser = argparse.ArgumentParser(
        prog="python -m cream.reproduction.smollm2", description=main.__doc__
    )
    parser.add_argument("rows", type=Path, help="a folder of rows")
    parser.add_argument("--figures", type=Path, default=Path("figures"))
    parser.add_argument("--table", type=Path, help="default: TABLE.md in the folder of rows")
    given = parser.parse_args(arguments)
    rows = results.current(results.read(given.rows))
    path = given.table or given.rows / "TABLE.md"
    path.write_text(markdown(comparison(rows)), encoding="utf-8")
    written = save(sentences_found(rows), given.figures / "smollm2", drawn_from(rows))
    print(*[path, *written], sep="\n")


if __name__ == "__main__":
    main()
