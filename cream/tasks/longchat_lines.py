"""LongChat-Lines: say the number in one line of a record of many (protocols 5.1).

"official" is the benchmark's prompt to the byte, in the wrapper that CREAM puts around it even for
base models; "miniature" is the record and a short question in the form that the miniature learnt.
"""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from cream import vocabulary
from cream.retrieval import Prompt, draw_records, line_prompt, line_text
from cream.tasks import Example
from cream.tasks.building import (
    checked_lengths,
    counter,
    depth,
    largest_that_fits,
    sample_rng,
)

__all__ = [
    "LENGTHS_PAPER",
    "STYLES",
    "examples",
    "load_official",
    "numbers",
    "official_prompt",
    "score",
]

TASK = "longchat_lines"
STYLES = ("miniature", "official")
# The paper's 17 lengths as multiples of N = 4,096.
LENGTHS_PAPER = tuple(
    tokens / 4096
    for tokens in (
        2500, 3600, 4200, 4800, 6000, 7100, 9400, 11800, 14000, 16000, 17500, 20000, 22000, 26000,
        28000, 30000, 32000,
    )
)  # fmt: skip

VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions. USER: {prompt} ASSISTANT:"
)
HEADER = (
    "Below is a record of lines I want you to remember. Each line begins with 'line <line index>' "
    "and contains a '<REGISTER_CONTENT>' at the end of the line as a numerical value. For each "
    "line index, memorize its corresponding <REGISTER_CONTENT>. At the end of the record, I will "
    "ask you to retrieve the corresponding <REGISTER_CONTENT> of a certain line index. Now the "
    "record start:\n\n"
)
QUESTION = (
    "\nNow the record is over. Tell me what is the <REGISTER_CONTENT> in line {key}? "
    "I need the number."
)


def official_prompt(records: Sequence[tuple[str, str]], gold_index: int) -> Prompt:
    """The prompt of the release over (label, number) records, wrapped as it is there."""
    key, value = records[gold_index]
    body = "".join(line_text(label, number) for label, number in records)
    return Prompt(VICUNA.format(prompt=HEADER + body + QUESTION.format(key=key)), value)


def examples(
    tokenizer: PreTrainedTokenizerBase,
    lengths: Sequence[int],
    samples: int,
    seed: int = 0,
    style: str = "miniature",
    questions: int = 1,
) -> list[Example]:
    """Build `samples` examples a length (tokens), as many lines in each as fit with the answer.

    The line asked for lies at every depth alike. Each record serves `questions` examples in a row,
    whose common beginning `inference` reads once; `document` names the record, the unit of an
    interval. Deterministic in (seed, length, sample, questions).
    """
    if style not in STYLES:
        raise ValueError(f"unknown style {style!r}: use one of {', '.join(STYLES)}")
    if questions < 1:
        raise ValueError(f"questions {questions} must be at least 1 a record")
    count = counter(tokenizer)
    found = []
    for length in checked_lengths(lengths, samples):
        for first in range(0, samples, questions):
            asked = range(first, first + questions)
            found += _record(count, length, asked, seed, style)[: samples - first]
    return found


def _record(
    count: Callable[[str], int], length: int, samples: range, seed: int, style: str
) -> list[Example]:
    """The examples of one record: the most lines with which every question fits."""
    most = length // 6 + 1
    rng = sample_rng(f"{TASK} {style}", seed, length, samples.start)
    depths = [depth(f"{TASK} {style}", seed, length, sample) for sample in samples]
    lines = draw_records("lines", rng, most) if style == "miniature" else _official(rng, most)
    write = line_prompt if style == "miniature" else official_prompt

    def tokens(number: int) -> int:
        asked = (write(lines[:number], int(place * number)) for place in depths)
        return max(count("".join(prompt)) for prompt in asked)

    number = largest_that_fits(tokens, length, len(lines), guess=length // 20)
    if number == len(lines) < most:
        raise ValueError(f"length {length} needs more than the {number} labels there are")
    golds = [int(place * number) for place in depths]
    return [
        _example(write(lines[:number], gold), gold, number, length, sample, samples.start, style)
        for gold, sample in zip(golds, samples, strict=True)
    ]


def _example(
    asked: Prompt, gold: int, number: int, length: int, sample: int, record: int, style: str
) -> Example:
    prompt, answer = asked
    common = dict(
        document=f"{length} tokens, record {record}",
        task=TASK,
        sample=sample,
        prompt=prompt,
        target=answer,
        token_length=length,
        gold_index=gold,
        depth_percent=100 * gold / max(1, number - 1),
        num_keys=number,
        how={"style": style},
    )
    if style == "miniature":
        return Example(**common, max_new_tokens=10, stop=">")
    return Example(**common, max_new_tokens=35, min_new_tokens=5)


def _official(rng: np.random.Generator, most: int) -> list[tuple[str, str]]:
    """Adjective-noun labels (unique) with numbers from 1 to 50,000, as LongChat draws them."""
    labels = vocabulary.labels(rng, most)
    numbers = rng.integers(1, 50001, size=len(labels)).tolist()
    return [(label, str(number)) for label, number in zip(labels, numbers, strict=True)]


def load_official(path: str | Path, task: str = TASK) -> list[Example]:
    """Read the published data: JSON lines of expected_number, num_lines, token_size, prompt.

    The prompts are wrapped as in the release; ValueError names a row without these columns.
    """
    found = []
    for number, line in enumerate(Path(path).read_text().splitlines()):
        row = json.loads(line)
        if absent := {"expected_number", "num_lines", "token_size", "prompt"} - set(row):
            raise ValueError(f"row {number} of {path} has no {', '.join(sorted(absent))}")
        found.append(
            Example(
                task,
                sample=number,
                prompt=VICUNA.format(prompt=row["prompt"]),
                target=str(row["expected_number"]),
                token_length=int(row["token_size"]),
                max_new_tokens=35,
                min_new_tokens=5,
                num_keys=int(row["num_lines"]),
                how={"style": "official"},
            )
        )
    return found


def numbers(text: str) -> list[int]:
    """All whole numbers in a text, in order."""
    return [int(found) for found in re.findall(r"\d+", text)]


def score(prediction: str, example: Example, rule: str = "first") -> dict[str, float]:
    """Score an answer: `contained` by the official rule, `score` exactly.

    Official: the first number in the answer (CREAM), or with `rule="last"` the last one (LongChat).
    Exact, for the miniature's question: the answer is the number, closed by `>`, and nothing else;
    where the answer is free text (official style) both are the official rule.
    """
    if rule not in ("first", "last"):
        raise ValueError(f"unknown rule {rule!r}: first or last")
    found = numbers(prediction)
    expected = int(example.target.rstrip(">"))
    official = bool(found) and found[0 if rule == "first" else -1] == expected
    closed = example.target.endswith(">")
    exact = prediction.strip() == example.target if closed else official
    return {"score": float(exact), "contained": float(official)}
