"""Are a grid's rows what this code computes? Untuned models asked again, tuned ones trained again.

A grid reads answers off one forward (`study.scoring`); here the same questions are answered by
greedy decoding, as every notebook does, so that what is checked is also that the two say the same.
A grid keeps no tuned model: one is checked by training it again from its row alone, and as another
card adds in another order, losses, perplexities and LongChat-Lines are compared then, within
`LIMITS`. What belongs here: choosing and comparing a grid's answers; evaluations' rows are `rows`'.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from cream.evaluation import models
from cream.evaluation.model_spec import Loaded, ModelSpec
from cream.study import records as study_records
from cream.study import runner
from cream.study.analysis.endpoints import ENDPOINTS, units
from cream.study.conditions import asked_as
from cream.study.design import Run
from cream.study.scoring import SETS, as_question, right_tokens
from cream.study.worker import Worker
from cream.tasks.base import Example
from cream.verify.examples import Texts, rebuild
from cream.verify.near_ties import NEAR_TIE
from cream.verify.rows import Checked, Unchecked, recompute, table

__all__ = ["LIMITS", "train_again", "verify_grid"]

TASKS = ("longchat_lines", "kv_retrieval")  # the others need the grid's own texts
LONGEST = 8  # windows; without a GPU a question of 64 takes a minute
RARELY = 4  # as often as what can be wrong, `original` is asked beyond N, where it is always wrong
# How far a run trained again may be off: its losses, LongChat-Lines (points), perplexity (per
# cent). Pairs are not compared: from seed to seed they differ by up to 60 points. Set after one run
# of an H200 (bfloat16) was trained again on two cores (float32): losses 0.026 apart in the first
# tenth, where they fall by the step, 0.006 from the third on, lines 0.4, perplexities 0.2.
FALLING = 2  # tenths of a run
LIMITS = {
    "first losses": 0.1,
    "losses": 0.02,
    "lines": 10.0,
    "log_ppl_near": 3.0,
    "log_ppl_far": 3.0,
}
WHY_TUNED = (
    "their weights are not kept; `python -m cream.verify --train 1` trains one of them again and "
    "compares losses and endpoints (a minute on a GPU, up to an hour on two cores)"
)


class _Model(NamedTuple):
    """An untuned model, and the cache of built questions that all models share."""

    loaded: Loaded
    base: models.Base
    built: dict[Hashable, dict[Hashable, Example]]


def verify_grid(
    frame: pd.DataFrame, root: str | Path, rows: int = 20, seed: int = 0, progress: bool = True
) -> Checked:
    """Ask untuned models a random sample of a grid's questions again; compare scores and texts.

    Bases are looked for in data/ and runs/bases/ under `root`, with the weights that the rows name.
    An answer that differs is left out, and counted as a near tie, where the model here prefers its
    own token to the committed one by less than `NEAR_TIE` alone.
    """
    root, unchecked = Path(root), []
    untuned = frame[frame["steps"].fillna(0) == 0]
    if tuned := len(frame) - len(untuned):
        unchecked.append(Unchecked("tuned models", tuned, WHY_TUNED))
    others = ~untuned["task"].isin(TASKS)
    if others.any():
        unchecked.append(Unchecked("needles and texts", int(others.sum()), "need the grid's texts"))
    found, missing = _with_base(untuned[~others], root)
    found, long = _short(found)
    wanted, built = _pick(found, rows, seed), {}
    differing = [_again(part, found, wanted, built, progress) for _, part in wanted.groupby("key")]
    wrong = pd.concat([table([]).assign(index=[]), *differing], ignore_index=True)
    ties = wrong["value"] == "near tie"
    if ties.any():
        why = f"two tokens within {NEAR_TIE} nats: this machine rounds to the other"
        unchecked.append(Unchecked("answers that differ by a near tie", int(ties.sum()), why))
        wanted = wanted.drop(index=wrong["index"][ties])
    wanted = wanted.assign(run=wanted["base"] + ", " + wanted["variant"] + " " + wanted["scaling"])
    return Checked(wanted, wrong[~ties].drop(columns="index"), unchecked + missing + long)


def _with_base(frame: pd.DataFrame, root: Path) -> tuple[pd.DataFrame, list[Unchecked]]:
    """The rows whose base is here, with its folder; and those of bases that are not."""
    keep, missing = [], []
    for (base, hashed), part in frame.groupby(["base", "base_hash"]):
        places = [root / "data" / base, root / "runs" / "bases" / base]
        there = [place for place in places if (place / "config.json").is_file()]
        same = [p for p in there if ModelSpec("", str(p), "").weights_hash() == hashed]
        if same:
            keep.append(part.assign(place=str(same[0])))
        else:
            why = f"the folder holds other weights than {hashed}" if there else (
                f"its weights are not in the tree; put them into runs/bases/{base}")  # fmt: skip
            missing.append(Unchecked(f"base {base}", len(part), why))
    return (pd.concat(keep) if keep else frame.iloc[:0].assign(place="")), missing


def _short(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[Unchecked]]:
    """Without a GPU, the questions that take seconds; and how many take minutes."""
    long = frame["token_length"] > LONGEST * frame["window"]
    if torch.cuda.is_available() or not long.any():
        return frame, []
    why = "without a GPU each takes a minute; on one they are asked too"
    what = f"questions longer than {LONGEST} windows"
    return frame[~long], [Unchecked(what, int(long.sum()), why)]


def _model_spec(row: pd.Series) -> ModelSpec:
    scaled = row["variant"] == "scaled"
    how = {"scaling": row["scaling"], "scale": int(row["scale"])} if scaled else {}
    return ModelSpec(str(row["variant"]), str(row["place"]), str(row["variant"]), **how)


def _pick(frame: pd.DataFrame, rows: int, seed: int) -> pd.DataFrame:
    """Random answers, spread over the models and their tasks; few that nobody could get wrong."""
    shuffled = frame.iloc[np.random.default_rng(seed).permutation(len(frame))]
    dull = (shuffled["variant"] == "original") & (shuffled["token_length"] > shuffled["window"])
    turn = shuffled.groupby([shuffled["key"], shuffled["task"], dull]).cumcount()
    turn = turn.where(~dull, RARELY * turn + RARELY - 1)
    return shuffled.loc[turn.sort_values(kind="stable").index[:rows]].sort_index()


# ------------------------------------------------------------------------------ asked again


def _identity(row: object) -> Hashable:
    """What a question is, by what both a row and an example say of it exactly."""
    return row.task, int(row.token_length), int(row.sample), int(row.gold_index), str(row.document)


def _again(
    mine: pd.DataFrame, frame: pd.DataFrame, wanted: pd.DataFrame, built: dict, progress: bool
) -> pd.DataFrame:
    """Ask one untuned model its wanted questions again; what differs, a row a value."""
    first = mine.iloc[0]
    loaded = dataclasses.replace(_model_spec(first).load(torch.float32), allow_beyond=True)
    model = _Model(loaded, models.base_of(first["place"]), built)
    found = []
    for (task, length), part in mine.groupby(["task", "token_length"]):
        like = _alike(frame, first, task, length)
        examples = _built(model, first["asked"], like, _alike(wanted, first, task, length))
        asked = {_identity(row): examples.get(_identity(row)) for row in part.itertuples()}
        again = recompute(loaded, task, [one for one in asked.values() if one], progress, _identity)
        for row in part.itertuples():
            example = asked[_identity(row)]
            where = (f"{row.base}, {row.variant} {row.scaling}, {task}, {length} tokens, sample "
                     f"{row.sample}")  # fmt: skip
            found += [(row.Index, where, *each)
                      for each in _differences(model, row, example, again)]  # fmt: skip
    return pd.DataFrame(found, columns=["index", *table([]).columns])


def _alike(frame: pd.DataFrame, first: pd.Series, task: str, length: int) -> pd.DataFrame:
    """The rows of one task, length and set of questions."""
    same = (frame["asked"] == first["asked"]) & (frame["window"] == first["window"])
    return frame[same & (frame["task"] == task) & (frame["token_length"] == length)]


def _built(
    model: _Model, asked: str, like: pd.DataFrame, wanted: pd.DataFrame
) -> dict[Hashable, Example]:
    """The questions of one task and length that any model is asked, made once."""
    name = (asked, *like.iloc[0][["task", "token_length", "window"]])
    if name not in model.built:
        one = like[like["key"] == like["key"].iloc[0]]
        one, wanted = (rows.assign(settings=json.dumps({"style": "miniature"}))
                       for rows in (one, wanted))  # fmt: skip
        texts = Texts(model.base.tokenizer, model.base.window)
        found = rebuild(one, texts, SETS[asked_as(asked)[0]].seed, wanted).values()
        model.built[name] = {_identity(example): example for example in found}
    return model.built[name]


def _differences(
    model: _Model, row: object, example: Example | None, again: dict[Hashable, pd.Series]
) -> Iterator[tuple[str, object, object]]:
    """Yield (value, committed, computed) of what is not the same in an answer."""
    if example is None:
        yield "question", row.document, "no such question is built"
        return
    score = float(again[_identity(row)]["score"])
    if example.target != row.target:
        yield "target", row.target, example.target
    elif float(row.score) != float(row.prediction == row.target):
        yield "score", float(row.score), f"{score}, and its own prediction gives another"
    elif not score == float(row.score) == 1:
        yield from _by_tokens(model, row, example, score)


def _by_tokens(
    model: _Model, row: object, example: Example, score: float
) -> Iterator[tuple[str, object, object]]:
    """The same of a wrong answer's text, which ends with its first wrong token."""
    item, decode = as_question(model.loaded.tokenizer, example), model.loaded.tokenizer.decode
    right, wrong = (each[0] for each in right_tokens(model.loaded.model, [item]))
    said = example.target if wrong < 0 else decode([*item.target[:right], wrong])
    if said == row.prediction and score == float(row.score):
        return
    place = min(right, int(row.right))
    logits = _logits(model, np.concatenate([item.prompt, item.target[:place]]))
    best = torch.topk(logits, 5)
    if int(row.right) > right:
        near = [float(logits[item.target[place]])]
    else:
        near = [float(value) for token, value in zip(best.indices, best.values, strict=True)
                if decode([*item.target[:place], int(token)]) == row.prediction]  # fmt: skip
    if near and float(best.values[0]) - max(near) < NEAR_TIE:
        yield "near tie", row.prediction, said
    elif score != float(row.score):
        yield "score", float(row.score), score
    else:
        yield "prediction", row.prediction, said


@torch.inference_mode()
def _logits(model: _Model, tokens: np.ndarray) -> torch.Tensor:
    """The logits of the token behind these."""
    network = model.loaded.model
    ids = torch.from_numpy(tokens)[None].to(network.device)
    return network(input_ids=ids, logits_to_keep=1).logits[0, -1].float().cpu()


# ---------------------------------------------------------------------------- trained again


def train_again(
    frame: pd.DataFrame,
    root: str | Path,
    number: int = 1,
    seed: int = 0,
    out: str | Path = "runs/grid",
    cache: str | Path = "runs/sources",
) -> Checked:
    """Train random tuned runs of the bases that are here again, and compare them within `LIMITS`.

    `out`, under `root`, holds the grid's texts (`make grid-data`); FileNotFoundError without them.
    """
    root = Path(root)
    if not (root / out / "corpora").is_dir():
        raise FileNotFoundError(f"the grid's texts are not at {out}: make them with make grid-data")
    runs, missing = _with_base(frame[frame["steps"] > 0].drop_duplicates("key"), root)
    order = np.random.default_rng(seed).permutation(len(runs))[:number]
    wanted, found = runs.iloc[order], []
    for _, row in wanted.iterrows():
        found += _trained(row, frame[frame["key"] == row["key"]], root / out, root / cache)
    wanted = wanted.assign(run=wanted["base"] + ", " + wanted["plan"], task="trained again")
    missing = [one._replace(what=f"{one.what} (runs)") for one in missing]
    return Checked(wanted, table(found), missing)


def _trained(
    row: pd.Series, committed: pd.DataFrame, out: Path, cache: Path
) -> list[tuple[str, str, object, object]]:
    """Train one run from its row alone; what is off by more than its limit."""
    names = [field.name for field in dataclasses.fields(Run)]
    run = Run(**{name: getattr(row[name], "item", lambda n=name: row[n])() for name in names})
    where = f"{run.plan} {run.condition} {run.variant} {run.scaling} {run.base} seed {run.seed}"
    known = runner.setting(out, [row["place"]], [run.asked], str(cache), compiled=False,
                         conditions=[run.condition])  # fmt: skip
    if known.key(run) != row["key"]:
        return [(where, "key", row["key"], known.key(run))]
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    print(f"training again: {where}: {run.steps} steps of {run.batch} windows", flush=True)
    start = time.perf_counter()
    record = Worker(dataclasses.replace(known, device=device)).measure(run)
    tokenizer = models.base_of(row["place"]).tokenizer
    again = units(study_records.unfold([record], known.questions, tokenizer)).iloc[0]
    was = units(committed).iloc[0]
    apart = np.abs(np.subtract(record["losses"], json.loads(row["losses"])))
    losses = {"first losses": apart[:FALLING].max(), "losses": apart[FALLING:].max()}
    off = {name: abs(again[name] - was[name]) for name in LIMITS if name not in losses}
    said = [f"{ENDPOINTS[name]} {was[name]:.1f}, again {again[name]:.1f}" for name in (*off, "kv")
            if pd.notna(was[name])]  # fmt: skip
    print(f"  after {time.perf_counter() - start:.0f} s: losses within {apart.max():.4f}; "
          + "; ".join(said), flush=True)  # fmt: skip
    return [
        (where, name, row["losses"], record["losses"])
        for name, value in losses.items()
        if value > LIMITS[name]
    ] + [
        (where, name, was[name], again[name])
        for name, value in off.items()
        if value > LIMITS[name] or np.isnan(again[name]) != np.isnan(was[name])
    ]
