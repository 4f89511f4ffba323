"""A large model at length: what is measured, in a process of its own, on the tiny shape."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from transformers import LlamaConfig

from cream import models
from cream.inference import memory
from cream.inference.likelihood import log_likelihood
from cream.inference.tiling import Tiling
from cream.models.hardware import forward_flops
from cream.performance import long_context, random_models


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
    asked = long_context._asked(task, tiny_tokenizer, size, 3)
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


def test_lines_come_as_they_are_measured_from_another_process():
    job = {"do": "forwards", "shape": "tiny", "layers": 1, "lengths": [80], "repeats": 1,
           "tiling": Tiling(tokens=32).__dict__}  # fmt: skip
    lines = list(long_context.measured(job, 100))
    assert [line.get("tokens") for line in lines] == [80, None] and lines[1]["most"] < 1e-4


LINE, DONE = """echo '{"tokens": 3}'""", """echo '{"done": true}'"""


@pytest.mark.parametrize(
    ("program", "lines"),
    [
        (f"echo hello; echo 3; {LINE}; {DONE}", [{"tokens": 3}]),  # libraries greet on stdout
        (f"{LINE}; {DONE}; sleep 60", [{"tokens": 3}]),
        (f"{LINE}; sleep 60", [{"tokens": 3}, {"error": "not done within 0.7 s"}]),
        (f"sleep 60 & {LINE}; exit 0", [{"tokens": 3}, {"error": "not done within 0.7 s"}]),
        ("echo one >&2; echo 'KeyError: x' >&2; exit 1", [{"error": "KeyError: x"}]),
        ("kill -9 $$", [{"error": "exit -9"}]),
    ],
    ids=["greetings", "slow to end", "too late", "a helper lives on", "an error", "killed"],
)
def test_how_a_process_ends(program, lines, monkeypatch, tmp_path):
    """What it said before is kept."""
    (tmp_path / "python").write_text(f"#!/bin/sh\n{program}\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(long_context.sys, "executable", str(tmp_path / "python"))
    start = time.perf_counter()
    assert list(long_context.measured({}, 0.7)) == lines
    assert time.perf_counter() - start < 10


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")
def test_memory_on_a_card():
    (line, _) = forwards()
    assert 0 < line["peak_gib"] <= line["reserved_gib"]
