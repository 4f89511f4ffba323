"""What a set of rows says, as text: the table that ends `make reproduce`.

    python -m cream.reproduction.report runs/reproduce/rows --figures runs/reproduce/figures

Every number stands with its n and its 95 % interval; models that answered the same prompts are
compared by their differences.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from cream.plots.style import in_order, style, times_n
from cream.results import current, read, variant
from cream.statistics import Interval, by_method, match, paired_difference, two_level
from cream.tasks import ruler_scores
from cream.tasks.registry import TASKS, reported

__all__ = ["differences", "gap", "main", "report"]

RULER = "RULER-6, the mean of six generated tasks and no average of RULER's thirteen, in %"
MODEL = ["method", "scaling", "scale"]
COMPARED_BY = "longchat_lines"
COMPARED = (2, 4)  # lengths, in windows, at which tuned models are compared with the untuned one


def report(frame: pd.DataFrame, figures: Sequence[str | Path] = ()) -> str:
    """Return the whole report on `frame`; ValueError when it has no row of a known task."""
    frame = _known(frame)
    parts = [part for task in reported() for part in _tables(frame, task)]
    parts += _ruler(frame[ruler_scores.is_ruler(frame)])
    parts += _comparisons(frame)
    if found := [str(path) for path in figures]:
        parts.append("Figures: " + ", ".join(found))
    return "\n\n".join(part for part in parts if part)


def _known(frame: pd.DataFrame) -> pd.DataFrame:
    frame = current(frame)
    frame = frame[frame["task"].isin(list(reported())) | ruler_scores.is_ruler(frame)]
    if frame.empty:
        raise ValueError(f"no rows of {', '.join(reported())}; run an evaluation notebook first")
    return frame.assign(multiple=(frame["token_length"] / frame["window"]).round(2))


def _tables(frame: pd.DataFrame, task: str) -> Iterator[str]:
    entry = TASKS[task]
    across, value, title = entry.across, entry.column, entry.title
    rows = frame[frame["task"] == task]
    forms = variant(rows)
    for form in sorted(forms.unique()):
        part = rows[forms == form]
        table = by_method(part, [across], value).dropna(subset=[across])
        heading = f"{title} ({form})" if forms.nunique() > 1 else title
        yield "\n".join([_heading(heading, part, table), *_grid(part, table, across, value),
                         *_contained(part, value)])  # fmt: skip


def _ruler(rows: pd.DataFrame) -> Iterator[str]:
    """RULER-6 and the effective lengths, a table a window and form; nothing where nobody asked."""
    forms = variant(rows)
    for (form, window), part in rows.groupby([forms, "window"]):
        means = ruler_scores.averages(part).dropna(subset=["value"])
        means["multiple"] = (means["token_length"] / window).round(2)
        title = f"{RULER} ({form})" if forms.nunique() > 1 else RULER
        if means.empty:
            yield f"{title}: no length has all six tasks, N = {window:,}"
        else:
            yield "\n".join([_heading(title, part, means), *_grid(part, means, "multiple", "score"),
                             _effective(means)])  # fmt: skip


def _effective(means: pd.DataFrame) -> str:
    found = ruler_scores.effective_lengths(means)
    ends = [f"{_name(*model)} {_of(found, model)['effective'].iloc[0]:,}"
            for model in _models(found)]  # fmt: skip
    threshold = f"{ruler_scores.THRESHOLD:g}"
    return f"effective length, the mean above {threshold} up to it, in tokens: {'; '.join(ends)}"


def _heading(title: str, rows: pd.DataFrame, table: pd.DataFrame) -> str:
    windows = " and ".join(f"{window:,}" for window in sorted(rows["window"].dropna().unique()))
    least, most = table["n"].min(), table["n"].max()
    n = f"{least}" if least == most else f"{least} to {most}"
    what = "documents" if rows["task"].iloc[0] == "perplexity" else "samples"
    return f"{title}; [95 % interval]; n = {n} {what} a cell; N = {windows}"


def _grid(rows: pd.DataFrame, table: pd.DataFrame, across: str, value: str) -> list[str]:
    columns = sorted(table[across].unique())
    names = [times_n(c) if across == "multiple" else f"{c} keys" for c in columns]
    lines = [["model", "tokens trained", *names]]
    for model in _models(table):
        mine, trained = _of(table, model), _of(rows, model)
        cells = {row[across]: _cell(row, value) for row in mine.to_dict("records")}
        lines.append([_label(model, trained), _tokens(trained),
                      *(cells.get(column, "-") for column in columns)])  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [_aligned(line, widths) for line in lines]


def _aligned(cells: list[str], widths: list[int]) -> str:
    numbers = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
    return "  ".join([cells[0].ljust(widths[0]), *numbers])


def _models(table: pd.DataFrame) -> list[tuple[str, str, int]]:
    """Methods in the palette's order, each with its scalings and scales."""
    found = set(zip(*(table[name] for name in MODEL), strict=True))
    order = in_order(table["method"])
    return sorted(found, key=lambda model: (order.index(model[0]), *model[1:]))


def _of(frame: pd.DataFrame, model: tuple[str, str, int]) -> pd.DataFrame:
    for name, value in zip(MODEL, model, strict=True):
        frame = frame[frame[name] == value]
    return frame


def _label(model: tuple[str, str, int], rows: pd.DataFrame) -> str:
    count = rows["model_hash"].nunique()
    return _name(*model) + (f" ({count} models)" if count > 1 else "")


def _name(method: str, scaling: str, scale: int) -> str:
    return style(method).label + ("" if scaling == "none" else f", {scaling} x{scale}")


def _tokens(rows: pd.DataFrame) -> str:
    tokens = rows["tokens_trained"].dropna()
    return f"{int(tokens.max()):,}" if len(tokens) else "0"


def _cell(row: dict, value: str) -> str:
    if value == "perplexity":
        return f"{row['value']:.1f} [{row['low']:.1f}, {row['high']:.1f}]"
    return f"{100 * row['value']:.0f} [{100 * row['low']:.0f}, {100 * row['high']:.0f}]"


def _contained(rows: pd.DataFrame, value: str) -> list[str]:
    """The official metric in one line, where rows have it."""
    if value == "perplexity" or rows["contained"].isna().all():
        return []
    table = by_method(rows.dropna(subset=["contained"]), [], "contained")
    shares = [
        f"{_name(*model)} {_cell(_of(table, model).iloc[0], value)}" for model in _models(table)
    ]
    return ["official metric (the answer is contained), all cells: " + "; ".join(shares)]


def differences(frame: pd.DataFrame, task: str = COMPARED_BY) -> pd.DataFrame:
    """Return tuned - scaled on the same prompts at 2N and 4N: a row a model and length.

    Columns: method, scaling, scale, multiple, value, low, high, n (shares), models. With several
    trained models of a method the interval is over them, with one over its samples.
    """
    rows = _known(frame)
    rows = rows[(rows["task"] == task) & rows["multiple"].isin(COMPARED)]
    found = []
    for key, part in rows.groupby(["scaling", "scale", "multiple"]):
        for method in in_order(set(part["method"]) - {"scaled"}):
            if runs := list(_against_untuned(part, method)):
                found.append((method, *key, *_over(runs), len(runs)))
    return pd.DataFrame(found, columns=[*MODEL, "multiple", *Interval._fields, "models"])


def _against_untuned(rows: pd.DataFrame, method: str) -> Iterator[tuple[pd.DataFrame, Interval]]:
    """Each model of `method` with its difference from the scaled, untuned model of its base."""
    bases = rows["base"].fillna("")
    for (base, _), tuned in rows[rows["method"] == method].groupby([bases, "model_hash"]):
        untuned = rows[(rows["method"] == "scaled") & (bases == base)]
        if len(untuned):
            yield tuned, _paired(tuned, untuned)


def _paired(first: pd.DataFrame, second: pd.DataFrame) -> Interval:
    a, b, unit = match(first, second)
    return paired_difference(a, b, unit, span=1)


def _over(runs: list[tuple[pd.DataFrame, Interval]]) -> Interval:
    if len(runs) == 1:
        return runs[0][1]
    table = pd.DataFrame(
        [(one["base"].iloc[0], one["model_hash"].iloc[0], found.value) for one, found in runs],
        columns=["base", "model", "value"],
    ).fillna({"base": ""})
    level = two_level(table, "value", inner="model")
    return Interval(level.value, level.low, level.high, sum(found.n for _, found in runs))


def _comparisons(frame: pd.DataFrame) -> Iterator[str]:
    """What compares models on LongChat-Lines; of several variants each by itself."""
    lines, forms = frame["task"] == COMPARED_BY, variant(frame)
    named = sorted(forms[lines].unique()) or [""]
    for form in named:
        said = f" ({form})" if len(named) > 1 else ""
        part = frame[~lines | (forms == form)]
        yield _compared(part, said)
        yield _gap_line(part, said)


def _compared(frame: pd.DataFrame, form: str) -> str:
    table = differences(frame)
    if table.empty:
        return (f"No comparison with the scaled, untuned model{form}: its rows at 2N and 4N are "
                "missing.")  # fmt: skip
    lines = [f"Against the scaled, untuned model on the same prompts, LongChat-Lines{form}, in "
             "points:"]  # fmt: skip
    for row in table.itertuples():
        interval = Interval(row.value, row.low, row.high, row.n)
        verdict = "excludes 0" if interval.excludes_zero else "does not exclude 0"
        lines.append(
            f"  {style(row.method).label} - scaled, {row.scaling} x{row.scale}, "
            f"{times_n(row.multiple)}: {_points(interval)}, n = {row.n}: {verdict}"
        )
    return "\n".join(lines)


def _points(found: Interval) -> str:
    return f"{100 * found.value:+.0f} [{100 * found.low:+.0f}, {100 * found.high:+.0f}]"


def gap(frame: pd.DataFrame, task: str = COMPARED_BY) -> Interval | None:
    """Return CREAM - PoSE beyond N over pairs of runs with one base, seed and scaling; n is pairs.

    None when there are fewer than two pairs: seeds differ by more than samples can show.
    """
    rows = _known(frame)
    rows = rows[(rows["task"] == task) & (rows["multiple"] > 1)]
    names = ("base", "seed", "scaling", "scale")
    keys = [rows[name].astype("string").fillna("") for name in names]
    pairs = []
    for (base, *rest), part in rows.groupby(keys):
        cream, pose = (part[part["method"] == method] for method in ("cream", "pose"))
        if len(cream) and len(pose):
            pairs.append((base, " ".join(rest), _paired(cream, pose).value))
    if len(pairs) < 2:
        return None
    found = two_level(pd.DataFrame(pairs, columns=["base", "seed", "value"]), "value")
    return Interval(found.value, found.low, found.high, len(pairs))


def _gap_line(frame: pd.DataFrame, form: str) -> str:
    found = gap(frame)
    if found is None:
        return (
            "A gap between PoSE and CREAM on one seed means nothing: two seeds of one method "
            "differ\nas much. Only several seeds and bases can compare them."
        )
    return (
        f"CREAM - PoSE beyond N{form}, over {found.n} pairs of runs with one base and seed: "
        f"{_points(found)} points."
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report on the rows named on the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m cream.reproduction.report", description=__doc__
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("rows", nargs="+", help="files or folders with rows")
    parser.add_argument("--figures", nargs="*", default=[], help="folders with figures, to name")
    given = parser.parse_args(arguments)
    try:
        print(report(read(*given.rows), given.figures))
    except (ValueError, OSError) as error:
        print(f"cream.reproduction.report: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
