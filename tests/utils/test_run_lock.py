"""One training a run directory at a time: refused by name, taken over when its holder has ended."""

import json
import logging
import os
import signal
import subprocess
import sys

import pytest
import training_runs
import warm_python

from cream.study import records
from cream.training import run as training_run
from cream.utils import run_lock

HOLDING = """
import sys
from pathlib import Path
from cream.utils.run_lock import run_lock
with run_lock(Path(sys.argv[1])):
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds tmp_path/run until its input ends."""
    command = [sys.executable, "-c", HOLDING, str(tmp_path / "run")]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, env=training_runs.environment(), stdin=pipe, stdout=pipe, text=True
    ) as process:
        assert process.stdout.readline() == "ready\n"
        yield process
        process.stdin.close()


def test_a_second_process_is_refused_by_the_firsts_name(tmp_path, holder, training_place, capsys):
    run, before = tmp_path / "run", sorted((tmp_path / "run").iterdir())
    wanted = f"{run} is being trained by process {holder.pid} on .*, which began at .*UTC"
    with pytest.raises(BlockingIOError, match=wanted):
        training_runs.train(training_place, run)
    assert sorted(run.iterdir()) == before, "nothing is half-written"
    (run / "config.json").write_text(training_runs.config().to_json())
    with pytest.raises(SystemExit, match="1"):
        training_run.main([str(run), "--root", str(training_place)])
    assert "choose another run directory" in capsys.readouterr().err


def test_another_spelling_or_a_link_is_the_same_directory(tmp_path, holder):
    (tmp_path / "link").symlink_to(tmp_path / "run")
    for place in (tmp_path / "link", tmp_path / "x" / ".." / "run"):
        with pytest.raises(BlockingIOError, match="being trained"), run_lock.run_lock(place):
            pass


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path, holder, caplog):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait(60)
    assert (tmp_path / "run" / run_lock.LOCK).exists()
    with caplog.at_level(logging.WARNING), run_lock.run_lock(tmp_path / "run"):
        told = json.loads((tmp_path / "run" / run_lock.LOCK).read_text())
        assert told["pid"] == os.getpid()
    assert f"left by process {holder.pid}" in caplog.text and "has ended" in caplog.text
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").iterdir())


def test_one_process_does_not_train_twice_in_a_directory_at_once(tmp_path):
    with run_lock.run_lock(tmp_path / "run"):
        with pytest.raises(BlockingIOError, match=f"process {os.getpid()}"):
            with run_lock.run_lock(tmp_path / "run"):
                pass
        assert (tmp_path / "run" / run_lock.LOCK).exists()
    with run_lock.run_lock(tmp_path / "run"):
        pass


def test_without_kernel_locks_the_file_decides(tmp_path, monkeypatch, holder):
    monkeypatch.setattr(run_lock, "fcntl", None)
    with pytest.raises(BlockingIOError, match=f"process {holder.pid}"):
        with run_lock.run_lock(tmp_path / "run"):
            pass
    lock = tmp_path / "run" / run_lock.LOCK
    told = json.loads(lock.read_text())
    for stale in ({**told, "started": 1.0}, {**told, "pid": 2**22 + 1}, {}, {**told, "pid": None}):
        lock.write_text(json.dumps(stale))
        with run_lock.run_lock(tmp_path / "run"):
            pass
        lock.parent.mkdir(exist_ok=True)


def test_a_start_that_fails_leaves_nothing(tmp_path, training_place):
    with pytest.raises(FileNotFoundError):
        training_runs.train(training_place, tmp_path / "a" / "b", corpus="nowhere")
    assert not (tmp_path / "a").exists()


def test_a_finished_run_has_no_lock(tmp_path, training_place):
    training_runs.train(training_place, tmp_path / "run")
    left = {each.name for each in (tmp_path / "run").iterdir()}
    assert left == {"config.json", "metrics.jsonl", "checkpoints", "model"}


@pytest.mark.slow
def test_two_trainings_at_once_leave_one_run(tmp_path, training_place):
    """The second is refused, or finds the run finished where it started late."""
    run = tmp_path / "run"
    training_runs.job(run, steps=40, save_steps=10)
    python = warm_python.executable()
    command = [python, "-m", "cream.training", str(run), "--root", str(training_place)]
    pair = [
        subprocess.Popen(command, env=training_runs.environment(), stdout=subprocess.DEVNULL,
                         stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]  # fmt: skip
    said = [each.communicate(timeout=120)[1] for each in pair]
    late = any("is finished; nothing to train" in one for one in said)
    assert sorted(each.returncode for each in pair) == [0, 0 if late else 1], said
    assert late or "is being trained by process" in "".join(said)
    assert sorted(training_runs.losses(run)) == list(range(1, 41))


def test_two_grids_do_not_write_one_file(tmp_path):
    with records.RunLog(tmp_path / "rows.jsonl", {}):
        with pytest.raises(BlockingIOError, match="another process is writing"):
            records.RunLog(tmp_path / "rows.jsonl", {})
    with records.RunLog(tmp_path / "rows.jsonl", {}) as rows:
        rows.append({"key": "a"})
    assert [each["key"] for each in records.records(tmp_path / "rows.jsonl")] == ["a"]
