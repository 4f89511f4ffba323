"""Are a grid's rows what this code computes? Untuned models, asked again by generating.

A grid reads answers off one forward (`questions`); here the same questions are answered by greedy
decoding, as every notebook does, so that what is checked is also that the two say the same. What
belongs here: choosing and comparing a grid's answers; rows of evaluations are `verify`'s. A tuned
model is not kept by a grid: its cell has to be trained again (`python -m cream.grid PLAN`), which
takes a GPU.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Hashable
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from cream import subjects
from cream.questions import SETS
from cream.rebuilding import Texts, rebuild
from cream.verify_rows import Checked, Unchecked, ask, table

__all__ = ["verify_grid"]

TASKS = ("longchat_lines", "kv_retrieval")  # the others need the grid's own texts
NEAR_TIES = 0.02  # share of answers that another card's rounding may turn


def verify_grid(
    frame: pd.DataFrame, root: str | Path, rows: int = 20, seed: int = 0, progress: bool = True
) -> Checked:
    """Ask untuned models a random sample of a grid's questions again and compare the scores.

    Bases are looked for in data/ and runs/bases/ under `root`, with the weights that the rows name.
    On another card than the rows' a share of `NEAR_TIES` may differ, and one answer of few.
    """
    root, unchecked = Path(root), []
    untuned = frame[frame["steps"].fillna(0) == 0]
    tuned = len(frame) - len(untuned)
    if tuned:
        unchecked.append(Unchecked("tuned models", tuned, "their weights are not kept"))
    others = ~untuned["task"].isin(TASKS)
    if others.any():
        unchecked.append(Unchecked("needles and texts", int(others.sum()), "need the grid's texts"))
    found, missing = _with_base(untuned[~others], root)
    wanted = _pick(found, rows, seed)
    differing = [_again(part, found, progress) for _, part in wanted.groupby("key")]
    wrong = pd.concat([table([]), *differing], ignore_index=True)
    if len(wrong) and not _same_card(wanted) and len(wrong) <= max(1, NEAR_TIES * len(wanted)):
        unchecked.append(Unchecked("near ties", len(wrong), "rounded otherwise on this machine"))
        wrong = wrong.iloc[:0]
    wanted = wanted.assign(run=wanted["base"] + ", " + wanted["variant"])
    return Checked(wanted, wrong, unchecked + missing)


def _same_card(frame: pd.DataFrame) -> bool:
    here = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return set(frame["card"].dropna()) == {here}


def _with_base(frame: pd.DataFrame, root: Path) -> tuple[pd.DataFrame, list[Unchecked]]:
    """The rows whose base is here, with its folder; and those of bases that are not."""
    keep, missing = [], []
    for (base, hashed), part in frame.groupby(["base", "base_hash"]):
        places = [root / "data" / base, root / "runs" / "bases" / base]
        there = [place for place in places if (place / "config.json").is_file()]
        same = [p for p in there if _subject(p, part.iloc[0]).weights_hash() == hashed]
        if same:
            keep.append(part.assign(place=str(same[0])))
        else:
            why = "the folder holds other weights" if there else "the base is not here"
            missing.append(Unchecked(f"base {base}", len(part), why))
    return (pd.concat(keep) if keep else frame.iloc[:0].assign(place="")), missing


def _subject(place: Path | str, row: pd.Series, scaled: bool = False) -> subjects.Subject:
    how = {"scaling": row["scaling"], "scale": int(row["scale"])} if scaled else {}
    return subjects.Subject(str(row["variant"]), str(place), str(row["variant"]), **how)


def _pick(frame: pd.DataFrame, rows: int, seed: int) -> pd.DataFrame:
    """Random answers, spread over the models and their tasks."""
    shuffled = frame.iloc[np.random.default_rng(seed).permutation(len(frame))]
    turn = shuffled.groupby(["key", "task"]).cumcount()
    return shuffled.loc[turn.sort_values(kind="stable").index[:rows]].sort_index()


def _identity(row: object) -> Hashable:
    """What a question is, by what both a row and an example say of it exactly."""
    return row.task, int(row.token_length), int(row.sample), int(row.gold_index), str(row.document)


def _again(wanted: pd.DataFrame, frame: pd.DataFrame, progress: bool) -> pd.DataFrame:
    """Ask one untuned model its wanted questions again; what differs, a row a value."""
    first = wanted.iloc[0]
    base = subjects.base_of(first["place"])
    subject = _subject(first["place"], first, scaled=first["variant"] == "scaled")
    loaded = dataclasses.replace(subject.load(torch.float32), allow_beyond=True)
    every = frame[frame["key"] == first["key"]].assign(settings=json.dumps({"style": "miniature"}))
    found = []
    for task, part in wanted.groupby("task"):
        texts = Texts(base.tokenizer, base.window)
        built = rebuild(every[every["task"] == task], texts, SETS[first["asked"]].seed)
        examples = {_identity(example): example for example in built.values()}
        asked = {_identity(row): examples.get(_identity(row)) for row in part.itertuples()}
        again = ask(loaded, task, [one for one in asked.values() if one], progress, _identity)
        for row in part.itertuples():
            where = (f"{row.base}, {row.variant} {row.scaling}, {task}, {row.token_length} tokens, "
                     f"sample {row.sample}")  # fmt: skip
            example = asked[_identity(row)]
            if example is None:
                found.append((where, "question", row.document, "no such question is built"))
            elif example.target != row.target:
                found.append((where, "target", row.target, example.target))
            elif float(again[_identity(row)]["score"]) != float(row.score):
                again_score = float(again[_identity(row)]["score"])
                found.append((where, "score", float(row.score), again_score))
    return table(found)
