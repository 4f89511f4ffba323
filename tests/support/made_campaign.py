"""A whole campaign of a grid, made up: every plan, on the columns that figures and tables read."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
from made_grid import answers

from cream.positions import METHODS
from cream.study.records import NUMBERS

OPTIONS = {
    "uniform": {"middle": "uniform"},
    "continuity": {"mode": "continuity"},
    "relativity": {"mode": "relativity"},
    "sigma 1": {"sigma": 1.0},
    "sigma 2": {"sigma": 2.0},
    "sigma 4": {"sigma": 4.0},
    "mode by batch": {"mode_group": 3000},
    "ends x4": {"ends": 16},
    "sigma grown": {"sigma": 24.0},
    "mean 9": {"mean": 9.0},
}
ABLATED = {name: 0.55 for name in OPTIONS if name not in ("sigma grown", "mean 9")}


EVERY = ("primary", "ablations", "sensitivity", "scale64", "dense")


def campaign(plans: tuple[str, ...] = EVERY, **small):
    """Rows of the plans, three bases of two seeds unless `small` says otherwise."""
    parts = {
        "primary": lambda: [answers(**small)],
        "ablations": lambda: [
            answers(ABLATED | {"pose-v1": 0.45}, plan="ablations", conditions=("text",),
                    scalings=("yarn",), seed=1, **small)
        ],
        "sensitivity": lambda: [
            answers({"plain": 0.4 + k, "pose": 0.6 - k, "cream": 0.55 + k}, plan="sensitivity",
                    conditions=("text",), scalings=("yarn",), seed=2 + n, **small)
            .assign(learning_rate=rate)
            for n, (rate, k) in enumerate(((1e-4, 0.0), (3e-4, 0.05), (1e-3, -0.2)))
        ],
        "scale64": lambda: [
            _longer(answers({"pose": 0.5, "cream": 0.5, "sigma grown": 0.6, "mean 9": 0.3},
                            plan="scale64", conditions=("text",), scalings=("yarn",), seed=6,
                            **small))
        ],
        "dense": lambda: [
            answers({"plain": 0.3, "pose": 0.5, "cream": 0.55, "full": 0.7}, plan="dense",
                    conditions=("dense",), scalings=("linear",), seed=7, **small)
        ],
    }  # fmt: skip
    frame = pd.concat([part for plan in plans for part in parts[plan]()], ignore_index=True)
    return _finished(frame)


def _longer(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(scale=64, token_length=frame["token_length"].where(
        frame["token_length"] <= 512, 8 * frame["token_length"]))  # fmt: skip


def _finished(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns that answers of models have and made ones lack."""
    rng = np.random.default_rng(0)
    method = frame["variant"].where(
        frame["variant"].isin([*METHODS, "original", "scaled"]), "cream"
    )
    lines = frame["task"].isin(["longchat_lines", "kv_retrieval", "needle"])
    depth = pd.Series(np.round(100 * rng.random(len(frame)), 1), frame.index).where(lines)
    depth = (100 * frame["gold_index"] / 80).where(frame["task"] == "kv_retrieval", depth)
    frame = frame.assign(
        method=method,
        options=[json.dumps(OPTIONS.get(variant, {})) for variant in frame["variant"]],
        depth_percent=depth,
        num_keys=np.where(frame["task"] == "kv_retrieval", 81, np.nan),
        key=[f"made{number}" for number in range(len(frame))],
        commit="0123abc",
        date="2026-01-01T00:00:00Z",
        prediction="",
    )
    return frame.astype({name: kind for name, kind in NUMBERS.items() if name in frame})
