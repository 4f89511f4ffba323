"""A sentence hidden in text: say what it said (Needle in a Haystack, protocols 5.3).

"official" is the benchmark's sentence, description and question in the wrapper that CREAM puts
around them; "chat" the same in the user's turn of the tokenizer's own chat template; "miniature"
hides sentences about made-up places and asks in the form that it was trained on; "sentences"
hides those and asks in the chat template, the model's turn begun up to the answer. `study.runner`
asks at every length and depth, `examples` over all depths alike.
"""

import itertools
import re
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from cream.data.chat import UserTurn
from cream.data.retrieval.records import (
    Prompt,
    answer_text,
    draw_records,
    needle_prompt,
    needle_text,
    question_text,
)
from cream.tasks.base import Example
from cream.tasks.haystack import stretch
from cream.tasks.longchat_lines import VICUNA
from cream.tasks.needle_insertion import PLACEMENTS, Page, Sentence
from cream.tasks.paragraphs import Paragraphs
from cream.tasks.prompts import (
    checked_lengths,
    counter,
    depth,
    largest_that_fits,
    sample_rng,
    seeded,
)
from cream.tasks.rouge import rouge_l

__all__ = [
    "DEPTHS_PAPER",
    "DEPTHS_RELEASE",
    "LENGTHS_PAPER",
    "STYLES",
    "examples",
    "grid",
    "questions",
    "score",
]

TASK = "needle"
STYLES = ("miniature", "official", "chat", "sentences")
# The paper's ten lengths as multiples of N = 4,096, and its ten depths in per cent.
LENGTHS_PAPER = tuple(
    tokens / 4096
    for tokens in (1024, 4543, 8063, 11582, 15102, 18621, 22141, 25660, 29180, 32700)
)  # fmt: skip
DEPTHS_PAPER = (0, 11, 22, 33, 44, 55, 66, 77, 88, 100)
DEPTHS_RELEASE = (0, 20, 40, 60, 80, 100)  # the bigai-nlco release's default

# Strings of the benchmark: sentence and question of gkamradt/LLMTest_NeedleInAHaystack (MIT), the
# description, with its spelling, of the release.
DESCRIPTION = (
    "There is an important infomation hidden in the following context. Find the information and "
    "memorize it. I will quiz you about the important information there.\n"
)
NEEDLE = (
    "The best thing to do in San Francisco is eat a sandwich and sit in Dolores Park on a sunny "
    "day."
)
ANSWER = "eat a sandwich and sit in Dolores Park on a sunny day"
QUESTION = "What is the best thing to do in San Francisco?"
_ASKED = re.compile(r"What is the best thing to do in [^?\n]+\?")  # in every style


# ------------------------------------------------------------------------- length by depth


def grid(
    tokenizer: PreTrainedTokenizerBase,
    haystack: str,
    lengths: Sequence[int],
    depths: Sequence[float] = DEPTHS_PAPER,
    samples: int = 1,
    seed: int = 0,
    style: str = "miniature",
    hidden: int = 1,
    placement: str = "exact",
    kind: str | None = None,
    corpus: str | None = None,
    only: Collection[tuple[int, float, int]] | None = None,
) -> list[Example]:
    """Build `samples` examples for every one of `lengths` (tokens) and `depths` (per cent).

    A depth is exact in the haystack's tokens: 0 before the first, 100 after the last (see
    `needle_insertion.place`). Each example has a stretch of its own, from anywhere; with placement
    "release" all begin where the haystack does, and styles "official" and "chat", whose sentence
    never changes, then have one prompt a length and depth: more `samples` are refused. Prompt,
    wrapper, BOS and answer together have at most `length` tokens. Up to `hidden` sentences, each at
    another depth, share one stretch and are asked for one by one, which is cheaper and harder; 1 is
    the benchmark's way, and the only one where the sentence never changes. `document` names the
    stretch; `kind` says what the haystack is, such as "code", and `corpus` where it comes from;
    both go into the settings of the rows, as a seed other than 0 does. `only` names by (length,
    depth, sample) which are built, the same as among all (None: all). Deterministic in (seed,
    length, depths that share a stretch, sample).
    """
    _check(depths, style, hidden, placement)
    _refuse_copies(style, placement, samples)
    form = _prompt_style(style, _mode(hidden, placement), tokenizer)
    paragraphs = Paragraphs(tokenizer)
    said = {"haystack": kind, "corpus": corpus}
    form.how.update({name: one for name, one in said.items() if one is not None} | seeded(seed))
    pages = -(-len(depths) // hidden)
    found = []
    for length in checked_lengths(lengths, samples):
        for sample, number in itertools.product(range(samples), range(pages)):
            together = [float(percent) for percent in depths[number::pages]]
            if only is not None and not any((length, one, sample) in only for one in together):
                continue
            rng = sample_rng(f"{TASK} grid {together}", seed, length, sample)
            start = int(rng.integers(len(haystack) + 1)) if placement == "exact" else 0
            text = stretch(paragraphs, haystack, start, length)
            sentences = _sentences(style, draw_records("needle", rng, len(together)))
            chosen = list(zip(together, sentences, strict=True))
            page = Page(paragraphs.count, form.before, form.wrap, chosen, placement)
            prompts = page.prompts(text, length)
            found += [
                _example(form, length, sample, number, percent, prompt, sentence.answer, placement)
                for (percent, sentence), prompt in zip(chosen, prompts, strict=True)
            ]
    return sorted(found, key=lambda each: (each.token_length, each.depth_percent, each.sample))


def _check(depths: Sequence[float], style: str, hidden: int, placement: str) -> None:
    if style not in STYLES:
        raise ValueError(f"unknown style {style!r}: use one of {', '.join(STYLES)}")
    if placement not in PLACEMENTS:
        raise ValueError(f"unknown placement {placement!r}: use one of {', '.join(PLACEMENTS)}")
    if not depths or len(set(depths)) < len(depths) or not 0 <= min(depths) <= max(depths) <= 100:
        raise ValueError(f"depths {list(depths)} must be different per cents from 0 to 100")
    if hidden < 1 or (hidden > 1 and style not in ("miniature", "sentences")):
        raise ValueError(
            f"hidden {hidden} must be at least 1, and 1 in style {style!r}, which has one sentence"
        )


def _refuse_copies(style: str, placement: str, samples: int) -> None:
    if samples > 1 and placement == "release" and style in ("official", "chat"):
        raise ValueError(
            f"samples is {samples}, but placement 'release' in style {style!r} has one prompt a "
            "length and depth, whose answer would count several times: set samples to 1, or choose "
            "placement 'exact', or style 'miniature' or 'sentences'"
        )


def _mode(hidden: int, placement: str) -> str:
    """How rows call what is hidden; rows of two modes are two evaluations."""
    mode = "alone" if hidden == 1 else f"{hidden} together"
    return mode if placement == "exact" else f"{mode}, placed as in the release"


class _PromptStyle(NamedTuple):
    """A style: what stands before the text and around the whole, its settings, answers' limits."""

    before: str
    wrap: Callable[[str], str]
    how: dict[str, object]
    limits: dict[str, object]


def _prompt_style(style: str, mode: str, tokenizer: PreTrainedTokenizerBase) -> _PromptStyle:
    how: dict[str, object] = {"style": style, "mode": mode}
    if style == "miniature":
        return _PromptStyle("", str, how, {"max_new_tokens": 16, "stop": "."})
    limits = {"max_new_tokens": 50, "stop": "\n"}
    if style == "sentences":
        limits = {"max_new_tokens": 24, "stop": "."}
    if style in ("chat", "sentences"):
        turn = UserTurn(tokenizer)
        return _PromptStyle(DESCRIPTION, turn, {**how, **turn.settings}, limits)
    return _PromptStyle(DESCRIPTION, lambda prompt: VICUNA.replace("{prompt}", prompt), how, limits)


def _sentences(style: str, records: Sequence[tuple[str, str]]) -> list[Sentence]:
    if style == "sentences":
        return [_in_chat(*record) for record in records]
    if style != "miniature":
        return [Sentence(f"\n\n{NEEDLE}\n\n", f"\n\n{QUESTION}\nAnswer:", NEEDLE)] * len(records)
    return [
        Sentence(
            f"\n{needle_text(*record)}\n",
            question_text("needle", record[0]),
            answer_text("needle", record[1]),
        )
        for record in records
    ]


def _in_chat(key: str, value: str) -> Sentence:
    """A hidden sentence asked for in a user's turn; the answer's beginning is the model's turn."""
    asked, _, begun = question_text("needle", key).partition("? ")
    answer = answer_text("needle", value)
    return Sentence(f"\n{needle_text(key, value)}\n", f"\n{asked}?", answer, begun)


def _example(
    form: _PromptStyle,
    length: int,
    sample: int,
    page: int,
    percent: float,
    prompt: str,
    answer: str,
    placement: str,
) -> Example:
    # In "release" depths near 100 can make one prompt, and each depth has its own row.
    how = form.how if placement == "exact" else {**form.how, "depth": percent}
    return Example(
        TASK,
        sample,
        prompt,
        answer,
        token_length=length,
        depth_percent=percent,
        document=f"{length} tokens, stretch {sample}-{page}",
        how=how,
        **form.limits,
    )


# ------------------------------------------------------------------------- all depths alike


def examples(
    tokenizer: PreTrainedTokenizerBase,
    haystack: str,
    lengths: Sequence[int],
    samples: int,
    seed: int = 0,
) -> list[Example]:
    """Build `samples` examples a length, over all depths alike, in the miniature's form.

    Each is a stretch of the haystack, from anywhere, around one sentence, which stands where a line
    or sentence ends. ValueError for a haystack shorter than the longest prompt.
    """
    found, count = [], counter(tokenizer)
    for length in checked_lengths(lengths, samples):
        _check_haystack(haystack, length, count)
        for sample in range(samples):
            found.append(_spread(count, haystack, length, sample, seed))
    return found


def _check_haystack(haystack: str, length: int, count: Callable[[str], int]) -> None:
    if len(haystack) < 10 * length and (tokens := count(haystack)) < length:
        raise ValueError(
            f"the haystack has {tokens} tokens, fewer than a prompt of {length}: join more texts"
        )


def _spread(
    count: Callable[[str], int], haystack: str, length: int, sample: int, seed: int
) -> Example:
    rng = sample_rng(TASK, seed, length, sample)
    percent = 100 * depth(TASK, seed, length, sample)
    record = draw_records("needle", rng, 1)[0]
    start = haystack.find(" ", int(rng.integers(len(haystack)))) + 1
    turned = haystack[start:] + "\n" + haystack[:start]

    def build(characters: int) -> Prompt:
        end = max(turned.rfind(" ", 0, characters), turned.rfind("\n", 0, characters))
        return needle_prompt(turned[: max(end, 0)], record, percent)

    size = largest_that_fits(
        lambda n: count("".join(build(n))),
        length,
        len(turned),
        guess=3 * length,
        slack=length // 50,
        what="text",
    )
    prompt, answer = build(size)
    return Example(
        TASK,
        sample,
        prompt,
        answer,
        token_length=length,
        max_new_tokens=32,
        stop=".",
        depth_percent=percent,
        how={"style": "miniature", **seeded(seed)},
    )


# ------------------------------------------------------------------------- answers


def questions(examples: Sequence[Example]) -> dict[str, str]:
    """Return what each prompt asks, by the prompt's hash, for `evaluation.judge`.

    The last question about a place, wherever a style has it; text before it may ask others.
    """
    return {each.prompt_hash: _ASKED.findall(each.prompt)[-1] for each in examples}


def score(prediction: str, example: Example) -> dict[str, float]:
    """Score an answer without a judge: `score`, `contained` and `rouge_l`, each in [0, 1].

    `contained` if it has the sentence's end in it, `score` if it is that and nothing else; where
    the answer is free text (official style) both are `contained`. `rouge_l` is against the target,
    for the official sentence as the release's scorer computes it.
    """
    words = prediction.strip()
    wanted = ANSWER if example.target == NEEDLE else example.target.strip().rstrip(".")
    contained = wanted.lower() in words.lower()
    exact = contained if example.target == NEEDLE else words.rstrip(".") == wanted
    overlap = rouge_l(words, example.target)
    return {"score": float(exact), "contained": float(contained), "rouge_l": overlap}
