"""Where documents come from besides the pinned distributions: files of one's own, or a hub.

What belongs here: reading JSONL, text folders, tables, ShareGPT dumps, hub data sets and
the standard library's own modules as one stream of documents, and naming what was read. Every
document is ``{"split", "source", "name", "kind"}`` with ``text``, or ``input_ids`` where the
source was tokenised before; ``dropped`` is the reason of one that has no text, ``padding`` the
tokens that were cut off. Cells are read in ``columns``, files in ``utils.jsonl``.
"""

import gzip
import hashlib
import importlib.util
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import pyarrow as pa

from cream.data import tables
from cream.data.chat import ChatTemplate
from cream.data.columns import SYSTEM, Part, check_template, content, fields_read, ids_of, parts_of
from cream.data.writer import SPLITS
from cream.utils.jsonl import json_list, rows_of
from cream.utils.text_files import folder_of, printable, read_text

__all__ = ["ACCEPTED", "STANDARD_LIBRARY", "Source", "open_source", "standard_library"]

logger = logging.getLogger(__name__)

ACCEPTED = (
    "a .jsonl file (a text field, or conversations), a .json ShareGPT dump (a list of "
    "conversations), a .txt file or a folder of them, a .parquet or .arrow file, a folder of them "
    "or one that datasets saved (text, input_ids or conversations), or a hub data set's id"
)
LINES, TEXT = (".jsonl", ".jsonl.gz"), ".txt"
DATA = (*LINES, *tables.SUFFIXES)  # beside texts, they may be what was meant
# Modules long enough to try everything out with, wherever Python runs; their text differs
# between Python versions, so nothing that is published comes from them.
STANDARD_LIBRARY = {
    "train": ("argparse", "ast", "datetime", "decimal", "difflib", "doctest", "inspect",
              "optparse", "pdb", "pickle", "pydoc", "statistics", "subprocess", "tarfile",
              "threading", "turtle", "typing", "zipfile"),
    "validation": ("smtplib", "ftplib", "imaplib"),
    "test": ("mailbox", "configparser", "fractions"),
}  # fmt: skip


class Source(NamedTuple):
    """Documents still unread, and what the manifest says about where they are from."""

    documents: Iterator[dict[str, Any]]
    facts: dict[str, Any]
    notes: tuple[str, ...] = ()  # what was ignored or read under another name


def open_source(
    source: str,
    field: str | None = None,
    chat: ChatTemplate | None = None,
    split: str = "train",
    held_out: float = 0.0,
    revision: str | None = None,
) -> Source:
    """Open any source by its path or hub id; what is wrong with it is said before it is read.

    Args:
        source: see ``ACCEPTED``.
        field: the field of a JSON record or dataset row that holds the text, the ids or the turns.
            None is "text" or a usual name of conversations, and before them a data set's input_ids.
        chat: renders conversations; needed for those only.
        split: where the documents go, unless a saved DatasetDict or hub set has splits itself.
        held_out: the share of documents, by a hash of their names, that goes to validation and
            again to test. One whose text was seen before goes where that went.
        revision: the commit of a hub data set; None is its newest. What was read is recorded.

    Raises:
        FileNotFoundError, ValueError, ConnectionError: naming the source and what is accepted.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is unknown: choose one of {', '.join(SPLITS)}")
    if not 0 <= held_out < 0.5:
        raise ValueError(f"held_out is {held_out}: it must lie in [0, 0.5)")
    path = Path(source).expanduser()
    if path.exists():
        if revision is not None:
            raise ValueError(
                f"revision is {revision!r}, but {source} is a path here, which has none: leave "
                "revision out, or name a hub data set"
            )
        found = _local(path, field, chat, split)
    elif path.suffix or source.count("/") != 1 or path.is_absolute():
        raise FileNotFoundError(f"{source} does not exist; accepted are {ACCEPTED}")
    else:
        found = _hub(source, revision, field, chat, split)
    for note in found.notes:
        logger.warning("%s: %s", printable(path.name), note)
    documents = _named_apart(found.documents)
    return found._replace(documents=_hold_out(documents, held_out) if held_out else documents)


def _local(path: Path, field: str | None, chat: ChatTemplate | None, split: str) -> Source:
    name = path.name.lower()
    if path.is_file() and name.endswith((".json", *LINES)):
        return Source(_from_records(path, field, chat, split), _file_facts(path, [path]))
    if path.is_file() and name.endswith(TEXT):
        return Source(_from_texts(path, [path], split), _file_facts(path, [path]))
    if _is_saved(path):
        parts = parts_of(printable(path.name), _load_saved(path), field, split)
        facts = _file_facts(path, sorted(path.rglob("*.arrow")))
        return _from_parts(printable(path.name), parts, facts, field, chat)
    others = _other_data(path) if path.is_dir() else []
    if not others and (files := tables.files_of(path)):
        parts = parts_of(printable(path.name), tables.load(files), field, split)
        return _from_parts(printable(path.name), parts, _file_facts(path, files), field, chat)
    if path.is_dir():
        return _from_folder(path, split)
    raise ValueError(f"{path} holds nothing that is read here; accepted are {ACCEPTED}")


def _file_facts(path: Path, files: list[Path]) -> dict[str, Any]:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    size, name = sum(file.stat().st_size for file in files), printable(path.name)
    return {"name": name, "files": len(files), "bytes": size, "sha256": digest.hexdigest()}


def _is_saved(path: Path) -> bool:
    return any((path / name).is_file() for name in ("state.json", "dataset_dict.json"))


def _load_saved(path: Path) -> datasets.Dataset | datasets.DatasetDict:
    try:
        return datasets.load_from_disk(str(path))
    except (OSError, ValueError, LookupError, TypeError, pa.ArrowException) as error:
        raise ValueError(
            f"{path} is no whole data set that datasets saved ({type(error).__name__}: {error}): "
            "save or copy it again, with at least one row"
        ) from error


def _from_folder(path: Path, split: str) -> Source:
    found = folder_of(path, TEXT)
    data = [name for name in found.others if _is_data(path / name)]
    if not found.files or data:
        raise ValueError(
            f"{path} holds {len(found.files)} .txt files and {', '.join(data)}: a folder is read "
            "for its .txt files alone, or for its tables alone; give the data file itself, or a "
            "folder of one kind"
            if data
            else f"{path} holds nothing that is read here; accepted are {ACCEPTED}"
        )
    notes = (found.note(),) if found.note() else ()
    return Source(_from_texts(path, found.files, split), _file_facts(path, found.files), notes)


def _other_data(path: Path) -> list[str]:
    """What of a folder is read, or may be what was meant, and is no table."""
    found = folder_of(path, *tables.SUFFIXES).others
    return [name for name in found if name.lower().endswith(TEXT) or _is_data(path / name)]


def _is_data(path: Path) -> bool:
    """Whether a file beside texts may be what was meant: rows, or a list in JSON."""
    if path.suffix.lower() != ".json" or not path.is_file():
        return path.name.lower().endswith(DATA)
    with path.open("rb") as file:
        return file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")


def _from_texts(root: Path, files: list[Path], split: str) -> Iterator[dict[str, Any]]:
    source = printable(root.name)
    for file in files:
        name = file.name if file == root else file.relative_to(root).as_posix()
        yield {"split": split, "source": source, "name": printable(name), "kind": "text",
               "text": read_text(file)}  # fmt: skip


def _records(path: Path, fields: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place, record) of a JSON list or of JSON lines."""
    if path.suffix.lower() == ".json":
        yield from json_list(path, fields)
        return
    opened = gzip.open if path.suffix.lower() == ".gz" else open
    with opened(path, "rb") as file:
        yield from rows_of(file, path, fields)


def _from_records(
    path: Path, field: str | None, chat: ChatTemplate | None, split: str
) -> Iterator[dict[str, Any]]:
    base = {"split": split, "source": printable(path.name)}
    for place, record in _records(path, fields_read(field)):
        short, given = place.rpartition(", ")[2], record.get("id")
        name = str(given) if isinstance(given, str | int) and str(given).strip() else short
        yield {**base, "name": name, "place": short, **content(record, place, field, chat)}


def _from_parts(
    name: str,
    parts: list[Part],
    facts: dict[str, Any],
    field: str | None,
    chat: ChatTemplate | None,
) -> Source:
    renamed = [f"{part.name} is read as {part.split}" for part in parts if part.name != part.split]
    # What the default would not have read is another corpus.
    over = [part for part in parts if field == "text" and "input_ids" in part.rows.column_names]
    facts = facts | ({"column": field} if over else {})
    if turns := [part for part in parts if part.kind == "turns"]:
        check_template(name, turns[0].column, chat)
    rows = (row for part in parts for row in _rows(name, part, len(parts) > 1, chat))
    return Source(rows, facts, ("; ".join(renamed),) if renamed else ())


def _rows(
    name: str, part: Part, several: bool, chat: ChatTemplate | None
) -> Iterator[dict[str, Any]]:
    base = {"split": part.split, "source": name, "kind": "text"}
    before = "" if part.name == part.split else f"{part.name} "
    where = f"{name}, {part.name}" if several else name
    if part.kind == "ids":
        for number, (ids, padding) in enumerate(ids_of(where, part)):
            yield {**base, "name": f"{before}row {number}", "input_ids": ids, "padding": padding}
        return
    columns = [each for each in (part.column, *SYSTEM) if each in part.rows.column_names]
    for number, row in enumerate(part.rows.select_columns(columns)):
        found = content(row, f"{where}, row {number}", part.column, chat)
        yield {**base, "name": f"{before}row {number}", **found}


def _named_apart(documents: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield documents whose names differ: one that repeats an id gets its place as well."""
    seen: set[tuple[str, str]] = set()
    for document in documents:
        name, place = document["name"], document.pop("place", "repeated")
        while (document["split"], name) in seen:
            name = f"{name} ({place})"
        seen.add((document["split"], name))
        yield {**document, "name": name}


def _hub(
    source: str, revision: str | None, field: str | None, chat: ChatTemplate | None, split: str
) -> Source:
    try:
        builder = datasets.load_dataset_builder(source, revision=revision)
        builder.download_and_prepare()
        saved = builder.as_dataset()
    except (OSError, ValueError, RuntimeError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConnectionError(
            f"the data set {source} (revision {revision or 'newest'}) could not be loaded from "
            f"the hub: {first}. Download it elsewhere and give its path; accepted are {ACCEPTED}"
        ) from error
    rows = {name: len(part) for name, part in saved.items()}
    # The builder's hash is the commit that was read, also where none was asked for.
    facts = {"name": source, "revision": revision, "commit": builder.hash, "rows": rows,
             "fingerprints": {name: part._fingerprint for name, part in saved.items()}}  # fmt: skip
    return _from_parts(source, parts_of(source, saved, field, split), facts, field, chat)


def _hold_out(documents: Iterator[dict[str, Any]], share: float) -> Iterator[dict[str, Any]]:
    """Move documents to validation and test; copies of one text are never in two splits."""
    went: dict[bytes, str] = {}
    for document in documents:
        if document["split"] == "train":
            own = _drawn_split(f"{document['source']}\n{document['name']}", share)
            document["split"] = went.setdefault(_digest(document), own)
        yield document


def _drawn_split(name: str, share: float) -> str:
    place = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
    return "train" if place >= 2 * share else "test" if place < share else "validation"


def _digest(document: dict[str, Any]) -> bytes:
    """What two documents share that have the same text or the same ids."""
    ids = document.get("input_ids")
    content = document["text"].encode() if ids is None else np.asarray(ids, np.int64).tobytes()
    return hashlib.sha256(content).digest()[:16]


def standard_library() -> Source:
    """Return modules of the running Python as documents, for trying things out offline."""

    def read() -> Iterator[dict[str, Any]]:
        """Yield each module that this Python has as source text, a document of its split."""
        for split, modules in STANDARD_LIBRARY.items():
            for name in modules:
                found = importlib.util.find_spec(name)
                if found is None or found.origin is None:
                    continue
                text = Path(found.origin).read_text(encoding="utf-8")
                yield {"split": split, "source": "standard library", "name": name,
                       "kind": "text", "text": text}  # fmt: skip

    return Source(read(), {"name": "standard library", "licence": "PSF-2.0"})
