"""What a launcher says of its processes by environment variables, and what is left of an old one.

torchrun, deepspeed and accelerate set RANK, WORLD_SIZE, LOCAL_RANK and MASTER_ADDR for each
process. Left over in a shell they make a single process wait for others that nobody started.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator

__all__ = ["NAMES", "check_complete", "name_accelerator", "reports_waiting", "whole"]

log = logging.getLogger(__name__)

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR")
AFTER = 10.0  # seconds of waiting before it is said


def whole(name: str, usual: int) -> int:
    """Return an environment variable's whole number; absent or empty is `usual`."""
    text = os.environ.get(name, "").strip()
    if not text:
        return usual
    if not text.isascii() or not text.isdecimal():
        raise ValueError(
            f"the environment's {name} is {text!r}; launchers set it to a whole number from 0: "
            f"unset {name}, or start this by a launcher"
        )
    return int(text)


def check_complete() -> None:
    """Refuse (ValueError) WORLD_SIZE of several processes without what lets them meet."""
    count, rank = whole("WORLD_SIZE", 1), whole("RANK", 0)
    if rank >= max(count, 1):
        raise ValueError(
            f"the environment's RANK is {rank} and WORLD_SIZE is {count}: left over from a "
            f"launcher? unset {' '.join(NAMES)}, or start by torchrun"
        )
    if count < 2:
        return
    if absent := [name for name in NAMES if not os.environ.get(name, "").strip()]:
        raise ValueError(
            f"the environment's WORLD_SIZE is {count} and {', '.join(absent)} is not set: left "
            f"over from a launcher? unset {' '.join(NAMES)}, or start by torchrun"
        )


def name_accelerator() -> None:
    """Tell DeepSpeed, which accelerate imports where it is installed, that there is no GPU.

    Otherwise it looks for one and warns of what it did not find.
    """
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


@contextlib.contextmanager
def reports_waiting() -> Iterator[None]:
    """Say for whom this process waits, where the others do not come within `AFTER` seconds."""
    count = whole("WORLD_SIZE", 1)
    place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    said = (
        "process %d waits at %s for the other %d of %d (WORLD_SIZE). If no launcher started them, "
        "end this and unset %s"
    )
    given = (whole("RANK", 0), place, count - 1, count, " ".join(NAMES))
    timer = threading.Timer(AFTER, log.warning, (said, *given))
    timer.daemon = True
    if count > 1:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()
