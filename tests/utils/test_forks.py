"""Work on all cores: in order, from this process's memory, and with its errors."""

from __future__ import annotations

import os
import signal
import sys
from concurrent.futures.process import BrokenProcessPool

import pytest

from cream.utils import forks

linux = pytest.mark.skipif(sys.platform != "linux", reason="there are forks on Linux alone")


@linux
def test_results_are_in_order_and_of_other_processes(monkeypatch):
    """What is called need not be picklable: forks have it already."""
    monkeypatch.setattr(forks, "cores", lambda: 2)
    added = 10
    found = forks.mapped(lambda n: (n + added, os.getpid()), range(7))
    assert [number for number, _ in found] == [*range(10, 17)]
    assert os.getpid() not in {process for _, process in found}
    assert not forks._inherited


@linux
def test_an_error_is_raised_here(monkeypatch):
    monkeypatch.setattr(forks, "cores", lambda: 2)
    with pytest.raises(ZeroDivisionError):
        forks.mapped(lambda n: 1 // n, [1, 0, 2])
    assert not forks._inherited
    assert forks.mapped(str, [1, 2]) == ["1", "2"]


@linux
def test_a_fork_that_is_killed_is_said_and_nobody_waits(monkeypatch):
    """As the kernel kills one where memory runs out."""
    monkeypatch.setattr(forks, "cores", lambda: 2)
    with pytest.raises(BrokenProcessPool):
        forks.mapped(lambda n: n == 1 and os.kill(os.getpid(), signal.SIGKILL), range(4))
    assert not forks._inherited


@linux
def test_work_of_work_is_done_too(monkeypatch):
    monkeypatch.setattr(forks, "cores", lambda: 2)
    squares = forks.mapped(lambda n: sum(forks.mapped(lambda m: n * m, range(3))), range(3))
    assert squares == [0, 3, 6]


@pytest.mark.parametrize("items,cores,most", [([3], 4, None), ([3, 4], 1, None), ([3, 4], 4, 1)])
def test_one_process_is_this_one(items, cores, most, monkeypatch):
    monkeypatch.setattr(forks, "cores", lambda: cores)
    assert forks.mapped(lambda n: os.getpid(), items, most) == [os.getpid()] * len(items)


def test_nothing_is_no_work():
    assert forks.mapped(str, []) == []


def test_elsewhere_than_on_linux_there_is_one_core(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert forks.cores() == 1
