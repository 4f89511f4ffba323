"""Processes of one launch: they see the same rows, share the rest, and end with one file."""

import multiprocessing
import os
import socket
import traceback
from pathlib import Path

import pytest
import torch
from answer_rows import HEADER, row

from cream import results
from cream.evaluation import distributed
from cream.evaluation.distributed import Processes, current, shared_rows
from cream.results import Rows


def _child(work, rank: int, count: int, port: int, folder: Path, said) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count),
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}  # fmt: skip
    try:
        said.put((rank, work(folder)))
        distributed.leave()
    except BaseException as error:
        said.put((rank, f"{type(error).__name__}: {error}\n{traceback.format_exc()}"))


def together(work, folder: Path, count: int = 2) -> list:
    """What `work(folder)` returns in each of `count` processes that know of one another."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    said = fork.Queue()
    children = [
        fork.Process(target=_child, args=(work, rank, count, port, folder, said))
        for rank in range(count)
    ]
    for child in children:
        child.start()
    found = dict(said.get(timeout=60) for _ in children)
    for child in children:
        child.join(60)
    return [found[rank] for rank in range(count)]


def test_alone_there_is_one_process(monkeypatch):
    """A launcher's environment without its address is none."""
    assert current() == Processes(0, 1) and current().gather("x") == ["x"]
    assert current().from_first(lambda: 5) == 5
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert current().count == 1


def _values(folder: Path) -> tuple:
    here = current()
    assert current() is here
    return here.rank, here.count, here.gather(here.rank * 10), here.from_first(lambda: here.rank)


def test_processes_meet(tmp_path):
    assert together(_values, tmp_path, 3) == [(rank, 3, [0, 10, 20], 0) for rank in range(3)]


def _shares(folder: Path) -> tuple[int, int]:
    with shared_rows(folder / "rows.jsonl", HEADER) as rows:
        keys = {rows.key("lines", row(k)["prompt_hash"], k): k for k in range(10)}
        missing = [keys[key] for key in rows.missing(keys)]
        for sample in missing[current().rank :: 2]:
            rows.append(row(sample))
    return len(missing), len(results.read(folder / "rows.jsonl"))


def test_all_see_the_same_rows_and_leave_one_file(tmp_path):
    """Rows and parts of an earlier launch are there for all before any writes."""
    with Rows(tmp_path / "rows.jsonl", HEADER) as rows:
        rows.append(row(0))
    with Rows(tmp_path / "rows.jsonl", HEADER, part=5) as rows:
        rows.append(row(7))
    assert together(_shares, tmp_path) == [(8, 10), (8, 10)]
    assert sorted(results.read(tmp_path / "rows.jsonl")["sample"]) == list(range(10))
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_what_one_cannot_open_none_goes_on_without(tmp_path):
    """Process 0 finds the file taken: both say so, neither waits for the other."""
    with Rows(tmp_path / "rows.jsonl", HEADER):
        said = together(_shares, tmp_path)
    assert all(one.startswith("BlockingIOError: another process is writing") for one in said)
    (tmp_path / "rows.part1.jsonl").mkdir()
    assert all("rows.part1.jsonl" in one for one in together(_shares, tmp_path))


def test_more_processes_than_gpus_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    for name, value in {"RANK": 1, "LOCAL_RANK": 1, "WORLD_SIZE": 2, "MASTER_ADDR": "x"}.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(ValueError, match="process 1 of this host has no GPU.*at most 1 a host"):
        current()
