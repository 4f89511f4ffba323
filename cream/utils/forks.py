"""Work on all cores by forks of this process, which have what it has in memory already.

What belongs here: the pool alone. Nothing is sent to a fork but the place of its item; what it
returns is pickled.
"""

from __future__ import annotations

import functools
import itertools
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, TypeVar

__all__ = ["cores", "mapped"]

Item, Result = TypeVar("Item"), TypeVar("Result")
_numbers = itertools.count()
_inherited: dict[int, tuple[Callable[[Any], Any], Sequence[Any]]] = {}


def cores() -> int:
    """Return how many cores this process may use by forks; 1 where forks are not safe."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1


def mapped(
    call: Callable[[Item], Result], items: Sequence[Item], most: int | None = None
) -> list[Result]:
    """Return what `call` gives for each item, in order; the first items begin first.

    At most `most` forks (None: as many as there are cores) work at a time; with one, this process
    does. What a call raises is raised here; BrokenProcessPool where a fork was killed.
    """
    number = min(len(items), cores(), most or len(items))
    if number < 2:
        return list(map(call, items))
    key = next(_numbers)
    _inherited[key] = call, items  # a pool would otherwise pickle them
    try:
        with ProcessPoolExecutor(number, get_context("fork"), _one_thread) as pool:
            return list(pool.map(functools.partial(_called, key), range(len(items))))
    finally:
        del _inherited[key]


def _one_thread() -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads are not forked


def _called(key: int, place: int) -> Any:
    call, items = _inherited[key]
    return call(items[place])
