"""InfiniteBench's generated retrieval tasks (Zhang et al. 2024): pass key, number string, pairs.

Texts, constants and scores are those of OpenBMB/InfiniteBench 88b3daa (MIT). "official" is its
template for base models, which begins the answer; "chat" its template for GPT-4 in the user's turn
of the tokenizer's own chat template. The published sizes are `PUBLISHED` sentences or pairs, of
about 128K tokens; here as many as a length holds, prompt and generated tokens together.

What differs, on purpose: a sample depends on (seed, task, length, sample) alone, there on one
global generator; places are spread by the golden ratio over any number of samples, there on a grid
of 59 and of 500 places.

Its generator makes these three and no other. Math.Find, Math.Calc and Code.Run are called synthetic
in the paper, but only their 128K texts are published, not how they were drawn: they are not here.
"""

import re
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple
from uuid import UUID

import numpy as np
from transformers import PreTrainedTokenizerBase

from cream.data.chat import UserTurn
from cream.tasks.base import Example
from cream.tasks.prompts import (
    check_choices,
    checked_lengths,
    counter,
    depth,
    largest_that_fits,
    named_samples,
    sample_rng,
    seeded,
)

__all__ = ["NEW_TOKENS", "PUBLISHED", "SAMPLES", "STYLES", "TASKS", "digits", "examples", "score"]

TASKS = ("passkey", "number_string", "kv_retrieval")
NEW_TOKENS = {"passkey": 6, "number_string": 12, "kv_retrieval": 50}
PUBLISHED = {"passkey": 5220, "number_string": 5220, "kv_retrieval": 2500}
SAMPLES = {"passkey": 590, "number_string": 590, "kv_retrieval": 500}
STYLES = ("official", "chat")
PREFIX = "infinitebench-"

NOISE = (
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.\n"
)
HEAD = (
    "There is an important info hidden inside a lot of irrelevant text. {find} I will quiz you "
    "about the important information there.\n\n"
)
PAIRS = "Extract the value corresponding to the specified key in the JSON object below.\n\n"
ASKED = '\n\n\nKey: "{key}"\nThe value associated with the specified key is: '


class _Hidden(NamedTuple):
    """How a task's digits are hidden in noise and asked for."""

    find: str
    line: str
    question: str
    begun: str


HIDDEN = {
    "passkey": _Hidden(
        "Find it and memorize them.",
        "The pass key is {key}. Remember it. {key} is the pass key.\n",
        "What is the pass key?",
        "The pass key is",
    ),
    "number_string": _Hidden(
        "Find it.",
        "The sequence of digits is {key}. Remember it. {key} is the sequence of digits.\n",
        "What is the sequence of digits?",
        "The sequence of digits is",
    ),
}


def examples(
    tokenizer: PreTrainedTokenizerBase,
    lengths: Sequence[int],
    samples: int = 100,
    seed: int = 0,
    style: str = "official",
    tasks: Sequence[str] = TASKS,
    only: Collection[tuple[int, int]] | None = None,
) -> list[Example]:
    """Build `samples` questions a task and length L: prompt and new tokens are at most L together.

    `only` names by (length, sample) which are built of every task, the same as among all (None:
    all). Deterministic in (seed, task, length, sample) and the tokenizer. ValueError for an unknown
    style or task, and for a length that holds no question, with the shortest that does.
    """
    check_choices(style, STYLES, tasks, TASKS)
    turn = UserTurn(tokenizer) if style == "chat" else None
    how = {"style": style, **(turn.settings if turn else {}), **seeded(seed)}
    form = _PromptStyle(turn or str, counter(tokenizer), how)
    return [
        _example(name, length, sample, seed, form)
        for length in checked_lengths(lengths, samples)
        for name in tasks
        for sample in named_samples(length, samples, only)
    ]


class _PromptStyle(NamedTuple):
    """What is put around a question, how tokens are counted, and what a row says of it."""

    wrap: Callable[[str], str]
    count: Callable[[str], int]
    how: dict[str, object]


def _example(name: str, length: int, sample: int, seed: int, form: _PromptStyle) -> Example:
    share, chat = depth(PREFIX + name, seed, length, sample), form.how["style"] == "chat"

    def build(units: int) -> tuple[str, str, int]:
        rng = sample_rng(PREFIX + name, seed, length, sample)  # anew: as many units as are tried
        draw = _pairs if name == "kv_retrieval" else _digits
        prompt, answer, place = draw(name, units, share, rng, chat)
        return form.wrap(prompt), answer, place

    units = largest_that_fits(
        lambda units: form.count(build(units)[0]) + NEW_TOKENS[name], length, length,
        guess=length // (80 if name == "kv_retrieval" else 25), slack=max(1, length // 400),
        what="pairs" if name == "kv_retrieval" else "sentences",
    )  # fmt: skip
    prompt, answer, place = build(units)
    return Example(
        PREFIX + name, sample, prompt, answer, token_length=length,
        max_new_tokens=NEW_TOKENS[name], gold_index=place, depth_percent=100 * place / units,
        num_keys=units, how=form.how,
    )  # fmt: skip


def _digits(
    name: str, units: int, share: float, rng: np.random.Generator, chat: bool
) -> tuple[str, str, int]:
    """A number in one line among repeated sentences, `place` of them before it."""
    hidden, place = HIDDEN[name], int(share * (units + 1))
    key = digits(rng, repeated=name == "number_string")
    text = NOISE * place + hidden.line.format(key=key) + NOISE * (units - place)
    prompt = f"{HEAD.format(find=hidden.find)}{text}\n\n{hidden.question}"
    return prompt if chat else f"{prompt}\n\n{hidden.begun}", key, place


def digits(rng: np.random.Generator, repeated: bool) -> str:
    """Five random digits; `repeated`: five times one of those that are there comes twice."""
    found = [str(rng.integers(10)) for _ in range(5)]
    for _ in range(5 if repeated else 0):
        place = int(rng.integers(len(found)))
        found.insert(place, found[place])
    return "".join(found)


def _pairs(
    _: str, units: int, share: float, rng: np.random.Generator, chat: bool
) -> tuple[str, str, int]:
    """The value of one UUID in an object of so many; both templates are the same."""
    place = int(share * units)
    codes = [str(UUID(bytes=rng.bytes(16), version=4)) for _ in range(2 * units)]
    keys, values = codes[::2], codes[1::2]
    text = ", ".join(f'"{key}": "{value}"' for key, value in zip(keys, values, strict=True))
    prompt = f"{PAIRS}JSON data:\n{{{text}}}{ASKED.format(key=keys[place])}"
    return prompt, values[place], place


def score(prediction: str, example: Example) -> dict[str, float]:
    """Score as InfiniteBench does: the first whole number is the key; the value is a word.

    `contained` is whether the target stands anywhere in the answer.
    """
    if example.task == PREFIX + "kv_retrieval":
        words = re.sub(r"[\n:\"'.,?!{}]", " ", prediction).split()
        right = example.target in words
    else:
        first = re.search(r"[0-9]+", prediction)
        right = first is not None and first[0] == example.target
    return {"score": float(right), "contained": float(example.target in prediction)}
