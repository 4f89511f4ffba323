"""What runs cost, from rows whose numbers are round."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import pandas as pd
import pytest
from speed_rows import _pass, _speed

from cream import presets, results
from cream.models.hardware import training_flops
from cream.performance import costs, random_models
from cream.training.parallel import Machine

LAYERS, COUNT = 32, 6_738_415_616  # of Llama-2-7B


def test_hours_are_tokens_over_speed_and_gpu_hours_times_cards(write):
    """131,072,000 tokens at 13,107.2 a second: 10,000 s; two cards cost twice the hours."""
    _speed(write, 13_107.2)
    rows = _speed(write, 26_214.4, processes=2, zero=1, zero_offload="none")
    table = costs.runs(costs.measured(rows), {"base": 131_072_000})
    assert table["base, hours"].tolist() == pytest.approx([10_000 / 3600, 5_000 / 3600])
    assert table["base, GPU-hours"].tolist() == pytest.approx([10_000 / 3600] * 2)
    assert table["how"].tolist() == [
        "micro-batch 2, element-wise results recomputed",
        "micro-batch 2, ZeRO-1, element-wise results recomputed",
    ]
    flops = training_flops(random_models.shape("llama2-7b"), COUNT, 4096)
    assert table["mfu"].tolist() == pytest.approx([13_107.2 * flops / 989e12] * 2)


def test_every_measurement_is_kept_the_later_plans_and_other_depths_do_nothing(write):
    _speed(write, 10_000.0, date="2026-01-02T00:00:00Z", steps=4)
    _speed(write, 11_000.0, date="2026-01-01T00:00:00Z")
    rows = _speed(write, 90_000.0, layers=4)
    table = costs.measured(rows)
    assert table["tokens_per_second"].tolist() == [11_000.0, 10_000.0]
    assert costs.latest(table)["tokens_per_second"].tolist() == [10_000.0]
    assert costs.measured(results.read()).empty and costs.latest(table[:0]).empty


def test_several_gpus_are_compared_with_one_of_the_same_machine(write):
    """The fastest of ours within half an hour; without one, of the same card at any time."""
    _speed(write, 13_000.0, date="2026-01-01T10:00:00Z")
    _speed(write, 12_500.0, date="2026-01-01T12:00:00Z")
    _speed(write, 12_000.0, date="2026-01-01T12:05:00Z", micro_batch=1)
    _speed(write, 99_000.0, date="2026-01-01T12:05:00Z", trainer="stock Trainer")
    _speed(write, 77_000.0, date="2026-01-01T12:05:00Z", card="other")
    two = {"processes": 2, "zero": 1, "zero_offload": "none"}
    _speed(write, 24_000.0, date="2026-01-01T12:10:00Z", **two)
    _speed(write, 26_000.0, date="2026-01-02T12:10:00Z", **two, steps=4)
    rows = _speed(write, 50_000.0, card="new", **two)
    table = costs.measured(rows)
    shares = dict(zip(table["tokens_per_second"], costs.of_one(table), strict=True))
    assert shares[24_000.0] == pytest.approx(24 / 25) and shares[26_000.0] == 1.0
    assert {shares[speed] for speed in (13_000.0, 99_000.0, 77_000.0, 50_000.0)} == {None}


def test_commands_are_kept_or_said_again():
    kept = {"task": "speed_training", "preset": "x", "settings": json.dumps({"command": "do it"})}
    assert costs.command(kept) == "do it"
    how = {"shape": "llama2-7b", "layers": 32, "steps": 3, "micro_batch": 4}
    stock = {"task": "speed_training", "preset": "llama2-7b",
             "settings": {**how, "trainer": "stock Trainer"}}  # fmt: skip
    said = "python -m cream.performance training --shape llama2-7b --steps 3"
    assert costs.command(stock) == f"{said} --stock --stock-micro-batch 4"
    ours = {**stock, "settings": {**how, "trainer": "micro-batch 4, recompute auto"}}
    assert costs.command(ours) == f"{said} --micro-batch 4 --recompute auto"
    at_length = {"task": "speed_generation", "preset": "llama2-7b"}
    how = {"shape": "llama2-7b", "layers": 4, "samples": 6, "repeats": 1}
    begins = "python -m cream.performance generation "
    for of, asked in (("longchat_lines", "--lines 6 --pairs 0"),
                      ("kv_retrieval", "--lines 0 --pairs 6")):  # fmt: skip
        said = costs.command({**at_length, "settings": {**how, "of": of}})
        assert said == f"{begins}--shape llama2-7b --layers 4 {asked} --repeats 1"
    how = {"samples": 50, "questions": 1, "repeats": 3}
    said = costs.command({"task": "speed_generation", "preset": None, "settings": how})
    assert said == f"{begins}--samples 50 --questions 1 --repeats 3"
    long = {"task": "speed_long", "preset": "llama2-7b", "token_length": 32768,
            "settings": {"shape": "llama2-7b", "layers": 4, "tile": "auto"}}  # fmt: skip
    assert costs.command(long) == (
        "python -m cream.performance long --shape llama2-7b --layers 4 --lengths 32768 --tile auto"
    )


def _plan(rows, tmp_path, preset="llama2-7b", **changes) -> costs.Plan:
    config = presets.get(preset, **changes).train
    return costs.plan(config, preset, tmp_path / "run", rows, ".")


@pytest.mark.slow
def test_a_plan_says_hours_memory_and_disk_by_measured_card(write, tmp_path, monkeypatch):
    """The nearest setting of each card; nothing is asked of the hub."""
    monkeypatch.setattr(costs.models, "load_config", lambda *_: pytest.fail("asked the hub"))
    monkeypatch.setattr(costs.shutil, "disk_usage", lambda _: SimpleNamespace(free=10 * 2**30))
    _speed(write, 20_000.0, micro_batch=4, trainer="micro-batch 4, recompute auto")
    _speed(write, 30_000.0, trainer="stock Trainer", precision="bfloat16")
    _speed(write, 13_107.2)
    rows = _speed(write, 10_000.0, card="NVIDIA H100 80GB HBM3", offload="moments")
    monkeypatch.setattr(costs.parallel.Machine, "here", lambda: Machine())
    lines = str(_plan(rows, tmp_path)).splitlines()
    assert lines[0].startswith("1,000 steps of 32 x 4,096 = 131,072 tokens, 131,072,000 in all")
    assert lines[1] == "time: this machine, cpu: hours not measured for a model of this size"
    assert lines[2].startswith("time: NVIDIA H100 80GB HBM3: 3.6 hours at 10,000 tokens/s")
    assert "moments in RAM" in lines[2]
    assert lines[3].startswith("time: NVIDIA H200: 2.8 hours at 13,107 tokens/s, MFU 57.9%")
    assert "states 50.2" in lines[4] and lines[4].endswith("as on NVIDIA H100 80GB HBM3")
    assert "states 100.4" in lines[5]
    size, model = 14 * COUNT / 2**30, 2 * COUNT / 2**30
    assert lines[6] == (
        f"disk: two checkpoints of {size:.1f} GiB, a model of {model:.1f} GiB, at most "
        f"{2 * size + model:.1f} GiB at a time; 10.0 free: not enough for all of it"
    )
    chat = str(_plan(rows, tmp_path, "llama2-7b-chat")).splitlines()
    assert "21.8 minutes" in chat[2]
    assert any(line.startswith("disk: a checkpoint of") for line in chat)
    cards = [line for line in chat if line.startswith("on one card: LoRA of rank 16: ")]
    assert len(cards) == 1 and "24 GB fits" in cards[0]


def test_a_full_length_run_counts_the_tokens_of_full_examples(write, tmp_path, monkeypatch):
    """Of L tokens each, not of N: eight times the tokens, and a longer example to hold."""
    monkeypatch.setattr(costs.models, "load_config", lambda *_: pytest.fail("asked the hub"))
    rows = _speed(write, 13_107.2)
    plan = _plan(rows, tmp_path, method="full", scale=8)
    assert plan.said[0].startswith("1,000 steps of 32 x 32,768 = 1,048,576 tokens")


def test_a_run_of_shorter_examples_counts_their_tokens(write, tmp_path, monkeypatch):
    monkeypatch.setattr(costs.models, "load_config", lambda *_: pytest.fail("asked the hub"))
    plan = _plan(_speed(write, 13_107.2), tmp_path, train_window=1024)
    assert plan.said[0].startswith("1,000 steps of 32 x 1,024 = 32,768 tokens")


def test_the_card_of_this_machine_comes_first_or_is_said_to_be_too_small(
    write, tmp_path, monkeypatch
):
    _speed(write, 10_000.0, card="NVIDIA H100 80GB HBM3", offload="moments")
    rows = _speed(write, 13_107.2)
    here = Machine(1, 1, 140 * 2**30, "NVIDIA H200")
    monkeypatch.setattr(costs.parallel.Machine, "here", lambda: here)
    said = str(_plan(rows, tmp_path))
    assert said.splitlines()[1].startswith("time: this machine, NVIDIA H200: 2.8 hours")
    assert "element-wise results recomputed: states 100.4" in said
    small = dataclasses.replace(here, card=24 * 2**30, name="small")
    monkeypatch.setattr(costs.parallel.Machine, "here", lambda: small)
    said = str(_plan(rows, tmp_path))
    assert "this machine, small: hours not measured" in said
    assert "memory: this run would be refused here: " in said


def test_another_size_is_counted_at_the_measured_share_or_not_at_all(write, tmp_path, monkeypatch):
    """Half of the layers: about half of the operations; the miniature is another world."""
    monkeypatch.setattr(costs.parallel.Machine, "here", lambda: Machine())
    rows = _speed(write, 10_000.0)
    half = random_models.shape("llama2-7b", 16)
    monkeypatch.setattr("cream.models.loading.load_config", lambda *_: half)
    said = str(_plan(rows, tmp_path, base="some/model"))
    count = costs.memory.parameters(half)
    whole = training_flops(random_models.shape("llama2-7b"), COUNT, 4096)
    speed = 10_000 * whole / training_flops(half, count, 4096)
    assert f"at {speed:,.0f} tokens/s" in said and "from llama2-7b, at its MFU" in said
    monkeypatch.undo()
    monkeypatch.setattr(costs.parallel.Machine, "here", lambda: Machine())
    lines = str(_plan(rows, tmp_path, "miniature")).splitlines()
    assert lines[0].startswith("100 steps of 8 x 512") and "5,795,072 parameters" in lines[0]
    assert [line for line in lines if line.startswith("time")] == [
        "time: this machine, cpu: hours not measured for a model of this size"
    ]


def test_the_miniatures_own_rows_speak_for_it(write, tmp_path, monkeypatch):
    monkeypatch.setattr(costs.parallel.Machine, "here", lambda: Machine())
    how = {"compile": "auto", "workers": 0, "micro_batch": 8, "precision": "auto", "steps": 20,
           "threads": 2}  # fmt: skip
    rows = write("speed_training", 2000.0, card="cpu", preset="miniature", base="miniature",
                 window=512, tokens_per_second=2048.0, settings=how)  # fmt: skip
    said = str(_plan(rows, tmp_path, "miniature"))
    assert "time: this machine, cpu: 3.3 minutes at 2,048 tokens/s (micro-batch 8" in said
    assert "processors differ; measured with 2 threads" in said
    assert [costs._hours(one) for one in (2.8, 0.5, 0.002)] == [
        "2.8 hours", "30.0 minutes", "7 seconds"
    ]  # fmt: skip
    assert "python -m cream.performance small-training miniature --corpus random" in said


# ------------------------------------------------------------------------------------ by target


def test_a_step_is_its_passes_and_the_optimizers(write):
    """CREAM: 16 passes of two windows; full length: 32 of one text, or as many tokens."""
    _pass(write, "cream", 8192, 0.5, tokens=4096, micro_batch=2, peak=34.0)
    _pass(write, "full", 8192, 0.6)
    rows = write("speed_optimizer", 250.0, method="step", settings={
        "shape": "llama2-7b", "offload": "none", "command": "c"})  # fmt: skip
    cream, full = costs.by_target(rows).to_dict("records")
    assert (cream["method"], cream["kind"], cream["held"]) == ("cream", "measured", 24.0)
    assert cream["step"] == cream["tokens"] == pytest.approx(16 * 0.5 + 0.25)
    assert full["step"] == pytest.approx(32 * 0.6 + 0.25)
    assert full["tokens"] == pytest.approx(16 * 0.6 + 0.25)
    assert full["gib"] is None or pd.isna(full["gib"])


def test_what_does_not_fit_is_extrapolated_by_the_layer_and_marked(write):
    """1 s and 5 a layer, 8 GiB and 3 a layer: 161 s and 104 GiB, beside the weights' own."""
    _pass(write, "full", 262144, None, layers=None, why="too large")
    for depth in (2, 4):
        rows = _pass(write, "full", 262144, 1 + 5.0 * depth, layers=depth, peak=18 + 3.0 * depth)
    (line,) = costs.by_target(rows).to_dict("records")
    assert (line["kind"], line["offload"]) == ("extrapolated", "moments")
    assert line["step"] == pytest.approx(32 * 161) and line["held"] == pytest.approx(104)
    assert line["gib"] == pytest.approx(8 * COUNT / 2**30 + 104)


def test_what_was_not_measured_at_two_depths_only_does_not_fit(write):
    _pass(write, "full", 262144, None, layers=None, why="too large")
    rows = _pass(write, "full", 262144, 11.0, layers=2)
    (line,) = costs.by_target(rows).to_dict("records")
    assert (line["kind"], line["why"]) == ("does not fit", "too large") and line["step"] is None
    assert costs.by_target(results.read()).empty
