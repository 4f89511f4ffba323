"""LongChat-Lines: say the number in one line of a record of many (protocols 5.1).

"official" is the benchmark's prompt to the byte, in the wrapper that CREAM puts around it even for
base models; "chat" the same prompt in the user's turn of the tokenizer's own chat template;
"miniature" is the record and a short question in the form that the miniature was trained on.
"""

import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from cream.data.chat import UserTurn
from cream.data.retrieval import vocabulary
from cream.data.retrieval.records import Prompt, draw_records, line_prompt, line_text
from cream.tasks.base import Example
from cream.tasks.prompts import (
    checked_lengths,
    counter,
    depth,
    largest_that_fits,
    named_samples,
    sample_rng,
    seeded,
)
from cream.utils.jsonl import json_lines

__all__ = [
    "LENGTHS_PAPER",
    "RULES",
    "STYLES",
    "examples",
    "load_official",
    "numbers",
    "official_prompt",
    "score",
]

TASK = "longchat_lines"
STYLES = ("miniature", "official", "chat")
RULES = ("first", "last")
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
MINIATURE = {"max_new_tokens": 10, "stop": ">"}
OFFICIAL = {"max_new_tokens": 35, "min_new_tokens": 5}
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
    prompt, value = _task_prompt(records, gold_index)
    return Prompt(VICUNA.format(prompt=prompt), value)


def _task_prompt(records: Sequence[tuple[str, str]], gold_index: int) -> Prompt:
    """The benchmark's words without anything around them."""
    key, value = records[gold_index]
    body = "".join(line_text(label, number) for label, number in records)
    return Prompt(HEADER + body + QUESTION.format(key=key), value)


class _PromptStyle(NamedTuple):
    """A style: how a prompt is written over records, and what a row's settings say of it."""

    write: Callable[[Sequence[tuple[str, str]], int], Prompt]
    wrap: Callable[[str], str]
    how: dict[str, object]

    @property
    def miniature(self) -> bool:
        return self.how["style"] == "miniature"

    @property
    def stream(self) -> str:
        """The random stream of its records: a chat model is asked about those of "official"."""
        return f"{TASK} {'miniature' if self.miniature else 'official'}"


def _prompt_style(style: str, rule: str, tokenizer: PreTrainedTokenizerBase | None) -> _PromptStyle:
    if style not in STYLES:
        raise ValueError(f"unknown style {style!r}: use one of {', '.join(STYLES)}")
    _check_rule(rule)
    how: dict[str, object] = {"style": style}
    if rule == "last":
        how["mode"] = "last number"
    if style == "miniature":
        return _PromptStyle(line_prompt, str, how)
    if style == "official":
        return _PromptStyle(official_prompt, lambda prompt: VICUNA.format(prompt=prompt), how)
    if tokenizer is None:
        raise ValueError("style 'chat' needs the tokenizer, whose chat template it uses")
    turn = UserTurn(tokenizer)

    def write(records: Sequence[tuple[str, str]], gold_index: int) -> Prompt:
        prompt, value = _task_prompt(records, gold_index)
        return Prompt(turn(prompt), value)

    return _PromptStyle(write, turn, {**how, **turn.settings})


def examples(
    tokenizer: PreTrainedTokenizerBase,
    lengths: Sequence[int],
    samples: int,
    seed: int = 0,
    style: str = "miniature",
    questions: int = 1,
    rule: str = "first",
    only: Collection[tuple[int, int]] | None = None,
) -> list[Example]:
    """Build `samples` examples a length (tokens), as many lines in each as fit with the answer.

    The line asked for lies at every depth alike. Each record serves `questions` examples in a row,
    whose common beginning `inference` reads once; `document` names the record, the unit of an
    interval. Rows of another seed or number of questions are another evaluation, as their settings
    say. `rule` is that of `score`. `only` names by (length, sample) which are built, the same
    as among all (None: all). Deterministic in (seed, length, sample, questions).
    """
    form = _prompt_style(style, rule, tokenizer)
    if questions < 1:
        raise ValueError(f"questions {questions} must be at least 1 a record")
    form.how.update(seeded(seed) | ({"questions_a_record": questions} if questions > 1 else {}))
    count = counter(tokenizer)
    found = []
    for length in checked_lengths(lengths, samples):
        named = set(named_samples(length, samples, only))
        for first in range(0, samples, questions):
            asked = range(first, first + questions)
            if not named.isdisjoint(asked):
                record = _record(count, length, asked, seed, form)
                found += [example for example in record if example.sample in named]
    return found


def _record(
    count: Callable[[str], int], length: int, samples: range, seed: int, form: _PromptStyle
) -> list[Example]:
    """The examples of one record: the most lines with which every question fits."""
    most = length // 6 + 1
    rng = sample_rng(form.stream, seed, length, samples.start)
    depths = [depth(form.stream, seed, length, sample) for sample in samples]
    lines = draw_records("lines", rng, most) if form.miniature else _official(rng, most)

    def tokens(number: int) -> int:
        asked = (form.write(lines[:number], int(place * number)) for place in depths)
        return max(count("".join(prompt)) for prompt in asked)

    number = largest_that_fits(tokens, length, len(lines), guess=length // 20)
    if number == len(lines) < most:
        raise ValueError(f"length {length} needs more than the {number} labels there are")
    golds = [int(place * number) for place in depths]
    return [
        _example(form, lines[:number], gold, length, sample, samples.start)
        for gold, sample in zip(golds, samples, strict=True)
    ]


def _example(
    form: _PromptStyle,
    lines: Sequence[tuple[str, str]],
    gold: int,
    length: int,
    sample: int,
    record: int,
) -> Example:
    prompt, answer = form.write(lines, gold)
    return Example(
        TASK,
        sample,
        prompt,
        answer,
        token_length=length,
        gold_index=gold,
        depth_percent=100 * gold / max(1, len(lines) - 1),
        num_keys=len(lines),
        document=f"{length} tokens, record {record}",
        how=form.how,
        **(MINIATURE if form.miniature else OFFICIAL),
    )


def _official(rng: np.random.Generator, most: int) -> list[tuple[str, str]]:
    """Adjective-noun labels (unique) with numbers from 1 to 50,000, as LongChat draws them."""
    labels = vocabulary.labels(rng, most)
    numbers = rng.integers(1, 50001, size=len(labels)).tolist()
    return [(label, str(number)) for label, number in zip(labels, numbers, strict=True)]


def load_official(
    path: str | Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    style: str = "official",
    rule: str = "first",
    samples: int | None = None,
) -> list[Example]:
    """Read the published data: JSON lines of expected_number, num_lines, token_size, prompt.

    The prompts are wrapped as in the release, or with style "chat" by the tokenizer's template;
    `samples` takes the first so many of each num_lines. ValueError names a line that is damaged or
    of another data set: whose number is not that of the line its prompt asks for.
    """
    if style == "miniature":
        raise ValueError("published data have their own words: use style 'official' or 'chat'")
    form, found, seen = _prompt_style(style, rule, tokenizer), [], {}
    form.how["corpus"] = Path(path).name
    fields = ("expected_number", "num_lines", "token_size", "prompt")
    for number, (place, row) in enumerate(json_lines(path, fields)):
        num_lines, length, gold = _checked(place, row)
        seen[num_lines] = seen.get(num_lines, 0) + 1
        if samples is not None and seen[num_lines] > samples:
            continue
        found.append(
            Example(
                TASK,
                number,
                form.wrap(row["prompt"]),
                str(int(row["expected_number"])),
                token_length=length,
                gold_index=gold,
                depth_percent=100 * gold / max(1, num_lines - 1),
                num_keys=num_lines,
                document=f"{Path(path).name} row {number}",
                how=form.how,
                **OFFICIAL,
            )
        )
    return found


def _checked(place: str, row: dict[str, object]) -> tuple[int, int, int]:
    """(num_lines, token_size, place of the line asked for) of a published row."""
    try:
        expected, num_lines, length = (
            int(row[name]) for name in ("expected_number", "num_lines", "token_size")
        )
    except (TypeError, ValueError):
        raise ValueError(f"{place}, has numbers that are none: is it another data set?") from None
    lines = re.findall(r"^line (.+?): REGISTER_CONTENT is <(\d+)>", str(row["prompt"]), re.M)
    asked = re.findall(r"in line (.+?)\?", str(row["prompt"]))
    gold = (asked[-1], str(expected)) if asked else None
    if gold not in lines:
        raise ValueError(
            f"{place}, asks for a line that is not in its record with {expected}: is it damaged?"
        )
    return num_lines, length, lines.index(gold)


def numbers(text: str) -> list[int]:
    """All whole numbers in a text, in order."""
    return [int(found) for found in re.findall(r"\d+", text)]


def score(prediction: str, example: Example, rule: str | None = None) -> dict[str, float]:
    """Score an answer: `contained` by the official rule, `score` exactly.

    Official: the first number in the answer (CREAM), or with `rule="last"` the last one (LongChat);
    None: what the example was built with. Exact, for the miniature's question: the answer is the
    number, closed by `>`, and nothing else; where the answer is free text both are the official
    rule.
    """
    rule = rule or ("last" if "mode" in example.how else "first")
    _check_rule(rule)
    found = numbers(prediction)
    expected = int(example.target.rstrip(">"))
    official = bool(found) and found[0 if rule == "first" else -1] == expected
    closed = example.target.endswith(">")
    exact = prediction.strip() == example.target if closed else official
    return {"score": float(exact), "contained": float(official)}


def _check_rule(rule: str) -> None:
    if rule not in RULES:
        raise ValueError(f"unknown rule {rule!r}: first or last")
