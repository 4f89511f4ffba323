"""What all builders of examples share: their random streams, depths, and filling to a length.

What belongs here: making a prompt of a nominal number of tokens, the same for every model that
shares a tokenizer. What the prompt says is the task's.
"""

import logging
import math
import zlib
from collections.abc import Callable, Collection, Iterable, Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from cream.inference.generation import tokenize

__all__ = [
    "OFFICIAL_WINDOW",
    "check_choices",
    "checked_lengths",
    "counter",
    "default_style",
    "depth",
    "largest_that_fits",
    "named_samples",
    "sample_rng",
    "seeded",
    "spared",
]

logger = logging.getLogger(__name__)

CHAT_PRESETS = ("smollm2-135m",)  # whose base was tuned on conversations
SPARED = 100  # tokens by which PoSE shortens the length that is the model's whole target length
OFFICIAL_WINDOW = 2048  # the least N for which a benchmark's own words leave room for records

GOLDEN = (math.sqrt(5) - 1) / 2


def default_style(preset: str, window: int) -> str:
    """The form of a task's prompts: "chat" for a chat preset, else "official" or "miniature" by N.

    The benchmarks' own words take more of a small window than they leave.
    """
    if preset.endswith("-chat") or preset in CHAT_PRESETS:
        return "chat"
    return "official" if window >= OFFICIAL_WINDOW else "miniature"


def sample_rng(task: str, seed: int, token_length: int, sample: int) -> np.random.Generator:
    """The generator of one sample: it depends on these four and on nothing else."""
    return np.random.default_rng([zlib.crc32(task.encode()), seed, token_length, sample])


def seeded(seed: int) -> dict[str, object]:
    """Return what a row's settings say of its questions' seed: nothing of the usual one, 0.

    Rows of two seeds are two evaluations (`results.variant`).
    """
    return {"seed": seed} if seed else {}


def depth(task: str, seed: int, token_length: int, sample: int) -> float:
    """A depth in [0, 1) for a sample: any run of samples covers the depths evenly.

    Multiples of the golden ratio from a seeded start, so it does not depend on how many samples
    are asked for.
    """
    start = float(sample_rng(task + " depth", seed, token_length, 0).random())
    return (start + sample * GOLDEN) % 1.0


def counter(tokenizer: PreTrainedTokenizerBase) -> Callable[[str], int]:
    """Count the tokens of a text as `inference` would read it, special tokens included."""
    return lambda text: len(tokenize(tokenizer, text))


def check_choices(
    style: str, styles: Sequence[str], tasks: Sequence[str], known: Sequence[str]
) -> None:
    """Raise ValueError for a style or task of a suite (RULER, InfiniteBench) that there is not."""
    if style not in styles:
        raise ValueError(f"unknown style {style!r}: use one of {', '.join(styles)}")
    if unknown := [name for name in tasks if name not in known]:
        raise ValueError(f"unknown task {unknown[0]!r}: choose of {', '.join(known)}")


def checked_lengths(lengths: Iterable[int], samples: int) -> list[int]:
    """The lengths as whole numbers; ValueError for a length or a sample count below 1."""
    lengths = [int(length) for length in lengths]
    if not lengths or min(lengths) < 1:
        raise ValueError(f"lengths {lengths} must be at least one whole number of tokens from 1")
    if samples < 1:
        raise ValueError(f"samples {samples} must be at least 1")
    return lengths


def named_samples(
    length: int, samples: int, only: Collection[tuple[int, int]] | None
) -> list[int]:
    """The samples of a length that `only` names by (length, sample), or with None all of them."""
    return [sample for sample in range(samples) if only is None or (length, sample) in only]


def spared(lengths: Sequence[int], target_length: int) -> list[int]:
    """Take 100 tokens off a length that is the target length, as PoSE does, and say so.

    A model of that target reads a prompt and all tokens that it may answer, which are more than
    those of the right answer.
    """
    if target_length in lengths:
        logger.warning(
            "prompts of the whole target length, %d tokens, are made %d shorter: the answer needs "
            "room in it", target_length, SPARED,
        )  # fmt: skip
    return [length - SPARED if length == target_length else length for length in lengths]


def largest_that_fits(
    tokens: Callable[[int], int],
    limit: int,
    most: int,
    guess: int,
    slack: int = 0,
    what: str = "records",
) -> int:
    """Find the largest n in 1 .. most with tokens(n) <= limit, for tokens that grow with n.

    Steps by the tokens one unit costs on average, so it asks three to five times. It is content
    once at most `slack` tokens are left. ValueError when one unit is too much already.
    """
    fits, too_many = 0, most + 1
    while too_many - fits > 1:
        guess = min(max(guess, fits + 1), too_many - 1)
        found = tokens(guess)
        if found <= limit:
            fits = guess
            if limit - found < slack:
                return fits
        else:
            too_many = guess
        guess += math.floor((limit - found) * guess / found)
        guess += 1 if guess == fits else 0
    if fits == 0:
        raise ValueError(
            f"a prompt of {limit} tokens holds no {what}: the shortest takes {tokens(1)}; "
            "ask for a longer one"
        )
    return fits
