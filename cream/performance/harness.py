"""What every measurement shares: a process with a limit, a clock, memory, options, a row.

    found = in_child("cream.performance.training", job, limit=240)   # what it said last
    for line in child_lines(command("MODULE", job), limit=600): ...  # what it says as it goes
    seconds, value = timed(function); peak_gib()
    append(path, shape_header("llama2-7b", shape, "loss of llama2-7b", card, settings), row)

What belongs here: how something is measured and written down. What is measured lies beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import pandas as pd
import torch
from transformers import LlamaConfig

from cream.evaluation.model_spec import device_name
from cream.results import Rows
from cream.utils.provenance import hash_of

__all__ = [
    "DONE",
    "GIB",
    "add_common",
    "append",
    "card",
    "card_name",
    "child_lines",
    "command",
    "describe_machine",
    "environment",
    "fresh",
    "in_child",
    "known",
    "listed",
    "listed_of",
    "machine_state",
    "now",
    "numbers",
    "peak_gib",
    "place",
    "scratch",
    "shape_header",
    "tell",
    "timed",
    "typed_command",
]

GIB = 2**30
FILES = ("--rows", "--answers", "--folder", "--profile")  # whose files are the typist's
T = TypeVar("T")
DONE = {"done": True}  # the last line of a process that may take long to end


# ------------------------------------------------------------------------------ the command line


def add_common(parser: argparse.ArgumentParser, limit: int, of: str = "a setting") -> None:
    """Declare what every command that starts processes takes."""
    parser.add_argument("--limit", type=int, default=limit, help=f"seconds {of} may take")
    parser.add_argument("--rows", metavar="FILE", help="append rows to this JSON Lines file")
    parser.add_argument("--one", help=argparse.SUPPRESS)


def listed_of(kind: Callable[[str], object]) -> Callable[[str], list]:
    """Return what reads a list with commas between, each part by `kind`."""

    def read(text: str) -> list:
        return [kind(part.strip()) for part in text.split(",")]

    read.__name__ = f"comma-separated list of {kind.__name__}"
    return read


def listed(text: str) -> list[int | str]:
    """Read a list with commas between: whole numbers where they are, else text."""
    parts = [part.strip() for part in text.split(",")]
    return [int(part) if part.isdigit() else part for part in parts]


def numbers(text: str) -> list[int]:
    """Read whole numbers with commas between."""
    return [int(part) for part in text.split(",")]


listed.__name__ = numbers.__name__ = "list with commas between"  # as argparse says it


def typed_command(name: str, arguments: Sequence[str] | None) -> str:
    """Return the command that a row was measured by, without the files of the one who typed it."""
    kept, given = [], list(sys.argv[1:] if arguments is None else arguments)
    while given:
        if (one := given.pop(0)) in FILES:
            given = given[1:]
        elif not one.startswith(tuple(f"{option}=" for option in FILES)):
            kept.append(one)
    return " ".join([f"python -m cream.performance {name}", *kept])


@contextlib.contextmanager
def scratch(folder: str | Path | None) -> Iterator[Path]:
    """Give a new folder, in `folder` (made if need be) or where temporary files are; remove it."""
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as made:
        yield Path(made)


# --------------------------------------------------------------------------- a process of its own


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a process that measures: no hub, an allocator without gaps."""
    fixed = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", **more}
    return {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True", **os.environ, **fixed}


def command(module: str, job: Mapping[str, object], processes: int = 1) -> list[str]:
    """Return the command `python -m MODULE --one JOB`, by torchrun for several processes."""
    one = ["-m", module, "--one", json.dumps(job)]
    if processes > 1:
        launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        one = ["-m", *launcher, *one]
    return [sys.executable, *one]


def in_child(
    module: str, job: Mapping[str, object], limit: float, processes: int = 1, **variables: str
) -> dict[str, object]:
    """Do a job in a process of its own; what it said last, or as "error" why it said nothing.

    The process prints a line of JSON last. `variables` join its environment. "wall" is the seconds
    that it took. After `limit` seconds it is ended.
    """
    start, found = time.perf_counter(), {"error": "it said nothing"}
    for line in child_lines(command(module, job, processes), limit, **variables):
        found = line
    return found if "error" in found else {**found, "wall": time.perf_counter() - start}


def child_lines(
    arguments: Sequence[str], limit: float, until_done: bool = False, **variables: str
) -> Iterator[dict]:
    """Start a process and pass on its lines of JSON; last an "error" if it failed or was late.

    One that says DONE is ended at once, with all that it started: compilers take minutes to end.
    `until_done` it must say so; otherwise it must have said anything.
    """
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            arguments, env=environment(**variables), stdout=subprocess.PIPE, stderr=errors,
            text=True, start_new_session=True,
        )  # fmt: skip
        late, said = threading.Event(), False
        timer = threading.Timer(limit, lambda: (late.set(), _end(process)))
        timer.start()
        try:
            for found in filter(None, map(_read, process.stdout)):
                if found == DONE:
                    return
                said = True
                yield found
            process.wait()
        finally:
            timer.cancel()
            _end(process)
        errors.seek(0)
        if late.is_set():
            yield {"error": f"not done within {limit:g} s"}
        elif process.returncode or until_done or not said:
            yield {"error": _reason(errors.read(), process.returncode)}


def _end(process: subprocess.Popen) -> None:
    """Kill a process and what it started, and wait for it; its own session is one group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _read(line: str) -> dict | None:
    """A line of ours; libraries print others."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _reason(wrong: str, code: int) -> str:
    """The last error that a process told of, not its launcher's."""
    lines = [line.strip() for line in wrong.splitlines() if line.strip()]
    errors = [re.sub(r"^\[rank\d+\]: ", "", line) for line in lines]
    told = [one for one in errors if re.match(r"[\w.]*(Error|Exception|Exit|Interrupt)\b", one)]
    told = [one for one in told if "ChildFailedError" not in one]
    return (told or lines or [f"exit {code}"])[-1]


def tell(found: Mapping[str, object], together: bool = False) -> None:
    """Print what the first process found; of several each ends at once, waiting for no other.

    `together` they wait for each other, and the first, whose messages others read, ends last.
    """
    wait = together and torch.distributed.is_initialized()
    if wait:
        torch.distributed.barrier()
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps(found), flush=True)
        time.sleep(1 if wait else 0)
    if together or "RANK" in os.environ:
        sys.stderr.flush()
        os._exit(0)


# --------------------------------------------------------------------------- the card and the clock


def place() -> torch.device:
    """Return where this process measures: its launcher's card or the first, or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def card() -> tuple[int | None, str]:
    """Return the card's bytes and its name; None and "no card" without one."""
    if not torch.cuda.is_available():
        return None, "no card"
    found = torch.cuda.get_device_properties(place())
    return found.total_memory, found.name


def card_name() -> str:
    """Return the name of the processor that this process measures on, as rows have it."""
    return device_name(place())


def timed(function: Callable[[], T]) -> tuple[float, T]:
    """Return the seconds that a call took, until the card has done it, and what it gave."""
    _synchronize()
    start = time.perf_counter()
    found = function()
    _synchronize()
    return time.perf_counter() - start, found


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def fresh() -> None:
    """Give back what the last measurement held, and count the peak anew."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_gib() -> float | None:
    """Return the most that tensors held since `fresh`, in GiB; None without a card."""
    return torch.cuda.max_memory_allocated() / GIB if torch.cuda.is_available() else None


def machine_state() -> dict[str, object]:
    """Return what else decides a time: threads, how busy the machine is, and when it was."""
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    return {"threads": torch.get_num_threads(), "load": load, "measured": now()}


def describe_machine(card: str) -> str:
    """Return a card with what else decides a time, for a person."""
    state = machine_state()
    return f"{card}, {state['threads']} threads, load {state['load']}"


def now() -> str:
    """Return the time, to the second, as rows have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


# -------------------------------------------------------------------------------------------- rows


def shape_header(
    name: str, shape: LlamaConfig, run: str, card: str, settings: Mapping[str, object],
    **more: object,
) -> dict[str, object]:  # fmt: skip
    """Return the columns of a row that was measured on random weights of a shape."""
    return {
        "run": run, "preset": name, "base": "random weights",
        "model_hash": hash_of(shape.to_dict()), "window": shape.max_position_embeddings,
        "card": card, "seed": 0, "settings": settings, **more,
    }  # fmt: skip


def known(number: float | None) -> float | None:
    """Return a number, or None where a table says NaN."""
    return None if pd.isna(number) else number


def append(path: str | None, header: Mapping[str, object], row: Mapping[str, object]) -> None:
    """Append one measurement to a file of rows; None: to none."""
    if path:
        with Rows(path, dict(header)) as rows:
            rows.append({"sample": 0, **row})
