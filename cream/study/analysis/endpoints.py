"""Endpoints: one number of each run for each question that the study asks."""

from __future__ import annotations

import numpy as np
import pandas as pd

__all__ = ["ENDPOINTS", "units"]


ENDPOINT_LENGTHS = (4.0, 6.0, 7.8)  # multiples of N whose mean is the endpoint of LongChat-Lines


RUN = ["plan", "condition", "variant", "method", "scaling", "scale", "base", "seed", "steps",
       "learning_rate", "options"]  # fmt: skip


# What endpoints are computed of; a grid's other columns would be copied with every choice of rows.
ASKED = ["run", "task", "multiple", "gold_index", "score", "nll", "scored_tokens"]


# What a reader calls the endpoints of `units`.
ENDPOINTS = {
    "lines": "LongChat-Lines at 4 to 7.8 N",
    "lines_all": "LongChat-Lines at every length beyond N",
    "lines_last": "LongChat-Lines at 7.8 N",
    "far": "LongChat-Lines from half the target on",
    "kv": "key-value pairs at 2.4 N, all places",
    "middle_accuracy": "key-value pairs at 2.4 N, middle place",
    "middle": "key-value pairs at 2.4 N, middle less ends",
    "in_window": "lines and pairs up to N",
    "needle": "needle at 4 N",
    "log_ppl_near": "perplexity at N",
    "log_ppl_far": "perplexity at the target",
    "rise": "perplexity, from N to the target",
}


PERPLEXITIES = ("log_ppl_near", "log_ppl_far", "rise")


def units(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a row a run with its endpoints, from rows of answers (`records.read`).

    lines: mean accuracy of LongChat-Lines over 4, 6 and 7.8 N; lines_last: at 7.8 N; lines_all:
    over every length asked beyond N; far: over those from half the target on; kv,
    middle_accuracy, middle: key-value retrieval at 2.4 N, its mean, its middle place, and the
    middle less the mean of the two ends; in_window: lines and pairs up to N; needle; log_ppl_near
    and log_ppl_far at N and at the target, rise: their difference. NaN where a run was not asked.
    """
    frame = frame.assign(options=frame["options"].fillna("{}"), score=100 * frame["score"])
    frame["run"] = frame.groupby(RUN, dropna=False).ngroup()
    frame["multiple"] = (frame["token_length"] / frame["window"]).astype(float).round(1)
    found = frame.drop_duplicates("run").set_index("run")[RUN].sort_index()
    target = found["scale"].where(
        found["scale"] > 1, frame.groupby("run")["multiple"].max().round()
    )
    asked = frame[[name for name in ASKED if name in frame]]
    parts = (
        _lines(asked, target),
        _pairs_of_keys(asked),
        _others(asked),
        _perplexity(asked, target),
    )
    return pd.concat([found, *parts], axis=1).sort_values(RUN, ignore_index=True)


def _cells(frame: pd.DataFrame, task: str, column: str) -> pd.DataFrame:
    """Mean points of a task: a row a run, a column a value of `column`."""
    asked = frame[frame["task"] == task]
    return asked.groupby(["run", column])["score"].mean().astype(float).unstack()


def _lines(frame: pd.DataFrame, target: pd.Series) -> pd.DataFrame:
    cells = _cells(frame, "longchat_lines", "multiple")
    beyond = cells.loc[:, cells.columns > 1.05]
    late = beyond.columns.to_numpy()[None, :] >= 0.48 * target.loc[beyond.index].to_numpy()[:, None]
    wanted = cells.reindex(columns=list(ENDPOINT_LENGTHS))
    return pd.DataFrame({
        "lines": wanted.mean(axis=1, skipna=False),
        "lines_all": beyond.mean(axis=1),
        "lines_last": wanted[ENDPOINT_LENGTHS[-1]],
        "far": beyond.where(late).mean(axis=1),
    })  # fmt: skip


def _pairs_of_keys(frame: pd.DataFrame) -> pd.DataFrame:
    """Places are told apart by rank: objects of other lengths have other gold indices."""
    asked = frame[frame["multiple"] > 1.05]
    rank = asked["gold_index"].astype(float).groupby([asked["run"], asked["task"]]).rank("dense")
    cells = _cells(asked.assign(place=rank - 1), "kv_retrieval", "place").reindex(columns=range(5))
    return pd.DataFrame({
        "kv": cells.mean(axis=1, skipna=False),
        "middle_accuracy": cells[2],
        "middle": cells[2] - (cells[0] + cells[4]) / 2,
    })  # fmt: skip


def _others(frame: pd.DataFrame) -> pd.DataFrame:
    near = frame["task"].isin(["longchat_lines", "kv_retrieval"]) & (frame["multiple"] < 1.05)
    in_window = frame[near].groupby("run")["score"].mean().astype(float)
    needle = frame[frame["task"] == "needle"].groupby("run")["score"].mean().astype(float)
    return pd.DataFrame({"in_window": in_window, "needle": needle})


def _perplexity(frame: pd.DataFrame, target: pd.Series) -> pd.DataFrame:
    """100 times the mean loss (nats) over the scored tokens of all texts."""
    texts = frame[frame["task"] == "perplexity"]
    sums = texts.groupby(["run", "multiple"])[["nll", "scored_tokens"]].sum().astype(float)
    cells = (100 * sums["nll"] / sums["scored_tokens"]).unstack()
    last = target.reindex(cells.index)
    far = cells.where(cells.columns.to_numpy()[None, :] == last.to_numpy()[:, None]).mean(axis=1)
    near = cells[1.0] if 1.0 in cells else far * np.nan
    return pd.DataFrame({"log_ppl_near": near, "log_ppl_far": far, "rise": far - near})
