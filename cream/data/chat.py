"""Conversations into text: through the tokenizer's own chat template, or a named plain one.

What belongs here: the one place where a turn's role and text are read (ShareGPT's from/value and
role/content), the plain templates, and the hash by which a manifest names the template; and the
other way round, a task's prompt as what a user says to a chat model. The
paper's chat data came tokenised; its template is unknown (protocols 4.1).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
from transformers import PreTrainedTokenizerBase

from cream.data.tokenization import adds_bos

__all__ = ["PLAIN", "ROLES", "ChatTemplate", "Dropped", "UserTurn"]

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
        """Return the template's name and sha256, for the manifest."""
        text = str(self.tokenizer.chat_template if self.name == "tokenizer" else PLAIN[self.name])
        return {"name": self.name, "sha256": hashlib.sha256(text.encode()).hexdigest()}

    def render(self, turns: Any, place: str, system: Any = None) -> str:
        """Return one conversation as text.

        Args:
            turns: ``[{"from": "human", "value": "..."}, ...]``, or with ``role`` and ``content``.
                A text may be a list of text parts, which are joined.
            place: where it stands, for the error.
            system: a system message that stands beside the turns, if any.

        Raises:
            ValueError: it is malformed; the turn, the key and the value are named.
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
            return str(self.tokenizer.apply_chat_template(messages, tokenize=False))
        except jinja2.exceptions.TemplateError as error:
            raise Dropped(f"the tokenizer's template refuses it: {_shown(str(error))}") from None


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

    ValueError for a tokenizer without a template.
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
        text = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        bos = self.tokenizer.bos_token
        return str(text.removeprefix(bos) if bos and adds_bos(self.tokenizer) else text)

    @property
    def settings(self) -> dict[str, str]:
        """The template's hash, 16 hex digits, for a row's settings."""
        return {"chat_template": ChatTemplate("tokenizer", self.tokenizer).facts()["sha256"][:16]}
