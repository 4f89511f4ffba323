"""The time of CLEX's ODE: both directions are run and counted, and rows say by what."""

from __future__ import annotations

import json

import pytest

from cream import results
from cream.performance import __main__ as speed
from cream.performance import clex_step, harness
from cream.rope import clex, clex_ode, scalings


def test_rows_and_lines_say_what_a_step_waits_for(tmp_path, capsys):
    file = tmp_path / "rows.jsonl"
    command = ["clex-step", "--factors", "1,3", "--dims", "8,16", "--repeats", "2"]
    speed.main([*command, "--rows", str(file)])
    said = capsys.readouterr().out
    assert said.count("solve") == 4 and "the aim is 50 ms on an H100" in said
    rows = results.read(file)
    assert set(rows["task"]) == {"speed_clex"} and set(rows["card"]) == {harness.card_name()}
    assert list(rows["token_length"]) == [4096, 12288] * 2
    how = [json.loads(one) for one in rows["settings"]]
    assert [(one["dim"], one["t"]) for one in how] == [(8, 1), (8, 3), (16, 1), (16, 3)]
    assert {one["command"] for one in how} == {" ".join(["python -m cream.performance", *command])}
    for score, one in zip(rows["score"], how, strict=True):
        assert 0 < score <= one["longest_ms"] and one["score"] == "milliseconds"
        assert one["solve_ms"] > 0 and one["gradient_ms"] > 0


def test_both_directions_are_in_the_time(monkeypatch):
    """Of the true solver, as training calls it: a solve and an adjoint a pass, and no reuse."""
    layer = clex.ClexLayer(scalings.scaling("clex", 4), 1e4, 8, 4096)
    layer.initialise(0)
    calls = []
    for name in ("solve", "adjoint"):
        before = getattr(clex_ode.Ode, name)
        monkeypatch.setattr(clex_ode.Ode, name, lambda *args, name=name, before=before: (
            calls.append(name), before(*args))[1])  # fmt: skip
    clock = iter(range(1000))
    monkeypatch.setattr(harness, "timed", lambda function: (next(clock), function()))
    found = clex_step.measured(layer.train(), 4, repeats=3)
    assert calls == ["solve", "adjoint"] * (3 + clex_step.WARM_UP)
    # The clock gives passes 0+1, 2+3, ...: those counted are 6+7, 8+9 and 10+11 seconds.
    assert found == {"solve": 8000, "gradient": 9000, "both": 17000, "longest": 21000}
    assert layer.proj_func.ode_down_proj.grad.abs().max() > 0


@pytest.mark.parametrize(("wrong", "said"), [
    (["--factors", "0"], "t lies in"), (["--repeats", "0"], "at least 1"),
    (["--dims", "7"], "even dim"), (["--param-factor", "0"], "param_factor"),
])  # fmt: skip
def test_bad_input_is_refused_before_anything_is_measured(wrong, said, capsys):
    with pytest.raises(SystemExit) as ended:
        speed.main(["clex-step", *wrong])
    captured = capsys.readouterr()
    assert ended.value.code == 2 and said in captured.err and not captured.out
