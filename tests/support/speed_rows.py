"""Rows of speed as the measuring commands write them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from cream import results
from cream.utils.provenance import hash_of

LAYERS, COUNT = 32, 6_738_415_616  # of Llama-2-7B


@pytest.fixture
def write(tmp_path):
    """Give a function that writes a row and returns all rows written so far."""
    return writer(tmp_path / "rows.jsonl")


def writer(file: Path) -> Callable[..., pd.DataFrame]:
    """The function of `write`, for a file."""

    def add(task: str, score: float | None, *, card: str = "NVIDIA H200", preset: str = "llama2-7b",
            base: str = "random weights", **row: object) -> pd.DataFrame:  # fmt: skip
        how = row.pop("settings")
        header = {"model_hash": "m", "settings": {}, "card": card, "window": 4096, "base": base,
                  "preset": preset, "run": "r"}  # fmt: skip
        with results.Rows(file, header) as rows:
            rows.append({"task": task, "sample": 0, "prompt_hash": hash_of(str(row)),
                         "score": score, "settings": how, **row})  # fmt: skip
        return results.read(file)

    return add


def _speed(write, tokens: float, date: str = "2026-01-01T00:00:00Z", card="NVIDIA H200", **how):
    usual = {"shape": "llama2-7b", "layers": LAYERS, "trainer": "micro-batch 2, recompute auto",
             "micro_batch": 2, "precision": "master", "recompute": "cheap", "offload": "none",
             "zero": 0, "steps": 3, "compile": "auto"}  # fmt: skip
    return write("speed_training", 1.0, card=card, date=date, tokens_per_second=tokens,
                 peak_gib=100.0, settings={**usual, **how})  # fmt: skip


def _pass(write, method: str, target: int, seconds: float | None, **how: object) -> pd.DataFrame:
    tokens, micro = how.pop("tokens", target), how.pop("micro_batch", 1)
    usual = {"shape": "llama2-7b", "of_layers": LAYERS, "layers": LAYERS, "offload": "none",
             "micro_batch": micro, "command": "c", "resident_gib": 10.0}  # fmt: skip
    how = {name: value for name, value in {**usual, **how}.items() if value is not None}
    peak = how.pop("peak", None)
    return write("speed_efficiency", seconds and 1000 * seconds, method=method, token_length=target,
                 num_tokens=micro * tokens, peak_gib=peak, settings=how)  # fmt: skip
