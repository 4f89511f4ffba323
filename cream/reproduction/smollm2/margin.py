"""SmolLM2-135M tuned for 1.25 L and used to L, beside tuned for L: from rows alone.

    python -m cream.reproduction.smollm2.margin data/smollm2-margin

reads the runs tuned for 1.25 L in the folder and those tuned for L in data/smollm2 (`--beside`),
writes MARGIN.md in the folder and figures/smollm2_margin.png and .pdf. The rules were written
before the runs (data/results/PREREGISTRATION.md). What belongs here: which runs are compared, and
which numbers stand on the page. Nothing is typed: what was not run is "not run".
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import pandas as pd

from cream import results
from cream.plots.margin import margin_by_length
from cream.plots.style import save, style
from cream.reproduction.method_cells import lines_of, page
from cream.reproduction.paired import NOT_DECIDED, level, over, points
from cream.reproduction.smollm2.primary import (
    BASE,
    QUESTION,
    check_questions,
    check_tokens,
    kind_of,
    lacking,
)
from cream.results import drawn_from
from cream.study.analysis.contrasts import MARGIN, verdict
from cream.study.conditions import WIDER
from cream.utils.files import atomic_write

__all__ = [
    "by_length",
    "claims",
    "counted",
    "each_seed",
    "found_by_length",
    "leads",
    "main",
    "markdown",
    "per_length",
    "values",
]

SCALE, METHODS, SEEDS = 8, ("cream", "pose"), (1, 2, 3)
LENGTHS = {2048: "2K", 4096: "4K", 8192: "8K", 16384: "16K", 32768: "32K", 65436: "64K"}
WITHIN, BEYOND, AT_L = ("2K", "4K", "8K"), ("16K", "32K", "64K"), "64K"
ENDS = {"at 64K": (AT_L,), "within N": WITHIN, "beyond N": BEYOND}
CLAIMS = {"at 64K": "more", "within N": "kept"}
SAID = [
    "Written by `python -m cream.reproduction.smollm2.margin data/smollm2-margin` from the rows in "
    "this folder and in data/smollm2; README.md here has the command of the runs.",
    f"Each method is tuned for L = 8 N and for {WIDER:g} L, with the same seeds, data and steps, "
    "and asked up to L. N = 8,192 tokens, YaRN, text. Hidden sentences found, per cent, every "
    "depth and kind of text weighing alike. **One base**: intervals are Student's over its "
    "training seeds, 95 %, differences in pairs of equal seed.",
    f"Fixed before the runs (data/results/PREREGISTRATION.md): the gain at 64K *holds* if its "
    f"interval lies above {MARGIN:g} points and *does not hold* if it lies below; the cost within "
    f"N (mean of 2K, 4K and 8K) is *kept* if its interval lies above -{MARGIN:g} and *not kept* if "
    "it lies below.",
]  # fmt: skip


# --------------------------------------------------------------------- the numbers


def counted(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the answers of the runs compared, with `kind` and `wider` (tuned for 1.25 L).

    `rows` is of `results.read`. A run counts that answered all six lengths. ValueError where two
    models of one method, tuning and seed did, where one was trained on more or fewer tokens, and
    where runs answered different questions.
    """
    rows = _asked(rows)
    whole = [one for _, one in rows.groupby("model_hash") if not lacking(one, LENGTHS)]
    if not whole:
        return rows.iloc[:0]
    found = pd.concat(whole, ignore_index=True)
    for key, part in found.groupby(["method", "wider", "seed"]):
        if part["model_hash"].nunique() > 1:
            raise ValueError(f"two models of {key[0]}, seed {key[2]}, answered all lengths: "
                             f"{' and '.join(sorted(part['run'].unique()))}; keep one")  # fmt: skip
    check_tokens(found)
    check_questions(found)
    return found


def _asked(rows: pd.DataFrame) -> pd.DataFrame:
    """The hidden sentences of these methods and seeds, tuned either way and nothing changed."""
    rows = rows[(rows["task"] == "needle") & (rows["base"] == BASE) & (rows["scaling"] == "yarn")]
    rows = rows[rows["method"].isin(METHODS) & rows["seed"].isin(SEEDS)]
    rows = rows[rows["scale"].isin((SCALE, round(SCALE * WIDER)))]
    rows = rows[rows["token_length"].isin(LENGTHS)]
    columns = (rows[name] for name in ("run", "method", "scale", "seed"))
    usual = [PurePosixPath(run).name == f"{method}-yarn-{scale}-seed{seed}"
             for run, method, scale, seed in zip(*columns, strict=True)]  # fmt: skip
    rows = rows[pd.Series(usual, index=rows.index, dtype=bool)]
    rows = rows.assign(wider=rows["scale"] != SCALE, kind=rows["settings"].map(kind_of))
    rows = rows.sort_values("date", kind="stable", na_position="first")
    return rows[rows["kind"] != ""].drop_duplicates(["model_hash", *QUESTION], keep="last")


def values(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a line a run compared: method, wider, seed, run, n (answers a length), per cent found.

    Columns of per cent: every length by its name, and the means of `ENDS`.
    """
    rows, keys = counted(rows), ["method", "wider", "seed"]
    runs = rows.groupby(keys)["run"].first()
    found = [{**one, "run": runs[key]} for key, one in found_by_length(rows, keys).items()]
    return pd.DataFrame(found, columns=[*keys, "run", "n", *LENGTHS.values(), *ENDS])


def found_by_length(answers: pd.DataFrame, keys: Sequence[str]) -> dict[tuple, dict[str, object]]:
    """Return what each run found; `keys` are columns that tell runs apart, and begin each line.

    Then come n (answers a length), per cent at every length and of `ENDS`. Depths and kinds of text
    weigh alike. Every run answered every length.
    """
    if answers.empty:
        return {}
    length = [*keys, "token_length"]
    found = per_length(answers, keys).unstack().rename(columns=LENGTHS)
    for end, names in ENDS.items():
        found[end] = sum(found[name] for name in names) / len(names)
    found.insert(0, "n", answers.groupby(length).size().groupby(level=list(keys)).min())
    return {
        key: {**dict(zip(keys, key, strict=True)), **one}
        for key, one in found.to_dict("index").items()
    }


def per_length(answers: pd.DataFrame, keys: Sequence[str] = ()) -> pd.Series:
    """Return what was found in per cent, by `keys` and token_length.

    Depths and kinds of text weigh alike.
    """
    length = [*keys, "token_length"]
    cells = answers.groupby([*length, "depth_percent", "kind"])["score"].mean()
    return 100 * cells.groupby(level=length).mean()


def claims(found: pd.DataFrame) -> pd.DataFrame:
    """Return both claims of each method, NaN without a pair; `found` is of `values`.

    Columns: method, end, seeds, level and wider_level (means of these seeds, per cent), value, low,
    high (points) and verdict. An interval needs two seeds.
    """
    table = []
    for end, kind in CLAIMS.items():
        for method in METHODS:
            pairs = _tuned(found, method, end).dropna()
            value, low, high = over(pairs[True] - pairs[False])
            table.append(
                {
                    "method": method,
                    "end": end,
                    "seeds": tuple(pairs.index),
                    "level": pairs[False].mean(),
                    "wider_level": pairs[True].mean(),
                    "value": value,
                    "low": low,
                    "high": high,
                    "verdict": NOT_DECIDED if math.isnan(low) else verdict(kind, low, high),
                }
            )
    return pd.DataFrame(table)


def _tuned(found: pd.DataFrame, method: str, end: str) -> pd.DataFrame:
    """One method's values of an end: a line a seed, columns False (tuned for L) and True."""
    part = found[found["method"] == method]
    return part.pivot(index="seed", columns="wider", values=end).reindex(columns=[False, True])


def leads(found: pd.DataFrame) -> pd.DataFrame:
    """Return PoSE less CREAM, tuned alike: end, wider, value, low, high (points over seeds)."""
    return pd.DataFrame([
        {"end": end, "wider": wider, **dict(zip(("value", "low", "high"), over(
            _tuned(found, "pose", end)[wider] - _tuned(found, "cream", end)[wider]), strict=True))}
        for end in ENDS for wider in (False, True)
    ])  # fmt: skip


def by_length(found: pd.DataFrame) -> pd.DataFrame:
    """Return what `plots.margin` draws: method, wider, multiple (of N), n, value, low, high."""
    table = []
    for (method, wider), part in found.groupby(["method", "wider"]):
        for length, name in LENGTHS.items():
            value, low, high = over(part[name] / 100)
            table.append({"method": method, "wider": wider, "multiple": _multiple(length),
                          "n": len(part), "value": value, "low": low, "high": high})  # fmt: skip
    return pd.DataFrame(table)


def _multiple(length: int) -> float:
    """The length in windows; 7.99 N, which leaves the answer room, counts as 8."""
    return round(length / 8192, 1 if length > 8192 else 2)


def each_seed(found: pd.DataFrame) -> pd.DataFrame:
    """Return the seeds' lines that `plots.margin` draws: method, wider, seed, multiple, value."""
    names = {name: _multiple(length) for length, name in LENGTHS.items()}
    keys = ["method", "wider", "seed"]
    each = found.rename(columns=names).melt(keys, list(names.values()), "multiple")
    return each.assign(value=each["value"].astype(float) / 100)


# --------------------------------------------------------------------- the page


def markdown(found: pd.DataFrame) -> str:
    """Return the page: claims, each run by length, and which method leads."""
    head = ["method", "what", "tuned for L", f"for {WIDER:g} L", "difference (points, 95 %)",
            "seeds", "verdict"]  # fmt: skip
    cells = [_claim(one) for one in claims(found).itertuples()]
    parts = [page("SmolLM2-135M, tuned for more than it is used to", SAID, head, cells)]
    said = f"Sentences found (%), tuned for L and, after the arrow, for {WIDER:g} L."
    names = ["method", "seed", "n", *LENGTHS.values()]
    parts.append(f"## By length\n\n{said}\n\n{lines_of(names, _by_seed(found))}\n")
    names = ["PoSE less CREAM (points, 95 %)", "both tuned for L", f"both for {WIDER:g} L"]
    parts.append(f"## Which method leads\n\nWithout a verdict.\n\n{lines_of(names, _leads(found))}")
    return "\n".join(parts) + "\n"


def _claim(one: tuple) -> list[str]:
    said = {"holds": "kept", "does not hold": "not kept"} if CLAIMS[one.end] == "kept" else {}
    what = "found at 64K" if one.end == "at 64K" else one.end
    seeds = ", ".join(map(str, one.seeds)) or "none"
    return [style(one.method).label, what, level(one.level), level(one.wider_level), points(one),
            seeds, f"**{said.get(one.verdict, one.verdict)}**"]  # fmt: skip


def _by_seed(found: pd.DataFrame) -> list[list[str]]:
    lines = []
    for (method, seed), part in found.groupby(["method", "seed"]):
        each = part.set_index("wider").reindex([False, True])
        n = " and ".join(f"{n:.0f}" for n in each["n"].dropna().unique())
        lines.append([style(method).label, str(seed), n, *(
            " → ".join(level(x, 0) for x in each[name])
            for name in LENGTHS.values())])  # fmt: skip
    return lines


def _leads(found: pd.DataFrame) -> list[list[str]]:
    return [[end, *map(points, part.sort_values("wider").itertuples())]
            for end, part in leads(found).groupby("end", sort=False)]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page and the figure of the runs tuned for 1.25 L."""
    parser = argparse.ArgumentParser(
        prog="python -m cream.reproduction.smollm2.margin", description=main.__doc__
    )
    parser.add_argument("rows", type=Path, help="the folder of the runs tuned for 1.25 L")
    parser.add_argument("--beside", type=Path, default=Path("data/smollm2"), help="tuned for L")
    parser.add_argument("--figures", type=Path, default=Path("figures"))
    given = parser.parse_args(arguments)
    rows = results.read(given.beside, given.rows)
    found, path = values(rows), given.rows / "MARGIN.md"
    if not found["wider"].any():
        parser.error(f"{given.rows} holds no run tuned for {WIDER:g} L that answered all lengths")
    atomic_write(path, markdown(found))
    figure = margin_by_length(by_length(found), "sentences found (%)", each_seed(found))
    written = save(figure, given.figures / "smollm2_margin", drawn_from(counted(rows)))
    print(*[path, *written], sep="\n")


if __name__ == "__main__":
    main()
