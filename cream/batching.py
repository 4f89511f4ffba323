"""Which prompts are decoded together: by length, by memory, and by what they have in common.

What belongs here: planning only, over token ids. `inference` does what is planned here.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from transformers import PreTrainedModel

__all__ = ["Batch", "plan", "shared_prefixes"]

_MAX_BATCH = 64
_LEAST_SHARED = 32  # tokens; below this a prefix read once saves nothing


class Batch(NamedTuple):
    """Prompts decoded together; their first `shared` tokens are the same and are read once."""

    indices: list[int]
    shared: int = 0


def plan(
    ids: Sequence[Sequence[int]],
    batch_size: int | str,
    model: PreTrainedModel | None = None,
    new_tokens: int = 0,
) -> list[Batch]:
    """Group prompts, longest first, so that what does not fit fails at once.

    A number is the most rows of a batch. "auto" takes as many as fit by their key-value cache into
    half the free memory of the model's accelerator, at most 64; on a CPU, where a batch gains
    nothing in the prefill, equal lengths only. Prompts that are nearly the same to their end go
    together, if the model's cache allows it, and their common beginning is read once.
    """
    groups, rest = [], list(range(len(ids)))
    if batch_size != 1 and len(ids) > 1 and (model is None or _keeps_all(model)):
        groups = shared_prefixes(ids)
        grouped = {index for group in groups for index in group.indices}
        rest = [index for index in rest if index not in grouped]
    batches = []
    for indices, shared in groups:
        limit = _limit(model, batch_size, max(len(ids[i]) for i in indices) + new_tokens)
        for start in range(0, len(indices), limit):
            batches.append(Batch(indices[start : start + limit], shared))
    batches += _by_length(rest, ids, batch_size, model, new_tokens)
    return sorted(batches, key=lambda batch: -max(len(ids[i]) for i in batch.indices))


def shared_prefixes(ids: Sequence[Sequence[int]]) -> list[Batch]:
    """Find groups of two or more prompts that share three quarters of their tokens from the start.

    The shared part leaves every prompt at least its last token.
    """
    order = sorted(range(len(ids)), key=lambda i: list(ids[i]))
    groups: list[Batch] = []
    for index in order:
        row = ids[index]
        if groups:
            indices, shared = groups[-1]
            common = min(shared, _common(ids[indices[0]], row), len(row) - 1)
            longest = max(len(row), *(len(ids[i]) for i in indices))
            if common >= max(_LEAST_SHARED, 0.75 * longest):
                groups[-1] = Batch([*indices, index], common)
                continue
        groups.append(Batch([index], len(row) - 1))
    return [group for group in groups if len(group.indices) > 1]


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two prompts have in common from the start."""
    least = min(len(first), len(second))
    differs = np.asarray(first[:least]) != np.asarray(second[:least])
    return int(differs.argmax()) if differs.any() else least


def _keeps_all(model: PreTrainedModel) -> bool:
    """Whether every layer keeps the whole prefix: a sliding window forgets and cannot be shared."""
    if kinds := getattr(model.config, "layer_types", None):
        return set(kinds) == {"full_attention"}
    return getattr(model.config, "sliding_window", None) is None


def _by_length(
    indices: Sequence[int],
    ids: Sequence[Sequence[int]],
    batch_size: int | str,
    model: PreTrainedModel | None,
    new_tokens: int,
) -> list[Batch]:
    order = sorted(indices, key=lambda i: (-len(ids[i]), i))
    equal_only = batch_size == "auto" and _on_cpu(model)
    batches: list[Batch] = []
    limit = longest = 0
    for index in order:
        fits = bool(batches) and len(batches[-1].indices) < limit
        if fits and (len(ids[index]) == longest or not equal_only):
            batches[-1].indices.append(index)
            continue
        batches.append(Batch([index]))
        longest = len(ids[index])
        limit = _limit(model, batch_size, longest + new_tokens)
    return batches


def _on_cpu(model: PreTrainedModel | None) -> bool:
    return model is None or model.device.type == "cpu"


def _limit(model: PreTrainedModel | None, batch_size: int | str, num_tokens: int) -> int:
    """Rows of `num_tokens` that one batch may have."""
    if batch_size != "auto":
        return int(batch_size)
    if _on_cpu(model):
        return 16
    if model.device.type != "cuda":
        return 8
    free, _ = torch.cuda.mem_get_info(model.device)
    free += torch.cuda.memory_reserved(model.device) - torch.cuda.memory_allocated(model.device)
    bytes_per_row = num_tokens * _values(model) * torch.finfo(model.dtype).bits // 8
    return int(min(_MAX_BATCH, max(1, free // 2 // bytes_per_row)))


def _values(model: PreTrainedModel) -> int:
    """Numbers held for a token: its keys and values, and one layer's activations."""
    config = model.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    return 2 * config.num_hidden_layers * heads * size + 8 * config.hidden_size + 3 * inner
