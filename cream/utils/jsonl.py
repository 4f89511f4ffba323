"""Files in JSON and JSON Lines: an object a row, refused by place where it is none.

What belongs here: from a file or a line to a dict, in data of others (`json_lines`) and in files of
ours that grow a line at a time (`whole_objects`). What its fields mean is the reader's; encodings
and byte order marks are `text_files`'.
"""

import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from cream.utils.text_files import lines_of, read_text

__all__ = [
    "json_lines",
    "json_list",
    "objects_of",
    "parsed",
    "rows_of",
    "whole_lines",
    "whole_objects",
]

_HALF = re.compile("[\ud800-\udfff]")
_HALF_ESCAPED = re.compile(r"\\u[dD][89a-fA-F]")  # of a surrogate pair, or half of one


def json_lines(path: str | Path, fields: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place, row) of a JSON Lines file, gzipped if its name ends in .gz.

    `place` is "FILE, line N" for what the caller has to say of a row. ValueError with the line for
    a file that is damaged or foreign: no gzip, torn, no JSON, a field of `fields` missing, no rows.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no data file {path}: give one that you fetched")
    opened = gzip.open if path.suffix.lower() == ".gz" else open
    with opened(path, "rb") as file:
        for place, row in rows_of(file, path, fields):
            if absent := [name for name in fields if name not in row]:
                raise ValueError(f"{place}, has no {', '.join(absent)}: is it another data set?")
            yield place, row


def rows_of(
    file: BinaryIO, name: object, fields: Sequence[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place, row) of an open binary file, with or without `fields`; see `parsed`."""
    number = rows = 0
    try:
        for number, line in lines_of(file, name):
            line = line.removeprefix("\ufeff").strip()  # the mark of a file that was appended
            if line:
                rows += 1
                yield f"{name}, line {number}", parsed(f"{name}, line {number}", line, fields)
    except gzip.BadGzipFile as error:
        raise ValueError(f"{name}, after line {number}, is not gzip: fetch it again") from error
    except (EOFError, zlib.error) as error:
        raise ValueError(f"{name} is damaged after line {number}: fetch it again") from error
    if rows == 0:
        raise ValueError(f"{name} holds no rows: fetch it again")


def json_list(path: str | Path, fields: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ("FILE, record N", row) of a file that is one JSON list of objects."""
    records = _loaded(read_text(path), f"{path}")
    if not isinstance(records, list):
        raise ValueError(f"{path} holds no JSON list, but {_kind(records)}: put rows into a list")
    if not records:
        raise ValueError(f"{path} holds no rows: it is an empty list")
    for number, row in enumerate(records, 1):
        yield f"{path}, record {number}", _object(f"{path}, record {number}", row, fields)


def parsed(place: str, line: str, fields: Iterable[str]) -> dict[str, Any]:
    """Return the object on a line; ValueError, which begins with `place`, if it holds none.

    `fields` are those that are read: half of a surrogate pair in one of them, which is no character
    and has no UTF-8, is refused. That the row has them is not checked.
    """
    row = _loaded(line, f"{place},")
    return _object(place, row, fields if _HALF_ESCAPED.search(line) else (), fields)


def whole_lines(path: str | Path) -> tuple[list[bytes], bytes]:
    """Return a file's lines that end in a newline, and the rest.

    For files that grow a line at a time: the rest is torn, its writer was killed.
    """
    content = Path(path).read_bytes()
    end = content.rfind(b"\n") + 1
    return content[:end].splitlines(), content[end:]


def whole_objects(path: str | Path, hint: str = "delete that line") -> list[tuple[int, Any]]:
    """Return (number from 1, value) of the whole lines of a file of ours; ValueError if no JSON."""
    return objects_of(whole_lines(path)[0], path, hint)


def objects_of(lines: Sequence[bytes], name: object, hint: str) -> list[tuple[int, Any]]:
    """Return (number from 1, value) of lines; ValueError names one without JSON and says `hint`."""
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append((number, json.loads(line)))
        except ValueError:
            raise ValueError(f"{name}, line {number}, is not JSON; {hint}") from None
    return found


def _loaded(text: str, place: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_without_doubles)
    except RecursionError:
        raise ValueError(f"{place} is not JSON that is read here: it is nested too deep") from None
    except _Doubled as error:
        raise ValueError(
            f"{place} has the key {str(error)!r} twice in one object, and one of the two would be "
            "lost: rename or remove one"
        ) from None
    except ValueError as error:
        lines = "name a file of one object a line .jsonl" if "Extra data" in str(error) else ""
        hint = lines or "the file is damaged or of another kind"
        raise ValueError(f"{place} is not JSON ({error}): {hint}") from None


class _Doubled(Exception):
    """A key that one object has twice."""


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Doubled(next(name for name in names if names.count(name) > 1))
    return found


def _object(
    place: str, row: object, read: Iterable[str], fields: Iterable[str] | None = None
) -> dict[str, Any]:
    """The row, checked to be an object without half characters in the fields that are `read`."""
    if not isinstance(row, dict):
        listed = ", ".join(read if fields is None else fields)
        hint = "; name a file that is one JSON list .json" if isinstance(row, list) else ""
        raise ValueError(f"{place}, is no object with {listed}, but {_kind(row)}{hint}")
    for name in read:
        if name in row and (half := _half(row[name])):
            raise ValueError(
                f"{place}, field {name!r}: holds {ascii(half)}, half of a surrogate pair, which is "
                "no character (was a text cut in an emoji?): remove it or write \\ufffd"
            )
    return row


def _half(value: object) -> str | None:
    """A half of a surrogate pair in a value of JSON, keys included, if there is one."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str) and not one.isascii() and (found := _HALF.search(one)):
            return found[0]
        if isinstance(one, Mapping):
            waiting += [*one, *one.values()]
        elif isinstance(one, list):
            waiting += one
    return None


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false",
             type(None): "null"}  # fmt: skip
    return names.get(type(value), "a number")
