"""Every method on the miniature, eight seeds of one base: its table and figure, from rows alone.

    python -m cream.reproduction.miniature.methods data/methods

reads every file of rows in the folder, writes TABLE.md beside them and
figures/methods_miniature.png and .pdf. Seeds are the units here, where SmolLM2's table
(`smollm2`) has questions. What belongs here: which numbers stand in the table. Nothing is typed:
what was not run is "not run".
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from cream import results
from cream.plots.method_dots import method_dots
from cream.plots.smollm2 import in_multiples
from cream.plots.style import in_order, save, style
from cream.reproduction.method_cells import (
    NOT_RUN,
    answers,
    interval_of,
    method_cells,
    page,
    points,
    ruler_share,
    served,
    three,
    with_models,
)
from cream.results import drawn_from
from cream.statistics import Interval, difference, mean_interval, share_over_lengths
from cream.statistics import perplexity as perplexity_of
from cream.statistics import units as units_of
from cream.utils.files import atomic_write

__all__ = ["comparison", "main", "markdown", "per_run"]

MODEL = ["method", "scaling", "scale"]
CONTROL = ("plain", "yarn")
BEYOND, WITHIN = (2, 4, 6, 7.8), (0.6, 1)  # lengths in windows of the lines' two means
RULER_AT, TARGET = 2.2, 8
MEASURED = ("beyond", "within", "perplexity_n", "perplexity_l", "ruler")
SAID = [
    "Written by `python -m cream.reproduction.miniature.methods data/methods` from the rows in "
    "this folder.",
    "The command for a line, MODEL being its last column and SEED a number: `python -m "
    "cream.study.campaign runs/methods --preset miniature --dtype float32 --tasks "
    "longchat_lines,perplexity,ruler --lines 100 --ruler 5 --ruler-lengths 1126 --models MODEL`; "
    "then `python -m cream.study.campaign runs/methods --publish data/methods/miniature.parquet`.",
    "N = 512, L = 4,096 tokens; one base, so nothing is said of another. Lines found beyond N: "
    "LongChat lines, mean over 2, 4, 6 and 7.8 N; within N: over 0.6 N and N. Intervals of trained "
    "methods are Student's over seeds, those of the original and the scaled model, untrained here, "
    "are over questions. Less plain by YaRN: differences between runs of one seed. Lost inside N: "
    "found within N less what the original finds there, in points. Stock engines serve every "
    "scaling by stock `rope_parameters`, CLEX as longrope of one t that is chosen at export.",
]


# --------------------------------------------------------------------- the numbers


def per_run(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one line a model, NaN where something was not run.

    Columns: method, scaling, scale, seed, model, tokens, and of `MEASURED` each the value with
    _low, _high (over questions; NaN for a trained model's perplexity) and _n. ValueError for rows
    of two bases, and for two models of one method and seed.
    """
    if len(bases := sorted(rows["base"].dropna().unique())) > 1:
        raise ValueError(f"rows are of {len(bases)} bases ({', '.join(bases)}): give those of one")
    rows = with_models(in_multiples(rows))
    keys = [*MODEL, "seed", "model_hash"]
    found = [
        {**dict(zip(keys, key, strict=True)), **_measured(part)}
        for key, part in rows.groupby(keys, dropna=False)
    ]
    table = pd.DataFrame(found)
    if (twice := table[table.duplicated([*MODEL, "seed"])]).size:
        one = twice.iloc[0]
        raise ValueError(
            f"two models are {one['method']} by {one['scaling']}, seed {one['seed']}: their rows "
            "would count as one; keep the rows of one of them"
        )
    return table


def _measured(rows: pd.DataFrame) -> dict[str, object]:
    lines, texts = rows[rows["task"] == "longchat_lines"], rows[rows["task"] == "perplexity"]
    ruler = rows[rows["task"].str.startswith("ruler-")]
    tokens = rows["tokens_trained"].dropna()
    values = (
        share_over_lengths(lines, BEYOND)[0],
        share_over_lengths(lines, WITHIN)[0],
        _perplexity(texts[texts["multiple"] == 1], len(tokens) > 0),
        _perplexity(texts[texts["multiple"] == TARGET], len(tokens) > 0),
        ruler_share(ruler[ruler["multiple"] == RULER_AT]),
    )
    found = {"model": rows["model"].iloc[0], "tokens": int(tokens.max()) if len(tokens) else 0}
    for name, value in zip(MEASURED, values, strict=True):
        found |= _named(name, value)
    return found


def _perplexity(texts: pd.DataFrame, trained: bool) -> Interval:
    """A model's perplexity; of a trained one without ends, since those are over seeds."""
    if texts.empty:
        return _none()
    if trained:
        value = math.exp(texts["nll"].sum() / texts["scored_tokens"].sum())
        return Interval(value, math.nan, math.nan, texts["document"].nunique())
    return perplexity_of(texts["nll"], texts["scored_tokens"], units_of(texts))


def _none() -> Interval:
    return Interval(math.nan, math.nan, math.nan, 0)


def _named(name: str, value: Interval, seeds: int | None = None) -> dict[str, float]:
    found = {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
    found[f"{name}_n"] = value.n
    return found if seeds is None else {**found, f"{name}_seeds": seeds}


def comparison(runs: pd.DataFrame) -> pd.DataFrame:
    """Return one line a method, scaling and scale, from `per_run`'s; NaN where there is nothing.

    Of each of `MEASURED`, `difference` (beyond, less plain by YaRN of the same seed) and `lost`
    (within, less the original's): value, _low, _high, _n (answers; documents) and _seeds.
    """
    found = [
        {**dict(zip(MODEL, key, strict=True)), **_line(part, runs)}
        for key, part in runs.groupby(MODEL, dropna=False)
    ]
    order = in_order(each["method"] for each in found)
    found.sort(key=lambda each: (order.index(each["method"]), each["scaling"], each["scale"]))
    return pd.DataFrame(found)


def _line(part: pd.DataFrame, runs: pd.DataFrame) -> dict[str, object]:
    first = part.iloc[0]
    found = {"model": first["model"], "tokens": int(part["tokens"].max())}
    for name in MEASURED:
        found |= _named(name, *_level(part, name))
    control = runs[(runs["method"] == CONTROL[0]) & (runs["scaling"] == CONTROL[1])]
    found |= _named("difference", *_paired(part, control))
    return found | _named("lost", *_lost(part, runs[runs["method"] == "original"]))


def _level(part: pd.DataFrame, name: str) -> tuple[Interval, int]:
    """A mean over seeds, or the one value of a model that was not trained."""
    have = part[part[name].notna()]
    if have.empty:
        return _none(), 0
    n = int(have[f"{name}_n"].sum())
    if not have["tokens"].max():
        return _one(have, name), 0
    return mean_interval(have[name])._replace(n=n), len(have)


def _one(part: pd.DataFrame, name: str) -> Interval:
    first = part.iloc[0]
    ends = (first[f"{name}_low"], first[f"{name}_high"], int(first[f"{name}_n"]))
    return Interval(first[name], *ends)


def _paired(part: pd.DataFrame, control: pd.DataFrame) -> tuple[Interval, int]:
    """The mean difference to the control over the seeds that both have."""
    pairs = part.merge(control, on="seed", suffixes=("", "_control")).dropna(subset=["seed"])
    pairs = pairs.dropna(subset=["beyond", "beyond_control"])
    if pairs.empty or part["model"].iloc[0] == control["model"].iloc[0]:
        return _none(), 0
    found = mean_interval((pairs["beyond"] - pairs["beyond_control"]).astype(float))
    return found._replace(n=int(pairs["beyond_n"].sum())), len(pairs)


def _lost(part: pd.DataFrame, original: pd.DataFrame) -> tuple[Interval, int]:
    """What is found within N, less the original's: over seeds it is one number, of no spread."""
    level, seeds = _level(part, "within")
    original = original[original["within"].notna()]
    if original.empty or math.isnan(level.value):
        return _none(), 0
    theirs = _one(original, "within")
    if seeds:
        theirs = Interval(theirs.value, theirs.value, theirs.value, theirs.n)
    return difference(level, theirs), seeds


# --------------------------------------------------------------------- the page


def markdown(table: pd.DataFrame) -> str:
    """Return the comparison as a page of Markdown: what it is, its commands, and the table."""
    head = [
        "method", "scaling", "trained tokens", "perplexity at N (95 %; seeds, documents)",
        "perplexity at L (95 %; seeds, documents)", "lines found beyond N (95 %; seeds, n)",
        "less plain by YaRN (points, 95 %; seeds, n)", "found within N (95 %; seeds, n)",
        "lost inside N (points, 95 %; seeds)", "RULER-6 at 2.2 N (95 %; seeds, n)",
        "served by stock engines", "MODEL",
    ]  # fmt: skip
    lines = [_cells(one) for one in table.to_dict("records")]
    return page("The miniature, every method", SAID, head, lines)


def _cells(one: dict) -> list[str]:
    about = style(one["method"]).label, one["scaling"], one["scale"], one["tokens"]
    control = (one["method"], one["scaling"]) == CONTROL
    lost = points(*interval_of(one, "lost"), str(one["lost_seeds"]) if one["lost_seeds"] else "")
    return [
        *method_cells(*about), _nll(one, "perplexity_n"), _nll(one, "perplexity_l"),
        answers(*interval_of(one, "beyond"), _counted(one, "beyond")),
        "-" if control or not one["tokens"]
        else points(*interval_of(one, "difference"), _counted(one, "difference")),
        answers(*interval_of(one, "within"), _counted(one, "within")),
        "-" if one["method"] == "original" else lost,
        answers(*interval_of(one, "ruler"), _counted(one, "ruler")),
        served(one["scaling"], one["method"]), f"`{one['model']}`",
    ]  # fmt: skip


def _counted(one: dict, name: str) -> str:
    seeds, n = one[f"{name}_seeds"], one[f"{name}_n"]
    return f"{seeds}, {n:,}" if seeds else f"{n:,}"


def _nll(one: dict, name: str) -> str:
    value, low, high = interval_of(one, name)
    if math.isnan(value):
        return NOT_RUN
    ends = "no interval" if math.isnan(low) else f"{three(low)} to {three(high)}"
    return f"{three(value)} ({ends}; {_counted(one, name)})"


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the table and the figure of a folder of rows."""
    parser = argparse.ArgumentParser(
        prog="python -m cream.reproduction.miniature.methods", description=main.__doc__
    )
    parser.add_argument("rows", type=Path, help="a folder of rows")
    parser.add_argument("--figures", type=Path, default=Path("figures"))
    parser.add_argument("--table", type=Path, help="default: TABLE.md in the folder of rows")
    given = parser.parse_args(arguments)
    rows = results.current(results.read(given.rows))
    table = comparison(per_run(rows))
    path = given.table or given.rows / "TABLE.md"
    atomic_write(path, markdown(table))
    figure = method_dots(table, "LongChat lines found beyond N", "less plain by YaRN", _said(table))
    written = save(figure, given.figures / "methods_miniature", drawn_from(rows))
    print(*[path, *written], sep="\n")


def _said(table: pd.DataFrame) -> str:
    trained = table[table["beyond_seeds"] > 0]["beyond_seeds"]
    least, most = (int(trained.min()), int(trained.max())) if len(trained) else (0, 0)
    seeds = f"{most}" if least == most else f"{least} to {most}"
    return (
        f"Mean over 2, 4, 6 and 7.8 N; bars: 95 % over {seeds} training seeds of one base, of "
        "untuned models over questions. Right: runs of the same seed."
    )


if __name__ == "__main__":
    main()
