"""Seeded retrieval documents and questions: numbered lines, key-value pairs, hidden sentences.

What belongs here: the vocabulary of pseudo-words and numbers with its split into training and
evaluation, the text of the three families, dense training documents with the character spans of
their records and queries, and the prompts of the miniature's evaluations. Nothing here knows a
tokenizer or a model; a length in tokens is asked of a `count` that the caller passes.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

__all__ = [
    "CHARACTERS_PER_TOKEN",
    "FAMILIES",
    "PAIRS_HEADER",
    "SPLITS",
    "Document",
    "Prompt",
    "Query",
    "Record",
    "draw_records",
    "is_evaluation_value",
    "is_evaluation_word",
    "line_prompt",
    "line_text",
    "needle_prompt",
    "pair_prompt",
    "pair_text",
    "training_document",
    "values",
    "words",
]

FAMILIES = ("lines", "pairs", "needle")
SPLITS = ("training", "evaluation")
PAIRS_HEADER = (
    "Extract the value corresponding to the specified key in the JSON object below.\n\nJSON data:\n"
)
# Typical for a byte-level BPE of 4,096 with digits split; a document's real length is counted.
CHARACTERS_PER_TOKEN = {"lines": 2.4, "pairs": 2.3, "needle": 3.2}

_CONSONANTS = "bdhklmnprtvwyz"
_SYLLABLES = tuple(c + v for c in _CONSONANTS for v in "aeiou")
_CLASSES = 7  # divides the 70 syllables and the 14 consonants, so every class is equally large


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


class Prompt(NamedTuple):
    """An evaluation prompt and the text that should follow it."""

    prompt: str
    answer: str


# ------------------------------------------------------------------------------- vocabulary


def _residues(rng: np.random.Generator, split: str, count: int) -> np.ndarray:
    """Draw classes: 0 belongs to evaluation, 1 to 6 to training."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: use one of {', '.join(SPLITS)}")
    if split == "evaluation":
        return np.zeros(count, dtype=np.int64)
    return rng.integers(1, _CLASSES, size=count)


def words(
    rng: np.random.Generator, split: str, count: int, syllables: int = 2, coda: bool = True
) -> list[str]:
    """Draw `count` pseudo-words (with repetition) of a split: CVCVC, or longer.

    The indices of a word's parts sum to a multiple of 7 exactly in the evaluation split, so the
    splits share every syllable at every place but no word.
    """
    residue = _residues(rng, split, count)
    last = len(_CONSONANTS) if coda else len(_SYLLABLES)
    free = syllables if coda else syllables - 1
    parts = rng.integers(0, len(_SYLLABLES), size=(count, free))
    rest = (residue - parts.sum(axis=1)) % _CLASSES
    final = rest + _CLASSES * rng.integers(0, last // _CLASSES, size=count)
    endings = _CONSONANTS if coda else _SYLLABLES
    return [
        "".join([_SYLLABLES[p] for p in row]) + endings[end]
        for row, end in zip(parts.tolist(), final.tolist(), strict=True)
    ]


def values(rng: np.random.Generator, split: str, count: int) -> list[str]:
    """Draw `count` five-digit numbers (with repetition): multiples of 7 are for evaluation."""
    sevens = rng.integers(1429, 14285, size=count)  # 10,003 to 99,994
    return [str(v) for v in (sevens * _CLASSES + _residues(rng, split, count)).tolist()]


def is_evaluation_word(word: str) -> bool:
    """Tell the split of a pseudo-word made by `words`."""
    word = word.lower()
    parts = [_SYLLABLES.index(word[i : i + 2]) for i in range(0, len(word) - 1, 2)]
    if len(word) % 2:
        parts.append(_CONSONANTS.index(word[-1]))
    return sum(parts) % _CLASSES == 0


def is_evaluation_value(value: int | str) -> bool:
    """Tell the split of a number made by `values`."""
    return int(value) % _CLASSES == 0


def _draw_keys(family: str, rng: np.random.Generator, split: str, count: int) -> list[str]:
    if family == "lines":
        drawn = words(rng, split, 2 * count)
        return [f"{a}-{b}" for a, b in zip(drawn[::2], drawn[1::2], strict=True)]
    drawn = words(rng, split, count, syllables=3, coda=False)
    return [word.capitalize() for word in drawn] if family == "needle" else drawn


def _draw_values(family: str, rng: np.random.Generator, split: str, count: int) -> list[str]:
    if family == "lines":
        return values(rng, split, count)
    if family == "pairs":
        return words(rng, split, count, syllables=3, coda=False)
    drawn = words(rng, split, 3 * count)
    triples = zip(drawn[::3], drawn[1::3], drawn[2::3], strict=True)
    return [f"{a} a {b} in {c}" for a, b, c in triples]


def _records(
    family: str, rng: np.random.Generator, split: str, batch: int
) -> Iterator[tuple[str, str]]:
    """Yield (key, value) without end, keys never repeated, drawn a batch at a time."""
    seen: set[str] = set()
    while True:
        keys = _draw_keys(family, rng, split, batch)
        for key, value in zip(keys, _draw_values(family, rng, split, batch), strict=True):
            if key not in seen:
                seen.add(key)
                yield key, value


def draw_records(
    family: str, rng: np.random.Generator, count: int, split: str = "evaluation"
) -> list[tuple[str, str]]:
    """Draw `count` (key, value) pairs of a family, keys unique."""
    _check_family(family)
    source = _records(family, rng, split, max(1, count))
    return [next(source) for _ in range(count)]


def _check_family(family: str) -> None:
    if family not in FAMILIES:
        raise ValueError(f"unknown family {family!r}: use one of {', '.join(FAMILIES)}")


# --------------------------------------------------------------------- the text of a family


def line_text(key: str, value: str) -> str:
    """One line of a record of lines (LongChat-Lines, protocols 5.1), newline included."""
    return f"line {key}: REGISTER_CONTENT is <{value}>\n"


def pair_text(key: str, value: str) -> str:
    """One pair of a JSON object (Lost in the Middle, protocols 5.2), without separators."""
    return f"{json.dumps(key)}: {json.dumps(value)}"


def _needle_text(key: str, value: str) -> str:
    return f"The best thing to do in {key} is to {value}."


def _question(family: str, key: str) -> str:
    if family == "lines":
        return f"\nWhat is the REGISTER_CONTENT in line {key}? <"
    if family == "pairs":
        return f'\n\nKey: "{key}"\nCorresponding value:'
    return f"\nWhat is the best thing to do in {key}? The best thing to do in {key} is to"


def _answer(family: str, value: str) -> str:
    return {"lines": f"{value}>", "pairs": f' "{value}"', "needle": f" {value}."}[family]


def line_prompt(records: Sequence[tuple[str, str]], gold_index: int) -> Prompt:
    """All lines in their order, then the miniature's question about line `gold_index`."""
    key, value = _gold(records, gold_index)
    body = "".join(line_text(k, v) for k, v in records)
    return Prompt(body + _question("lines", key), _answer("lines", value))


def pair_prompt(records: Sequence[tuple[str, str]], gold_index: int) -> Prompt:
    """The official Lost-in-the-Middle prompt (protocols 5.2) over records in their order."""
    key, value = _gold(records, gold_index)
    body = ",\n ".join(pair_text(k, v) for k, v in records)
    prompt = PAIRS_HEADER + "{" + body + "}" + _question("pairs", key)
    return Prompt(prompt, _answer("pairs", value))


def needle_prompt(haystack: str, record: tuple[str, str], depth_percent: float) -> Prompt:
    """Hide a sentence at a depth of the haystack (at the nearest boundary after it), then ask.

    Depth 0 stands before the text and 100 after it.
    """
    if not 0 <= depth_percent <= 100:
        raise ValueError(f"depth_percent {depth_percent} must lie between 0 and 100")
    start = round(len(haystack) * depth_percent / 100)
    cut = 0 if start == 0 else _boundary(haystack, start)
    head, tail = haystack[:cut], haystack[cut:]
    separator = " " if head.endswith(" ") else "\n"
    if head and not head[-1].isspace():
        head += separator
    prompt = head + _needle_text(*record) + separator + tail + _question("needle", record[0])
    return Prompt(prompt, _answer("needle", record[1]))


def _gold(records: Sequence[tuple[str, str]], gold_index: int) -> tuple[str, str]:
    if not 0 <= gold_index < len(records):
        raise ValueError(f"gold_index {gold_index} must be one of the {len(records)} records")
    return records[gold_index]


def _boundary(text: str, start: int, reach: int = 240) -> int:
    """Find where a sentence can be put in: after the next line or sentence end, or space."""
    for mark in ("\n", ". ", " "):
        found = text.find(mark, max(0, start - 1), start + reach)
        if found >= 0:
            return found + len(mark)
    return min(start, len(text))


# ------------------------------------------------------------------------- training documents


@dataclass
class _Writer:
    """Grows one document and keeps the spans; every query is about an earlier record."""

    family: str
    rng: np.random.Generator
    split: str
    haystack: str = ""
    parts: list[str] = field(default_factory=list)
    length: int = 0
    records: list[Record] = field(default_factory=list)
    queries: list[Query] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.source = _records(self.family, self.rng, self.split, 32)
        self.cursor = int(self.rng.integers(len(self.haystack))) if self.haystack else 0
        if self.cursor:
            self.cursor = _boundary(self.haystack, self.cursor)
        if self.family == "pairs":
            self.add(PAIRS_HEADER)

    def add(self, text: str) -> int:
        start = self.length
        self.parts.append(text)
        self.length += len(text)
        return start

    def record(self) -> None:
        key, value = next(self.source)
        make = {"lines": line_text, "pairs": pair_text, "needle": _needle_text}[self.family]
        start = self.add(make(key, value))
        self.records.append(Record(start, self.length, key, value))

    def query(self, uniform: bool = False) -> None:
        """Ask about a record, its distance back log-uniform (or uniform) over all so far."""
        known = len(self.records)
        draw = float(self.rng.random())
        distance = 1 + int(known * draw) if uniform else int(math.exp(draw * math.log(known + 1)))
        index = known - min(max(distance, 1), known)
        record = self.records[index]
        start = self.add(_question(self.family, record.key))
        answer_start = self.add(_answer(self.family, record.value))
        self.queries.append(Query(start, answer_start, self.length, index))
        if self.family != "pairs":
            self.add("\n")

    def filler(self, characters: int) -> None:
        """Copy the next stretch of the haystack, to a boundary; begin again at its end."""
        while characters > 0:
            if self.cursor >= len(self.haystack):
                self.cursor = 0
            end = _boundary(self.haystack, self.cursor + characters)
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
        if self.queries:
            self.add("\n" if self.family == "lines" else "\n\n")
        if self.family == "pairs":
            self.add("{")
        written = 0
        while written == 0 or (self.length < stop if count is None else written < count):
            if written and self.family == "pairs":
                self.add(",\n ")
            self.record()
            written += 1
        if self.family == "pairs":
            self.add("}")

    def _hide(self, count: int | None, characters: int) -> None:
        """Hide sentences in text: one at a uniform depth, or several with gaps between."""
        if count is None:
            before = int(self.rng.integers(characters + 1))
            gaps = [before, characters - before]
        else:
            gaps = np.exp(self.rng.uniform(math.log(20), math.log(500), count + 1)).astype(int)
        for i, gap in enumerate(gaps):
            if i:
                self.record()
                last = self.parts[-2][-1:] if len(self.parts) > 1 else "\n"
                self.add(" " if last == " " else "\n")
            self.filler(int(gap))

    def text(self) -> str:
        self.parts = ["".join(self.parts)]
        return self.parts[0]


def _interleave(writer: _Writer, target: float) -> None:
    """Runs of records and queries about any earlier one: a query every two to three records."""
    longest = 2 if writer.family == "needle" else 6
    while writer.length < target or not writer.queries:
        count, asked = writer.rng.integers(1, [longest + 1, 3]).tolist()
        writer.block(count)
        for _ in range(asked):
            writer.query()


def training_document(
    family: str,
    rng: np.random.Generator,
    min_tokens: int,
    count: Callable[[str], int] | None = None,
    text: str | None = None,
    query_placement: str = "interleaved",
    evaluation_form: float = 0.2,
    end_queries: int = 8,
    split: str = "training",
) -> Document:
    """Write one document of at least `min_tokens` tokens that asks about its own records.

    `query_placement` "interleaved" asks about one query every two to three records, the distance
    back in records log-uniform; with probability `evaluation_form` the document begins with an
    evaluation prompt (records for 20 to 95 % of `min_tokens`, one question, uniform distance).
    "end" writes all records, then `end_queries` questions. `count` (characters to tokens) is
    called about once; without it the length is estimated and 25 % added. `text` is what sentences
    of the family "needle" are hidden in.
    """
    _check_family(family)
    if min_tokens < 1:
        raise ValueError(f"min_tokens {min_tokens} must be at least 1")
    if query_placement not in ("interleaved", "end"):
        raise ValueError(f"unknown query_placement {query_placement!r}: interleaved or end")
    if family == "needle" and not (text and text.strip()):
        raise ValueError("the family 'needle' hides sentences in text: pass text=...")
    writer = _Writer(family, rng, split, (text or "") if family == "needle" else "")
    estimate = min_tokens * CHARACTERS_PER_TOKEN[family]
    target = estimate * (1.25 if count is None else 1.06)
    if query_placement == "end":
        return _ending(writer, target, end_queries, min_tokens, count)
    if rng.random() < evaluation_form:
        writer.block(characters=int(estimate * rng.uniform(0.2, 0.95)))
        writer.query(uniform=True)
    _interleave(writer, target)
    while count is not None and (tokens := count(writer.text())) < min_tokens:
        _interleave(writer, 1.03 * writer.length * min_tokens / max(tokens, 1))
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
        fresh = _Writer(writer.family, writer.rng, writer.split, writer.haystack)
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
