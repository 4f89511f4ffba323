"""Files that are there as a whole or not at all: written beside their place, then renamed.

What belongs here: writing one file. A folder of a corpus is `data.writer`'s, rows that are appended
are `results.store`'s.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["atomic_path", "atomic_write", "readable_alike"]


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a path to write to, which takes the place of `path` (its folder is made) at the end.

    After an error `path` is as it was and nothing is left; of a process that is killed a hidden
    file ending in .partial may be.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield beside
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def atomic_write(path: str | Path, content: str | bytes) -> None:
    """Write a whole file: bytes as they are, text as UTF-8 with its line ends."""
    with atomic_path(path) as beside:
        beside.write_bytes(content.encode() if isinstance(content, str) else content)


def readable_alike(folder: Path, like: str = "config.json") -> None:
    """Give a folder's files the permissions of the one called `like`, written as files usually are.

    safetensors from 0.8 lets the owner alone read its files: a server under another name, which
    could read the rest, would say that the weights are not there.
    """
    mode = (folder / like).stat().st_mode & 0o777
    for file in folder.iterdir():
        if file.is_file():
            file.chmod(mode)
