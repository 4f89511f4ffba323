"""Several processes for one evaluation: who they are, how they share samples and one file of rows.

    torchrun --nproc-per-node 2 -m cream.evaluation longchat_lines --models ... --rows ...

What belongs here: what `torchrun` and `accelerate launch` write into a process's environment. The
processes talk by gloo, on the CPU: they only wait for one another, however long one takes.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from cream.results import Rows
from cream.utils.launcher import NAMES, reports_waiting, whole

__all__ = ["Processes", "current", "leave", "shared_rows"]

_PATIENCE = timedelta(days=30)  # one process may be done days before another


@dataclass(frozen=True)
class Processes:
    """The processes of this launch: this one's rank, and how many there are."""

    rank: int = 0
    count: int = 1
    group: Any = None

    def gather(self, value: object) -> list:
        """Return every process's value, in the order of ranks, once all have come here."""
        if self.count == 1:
            return [value]
        found = [None] * self.count
        dist.all_gather_object(found, value, group=self.group)
        return found

    def from_first(self, make: Callable[[], Any]) -> Any:
        """Return what process 0 makes; the others wait for it."""
        return self.gather(make() if self.rank == 0 else None)[0]


def current() -> Processes:
    """Return the processes that a launcher started, met for the first time here; else this one.

    ValueError on a host with fewer GPUs than processes.
    """
    if not all(map(os.environ.get, NAMES)) or whole("WORLD_SIZE", 1) == 1:
        return Processes()
    return _met()


@cache
def _met() -> Processes:
    local, cards = whole("LOCAL_RANK", 0), torch.cuda.device_count()
    if cards and local >= cards:
        raise ValueError(
            f"process {local} of this host has no GPU of its own, there are {cards}: start at most "
            f"{cards} a host (torchrun --nproc-per-node {cards})"
        )
    if cards:
        torch.cuda.set_device(local)
    if dist.is_initialized():
        group = dist.new_group(backend="gloo", timeout=_PATIENCE)
    else:
        with reports_waiting():
            dist.init_process_group("gloo", timeout=_PATIENCE)
        group = None
    return Processes(dist.get_rank(), dist.get_world_size(), group)


def leave() -> None:
    """Part from the other processes, at the end of a command."""
    if _met.cache_info().currsize and dist.is_initialized():
        dist.destroy_process_group()
        _met.cache_clear()


@contextmanager
def shared_rows(path: str | Path, header: Mapping[str, object]) -> Iterator[Rows]:
    """Give each process a writer of the rows at `path`; at the end, one file holds them all.

    Process 0 writes the file, every other a part beside it, which process 0 adds at the end, or
    the next evaluation that opens the file, whatever became of this one. All see the same rows
    before any writes one. With a single process, `Rows`.
    """
    here = current()
    rows = _opened(here, path, header)
    try:
        yield rows
        if here.rank:
            rows.close()
        here.gather(None)
        if not here.rank and here.count > 1:
            rows.absorb()
    finally:
        rows.close()
    here.gather(None)


def _opened(here: Processes, path: str | Path, header: Mapping[str, object]) -> Rows:
    """Open the file in process 0, then the parts; what one cannot open, none goes on without."""
    rows, problem = None, None
    for turn in (0, 1):
        if (here.rank > 0) == turn and problem is None:
            try:
                rows = Rows(path, header, part=here.rank)
            except (OSError, ValueError) as error:
                problem = error
        problems = [one for one in here.gather(problem) if one is not None]
        if problems:
            if rows is not None:
                rows.close()
            raise problems[0]
    return rows
