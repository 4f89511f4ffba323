"""Records that can be asked for, and the prompts that ask: the text of the three families.

What belongs here: drawing (key, value) records, writing them and their questions the way every
training document and every evaluation does, and the evaluation prompts. Use it through `retrieval`.
"""

import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from cream.data.retrieval.vocabulary import values, words

__all__ = [
    "FAMILIES",
    "OTHER",
    "PAIRS_HEADER",
    "Prompt",
    "WORDINGS",
    "Wording",
    "answer_text",
    "boundary",
    "check_family",
    "draw_records",
    "endless_records",
    "line_prompt",
    "line_text",
    "needle_prompt",
    "needle_text",
    "pair_prompt",
    "pair_text",
    "question_text",
    "record_text",
]

FAMILIES = ("lines", "pairs", "needle")
MOST_REPEATED = 20_000  # draws in a row that repeat a key, before there are held to be no others
PAIRS_HEADER = (
    "Extract the value corresponding to the specified key in the JSON object below.\n\nJSON data:\n"
)

WORDINGS = ("evaluation", "other")


class Wording(NamedTuple):
    """How a family's records, questions and answers are written, and what stands around runs."""

    record: str
    question: str
    answer: str
    header: str = ""
    before: str = ""  # a run of records that follows a question
    between: str = ""


# Said otherwise than the evaluations say it, for training data that must not teach their form.
OTHER = {
    "lines": Wording(
        "Ticket {key} was filed under number {value}.\n",
        "\nWhich number has ticket {key}? Number ",
        "{value}.",
        before="\n",
    ),
    "pairs": Wording(
        "{key} -> {value}",
        "\n\nlookup({key}) returns",
        " {value};",
        header="A table of names, each followed by its alias:\n\n",
        before="\n\n",
        between="\n",
    ),
    "needle": Wording(
        "Whoever visits {key} should try {value} first!",
        "\nSomeone asks for advice about {key}. My advice: try",
        " {value}!",
    ),
}


class Prompt(NamedTuple):
    """An evaluation prompt and the text that should follow it."""

    prompt: str
    answer: str


def _draw_keys(family: str, rng: np.random.Generator, split: str, count: int) -> list[str]:
    if family == "lines":
        drawn = words(rng, split, 2 * count)
        return [f"{a}-{b}" for a, b in zip(drawn[::2], drawn[1::2], strict=True)]
    if family == "pairs":
        return words(rng, split, count)
    return [word.capitalize() for word in words(rng, split, count, syllables=3, coda=False)]


def _draw_values(family: str, rng: np.random.Generator, split: str, count: int) -> list[str]:
    if family == "lines":
        return values(rng, split, count)
    if family == "pairs":
        return words(rng, split, count)
    drawn = words(rng, split, 2 * count)
    return [f"{a} a {b}" for a, b in zip(drawn[::2], drawn[1::2], strict=True)]


def endless_records(
    family: str, rng: np.random.Generator, split: str, batch: int
) -> Iterator[tuple[str, str]]:
    """Yield (key, value) without end, keys never repeated, drawn a batch at a time.

    ValueError when the family has no more keys; there are 1,225 of pairs in evaluation.
    """
    seen: set[str] = set()
    repeated = 0
    while repeated < MOST_REPEATED:
        keys = _draw_keys(family, rng, split, batch)
        for key, value in zip(keys, _draw_values(family, rng, split, batch), strict=True):
            repeated += 1
            if key not in seen:
                repeated = 0
                seen.add(key)
                yield key, value
    raise ValueError(
        f"{family} has only {len(seen):,} different keys for {split}; ask for fewer records"
    )


def draw_records(
    family: str, rng: np.random.Generator, count: int, split: str = "evaluation"
) -> list[tuple[str, str]]:
    """Draw `count` (key, value) pairs of a family, keys unique."""
    check_family(family)
    source = endless_records(family, rng, split, max(1, count))
    return [next(source) for _ in range(count)]


def check_family(family: str) -> None:
    """Refuse (ValueError) a family that does not exist."""
    if family not in FAMILIES:
        raise ValueError(f"unknown family {family!r}: use one of {', '.join(FAMILIES)}")


# --------------------------------------------------------------------- the text of a family


def line_text(key: str, value: str) -> str:
    """One line of a record of lines (LongChat-Lines, protocols 5.1), newline included."""
    return f"line {key}: REGISTER_CONTENT is <{value}>\n"


def pair_text(key: str, value: str) -> str:
    """One pair of a JSON object (Lost in the Middle, protocols 5.2), without separators."""
    return f"{json.dumps(key)}: {json.dumps(value)}"


def needle_text(key: str, value: str) -> str:
    """The sentence to hide (after Needle in a Haystack, protocols 5.3)."""
    return f"The best thing to do in {key} is to {value}."


def record_text(family: str, key: str, value: str, wording: str = "evaluation") -> str:
    """One record of a family, without what separates pairs."""
    if wording == "other":
        return OTHER[family].record.format(key=key, value=value)
    return {"lines": line_text, "pairs": pair_text, "needle": needle_text}[family](key, value)


def question_text(family: str, key: str, wording: str = "evaluation") -> str:
    """The question about a key, up to where its answer begins."""
    if wording == "other":
        return OTHER[family].question.format(key=key)
    if family == "lines":
        return f"\nWhat is the REGISTER_CONTENT in line {key}? <"
    if family == "pairs":
        return f'\n\nKey: "{key}"\nCorresponding value:'
    return f"\nWhat is the best thing to do in {key}? The best thing to do in {key} is to"


def answer_text(family: str, value: str, wording: str = "evaluation") -> str:
    """The answer that follows `question_text`."""
    if wording == "other":
        return OTHER[family].answer.format(value=value)
    return {"lines": f"{value}>", "pairs": f' "{value}"', "needle": f" {value}."}[family]


def line_prompt(records: Sequence[tuple[str, str]], gold_index: int) -> Prompt:
    """All lines in their order, then the miniature's question about line `gold_index`."""
    key, value = _gold(records, gold_index)
    body = "".join(line_text(k, v) for k, v in records)
    return Prompt(body + question_text("lines", key), answer_text("lines", value))


def pair_prompt(records: Sequence[tuple[str, str]], gold_index: int) -> Prompt:
    """The official Lost-in-the-Middle prompt (protocols 5.2) over records in their order."""
    key, value = _gold(records, gold_index)
    body = ",\n ".join(pair_text(k, v) for k, v in records)
    prompt = PAIRS_HEADER + "{" + body + "}" + question_text("pairs", key)
    return Prompt(prompt, answer_text("pairs", value))


def needle_prompt(haystack: str, record: tuple[str, str], depth_percent: float) -> Prompt:
    """Hide a sentence at a depth of the haystack (at the nearest boundary after it), then ask.

    Depth 0 stands before the text and 100 after it.
    """
    if not 0 <= depth_percent <= 100:
        raise ValueError(f"depth_percent {depth_percent} must lie between 0 and 100")
    start = round(len(haystack) * depth_percent / 100)
    cut = 0 if start == 0 else boundary(haystack, start)
    head, tail = haystack[:cut], haystack[cut:]
    separator = " " if head.endswith(" ") else "\n"
    if head and not head[-1].isspace():
        head += separator
    prompt = head + needle_text(*record) + separator + tail + question_text("needle", record[0])
    return Prompt(prompt, answer_text("needle", record[1]))


def _gold(records: Sequence[tuple[str, str]], gold_index: int) -> tuple[str, str]:
    if not 0 <= gold_index < len(records):
        raise ValueError(f"gold_index {gold_index} must be one of the {len(records)} records")
    return records[gold_index]


def boundary(text: str, start: int, reach: int = 240) -> int:
    """Find where a sentence can be put in: after the next line or sentence end, or space."""
    for mark in ("\n", ". ", " "):
        found = text.find(mark, max(0, start - 1), start + reach)
        if found >= 0:
            return found + len(mark)
    return min(start, len(text))
