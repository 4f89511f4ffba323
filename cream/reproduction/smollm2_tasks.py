"""Lines, pairs and perplexity of SmolLM2-135M's runs, by length: which answers count.

    found = by_length(results.read("data/smollm2-retrieval"), "longchat_lines", ["cream", "pose"])
    whole(found)      # the runs that answered every length, with the means within and beyond N
    not_whole(found)  # the others

What belongs here: how a campaign asks these tasks, and what the answers of a run, or of the base by
YaRN untuned, come to at each length. Hidden sentences are `smollm2_variants`'.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import pandas as pd

from cream.reproduction.smollm2_margin import ENDS, LENGTHS
from cream.reproduction.smollm2_primary import ASKED, BASE, SCALE, check_tokens
from cream.reproduction.smollm2_variants import in_order, named
from cream.results import variant as form_of

__all__ = ["TASKS", "UNTUNED", "Asked", "by_length", "length_name", "not_whole", "whole"]


class Asked(NamedTuple):
    """How a campaign asks a task: its form, what tells questions of a length apart, how many."""

    form: str  # of `results.variant`
    question: tuple[str, ...]
    fewest: int  # answers of a length that is whole
    lengths: tuple[str, ...]


ALL = tuple(LENGTHS.values())
TASKS = {
    "longchat_lines": Asked("chat", ("sample",), 16, ALL),
    "kv_retrieval": Asked("miniature", ("gold_index", "sample"), 6 * 5, ("4K", "16K", "64K")),
    "perplexity": Asked("truncate", ("sample",), 16, ALL),
}
UNTUNED = "untuned"
WHO = ["variant", "seed"]


def length_name(tokens: int) -> str:
    """Return the name of a length in tokens, rounded to K: 64K for 65,536 and for 65,436."""
    return f"{round(tokens / 1024)}K"


def by_length(rows: pd.DataFrame, task: str, names: Collection[str]) -> pd.DataFrame:
    """Return a line a run, and one of the base by YaRN untuned, with what each length came to.

    `rows` is of `results.read`, `task` of `TASKS`, `names` of `smollm2_variants.VARIANTS`. Columns:
    variant (of `names`, or `UNTUNED`), seed (0 of the base), n (answers a length, the fewest) and
    the task's lengths by name: answers found in per cent, or the perplexity of all documents, NaN
    where a length is not whole. ValueError where a run was trained on more or fewer tokens, where
    two untuned models answered, and where runs answered different questions.
    """
    asked = TASKS[task]
    answers = _answers(rows, task, names)
    sizes = answers.groupby(["model_hash", "length"])["key"].transform("size")
    counted = answers[sizes >= asked.fewest]
    check_tokens(counted[counted["variant"] != UNTUNED])
    _check_alike(counted, task)
    lines = [_line(part, counted[counted["model_hash"] == model])
             for model, part in answers.groupby("model_hash")]  # fmt: skip
    return pd.DataFrame(lines, columns=[*WHO, "n", *asked.lengths])


def _line(part: pd.DataFrame, counted: pd.DataFrame) -> dict[str, object]:
    """Who answered, and what the lengths that are whole came to."""
    lengths = counted.groupby("length")
    found = {name: _measured(one) for name, one in lengths}
    return {**part[WHO].iloc[0].to_dict(), "n": lengths.size().min(), **found}


def _measured(answers: pd.DataFrame) -> float:
    """Answers found in per cent, or the perplexity of all documents together."""
    if answers["task"].iloc[0] == "perplexity":
        return float(np.exp(answers["nll"].sum() / answers["scored_tokens"].sum()))
    return float(100 * answers["score"].mean())


def _answers(rows: pd.DataFrame, task: str, names: Collection[str]) -> pd.DataFrame:
    """The answers of these runs and of the untuned base, with `variant` and `length`, each once."""
    asked, rows = TASKS[task], rows[rows["task"] == task]
    rows = pd.concat([named(rows, names), _untuned(rows)])
    usual = [json.loads(text).get("dtype") == ASKED["dtype"] for text in rows["settings"]]
    rows = rows[np.array(usual, dtype=bool) & (form_of(rows) == asked.form)]
    rows = rows.assign(length=[length_name(tokens) for tokens in rows["token_length"]])
    rows = rows[rows["length"].isin(asked.lengths)]
    rows = rows.sort_values("date", kind="stable", na_position="first")
    return rows.drop_duplicates(["model_hash", "token_length", *asked.question], keep="last")


def _untuned(rows: pd.DataFrame) -> pd.DataFrame:
    """The answers of the base by YaRN untuned; ValueError for those of two models."""
    rows = rows[(rows["base"] == BASE) & (rows["scale"] == SCALE)]
    rows = rows[(rows["method"] == "scaled") & (rows["scaling"] == "yarn")]
    if rows["model_hash"].nunique() > 1:
        raise ValueError("two models of the base by YaRN untuned answered; keep the rows of one")
    return rows.assign(variant=UNTUNED, seed=0)


def _check_alike(counted: pd.DataFrame, task: str) -> None:
    """Refuse runs of which one answered other questions of a length than another, or more."""
    question = ["length", *TASKS[task].question]
    prompts = counted.groupby(question)["prompt_hash"].agg(["nunique", "size"]).reset_index()
    runs = counted.groupby("length")["model_hash"].nunique()
    other = prompts[(prompts["nunique"] > 1) | (prompts["size"] != prompts["length"].map(runs))]
    if len(other):
        where = ", ".join(f"{name} {other.iloc[0][name]}" for name in question)
        raise ValueError(f"runs answered different questions of {task} ({where}): ask each run "
                         "the same and as many, and keep the rows of these")  # fmt: skip


def whole(found: pd.DataFrame) -> pd.DataFrame:
    """Return the runs that answered every length, in the columns of `smollm2_variants.values`.

    `found` is of `by_length` with the lengths of the hidden sentences; the base is left out.
    """
    runs = found[found["variant"] != UNTUNED].dropna(subset=list(ALL))
    means = {end: runs[list(names)].mean(axis=1) for end, names in ENDS.items()}
    return in_order(runs.assign(factor=1.0, **means))


def not_whole(found: pd.DataFrame) -> pd.DataFrame:
    """Return a line a run that lacks lengths, in the columns of `smollm2_variants.not_whole`."""
    lines = [
        {**{name: one[name] for name in WHO}, "factor": 1.0, "lacks": lacks}
        for one in found[found["variant"] != UNTUNED].to_dict("records")
        if (lacks := tuple(name for name in ALL if pd.isna(one[name])))
    ]
    return in_order(pd.DataFrame(lines, columns=[*WHO, "factor", "lacks"]))
