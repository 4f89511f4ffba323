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
) -> list[Example]:
    """Build `samples` examples a length (tokens), as many lines in each as fit with the answer.

    The line asked for lies at every depth alike. Deterministic in (seed, length, sample).
    """
    if style not in STYLES:
        raise ValueError(f"unknown style {style!r}: use one of {', '.join(STYLES)}")
    lengths = checked_lengths(lengths, samples)
    count = counter(tokenizer)
    return [
        _example(count, length, sample, seed, style)
        for length in lengths
        for sample in range(samples)
    ]


def _example(
    count: Callable[[str], int], length: int, sample: int, seed: int, style: str
) -> Example:
    most = length // 6 + 1
    rng = sample_rng(f"{TASK} {style}", seed, length, sample)
    fraction = depth(f"{TASK} {style}", seed, length, sample)
    records = draw_records("lines", rng, most) if style == "miniature" else _official(rng, most)
    write = line_prompt if style == "miniature" else official_prompt

    def build(number: int) -> Prompt:
        return write(records[:number], int(fraction * number))

    number = largest_that_fits(
        lambda n: count("".join(build(n))), length, len(records), guess=length // 20
    )
    if number == len(records) < most:
        raise ValueError(f"length {length} needs more than the {number} labels there are")
    gold = int(fraction * number)
    prompt, answer = build(number)
    common = dict(
        task=TASK,
        sample=sample,
        prompt=prompt,
        target=answer,
        token_length=length,
        gold_index=gold,
        depth_percent=100 * gold / max(1, number - 1),
        num_keys=number,
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
