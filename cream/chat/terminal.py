"""The conversation in a terminal: lines are questions, lines that begin with / are commands.

What belongs here: reading lines, showing pieces as they come, Ctrl-C, and what a person is told.
"""

import contextlib
import sys
from pathlib import Path

from cream.chat.conversation import Chat, TextFile
from cream.chat.streaming import Reading

__all__ = ["HELP", "introduction", "shown", "talk"]

HELP = """\
  a line            is a question (or, of a base model, text to continue)
  /file report.txt  adds a text file to the next question
  /used             tokens used of L
  /new              begins a new conversation
  /help             this
  /quit             ends; so does Ctrl-D
  Ctrl-C            stops an answer, and keeps what has been said of it"""
CONTROLS = {code: 0xFFFD for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def shown(text: str) -> str:
    """Replace control characters: a model's text must not steer the terminal."""
    return text.translate(CONTROLS)


def introduction(chat: Chat) -> str:
    """Say who answers, at most how long, and how it is asked."""
    model = chat.model
    lines = [
        f"{model.name}: L = {model.limit:,} tokens, at most {chat.answer_tokens:,} of them an "
        f"answer; greedy, {model.model.dtype} on {model.model.device}".replace("torch.", "")
    ]
    if not model.has_template:
        lines.append(
            "Its tokenizer has no chat template: it is a base model, so it continues text. What "
            "you type is read as it is, after the files, and continued."
        )
    return "\n".join(lines)


def talk(chat: Chat) -> None:
    """Read lines until the end of input or /quit, and answer them."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (line editing and history, where Python has it)
    print(introduction(chat), "/help shows the commands.", sep="\n")
    while True:
        try:
            line = input("\n> ").strip()
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print("\n(/quit ends)")
            continue
        if line == "/quit":
            return
        if line:
            _carry_out(chat, line)


def _carry_out(chat: Chat, line: str) -> None:
    """One line; what it cannot do is said, and the conversation goes on."""
    try:
        if line.startswith("/"):
            print(_command(chat, line))
        else:
            _answer(chat, line)
    except (OSError, ValueError, MemoryError) as error:
        print(f"Not done: {shown(str(error))}")


def _command(chat: Chat, line: str) -> str:
    word, _, rest = line.partition(" ")
    if word == "/file":
        if not rest.strip():
            return "Which? Write /file report.txt"
        file = TextFile.read(Path(rest.strip().strip("'\"")))
        budget = chat.add(file)
        return f"{shown(file.name)} goes with the next question: {budget}"
    if rest.strip() or word not in ("/help", "/new", "/used"):
        raise ValueError(f"there is no command {line!r}: /help shows those there are")
    if word == "/new":
        chat.new()
        return f"A new conversation: {chat.used()}"
    return HELP if word == "/help" else str(chat.used())


def _answer(chat: Chat, question: str) -> None:
    bar = sys.stdout.isatty()
    wide = 0  # of the line that says how far the prompt is read
    with contextlib.closing(chat.ask(question)) as pieces:
        try:
            for piece in pieces:
                if isinstance(piece, Reading):
                    said = f"reading {piece.done:,} of {piece.tokens:,} tokens"
                    wide = len(said)
                    print(f"\r{said}" if bar else "", end="", flush=True)
                    continue
                if wide and bar:
                    print("\r" + " " * wide + "\r", end="")
                wide = 0
                print(shown(piece), end="", flush=True)
            print()
        except KeyboardInterrupt:
            print("\n(stopped)")
    _tell(chat)


def _tell(chat: Chat) -> None:
    """After an answer: where its words stand in the files, and the tokens used."""
    found = chat.sources()
    for file, source in found[:1]:
        before, here, after = source.excerpt(file.text)
        line = " ".join(f"{before}[[{here}]]{after}".split())
        print(f"\n{shown(file.name)}: {source}\n  {shown(line)}")
    if chat.has_files() and not found:
        print("\nnot found in the text")
    print(f"({chat.used()})")
