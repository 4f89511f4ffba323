"""SmolLM2-135M's five primary comparisons: which run counts, its value, and each verdict.

    found = values(results.read("data/smollm2"))  # a line a method and seed that counts
    compared(found)                               # a line a comparison, with its verdict

The rules are those of "SmolLM2-135M: what was decided before its runs" in
data/results/PREREGISTRATION.md, written before the runs. `python -m cream.reproduction.smollm2
data/smollm2` writes the page and the figure (`primary_page`). What belongs here: these rules and
no others.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

import numpy as np
import pandas as pd

from cream.plots.style import style
from cream.reproduction.paired import NOT_DECIDED
from cream.statistics import holm, p_value, two_level
from cream.study.analysis import contrasts
from cream.study.analysis.contrasts import FAILS, MARGIN, Claim

__all__ = [
    "COMPARISONS",
    "DEPTHS",
    "LENGTHS",
    "SEEDS",
    "THIRDS",
    "by_seed",
    "check_questions",
    "check_tokens",
    "compared",
    "counted_answers",
    "difference",
    "kind_of",
    "lacking",
    "left_out",
    "near_end",
    "values",
    "words",
]

BASE, SCALE = "smollm2-135m", 8
TOKENS_TRAINED = 150 * 16 * 8192
METHODS = {"cream": "yarn", "pose": "yarn", "plain": "yarn", "endprompt": "yarn", "clex": "clex"}
CHANGED = {"clex": "-clex_grad_norm-1.0"}  # CLEX's primary form, as a campaign names the run
SEEDS = (1, 2, 3, 4, 5, 6)
BESIDE = 0  # the seed that was seen before the rules: shown, in no comparison
LENGTHS = {16384: "16K", 32768: "32K", 65436: "64K"}
THIRDS = {
    "first third": (0.0, 11.0, 22.0),
    "middle third": (33.0, 44.0, 55.0, 66.0),
    "last third": (77.0, 88.0, 100.0),
}
DEPTHS = tuple(itertools.chain.from_iterable(THIRDS.values()))
KINDS = ("code", "manual")
FEWEST = 3  # answers of a length, depth and kind of text
ASKED = {"style": "chat", "mode": "alone", "decoding": "greedy", "dtype": "bfloat16"}
COMPARISONS = tuple(
    Claim(f"{a} above {b}, {endpoint}", endpoint, a, b, family="primary", plan="smollm2")
    for a, b, endpoint in (
        ("cream", "pose", "sentences"), ("pose", "plain", "sentences"),
        ("cream", "endprompt", "sentences"), ("cream", "clex", "sentences"),
        ("cream", "pose", "middle third"),
    )
)  # fmt: skip
PLACE = ["token_length", "depth_percent", "kind"]
QUESTION = ["kind", "token_length", "depth_percent", "sample"]


# ------------------------------------------------------------------------- which run counts


def values(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a line a method and seed whose run counts, with what it found in per cent.

    `rows` is of `results.read`, and not of `current`, which would leave out a run that was trained
    twice. Columns: method, seed, run, n_16K, n_32K, n_64K (answers), sentences, middle third, each
    of both at one length ("sentences, 16K"), first third and last third. Lengths, depths and kinds
    of text weigh alike. ValueError where two models of a method and seed answered everything, where
    one was trained on more or fewer tokens, and where runs answered different questions.
    """
    counted = counted_answers(rows)
    keys = ["method", "seed"]
    return pd.DataFrame(
        [_value(*key, part) for key, part in counted.groupby(keys)] if len(counted) else [],
        columns=[*keys, "run", *(f"n_{name}" for name in LENGTHS.values()), *_columns()],
    )


def counted_answers(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows behind `values`: every answer of the runs that count, and no other."""
    found = []
    for (method, seed), part in _answers(rows).groupby(["method", "seed"]):
        whole = [one for _, one in part.groupby("model_hash") if not lacking(one)]
        if len(whole) > 1:
            names = [one.iloc[0][["run", "model_hash"]] for one in whole]
            runs = " and ".join(f"{run} (weights {model})" for run, model in names)
            raise ValueError(
                f"{len(whole)} models of {method} with seed {seed} answered all lengths: {runs}. "
                "Which counts is no choice to make after they were seen: move the rows of the one "
                "that data/results/PREREGISTRATION.md does not name to another folder"
            )
        found += whole
    if not found:
        return rows.iloc[:0]
    counted = pd.concat(found, ignore_index=True)
    check_tokens(counted)
    check_questions(counted)
    return counted


def _asked(rows: pd.DataFrame) -> pd.DataFrame:
    """The hidden sentences of the methods compared, with `kind`, whatever the run's form."""
    rows = rows[(rows["task"] == "needle") & (rows["base"] == BASE) & (rows["scale"] == SCALE)]
    rows = rows[rows["seed"].isin((BESIDE, *SEEDS)) & rows["token_length"].isin(LENGTHS)]
    rows = rows[rows["method"].map(METHODS) == rows["scaling"]]
    kinds = {text: kind_of(text) for text in rows["settings"].unique()}
    rows = rows.assign(kind=rows["settings"].map(kinds))
    # A sample that was answered again by the same model counts once.
    rows = rows.sort_values("date", kind="stable", na_position="first")
    return rows[rows["kind"].isin(KINDS)].drop_duplicates(["model_hash", *QUESTION], keep="last")


def kind_of(settings: str) -> str:
    """Return the kind of text a sentence was hidden in; "" where it was asked another way."""
    how = json.loads(settings)
    usual = all(how.get(name) == value for name, value in ASKED.items())
    usual = usual and not {"clex_t", "sharper"} & set(how)
    return str(how.get("haystack", "")) if usual else ""


def _answers(rows: pd.DataFrame) -> pd.DataFrame:
    """The answers of runs of the primary form: what the run is called says what was changed."""
    rows = _asked(rows)
    primary = [
        PurePosixPath(run).name == f"{method}-{METHODS[method]}-{SCALE}-seed{seed}"
        + CHANGED.get(method, "")
        for run, method, seed in zip(rows["run"].fillna(""), rows["method"], rows["seed"],
                                     strict=True)
    ]  # fmt: skip
    return rows[np.array(primary, dtype=bool)]


def lacking(
    answers: pd.DataFrame, lengths: Mapping[int, str] = LENGTHS, fewest: int = FEWEST
) -> list[str]:
    """Return the lengths at which a model has not answered equally many questions everywhere.

    `answers` have `kind` (of `kind_of`), `lengths` the names of lengths in tokens; `fewest` are the
    answers that a length, depth and kind of text needs.
    """
    placed = answers[PLACE].dropna()
    counts = Counter(zip(*(placed[name].tolist() for name in PLACE), strict=True))
    cells: dict[int, dict[tuple[float, str], int]] = defaultdict(dict)
    for (length, *place), count in counts.items():
        cells[length][tuple(place)] = count
    return [name for length, name in lengths.items() if not _is_whole(cells[length], fewest)]


def _is_whole(cells: Mapping[tuple[float, str], int], fewest: int) -> bool:
    """Whether every depth and kind has as many answers of a length, and not too few."""
    if set(cells) != set(itertools.product(DEPTHS, KINDS)):
        return False
    return len(set(cells.values())) == 1 and min(cells.values()) >= fewest


def left_out(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a line a run of these methods and seeds that does not count, and why.

    Columns: run, n_16K, n_32K, n_64K (answers), why.
    """
    asked, counted = _asked(rows), set(counted_answers(rows)["model_hash"])
    ours, found = set(_answers(rows)["model_hash"]), []
    for (run, model), part in asked.groupby(["run", "model_hash"]):
        if model not in counted:
            lacks = f"not whole at {', '.join(lacking(part))}"
            why = lacks if model in ours else "another form of the method"
            found.append({"run": run, **_sizes(part), "why": why})
    return pd.DataFrame(found, columns=["run", *(f"n_{x}" for x in LENGTHS.values()), "why"])


def check_tokens(counted: pd.DataFrame) -> None:
    """Refuse answers of a run that was trained on more or fewer tokens than a primary run."""
    other = counted[counted["tokens_trained"].fillna(0) != TOKENS_TRAINED]
    if len(other):
        one = other.iloc[0]
        raise ValueError(
            f"{one['run']} was trained on {one['tokens_trained']} tokens and a primary run on "
            f"{TOKENS_TRAINED}; move its rows to another folder"
        )


def check_questions(counted: pd.DataFrame, split: str = "test") -> None:
    """Refuse runs that answered different questions: rows do not say of which split or seed.

    `split` is the one whose questions belong in the folder.
    """
    prompts = counted.groupby(QUESTION)["prompt_hash"].nunique()
    if (prompts > 1).any():
        where = prompts[prompts > 1].index[0]
        same = (counted[QUESTION] == list(where)).all(axis=1)
        first = counted[same].drop_duplicates("prompt_hash")["run"]
        raise ValueError(
            f"{' and '.join(first)} answered different questions ({where[0]}, {where[1]} tokens, "
            f"depth {where[2]:g} %, sample {where[3]}): one answered text of another split, or "
            f"questions of another seed; keep the rows of {split} questions with seed 0 alone in "
            "this folder"
        )


# ------------------------------------------------------------------------- the value of a run


def _columns() -> list[str]:
    ends = [f"{end}, {name}" for end in ("sentences", "middle third") for name in LENGTHS.values()]
    return ["sentences", *THIRDS, *ends]


def _sizes(answers: pd.DataFrame) -> dict[str, int]:
    return {f"n_{name}": int((answers["token_length"] == length).sum())
            for length, name in LENGTHS.items()}  # fmt: skip


def _value(method: str, seed: int, answers: pd.DataFrame) -> dict[str, object]:
    """What one run found in per cent, every length, depth and kind of text weighing alike."""
    cells = answers.groupby(["token_length", "depth_percent", "kind"])["score"].mean()
    places = 100 * cells.groupby(level=[0, 1]).mean().unstack().astype(float)
    depths = {"sentences": list(DEPTHS)} | {name: list(at) for name, at in THIRDS.items()}
    found = {end: places[at].to_numpy().mean() for end, at in depths.items()}
    for end in ("sentences", "middle third"):
        for length, name in LENGTHS.items():
            found[f"{end}, {name}"] = places.loc[length, depths[end]].mean()
    run = answers["run"].iloc[0]
    return {"method": method, "seed": int(seed), "run": run, **_sizes(answers), **found}


# ------------------------------------------------------------------------- comparisons


def by_seed(found: pd.DataFrame, claim: Claim, column: str) -> pd.DataFrame:
    """Return a line a primary seed of which both sides count: seed, a, b, value (a - b), points."""
    sides = [
        found[(found["method"] == method) & found["seed"].isin(SEEDS)].set_index("seed")[column]
        for method in (claim.a, claim.b)
    ]
    pairs = pd.concat(sides, axis=1, keys=["a", "b"], join="inner").astype(float).sort_index()
    return pairs.assign(value=pairs["a"] - pairs["b"]).rename_axis("seed").reset_index()


def difference(found: pd.DataFrame, claim: Claim, column: str) -> dict[str, object]:
    """Return a - b in points over equal seeds: value, low, high (95 %, Student's over seeds), p.

    Also seeds (those compared) and level_a, level_b (means of these seeds). NaN without a seed, no
    interval and no p with one.
    """
    pairs = by_seed(found, claim, column)
    about = {"a": claim.a, "b": claim.b, "column": column, "seeds": tuple(pairs["seed"])}
    if pairs.empty:
        names = ("value", "low", "high", "p", "level_a", "level_b")
        return {**about, **dict.fromkeys(names, np.nan)}
    over = two_level(pairs.assign(base=BASE), "value")  # one base: its unit is the seed
    return {**about, "value": over.value, "low": over.low, "high": over.high, "p": p_value(over),
            "level_a": pairs["a"].mean(), "level_b": pairs["b"].mean()}  # fmt: skip


def compared(found: pd.DataFrame, claims: Sequence[Claim] = COMPARISONS) -> pd.DataFrame:
    """Return a line a primary comparison: `difference` in its endpoint, holm and verdict.

    A comparison with fewer than six seeds on either side is "not decided", and Holm's correction
    takes its p as 1: its own p and holm are NaN.
    """
    table = pd.DataFrame([difference(found, claim, claim.endpoint) for claim in claims])
    decided = table["seeds"].map(len) == len(SEEDS)
    table["p"] = table["p"].where(decided)
    table["holm"] = pd.Series(holm(table["p"]), index=table.index).where(decided)
    table["verdict"] = [_verdict(row) for row in table.itertuples()]
    return table


def _verdict(row: tuple) -> str:
    if len(row.seeds) < len(SEEDS):
        return NOT_DECIDED
    near = near_end(row.level_a, row.level_b)
    return near or contrasts.verdict("lead", row.low, row.high, row.holm)


def near_end(*levels: float) -> str:
    """Return "both near 0" or "both near 100" where all levels (per cent) lie so, else ""."""
    if max(levels) < MARGIN:
        return "both near 0"
    return "both near 100" if min(levels) > 100 - MARGIN else ""


def words(row: tuple) -> str:
    """Return a verdict, and of one that does not hold whether a trails or both are alike."""
    if row.verdict != FAILS:
        return row.verdict
    why = f"{style(row.a).label} trails" if row.high < 0 else f"within {MARGIN:g} points"
    return f"{row.verdict} ({why})"
