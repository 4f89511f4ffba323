"""The writing side of a corpus: token arrays into saved datasets, counted, whole or not at all.

What belongs here: what is laid on disk and how it is counted. Reading is in ``corpus``.
"""

import collections
import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from cream.utils.disk import no_room

__all__ = ["FORMAT", "SPLITS", "CorpusWriter", "atomic_directory", "token_type"]

FORMAT = 2
SPLITS = ("train", "validation", "test")
BATCH_TOKENS = 4_000_000
REASONS = 20  # kinds of dropped documents that are counted apart
SHORT = "shorter than the window"


def token_type(vocab_size: int) -> str:
    """Return the integer type token ids of this vocabulary are stored as."""
    return "uint16" if vocab_size < 65_536 else "int32"


def features(vocab_size: int) -> datasets.Features:
    """Return the columns of a split."""
    text = datasets.Value("string")
    return datasets.Features(
        {
            "input_ids": datasets.Sequence(datasets.Value(token_type(vocab_size))),
            "num_tokens": datasets.Value("int64"),
            "source": text,
            "name": text,
            "kind": text,
            "answers": datasets.Sequence(datasets.Value("int32")),
        }
    )


class _Split:
    """One split being written: an Arrow stream, flushed every few million tokens."""

    def __init__(self, folder: Path, name: str, vocab_size: int):
        self.folder, self.name, self.columns = folder, name, features(vocab_size)
        self.raw = folder / f"{name}.arrow"
        self.file = self.raw.open("wb")
        self.writer = pa.ipc.new_stream(self.file, self.columns.arrow_schema)
        self.digest = hashlib.sha256()
        self.documents = self.tokens = self.waiting_tokens = 0
        self.shortest, self.longest = 1 << 62, 0
        self.waiting: list[tuple[np.ndarray, np.ndarray, str, str, str]] = []

    def add(
        self, tokens: np.ndarray, answers: np.ndarray, source: str, name: str, kind: str
    ) -> None:
        """Append a document of tokens (n,); answers (2 m,) are first and end of m spans of them."""
        self.waiting.append((tokens, answers, source, name, kind))
        self.documents += 1
        self.tokens += len(tokens)
        self.waiting_tokens += len(tokens)
        self.shortest = min(self.shortest, len(tokens))
        self.longest = max(self.longest, len(tokens))
        self.digest.update(tokens.astype("<i4").tobytes())
        if self.waiting_tokens >= BATCH_TOKENS:
            self.flush()

    def flush(self) -> None:
        """Write the documents that wait in memory to the stream, as one batch."""
        if not self.waiting:
            return
        ids, answers, *texts = zip(*self.waiting, strict=True)
        lengths = pa.array([len(each) for each in ids], pa.int64())
        columns = [self._lists("input_ids", ids), lengths,
                   *(pa.array(each, pa.string()) for each in texts),
                   self._lists("answers", answers)]  # fmt: skip
        schema = self.columns.arrow_schema
        self.writer.write_table(pa.Table.from_arrays(columns, schema=schema))
        self.waiting, self.waiting_tokens = [], 0

    def _lists(self, column: str, arrays: Sequence[np.ndarray]) -> pa.Array:
        ends = np.cumsum([0, *(len(each) for each in arrays)]).astype(np.int32)
        flat = np.concatenate(arrays).astype(self.columns[column].feature.dtype)
        lists = pa.ListArray.from_arrays(ends, pa.array(flat))
        return lists.cast(self.columns.arrow_schema.field(column).type)

    def close(self) -> dict[str, Any]:
        """Save the split as a `datasets` folder; return its counts, in documents and tokens."""
        self.flush()
        self.writer.close()
        self.file.close()
        table = datasets.Dataset.from_file(str(self.raw))
        bars = datasets.utils.are_progress_bars_disabled()
        datasets.disable_progress_bars()
        try:
            table.save_to_disk(str(self.folder / self.name), num_shards=1)
        finally:
            if not bars:
                datasets.enable_progress_bars()
        del table
        self.raw.unlink()
        return {
            "documents": self.documents,
            "tokens": self.tokens,
            "shortest": self.shortest,
            "longest": self.longest,
            "tokens_sha256": self.digest.hexdigest(),
        }


class CorpusWriter:
    """Takes documents one by one, drops and counts short ones, writes the splits.

    Args:
        folder: where the splits are written.
        vocab_size: ids at or above it are refused.
        window: documents of fewer tokens are dropped.
    """

    def __init__(self, folder: Path, vocab_size: int, window: int):
        self.folder, self.vocab_size, self.window = folder, vocab_size, window
        self.splits: dict[str, _Split] = {}
        self.counts: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.longest_dropped = 0
        self.reasons: collections.Counter[str] = collections.Counter()
        self.padding: collections.Counter[str] = collections.Counter()

    def add(self, document: Mapping[str, Any]) -> None:
        """Store a document with ``tokens``; ValueError for a bad split or a foreign token id."""
        split, source, kind = document["split"], document["source"], document["kind"]
        if split not in SPLITS:
            raise ValueError(f"split {split!r} is unknown: choose one of {', '.join(SPLITS)}")
        tokens = document["tokens"]
        start = {"split": split, "source": source, "kind": kind, "documents": 0, "tokens": 0,
                 "dropped": 0, "dropped_tokens": 0}  # fmt: skip
        count = self.counts.setdefault((split, source, kind), start)
        if padding := document.get("padding"):
            self.padding.update(documents=1, tokens=padding)
        if "dropped" in document or len(tokens) < self.window:
            self._drop(document.get("dropped", SHORT))
            count["dropped"] += 1
            count["dropped_tokens"] += len(tokens)
            self.longest_dropped = max(self.longest_dropped, len(tokens))
            return
        low, high = int(tokens.min()), int(tokens.max())
        if low < 0 or high >= self.vocab_size:
            raise ValueError(
                f"{source}, {document['name']}: token id {high if low >= 0 else low} lies outside "
                f"the tokenizer's {self.vocab_size} entries: these ids came from another tokenizer"
            )
        count["documents"] += 1
        count["tokens"] += len(tokens)
        if split not in self.splits:
            self.splits[split] = _Split(self.folder, split, self.vocab_size)
        answers = np.asarray(document.get("answers", ()), dtype=np.int32).ravel()
        self.splits[split].add(tokens, answers, source, document["name"], kind)

    def _drop(self, reason: str) -> None:
        full = len(self.reasons) >= REASONS and reason not in self.reasons
        self.reasons["for other reasons" if full else reason] += 1

    def _check_left(self, dropped: int) -> None:
        if self.splits:
            return
        why = f"all shorter than the window of {self.window} tokens"
        if set(self.reasons) - {SHORT}:
            why = ", ".join(f"{many} dropped ({each})" for each, many in self.reasons.items())
            why = f"and with a window of {self.window} tokens {why}"
        raise ValueError(
            f"no document is left: {dropped} were read, {why} (the longest has "
            f"{self.longest_dropped}): give longer documents, join short ones, or lower the window"
        )

    def close(self) -> dict[str, Any]:
        """Finish the splits; return counts for the manifest. ValueError if nothing is left."""
        counts = list(self.counts.values())
        dropped = sum(each["dropped"] for each in counts)
        self._check_left(dropped)
        order = [name for name in SPLITS if name in self.splits]
        return {
            "splits": {name: self.splits[name].close() for name in order},
            "counts": counts,
            "dropped": dropped,
            "reasons": dict(self.reasons),
            **({"padding": dict(self.padding)} if self.padding else {}),
        }

    def abandon(self) -> None:
        """Close the files that are open; used when building failed."""
        for split in self.splits.values():
            with contextlib.suppress(Exception):
                split.file.close()


@contextlib.contextmanager
def atomic_directory(out: Path) -> Iterator[Path]:
    """Give a folder next to ``out`` that becomes ``out`` on success and vanishes on failure.

    Folders of processes that are no more are swept away. A full disk, quota or file size limit is
    reported by ``out``'s name as OSError, with the same errno, after the unfinished folder is gone.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    for left in out.parent.glob(f".{out.name}.building-*"):
        if not _alive(int(left.name.rpartition("-")[2])):
            shutil.rmtree(left, ignore_errors=True)
    folder = out.with_name(f".{out.name}.building-{os.getpid()}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
        shutil.rmtree(out, ignore_errors=True)
        os.replace(folder, out)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError) and (why := no_room(error, out)):
            raise OSError(error.errno, why) from error
        raise


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
