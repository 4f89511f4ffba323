"""RULER's six generated tasks (Hsieh et al. 2024): needles, chains of variables, counted words.

Prompts, constants and the budget (prompt and generated tokens together at most L) are those of
NVIDIA/RULER c3f5e3b (Apache-2.0). "official" is its form for base models; "chat" puts all before
the answer's first words into the user's turn of the tokenizer's own chat template; the solved
example of vt and cwe stands in that turn, too, answer included, and makes no turns of its own.

What differs from NVIDIA's generator, on purpose:

- A sample depends on (seed, task, length, sample) and the tokenizer alone, not on what was drawn
  before it; word lists are shuffled anew for each sample, there with seed 42 for all.
- Keys of one prompt differ from each other; there a second needle may have the key asked for.
- Each sample is fitted to L by itself, never above it. Most fill it to 2 %; where a unit of text is
  large, some stay further below: cwe's at 4K by up to 5.8 %, multikey_3's and cwe's at 1K by 7 %.
  There all samples have one size, and one that is too long loses 25 lines.
- Below L = 2,000 the example of vt takes at most L / 4 tokens, not 500, but always has five
  sentences, one before each assignment, which may be more.
- cwe beyond the 8,166 words of wonderwords goes on with pairs of them ("adjective-noun"), there
  with a second word list.

The seven other tasks need essays or questions from elsewhere and are not here.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from cream.data.chat import UserTurn
from cream.data.corpus import tokenizer_hash
from cream.tasks import ruler_questions
from cream.tasks.base import Example
from cream.tasks.prompts import (
    check_choices,
    checked_lengths,
    counter,
    largest_that_fits,
    named_samples,
    sample_rng,
    seeded,
)
from cream.tasks.ruler_questions import HOPS, QUESTIONS, Budget, Kind, Question, all_words, chain
from cream.utils import forks
from cream.utils.provenance import hash_of

__all__ = [
    "NEW_TOKENS",
    "SAMPLES",
    "STYLES",
    "TASKS",
    "cleaned",
    "examples",
    "match_all",
    "match_part",
    "powers_of_two",
    "score",
    "that_fit",
]

TASKS = tuple(QUESTIONS)
NEW_TOKENS = {name: task.new_tokens for name, task in QUESTIONS.items()}
STYLES = ("official", "chat")
SAMPLES = 500  # a task and length, in NVIDIA's configuration
AT_ONCE = 16  # prompts tokenized together, and built by one process
PARALLEL_TOKENS = 2_000_000  # of all prompts, from which on several processes build them
TRIALS = 4  # prompts that decide how much text the samples of a task and length usually have
SLACK = 0.02  # of a length that may stay empty
SHOT_TOKENS = 500  # of the example in front of a question of vt


def powers_of_two(window: int, scale: int, least: int = 1024) -> list[int]:
    """Return the lengths at which RULER is asked: doublings of `window` to `window * scale`.

    The first has `least` tokens or more; what is shorter leaves no room for the examples.
    """
    found = [window * 2**k for k in range(scale.bit_length()) if window * 2**k >= least]
    return found or [least]


def examples(
    tokenizer: PreTrainedTokenizerBase,
    lengths: Sequence[int],
    samples: int = SAMPLES,
    seed: int = 0,
    style: str = "official",
    tasks: Sequence[str] = TASKS,
    sizes: str | Path | None = None,
    only: Collection[tuple[int, int]] | None = None,
) -> list[Example]:
    """Build `samples` questions a task and length L: prompt and new tokens are at most L together.

    Deterministic in (seed, task, length, sample) and the tokenizer. The folder `sizes` keeps how
    much text each sample has, so that a second time nothing is tokenized; it changes no prompt.
    `only` names by (length, sample) which are built of every task, the same as among all (None:
    all). ValueError for an unknown style or task, and for a length that holds no question, with the
    shortest that does.
    """
    check_choices(style, STYLES, tasks, TASKS)
    all_words()  # where their package is missing, that is said before anything is built
    turn = UserTurn(tokenizer) if style == "chat" else None
    how = {"style": style, **(turn.settings if turn else {})}
    form = _PromptStyle(turn or str, _counts(tokenizer), how | seeded(seed))
    known = tokenizer_hash(tokenizer)
    asked: list[tuple[_Builder, list[int]]] = []
    for length in checked_lengths(lengths, samples):
        if not (named := named_samples(length, samples, only)):
            continue
        budget = Budget(length, _shot_lines(form.counts, length) if "vt" in tasks else 0)
        for name in tasks:
            stored = _Sizes(sizes and Path(sizes), known, how, name, budget, seed)
            asked.append((_Builder(name, budget, seed, form, stored), named))
    return _built(asked)


def that_fit(
    tokenizer: PreTrainedTokenizerBase,
    lengths: Sequence[int],
    samples: int = SAMPLES,
    seed: int = 0,
    style: str = "official",
    tasks: Sequence[str] = TASKS,
    sizes: str | Path | None = None,
) -> tuple[list[Example], list[str]]:
    """As `examples`, without the tasks that a length does not hold; each of those with its reason.

    What is asked is the same. ValueError for an unknown style or task, and where nothing fits.
    """
    check_choices(style, STYLES, tasks, TASKS)
    checked_lengths(lengths, samples)
    found: list[Example] = []
    left_out: list[str] = []
    for length in lengths:
        for name in tasks:
            try:
                found += examples(tokenizer, [length], samples, seed, style, [name], sizes)
            except ValueError as error:
                left_out.append(f"{name} at {length:,} tokens: {error}")
    if not found:
        raise ValueError("no length holds a task of RULER; " + "; ".join(left_out))
    return found, left_out


def _built(asked: Sequence[tuple[_Builder, list[int]]]) -> list[Example]:
    """The named samples of each builder in order, by all cores where they are many tokens."""
    tokens = sum(builder.budget.length * len(samples) for builder, samples in asked)
    most = None if tokens >= PARALLEL_TOKENS else 1
    usual = forks.mapped(lambda one: one[0].usual(one[1]), asked, most)
    parts = [
        (place, samples[start : start + AT_ONCE])
        for place, (_, samples) in enumerate(asked)
        for start in range(0, len(samples), AT_ONCE)
    ]
    parts.sort(key=lambda part: -asked[part[0]][0].budget.length)  # stable; the longest take long
    built = forks.mapped(lambda part: asked[part[0]][0].part(part[1], usual[part[0]]), parts, most)
    found: list[list[Example]] = [[] for _ in asked]
    for (place, _), examples_of_part in zip(parts, built, strict=True):
        found[place] += examples_of_part
    for (builder, _), one in zip(asked, found, strict=True):
        builder.keep(one)
    return [example for one in found for example in one]


_Counts = Callable[[Sequence[str]], list[int]]


def _counts(tokenizer: PreTrainedTokenizerBase) -> _Counts:
    """Count the tokens of several prompts at once, special tokens included, on all cores."""
    if not tokenizer.is_fast:
        return lambda texts: list(map(counter(tokenizer), texts))
    tokenizer("")  # forgets any truncation or padding
    return lambda texts: list(map(len, tokenizer.backend_tokenizer.encode_batch_fast(list(texts))))


class _PromptStyle(NamedTuple):
    """What is put around a question, how tokens are counted, and what a row says of it."""

    wrap: Callable[[str], str]
    counts: _Counts
    how: dict[str, object]

    def prompt(self, question: Question) -> str:
        return self.wrap(question.body) + question.prefix


def _shot_lines(counts: _Counts, length: int) -> int:
    """The sentences in vt's example: at most 500 tokens with them, but at least five sentences."""
    limit, rng = min(SHOT_TOKENS, length // 4), sample_rng("ruler vt example", 0, 0, 0)
    lines = HOPS + 1
    while counts([chain(rng, lines + 1, 3).text])[0] <= limit:
        lines += 1
    return lines


class _Sizes:
    """How many units of text the samples of one task and length have, in a file if there is one.

    The file's name changes with the tokenizer, the form, the words and the code.
    """

    def __init__(self, folder: Path | None, *about: object):
        self.path: Path | None = None
        self.units: list[int] = []
        if folder:
            code = [Path(one).read_text() for one in (__file__, ruler_questions.__file__)]
            self.path = folder / f"{hash_of(code, all_words(), *about)}.json"
            self.units = json.loads(self.path.read_text()) if self.path.is_file() else []

    def keep(self, units: list[int]) -> None:
        """Write the sizes of the first samples; a file is never seen half-written."""
        self.units = units
        if self.path:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            fresh = self.path.with_suffix(f".{os.getpid()}")
            fresh.write_text(json.dumps(units))
            fresh.replace(self.path)


class _Builder(NamedTuple):
    """The questions of one task and length."""

    name: str
    budget: Budget
    seed: int
    form: _PromptStyle
    sizes: _Sizes

    @property
    def task(self) -> Kind:
        return QUESTIONS[self.name]

    def usual(self, samples: Sequence[int]) -> int | None:
        """How much text these samples usually have; None where that of each is known."""
        return None if samples[-1] < len(self.sizes.units) else self._usual_units()

    def part(self, samples: Sequence[int], usual: int | None) -> list[Example]:
        """The samples of these numbers, with `usual` units of text or as many as fit."""
        if usual is not None:
            return [self._example(*each) for each in self._fitted(samples, usual)]
        known = {one: self.sizes.units[one] for one in samples}
        return [self._example(one, n, self._question(one, n)) for one, n in known.items()]

    def keep(self, found: Sequence[Example]) -> None:
        """Remember how much text these have, if none before them is missing."""
        last = found[-1].sample
        if last >= len(self.sizes.units) and len(found) == last + 1:
            self.sizes.keep([one.num_keys for one in found])

    def _question(self, sample: int, units: int, stream: str = "") -> Question:
        rng = sample_rng(f"ruler {self.name}{stream}", self.seed, self.budget.length, sample)
        return self.task.draw(rng, units, self.budget)

    def _tokens(self, questions: Iterable[Question]) -> list[int]:
        """Tokens of prompts with their answers."""
        counted = self.form.counts([self.form.prompt(question) for question in questions])
        return [count + self.task.new_tokens for count in counted]

    def _usual_units(self) -> int:
        """With how many units of text every trial prompt fits."""
        length, least, found = self.budget.length, self.task.least, 0
        for trial in range(TRIALS):
            found = largest_that_fits(
                lambda n, trial=trial: self._tokens(
                    [self._question(trial, n + least - 1, " trial")]
                )[0],
                length,
                found or length,
                guess=found or length // 8,
                slack=max(1, length // 400),
                what=self.task.units,
            )
        return found + least - 1

    def _fitted(self, samples: Sequence[int], usual: int) -> list[tuple[int, int, Question]]:
        """Each sample with the units that fit, the usual ones unless far off, and its question."""
        length = self.budget.length
        questions = {one: self._question(one, usual) for one in samples}
        first = self._tokens(questions.values())
        found = dict.fromkeys(samples, usual)
        far = {one: n for one, n in zip(samples, first, strict=True)
               if not (1 - SLACK) * length <= n <= length}  # fmt: skip
        for one, n in far.items():
            found[one] = max(self.task.least, usual + (length - n) * usual // n)
        while far:
            again = {one: self._question(one, found[one]) for one in far}
            questions |= again
            tokens = self._tokens(again.values())
            far = {one: n for one, n in zip(far, tokens, strict=True) if n > length}
            for one, n in far.items():
                found[one] -= 1 + (n - length) * found[one] // n
                if found[one] < self.task.least:
                    raise ValueError(
                        f"{self.name} at {length} tokens leaves no room for sample {one}: ask for "
                        "a longer prompt"
                    )
        return [(one, found[one], questions[one]) for one in samples]

    def _example(self, sample: int, units: int, question: Question) -> Example:
        gold = question.gold_index
        return Example(
            f"ruler-{self.name}",
            sample,
            self.form.prompt(question),
            json.dumps(question.answers),
            token_length=self.budget.length,
            max_new_tokens=self.task.new_tokens,
            gold_index=gold,
            depth_percent=None if gold is None else 100 * gold / max(1, units - 1),
            num_keys=units,
            how=self.form.how,
        )


# ------------------------------------------------------------------------------------------ scores


def match_all(prediction: str, answers: Sequence[str]) -> float:
    """Return the share of answers that the prediction contains, upper and lower case alike."""
    said = prediction.lower()
    return sum(answer.lower() in said for answer in answers) / len(answers)


def match_part(prediction: str, answers: Sequence[str]) -> float:
    """Return 1 if the prediction contains any of the answers, else 0: RULER's rule for qa."""
    return float(any(answer.lower() in prediction.lower() for answer in answers))


def cleaned(prediction: str) -> str:
    """Return a prediction as NVIDIA scores it: stripped, control characters as ends of lines."""
    return re.sub(r"[\x00-\x1f]", "\n", prediction.strip()).strip()


def score(prediction: str, example: Example) -> dict[str, float]:
    """Score an answer: the share of the answers that it names (`score`), and whether it is all."""
    share = match_all(cleaned(prediction), json.loads(example.target))
    return {"score": share, "contained": float(share == 1)}
