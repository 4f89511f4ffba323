"""Two GPUs beside one, by the measuring commands' own parts: the same rows, the same losses."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from cream import results
from cream.performance import multi_gpu, multi_gpu_training

QUESTIONS = {"models": "scaled:yarn:8", "samples": 6, "lengths": "1,2"}


def asked_for(folder: Path) -> argparse.Namespace:
    """What `performance multi-gpu --gpus 2` would be given."""
    return argparse.Namespace(rows=str(folder / "rows.jsonl"), command="tests", gpus=2,
                              shape="tiny", limit=280, folder=str(folder))  # fmt: skip


def rows_of_two(folder: Path) -> dict:
    """Evaluate the miniature by one process and by two; return what the row says of both."""
    given = asked_for(folder)
    assert multi_gpu._compare_evaluation(given, folder, "03_longchat_lines", QUESTIONS, None)
    (row,) = results.read(given.rows).to_dict("records")
    return json.loads(row["settings"])


@pytest.mark.gpu(2)
def test_an_evaluation_over_two_gpus_gives_the_rows_of_one(tmp_path):
    """The same questions and answers: LongChat-Lines of the shipped miniature."""
    said = rows_of_two(tmp_path)
    assert (said["rows"], said["answers_differ"], said["equal"]) == (12, 0, True)


@pytest.mark.gpu(2)
def test_two_gpus_train_with_the_losses_of_one(tmp_path):
    """Ten steps of the miniature in float32, by deterministic kernels."""
    given = asked_for(tmp_path)
    assert multi_gpu_training.miniature(given)
    (row,) = results.read(given.rows).to_dict("records")
    assert row["task"] == "check_processes" and row["score"] < multi_gpu_training.FLOAT
