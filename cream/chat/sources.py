"""Where in a text an answer's words stand: the whole answer, or the run of its words that is found.

Words are compared without case, punctuation and spaces, so that a line break or a quotation mark
is no difference. Nothing here knows why a model said something: it says where the words are.
"""

import functools
import math
import re
from collections import Counter, defaultdict
from typing import NamedTuple

__all__ = ["Source", "find_source"]

_WORD = re.compile(r"\w+")
LEAST = 4  # words in a row that count as found,
RARE = 3  # or two with a word that the text has at most so often
REPEATED = 0.1  # what a word of the question counts
AROUND = 160  # characters of the text shown on either side


class Source(NamedTuple):
    """Characters [start, end) of a text that an answer repeats.

    `words` of the answer's `of` words stand there in a row; `exact` if that is all of it; `places`
    is how often the run occurs, `start` the first. `weight` is larger for longer and rarer runs.
    """

    start: int
    end: int
    depth_percent: float
    line: int
    words: int
    of: int
    places: int
    weight: float

    @property
    def exact(self) -> bool:
        """Whether the whole answer stands there."""
        return self.words == self.of

    def excerpt(self, text: str) -> tuple[str, str, str]:
        """Return what stands before it, it, and what stands after, cut at words."""
        before = text[max(0, self.start - AROUND) : self.start]
        after = text[self.end : self.end + AROUND]
        if self.start > AROUND:
            before = "…" + before[before.find(" ") + 1 :]
        if self.end + AROUND < len(text):
            after = after[: after.rfind(" ") if " " in after else None] + "…"
        return before, text[self.start : self.end], after

    def __str__(self) -> str:
        what = "the whole answer" if self.exact else f"{self.words} of the answer's {self.of} words"
        where = f"{what} at {self.depth_percent:.0f} % of the text (line {self.line:,})"
        return where + (f", the first of {self.places:,} places" if self.places > 1 else "")


@functools.lru_cache(maxsize=64)  # a page draws the same answer often
def find_source(answer: str, text: str, question: str = "") -> Source | None:
    """Find the answer's words in a text; None if no run of them there says anything.

    A run says something if it is the whole answer, has at least four words, or two with one of at
    least three letters that the text has at most three times; or is a number that it has no more
    often. Of several runs the one counts that is least likely to stand there by chance: the
    largest sum of log(1 + words of the text / occurrences), in which words of the question, which
    an answer repeats whatever it has read, count a tenth.
    """
    asked = [word.lower() for word in _WORD.findall(answer)]
    spans = [(match.group().lower(), match.start(), match.end()) for match in _WORD.finditer(text)]
    told = [word for word, _, _ in spans]
    if not asked or not told:
        return None
    counts = Counter(told)
    repeated = {word.lower() for word in _WORD.findall(question)}
    worth = {
        word: math.log(1 + len(told) / counts[word]) * (REPEATED if word in repeated else 1)
        for word in set(asked) & set(told)
    }
    best, weight = None, 0.0
    for begin, place, words in _runs(asked, told):
        run = asked[begin : begin + words]
        own = sum(worth[word] for word in run)
        if own > weight and (words == len(asked) or _says(run, counts)):
            best, weight = (place, words), own
    if best is None:
        return None
    place, words = best
    start, end = spans[place][1], spans[place + words - 1][2]
    return Source(
        start=start,
        end=end,
        depth_percent=100 * start / len(text),
        line=text.count("\n", 0, start) + 1,
        words=words,
        of=len(asked),
        places=_times(told[place : place + words], told),
        weight=weight,
    )


def _says(run: list[str], counts: Counter[str]) -> bool:
    if len(run) == 1:
        return counts[run[0]] <= RARE and any(letter.isdigit() for letter in run[0])
    return len(run) >= LEAST or any(counts[word] <= RARE and len(word) >= 3 for word in run)


def _runs(asked: list[str], told: list[str]) -> list[tuple[int, int, int]]:
    """Every longest common run: its first word in the answer, in the text, and its length."""
    places = defaultdict(list)
    wanted = set(asked)
    for place, word in enumerate(told):
        if word in wanted:
            places[word].append(place)
    found, before = [], {}
    for begin in reversed(range(len(asked))):
        # `before` holds the runs that begin one word later in the answer.
        here = {place: before.get(place + 1, 0) + 1 for place in places[asked[begin]]}
        previous = asked[begin - 1] if begin else None
        for place, words in here.items():
            if not place or told[place - 1] != previous:
                found.append((begin, place, words))
        before = here
    return sorted(found)


def _times(run: list[str], told: list[str]) -> int:
    """How often a run of words occurs."""
    first = run[0]
    return sum(
        word == first and told[place : place + len(run)] == run for place, word in enumerate(told)
    )
