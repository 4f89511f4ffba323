"""Questioning a model: batched greedy decoding, and the log-likelihood of long documents.

What belongs here: turning prompts into continuations and tokens into negative log-likelihoods,
within a memory budget, and the refusal of what does not fit the window. Nothing here knows a task.
"""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from transformers import (
    DynamicCache,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from cream.batching import plan
from cream.likelihood import check_window, log_likelihood

__all__ = [
    "BOS_POLICY",
    "Completion",
    "cut",
    "greedy",
    "log_likelihood",
    "tokenize",
]

BOS_POLICY = "add_special_tokens"  # prompts get whatever the tokenizer puts before a text
# `greedy` refuses what is beyond the window itself, and where it does not, that is the question.
logging.getLogger("transformers.generation.stopping_criteria").addFilter(
    lambda record: "friendly reminder" not in str(record.msg)
)


class Completion(NamedTuple):
    """The continuation of prompts[index], cut after its stop string; special tokens left out."""

    index: int
    text: str
    num_prompt_tokens: int


def tokenize(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """Token ids of a prompt, with the tokenizer's own special tokens (`BOS_POLICY`)."""
    return tokenizer(prompt, add_special_tokens=True)["input_ids"]


def cut(text: str, stop: str | None) -> str:
    """Cut a continuation after the first stop string."""
    if not stop or stop not in text:
        return text
    return text[: text.index(stop) + len(stop)]


# ---------------------------------------------------------------------------- greedy decoding


class _StopString(StoppingCriteria):
    """Ends a row once its decoded continuation (at least `least` tokens) holds the stop string."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, prompt_width: int, stop: str, least: int
    ) -> None:
        self.tokenizer, self.width, self.stop = tokenizer, prompt_width, stop
        self.least = max(1, least)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        new = input_ids[:, self.width :]
        if new.shape[1] < self.least:
            return torch.zeros(len(new), dtype=torch.bool, device=new.device)
        texts = self.tokenizer.batch_decode(new, skip_special_tokens=True)
        return torch.tensor([self.stop in text for text in texts], device=new.device)


def greedy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    max_new_tokens: int,
    stop: str | None = None,
    batch_size: int | str = "auto",
    min_new_tokens: int = 0,
    allow_beyond: bool = False,
) -> Iterator[Completion]:
    """Continue every prompt greedily; completions come as their batches finish, longest first.

    Rows of a batch are padded on the left, what many prompts have in common is read once, and every
    prompt gets the tokens it would get alone; `batch_size` as in `batching.plan` (1: each prompt by
    itself, nothing shared). A prompt that with `max_new_tokens`
    is longer than the model's window raises ValueError before anything is computed, unless
    `allow_beyond` (a model questioned beyond its window). Settings of the model's own generation
    config (Llama-2 samples at temperature 0.6) do not apply, its end tokens do.
    """
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens {max_new_tokens} must be at least 1")
    if batch_size != "auto" and (not isinstance(batch_size, int) or batch_size < 1):
        raise ValueError(f"batch_size {batch_size!r} must be 'auto' or a whole number from 1")
    ids = [tokenize(tokenizer, prompt) for prompt in prompts]
    for index, row in enumerate(ids):
        if not row:
            raise ValueError(f"prompt {index} has no tokens")
    if ids and not allow_beyond:
        check_window(model, max(map(len, ids)), max_new_tokens)
    config = _generation_config(model, tokenizer, max_new_tokens, min_new_tokens)
    return _run(model, tokenizer, ids, config, stop, batch_size)


def _run(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    ids: list[list[int]],
    config: GenerationConfig,
    stop: str | None,
    batch_size: int | str,
) -> Iterator[Completion]:
    for indices, shared in plan(ids, batch_size, model, config.max_new_tokens):
        rows = [ids[i] for i in indices]
        texts = _generate(model, tokenizer, rows, shared, config, stop)
        for index, text in zip(indices, texts, strict=True):
            yield Completion(index, text, len(ids[index]))


def _generation_config(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    max_new_tokens: int,
    min_new_tokens: int,
) -> GenerationConfig:
    own = getattr(model, "generation_config", None)
    eos = getattr(own, "eos_token_id", None)
    eos = tokenizer.eos_token_id if eos is None else eos
    pad = tokenizer.pad_token_id
    if pad is None:
        pad = (eos[0] if isinstance(eos, list) else eos) or 0
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        min_new_tokens=min_new_tokens or None,
        eos_token_id=eos,
        pad_token_id=pad,
        do_sample=False,
        num_beams=1,
        use_cache=True,
    )


@contextlib.contextmanager
def _without_own_settings(model: PreTrainedModel) -> Iterator[None]:
    """Hide the model's generation config, which transformers would merge into ours."""
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


@torch.inference_mode()
def _generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[list[int]],
    shared: int,
    config: GenerationConfig,
    stop: str | None,
) -> list[str]:
    width = max(map(len, rows))
    criteria = StoppingCriteriaList()
    if stop:
        criteria.append(_StopString(tokenizer, width, stop, config.min_new_tokens or 0))
    input_ids, mask = _padded(rows, shared, width, config.pad_token_id, model.device)
    try:
        cache = _read_once(model, rows[0][:shared], len(rows)) if shared else {}
        with _without_own_settings(model):
            out = model.generate(
                input_ids,
                attention_mask=mask,
                generation_config=config,
                stopping_criteria=criteria,
                **cache,
            )
    except torch.cuda.OutOfMemoryError:
        if len(rows) == 1:
            raise
        cache = None
        torch.cuda.empty_cache()
        half = len(rows) // 2
        first = _generate(model, tokenizer, rows[:half], shared, config, stop)
        return first + _generate(model, tokenizer, rows[half:], shared, config, stop)
    return [cut(text, stop) for text in _decode(tokenizer, out[:, width:])]


def _padded(
    rows: list[list[int]], shared: int, width: int, pad: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Fill rows up on the left of what they do not share; ids and mask, shape (rows, width)."""
    ids, mask = [], []
    for row in rows:
        gap = width - len(row)
        ids.append([*row[:shared], *[pad] * gap, *row[shared:]])
        mask.append([*[1] * shared, *[0] * gap, *[1] * (len(row) - shared)])
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def _read_once(model: PreTrainedModel, prefix: list[int], copies: int) -> dict[str, DynamicCache]:
    """Read a prefix that all rows of a batch share; what `generate` needs to go on from it."""
    cache = DynamicCache(config=model.config)
    input_ids = torch.tensor([prefix], device=model.device)
    model.base_model(input_ids=input_ids, past_key_values=cache, use_cache=True)
    cache.batch_repeat_interleave(copies)
    return {"past_key_values": cache}


def _decode(tokenizer: PreTrainedTokenizerBase, ids: torch.Tensor) -> list[str]:
    return tokenizer.batch_decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
