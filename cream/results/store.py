"""Records on disk: a JSON line each while they come, Parquet with a schema's mark when published.

What belongs here: how a file is kept to one writer, extended and sealed. What a record holds is its
schema's: `rows` for answers, `study.records` for the study's runs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from cream.utils.disk import no_room
from cream.utils.files import atomic_path
from cream.utils.jsonl import whole_lines

try:
    import fcntl
except ImportError:  # Windows: two writers of one file are not noticed there
    fcntl = None

__all__ = ["LineFile", "check_place", "lock_file", "stored_schema", "write_parquet"]


class LineFile:
    """A file of lines, opened for more by one writer; each write is on the disk when it returns.

    `lines` are those that are there, by `read`, which refuses a foreign file; a last one that a
    killed writer left torn is cut off by `cut`, once the lines are known to be ours.
    BlockingIOError while another process writes the file.
    """

    def __init__(self, path: str | Path, read: Callable = whole_lines) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor: int | None = os.open(
            self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644
        )
        try:
            lock_file(self._descriptor, self.path)
            self.lines, torn = read(self.path)
            self._end = os.fstat(self._descriptor).st_size - len(torn)
        except BaseException:
            self.close()
            raise

    def cut(self) -> None:
        """Remove what follows the last whole line, and forget `lines`, which have been read."""
        os.ftruncate(self._descriptor, self._end)
        self.lines = []

    def write(self, lines: bytes, there: int, what: str = "row") -> None:
        """Append whole lines; OSError (a full disk) leaves the file as it was, `there` lines."""
        if self._descriptor is None:
            raise ValueError(f"{self.path} is closed")
        try:
            written = 0
            while written < len(lines):
                written += os.write(self._descriptor, lines[written:])
            os.fsync(self._descriptor)
        except OSError as error:
            os.ftruncate(self._descriptor, self._end)
            why = no_room(error, self.path) or "free some space"
            raise OSError(
                error.errno,
                f"{error.strerror}: the {what} was not written to {self.path}; the {there} "
                f"{what}s before it are safe. {why[0].upper()}{why[1:]}; then run the same command "
                "again",
            ) from error
        self._end += len(lines)

    def close(self) -> None:
        """Close the file and let others write it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = None


def check_place(path: str | Path) -> None:
    """Refuse, before anything is computed, a path that no file of rows can be written to.

    IsADirectoryError for a folder, PermissionError for a file or folder that is not ours to write.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, rows go to a file: name {path / 'x.jsonl'}")
    there = next(each for each in (path, *path.absolute().parents) if each.exists())
    if not os.access(there, os.W_OK):
        raise PermissionError(f"{path} cannot be written, {there} allows it not: name another file")


def lock_file(descriptor: int, path: Path) -> None:
    """Keep a file to this process until its descriptor is closed."""
    if fcntl is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BlockingIOError(
            f"another process is writing {path}; wait for it or choose another path"
        ) from None
    except OSError:
        pass  # a file system without locks


def write_parquet(
    frame: pd.DataFrame, path: str | Path, schema: str, by: Sequence[str],
    level: int | None = None,
) -> Path:  # fmt: skip
    """Write a table sorted by columns, with its schema's mark: equal rows give equal bytes."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    ordered = frame.sort_values(list(by), ignore_index=True, kind="stable")
    table = pa.Table.from_pandas(ordered, preserve_index=False)
    table = table.replace_schema_metadata({"cream": schema, **(table.schema.metadata or {})})
    with atomic_path(path) as beside:
        parquet.write_table(table, beside, compression="zstd", compression_level=level)
    return Path(path)


def stored_schema(path: str | Path) -> str | None:
    """Return the schema that a Parquet file is marked with; None for one without a mark."""
    import pyarrow.parquet as parquet

    return (parquet.read_schema(path).metadata or {}).get(b"cream", b"").decode() or None
