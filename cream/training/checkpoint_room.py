"""Whether a disk holds a run's checkpoints and its model: by arithmetic before training starts, and
what is said and kept where it fills up all the same.

What belongs here: bytes on disk. Bytes on a card are in `memory`.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from cream.training.callbacks import last_complete_checkpoint
from cream.training.config import TrainConfig

__all__ = ["check_disk", "checkpoint_bytes", "model_bytes", "writing"]

log = logging.getLogger(__name__)

GIB = 2**30
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# How safetensors says it, and torch.save of a file that came out shorter than what was written.
SAID = ("No space left", "Disk quota exceeded", "File too large", "inline_container.cc")


@contextlib.contextmanager
def writing(run_dir: Path) -> Iterator[None]:
    """Turn an error of a disk that fills up meanwhile into an OSError that says how to go on.

    Unfinished checkpoints are removed. Other errors pass.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if getattr(error, "errno", None) not in FULL and not any(s in str(error) for s in SAID):
            raise
        left = last_complete_checkpoint(run_dir / "checkpoints")
        free = shutil.disk_usage(run_dir).free / 1e6
        onward = f"goes on from {left.name}" if left else "begins anew"
        raise OSError(
            errno.ENOSPC,
            f"{run_dir} could not be written to ({str(error).splitlines()[0]}; {free:,.0f} MB free "
            f"now that unfinished files are removed): free space there, then the same run {onward}",
        ) from error


def check_disk(config: TrainConfig, count: int, run_dir: Path, trained: int | None = None) -> int:
    """Return how many checkpoints the disk has room for besides the one that is being written.

    `count` parameters are in the model, of which checkpoints hold those `trained` (None: all).
    At most 2. 0: the old one is removed before the new one is written. OSError before anything is
    computed where not even that fits, or the model at the end does not.
    """
    trained = count if trained is None else trained
    size, model = checkpoint_bytes(config, trained), model_bytes(config, count)
    model += 4 * trained if config.lora_rank else 0  # the adapter beside it
    there = run_dir.resolve()
    while not there.exists():
        there = there.parent
    old = run_dir / "checkpoints"
    free = shutil.disk_usage(there).free + sum(
        one.stat().st_size for one in old.rglob("*") if one.is_file()
    )
    room = f"{there} has {_read(free)} free"
    if not config.save_steps:
        if model > free:
            raise OSError(f"the model takes {_read(model)} and {room}; choose another place")
        return 2
    for kept in (2, 1):
        if max((kept + 1) * size, kept * size + model) <= free:
            return kept
    said = f"a checkpoint takes {_read(size)}, the model {_read(model)}, and {room}"
    if size + model > free:
        raise OSError(f"{said}; set save_steps=0 (no checkpoints) or choose another place")
    log.warning(
        "%s: each checkpoint is removed before the next is written; a run that dies meanwhile "
        "starts anew",
        said,
    )
    return 0


def _read(size: int) -> str:
    """Bytes as a person reads them; small models are no 0.0 GiB."""
    return f"{size / GIB:.1f} GiB" if size >= GIB / 10 else f"{size / 2**20:.1f} MiB"


def checkpoint_bytes(config: TrainConfig, count: int) -> int:
    """Return the bytes of a checkpoint: weights as computed with, masters, two moments."""
    if config.precision == "master":
        return 14 * count
    return (16 if config.zero in (1, 2, 3) else 12) * count


def model_bytes(config: TrainConfig, count: int) -> int:
    """Return the bytes of the model that a run leaves."""
    return (2 if config.save_dtype == "bfloat16" else 4) * count
