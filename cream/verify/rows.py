"""Are committed rows what this code computes? A random sample of them, computed again.

A row is computed again from its model, task, length, place, sample and settings alone: the question
is built, the model asked, and key, prompt hash, prediction and scores are compared. The base and
its scaled form lie in data/; a fine-tuned model is checked where its run folder holds the weights
that the row names, and counted as not checkable otherwise. What belongs here: choosing rows,
computing and comparing them; the command is `verify`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from cream import results
from cream.evaluation import models
from cream.evaluation.model_spec import Loaded, ModelSpec
from cream.evaluation.runner import evaluate, keyed
from cream.inference import recorded
from cream.models import bases
from cream.tasks.base import Example
from cream.tasks.registry import find
from cream.verify.examples import BUILDERS, Texts, identity, identity_of, rebuild
from cream.verify.near_ties import ROUNDINGS, roundings

__all__ = ["CORPUS", "Checked", "Unchecked", "compare", "pick", "table", "verify"]

CORPUS = "runs/reproduce/corpus"  # where `make reproduce` puts it
EXACT = ("key", "prompt_hash", "model_hash", "target", "prediction", "score", "contained")
CLOSE = {"nll": 1e-4, "rouge_l": 1e-6}  # relative; other processors add in another order
ANSWERED = {"prediction", "score", "contained", "rouge_l"}  # what another word changes


class Unchecked(NamedTuple):
    """Rows that this machine cannot compute again, and why."""

    what: str
    rows: int
    why: str


class Checked(NamedTuple):
    """Which rows were computed again, what differs (a row a value), and what could not be."""

    rows: pd.DataFrame
    differing: pd.DataFrame
    unchecked: list[Unchecked]


class _Model(NamedTuple):
    """A model whose rows can be checked, and all of them."""

    spec: ModelSpec
    rows: pd.DataFrame


def verify(
    frame: pd.DataFrame,
    root: str | Path,
    rows: int = 40,
    seed: int = 0,
    corpus: str | Path = CORPUS,
    progress: bool = True,
) -> Checked:
    """Compute a random sample of `frame` again, spread over its models and tasks, and compare it.

    Folders are looked for under `root`. `seed` decides the sample alone. An answer in less than
    float32 that parts from the committed one by at most `ROUNDINGS` is left out and counted.
    """
    root = Path(root)
    if rows < 1:
        raise ValueError(f"rows {rows} must be at least 1")
    found, unchecked = _models(frame, root)
    usable = [_usable(model.rows, root / corpus) for model in found]
    unchecked += [one for _, missing in usable for one in missing]
    parts = [part for part, _ in usable]
    wanted = pick(pd.concat(parts, ignore_index=True), rows, seed) if parts else frame.iloc[:0]
    differing, ties = [table([])], []
    for model in found:
        mine = wanted[wanted["model_hash"] == model.rows["model_hash"].iloc[0]]
        if len(mine):
            wrong, near = _again(model, mine, root / corpus, progress)
            differing.append(wrong)
            ties += near
    if ties:
        why = f"they part at two tokens within {ROUNDINGS:g} roundings of the row's precision"
        unchecked.append(Unchecked("answers that differ by a near tie", len(ties), why))
    return Checked(wanted.drop(index=ties), pd.concat(differing, ignore_index=True), unchecked)


def pick(frame: pd.DataFrame, rows: int, seed: int) -> pd.DataFrame:
    """Return `rows` random rows, as many of each model and task as there are to be had."""
    shuffled = frame.iloc[np.random.default_rng(seed).permutation(len(frame))]
    turn = shuffled.groupby(["model_hash", "task"]).cumcount()
    order = turn.sort_values(kind="stable").index[:rows]
    return shuffled.loc[order].sort_index()


def _models(frame: pd.DataFrame, root: Path) -> tuple[list[_Model], list[Unchecked]]:
    """The models that are here with the weights their rows name, and those that are not."""
    found, unchecked = [], []
    for (run, base, hashed), rows in frame.groupby(["run", "base", "model_hash"], dropna=False):
        try:
            (spec,) = models.find(run, _base(base, root), root, rows["preset"].iloc[0])
            here = spec.weights_hash()
        except (OSError, ValueError) as error:
            unchecked.append(Unchecked(run, len(rows), f"not here ({_short(error)})"))
            continue
        # A base is shipped: if it is another than the rows', that is what has to be said.
        if here == hashed or Path(spec.place).is_relative_to(root / "data"):
            found.append(_Model(spec, rows))
        else:
            why = f"the folder holds other weights ({here}; the rows are of {hashed})"
            unchecked.append(Unchecked(run, len(rows), why))
    return found, unchecked


def _base(name: str, root: Path) -> str:
    """Where a base is, by the name that rows have for it; nothing is fetched to check rows."""
    if name not in bases.NAMED:
        return f"data/{name}"
    if not (root / bases.FOLDER / name).is_dir():
        raise FileNotFoundError(f"{bases.FOLDER}/{name} is made by notebooks/01_data and make real")
    return name


def _short(error: Exception) -> str:
    return str(error).split(":")[0][:100]


def _usable(rows: pd.DataFrame, corpus: Path) -> tuple[pd.DataFrame, list[Unchecked]]:
    """The rows whose questions can be built and computed here."""
    run, unchecked, keep = rows["run"].iloc[0], [], []
    for (task, settings), part in rows.groupby(["task", "settings"]):
        if why := _obstacle(task, json.loads(settings), corpus):
            unchecked.append(Unchecked(f"{run}, {task}", len(part), why))
        else:
            keep.append(part)
    return pd.concat(keep) if keep else rows.iloc[:0], unchecked


def _obstacle(task: str, settings: Mapping[str, object], corpus: Path) -> str | None:
    if task not in BUILDERS:
        return "no builder of its questions"
    if find(task).corpus and not corpus.is_dir():
        return (
            f"its texts are not here: there is no {corpus}; `make reproduce` makes it, and "
            "--corpus names another folder of 01_data"
        )
    if settings.get("dtype") != "float32" and not torch.cuda.is_available():
        return f"computed in {settings.get('dtype')}, which needs a GPU"
    return None


def _again(
    model: _Model, wanted: pd.DataFrame, corpus: Path, progress: bool
) -> tuple[pd.DataFrame, list[Hashable]]:
    """Ask one model the wanted rows again: what differs, a row a value, and rows of near ties."""
    base = models.base_of(model.spec.path)
    texts = Texts(base.tokenizer, int(model.rows["window"].iloc[0]), corpus)
    loaded = model.spec.load(getattr(torch, json.loads(wanted["settings"].iloc[0])["dtype"]))
    differing, ties = [], []
    for task, part in wanted.groupby("task"):
        print(f"asking again: {model.spec.name}, {task}: {len(part)}", flush=True)
        built = rebuild(model.rows[model.rows["task"] == task], texts, wanted=part)
        asked = {identity(row) for _, row in part.iterrows()} & set(built)
        computed = recompute(loaded, task, [built[one] for one in asked], progress)
        for index, row in part.iterrows():
            found = _differences(row, computed.get(identity(row)))
            tie = _is_near_tie(loaded, built.get(identity(row)), found)
            ties += [index] if tie else []
            differing += [] if tie else [found]
    return pd.concat([table([]), *differing], ignore_index=True), ties


def _is_near_tie(loaded: Loaded, example: Example | None, differing: pd.DataFrame) -> bool:
    """Whether all that differs of a row follows from one word that rounding chose."""
    told = differing.set_index("value")
    other = "prediction" in told.index and set(told.index) <= ANSWERED
    if not other or loaded.model.dtype == torch.float32:
        return False
    was, now = told.loc["prediction", ["committed", "computed"]]
    return roundings(loaded.model, loaded.tokenizer, example.prompt, was, now) <= ROUNDINGS


def recompute(
    loaded: Loaded,
    task: str,
    examples: Sequence[Example],
    progress: bool,
    named: Callable[[Example], Hashable] = identity_of,
) -> dict[Hashable, pd.Series]:
    """Return the row that each example gives, by what `named` makes of the example.

    Every step is computed, as it was for the committed rows: a recorded one may tell near ties of
    bfloat16 apart otherwise.
    """
    if not examples:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        with results.Rows(path, loaded.header) as file, recorded.computed():
            found = evaluate(
                loaded.model, loaded.tokenizer, find(task).module, examples, file, loaded.settings,
                allow_beyond=loaded.allow_beyond, progress=progress, label=loaded.header["run"],
            ).set_index("key", drop=False)  # fmt: skip
            keys = keyed(examples, file, loaded.settings)
    return {named(one): found.loc[key] for key, (one, _) in keys.items()}


def _differences(row: pd.Series, computed: pd.Series | None) -> pd.DataFrame:
    where = f"{row['run']}, {row['task']}, {row['token_length']} tokens, sample {row['sample']}"
    if computed is None:
        return table([(where, "question", row["prompt_hash"], "no such question is built")])
    return table((where, *each) for each in compare(row, computed))


def table(rows: Iterable) -> pd.DataFrame:
    """Return what differs as a table: which row, which value, committed and computed."""
    return pd.DataFrame(list(rows), columns=["row", "value", "committed", "computed"])


def compare(committed: pd.Series, computed: pd.Series) -> Iterator[tuple[str, object, object]]:
    """Yield (column, committed, computed) of every value that is not the same."""
    for name in (*EXACT, *CLOSE):
        was, now = committed[name], computed[name]
        if pd.isna(was) and pd.isna(now):
            continue
        if pd.isna(was) or pd.isna(now):
            yield name, was, now
        elif name in CLOSE:
            if abs(now - was) > CLOSE[name] * max(abs(was), 1.0):
                yield name, was, now
        elif was != now:
            yield name, was, now
