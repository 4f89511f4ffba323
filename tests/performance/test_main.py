"""The command line of the benchmarks: what it prints, and rows that others can read."""

from __future__ import annotations

import json
import re

import pandas as pd
import pytest

from cream import models, results
from cream.performance import __main__ as speed
from cream.performance import generation


@pytest.fixture(scope="module")
def base(tmp_path_factory, tiny_model, tiny_tokenizer) -> str:
    """A tiny base of window 64 on disk."""
    place = tmp_path_factory.mktemp("speed") / "base"
    models.save(tiny_model(window=64, eos_token_id=None), tiny_tokenizer, place)
    return str(place)


def test_generation_prints_one_table_and_appends_rows(base, tmp_path, capsys):
    """Twice into one file: a measurement is not an answer that is there already."""
    rows = tmp_path / "rows.jsonl"
    command = ["generation", "--base", base, "--lengths", "2,4", "--samples", "4", "--questions",
               "2", "--repeats", "1", "--rows", str(rows)]  # fmt: skip
    speed.main(command)
    said = capsys.readouterr().out
    assert "scaled:yarn:8" in said and "float32, cpu" in said
    assert "every sample has the same tokens as in the loop" in said
    lines = [re.split(r"\s{2,}", line.strip()) for line in said.splitlines()]
    header, *table = lines[1:5]
    assert [cells[:2] for cells in table] == [["128", "4"], ["256", "4"], ["all", "8"]]
    last = dict(zip(header, table[-1], strict=True))
    assert last["same tokens"] == "8"
    alone, together = (float(last[f"{way}, samples/s"]) for way in ("one by one", "batches"))
    assert float(last["times as fast"]) == pytest.approx(together / alone, rel=0.05)
    frame = results.read(rows)
    assert len(frame) == 4 and set(frame["task"]) == {"speed_generation"}
    assert (frame["contained"] == 1).all() and frame["peak_gib"].isna().all()
    settings = frame["settings"].map(json.loads)
    assert {one["way"] for one in settings} == {"one by one", "batches"}
    assert {one["score"] for one in settings} == {"samples a second"}
    assert all({"threads", "load", "measured", "dtype"} <= set(one) for one in settings)
    ratio = frame["tokens_per_second"] / frame["score"]  # prompt tokens a sample
    assert (ratio - frame["num_tokens"]).abs().max() < 0.51


def test_a_measurement_taken_again_is_another_row(tmp_path):
    """Its time is part of its settings, and so of its key."""
    line = {"token_length": 128, "way": "batches", "samples": 4, "seconds": 2.0, "same": 3,
            "prompt_tokens": 490, "prompt_hash": "x", "peak_gib": float("nan")}  # fmt: skip
    for moment in ("10:00", "10:01"):
        header = {"model_hash": "abc", "card": "cpu", "settings": {"measured": moment}}
        generation._write(tmp_path / "rows.jsonl", pd.DataFrame([line]), header)
    frame = results.read(tmp_path / "rows.jsonl")
    assert list(frame["score"]) == [2.0, 2.0] and list(frame["tokens_per_second"]) == [245.0] * 2
    assert list(frame["contained"]) == [0.75] * 2 and list(frame["num_tokens"]) == [122] * 2


def test_what_parts_is_printed(base, capsys, monkeypatch):
    """A difference is never hidden in a rounded share."""
    table = pd.DataFrame([
        {"token_length": 128, "way": way, "samples": 4, "seconds": s, "same": n, "peak_gib": 1.5}
        for way, s, n in (("one by one", 4.0, 4), ("batches", 0.5, 3))
    ])  # fmt: skip
    header = {"settings": {"dtype": "bfloat16"}, "card": "a card"}
    parted = ["128 tokens, sample 2: parts at new token 3, by logits 0.01 apart"]
    monkeypatch.setattr(generation, "generation", lambda *_: (table, header, parted))
    speed.main(["generation", "--base", base, "--lengths", "2"])
    said = capsys.readouterr().out
    assert parted[0] in said and "every sample" not in said
    assert re.search(r"128\s+4\s+1\.0\s+8\.0\s+8\.0\s+3\s+1\.5\n", said), said


def test_training_prints_one_table_and_appends_rows(base, tmp_path, capsys):
    """Milliseconds a step and what decides them, without a path of this machine."""
    rows = tmp_path / "rows.jsonl"
    speed.main(["small-training", "tiny", "--base", base, "--corpus", "random", "--compile", "none",
                "--method", "pose", "--steps", "4", "--batch-size", "2",
                "--rows", str(rows)])  # fmt: skip
    said = capsys.readouterr().out
    assert "tiny: pose, steps of 128 tokens in micro-batches of 2, cpu" in said
    assert re.search(r"compile\s+workers\s+ms a step\s+tokens/s\s+seconds in all\n", said)
    frame = results.read(rows)
    (row,) = frame.to_dict("records")
    assert row["task"] == "speed_training" and row["method"] == "pose" and row["window"] == 64
    assert row["score"] == pytest.approx(1000 * 128 / row["tokens_per_second"])
    assert row["num_tokens"] == 128 and row["token_length"] == 64
    settings = json.loads(row["settings"])
    assert settings["score"] == "milliseconds a step" and settings["corpus"] == "random"
    assert settings["compile"] == "none" and settings["batch_size"] == 2
    assert str(tmp_path.parent) not in rows.read_text()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["generation", "--lengths", "x"], "lengths 'x' must be multiples of N"),
        (["generation", "--lengths", "20"], "samples exceed the model's window of 512 tokens"),
        (
            ["generation", "--repeats", "0"],
            "repeats is 0, batch_size auto; both must be",
        ),
        (["generation", "--batch-size", "0"], "batch_size 0; both must be at least 1"),
        (["generation", "--batch-size", "many"], "invalid batch size value: 'many'"),
        (["generation", "--scaling", "ropey"], "invalid choice: 'ropey'"),
        (["small-training", "huge"], "invalid choice: 'huge'"),
        (["small-training", "tiny", "--corpus", "nowhere"], "nowhere"),
        (
            ["small-training", "tiny", "--corpus", "random", "--workers", "0,x"],
            "comma-separated list",
        ),
    ],
)
def test_bad_input_is_an_error_of_the_command(command, message, base, capsys):
    """Exit status 2 and one sentence, no traceback."""
    with pytest.raises(SystemExit) as ended:
        speed.main([*command, "--base", base])
    assert ended.value.code == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_command_that_is_none_is_refused_with_all_that_are(capsys):
    """Also those whose modules read their own options."""
    with pytest.raises(SystemExit):
        speed.main(["speed"])
    said = capsys.readouterr().err
    assert all(name in said for name in (*speed.OTHERS, *(name for name, *_ in speed.SMALL)))
