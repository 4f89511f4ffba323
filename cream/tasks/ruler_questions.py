"""What RULER's generated tasks ask: words, texts and questions of one sample, from its generator.

Prompt strings and constants are those of NVIDIA/RULER c3f5e3b (Apache-2.0); `ruler` fits them to a
length and says what differs.
"""

import string
from collections.abc import Callable, Iterable
from functools import cache
from importlib.resources import files
from typing import NamedTuple
from uuid import UUID

import numpy as np

__all__ = ["QUESTIONS", "Budget", "Kind", "Question", "all_words", "chain", "words"]

SHORT = 4096  # below it NVIDIA's cwe repeats words less often
ZETA_2 = np.pi**2 / 6

NEEDLE = "One of the special magic {kind}s for {key} is: {value}."
NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
NIAH = (
    "A special magic {kind} is hidden within the following text. Make sure to memorize it. I will "
    "quiz you about the {kind} afterwards.\n{context}\nWhat is the special magic {kind} for {key} "
    "mentioned in the provided text?"
)
NIAH_PREFIX = " The special magic {kind} for {key} mentioned in the provided text is"
VT = (
    "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n"
    "{context}\nQuestion: Find all variables that are assigned the value {value} in the text above."
)
VT_PREFIX = (
    " Answer: According to the chain(s) of variable assignment in the text above, {count} variables"
    " are assigned the value {value}, they are: "
)
CWE = (
    "Below is a numbered list of words. In these words, some appear more often than others. "
    "Memorize the ones that appear most often.\n{context}\nQuestion: What are the 10 most common "
    "words in the above list?"
)
CWE_PREFIX = " Answer: The top 10 words that appear most often in the list are:"
FWE = (
    "Read the following coded text and track the frequency of each coded word. Find the three most "
    "frequently appeared coded words. {context}\nQuestion: Do not provide any explanation. Please "
    "ignore the dots '....'. What are the three most frequently appeared words in the above coded "
    "text?"
)
FWE_PREFIX = (
    " Answer: According to the coded text above, the three most frequently appeared words are:"
)

HOPS = 4
COMMON_WORDS = 10
WORD_LETTERS = 6
FWE_TOKENS = 50


class Question(NamedTuple):
    """A prompt before any template, the first words of its answer, and what the answer names."""

    body: str
    prefix: str
    answers: list[str]
    gold_index: int | None = None

    @property
    def text(self) -> str:
        """The prompt of a base model."""
        return self.body + self.prefix


class Kind(NamedTuple):
    """How a task's question is drawn with so many `units` of text, of which it has `least`."""

    draw: Callable[[np.random.Generator, int, "Budget"], Question]
    new_tokens: int
    units: str
    least: int = 1


class Budget(NamedTuple):
    """The length L of prompt and answer, and the lines of text in the example of vt."""

    length: int
    shot_lines: int = 0


# -------------------------------------------------------------------------------- words and numbers


@cache
def words(kind: str) -> tuple[str, ...]:
    """Return wonderwords' list of "noun", "adjective" or "verb", without repetitions, in order.

    ModuleNotFoundError, with what to install, where the package is missing.
    """
    try:
        place = files("wonderwords.assets")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "RULER's prompts are made of the words of the package wonderwords, which is not "
            "installed: pip install -c constraints.txt -e ."
        ) from error
    text = place.joinpath(f"{kind}list.txt").read_text(encoding="utf-8")
    return tuple(dict.fromkeys(line.rstrip() for line in text.splitlines()))


@cache
def all_words() -> tuple[str, ...]:
    """Return every noun, adjective and verb of wonderwords once, in a fixed order."""
    return tuple(sorted({word for kind in ("noun", "adjective", "verb") for word in words(kind)}))


def _compound(rng: np.random.Generator) -> str:
    first, second = words("adjective"), words("noun")
    return f"{first[rng.integers(len(first))]}-{second[rng.integers(len(second))]}"


def _number(rng: np.random.Generator) -> str:
    return str(rng.integers(10**6, 10**7))


def _uuid(rng: np.random.Generator) -> str:
    return str(UUID(bytes=rng.bytes(16), version=4))


def _letters(alphabet: str, count: int) -> Callable[[np.random.Generator], str]:
    return lambda rng: "".join(alphabet[k] for k in rng.integers(len(alphabet), size=count))


def _different(
    draw: Callable[[np.random.Generator], str],
    rng: np.random.Generator,
    count: int,
    taken: Iterable[str] = (),
) -> list[str]:
    """So many different strings, none of them `taken`."""
    begun = dict.fromkeys(taken)
    found, skip = dict(begun), len(begun)
    while len(found) < skip + count:
        found[draw(rng)] = None
    return list(found)[skip:]


# --------------------------------------------------------------------------------------- questions


def _niah(kind: str, key: str, value: str, lines: list[str], gold: int) -> Question:
    named = {"kind": kind, "key": key}
    text = [*lines[:gold], NEEDLE.format(**named, value=value), *lines[gold:]]
    body = NIAH.format(**named, context="\n".join(text))
    return Question(body, NIAH_PREFIX.format(**named), [value], gold)


def _single(rng: np.random.Generator, units: int, _: Budget) -> Question:
    """A number under a word, in repeated sentences."""
    return _niah("number", _compound(rng), _number(rng), [NOISE] * units, int(rng.integers(units)))


def _multikey(
    kind: str,
    draw_key: Callable[[np.random.Generator], str],
    draw_value: Callable[[np.random.Generator], str],
) -> Callable[[np.random.Generator, int, Budget], Question]:
    """A value under a key, in lines that say the same of other keys."""

    def draw(rng: np.random.Generator, units: int, _: Budget) -> Question:
        gold = int(rng.integers(units))
        key, *others = _different(draw_key, rng, units + 1)
        value, *rest = _different(draw_value, rng, units + 1)
        pairs = zip(others, rest, strict=True)
        lines = [NEEDLE.format(kind=kind, key=one, value=each) for one, each in pairs]
        return _niah(kind, key, value, lines, gold)

    return draw


def _variables(rng: np.random.Generator, units: int, budget: Budget) -> Question:
    """All variables of one chain of assignments, after a solved example."""
    shot = chain(rng, budget.shot_lines, 3)
    asked = chain(rng, units, 5)
    solved = f"{shot.text} {' '.join(shot.answers)}\n\n"
    return asked._replace(body=solved + asked.body)


def chain(rng: np.random.Generator, units: int, letters: int) -> Question:
    """One chain, its assignments in order at random places among repeated sentences."""
    names = _different(_letters(string.ascii_uppercase, letters), rng, HOPS + 1, ["VAR"])
    value = str(rng.integers(10000, 99999))
    said = [f"VAR {names[0]} = {value}"]
    said += [f"VAR {b} = VAR {a} " for a, b in zip(names, names[1:], strict=False)]
    lines = [NOISE] * units
    for number, place in enumerate(sorted(rng.choice(units, HOPS + 1, replace=False))):
        lines.insert(int(place) + number, said[number])
    prefix = VT_PREFIX.format(count=HOPS + 1, value=value)
    return Question(VT.format(context="\n".join(lines), value=value), prefix, names)


def _common(rng: np.random.Generator, units: int, budget: Budget) -> Question:
    """The ten words that a numbered list repeats more often, after a solved example."""
    short = budget.length < SHORT
    shot = _word_list(rng, *((20, 3, 1) if short else (40, 10, 3)))
    asked = _word_list(rng, units, *((6, 1) if short else (30, 3)))
    solved = f"{shot.text} {_numbered(shot.answers)}\n"
    return asked._replace(body=solved + asked.body)


def _word_list(rng: np.random.Generator, units: int, often: int, seldom: int) -> Question:
    known = all_words()
    drawn = [known[k] for k in rng.choice(len(known), min(units, len(known)), replace=False)]
    drawn += _different(_compound, rng, units - len(drawn), drawn) if units > len(drawn) else []
    common, others = drawn[:COMMON_WORDS], drawn[COMMON_WORDS:]
    listed = np.array(common * often + others * seldom, dtype=object)
    body = CWE.format(context=_numbered(listed[rng.permutation(len(listed))]))
    return Question(body, CWE_PREFIX, common)


def _numbered(listed: Iterable[str]) -> str:
    return " ".join(f"{number}. {word}" for number, word in enumerate(listed, 1))


def _frequent(rng: np.random.Generator, units: int, budget: Budget) -> Question:
    """The three most frequent of coded words whose counts follow 1 / rank ** 2, the first dots."""
    size = (budget.length - FWE_TOKENS) // 50
    if size < 4:
        raise ValueError(
            f"fwe at {budget.length} tokens has a vocabulary of {max(0, size)} words and asks for "
            "ranks 2 to 4: ask for 250 tokens or more"
        )
    coded = _different(_letters(string.ascii_lowercase, WORD_LETTERS), rng, size)
    coded[0] = "..."
    counts = (units / ZETA_2 / np.arange(1, size + 1) ** 2).astype(int)
    text = np.repeat(np.array(coded, dtype=object), counts)
    body = FWE.format(context=" ".join(text[rng.permutation(len(text))]))
    return Question(body, FWE_PREFIX, coded[1:4])


# The shortest fwe is the one from which on rank 4 is always more frequent than rank 5.
QUESTIONS = {
    "niah_single_1": Kind(_single, 128, "sentences"),
    "niah_multikey_2": Kind(_multikey("number", _compound, _number), 128, "needles"),
    "niah_multikey_3": Kind(_multikey("uuid", _uuid, _uuid), 128, "needles"),
    "vt": Kind(_variables, 30, "sentences", HOPS + 1),
    "cwe": Kind(_common, 120, "words", COMMON_WORDS + 1),
    "fwe": Kind(_frequent, FWE_TOKENS, "words", 75),
}
