"""Long documents on disk: tokenised once, filtered, split, memory-mapped, with a manifest.

What belongs here: turning a stream of documents into a corpus folder, and reading one. Where
documents come from is in ``documents`` and ``sources``; what the presets mix is in ``mixture``.

A corpus is a folder with ``manifest.json`` and one saved ``datasets`` Dataset a split (``train``,
``validation``, ``test``) with the columns ``input_ids`` (uint16, or int32 for a vocabulary of
65,536 or more), ``num_tokens``, ``source``, ``name``, ``kind`` and ``answers`` (pairs of token
places: where there are any, the loss counts only what lies between them).
"""

import datetime
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from cream.data.overlap import shared_grams
from cream.data.tokenization import adds_bos, encoded, pieces
from cream.data.writer import FORMAT, SHORT, CorpusWriter, atomic_directory, token_type
from cream.models.embeddings import never_in_text
from cream.utils.provenance import commit, hash_of, versions
from cream.utils.text_files import printable, read_text

__all__ = [
    "TEXT_KINDS",
    "Corpus",
    "Documents",
    "build",
    "cut_alike",
    "open_corpus",
    "tokenizer_hash",
]

TEXT_KINDS = ("text", "code", "manual")  # of documents that people wrote, and no conversations
PROBE = "Line 12-ab: REGISTER_CONTENT is <94321>\n\tnaïve 漢字 <s></s> don't  stop."


class Documents:
    """The documents of one split, read without copying; picklable, for data loader workers."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.dataset = datasets.load_from_disk(str(self.folder)).with_format("numpy")
        self._starts, self._tokens = self._lists("input_ids")
        _, self._answers = self._lists("answers")

    def _lists(self, name: str) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
        chunks = self.dataset.data.column(name).chunks
        return np.cumsum([0] + [len(chunk) for chunk in chunks]), [
            (chunk.offsets.to_numpy(), chunk.values.to_numpy(zero_copy_only=True))
            for chunk in chunks
        ]

    def __reduce__(self) -> tuple[type, tuple[Path]]:
        return Documents, (self.folder,)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def tokens(self, index: int) -> np.ndarray:
        """Return the token ids of a document: a read-only view of the file, shape (num_tokens,)."""
        return self._item(self._tokens, index)

    def answers(self, index: int) -> np.ndarray:
        """Return the spans [start, end) of the only tokens in the loss, int32 (spans, 2).

        None for most documents: every token is in the loss.
        """
        return self._item(self._answers, index).reshape(-1, 2)

    def _item(self, chunks: list[tuple[np.ndarray, np.ndarray]], index: int) -> np.ndarray:
        if not 0 <= index < len(self):
            raise IndexError(f"document {index} of {len(self)}")
        place = int(np.searchsorted(self._starts, index, side="right")) - 1
        offsets, values = chunks[place]
        local = index - self._starts[place]
        return values[offsets[local] : offsets[local + 1]]

    @cached_property
    def num_tokens(self) -> np.ndarray:
        """Tokens of each document, int64, BOS included where the manifest says so."""
        return self.dataset.data.column("num_tokens").to_numpy()

    def column(self, name: str) -> list[str]:
        """Return ``source``, ``name`` or ``kind`` of every document."""
        return self.dataset.data.column(name).to_pylist()


@dataclass(frozen=True)
class Corpus:
    """A corpus folder and what its manifest says."""

    path: Path
    manifest: dict[str, Any]
    _opened: dict[str, Documents] = field(default_factory=dict, repr=False, compare=False)

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that hold documents."""
        return tuple(self.manifest["splits"])

    @property
    def label(self) -> str:
        """What rows call it, by its recipe: one name wherever its folder lies."""
        return f"corpus {self.manifest['recipe_hash'][:8]}"

    def split(self, name: str) -> Documents:
        """Return one split, opened when it is first asked for; ValueError names those there are."""
        if name not in self.splits:
            raise ValueError(f"{self.path} has no split {name!r}; it has {', '.join(self.splits)}")
        if name not in self._opened:
            self._opened[name] = Documents(self.path / name)
        return self._opened[name]

    def counts(self) -> pd.DataFrame:
        """Return a row a source: split, source, kind, documents kept and dropped, tokens."""
        return pd.DataFrame(self.manifest["counts"])

    def left_out(self) -> list[str]:
        """Return what was not read or not kept, a line each: dropped documents by reason, ...."""
        found = self.manifest
        reasons = found.get("reasons", {SHORT: found["dropped"]})
        lines = [f"{many:,} documents dropped: {reason}" for reason, many in reasons.items()]
        if padding := found.get("padding"):
            lines.append("{tokens:,} tokens of padding cut from {documents:,} documents".format(
                **padding
            ))  # fmt: skip
        return [*(lines or ["no document was dropped"]), *found.get("notes", [])]

    def table(self) -> pd.DataFrame:
        """Return a row a document: split, source, name, kind, num_tokens."""
        parts = []
        for name in self.splits:
            opened = self.split(name)
            columns = {key: opened.column(key) for key in ("source", "name", "kind")}
            parts.append(pd.DataFrame({"split": name, **columns, "num_tokens": opened.num_tokens}))
        return pd.concat(parts, ignore_index=True)


def open_corpus(path: str | Path, tokenizer: PreTrainedTokenizerBase | None = None) -> Corpus:
    """Open a corpus folder, checking its manifest, schema and (if given) its tokenizer.

    Raises:
        FileNotFoundError: no corpus there, or a split is missing.
        ValueError: another format, another schema, or another tokenizer.
    """
    path = Path(path)
    manifest = _manifest(path)
    if manifest is None:
        raise FileNotFoundError(
            f"{path} holds no corpus (manifest.json): make one with 01_data, given the same "
            "preset, or this folder as out"
        )
    if manifest.get("format") != FORMAT:
        raise ValueError(
            f"{path} has corpus format {manifest.get('format')}, this code reads {FORMAT}: "
            "build it again with overwrite"
        )
    corpus = Corpus(path, manifest)
    for name, counted in manifest["splits"].items():
        _check_split(corpus, name, counted["documents"])
    if tokenizer is not None and not _cuts_alike(tokenizer, manifest["tokenizer"]):
        raise ValueError(
            f"{path} was tokenised by {manifest['tokenizer']['name']} "
            f"({manifest['tokenizer']['vocab_size']} entries), not by the tokenizer given "
            f"({len(tokenizer)} entries): build a corpus for this base with 01_data"
        )
    return corpus


def _cuts_alike(tokenizer: PreTrainedTokenizerBase, named: Mapping[str, Any]) -> bool:
    """Whether a tokenizer gives every text the ids that the manifest's gave."""
    known = {named["hash"], named.get("text_hash", named["hash"])}
    return not known.isdisjoint((tokenizer_hash(tokenizer), tokenizer_hash(tokenizer, True)))


def _check_split(corpus: Corpus, name: str, expected: int) -> None:
    if not (corpus.path / name).is_dir():
        raise FileNotFoundError(f"{corpus.path / name} is missing: build the corpus again")
    documents = corpus.split(name)
    wanted = token_type(corpus.manifest["tokenizer"]["vocab_size"])
    found = documents.dataset.features
    if set(found) != {"input_ids", "num_tokens", "source", "name", "kind", "answers"}:
        raise ValueError(f"{corpus.path / name} has columns {sorted(found)}: not a corpus of ours")
    if found["input_ids"].feature.dtype != wanted or len(documents) != expected:
        raise ValueError(
            f"{corpus.path / name} holds {len(documents)} documents of "
            f"{found['input_ids'].feature.dtype}, its manifest says {expected} of {wanted}: "
            "build the corpus again"
        )


def _manifest(path: Path) -> dict[str, Any] | None:
    file = path / "manifest.json"
    if not file.is_file():
        return None
    try:
        return json.loads(read_text(file))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON ({error}): build the corpus again") from None


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase, text_only: bool = False) -> str:
    """Return 16 hex digits that two tokenizers share when they cut text alike.

    Over the vocabulary and a probe with and without special tokens, not over files, whose layout
    differs between library versions. With `text_only`, tokens that text never gives (such as
    padding that was added) do not count.
    """
    unused = {*never_in_text(tokenizer)} if text_only else set()
    vocabulary = sorted(each for each in tokenizer.get_vocab().items() if each[0] not in unused)
    return hash_of(vocabulary, tokenizer(PROBE)["input_ids"],
                   tokenizer(PROBE, add_special_tokens=False)["input_ids"])  # fmt: skip


def cut_alike(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> bool:
    """Whether two tokenizers give every text the same ids; padding that was added does not count.

    Their files may differ, and a chat template may be missing in one of them.
    """
    return any(tokenizer_hash(one, only) == tokenizer_hash(other, only) for only in (False, True))


def build(
    out: str | Path,
    documents: Iterable[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    window: int,
    recipe: Mapping[str, Any],
    sources: Iterable[Mapping[str, Any]] = (),
    bos: bool = True,
    piece_tokens: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
    notes: Iterable[str] = (),
    overlap: bool = False,
) -> Corpus:
    """Tokenise, filter and store a stream of documents; skip when that corpus is there already.

    Args:
        out: the corpus folder; it appears when complete, never half-written.
        documents: mappings with ``split``, ``source``, ``name``, ``kind`` and either ``text`` or
            ``input_ids``; not touched when the corpus is there.
        tokenizer: cuts ``text``. Special tokens spelt out in text stay text, but in kind "chat".
        window: documents of fewer tokens are dropped and counted.
        recipe: all else that decides the tokens, as JSON; with the arguments it is the corpus's
            identity.
        sources: what the manifest says about where the text came from.
        bos: prepend BOS once to each document of text (and to each piece); ``input_ids`` stay.
        piece_tokens: cut training texts of two or more times this length into equal pieces of at
            least this many tokens, since an epoch reads one window of each document.
        overwrite: replace a corpus of another recipe.
        notes: what the manifest says besides; no part of the identity.
        overlap: count in the manifest what held-out documents share with training (`overlap`).

    Raises:
        ValueError: no document is long enough, a token id outside the vocabulary, or ``out`` holds
            a corpus of another recipe.
        OSError: the disk, a quota or a limit is full; nothing is left behind.
    """
    bos = bos and tokenizer.bos_token_id is not None
    out, settings = Path(out), {"window": window, "bos": bos, "piece_tokens": piece_tokens}
    _check_settings(window, piece_tokens)
    identity = hash_of(FORMAT, dict(recipe), settings, tokenizer_hash(tokenizer))
    if _is_there(out, identity, overwrite):
        return open_corpus(out)
    prefix, quiet = [tokenizer.bos_token_id] if bos else [], not progress
    stream = pieces(encoded(documents, tokenizer, bos), piece_tokens, prefix)
    with atomic_directory(out) as folder:
        corpus_writer = CorpusWriter(folder, len(tokenizer), window)
        try:
            for document in tqdm(stream, "tokenised", unit=" doc", mininterval=1, disable=quiet):
                corpus_writer.add(document)
            counted = corpus_writer.close()
        finally:
            corpus_writer.abandon()
        manifest = {
            "format": FORMAT, "recipe_hash": identity, "recipe": dict(recipe), **settings,
            "bos_policy": _bos_policy(tokenizer, bos), "tokenizer": _named(tokenizer),
            "sources": [dict(source) for source in sources], "notes": list(notes), **counted,
        }  # fmt: skip
        _write_manifest(folder, manifest, overlap)
    return open_corpus(out)


def _write_manifest(folder: Path, manifest: dict[str, Any], overlap: bool) -> None:
    """Write what a corpus holds and what made it, with the overlap of its splits if asked for."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    manifest |= {
        "command": " ".join(sys.argv), "commit": commit(), "versions": versions(), "date": now
    }  # fmt: skip
    if overlap:
        splits = {name: Documents(folder / name) for name in manifest["splits"]}
        manifest["overlap"] = shared_grams(splits)
    text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
    (folder / "manifest.json").write_text(text, encoding="utf-8")


def _named(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    name = Path(tokenizer.name_or_path).name
    return {"name": printable(name), "hash": tokenizer_hash(tokenizer),
            "text_hash": tokenizer_hash(tokenizer, True), "vocab_size": len(tokenizer)}  # fmt: skip


def _check_settings(window: int, piece_tokens: int | None) -> None:
    if window < 2:
        raise ValueError(f"window {window} must be at least 2 tokens")
    if piece_tokens is not None and piece_tokens < window:
        raise ValueError(f"piece_tokens {piece_tokens} is below the window {window}: raise it")


def _bos_policy(tokenizer: PreTrainedTokenizerBase, bos: bool) -> str:
    if tokenizer.bos_token_id is None:
        return "none prepended: the tokenizer has no BOS token"
    own = "as the tokenizer does" if bos == adds_bos(tokenizer) else "unlike the tokenizer itself"
    if not bos:
        return f"none prepended, {own}"
    token = f"{tokenizer.bos_token} ({tokenizer.bos_token_id})"
    return f"{token} once a document, counted in num_tokens; documents given as ids keep theirs"


def _is_there(out: Path, identity: str, overwrite: bool) -> bool:
    """Whether this very corpus exists; ValueError where something else is in its place."""
    if not out.exists():
        return False
    manifest = _manifest(out)
    if manifest is not None and manifest.get("recipe_hash") == identity:
        return True
    if manifest is None and any(out.iterdir()):
        raise ValueError(f"{out} holds files that are no corpus: choose another out")
    if manifest is not None and not overwrite:
        raise ValueError(
            f"{out} holds a corpus of another recipe ({manifest.get('recipe_hash')}, asked "
            f"{identity}): choose another out, or overwrite=True to replace it"
        )
    return False
