"""Comparisons of one process with several: what counts as equal, what is said and written."""

from __future__ import annotations

import argparse
import importlib.util
import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from cream import models, notebook, results
from cream.performance import multi_gpu, multi_gpu_training, random_models
from cream.training import memory

needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed"
)


def rows(**changes: object) -> pd.DataFrame:
    """Four hundred answers."""
    count = 400
    held = {
        "sample": range(count), "prompt_hash": "x", "target": "1", "num_tokens": 9,
        "prediction": "1", "nll": 20.0, "scored_tokens": 8.0,
    }  # fmt: skip
    return pd.DataFrame({**held, **changes}, index=[f"k{n:03}" for n in range(count)])


def test_rows_are_equal_but_for_rounding():
    assert multi_gpu._same(rows(), rows()) == (True, 0.0, 0)
    one = ["2"] + ["1"] * 399
    assert multi_gpu._same(rows(), rows(prediction=one)) == (False, 0.0, 1)
    assert multi_gpu._same(rows(), rows(nll=20.1))[0] is False
    assert multi_gpu._same(rows(), rows(nll=20.001))[0] is True
    assert multi_gpu._same(rows(), rows(target="2"))[0] is False
    with pytest.raises(SystemExit, match="400 and 399 rows"):
        multi_gpu._same(rows(), rows().iloc[1:])


def test_every_bit_of_a_weight_counts():
    model = torch.nn.Linear(3, 2).bfloat16()
    before = multi_gpu_training._bits(model)
    assert multi_gpu_training._bits(model) == before
    model.weight.data.view(torch.int16)[1, 1] += 1
    assert multi_gpu_training._bits(model) != before


def measured(processes: int, zero: int, speed: float) -> dict:
    how = {"processes": processes, "zero": zero, "micro_batch": 1, "recompute": 0,
           "offload": "none", "mfu": 0.5}  # fmt: skip
    return {"settings": json.dumps(how), "tokens_per_second": speed, "card": "X",
            "num_tokens": 131_072, "peak_gib": 70.0}  # fmt: skip


def test_speeds_are_compared_with_one_gpus(capsys):
    """Efficiency, and hours of 1,000 and 100 steps, by hand."""
    multi_gpu._scaling(pd.DataFrame([measured(1, 0, 10_000.0), measured(2, 2, 18_000.0)]))
    alone, both = capsys.readouterr().out.splitlines()
    assert "10,000 tokens/s, 10,000 a GPU, MFU 50.0%" in alone
    assert "hours of a run: base 3.64, chat 0.36" in alone and "times one GPU" not in alone
    assert "18,000 tokens/s, 9,000 a GPU" in both and "90.0% of 2 times one GPU" in both
    multi_gpu._scaling(pd.DataFrame([measured(2, 2, 18_000.0)]))
    assert "times one GPU" not in capsys.readouterr().out


def test_parts_that_fail_leave_the_others_and_are_named(monkeypatch, capsys):
    def broken(given: argparse.Namespace) -> bool:
        raise RuntimeError("no such luck")

    monkeypatch.setitem(multi_gpu.PARTS, "small", broken)
    monkeypatch.setitem(multi_gpu.PARTS, "resume", lambda given: True)
    with pytest.raises(SystemExit, match="not as it should be: small"):
        multi_gpu.main(["--shape", "tiny", "--parts", "small,resume"])
    said = capsys.readouterr()
    assert "--- resume: 0 s" in said.out and "no such luck" in said.err
    with pytest.raises(SystemExit):
        multi_gpu.main(["--parts", "speed,nothing"])
    assert "there is no nothing" in capsys.readouterr().err


def test_a_row_holds_its_command_and_processes(tmp_path):
    file = tmp_path / "rows.jsonl"
    given = argparse.Namespace(rows=str(file), command="c", gpus=2, shape="tiny")
    multi_gpu_training.append(
        given, "speed_resume", "X", random_models.shape("tiny"), score=1.0, settings={"zero": 2}
    )
    (found,) = results.read(file).itertuples()
    assert json.loads(found.settings) == {"command": "c", "processes": 2, "zero": 2}
    multi_gpu_training.append(argparse.Namespace(rows=None), "x", "X", None)


def test_an_evaluations_row_names_the_model_that_was_asked(tmp_path, monkeypatch):
    """LongChat-Lines asks the miniature, whatever shape the perplexity is of."""
    given = argparse.Namespace(rows=str(tmp_path / "rows.jsonl"), command="c", gpus=2,
                               shape="tiny")  # fmt: skip
    read, said = results.read, {"asked": 2.0, "card": "X", "wall": 3.0}
    monkeypatch.setattr(multi_gpu, "child", lambda *_, **__: said)
    made = rows(token_length=3994).rename_axis("key").reset_index()
    with monkeypatch.context() as patch:
        patch.setattr(results, "read", lambda _: made)
        for name, shape in (
            ("03_longchat_lines", None),
            ("07_perplexity", random_models.shape("tiny")),
        ):
            assert multi_gpu._compare_evaluation(given, tmp_path, name, {}, shape)
    lines, text = read(given.rows).to_dict("records")
    about = {name: lines[name] for name in ("preset", "base", "window", "token_length")}
    assert about == {"preset": "miniature", "base": "miniature", "window": 512,
                     "token_length": 3994}  # fmt: skip
    miniature = notebook.find_root() / "data" / "miniature"
    assert lines["model_hash"] == models.weights_hash(miniature)
    assert not {"shape", "layers"} & set(json.loads(lines["settings"]))
    assert (text["preset"], text["base"], text["window"]) == ("tiny", "random weights", 64)
    assert json.loads(text["settings"])["layers"] == 4


def test_bits_are_compared_by_kernels_in_a_fixed_order():
    """Where torch would only warn it takes attention's unordered backward on a card."""
    try:
        multi_gpu_training._deterministic(exact=True)
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        multi_gpu_training._deterministic(exact=False)
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
        torch.utils.deterministic.fill_uninitialized_memory = True
        torch.backends.cuda.enable_cudnn_sdp(True)


@pytest.mark.parametrize("off", [0.0, 1e-7])
def test_a_resumed_run_must_be_equal_to_the_last_bit(tmp_path, monkeypatch, off):
    """The smallest difference of a loss is said in the row, and the part has failed."""
    asked = []

    def child(given: argparse.Namespace, what: str, count: int, **job: object) -> dict:
        asked.append((what, job.get("exact")))
        if what == "read":
            parameters = memory.parameters(random_models.shape("tiny", 2))
            return {"parameters": parameters, "dtype": "bfloat16", "wall": 1.0}
        (Path(job["root"]) / "run" / "checkpoints").mkdir(parents=True, exist_ok=True)
        return {"losses": [5.0, 4.0 + off * (len(asked) - 1)], "norms": [1.0], "bits": [1],
                "ready": 1.0, "write": 1.0, "saved": 1.0, "zero": 3, "wall": 1.0,
                "card": "X"}  # fmt: skip

    monkeypatch.setattr(multi_gpu_training, "child", child)
    given = argparse.Namespace(
        rows=str(tmp_path / "rows.jsonl"), command="c", gpus=2, shape="tiny", resume_layers=2,
        zero="3", compile="none", folder=str(tmp_path),
    )  # fmt: skip
    assert multi_gpu_training.resume(given) is (off == 0.0)
    assert asked == [("train", True), ("train", True), ("read", None)]
    how = json.loads(results.read(given.rows)["settings"][0])
    assert how["kernels"] == "deterministic" and how["equal"]["losses"] is (off == 0.0)
    assert how["largest_difference"] == pytest.approx(off, rel=1e-6)


@needs_deepspeed
@pytest.mark.slow
@pytest.mark.usefixtures("warm_children")
def test_a_shape_stops_and_resumes(tmp_path, capsys):
    """The command's own path: a checkpoint, new processes, the same bits, the model read."""
    common = ["--gpus", "1", "--shape", "tiny", "--compile", "none", "--folder", str(tmp_path)]
    rows_file = tmp_path / "rows.jsonl"
    multi_gpu.main([*common, "--parts", "resume", "--zero", "3", "--resume-layers", "2",
                  "--rows", str(rows_file)])  # fmt: skip
    said = capsys.readouterr().out
    assert "zero 3: equal after resuming: {'losses': True, 'norms': True, 'weights': True}" in said
    (found,) = results.read(rows_file).itertuples()
    assert found.task == "speed_resume" and json.loads(found.settings)["largest_difference"] == 0
