"""Which texts perplexity is measured on: corpora, the paper's sets by hub id, files of one's own.

What belongs here: opening long documents as token ids without special tokens, and choosing those
that are long enough (protocols 5.5 and 5.6). What is done with them is the task's.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from cream.data.corpus import TEXT_KINDS, Corpus, open_corpus
from cream.data.readers import open_source
from cream.data.tokenization import encoded

__all__ = [
    "PAPER",
    "Chosen",
    "Document",
    "PaperTexts",
    "Texts",
    "choose",
    "from_corpus",
    "of_corpus",
    "of_source",
]

Document = tuple[str, np.ndarray]  # its name, and its token ids without special tokens


class PaperTexts(NamedTuple):
    """A set of the paper: where its text is, and which of its documents are read.

    `min_tokens` counts BOS; the first `documents` that have so many are read, at `lengths` tokens.
    """

    hub: str
    field: str
    min_tokens: int
    documents: int
    lengths: tuple[int, ...]


_SHORT = (4096, 8192, 16384, 32768)
_LONG = (65536, 98304, 131072, 196608, 262144)
# Protocols 5.5 and 5.6: the sets as the authors saved them again, and the fields of their scripts.
PAPER = {
    "gov_report": PaperTexts("victor-wu/gov_report", "text", 32768, 50, _SHORT),
    "proof-pile": PaperTexts("victor-wu/proof-pile", "input", 32768, 50, _SHORT),
    "pg19": PaperTexts("victor-wu/pg19_long", "text", 262144, 20, _LONG),
}


class Texts(NamedTuple):
    """Documents to be read, in their order, and what their set says of how many and how long.

    `corpus` names their set, and the split where it is not "test"; it goes into the settings of
    its rows.
    """

    documents: Iterator[Document]
    corpus: str | None = None
    min_tokens: int = 0
    many: int | None = None


class Chosen(NamedTuple):
    """The documents that are read, and the (name, tokens) of those passed over as too short."""

    documents: list[Document]
    short: list[tuple[str, int]]
    needed: int
    samples: int

    def __str__(self) -> str:
        least = f"{len(self.documents)} documents of {self.needed:,} tokens or more"
        if len(self.documents) < self.samples:
            least += f" (there are no more; {self.samples} were asked for)"
        return f"{least}; {_listed(self.short)} passed over as too short"


def _listed(short: Sequence[tuple[str, int]], most: int = 3) -> str:
    if not short:
        return "none"
    named = [f"{name} ({tokens:,})" for name, tokens in short[:most]]
    more = f" and {len(short) - most} more" if len(short) > most else ""
    return f"{len(short)} ({', '.join(named)}{more})"


def choose(documents: Iterable[Document], needed: int, samples: int) -> Chosen:
    """Take the first `samples` documents of at least `needed` tokens (special ones not counted).

    Fewer if there are no more. What comes after the last one is not read. ValueError when there is
    none, naming the longest.
    """
    taken, short = [], []
    for name, ids in documents:
        if len(ids) < needed:
            short.append((name, len(ids)))
        else:
            taken.append((name, np.asarray(ids)))
        if len(taken) == samples:
            break
    if not taken:
        longest = max((tokens for _, tokens in short), default=0)
        raise ValueError(
            f"no document has {needed} tokens (the longest has {longest}): use shorter lengths, or "
            f"longer documents; too short: {_listed(short)}"
        )
    return Chosen(taken, short, needed, samples)


def from_corpus(
    corpus: Corpus, bos_token_id: int | None, split: str = "test", kind: str | None = None
) -> Iterator[Document]:
    """Yield (name, token ids without BOS) of a split's documents of one kind, in their order.

    None: of every kind of text, taken in turn, so that the first few are of all.
    """
    documents = corpus.split(split)
    wanted = TEXT_KINDS if kind is None else (kind,)
    names, kinds = documents.column("name"), documents.column("kind")
    lists = [[place for place, each in enumerate(kinds) if each == one] for one in wanted]
    for index in (place for turn in zip_longest(*lists) for place in turn if place is not None):
        ids = documents.tokens(index)
        yield names[index], ids[1:] if ids[0] == bos_token_id else ids


def of_corpus(path: str | Path, tokenizer: PreTrainedTokenizerBase, split: str = "test") -> Texts:
    """Open the texts of a folder that 01_data made, or its conversations where it has no texts.

    Texts, code and manuals are taken in turn. Rows of another split than "test" name it, so that
    no mean has both. ValueError for a corpus of another tokenizer, and for a split it has not.
    """
    opened = open_corpus(path, tokenizer)
    kinds = set(opened.split(split).column("kind"))
    kind = "chat" if "chat" in kinds and kinds.isdisjoint(TEXT_KINDS) else None
    documents = from_corpus(opened, tokenizer.bos_token_id, split, kind)
    return Texts(documents, opened.label + ("" if split == "test" else f", {split} split"))


def of_source(
    source: str,
    tokenizer: PreTrainedTokenizerBase,
    field: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    root: str | Path = ".",
) -> Texts:
    """Open a set of the paper by its name in `PAPER`, or any source that `documents` opens.

    A relative path starts at `root`; `split` None reads all of it. ValueError for documents that
    somebody tokenised before: which tokenizer cut them cannot be seen.
    """
    known, here = PAPER.get(source), Path(root) / Path(source).expanduser()
    local = str(here) if here.exists() else source
    place, own = (known.hub, known.field) if known else (local, None)
    found = open_source(place, field or own, split=split or "train", revision=revision)
    named = source if known else Path(source).name
    documents = _tokenised(found.documents, tokenizer, named, split)
    corpus = named if split is None else f"{named} {split}"
    return Texts(documents, corpus, *((known.min_tokens, known.documents) if known else ()))


def _tokenised(
    documents: Iterable[dict], tokenizer: PreTrainedTokenizerBase, named: str, split: str | None
) -> Iterator[Document]:
    for document in encoded(_as_text(documents, named, split), tokenizer, bos=False):
        yield f"{named}: {document['name']}", document["tokens"]


def _as_text(documents: Iterable[dict], named: str, split: str | None) -> Iterator[dict]:
    for document in documents:
        if split is not None and document["split"] != split:
            continue
        if "text" not in document:
            raise ValueError(
                f"{named} holds input_ids of an unnamed tokenizer: name its text with field, or "
                "make a corpus for this base with 01_data"
            )
        yield document
