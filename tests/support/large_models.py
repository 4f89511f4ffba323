"""The 7B shape as numbers, for tests that reckon with memory."""

from __future__ import annotations

import training_runs

from cream.training.config import TrainConfig

GIB = 2**30


COUNT = 6_738_415_616


def seven(**changes: object) -> TrainConfig:
    settings = {"precision": "master", "recompute": "auto", "micro_batch": 1, "batch_size": 32}
    return training_runs.config(**{**settings, "save_dtype": "bfloat16", **changes})
