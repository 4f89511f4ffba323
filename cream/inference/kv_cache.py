"""The key-value cache of a batch of prompts: its memory taken once, common beginnings read once.

What belongs here: filling a cache without a mask, for models whose every layer keeps all it reads.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from cream.inference.memory import AT_ONCE
from cream.models.backbone import backbone

__all__ = ["keeps_all", "read_heads"]


class _Layer(DynamicLayer):
    """Keys and values in memory for `rows` rows of `room` tokens, filled from the left.

    transformers' own layer copies all it holds at every token. `keys` and `values` are, as there,
    what is filled; of the rows that are being read now, from row `first` on. With a `place`, a
    tensor of one number, one token of every row is written there and the whole room is returned:
    what a recorded step needs, whose addresses are fixed.
    """

    def __init__(self, rows: int, room: int) -> None:
        super().__init__()
        self.rows, self.room, self.first = rows, room, 0
        self.place: torch.Tensor | None = None

    def go_to(self, first: int, filled: int = 0) -> None:
        """Let the next update write from row `first` and token `filled` on."""
        self.first = first
        if self.is_initialized:
            self.keys = self.all_keys[first:, :, :filled]
            self.values = self.all_values[first:, :, :filled]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write new keys and values (rows, heads, tokens, size); return all of their rows."""
        if not self.is_initialized:
            self.dtype, self.device = key_states.dtype, key_states.device
            self.all_keys, self.all_values = map(self._empty, (key_states, value_states))
            self.is_initialized = True
            self.go_to(self.first)
        if self.place is not None:
            self.all_keys.index_copy_(2, self.place, key_states)
            self.all_values.index_copy_(2, self.place, value_states)
            return self.all_keys, self.all_values
        rows = slice(self.first, self.first + len(key_states))
        start = self.keys.shape[-2]
        end = start + key_states.shape[-2]
        self.all_keys[rows, :, start:end] = key_states
        self.all_values[rows, :, start:end] = value_states
        self.keys, self.values = self.all_keys[rows, :, :end], self.all_values[rows, :, :end]
        return self.keys, self.values

    def _empty(self, states: torch.Tensor) -> torch.Tensor:
        _, heads, _, size = states.shape
        return states.new_zeros((self.rows, heads, self.room, size))  # what is masked is finite

    def copy_row(self, row: int, to: slice, filled: int) -> None:
        """Copy the first `filled` tokens of one row to others."""
        for held in (self.all_keys, self.all_values):
            held[to, :, :filled] = held[row, :, :filled]


def keeps_all(model: PreTrainedModel) -> bool:
    """Whether every layer keeps all keys and values: only then can a beginning be shared."""
    layers = DynamicCache(config=model.config).layers
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def read_heads(
    model: PreTrainedModel, rows: Sequence[np.ndarray], shared: Sequence[int], room: int
) -> DynamicCache:
    """Read the first tokens of each row, as many as `shared` says; return their cache.

    It has room for `room` tokens and is filled to the largest of `shared`; what a row holds behind
    its own first tokens is finite, means nothing, and must be masked. Rows that agree in their
    first tokens must stand together, and are read once. At most `AT_ONCE` tokens, or one row, go
    through the model at a time.
    """
    heads = [row[:own] for row, own in zip(rows, shared, strict=True)]
    starts = [i for i, head in enumerate(heads) if i == 0 or not np.array_equal(head, heads[i - 1])]
    cache = DynamicCache(config=model.config)
    cache.layers = [_Layer(len(rows), room) for _ in cache.layers]
    first = 0
    for part in _parts([heads[i] for i in starts]):
        for layer in cache.layers:
            layer.go_to(first)
        backbone(model)(input_ids=part.to(model.device), past_key_values=cache, use_cache=True)
        first += len(part)
    _spread(cache, starts, shared)
    return cache


def _parts(heads: list[np.ndarray]) -> Iterator[torch.Tensor]:
    """What is read at a time: heads filled up on the right, where no token of theirs looks."""
    while heads:
        step = max(1, AT_ONCE // max(1, *map(len, heads)))
        part, heads = heads[:step], heads[step:]
        width = max(1, *map(len, part))
        yield torch.from_numpy(np.stack([np.pad(head, (0, width - len(head))) for head in part]))


def _spread(cache: DynamicCache, starts: list[int], shared: Sequence[int]) -> None:
    """Copy each head, read into row h, to the rows it begins; the last first: none is lost."""
    ends = [*starts[1:], len(shared)]
    for layer in cache.layers:
        for head in reversed(range(len(starts))):
            to = slice(max(starts[head], head + 1), ends[head])
            if to.start < to.stop:
                layer.copy_row(head, to, shared[to.start])
        layer.go_to(0, max(shared))
