"""Sentences hidden in a stretch of text, each after an exact number of its tokens.

What belongs here: where a sentence stands and how much text a prompt has room for. What is hidden
and asked is the task's (`tasks.needle`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cream.tasks.haystack import Stretch

__all__ = ["PLACEMENTS", "Page", "Sentence", "place"]

PLACEMENTS = ("exact", "release")


class Sentence(NamedTuple):
    """What is hidden, how it is asked for, the answer, and what of it the prompt ends with."""

    hidden: str
    asked: str
    answer: str
    begun: str = ""


def place(tokens: int, depth_percent: float, placement: str = "exact", before: int = 0) -> int:
    """Return after how many of a text's tokens a sentence at a depth (per cent) stands.

    Depth 0 is before the first and 100 after the last. "release" counts the `before` tokens of the
    description as if they were the text's, so that depth 0 is not the beginning and depths near 100
    all fall on the end (protocols 5.3).
    """
    if placement == "exact":
        return round(tokens * depth_percent / 100)
    return min(tokens, before + round((tokens - 1) * depth_percent / 100))


@dataclass(frozen=True)
class Page:
    """Sentences that share a stretch of text, by depth (per cent), and their prompts.

    `before` stands before the text, `wrap` puts a prompt into its wrapper, `count` counts tokens as
    the model reads them.
    """

    count: Callable[[str], int]
    before: str
    wrap: Callable[[str], str]
    chosen: Sequence[tuple[float, Sentence]]
    placement: str = "exact"

    def prompts(self, text: Stretch, length: int) -> list[str]:
        """A prompt for every sentence, alike up to its question, with as much text as fits.

        With its answer none has more than `length` tokens. ValueError if there is no room for text.
        """
        body = self._fill(text, length)
        return [self._prompt(body, sentence) for _, sentence in self.chosen]

    def _prompt(self, body: str, sentence: Sentence) -> str:
        return self.wrap(body + sentence.asked) + sentence.begun

    def body(self, text: Stretch, tokens: int) -> str:
        """The first `tokens` tokens of the stretch with every sentence at its depth."""
        before = self.count(self.before) - self.count("")
        parts, done = [self.before], 0
        for percent, sentence in sorted(self.chosen, key=lambda each: each[0]):
            here = place(tokens, percent, self.placement, before)
            parts += [text.between(done, here), sentence.hidden]
            done = here
        return "".join([*parts, text.between(done, tokens)])

    def _fill(self, text: Stretch, length: int) -> str:
        # All questions follow the same text, so that the longest is so after any text.
        empty = self.body(text, 0)
        longest = max((one for _, one in self.chosen), key=lambda one: self._size(empty, one))
        least = self._size(empty, longest)
        room = length - least
        while room > 0:
            body = self.body(text, room)
            over = self._size(body, longest) - length
            if over <= 0:
                return body
            room -= over
        many = len(self.chosen)
        raise ValueError(
            f"a prompt of {length} tokens has no room for text: what is hidden ({many}), its "
            f"question and answer take {least}; ask for a longer one"
            + (", or hide fewer sentences together" if many > 1 else "")
        )

    def _size(self, body: str, sentence: Sentence) -> int:
        """Tokens of a prompt with its answer."""
        return self.count(self._prompt(body, sentence) + sentence.answer)
