"""How something is measured: how a process ends, what its row says, what a command is called."""

from __future__ import annotations

import json
import time

import psutil
import pytest
import torch

from cream import results
from cream.performance import harness, random_models


@pytest.mark.slow
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
    found = harness.in_child("child", {"got": 3}, 30, MORE="yes")
    assert (found["got"], found["more"]) == (3, "yes") and found["wall"] > 0
    assert harness.in_child("child", {"fail": 1}, 30) == {"error": "MemoryError: too small"}
    assert harness.in_child("child", {"sleep": 1}, 1) == {"error": "not done within 1 s"}


def test_a_measuring_process_asks_no_hub_and_keeps_what_is_set(monkeypatch):
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF", raising=False)
    assert harness.environment()["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "backend:native")
    found = harness.environment(HF_HUB_OFFLINE="0")
    assert (found["PYTORCH_CUDA_ALLOC_CONF"], found["HF_HUB_OFFLINE"]) == ("backend:native", "0")
    assert json.dumps(found)


@pytest.mark.gpu
def test_the_card_is_named():
    size, name = harness.card()
    assert size > 2**30 and name == torch.cuda.get_device_name(0)


def test_a_command_is_kept_without_its_files():
    """A row that is published must not name its author's folders."""
    typed = ["--shape", "tiny", "--rows", "/tmp/x.jsonl", "--folder=/scratch", "--steps", "3",
             "--profile", "/tmp/profile.txt"]
    assert harness.typed_command("x", typed) == (
        "python -m cream.performance x --shape tiny --steps 3"
    )


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
    assert harness._reason(wrong, 1) == said
    assert harness._reason("", 7) == "exit 7"
    assert harness._reason("something else\nlast\n", 1) == "last"


@pytest.mark.slow
def test_a_child_that_takes_too_long_leaves_nothing_running(monkeypatch, tmp_path):
    """What it started ends with it: a card would stay full."""
    (tmp_path / "parent.py").write_text(
        "import pathlib, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(child.pid))\n"
        "time.sleep(60)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert "not done within 3 s" in harness.in_child("parent", {}, 3)["error"]
    started = int((tmp_path / "pid").read_text())
    for _ in range(100):
        if not psutil.pid_exists(started) or psutil.Process(started).status() == "zombie":
            return
        time.sleep(0.05)
    pytest.fail(f"process {started} still runs")


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
        (f"{LINE}; exit 0", [{"tokens": 3}, {"error": "exit 0"}]),
    ],
    ids=["greetings", "slow to end", "too late", "a helper lives on", "an error", "killed",
         "not done"],
)
def test_how_a_process_ends(program, lines, monkeypatch, tmp_path):
    """What it said before is kept."""
    (tmp_path / "python").write_text(f"#!/bin/sh\n{program}\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(harness.sys, "executable", str(tmp_path / "python"))
    start = time.perf_counter()
    assert list(harness.child_lines(harness.command("x", {}), 0.7, until_done=True)) == lines
    assert time.perf_counter() - start < 10


def test_a_call_is_timed_and_its_value_kept(monkeypatch):
    clock = iter([10.0, 12.5])
    monkeypatch.setattr(harness.time, "perf_counter", lambda: next(clock))
    assert harness.timed(lambda: "found") == (2.5, "found")


def test_a_scratch_folder_is_removed_and_its_parent_kept(tmp_path):
    with harness.scratch(tmp_path / "new") as folder:
        (folder / "large").write_text("x")
        assert folder.parent == tmp_path / "new"
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize(("text", "read"), [("1, 2", [1, 2]), ("auto,4", ["auto", 4])])
def test_lists_of_options(text, read):
    assert harness.listed(text) == read
    with pytest.raises(ValueError):
        harness.numbers("1,x")


def test_a_row_of_random_weights_says_of_what_shape(tmp_path):
    shape, file = random_models.shape("tiny", 2), tmp_path / "rows.jsonl"
    header = harness.shape_header("tiny", shape, "a run", "a card", {"layers": 2}, scaling="linear")
    row = {"task": "speed_loss", "prompt_hash": "x", "score": 1.0}
    harness.append(str(file), header, row)
    harness.append(None, header, row)
    (found,) = results.read(file).to_dict("records")
    told = {name: found[name] for name in ("preset", "base", "window", "card", "scaling", "sample")}
    assert told == {"preset": "tiny", "base": "random weights", "window": 64, "card": "a card",
                    "scaling": "linear", "sample": 0}  # fmt: skip
    other = harness.shape_header("tiny", random_models.shape("tiny", 3), "a run", "a card", {})
    assert other["model_hash"] != found["model_hash"]
