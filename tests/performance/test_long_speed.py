"""What is said of a large model at length, and the rows of it; what is measured is given here."""

from __future__ import annotations

import json

import pytest

from cream import results
from cream.performance import __main__ as speed
from cream.performance import long_context

FORWARD = {
    "tokens": 1000, "seconds": 2.0, "tokens_per_second": 500.0, "tflops": 540.25, "mfu": 0.546,
    "nll": 10.5, "peak_gib": 21.0, "reserved_gib": 23.0, "layer_gib": 0.5, "repeats": 1,
    "card": "a card", "model_seconds": 3.0,
}  # fmt: skip
COMPARED = {"compared": 96, "tile": 32, "heads": 1, "nll": 10.5, "mean": -1e-5, "typical": 2e-4,
            "most": 3e-3}  # fmt: skip
ANSWERED = {
    "task": "kv_retrieval", "card": "a card", "samples": 4, "seconds": 8.0, "new_tokens": 200,
    "prompt_tokens": 4002, "rows": 2, "longest": 1003, "wanted_new": 50, "peak_gib": 20.0,
    "reserved_gib": 22.0, "predicted_gib": 21.5, "cache_gib": 1.25,
}  # fmt: skip


@pytest.fixture
def jobs(monkeypatch) -> list[dict]:
    """What processes would be started for; every forward is given the same lines."""
    started: list[dict] = []

    def measured(job, limit):
        started.append({**job, "limit": limit})
        if job["do"] == "forwards":
            yield from (FORWARD, COMPARED, {"tokens": 2000, "error": "OutOfMemoryError: no"})
        elif job["task"] == "kv_retrieval":
            yield {"needs": "2 prompts", "one": "1 prompt", "most": 7, "task": "kv_retrieval"}
            yield ANSWERED
        else:
            yield {"error": "not done within 5 s"}

    monkeypatch.setattr(long_context, "measured", measured)
    return started


def test_every_setting_is_a_process_and_a_line_a_length(jobs, tmp_path, capsys):
    """What failed is said and has no row; nothing is lost of the others."""
    rows = tmp_path / "rows.jsonl"
    speed.main(["long", "--shape", "llama2-7b", "--layers", "4", "--lengths", "1000,2000", "--tile",
                "none,auto,512", "--heads", "auto,2", "--compile", "none,tiles", "--limit", "9",
                "--rows", str(rows)])  # fmt: skip
    assert [job["tiling"] for job in jobs] == [
        None,
        *[{**tile, **heads, **compiled} for tile in ({}, {"tokens": 512})
          for heads in ({}, {"heads": 2}) for compiled in ({}, {"compiled": True})],
    ]  # fmt: skip
    assert all((job["lengths"], job["layers"], job["limit"], job["repeats"])
               == ([1000, 2000], 4, 9, None) for job in jobs)  # fmt: skip
    said = capsys.readouterr().out
    assert said.startswith("llama2-7b, 4 of 32 layers, random weights\n")
    assert ("whole: 1,000 tokens: 2.00 s, 540 TFLOP/s (54.6% of the card's), peak 21.00 GiB "
            "(reserved 23.00), with the other 28 layers' weights 35.00; a card, mean loss 10.5000"
            ) in said  # fmt: skip
    assert "tile 512, heads 2, compile tiles: 2,000 tokens: OutOfMemoryError: no\n" in said
    assert ("96 tokens in tiles of 32, 1 heads at once, beside the whole: mean loss 10.5000 "
            "-1.0e-05, of a token 2.0e-04, at most 3.0e-03") in said  # fmt: skip
    frame = results.read(rows)
    assert len(frame) == 9 and set(frame["task"]) == {"speed_long"}
    row = frame.iloc[-1]
    assert (row["score"], row["tokens_per_second"], row["token_length"]) == (2.0, 500.0, 1000)
    assert (row["peak_gib"], row["card"], row["num_tokens"]) == (21.0, "a card", 1000)
    settings = json.loads(row["settings"])
    expected = {"shape": "llama2-7b", "layers": 4, "tile": 512, "heads": 2, "compile": "tiles",
                "tflops": 540.25, "reserved_gib": 23.0, "score": "seconds"}  # fmt: skip
    assert expected.items() <= settings.items() and "measured" in settings
    assert json.loads(frame.iloc[0]["settings"])["tile"] == "none"


def test_full_depth_is_not_added_up_and_a_cpu_has_no_peak(jobs, monkeypatch, capsys):
    bare = {**FORWARD, "peak_gib": None, "reserved_gib": None, "mfu": None}
    monkeypatch.setattr(long_context, "measured", lambda *_: iter([bare]))
    speed.main(["long", "--shape", "tiny", "--tile", "auto"])
    said = capsys.readouterr().out
    assert "540 TFLOP/s; a card" in said and "other" not in said


def test_questions_say_what_is_needed_before_and_what_was_used_after(jobs, tmp_path, capsys):
    """A task that failed leaves the other's row."""
    rows = tmp_path / "rows.jsonl"
    speed.main(["generation", "--shape", "llama2-7b", "--tokens", "900", "--lines", "3", "--keys",
                "75", "--pairs", "4", "--repeats", "2", "--batch-size", "2", "--words", "a/place",
                "--rows", str(rows)])  # fmt: skip
    assert [(job["task"], job["size"], job["samples"], job["batch_size"]) for job in jobs] == [
        ("longchat_lines", 900, 3, 2), ("kv_retrieval", 75, 4, 2),
    ]  # fmt: skip
    assert all((job["tokenizer"], job["repeats"]) == ("a/place", 2) for job in jobs)
    said = capsys.readouterr().out.splitlines()
    assert "random weights" in said[0] and "tokens of a/place" in said[0]
    assert said[1] == "longchat_lines: not done within 5 s"
    assert said[2] == "kv_retrieval: 1 prompt; 7 fit; to be decoded: 2 prompts"
    assert said[3] == (
        "kv_retrieval: 4 prompts of up to 1,003 tokens, 2 at once: 0.500 samples/s, 500 prompt "
        "tokens/s, 200 new tokens, 8.0 s; peak 20.00 GiB (reserved 22.00), predicted at most "
        "21.50, cache 1.25; a card"
    )
    (row,) = results.read(rows).to_dict("records")
    assert (row["task"], row["score"], row["num_tokens"]) == ("speed_generation", 0.5, 1000)
    assert (row["token_length"], row["peak_gib"], row["base"]) == (1003, 20.0, "random weights")
    settings = json.loads(row["settings"])
    assert settings["of"] == "kv_retrieval" and settings["score"] == "samples a second"
    assert settings["predicted_gib"] == 21.5 and settings["tokenizer"] == "a/place"


def test_a_task_without_samples_is_not_run(jobs):
    speed.main(["generation", "--shape", "tiny", "--lines", "0"])
    assert [job["task"] for job in jobs] == ["kv_retrieval"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tile", "fine"], "'fine' is none of: auto, none, or a number"),
        (["--heads", "none"], "'none' is none of: auto, or a number"),
        (["--compile", "layers"], "'layers' is none of: none, tiles"),
        (["--tile", "0"], "must be at least 1"),
        (["--lengths", "1"], "lengths [1] must be at least 2"),
        (["--lengths", "1,x"], "invalid list with commas between value"),
        (["--repeats", "0"], "repeats at least 1"),
        (["generation", "--shape", "tiny", "--keys", "0"], "keys 0 must be at least 1"),
        (["--shape", "llama9"], "invalid choice: 'llama9'"),
    ],
)
def test_mistakes_cost_nothing(options, message, jobs, capsys):
    """Exit status 2 and one sentence before any process."""
    with pytest.raises(SystemExit) as ended:
        speed.main(options if options[0] == "generation" else ["long", *options])
    assert ended.value.code == 2 and not jobs
    assert message in capsys.readouterr().err
