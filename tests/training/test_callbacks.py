"""What is shown while a run goes; what it leaves behind is tested with whole runs."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import training_runs

from cream.training import callbacks, run


def test_a_run_shows_its_loss_and_speed(training_place, tmp_path, capfd):
    """On the bar, from the same numbers as in metrics.jsonl."""
    config = training_runs.config()
    run.train(config, tmp_path / "run", root=training_place)
    said = capfd.readouterr().err
    last = callbacks.read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]
    assert f"loss={last['loss']:.3f}" in said
    assert f"tokens/s={last['tokens_per_second']:,.0f}" in said
    assert "MFU" not in said  # nobody knows a CPU's peak
    assert "epoch" not in last


def test_mfu_is_shown_where_the_cards_peak_is_known(monkeypatch, tmp_path):
    """The log computes it once; the bar shows it with what it was computed from."""
    monkeypatch.setattr(callbacks.torch.cuda, "is_available", lambda: True)
    for name, value in (("get_device_name", "NVIDIA H200"), ("max_memory_allocated", 2**30),
                        ("max_memory_reserved", 2**31)):  # fmt: skip
        monkeypatch.setattr(callbacks.torch.cuda, name, lambda *_, found=value: found)
    shown = {}
    bar = callbacks.ProgressBar()
    bar.bar = SimpleNamespace(set_postfix=shown.update)
    log = callbacks.MetricsLog(tmp_path / "metrics.jsonl", 100, flops=989e10)
    state = SimpleNamespace(is_world_process_zero=True, global_step=3)
    args, logs = SimpleNamespace(world_size=1), {"loss": 1.5, "epoch": 0.1}
    monkeypatch.setattr(callbacks.time, "perf_counter", lambda: log.clock + 5.0)
    for callback in (log, bar):
        callback.on_log(args, state, None, logs=logs)
    assert shown == {"loss": "1.500", "tokens/s": "60", "MFU": "60.0%"}
    (row,) = (json.loads(line) for line in (tmp_path / "metrics.jsonl").open())
    assert row["mfu"] == pytest.approx(0.6) and row["peak_gib"] == 1.0 and row["tokens"] == 300
    assert "epoch" not in row
