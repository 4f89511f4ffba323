"""What launchers leave in the environment: read, said, or refused; never waited for in silence."""

import logging
import time

import pytest
import training_runs

from cream.evaluation import distributed
from cream.training import parallel
from cream.utils import launcher


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    for name in (*launcher.NAMES, "LOCAL_WORLD_SIZE", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


def test_an_empty_variable_is_an_absent_one(monkeypatch, tmp_path, training_place):
    for name in launcher.NAMES:
        monkeypatch.setenv(name, "")
    assert launcher.whole("WORLD_SIZE", 1) == 1 and parallel.Machine.here().processes == 1
    assert distributed.current().count == 1
    training_runs.train(training_place, tmp_path / "run", steps=2)
    assert sorted(training_runs.losses(tmp_path / "run")) == [1, 2]


@pytest.mark.parametrize("values", [{"RANK": "2", "WORLD_SIZE": "2"}, {"RANK": "1"}])
def test_a_rank_that_is_not_among_the_processes_is_left_over(monkeypatch, values):
    """It would wait for ever, or be no process's part."""
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="RANK is .*left over from a launcher"):
        launcher.check_complete()


@pytest.mark.parametrize("value", ["two", "1.5", "-", "-1", "1_0", "2 2", "\u0661"])
def test_what_is_no_number_is_named(monkeypatch, value):
    monkeypatch.setenv("WORLD_SIZE", value)
    with pytest.raises(ValueError, match=f"WORLD_SIZE is '{value}'; .*unset WORLD_SIZE"):
        parallel.Machine.here()


def test_a_world_size_alone_would_halve_the_batch_and_is_refused(
    monkeypatch, tmp_path, training_place
):
    """Accumulation was divided by 2 and one process trained: a step of half the batch."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="WORLD_SIZE is 2 and RANK, LOCAL_RANK, MASTER_ADDR is"):
        training_runs.train(training_place, tmp_path / "run", micro_batch=2)
    assert not (tmp_path / "run").exists()


def test_a_process_says_for_whom_it_waits(monkeypatch, caplog):
    monkeypatch.setattr(launcher, "AFTER", 0.05)
    about = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "node7", "MASTER_PORT": "29500"}
    for name, value in about.items():
        monkeypatch.setenv(name, value)
    with caplog.at_level(logging.WARNING), launcher.reports_waiting():
        time.sleep(0.3)
    assert "process 0 waits at node7:29500 for the other 1 of 2 (WORLD_SIZE)" in caplog.text
    caplog.clear()
    with launcher.reports_waiting():
        pass
    time.sleep(0.1)
    assert not caplog.text
