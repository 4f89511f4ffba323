"""The command as it is typed, on a shape that a CPU trains in a second."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from cream import results
from cream.performance import resume

TINY = ["--shape", "tiny", "--layers", "2", "--compile", "none", "--batch-size", "4"]


@pytest.mark.slow
@pytest.mark.usefixtures("warm_children")
def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path, capsys):
    """Three processes; the checkpoint's size is that of 14 bytes a parameter, and a little."""
    file = tmp_path / "rows.jsonl"
    resume.main([*TINY, "--folder", str(tmp_path / "work"), "--rows", str(file)])
    said = capsys.readouterr().out
    assert "losses equal: True, weights equal: True" in said
    assert "at full depth, 278,080 parameters (extrapolated)" in said
    (row,) = results.read(file).to_dict("records")
    how = json.loads(row["settings"])
    assert row["task"] == "speed_resume" and row["score"] > 0 and len(how["losses"]) == 6
    assert (how["losses_equal"], how["weights_equal"]) == (True, True)
    size = how["checkpoint_gib"] * 2**30
    assert 14 * how["parameters"] < size < 14 * how["parameters"] + 2**18
    assert how["command"].endswith("--batch-size 4")
    assert not list((tmp_path / "work").iterdir())  # nothing is left on the disk


def _found(losses: list[float], weights: str = "a") -> dict:
    return {"losses": losses, "weights": weights, "ready": 1.0, "wall": 2.0, "write": 0.5,
            "sizes": {"weights": 2**20}, "card": "cpu"}  # fmt: skip


@pytest.mark.parametrize(
    ("resumed", "said"),
    [
        (_found([1.0, 0.5]), None),
        (_found([1.0, 0.500001]), "the resumed run is not the straight one"),
        (_found([1.0, 0.5], "b"), "the resumed run is not the straight one"),
        ({"error": "CUDA out of memory"}, "resumed: CUDA out of memory"),
    ],
)
def test_what_differs_in_the_last_bit_fails(monkeypatch, tmp_path, resumed, said):
    """Losses or weights; the row is kept, and says so."""
    found = iter([_found([1.0, 0.5]), _found([1.0, 0.5]), resumed])
    monkeypatch.setattr(resume, "_child", lambda *_: next(found))
    file = tmp_path / "rows.jsonl"
    if said is None:
        resume.main([*TINY, "--rows", str(file)])
        return
    with pytest.raises(SystemExit, match=said):
        resume.main([*TINY, "--rows", str(file)])
    if "error" not in resumed:
        how = json.loads(results.read(file)["settings"][0])
        assert not (how["losses_equal"] and how["weights_equal"])


def test_bad_settings_cost_nothing(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        resume.main([*TINY, "--steps", "5"])
    assert "steps is 5; it must be even" in capsys.readouterr().err
    monkeypatch.setattr(resume.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**6))
    with pytest.raises(OSError, match="177,472 parameters take 0.0 GiB and .* fewer layers"):
        resume.main(TINY)
