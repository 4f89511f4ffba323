"""A conversation with one model, counted in tokens against its target length L.

    chat = Chat(open_model("runs/x"), answer_tokens=256)
    chat.add(TextFile.read("report.txt"))
    for piece in chat.ask("Which port does the server use?"):
        ...
    chat.sources()                       # where in the file the answer's words stand

What belongs here: turns and files, the prompt they become, the count and the refusal of more than
L, before anything is computed. A model whose tokenizer has a chat template is asked in it; one
without is a base model, which continues text: files, what is typed and its own answers follow one
another, with an empty line between.
"""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from cream.chat.models import ChatModel
from cream.chat.sources import Source, find_source
from cream.chat.streaming import Answers, Reading
from cream.data.tokenization import adds_bos
from cream.inference.prompt_tokens import prompt_ids
from cream.utils.text_files import read_text

__all__ = ["Budget", "Chat", "TextFile", "TooLong", "Turn", "default_answer_tokens"]

MOST_ANSWER = 512


class TooLong(ValueError):
    """What was asked does not fit L; the message has the numbers."""


class TextFile(NamedTuple):
    """A file's name, without its folder, and its text."""

    name: str
    text: str

    @classmethod
    def read(cls, path: str | Path) -> "TextFile":
        """Read a text file; ValueError for one that is empty or no text, OSError as `open`."""
        path = Path(path).expanduser()
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder: name a text file in it")
        if not path.exists():
            raise FileNotFoundError(f"there is no file {path} (relative: from {Path.cwd()})")
        text = read_text(path)
        if not text.strip():
            raise ValueError(f"{path} is empty: there is nothing to ask about")
        return cls(path.name, text)


class Turn(NamedTuple):
    """One thing said: by whom ("user", "assistant"), the words, and the files it came with."""

    role: str
    text: str
    files: tuple[TextFile, ...] = ()

    @property
    def content(self) -> str:
        """What the model reads: the files' texts, then the words."""
        return "\n\n".join([*(one.text for one in self.files), self.text])


class Budget(NamedTuple):
    """Tokens used, of the L that there are, `answer` of which are kept free for the next answer."""

    used: int
    limit: int
    answer: int

    def __str__(self) -> str:
        return f"{self.used:,} of {self.limit:,} tokens used ({self.used / self.limit:.0%})"


def default_answer_tokens(limit: int) -> int:
    """Return how many tokens of L an answer may take unless it is said: a quarter, at most 512."""
    return max(1, min(MOST_ANSWER, limit // 4))


@dataclass
class Chat:
    """A conversation: its turns, the files that go with the next question, and who answers."""

    model: ChatModel
    answer_tokens: int = 0  # 0: `default_answer_tokens` of the model's limit
    answers: Answers | None = None  # shared by the conversations of one model
    turns: list[Turn] = field(default_factory=list)
    files: list[TextFile] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.answer_tokens = self.answer_tokens or default_answer_tokens(self.model.limit)
        if not 0 < self.answer_tokens < self.model.limit:
            raise ValueError(
                f"an answer of {self.answer_tokens:,} tokens leaves nothing of L = "
                f"{self.model.limit:,} for the question: choose from 1 to {self.model.limit - 1:,}"
            )
        self.answers = self.answers or Answers(self.model.model, self.model.tokenizer)

    def new(self) -> None:
        """Begin anew: no turns, no files."""
        self.turns, self.files = [], []

    def used(self) -> Budget:
        """Count what the next question would be read after; the files that wait for it included."""
        waiting = [Turn("user", "", tuple(self.files))] if self.files else []
        told = [*self.turns, *waiting]
        return self._budget(len(self._ids(told)) if told else 0)

    def add(self, file: TextFile) -> Budget:
        """Add a file to the next question; TooLong, and not added, if it cannot fit L."""
        turn = Turn("user", "", (*self.files, file))
        budget = self._fitting([*self.turns, turn], file.name)
        self.files.append(file)
        return budget

    def ask(self, question: str, stop: threading.Event | None = None) -> Iterator[str | Reading]:
        """Answer a question, piece by piece; what was said of a stopped answer is kept.

        One that is stopped, or fails, before its first word is taken back, its files with it.
        Raises at once, before anything is computed or changed: TooLong if it does not fit L with
        its answer, ValueError for an empty question, MemoryError with the arithmetic.
        """
        if not question.strip():
            raise ValueError("the question is empty")
        turn = Turn("user", question, tuple(self.files))
        told = [*self.turns, turn]
        self._fitting(told, "this question")
        ids = self._ids(told)
        self.answers.check_memory(len(ids) + self.answer_tokens)
        return self._answered(turn, ids, stop)

    def sources(self) -> list[tuple[TextFile, Source]]:
        """Say where the last answer's words stand in the files of the conversation, best first."""
        if not self.turns or self.turns[-1].role != "assistant":
            return []
        question, answer = (turn.text for turn in self.turns[-2:])
        files = dict.fromkeys(file for turn in self.turns for file in turn.files)
        found = [(file, find_source(answer, file.text, question)) for file in files]
        listed = [(file, source) for file, source in found if source]
        return sorted(listed, key=lambda one: (one[1].exact, one[1].weight), reverse=True)

    def has_files(self) -> bool:
        """Whether any file has been read into the conversation."""
        return any(turn.files for turn in self.turns)

    def _answered(
        self, turn: Turn, ids: list[int], stop: threading.Event | None
    ) -> Iterator[str | Reading]:
        said: list[str] = []
        ended = False
        turns = self.turns  # a conversation begun anew meanwhile has other ones
        turns.append(turn)
        self.files = []
        try:
            for piece in self.answers.stream(ids, self.answer_tokens, stop):
                if isinstance(piece, str):
                    said.append(piece)
                yield piece
            ended = stop is None or not stop.is_set()
        finally:
            if said or ended:
                turns.append(Turn("assistant", "".join(said)))
            else:  # it failed or was stopped before a word: as if it had not been asked
                turns.pop()
                self.files = list(turn.files) if turns is self.turns else self.files

    def _fitting(self, turns: list[Turn], what: str) -> Budget:
        """Return the count of turns, or raise TooLong with what is over and what can be done."""
        budget = self._budget(len(self._ids(turns)))
        needs = budget.used + self.answer_tokens
        if self.model.beyond or needs <= budget.limit:
            return budget
        before = f", {self.used().used:,} of them used before" if self.turns or self.files else ""
        raise TooLong(
            f"{what} does not fit: {budget.used:,} tokens{before}, and {self.answer_tokens:,} for "
            f"the answer are {needs:,}, and L is {budget.limit:,}. Shorten it by "
            f"{needs - budget.limit:,} tokens, begin a new conversation, or allow a shorter answer "
            "(--answer-tokens)"
        )

    def _budget(self, used: int) -> Budget:
        return Budget(used, self.model.limit, self.answer_tokens)

    def _ids(self, turns: list[Turn]) -> list[int]:
        """The tokens that the model reads, up to where its answer begins."""
        tokenizer = self.model.tokenizer
        if not self.model.has_template:
            return prompt_ids(tokenizer, "\n\n".join(turn.content for turn in turns))
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        bos = tokenizer.bos_token
        text = text.removeprefix(bos) if bos and adds_bos(tokenizer) else text
        return prompt_ids(tokenizer, text)
