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
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from cream.likelihood import check_window, log_likelihood

__all__ = [
    "BOS_POLICY",
    "Completion",
    "cut",
    "greedy",
    "log_likelihood",
    "plan_batches",
    "tokenize",
]

BOS_POLICY = "add_special_tokens"  # prompts get whatever the tokenizer puts before a text
_MAX_BATCH = 64

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

    Rows of a batch are padded on the left, and every prompt gets the tokens it would get alone.
    "auto" fills the free memory on an accelerator; on a CPU, where a batch gains nothing in the
    prefill, it puts only prompts of equal length together. A prompt that with `max_new_tokens`
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
    for batch in plan_batches([len(row) for row in ids], batch_size, model, config.max_new_tokens):
        rows = [ids[i] for i in batch]
        texts = _generate(model, tokenizer, rows, config, stop)
        for index, text in zip(batch, texts, strict=True):
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
    config: GenerationConfig,
    stop: str | None,
) -> list[str]:
    width = max(map(len, rows))
    pads = [width - len(row) for row in rows]
    filled = [[config.pad_token_id] * pad + row for pad, row in zip(pads, rows, strict=True)]
    input_ids = torch.tensor(filled, device=model.device)
    mask = torch.tensor([[0] * pad + [1] * (width - pad) for pad in pads], device=model.device)
    criteria = StoppingCriteriaList()
    if stop:
        criteria.append(_StopString(tokenizer, width, stop, config.min_new_tokens or 0))
    try:
        with _without_own_settings(model):
            out = model.generate(
                input_ids,
                attention_mask=mask,
                generation_config=config,
                stopping_criteria=criteria,
            )
    except torch.cuda.OutOfMemoryError:
        if len(rows) == 1:
            raise
        torch.cuda.empty_cache()
        half = len(rows) // 2
        first = _generate(model, tokenizer, rows[:half], config, stop)
        return first + _generate(model, tokenizer, rows[half:], config, stop)
    return [cut(text, stop) for text in _decode(tokenizer, out[:, width:])]


def _decode(tokenizer: PreTrainedTokenizerBase, ids: torch.Tensor) -> list[str]:
    return tokenizer.batch_decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def plan_batches(
    lengths: Sequence[int],
    batch_size: int | str,
    model: PreTrainedModel | None = None,
    new_tokens: int = 0,
) -> list[list[int]]:
    """Group prompts by length, longest first, so that what does not fit fails at once.

    A number is the size of each batch. "auto" takes as many rows as fit into half the free memory
    of the model's accelerator by its key-value cache, at most 64; on a CPU, equal lengths only.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    on_cpu = model is None or model.device.type == "cpu"
    batches: list[list[int]] = []
    limit = 0
    for index in order:
        longest = lengths[batches[-1][0]] if batches else -1
        together = len(batches) > 0 and len(batches[-1]) < limit
        if batch_size == "auto" and on_cpu:
            together = together and lengths[index] == longest
        if together:
            batches[-1].append(index)
            continue
        batches.append([index])
        limit = batch_size
        if batch_size == "auto":
            limit = _MAX_BATCH if on_cpu else _rows_that_fit(model, lengths[index] + new_tokens)
    return batches


def _rows_that_fit(model: PreTrainedModel, num_tokens: int) -> int:
    """Rows of `num_tokens` whose cache and activations fit into half of the free memory."""
    config = model.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    values = 2 * config.num_hidden_layers * heads * size + 8 * config.hidden_size
    values += 3 * (getattr(config, "intermediate_size", None) or 4 * config.hidden_size)
    if model.device.type != "cuda":
        return 8
    free, _ = torch.cuda.mem_get_info(model.device)
    free += torch.cuda.memory_reserved(model.device) - torch.cuda.memory_allocated(model.device)
    bytes_per_row = num_tokens * values * torch.finfo(model.dtype).bits // 8
    return int(min(_MAX_BATCH, max(1, free // 2 // bytes_per_row)))
