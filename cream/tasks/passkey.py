"""Pass key retrieval: say the number that one line of a repeated text named (protocols 5.7).

"official" is PoSE's prompt (dwzhu-pku/PoSE, MIT), after Mohtashami and Jaggi 2023; "chat" the same
in the user's turn of the tokenizer's own chat template. Whether the miniature answers it hangs on
the wording, inside its window as beyond it, so "miniature" keeps the text, blocks and trials, and
hides and asks for a sentence in the form that it was trained on.
"""

import re
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from cream.data.chat import UserTurn
from cream.data.retrieval.records import (
    Prompt,
    answer_text,
    draw_records,
    needle_text,
    question_text,
)
from cream.tasks import needle
from cream.tasks.base import Example
from cream.tasks.prompts import (
    checked_lengths,
    counter,
    largest_that_fits,
    named_samples,
    sample_rng,
    seeded,
)

__all__ = [
    "BLOCKS",
    "LENGTHS_POSE",
    "STYLES",
    "TRIALS",
    "build_prompt",
    "examples",
    "official_blocks",
    "score",
]

TASK = "passkey"
STYLES = ("miniature", "official", "chat")
BLOCKS = ("fitted", "official")
TRIALS = 50  # a length, in PoSE
# PoSE's lengths as multiples of N = 4,096; 6,134 is its own.
LENGTHS_POSE = tuple(
    tokens / 4096
    for tokens in (
        2048, 4096, 6134, 8192, 10240, 12288, 14336, 16384, 20480, 24576, 28672, 32768,
    )
)  # fmt: skip

TEXT = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. "
    "I will quiz you about the important information there."
)
BLOCK = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
QUESTION = "What is the pass key? The pass key is"


def build_prompt(before: int, after: int, key: int) -> Prompt:
    """PoSE's prompt with so many blocks before and after the line with the key."""
    line = f"The pass key is {key}. Remember it. {key} is the pass key."
    return Prompt(_lines(before, after, line, QUESTION), str(key))


def _lines(before: int, after: int, hidden: str, question: str) -> str:
    return "\n".join([TEXT, BLOCK * before, hidden, BLOCK * after, question])


def official_blocks(token_length: int) -> int:
    """PoSE's number of blocks: 69 of Llama's tokens for what stands around them, 25 for each."""
    return (token_length - 32 - 26 - 11) // 25


def examples(
    tokenizer: PreTrainedTokenizerBase,
    lengths: Sequence[int],
    samples: int = TRIALS,
    seed: int = 0,
    style: str = "miniature",
    blocks: str = "fitted",
    only: Collection[tuple[int, int]] | None = None,
) -> list[Example]:
    """Build `samples` trials a length (tokens), the number of blocks before the key uniform.

    No prompt with its answer has more than `length` tokens: blocks are as many as fit ("fitted",
    counted with this tokenizer) or PoSE's number ("official", counted with Llama's), and ValueError
    where that is too long. `depth_percent` is the share of blocks before the key. `only` names by
    (length, sample) which are built, the same as among all (None: all). Deterministic in (seed,
    length, sample).
    """
    if blocks not in BLOCKS:
        raise ValueError(f"unknown blocks {blocks!r}: use one of {', '.join(BLOCKS)}")
    form, count = _prompt_style(style, tokenizer), counter(tokenizer)
    form.how.update(seeded(seed) | ({} if blocks == "fitted" else {"blocks": blocks}))
    return [
        _trial(count, length, sample, seed, form, blocks)
        for length in checked_lengths(lengths, samples)
        for sample in named_samples(length, samples, only)
    ]


class _PromptStyle(NamedTuple):
    """A style: what is put around a prompt, and what a row's settings say of it."""

    wrap: Callable[[str], str]
    how: dict[str, object]

    @property
    def miniature(self) -> bool:
        return self.how["style"] == "miniature"


def _prompt_style(style: str, tokenizer: PreTrainedTokenizerBase) -> _PromptStyle:
    if style not in STYLES:
        raise ValueError(f"unknown style {style!r}: use one of {', '.join(STYLES)}")
    if style != "chat":
        return _PromptStyle(str, {"style": style})
    turn = UserTurn(tokenizer)
    return _PromptStyle(turn, {"style": style, **turn.settings})


def _trial(
    count: Callable[[str], int],
    length: int,
    sample: int,
    seed: int,
    form: _PromptStyle,
    blocks: str,
) -> Example:
    rng = sample_rng(TASK, seed, length, sample)
    key, share = int(rng.integers(1, 50001)), float(rng.random())
    record = draw_records("needle", rng, 1)[0]

    def build(total: int) -> Prompt:
        before = int(share * (total + 1))
        if form.miniature:
            return _sentence(before, total - before, record)
        prompt, answer = build_prompt(before, total - before, key)
        return Prompt(form.wrap(prompt), answer)

    def tokens(total: int) -> int:
        return count(" ".join(build(total)))  # a model writes the number after a space

    total = _total(tokens, length, blocks)
    prompt, answer = build(total)
    return Example(
        TASK,
        sample,
        prompt,
        answer,
        token_length=length,
        max_new_tokens=16 if form.miniature else 10,
        stop="." if form.miniature else None,
        depth_percent=100 * int(share * (total + 1)) / max(1, total),
        how=form.how,
    )


def _total(tokens: Callable[[int], int], length: int, blocks: str) -> int:
    """How many blocks a prompt has in all."""
    if blocks == "fitted":
        return largest_that_fits(tokens, length, length, guess=length // 25, what="blocks")
    total = official_blocks(length)
    if total < 0 or tokens(total) > length:
        raise ValueError(
            f"PoSE's {total} blocks take {tokens(max(0, total))} tokens of this tokenizer, more "
            f"than {length}: leave blocks at 'fitted'"
        )
    return total


def _sentence(before: int, after: int, record: tuple[str, str]) -> Prompt:
    """The same text and blocks around a sentence that the miniature can be asked for."""
    question = question_text("needle", record[0]).removeprefix("\n")
    prompt = _lines(before, after, needle_text(*record), question)
    return Prompt(prompt, answer_text("needle", record[1]))


def score(prediction: str, example: Example) -> dict[str, float]:
    """Score an answer: PoSE's rule is that its first number is the key (`score` and `contained`).

    The miniature's sentence is scored as `needle.score` does.
    """
    if example.how["style"] == "miniature":
        found = needle.score(prediction, example)
        return {name: found[name] for name in ("score", "contained")}
    number = re.search(r"\d+", prediction)
    right = float(bool(number) and int(number[0]) == int(example.target))
    return {"score": right, "contained": right}
