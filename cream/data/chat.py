"""Conversations into text: through the tokenizer's own chat template, or a named plain one.

What belongs here: ShareGPT's roles, the plain templates, and the hash by which a manifest names
the template; and the other way round, a task's prompt as what a user says to a chat model. The
paper's chat data came tokenised; its template is unknown (protocols 4.1).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
from transformers import PreTrainedTokenizerBase

__all__ = ["PLAIN", "ROLES", "ChatTemplate", "UserTurn"]

ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bard": "assistant",
    "assistant": "assistant",
    "system": "system",
}
# What stands before each turn; a turn ends with a newline.
PLAIN = {
    "plain": {"system": "", "user": "User: ", "assistant": "Assistant: "},
    "vicuna": {"system": "", "user": "USER: ", "assistant": "ASSISTANT: "},
}


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

    def render(self, turns: Any, place: str) -> str | None:
        """Return one conversation as text; ValueError if it is malformed.

        None where it cannot be said: foreign roles, no assistant, or turns that the tokenizer's
        template refuses.

        Args:
            turns: ShareGPT's ``[{"from": "human", "value": "..."}, ...]``.
            place: where it stands, for the error.
        """
        messages = _messages(turns, place)
        if messages is None or all(each["role"] != "assistant" for each in messages):
            return None
        if self.name != "tokenizer":
            before = PLAIN[self.name]
            return "".join(f"{before[m['role']]}{m['content']}\n" for m in messages)
        try:
            return str(self.tokenizer.apply_chat_template(messages, tokenize=False))
        except jinja2.exceptions.TemplateError:
            return None


def _messages(turns: Any, place: str) -> list[dict[str, str]] | None:
    """Return alternating messages that begin with the user, or None for a foreign role."""
    if not isinstance(turns, Sequence) or isinstance(turns, str):
        raise ValueError(f"{place}: conversations is no list of turns")
    messages: list[dict[str, str]] = []
    for turn in turns:
        if not isinstance(turn, Mapping) or not {"from", "value"} <= set(turn):
            raise ValueError(f'{place}: a turn must be {{"from": ..., "value": ...}}')
        role = ROLES.get(str(turn["from"]))
        if role is None:
            return None
        words = str(turn["value"]).strip()
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] += "\n" + words
        elif role != "assistant" or any(each["role"] == "user" for each in messages):
            messages.append({"role": role, "content": words})
    return messages


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
        return str(text.removeprefix(bos) if bos and self._adds_bos() else text)

    def _adds_bos(self) -> bool:
        ids = self.tokenizer("a", add_special_tokens=True)["input_ids"]
        return ids[0] == self.tokenizer.bos_token_id

    @property
    def settings(self) -> dict[str, str]:
        """The template's hash, 16 hex digits, for a row's settings."""
        return {"chat_template": ChatTemplate("tokenizer", self.tokenizer).facts()["sha256"][:16]}
