"""Where a continuation ends: its stop string, its end token, and the text that is kept.

What belongs here: deciding it while decoding, cheaply, and cutting it afterwards.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, StoppingCriteria

__all__ = ["StopString", "cut", "decode", "until_end"]


def cut(text: str, stop: str | None) -> str:
    """Cut a continuation after the first stop string."""
    if not stop or stop not in text:
        return text
    return text[: text.index(stop) + len(stop)]


def until_end(tokens: list[int], ends: int | list[int] | None) -> list[int]:
    """Return what a row says up to its first end token; what follows is padding."""
    ends = ends if isinstance(ends, list) else [ends]
    places = [place for place, token in enumerate(tokens) if token in ends]
    return tokens[: places[0] + 1] if places else tokens


def decode(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Sequence[int]]) -> list[str]:
    """Return the text of each row of token ids, special tokens left out, spaces as they are."""
    return tokenizer.batch_decode(
        rows, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )


class StopString(StoppingCriteria):
    """Ends a row once its decoded continuation (at least `least` tokens) holds the stop string.

    `ended` says after how many new tokens each row did. Only the last tokens are decoded, and what
    they seem to hold is looked for in the whole continuation: alone they may read differently.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, prompt_width: int, stop: str, least: int = 1
    ) -> None:
        self.tokenizer, self.width, self.stop = tokenizer, prompt_width, stop
        self.least = max(1, least)
        self.reach = len(stop.encode()) + 4  # a token is a byte or more, or a special one
        self.looked = 0
        self.ended: dict[int, int] = {}

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        count = input_ids.shape[1] - self.width
        going = [row for row in range(len(input_ids)) if row not in self.ended]
        if going and count >= self.least:
            start = self.width + max(0, self.looked - self.reach)
            tails = decode(self.tokenizer, input_ids[:, start:].cpu().numpy()[going])
            self.looked = count
            for row, tail in zip(going, tails, strict=True):
                if self.stop in tail and self.stop in self._whole(input_ids[row]):
                    self.ended[row] = count
        done = [row in self.ended for row in range(len(input_ids))]
        return torch.tensor(done, device=input_ids.device)

    def _whole(self, row: torch.Tensor) -> str:
        return decode(self.tokenizer, row[None, self.width :])[0]
