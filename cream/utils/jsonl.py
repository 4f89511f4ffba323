"""Data files of others in JSON Lines: an object a line, refused by place where it is none.

What belongs here: from a file or a line to a dict. What its fields mean is the reader's.
"""

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

__all__ = ["json_lines", "parsed"]


def json_lines(path: str | Path, fields: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place, row) of a JSON Lines file, gzipped if its name ends in .gz.

    `place` is "FILE, line N" for what the caller has to say of a row. ValueError with the line for
    a file that is damaged or foreign: no gzip, torn, no JSON, a field of `fields` missing, no rows.
    """
    path, number = Path(path), 0
    if not path.is_file():
        raise FileNotFoundError(f"there is no data file {path}: give one that you fetched")
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    place = f"{path}, line {number}"
                    yield place, _complete(place, line, fields)
    except gzip.BadGzipFile as error:
        raise ValueError(f"{path}, after line {number}, is not gzip: fetch it again") from error
    except (EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged after line {number}: fetch it again") from error
    if number == 0:
        raise ValueError(f"{path} holds no rows: fetch it again")


def _complete(place: str, line: str, fields: Sequence[str]) -> dict[str, Any]:
    row = parsed(place, line, fields)
    if absent := [name for name in fields if name not in row]:
        raise ValueError(f"{place}, has no {', '.join(absent)}: is it another data set?")
    return row


def parsed(place: str, line: str, fields: Iterable[str]) -> dict[str, Any]:
    """Return the object on a line; ValueError, which begins with `place`, if it holds none.

    `fields` are those it should have, for the message; that it has them is not checked.
    """
    try:
        row = json.loads(line)
    except ValueError:
        raise ValueError(f"{place}, is not JSON: the file is damaged or of another kind") from None
    if not isinstance(row, dict):
        raise ValueError(f"{place}, is no object with {', '.join(fields)}")
    return row
