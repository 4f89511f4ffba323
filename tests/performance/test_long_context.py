"""A large model at length: what is measured, in a process of its own, on the tiny shape."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import LlamaConfig

from cream import models, results
from cream.inference import memory
from cream.inference.likelihood import log_likelihood
from cream.inference.tiling import Tiling
from cream.models.hardware import forward_flops
from cream.performance import __main__ as speed
from cream.performance import costs, long_context, random_models


@pytest.fixture(scope="module")
def words(tmp_path_factory, tiny_tokenizer) -> str:
    """A tokenizer of 600 tokens on disk."""
    place = tmp_path_factory.mktemp("words")
    tiny_tokenizer.save_pretrained(place)
    return str(place)


def forwards(**changes) -> list[dict]:
    job = {"shape": "tiny", "layers": None, "lengths": [96], "tiling": {"tokens": 32},
           "repeats": 1}  # fmt: skip
    return list(long_context.forwards(**{**job, **changes}))


def test_a_line_a_length_with_the_speed_of_that_forward():
    """TFLOP/s by the formula, the loss of the document, and one comparison with the whole."""
    lines = forwards(lengths=[96, 130], repeats=2)
    assert [line.get("tokens") for line in lines] == [96, 130, None]
    config = random_models.shape("tiny")
    model = long_context.random_model(config, 130)
    count = sum(one.numel() for one in model.parameters())
    for line in lines[:2]:
        tokens, seconds = line["tokens"], line["seconds"]
        flops = tokens * forward_flops(config, count, tokens)
        assert line["tflops"] == pytest.approx(flops / seconds / 1e12)
        assert line["tokens_per_second"] == tokens / seconds and line["repeats"] == 2
        assert line["card"] == "cpu" and line["mfu"] is None and line["peak_gib"] is None
        ids = np.random.default_rng(0).integers(2, config.vocab_size, tokens)
        assert line["nll"] == pytest.approx(log_likelihood(model, ids).mean(), rel=1e-6)
    assert lines[2]["compared"] == 96 and lines[2]["heads"] == 1 and lines[2]["most"] < 1e-4
    assert lines[2]["nll"] == pytest.approx(lines[0]["nll"], rel=1e-6)


def test_passes_are_three_below_256k_tokens_and_one_from_there_on(monkeypatch):
    """Unless told; a setting that is not in tiles is compared with nothing."""
    monkeypatch.setattr(long_context, "_ONCE", 100)
    lines = forwards(lengths=[99, 100], tiling=None, repeats=None)
    assert [line["repeats"] for line in lines] == [3, 1]


def test_a_first_pass_goes_through_one_layer_at_full_length(monkeypatch):
    """Then the model is whole again."""
    depths, real = [], log_likelihood

    def recorded(model, ids, tiling):
        depths.append((len(model.model.layers), model.config.num_hidden_layers, len(ids)))
        return real(model, ids, tiling=tiling)

    monkeypatch.setattr(long_context, "log_likelihood", recorded)
    forwards(tiling=None)
    assert depths == [(1, 1, 96), (4, 4, 96)]


def test_a_length_that_does_not_fit_is_a_line_and_the_next_is_measured(monkeypatch):
    """Out of memory, or whatever a kernel says."""
    real = log_likelihood

    def scarce(model, ids, tiling):
        if len(ids) > 100:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\nmore")
        return real(model, ids, tiling=tiling)

    monkeypatch.setattr(long_context, "log_likelihood", scarce)
    lines = forwards(lengths=[120, 96], tiling=None)
    said = "OutOfMemoryError: CUDA out of memory. Tried to allocate"
    assert lines[0] == {"tokens": 120, "error": said}
    assert lines[1]["tokens"] == 96 and lines[1]["seconds"] > 0


def test_memory_of_a_layer_is_that_of_its_weights(monkeypatch):
    """What full depth needs is added up from it."""
    (line,) = forwards(tiling=None, layers=2)
    config = LlamaConfig(**{**random_models.SHAPES["tiny"], "num_hidden_layers": 1})
    layer = models.create(config, 0).model.layers[0]
    size = sum(one.numel() for one in layer.parameters()) * 4
    assert line["layer_gib"] * 2**30 == pytest.approx(size)


def test_random_models_reach_as_far_as_asked():
    """By YaRN beyond the window, and as they are within it."""
    for tokens, scaling, window in ((64, "none", 64), (65, "yarn", 128), (640, "yarn", 640)):
        config = long_context.random_model(random_models.shape("tiny", 1), tokens).config
        assert models.describe(config)["scaling"] == scaling
        assert config.max_position_embeddings == window and config.num_hidden_layers == 1


def answers(words: str, **changes) -> list[dict]:
    job = {"shape": "tiny", "layers": None, "tokenizer": words, "task": "longchat_lines",
           "size": 400, "samples": 3, "batch_size": "auto", "repeats": 1}  # fmt: skip
    return list(long_context.answers(**{**job, **changes}))


@pytest.mark.parametrize(
    ("task", "size", "new"), [("longchat_lines", 400, 35), ("kv_retrieval", 6, 50)]
)
def test_what_fits_is_said_before_it_is_decoded(task, size, new, words, tiny_tokenizer):
    """Official prompts, as many new tokens as the release allows, the prediction beside."""
    needs, line = answers(words, task=task, size=size)
    asked = long_context._questions(task, tiny_tokenizer, size, 3)
    lengths = [len(tiny_tokenizer(one.prompt)["input_ids"]) for one in asked]
    model = long_context.random_model(random_models.shape("tiny"), max(lengths) + new)
    assert needs["needs"].startswith(f"3 prompts at once of {max(lengths) + new:,} tokens")
    assert needs["one"].startswith(f"1 prompt of {max(lengths) + new:,} tokens")
    assert line["new_tokens"] == 3 * new and line["prompt_tokens"] == sum(lengths)
    assert line["longest"] == max(lengths) and line["rows"] <= 3 and line["task"] == task
    cache = memory.footprint(model).needs(line["rows"], max(lengths) + new).cache
    assert line["cache_gib"] == cache / 2**30 < line["predicted_gib"]


def test_rows_at_once_are_counted_where_they_are_decoded(words):
    """One by one where asked."""
    assert answers(words, batch_size=1)[1]["rows"] == 1
    assert answers(words, batch_size=2)[1]["rows"] == 2


def test_what_does_not_fit_is_a_line(words, monkeypatch):
    """With the arithmetic, after what it would need."""
    monkeypatch.setattr(memory, "_free", lambda _: 2**20)
    needs, line = answers(words)
    assert needs["most"] == 0
    assert line["error"].startswith("MemoryError: this does not fit: ") and "task" in line


# ------------------------------------------------------------------------------- the process


@pytest.mark.slow
@pytest.mark.usefixtures("warm_children")
def test_lines_come_as_they_are_measured_from_another_process():
    job = {"do": "forwards", "shape": "tiny", "layers": 1, "lengths": [80], "repeats": 1,
           "tiling": Tiling(tokens=32).__dict__}  # fmt: skip
    lines = list(long_context.measured(job, 100))
    assert [line.get("tokens") for line in lines] == [80, None] and lines[1]["most"] < 1e-4


@pytest.mark.gpu
def test_memory_on_a_card():
    (line, _) = forwards()
    assert 0 < line["peak_gib"] <= line["reserved_gib"]


# -------------------------------------------------------------------- what is said and written


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
    monkeypatch.setattr(random_models, "check_card", lambda *given: None)  # as if on a card

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


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
@pytest.mark.parametrize("command", [["long"], ["generation", "--shape", "llama2-7b"]])
def test_a_large_shape_is_not_begun_without_a_card(command, monkeypatch, capsys):
    """It would fill the machine's memory before it said anything."""
    monkeypatch.setattr(long_context, "measured", lambda *given: pytest.fail("it was begun"))
    with pytest.raises(SystemExit):
        speed.main(command)
    assert "no GPU" in capsys.readouterr().err


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


@pytest.mark.usefixtures("warm_children")
def test_a_chosen_attention_reads_the_same_document_and_is_named(tmp_path, capsys):
    """By another kernel the loss is the same to rounding; a missing package ends it before."""
    rows = tmp_path / "rows.jsonl"
    command = ["long", "--shape", "tiny", "--lengths", "100", "--repeats", "1", "--tile", "32",
               "--heads", "1"]  # fmt: skip
    for attention in ("auto", "causal-fa2"):
        speed.main([*command, "--attention", attention, "--rows", str(rows)])
    one, other = results.read(rows).to_dict("records")
    how = [json.loads(each["settings"]) for each in (one, other)]
    assert "attention" not in how[0] and how[1]["attention"] == "causal-fa2"
    assert how[0]["nll"] == pytest.approx(how[1]["nll"], abs=1e-5)
    assert "--attention causal-fa2" in costs.command(other)
    with pytest.raises(SystemExit):
        speed.main([*command, "--attention", "causal-fa4"])
    assert "the package flash-attn-4 computes" in capsys.readouterr().err
