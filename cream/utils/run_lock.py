"""One training a run directory at a time: who holds it, and whether they still do.

The kernel keeps the lock and gives it back when its holder ends, however that comes about, so that
a lock file left by a killed process is no obstacle. What the file says is for people, and for file
systems without locks.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import psutil

try:
    import fcntl
except ImportError:  # Windows: what the file says decides
    fcntl = None

__all__ = ["LOCK", "run_lock"]

log = logging.getLogger(__name__)

LOCK = "training.lock"
_HELD: set[Path] = set()  # by this process, which the kernel would let in a second time
_UNSAID = 1.0  # seconds in which a new holder has written who it is


@contextlib.contextmanager
def run_lock(run_dir: Path) -> Iterator[None]:
    """Keep a run directory to this process; a directory made for the lock alone is removed again.

    BlockingIOError while another process, or this one, trains in it: it says which, where and since
    when. A lock whose process has ended is taken over.
    """
    fresh = [each for each in (run_dir, *run_dir.parents) if not each.exists()]
    run_dir.mkdir(parents=True, exist_ok=True)
    path = run_dir.resolve() / LOCK
    descriptor = _acquire(path, run_dir)
    _HELD.add(path)
    try:
        yield
    finally:
        _HELD.discard(path)
        path.unlink(missing_ok=True)  # before it is let go, so that nobody holds a removed file
        os.close(descriptor)
        with contextlib.suppress(OSError):  # not empty: it holds a run now
            for each in fresh:
                each.rmdir()


def _acquire(path: Path, run_dir: Path) -> int:
    """Take the lock and return its descriptor, of the file that is there once it is taken."""
    if path in _HELD:
        raise _busy(run_dir, _holder(path))
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if not _locked(descriptor):
                raise _busy(run_dir, _read_holder(path))
            with contextlib.suppress(FileNotFoundError):
                if os.fstat(descriptor).st_ino == path.stat().st_ino:
                    _sign(descriptor, path)
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder has removed the file meanwhile


def _locked(descriptor: int) -> bool:
    """Lock a file for this process; where there are no locks, by what the file says."""
    if fcntl is not None:
        try:
            # Not flock: forked loader workers would inherit it and outlive their killed parent.
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except (BlockingIOError, PermissionError):
            return False
        except OSError:
            log.debug("this file system has no locks")
    left = _read(descriptor)
    return not left or left.get("host") != socket.gethostname() or not _alive(left)


def _alive(holder: dict) -> bool:
    """Whether the process that signed still runs: the same number, started at the same time."""
    try:
        return psutil.Process(int(holder["pid"])).create_time() == holder.get("started")
    except (psutil.Error, KeyError, TypeError, ValueError):
        return False


def _sign(descriptor: int, path: Path) -> None:
    """Write who holds the lock, and say whose it was if that process ended without removing it."""
    if left := _read(descriptor):
        log.warning("%s was left by %s, which has ended; going on", path, _who(left))
    about = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        "started": psutil.Process().create_time(),
        "command": shlex.join(sys.argv)[:200],
    }
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, (json.dumps(about) + "\n").encode(), 0)
    os.fsync(descriptor)


def _read_holder(path: Path) -> dict:
    """Who holds a lock, which a process that has only just taken it may not have written yet."""
    end = time.monotonic() + _UNSAID
    while not (found := _holder(path)) and time.monotonic() < end:
        time.sleep(0.05)
    return found


def _holder(path: Path) -> dict:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _read(descriptor: int) -> dict:
    try:
        found = json.loads(os.pread(descriptor, 4096, 0) or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _who(holder: dict) -> str:
    if not holder:
        return "another process"
    return "process {} on {} ({}), which began at {}".format(
        *(holder.get(name, "unknown") for name in ("pid", "host", "command", "since"))
    )


def _busy(run_dir: Path, holder: dict) -> BlockingIOError:
    return BlockingIOError(
        f"{run_dir} is being trained by {_who(holder)}: wait until it has ended, end it, or choose "
        "another run directory"
    )
