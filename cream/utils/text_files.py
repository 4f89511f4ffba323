"""Text files of others: their encodings, byte order marks and line numbers, and folders of them.

What belongs here: from a file or folder to lines of text, refused by place where it is no text.
JSON in them is `jsonl`'; what they mean is the reader's.
"""

import codecs
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

__all__ = ["Folder", "folder_of", "is_hidden", "lines_of", "printable", "read_text"]

# UTF-32's little-endian mark begins with UTF-16's, so it comes first.
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)
_ESCAPED = re.compile("[\udc80-\udcff]")  # how `surrogateescape` keeps a byte that is not UTF-8
SHOWN = 3  # names of ignored files in a note


def lines_of(file: BinaryIO, name: object) -> Iterator[tuple[int, str]]:
    """Yield (number from 1, line) of an open binary file, by its byte order mark, else as UTF-8.

    The mark is no part of the text; every line end becomes a newline. `file` has `peek`. ValueError
    names the file, the line and the column of a byte that is not UTF-8, and a line with NUL.
    """
    head = file.peek(4)[:4]
    encoding = next((known for mark, known in MARKS if head.startswith(mark)), "utf-8")
    errors = "surrogateescape" if encoding.startswith("utf-8") else "strict"
    text, number = io.TextIOWrapper(file, encoding=encoding, errors=errors), 0
    try:
        for number, line in enumerate(text, 1):
            _check(line, f"{name}", number)
            yield number, line
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{name} is not {encoding.upper()} after line {number}, as its byte order mark says "
            f"({error.reason}): save it as UTF-8"
        ) from None


def _check(line: str, name: str, number: int) -> None:
    if line.isascii() and "\0" not in line:
        return
    if found := _ESCAPED.search(line):
        byte = ord(found[0]) - 0xDC00
        raise ValueError(
            f"{name} is not UTF-8: line {number}, column {found.start() + 1}, holds the byte "
            f"0x{byte:02x} (is it Latin-1 or another encoding?); save it as UTF-8"
        )
    if "\0" in line:
        raise ValueError(
            f"{name} is no text: line {number} holds NUL characters, as binary files do and UTF-16 "
            "without a byte order mark; save it as UTF-8"
        )


def read_text(path: str | Path) -> str:
    """Return a text file's content without its byte order mark; ValueError as `lines_of`."""
    with Path(path).open("rb") as file:
        return "".join(line for _, line in lines_of(file, path))


def printable(name: str) -> str:
    """Return a file's name with U+FFFD for bytes that are not UTF-8, so that it can be stored."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


class Folder(NamedTuple):
    """The files of a folder by name: those that are read, and what is ignored (relative names)."""

    files: list[Path]
    hidden: list[str]
    others: list[str]

    def note(self) -> str:
        """Say what is ignored and how much; empty where nothing is."""
        parts = [
            f"{len(names)} {what} ({', '.join(names[:SHOWN])}{', ...' if names[SHOWN:] else ''})"
            for names, what in ((self.hidden, "hidden"), (self.others, "of other kinds")) if names
        ]  # fmt: skip
        return f"ignored files: {' and '.join(parts)}" if parts else ""


def folder_of(folder: str | Path, *suffixes: str) -> Folder:
    """List regular files below a folder whose names end in one of `suffixes`, whatever their case.

    Hidden files and folders (names that begin with a dot) and anything else are ignored by name.
    Links to files are read; links to folders are not followed.
    """
    folder, found = Path(folder), Folder([], [], [])
    for parent, folders, names in os.walk(folder, onerror=_refuse):
        links = [name for name in folders if Path(parent, name).is_symlink()]
        for path in (Path(parent, name) for name in (*names, *links)):
            inside = path.relative_to(folder)
            if is_hidden(inside):
                found.hidden.append(printable(inside.as_posix()))
            elif path.is_file() and path.name.lower().endswith(suffixes):
                found.files.append(path)
            else:
                found.others.append(printable(inside.as_posix()))
    return Folder(*(sorted(each) for each in found))


def _refuse(error: OSError) -> None:
    raise error  # a folder that cannot be opened is not passed over


def is_hidden(inside: Path) -> bool:
    """Whether a path relative to the folder that is read has a name that begins with a dot."""
    return any(part.startswith(".") for part in inside.parts)
