"""The command as it is typed, on a shape whose steps take a CPU milliseconds."""

from __future__ import annotations

import json

import pytest

from cream import results
from cream.performance import step_cost
from cream.training import memory

TINY = ["--shape", "tiny", "--compile", "none"]


def _rows(file) -> list[dict]:
    rows = results.read(file).to_dict("records")
    return [{**json.loads(row["settings"]), **row} for row in rows]


@pytest.mark.slow
@pytest.mark.usefixtures("warm_children")
def test_both_methods_at_every_target(tmp_path, capfd):
    """CREAM reads windows whatever the target, full-length training all of it; then a step."""
    file = tmp_path / "rows.jsonl"
    step_cost.main([*TINY, "--targets", "128,512", "--rows", str(file)])
    said = capfd.readouterr().out
    assert "full at 512: 1 x 512, 4 layers, recompute 0: " in said
    rows = _rows(file)
    passes = [(r["method"], r["token_length"], r["num_tokens"]) for r in rows if "tokens" in r]
    assert passes == [("cream", 128, 128), ("cream", 512, 128), ("full", 128, 128),
                      ("full", 512, 512)]  # fmt: skip
    assert rows[-1]["task"] == "speed_optimizer" and all(row["score"] > 0 for row in rows)
    assert {row["card"] for row in rows} == {"cpu"} and all(row["fits"] for row in rows)
    assert all(
        row["command"].startswith("python -m cream.performance step-cost --shape") for row in rows
    )


@pytest.mark.slow
@pytest.mark.usefixtures("warm_children")
def test_what_does_not_fit_is_said_and_measured_at_two_depths(tmp_path, monkeypatch):
    """The arithmetic stands in the row; every layer is recomputed; no optimizer step at a depth."""
    file = tmp_path / "rows.jsonl"
    plan_memory = memory.plan_memory

    def small(config, model, window, card, name):
        if window > 128:
            raise MemoryError("512 tokens are too many")
        return plan_memory(config, model, window, card, name)

    monkeypatch.setattr(step_cost.memory, "plan_memory", small)
    step_cost.main([*TINY, "--targets", "512", "--depths", "1,2", "--rows", str(file)])
    full = [row for row in _rows(file) if row["method"] == "full"]
    assert [row.get("layers") for row in full] == [None, 1, 2]
    assert full[0]["why"] == "512 tokens are too many" and not full[0]["fits"]
    assert [row["recompute"] for row in full[1:]] == [1, 2]
    assert [row["of_layers"] for row in full] == [4] * 3
    kept = [row["task"] for row in _rows(file)]
    assert kept.count("speed_optimizer") == 1  # of the process at full depth alone


def test_groups_share_a_process_where_the_moments_are(monkeypatch):
    """What fits with all on the card, what fits with moments in RAM, and what does not."""
    given = step_cost.argparse.Namespace(
        shape="llama2-7b", targets=[8192, 65536, 131072, 262144], micro_batch=2, offload="auto",
        compile="layers", depths=[2, 4], card_gib=139.8, limit=1, rows=None,
        methods=["cream", "full", "clex"],
    )  # fmt: skip
    monkeypatch.setattr(step_cost.harness, "card", lambda: (10**9, "H200"))
    monkeypatch.setattr(memory, "_check_ram", lambda needed: None)
    here, away, shallow, clex = step_cost._jobs(given)
    assert (here["offload"], away["offload"], shallow["offload"]) == (False, True, False)
    assert [one["target"] for one in here["passes"] if one["method"] == "full"] == [8192, 65536]
    assert sum(one["method"] == "cream" for one in here["passes"]) == 4
    assert [one["target"] for one in away["passes"]] == [131072]
    assert [one["target"] for one in shallow["passes"]] == [262144] and shallow["layers"] == 4
    assert here["passes"][-1]["recompute"] > 16  # layers of 32
    assert "262,144 tokens" in shallow["passes"][0]["why"]
    assert (clex["scaling"], len(clex["passes"]), here["scaling"]) == ("clex", 4, "linear")


@pytest.mark.slow
@pytest.mark.usefixtures("warm_children")
def test_clex_and_plain_read_windows_too(tmp_path):
    """CLEX in a process of its own, by its own RoPE; its matrices are trained."""
    file = tmp_path / "rows.jsonl"
    step_cost.main([*TINY, "--targets", "128,512", "--methods", "plain,clex", "--rows", str(file)])
    passes = {(r["method"], r["token_length"]): r for r in _rows(file) if "tokens" in r}
    assert list(passes) == [(m, target) for m in ("plain", "clex") for target in (128, 512)]
    assert {row["num_tokens"] for row in passes.values()} == {128}
    assert [passes[name, 512]["scaling"] for name in ("plain", "clex")] == ["linear", "clex"]
    assert all(row["score"] > 0 for row in passes.values())


def test_clex_solves_up_to_the_targets_t_in_every_pass(monkeypatch):
    """What is solved once and kept would cost a timed pass nothing."""
    drawn = []
    model = step_cost.random_models.random_weights(
        step_cost.random_models.shape("tiny", 1), step_cost.rope.scaling("clex", 8)
    ).train()
    step_cost.clex.initialise(model, 0)
    solve = step_cost.clex.layer_of(model).inv_freq_at
    monkeypatch.setattr(step_cost.clex.layer_of(model), "inv_freq_at",
                        lambda t: drawn.append(t) or solve(t))  # fmt: skip
    monkeypatch.setattr(step_cost, "ENOUGH", 1e-9)
    one = {"method": "clex", "target": 256, "micro_batch": 1, "tokens": 64}
    step_cost._pass(model, one, 0, False, set())
    assert drawn == [(4,)] * 2  # before, and the one that is timed
    inputs = step_cost._inputs(model, one)
    assert inputs["position_ids"][0, -1] == 255


def test_an_unknown_method_is_refused(capsys):
    with pytest.raises(SystemExit):
        step_cost.main([*TINY, "--methods", "cream,rope"])
    assert "there is no method 'rope' here: cream, plain, clex, full" in capsys.readouterr().err


def test_a_target_must_be_windows(capsys):
    for wrong in ("100", "64"):
        with pytest.raises(SystemExit):
            step_cost.main([*TINY, "--targets", wrong])
        assert f"target {wrong} is not a multiple of the window 64" in capsys.readouterr().err
