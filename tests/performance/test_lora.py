"""LoRA within a smaller card: the command on a tiny shape, and how a card would be held."""

from __future__ import annotations

import json

import pytest
import torch

from cream import results
from cream.performance import harness, lora, random_models
from cream.training import memory

TINY = ["--shape", "tiny", "--rank", "4", "--steps", "2", "--batch-size", "2"]


def test_the_command_trains_and_says_that_nothing_was_held(tmp_path, capsys, monkeypatch):
    """As typed, but in this process: losses of a run, and a row that claims no card."""
    monkeypatch.setattr(harness, "in_child", lambda module, job, limit: lora._inside(job))
    file = tmp_path / "rows.jsonl"
    lora.main([*TINY, "--rows", str(file)])
    said = capsys.readouterr().out
    assert "19,712 trained, 1 x 64 tokens" in said
    if torch.cuda.is_available():
        pytest.skip("without a card, the line says that nothing was held")
    assert "no card: no memory was held" in said
    (row,) = results.read(file).to_dict("records")
    how = json.loads(row["settings"])
    assert row["task"] == "check_lora_memory" and row["score"] == 0.0 and "held_gib" not in how
    assert how["trained"] == 4 * 4 * (4 * 128 + 3 * (64 + 176))  # rank, layers, in + out
    assert how["command"].startswith("python -m cream.performance lora --shape tiny")


def test_a_card_that_is_too_small_is_refused_by_arithmetic(capsys, monkeypatch):
    """Before weights are made: 7B in bfloat16 has 12.6 GiB, and 14.6 are shown of 16 GB."""
    monkeypatch.setattr(harness, "in_child", lambda module, job, limit: lora._inside(job))
    monkeypatch.setattr(random_models, "lay_out", lambda root, shape: shape.save_pretrained(
        root / "base"))  # fmt: skip
    monkeypatch.setattr(random_models, "refuse_without_card", lambda *given: None)
    with pytest.raises(SystemExit) as ended:
        lora.main(["--gib", "16"])
    said = capsys.readouterr().out
    assert ended.value.code == 1 and "a card of 16 GB has 14.6 GiB" in said


def test_a_card_is_held_to_what_a_smaller_one_shows(monkeypatch):
    """The share of the card is the smaller one's memory less CUDA's own."""
    given, gib = [], memory.GIB
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(harness, "place", lambda: torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda place: (79 * gib, 80 * gib))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda place: gib // 2)
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda share, place: given.append(share)
    )
    assert lora._hold(22 * gib) == {"held_gib": 21.5, "context_gib": 0.5}
    assert given == [21.5 / 80]
    with pytest.raises(MemoryError, match="this card has 80.0 GiB, fewer than the 90.0"):
        lora._hold(90 * gib)


def test_a_hold_that_does_not_hold_is_said(monkeypatch):
    """What the line says of a card, as a run on one finds it."""
    found = {"held_gib": 21.3, "context_gib": 0.5, "refused": False, "peak_gib": 20.0,
             "reserved_gib": 21.0, "estimated_gib": 21.5, "trained": 5, "window": 4096,
             "speed": 9000.0, "losses": [1.0], "card": "NVIDIA H100",
             "settings": {"micro_batch": 1, "recompute": 7}}  # fmt: skip
    given = type("Given", (), {"rank": 16, "shape": "llama2-7b", "gib": 24.0})
    assert "WAS NOT REFUSED: nothing was held" in lora._line(given, found)
    said = lora._line(given, {**found, "refused": True})
    assert "held to 21.30 GiB (a card of 24 GB" in said and "beyond was refused" in said
    assert "peak 20.00 GiB" in said


def test_bad_settings_cost_nothing(capsys):
    for words, said in ((["--steps", "1"], "at least 2"), (["--rank", "-1"], "lora_rank is -1"),
                        (["--recompute", "most"], "recompute is 'most'")):  # fmt: skip
        with pytest.raises(SystemExit):
            lora.main([*TINY, *words])
        assert said in capsys.readouterr().err
