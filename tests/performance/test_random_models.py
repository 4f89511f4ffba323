"""Shapes without weights: what is laid out, what stands in for a model, how a process ends."""

from __future__ import annotations

import json
import time

import psutil
import pytest
import torch
from transformers import AutoConfig

from cream import models, rope
from cream.data.corpus import open_corpus
from cream.performance import random_models


def test_a_shape_at_another_depth():
    assert random_models.shape("llama2-7b").num_hidden_layers == 32
    other = random_models.shape("llama2-7b", 4)
    assert (other.num_hidden_layers, other.hidden_size, other.vocab_size) == (4, 4096, 32000)


def test_what_is_laid_out_is_a_base_and_its_corpus(tmp_path):
    """Documents of a window at least, cut by the base's own tokenizer."""
    config = random_models.shape("tiny")
    random_models.lay_out(tmp_path, config)
    assert AutoConfig.from_pretrained(tmp_path / "base").hidden_size == 64
    tokenizer = models.load_tokenizer(tmp_path / "base")
    documents = open_corpus(tmp_path / "corpus", tokenizer).split("train")
    assert len(documents.num_tokens) == 256 and min(documents.num_tokens) >= 64


def test_random_weights_stand_in_for_a_loaded_model(tmp_path):
    """Float32, scaled, guarded, and the same each time: a resumed process starts from them."""
    random_models.shape("tiny").save_pretrained(tmp_path)
    model = random_models.random_weights(
        str(tmp_path), rope.scaling("yarn", 8), revision=None, dtype=torch.float32
    )
    again = random_models.random_weights(random_models.shape("tiny"), rope.scaling("yarn", 8))
    assert models.describe(model.config)["target_length"] == 8 * 64
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    tokens = torch.arange(2, 50)[None]
    positions = torch.cat([torch.arange(24), torch.arange(400, 424)])[None]
    moved = tokens.clone()
    moved[0, 0] = 99
    still, changed = (
        model(one, position_ids=positions, use_cache=False).logits[0, -1] for one in (tokens, moved)
    )
    assert not torch.equal(still, changed)


def test_a_child_says_what_it_found_or_why_not(monkeypatch, tmp_path):
    """Its last line, its last error, or that it took too long; with the variables it was given."""
    (tmp_path / "child.py").write_text(
        "import json, os, sys, time\n"
        "job = json.loads(sys.argv[2])\n"
        "print('on the way')\n"
        "if job.get('sleep'): time.sleep(60)\n"
        "if job.get('fail'): raise MemoryError('too small')\n"
        "print(json.dumps({'got': job['got'], 'more': os.environ['MORE']}))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = random_models.in_child("child", {"got": 3}, 30, MORE="yes")
    assert (found["got"], found["more"]) == (3, "yes") and found["wall"] > 0
    assert random_models.in_child("child", {"fail": 1}, 30) == {"error": "MemoryError: too small"}
    assert random_models.in_child("child", {"sleep": 1}, 1) == {"error": "not done within 1 s"}


def test_a_measuring_process_asks_no_hub_and_keeps_what_is_set(monkeypatch):
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF", raising=False)
    assert random_models.environment()["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "backend:native")
    found = random_models.environment(HF_HUB_OFFLINE="0")
    assert (found["PYTORCH_CUDA_ALLOC_CONF"], found["HF_HUB_OFFLINE"]) == ("backend:native", "0")
    assert json.dumps(found)


@pytest.mark.gpu
def test_the_card_is_named():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    size, name = random_models.card()
    assert size > 2**30 and name == torch.cuda.get_device_name(0)


def test_a_command_is_kept_without_its_files():
    """A row that is published must not name its author's folders."""
    typed = ["--shape", "tiny", "--rows", "/tmp/x.jsonl", "--folder=/scratch", "--steps", "3"]
    assert random_models.command("cream.x", typed) == "python -m cream.x --shape tiny --steps 3"


def test_the_reason_is_the_process_s_own_and_not_its_launchers():
    """torchrun's report comes last, and says nothing of why."""
    wrong = (
        "W1122 12:00 torch/distributed/run.py] setting OMP_NUM_THREADS\n"
        "[rank1]: Traceback (most recent call last):\n"
        '[rank1]:   File "x.py", line 3\n'
        "[rank1]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB\n"
        "torch.distributed.elastic.multiprocessing.errors.ChildFailedError:\n"
        "  rank      : 1 (local_rank: 1)\n"
    )
    said = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB"
    assert random_models._reason(wrong, 1) == said
    assert random_models._reason("", 7) == "exit 7"
    assert random_models._reason("something else\nlast\n", 1) == "last"


def test_a_child_that_takes_too_long_leaves_nothing_running(monkeypatch, tmp_path):
    """What it started ends with it: a card would stay full."""
    (tmp_path / "parent.py").write_text(
        "import pathlib, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(child.pid))\n"
        "time.sleep(60)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert "not done within 3 s" in random_models.in_child("parent", {}, 3)["error"]
    started = int((tmp_path / "pid").read_text())
    for _ in range(100):
        if not psutil.pid_exists(started) or psutil.Process(started).status() == "zombie":
            return
        time.sleep(0.05)
    pytest.fail(f"process {started} still runs")
