"""Long text to hide things in: read from a corpus or a folder, measured and cut by tokens.

What belongs here: where the text comes from and where its tokens end. What is hidden in it is the
task's (`tasks.needle`).
"""

from collections.abc import Iterable
from itertools import accumulate, islice
from pathlib import Path
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from cream.data.corpus import TEXT_KINDS, Corpus
from cream.tasks.paragraphs import Paragraphs
from cream.utils.text_files import folder_of, read_text

__all__ = ["Stretch", "from_corpus", "from_folder", "stretch"]

_CHARACTERS_PER_TOKEN = 6  # first guess of how much text to cut; twice as much if it was too little
_SPARE = 9  # tokens that a piece has more than are wanted


class Stretch(NamedTuple):
    """A piece of text and the characters at which its tokens end; `ends[k]` follows k tokens."""

    text: str
    ends: list[int]

    @property
    def num_tokens(self) -> int:
        """How many tokens there are."""
        return len(self.ends) - 1

    def between(self, start: int, end: int) -> str:
        """Return the text of tokens [start, end)."""
        return self.text[self.ends[start] : self.ends[end]]


def from_folder(folder: str | Path) -> str:
    """Join the .txt files of a folder, by name.

    FileNotFoundError for a folder that is not there or has none, ValueError for one that is not
    UTF-8. The release joins them in whatever order the file system lists them (protocols 5.3).
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"haystack names {folder}, and there is no such folder")
    files = [file for file in folder_of(folder, ".txt").files if file.parent == folder]
    if not files:
        raise FileNotFoundError(f"the haystack {folder} holds no .txt file")
    return "\n".join(map(read_text, files))


def from_corpus(
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerBase,
    split: str = "test",
    kind: str | None = None,
) -> str:
    """Join a split's documents of one kind (None: of all `TEXT_KINDS`); ValueError if none."""
    documents = corpus.split(split)
    wanted = TEXT_KINDS if kind is None else (kind,)
    kinds = documents.column("kind")
    found = [index for index, each in enumerate(kinds) if each in wanted]
    if not found:
        there = ", ".join(sorted(set(kinds)))
        raise ValueError(
            f"the {split} split of {corpus.path} has no {' or '.join(wanted)}, but {there}: name "
            "another kind, or use another corpus"
        )
    return "\n".join(
        tokenizer.decode(documents.tokens(index), skip_special_tokens=True) for index in found
    )


def stretch(paragraphs: Paragraphs, haystack: str, start: int, num_tokens: int) -> Stretch:
    """Cut `num_tokens` tokens of the haystack from the next word after `start`, and round its end.

    `start` is a character; 0 is taken as it is. ValueError for a haystack with fewer tokens.
    """
    start = haystack.find(" ", start) + 1 if start else 0
    characters, ends = 0, [0]
    while characters <= len(haystack):
        characters = 2 * characters or _CHARACTERS_PER_TOKEN * num_tokens
        piece = _turned(haystack, start, characters)
        ends = _first(paragraphs.ends(piece), num_tokens + _SPARE)
        # The last word may have been cut, so that its tokens are not those of the text.
        if len(ends) > num_tokens + (_SPARE if characters <= len(haystack) else 0):
            return Stretch(piece, ends[: num_tokens + 1])
    raise ValueError(
        f"the haystack has {len(ends) - 1 if haystack.strip() else 0} tokens, fewer than the "
        f"{num_tokens} of the longest prompt: join more texts, or ask for shorter lengths"
    )


def _turned(haystack: str, start: int, characters: int) -> str:
    """Return the first characters of haystack[start:] + "\\n" + haystack[:start]."""
    piece = haystack[start : start + characters]  # a copy of the whole is slow
    missing = characters - len(piece)
    return piece + "\n" + haystack[: min(start, missing - 1)] if missing else piece


def _first(ends: Iterable[int], tokens: int) -> list[int]:
    """Return after how many characters 0, 1, ... `tokens` tokens end; fewer if there are fewer."""
    return list(accumulate(islice(ends, tokens), max, initial=0))
