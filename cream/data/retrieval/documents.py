"""Seeded retrieval documents and questions: numbered lines, key-value pairs, hidden sentences.

What belongs here: dense training documents with the character spans of their records and queries;
the families' text and the evaluation prompts come from `records`, their words from
`retrieval.vocabulary`. Nothing here knows a tokenizer or a model; a length in tokens is asked of a
`count` passed in.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from cream.data.retrieval.records import (
    OTHER,
    PAIRS_HEADER,
    WORDINGS,
    answer_text,
    boundary,
    check_family,
    endless_records,
    question_text,
    record_text,
)

__all__ = [
    "CHARACTERS_PER_TOKEN",
    "Document",
    "Query",
    "Record",
    "training_document",
]

# Typical for a byte-level BPE of 4,096 with digits split; a document's real length is counted.
CHARACTERS_PER_TOKEN = {"lines": 2.4, "pairs": 2.3, "needle": 3.2}


class Record(NamedTuple):
    """One record of a document: characters [start, end), its key and its value."""

    start: int
    end: int
    key: str
    value: str


class Query(NamedTuple):
    """A question [start, end) about records[record]; its answer is [answer_start, end)."""

    start: int
    answer_start: int
    end: int
    record: int


@dataclass(frozen=True)
class Document:
    """A training document with the character spans of what can be asked and what is asked."""

    text: str
    records: tuple[Record, ...]
    queries: tuple[Query, ...]


@dataclass
class _Writer:
    """Grows one document and keeps the spans; every query is about an earlier record."""

    family: str
    rng: np.random.Generator
    split: str
    haystack: str = ""
    wording: str = "evaluation"
    parts: list[str] = field(default_factory=list)
    length: int = 0
    records: list[Record] = field(default_factory=list)
    queries: list[Query] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.source = endless_records(self.family, self.rng, self.split, 32)
        self.cursor = int(self.rng.integers(len(self.haystack))) if self.haystack else 0
        if self.cursor:
            self.cursor = boundary(self.haystack, self.cursor)
        if self.wording == "other":
            self.add(OTHER[self.family].header)
        elif self.family == "pairs":
            self.add(PAIRS_HEADER)

    def add(self, text: str) -> int:
        """Append text and return the character at which it begins."""
        start = self.length
        self.parts.append(text)
        self.length += len(text)
        return start

    def record(self) -> None:
        """Append the next record of the family and note where it stands."""
        key, value = next(self.source)
        start = self.add(record_text(self.family, key, value, self.wording))
        self.records.append(Record(start, self.length, key, value))

    def query(self, uniform: bool = False) -> None:
        """Ask about a record, its distance back log-uniform (or uniform) over all so far."""
        known = len(self.records)
        draw = float(self.rng.random())
        distance = 1 + int(known * draw) if uniform else int(math.exp(draw * math.log(known + 1)))
        index = known - min(max(distance, 1), known)
        record = self.records[index]
        start = self.add(question_text(self.family, record.key, self.wording))
        answer_start = self.add(answer_text(self.family, record.value, self.wording))
        self.queries.append(Query(start, answer_start, self.length, index))
        if self.family != "pairs":
            self.add("\n")

    def filler(self, characters: int) -> None:
        """Copy the next stretch of the haystack, to a boundary; begin again at its end."""
        while characters > 0:
            if self.cursor >= len(self.haystack):
                self.cursor = 0
            end = boundary(self.haystack, self.cursor + characters)
            piece = self.haystack[self.cursor : end]
            if not piece[-1:].isspace():
                piece += "\n"
            self.cursor = end
            characters -= len(piece)
            self.add(piece)

    def block(self, count: int | None = None, characters: int = 0) -> None:
        """Write a run of records: `count` of them, or as many as fill `characters`."""
        stop = self.length + characters
        if self.family == "needle":
            self._hide(count, characters)
            return
        before, opening, between, closing = self._around()
        self.add(before * bool(self.queries) + opening)
        written = 0
        while written == 0 or (self.length < stop if count is None else written < count):
            self.add(between * bool(written))
            self.record()
            written += 1
        self.add(closing)

    def _around(self) -> tuple[str, str, str, str]:
        """What stands before a run of records after a question, opens, separates and closes it."""
        if self.wording == "other":
            form = OTHER[self.family]
            return form.before, "", form.between, ""
        return ("\n\n", "{", ",\n ", "}") if self.family == "pairs" else ("\n", "", "", "")

    def _hide(self, count: int | None, characters: int, skew: float = 1.0) -> None:
        """Hide sentences in text: one (skew above 1: near its begin), or several with gaps."""
        if count is None:
            before = int(characters * self.rng.random() ** skew)
            gaps = [before, characters - before]
        else:
            gaps = np.exp(self.rng.uniform(math.log(20), math.log(500), count + 1)).astype(int)
        for i, gap in enumerate(gaps):
            if i:
                self.record()
                last = self.parts[-2][-1:] if len(self.parts) > 1 else "\n"
                self.add(" " if last == " " else "\n")
            self.filler(int(gap))

    def far_needle(self, characters: int) -> None:
        """One sentence near the begin of the text, asked for once, at its end."""
        self._hide(None, characters, skew=2.0)
        self.query()

    def text(self) -> str:
        self.parts = ["".join(self.parts)]
        return self.parts[0]


def _interleave(writer: _Writer, target: float, uniform: float, most_queries: int) -> None:
    """Runs of records and queries about any earlier one: a query every two to three records."""
    longest = 2 if writer.family == "needle" else 6
    while writer.length < target or not writer.queries:
        count, asked = writer.rng.integers(1, [longest + 1, most_queries + 1]).tolist()
        writer.block(count)
        for _ in range(asked):
            writer.query(uniform=bool(writer.rng.random() < uniform))


def training_document(
    family: str,
    rng: np.random.Generator,
    min_tokens: int,
    count: Callable[[str], int] | None = None,
    text: str | None = None,
    query_placement: str = "interleaved",
    evaluation_form: float = 0.2,
    fill: tuple[float, float] = (0.2, 0.95),
    uniform: float = 0.0,
    most_queries: int = 2,
    end_queries: int = 8,
    split: str = "training",
    far: float = 0.0,
    wording: str = "evaluation",
) -> Document:
    """Write one document of at least `min_tokens` tokens that asks about its own records.

    `query_placement` "interleaved" asks 1 to `most_queries` questions after each run of 1 to 6
    records, the distance back in records log-uniform (a share `uniform` of them: uniform); with
    probability `evaluation_form` the document begins with an evaluation prompt: records for a
    share within `fill` of `min_tokens`, then 1 to `most_queries` questions at uniform distances.
    "end" writes all records, then `end_queries` questions. A share `far` of needle documents
    hides one sentence, more often early than late, and asks for it when 0.7 to 0.9 of
    `min_tokens` are full: no other placement asks over that distance often. `count`
    (characters to tokens) is called about once; without it the length is estimated and 25 % added.
    `text` is what sentences of the family "needle" are hidden in. `wording` "other" says records
    and questions in words of which no evaluation has any.
    """
    check_family(family)
    if wording not in WORDINGS:
        raise ValueError(f"unknown wording {wording!r}: use one of {', '.join(WORDINGS)}")
    if min_tokens < 1:
        raise ValueError(f"min_tokens {min_tokens} must be at least 1")
    if query_placement not in ("interleaved", "end"):
        raise ValueError(f"unknown query_placement {query_placement!r}: interleaved or end")
    if family == "needle" and not (text and text.strip()):
        raise ValueError("the family 'needle' hides sentences in text: pass text=...")
    writer = _Writer(family, rng, split, (text or "") if family == "needle" else "", wording)
    estimate = min_tokens * CHARACTERS_PER_TOKEN[family]
    target = estimate * (1.25 if count is None else 1.06)
    if query_placement == "end":
        return _ending(writer, target, end_queries, min_tokens, count)
    if family == "needle" and far and rng.random() < far:
        writer.far_needle(int(estimate * rng.uniform(0.7, 0.9)))
    elif rng.random() < evaluation_form:
        writer.block(characters=int(estimate * rng.uniform(*fill)))
        for _ in range(int(writer.rng.integers(1, most_queries + 1))):
            writer.query(uniform=True)
    _interleave(writer, target, uniform, most_queries)
    while count is not None and (tokens := count(writer.text())) < min_tokens:
        _interleave(
            writer, 1.03 * writer.length * min_tokens / max(tokens, 1), uniform, most_queries
        )
    return _finish(writer)


def _ending(
    writer: _Writer,
    target: float,
    end_queries: int,
    min_tokens: int,
    count: Callable[[str], int] | None,
) -> Document:
    """All records, then the questions; a document that came out short is written longer."""
    while True:
        fresh = _Writer(writer.family, writer.rng, writer.split, writer.haystack, writer.wording)
        if fresh.family == "needle":
            while fresh.length < target:
                fresh.block(1)
        else:
            fresh.block(characters=int(target))
        for _ in range(end_queries):
            fresh.query(uniform=True)
        tokens = min_tokens if count is None else count(fresh.text())
        if tokens >= min_tokens:
            return _finish(fresh)
        target *= 1.03 * min_tokens / max(tokens, 1)


def _finish(writer: _Writer) -> Document:
    return Document(writer.text(), tuple(writer.records), tuple(writer.queries))
