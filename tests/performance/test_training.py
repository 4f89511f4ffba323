"""The command as it is typed, on a shape that a CPU trains in a second."""

from __future__ import annotations

import json

import pytest

from cream import results
from cream.performance import training

TINY = ["--shape", "tiny", "--steps", "2", "--batch-size", "4", "--workers", "0"]


@pytest.mark.slow
@pytest.mark.usefixtures("warm_children")
def test_settings_are_measured_beside_the_stock_trainer(tmp_path, capsys):
    """Same examples, same losses; one line each, the arithmetic before, rows after."""
    file = str(tmp_path / "rows.jsonl")
    training.main([*TINY, "--stock", "--stock-micro-batch", "2", "--micro-batch", "2",
                     "--recompute", "1", "--card-check", "--rows", file])  # fmt: skip
    said = capsys.readouterr().out
    lines = said.splitlines()
    assert lines[0] == "no card: nothing to check" and "1 layers recomputed" in lines[2]
    assert "times the stock Trainer" in lines[-1]
    stock, ours = (json.loads(line.rsplit("losses ", 1)[1]) for line in lines[3:5])
    assert ours == pytest.approx(stock, rel=5e-3)
    rows = results.read(file)
    assert list(rows["task"]) == ["speed_training"] * 2 and (rows["tokens_per_second"] > 0).all()
    assert [json.loads(one)["precision"] for one in rows["settings"]] == ["bfloat16", "master"]


@pytest.mark.slow
@pytest.mark.usefixtures("warm_children")
def test_a_setting_that_fails_does_not_end_the_rest(capsys):
    """3 does not divide a step of 4 windows; 4 does."""
    training.main([*TINY, "--micro-batch", "3,4"])
    first, second = capsys.readouterr().out.splitlines()
    assert "batch_size 4 is not a multiple of micro_batch 3" in first
    assert "tokens/s" in second


def test_bad_settings_cost_nothing(capsys):
    with pytest.raises(ValueError, match="recompute is 'most'"):
        training.main([*TINY, "--recompute", "most"])
    with pytest.raises(SystemExit):
        training.main(["--steps", "1"])
    assert "the first is left out, so it must be at least 2" in capsys.readouterr().err
