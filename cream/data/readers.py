"""Where documents come from besides the pinned distributions: files of one's own, or a hub.

What belongs here: reading JSONL, text folders, saved datasets, ShareGPT dumps, hub data sets and
the standard library's own modules as one stream of documents, and naming what was read. Every
document is ``{"split", "source", "name", "kind"}`` with ``text``, or ``input_ids`` where the
source was tokenised before.
"""

import hashlib
import importlib.util
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import datasets

from cream.data.chat import ChatTemplate
from cream.data.writer import SPLITS

__all__ = ["ACCEPTED", "STANDARD_LIBRARY", "Source", "open_source", "standard_library"]

ACCEPTED = (
    "a .jsonl file (a text field, or conversations), a .json ShareGPT dump (a list of "
    "conversations), a folder of .txt files, a folder that datasets saved (text or input_ids), "
    "or a hub data set's id"
)
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


def open_source(
    source: str,
    field: str = "text",
    chat: ChatTemplate | None = None,
    split: str = "train",
    held_out: float = 0.0,
    revision: str | None = None,
) -> Source:
    """Open any source by its path or hub id; what is wrong with it is said before it is read.

    Args:
        source: see ``ACCEPTED``.
        field: the field of a JSON record or dataset row that holds the text.
        chat: renders conversations; needed for those only.
        split: where the documents go, unless a saved DatasetDict or hub set has splits itself.
        held_out: the share of documents, by a hash of their names, that goes to validation and
            again to test.
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
        documents, facts = _local(path, field, chat, split)
    elif path.suffix or source.count("/") != 1 or path.is_absolute():
        raise FileNotFoundError(f"{source} does not exist; accepted are {ACCEPTED}")
    else:
        documents, facts = _hub(source, revision, field, split)
    if held_out:
        documents = _hold_out(documents, held_out)
    return Source(documents, facts)


def _local(
    path: Path, field: str, chat: ChatTemplate | None, split: str
) -> tuple[Iterator[dict[str, Any]], dict[str, Any]]:
    if path.is_file() and path.suffix in (".jsonl", ".json"):
        return _from_records(path, field, chat, split), _file_facts(path, [path])
    if path.is_dir() and any(
        (path / name).is_file() for name in ("state.json", "dataset_dict.json")
    ):
        saved = datasets.load_from_disk(str(path))
        return _from_saved(path.name, saved, field, split), _file_facts(path, _arrow_files(path))
    texts = [path] if path.suffix == ".txt" else sorted(path.rglob("*.txt"))
    if not texts:
        raise ValueError(f"{path} holds nothing that is read here; accepted are {ACCEPTED}")
    return _from_texts(path, texts, split), _file_facts(path, texts)


def _file_facts(path: Path, files: list[Path]) -> dict[str, Any]:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    size = sum(file.stat().st_size for file in files)
    return {"name": path.name, "files": len(files), "bytes": size, "sha256": digest.hexdigest()}


def _arrow_files(path: Path) -> list[Path]:
    return sorted(path.rglob("*.arrow"))


def _from_texts(root: Path, files: list[Path], split: str) -> Iterator[dict[str, Any]]:
    for file in files:
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{file} is not UTF-8 text ({error}): convert it first") from None
        name = file.name if file == root else file.relative_to(root).as_posix()
        yield {"split": split, "source": root.name, "name": name, "kind": "text", "text": text}


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield (place, record) of a JSON list or of JSON lines."""
    with path.open(encoding="utf-8") as stream:
        if path.suffix == ".json":
            try:
                records = json.load(stream)
            except ValueError as error:
                raise ValueError(f"{path} is not JSON: {error}") from None
            if not isinstance(records, list):
                raise ValueError(f"{path} holds no JSON list; accepted are {ACCEPTED}")
            yield from ((f"record {number}", each) for number, each in enumerate(records, 1))
            return
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                yield f"line {number}", json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}, line {number} is not JSON: {error}") from None


def _from_records(
    path: Path, field: str, chat: ChatTemplate | None, split: str
) -> Iterator[dict[str, Any]]:
    for place, record in _records(path):
        if not isinstance(record, Mapping):
            raise ValueError(f"{path}, {place} is no JSON object; accepted are {ACCEPTED}")
        base = {"split": split, "source": path.name, "name": str(record.get("id", place))}
        if "conversations" in record and field not in record:
            if chat is None:
                raise ValueError(f"{path} holds conversations: name a chat template")
            text = chat.render(record["conversations"], f"{path}, {place}")
            # What the template cannot say is empty: dropped and counted as too short.
            yield {**base, "kind": "chat", "text": text or ""}
        elif isinstance(record.get(field), str):
            yield {**base, "kind": "text", "text": record[field]}
        else:
            raise ValueError(
                f"{path}, {place} has no text in field {field!r}; its fields are "
                f"{', '.join(map(str, record))}: name the right one with field"
            )


def _from_saved(
    name: str, saved: datasets.Dataset | datasets.DatasetDict, field: str, split: str
) -> Iterator[dict[str, Any]]:
    parts = saved if isinstance(saved, datasets.DatasetDict) else {split: saved}
    if not set(parts) & set(SPLITS):
        raise ValueError(f"{name} has splits {', '.join(parts)}; expected are {', '.join(SPLITS)}")
    for part, rows in parts.items():
        if part not in SPLITS:
            continue
        column = "input_ids" if "input_ids" in rows.column_names else field
        if column not in rows.column_names:
            raise ValueError(
                f"{name} has columns {', '.join(rows.column_names)}: neither input_ids nor "
                f"{field!r}; name the text column with field"
            )
        key = "input_ids" if column == "input_ids" else "text"
        only = rows.select_columns([column]).with_format("numpy" if key == "input_ids" else None)
        for number, row in enumerate(only):
            yield {"split": part, "source": name, "name": f"row {number}", "kind": "text",
                   key: row[column]}  # fmt: skip


def _hub(
    source: str, revision: str | None, field: str, split: str
) -> tuple[Iterator[dict[str, Any]], dict[str, Any]]:
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
    return _from_saved(source, saved, field, split), facts


def _hold_out(documents: Iterator[dict[str, Any]], share: float) -> Iterator[dict[str, Any]]:
    for document in documents:
        digest = hashlib.sha256(f"{document['source']}\n{document['name']}".encode()).digest()
        place = int.from_bytes(digest[:8], "big") / 2**64
        if document["split"] == "train" and place < 2 * share:
            document["split"] = "test" if place < share else "validation"
        yield document


def standard_library() -> Source:
    """Return modules of the running Python as documents, for trying things out offline."""

    def read() -> Iterator[dict[str, Any]]:
        for split, modules in STANDARD_LIBRARY.items():
            for name in modules:
                found = importlib.util.find_spec(name)
                if found is None or found.origin is None:
                    continue
                text = Path(found.origin).read_text(encoding="utf-8")
                yield {"split": split, "source": "standard library", "name": name,
                       "kind": "text", "text": text}  # fmt: skip

    return Source(read(), {"name": "standard library", "licence": "PSF-2.0"})
