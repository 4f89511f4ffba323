"""A sentence hidden in text: say what it said (after Needle in a Haystack, protocols 5.3).

So far the miniature's form: one sentence, one short question, haystacks passed in as texts.
"""

from collections.abc import Callable, Sequence

from transformers import PreTrainedTokenizerBase

from cream.retrieval import Prompt, draw_records, needle_prompt
from cream.tasks import Example
from cream.tasks.building import (
    checked_lengths,
    counter,
    depth,
    largest_that_fits,
    sample_rng,
)

__all__ = ["examples", "score"]

TASK = "needle"


def examples(
    tokenizer: PreTrainedTokenizerBase,
    haystack: str,
    lengths: Sequence[int],
    samples: int,
    seed: int = 0,
    depths: Sequence[float] | None = None,
) -> list[Example]:
    """Build examples of `lengths` tokens, each a stretch of the haystack around one sentence.

    `samples` at every one of `depths` (per cent), or `samples` over all depths alike. The stretch
    begins anywhere; ValueError for a haystack shorter than the longest prompt.
    """
    found, count = [], counter(tokenizer)
    for length in checked_lengths(lengths, samples):
        _check_haystack(haystack, length, count)
        for place in [None] if depths is None else depths:
            for sample in range(samples):
                found.append(_example(count, haystack, length, sample, seed, place))
    return found


def _check_haystack(haystack: str, length: int, count: Callable[[str], int]) -> None:
    if len(haystack) < 10 * length and (tokens := count(haystack)) < length:
        raise ValueError(
            f"the haystack has {tokens} tokens, fewer than a prompt of {length}: join more texts"
        )


def _example(
    count: Callable[[str], int],
    haystack: str,
    length: int,
    sample: int,
    seed: int,
    place: float | None,
) -> Example:
    rng = sample_rng(TASK, seed, length, sample)
    percent = 100 * depth(TASK, seed, length, sample) if place is None else float(place)
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
        how={"style": "miniature"},
    )


def score(prediction: str, example: Example) -> dict[str, float]:
    """Score an answer: `score` if it is the sentence's end exactly, `contained` if it has it."""
    wanted = example.target.strip().rstrip(".")
    exact = prediction.strip().rstrip(".") == wanted
    return {"score": float(exact), "contained": float(wanted.lower() in prediction.lower())}
