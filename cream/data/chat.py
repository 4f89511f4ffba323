"""Conversations into text: through the tokenizer's own chat template, or a named plain one.

What belongs here: the one place where a turn's role and text are read (ShareGPT's from/value and
role/content), the plain templates, and the hash by which a manifest names the template; and the
other way round, a task's prompt as what a user says to a chat model. A template that asks for
today's date is given a fixed one, so that a text does not depend on the day it was made. The
paper's chat data came tokenised; its template is unknown (protocols 4.1).
"""

import datetime
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
from transformers import PreTrainedTokenizerBase

from cream.data.tokenization import adds_bos

__all__ = ["DATE", "PLAIN", "ROLES", "ChatTemplate", "Dropped", "UserTurn", "at_fixed_date"]

# Roles are read without regard to case.
ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bard": "assistant",
    "bing": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
    "developer": "system",
}
FORMS = (("from", "value"), ("role", "content"))  # a turn's role and text: ShareGPT's, the hub's
PARTS = ("text", "input_text", "output_text")  # types of a part of a turn that is text
CALLS = ("tool_calls", "function_call")
# What stands before each turn; a turn ends with a newline.
PLAIN = {
    "plain": {"system": "", "user": "User: ", "assistant": "Assistant: "},
    "vicuna": {"system": "", "user": "USER: ", "assistant": "ASSISTANT: "},
}


# "Today" in every text made here: what Llama 3's templates say themselves where there is no clock.
DATE = datetime.datetime(2024, 7, 26)
CLOCK = "strftime_now"  # the one clock that transformers gives a template
_TOLD = re.compile(CLOCK + r"""\s*\(\s*(?:format\s*=\s*)?(?:"([^"\\]*)"|'([^'\\]*)')\s*\)""")
_ASKED = re.compile(CLOCK + r"\s+is\s+(?:not\s+)?defined|\{#.*?#\}", re.DOTALL)


class Dropped(Exception):
    """A conversation that a template cannot say; the message is the reason, to be counted."""


@dataclass
class ChatTemplate:
    """Renders conversations; ``name`` is "tokenizer" or one of ``PLAIN``."""

    name: str
    tokenizer: PreTrainedTokenizerBase

    @classmethod
    def choose(cls, name: str, tokenizer: PreTrainedTokenizerBase) -> "ChatTemplate":
        """Resolve "auto" to the tokenizer's own template where it has one, else to "plain"."""
        own = bool(tokenizer.chat_template)
        if name == "auto":
            name = "tokenizer" if own else "plain"
        if name not in ("tokenizer", *PLAIN):
            known = ", ".join(("auto", "tokenizer", *PLAIN))
            raise ValueError(f"chat template {name!r} is unknown: choose one of {known}")
        if name == "tokenizer" and not own:
            raise ValueError(
                f"the tokenizer has no chat template: choose one of {', '.join(PLAIN)}"
            )
        return cls(name, tokenizer)

    def facts(self) -> dict[str, str]:
        """Return the template's name and sha256, and its fixed date if it has one: the manifest's.

        ValueError as `at_fixed_date`.
        """
        own = self.name == "tokenizer"
        text = str(self.tokenizer.chat_template if own else PLAIN[self.name])
        dated = {"date": f"{DATE:%Y-%m-%d}"} if own and at_fixed_date(self.tokenizer) else {}
        return {"name": self.name, "sha256": hashlib.sha256(text.encode()).hexdigest(), **dated}

    def render(self, turns: Any, place: str, system: Any = None) -> str:
        """Return one conversation as text.

        Args:
            turns: ``[{"from": "human", "value": "..."}, ...]``, or with ``role`` and ``content``.
                A text may be a list of text parts, which are joined.
            place: where it stands, for the error.
            system: a system message that stands beside the turns, if any.

        Raises:
            ValueError: it is malformed; the turn, the key and the value are named. Or as
                `at_fixed_date`.
            Dropped: it cannot be said: a foreign role, a turn without text, a call of a tool, no
                assistant, or turns that the tokenizer's template refuses.
        """
        messages = _messages(turns, place, system)
        if all(each["role"] != "assistant" for each in messages):
            raise Dropped("no assistant answers")
        if self.name != "tokenizer":
            before = PLAIN[self.name]
            return "".join(f"{before[m['role']]}{m['content']}\n" for m in messages)
        try:
            return _said(self.tokenizer, messages)
        except jinja2.exceptions.TemplateError as error:
            raise Dropped(f"the tokenizer's template refuses it: {_shown(str(error))}") from None


def at_fixed_date(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return the tokenizer's chat template with `DATE` for today; None where it reads no clock.

    ValueError for a template that asks for the time other than by a format spelt out in it.
    """
    if CLOCK not in str(tokenizer.chat_template):
        return None
    template = tokenizer.get_chat_template()
    fixed = _TOLD.sub(lambda call: repr(DATE.strftime(call[1] or call[2] or "")), template)
    if CLOCK in _ASKED.sub("", fixed):
        raise ValueError(
            f"the chat template of {tokenizer.name_or_path or 'this tokenizer'} asks for today's "
            f"date ({CLOCK}) in a form that is not spelt out in it, so a text would change with "
            f"the day: write {CLOCK}('%d %b %Y') or a date into its chat_template"
        )
    return fixed


def _said(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], **how: Any) -> str:
    """The messages as the tokenizer's template has them, at `DATE` if it asks for the day."""
    fixed = at_fixed_date(tokenizer)
    how |= {} if fixed is None else {"chat_template": fixed}
    return str(tokenizer.apply_chat_template(messages, tokenize=False, **how))


def _messages(turns: Any, place: str, system: Any) -> list[dict[str, str]]:
    """Return alternating messages; an assistant that speaks before any user is left out."""
    if not isinstance(turns, Sequence) or isinstance(turns, str | bytes):
        raise ValueError(f"{place}: conversations is no list of turns, but {_shown(turns)}")
    read = [_turn(each, f"{place}, turn {number}") for number, each in enumerate(turns, 1)]
    if system is not None:
        read.insert(0, ("system", _words(system, f"{place}, system")))
    messages: list[dict[str, str]] = []
    for role, words in read:
        if role == "system" and not words:
            continue
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] += "\n" + words
        elif role != "assistant" or any(each["role"] == "user" for each in messages):
            messages.append({"role": role, "content": words})
    return messages


def _turn(turn: Any, place: str) -> tuple[str, str]:
    """The role and the text of one turn: the only place where either is read."""
    # Rows that were read from Arrow have every key that any of them has, as null.
    given = {k: v for k, v in turn.items() if v is not None} if isinstance(turn, Mapping) else {}
    form = next((f for f in FORMS if f[0] in given and set(f) <= set(turn)), None)
    if form is None:
        raise ValueError(
            f'{place}: a turn must be {{"from": ..., "value": ...}} or {{"role": ..., '
            f'"content": ...}} with a role, not {_shown(turn)}'
        )
    said, key = given[form[0]], form[1]
    if not isinstance(said, str):
        raise ValueError(f"{place}: {form[0]} is {_shown(said)}, no role")
    if any(given.get(name) for name in CALLS):
        raise Dropped("a turn calls a tool")
    role = ROLES.get(said.strip().lower())
    if role is None:
        raise Dropped(f"a turn has the role {_shown(said)}")
    if given.get(key) is None and role != "system":
        raise Dropped("a turn has no text (null)")
    return role, _words(given.get(key, ""), f"{place}, {key}")


def _words(value: Any, place: str) -> str:
    """The text of a cell: a string, or a list of text parts joined; the rest is refused."""
    if not isinstance(value, list):
        return _text(value, place).strip()
    parts = [
        _text(each.get("text") if _is_part(each) else each, f"{place}, part {number}")
        for number, each in enumerate(value, 1)
    ]
    return "".join(parts).strip()


def _is_part(value: Any) -> bool:
    return isinstance(value, Mapping) and value.get("type", "text") in PARTS


def _text(value: Any, place: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{place}: holds {_shown(value)}, which is no text")
    return value


def _shown(value: Any, most: int = 60) -> str:
    text = ascii(value)
    return text if len(text) <= most else f"{text[:most]}..."


@dataclass(frozen=True)
class UserTurn:
    """A prompt as the user's turn of the tokenizer's own chat template, up to the model's answer.

        turn = UserTurn(tokenizer)
        Example(prompt=turn(text), how={"style": "chat", **turn.settings}, ...)

    ValueError for a tokenizer without a template, and as `at_fixed_date`.
    """

    tokenizer: PreTrainedTokenizerBase

    def __post_init__(self) -> None:
        if not self.tokenizer.chat_template:
            raise ValueError(
                f"the tokenizer of {self.tokenizer.name_or_path or 'this model'} has no chat "
                "template: it belongs to a base model, ask it in another style"
            )

    def __call__(self, prompt: str) -> str:
        """Return the text to tokenize, without the template's BOS where the tokenizer adds its own.

        So there is exactly one, and for Llama-2 the tokens are those of Meta's code: a space before
        the first word, which transformers 5 leaves out where the BOS is part of the text.
        """
        messages = [{"role": "user", "content": prompt}]
        text = _said(self.tokenizer, messages, add_generation_prompt=True)
        bos = self.tokenizer.bos_token
        return text.removeprefix(bos) if bos and adds_bos(self.tokenizer) else text

    @property
    def settings(self) -> dict[str, str]:
        """For a row's settings: the template's hash, 16 hex digits, and its date if it has one."""
        facts = ChatTemplate("tokenizer", self.tokenizer).facts()
        dated = {"chat_date": facts["date"]} if "date" in facts else {}
        return {"chat_template": facts["sha256"][:16], **dated}
