"""Where a text's tokens end, and how many there are, with each paragraph tokenized once.

What belongs here: which tokenizers may read a text paragraph by paragraph, and what they said of
each. What is measured is the tasks' (`tasks.haystack`, `tasks.needle_insertion`).
"""

import json
import re
from array import array
from collections.abc import Iterator, Sequence

from tokenizers import AddedToken
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import PreTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerBase

from cream.inference.generation import tokenize

__all__ = ["Paragraphs", "may_cut"]

_BEFORE_EMPTY_LINE = re.compile(r"(?<=[!-~])(?=\n\n)")
_AT_ONCE = 64  # paragraphs: a few thousand tokens

# What may stand before a byte-level BPE, in tokenizer.json. No word of GPT-2's pattern has white
# space behind another character, and only one of white space depends on what follows it. So a text
# has the same words with and without a cut between a character and an empty line.
_GPT2 = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
_DIGITS = (
    {"type": "Digits", "individual_digits": True},
    {"type": "Split", "pattern": {"Regex": r"\d"}, "behavior": "Isolated", "invert": False},
)


def may_cut(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokens of any text are those of its paragraphs, one after the other.

    True for a byte-level BPE by GPT-2's pattern, with or without digits one by one; False wherever
    that is not certain (a normalizer, another pattern, SentencePiece, tokens that take spaces).
    """
    backend = tokenizer.backend_tokenizer
    return (
        backend.normalizer is None
        and isinstance(backend.model, BPE)
        and isinstance(backend.post_processor, TemplateProcessing | None)  # it moves no token
        and _words_end_at_spaces(backend.pre_tokenizer)
        and not any(map(_takes_spaces, backend.get_added_tokens_decoder().values()))
    )


def _words_end_at_spaces(cutter: PreTokenizer | None) -> bool:
    said = {} if cutter is None else json.loads(cutter.__getstate__())  # as in tokenizer.json
    *before, last = said.get("pretokenizers", [said])
    return _GPT2.items() <= last.items() and all(one in _DIGITS for one in before)


def _takes_spaces(token: AddedToken) -> bool:
    return token.lstrip or token.rstrip or token.single_word or "\n" in token.content


class Paragraphs:
    """A tokenizer that remembers the paragraphs it has read.

        paragraphs = Paragraphs(tokenizer)
        paragraphs.count(prompt), list(paragraphs.ends(text))

    Of a tokenizer that may not cut (`may_cut`) a whole text is one paragraph. ValueError for one
    that cannot say where its tokens lie in a text (a slow one).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not tokenizer.is_fast:
            raise ValueError("the tokenizer is a slow one, which cannot place a sentence by tokens")
        self.tokenizer = tokenizer
        self._cuts = may_cut(tokenizer)
        self._ends: dict[str, array[int]] = {}

    def count(self, text: str) -> int:
        """Return how many tokens a text has as `inference` reads it, special tokens included."""
        first, *others = self._parts(text)  # special tokens stand before the first
        return len(tokenize(self.tokenizer, first)) + sum(map(len, self._read(others)))

    def ends(self, text: str) -> Iterator[int]:
        """Yield after which character each token ends, special tokens left out.

        No more of the text is tokenized than is asked for, up to some paragraphs.
        """
        parts, done = self._parts(text), 0
        for start in range(0, len(parts), _AT_ONCE):
            some = parts[start : start + _AT_ONCE]
            for part, ends in zip(some, self._read(some), strict=True):
                yield from (done + end for end in ends)
                done += len(part)

    def _parts(self, text: str) -> list[str]:
        return _BEFORE_EMPTY_LINE.split(text) if self._cuts else [text]

    def _read(self, parts: Sequence[str]) -> list["array[int]"]:
        if new := list(dict.fromkeys(part for part in parts if part not in self._ends)):
            found = self.tokenizer(
                new, add_special_tokens=False, return_offsets_mapping=True, verbose=False
            )["offset_mapping"]
            ends = (array("i", [end for _, end in row]) for row in found)
            self._ends.update(zip(new, ends, strict=True))
        return [self._ends[part] for part in parts]
