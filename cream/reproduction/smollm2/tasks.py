"""Lines, pairs and perplexity of SmolLM2-135M's runs, by size: which answers count.

    found = by_size(results.read("data/smollm2-retrieval"), "longchat_lines", ["cream", "pose"])
    whole(found)      # the runs that answered every length, with the means within and beyond N
    not_whole(found)  # the others

What belongs here: how a campaign asks these tasks, what the answers of a run, or of the base by
YaRN untuned, come to at each size (a length in tokens, or a number of key-value pairs), and a run's
line on a page. Hidden sentences are `variants`'.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from pandas.api.typing import DataFrameGroupBy

from cream.reproduction.method_cells import number
from cream.reproduction.smollm2.margin import ENDS, LENGTHS
from cream.reproduction.smollm2.primary import ASKED, BASE, check_tokens
from cream.reproduction.smollm2.variants import USUAL, VARIANTS, Plan, in_order, named
from cream.results import variant as form_of

__all__ = [
    "LABELS",
    "TASKS",
    "UNTUNED",
    "Asked",
    "by_size",
    "cells",
    "not_whole",
    "size_name",
    "whole",
]


class Asked(NamedTuple):
    """How a campaign asks a task: its form, what tells questions of a size apart, how many."""

    form: str  # of `results.variant`
    question: tuple[str, ...]
    fewest: int  # answers of a size that is whole
    sizes: tuple[str, ...]  # of `size_name`


ALL = tuple(LENGTHS.values())
PAIRS = ("75 keys", "140 keys", "800 keys")  # each object is asked at five places
TASKS = {
    "longchat_lines": Asked("chat", ("sample",), 16, ALL),
    "kv_retrieval": Asked("chat", ("gold_index", "sample"), 6 * 5, PAIRS),
    "perplexity": Asked("truncate", ("sample",), 16, ALL),
}
UNTUNED = "untuned"
LABELS = {**{name: one.label for name, one in VARIANTS.items()}, UNTUNED: "untuned by YaRN"}
WHO = ["variant", "seed"]


def size_name(task: str, token_length: int, num_keys: int | None = None) -> str:
    """Return the name of a row's size: its length rounded to K, or of pairs their number.

    64K stands for 65,536 tokens and for 65,436, which leave the answer room.
    """
    if task == "kv_retrieval":
        return f"{num_keys} keys"
    return f"{round(token_length / 1024)}K"


def by_size(
    rows: pd.DataFrame,
    task: str,
    names: Collection[str],
    plan: Plan = USUAL,
    asked: Asked | None = None,
) -> pd.DataFrame:
    """Return a line a run, and one of the base by YaRN untuned, with what each size came to.

    `rows` is of `results.read`, `task` of `TASKS`, `names` of `variants.VARIANTS`, `plan` says
    which runs there are and `asked`, in place of `TASKS`, how the task was asked. Columns:
    variant (of `names`, or `UNTUNED`), seed (0 of the base), n (answers a size, the fewest) and the
    task's sizes by name: answers found in per cent, or the perplexity of all documents, NaN where a
    size is not whole. ValueError where a run was trained on more or fewer tokens, where two untuned
    models answered, and where runs answered different questions.
    """
    asked = asked or TASKS[task]
    answers = _answers(rows[rows["task"] == task], names, plan, asked)
    counts = answers.groupby(["model_hash", "size"])["key"].transform("size")
    counted = answers[counts >= asked.fewest]
    check_tokens(counted[counted["variant"] != UNTUNED])
    _check_alike(counted, task, asked)
    sizes = counted.groupby(["model_hash", "size"])
    lines = answers.groupby("model_hash")[WHO].first().astype({"seed": int})
    lines = lines.assign(n=sizes.size().groupby(level=0).min())
    lines = lines.join(_measured(sizes, task).astype(float).unstack())
    return lines.reindex(columns=[*WHO, "n", *asked.sizes]).reset_index(drop=True)


def _measured(sizes: DataFrameGroupBy, task: str) -> pd.Series:
    """Answers found in per cent, or the perplexity of all documents together, of each size."""
    if task == "perplexity":
        return np.exp(sizes["nll"].sum() / sizes["scored_tokens"].sum())
    return 100 * sizes["score"].mean()


def _answers(rows: pd.DataFrame, names: Collection[str], plan: Plan, asked: Asked) -> pd.DataFrame:
    """The answers of these runs and of the untuned base, with `variant` and `size`, each once."""
    rows = pd.concat([named(rows, names, plan), _untuned(rows, plan.scale)])
    dtypes = {text: json.loads(text).get("dtype") for text in rows["settings"].unique()}
    usual = rows["settings"].map(dtypes) == ASKED["dtype"]
    rows = rows[usual & (form_of(rows) == asked.form)]
    about = rows[["task", "token_length", "num_keys"]].itertuples(index=False)
    rows = rows.assign(size=[size_name(*one) for one in about])
    rows = rows[rows["size"].isin(asked.sizes)]
    rows = rows.sort_values("date", kind="stable", na_position="first")
    question = ["model_hash", "size", *asked.question, "prompt_hash"]
    return rows.drop_duplicates(question, keep="last")


def _untuned(rows: pd.DataFrame, scale: int) -> pd.DataFrame:
    """The answers of the base by YaRN untuned; ValueError for those of two models."""
    rows = rows[(rows["base"] == BASE) & (rows["scale"] == scale)]
    rows = rows[(rows["method"] == "scaled") & (rows["scaling"] == "yarn")]
    if rows["model_hash"].nunique() > 1:
        raise ValueError("two models of the base by YaRN untuned answered; keep the rows of one")
    return rows.assign(variant=UNTUNED, seed=0)


def _check_alike(counted: pd.DataFrame, task: str, asked: Asked) -> None:
    """Refuse runs of which one answered other questions of a size than another, or more."""
    question = ["size", *asked.question]
    groups = counted.groupby(question)["prompt_hash"]
    prompts = groups.agg(different="nunique", answers="size").reset_index()
    runs = counted.groupby("size")["model_hash"].nunique()
    other = prompts[(prompts["different"] > 1) | (prompts["answers"] != prompts["size"].map(runs))]
    if len(other):
        where = ", ".join(f"{name} {other.iloc[0][name]}" for name in question)
        raise ValueError(f"runs answered different questions of {task} ({where}): ask each run "
                         "the same and as many, and keep the rows of these")  # fmt: skip


def whole(
    found: pd.DataFrame,
    sizes: Sequence[str] = ALL,
    ends: Mapping[str, Sequence[str]] = ENDS,
) -> pd.DataFrame:
    """Return the runs that answered every size, in the columns of `variants.values`.

    `found` is of `by_size`; `ends` are means, the sizes of each by its name. The base is not in.
    """
    runs = found[found["variant"] != UNTUNED].dropna(subset=list(sizes))
    means = {end: runs[list(names)].mean(axis=1) for end, names in ends.items()}
    return in_order(runs.assign(factor=1.0, **means))


def not_whole(found: pd.DataFrame, sizes: Sequence[str] = ALL) -> pd.DataFrame:
    """Return a line a run that lacks sizes, in the columns of `variants.not_whole`.

    `found` has variant, seed and a column a size, as of `by_size`.
    """
    lines = [
        {**{name: one[name] for name in WHO}, "factor": 1.0, "lacks": lacks}
        for one in found[found["variant"] != UNTUNED].to_dict("records")
        if (lacks := tuple(name for name in sizes if pd.isna(one[name])))
    ]
    return in_order(pd.DataFrame(lines, columns=[*WHO, "factor", "lacks"]))


def cells(
    found: pd.DataFrame, name: str, seed: int, sizes: Sequence[str], form: Callable[[float], str]
) -> list[str]:
    """Return the cells of a run: its label, seed, n and sizes; "not run" where it has no number.

    `found` is of `by_size`, `name` of `LABELS`; `form` writes a number.
    """
    here = found[(found["variant"] == name) & (found["seed"] == seed)].to_dict("records")
    one = here[0] if here else dict.fromkeys(["n", *sizes], math.nan)
    n = "" if pd.isna(one["n"]) else f"{one['n']:.0f}"
    measured = [number(round(one[size], 9), form) for size in sizes]
    return [LABELS[name], str(seed or ""), n, *measured]
