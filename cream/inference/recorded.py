"""A decoding step recorded as a CUDA graph, and played for every token after that.

One new token of a small model is little work in many kernels, and a card waits for Python to start
each. A recorded step starts them all at once. Every address and every shape in it is fixed, so the
step reads the whole room of the cache and masks what is not filled yet.

Answers that are decoded together on a card are decoded so, where `obstacle` names nothing against
it. The first played step of each batch is computed, too: where the two are `Apart`, that batch and
all that the model answers after it are decoded by computed steps. Inside `computed` every step is
computed. On a CPU recorded steps are tested, not used.

What belongs here: which models' steps can be recorded, and the memory that stays where it is. The
loop is transformers' own `generate`.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from cream.inference.kv_cache import keeps_all
from cream.rope.clex import is_clex
from cream.rope.length import depends_on_length

__all__ = [
    "LEAST", "Apart", "Taken", "check", "computed", "counted", "obstacle", "played", "recordable",
    "wanted",
]  # fmt: skip

logger = logging.getLogger(__name__)
RECORDED = 1  # the step, from 0, that is recorded: libraries choose kernels and take memory in 0
CHECKED = 2  # the first that is played, and computed beside it
LEAST = 8  # new tokens: of fewer, too much is computed all the same
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "ffn_config")
Replay = Callable[[], None]


@dataclass
class Taken:
    """How many recorded steps were played."""

    played: int = 0


class Apart(RuntimeError):
    """A played step gave other logits than the same step computed."""


_playing = True
_counting = Taken()
_distrusted: weakref.WeakSet[PreTrainedModel] = weakref.WeakSet()


@contextlib.contextmanager
def computed() -> Iterator[None]:
    """Let every step of the answers inside be computed, as a comparison needs it."""
    global _playing
    before, _playing = _playing, False
    try:
        yield
    finally:
        _playing = before


@contextlib.contextmanager
def counted() -> Iterator[Taken]:
    """Count the played steps of the answers inside. Prompts that are decoded alone have none."""
    global _counting
    before, _counting = _counting, Taken()
    try:
        yield _counting
    finally:
        _counting = before


def wanted(model: PreTrainedModel) -> bool:
    """Whether answers of a model are decoded by recorded steps here."""
    return _playing and recordable(model)


def recordable(model: PreTrainedModel) -> bool:
    """Whether a step has the same kernels at the same addresses for every token."""
    return obstacle(model) is None


def check(model: PreTrainedModel) -> None:
    """Raise ValueError, with why, if a model's steps cannot be recorded."""
    if not recordable(model):
        raise ValueError(f"steps of this model cannot be recorded: {obstacle(model)}")


def obstacle(model: PreTrainedModel) -> str | None:
    """Return why a model's steps cannot be recorded, None where they can."""
    config, where = model.config, getattr(model, "hf_device_map", None) or {"": 0}
    text = config.get_text_config(decoder=True)
    if model.device.type != "cuda":
        return f"it is on the {model.device.type}, not on a CUDA device"
    found = {
        "it is not on the current CUDA device":
            model.device.index not in (None, torch.cuda.current_device()),
        "it lies on several devices": len(set(where.values())) > 1,
        f"its attention is {config._attn_implementation!r}, not 'sdpa'":
            config._attn_implementation != "sdpa",
        "it is not told where its tokens stand":
            "position_ids" not in inspect.signature(model.forward).parameters
            or getattr(text, "alibi", False),
        "its weights are quantized": getattr(model, "is_quantized", False),
        # Which experts are called is decided by data.
        "it has experts": any(getattr(text, name, None) for name in EXPERTS),
        "its rotation follows the length": depends_on_length(config) or is_clex(config),
        "its cache does not keep all tokens": not keeps_all(model),
        "a step of it could not be recorded, or was apart from the same step computed":
            model in _distrusted,
    }  # fmt: skip
    return next((why for why, holds in found.items() if holds), None)


@contextlib.contextmanager
def played(model: PreTrainedModel, cache: DynamicCache) -> Iterator[None]:
    """Let forward passes of one new token a row be played; `cache` is of `kv_cache.read_heads`.

    Raises `Apart` where what is played is not what is computed; no later step of `model` is played.
    """
    own = vars(model).get("forward")  # a hook's, where there is one
    forward, step = model.forward, _Step(model, cache, _counting)

    @functools.wraps(forward)  # `generate` reads its parameters
    def either(input_ids: torch.Tensor, **given: object) -> CausalLMOutputWithPast:
        one = input_ids.shape[1] == 1 and given.get("past_key_values") is cache
        return step(input_ids, **given) if one else forward(input_ids=input_ids, **given)

    model.forward = either
    try:
        yield
    finally:
        if own is None:
            del model.forward  # the class's own again
        else:
            model.forward = own
        for layer in cache.layers:
            layer.place = None


class _Step:
    """One new token for every row, its inputs and logits at fixed addresses."""

    def __init__(self, model: PreTrainedModel, cache: DynamicCache, taken: Taken) -> None:
        self.model, self.forward = model, model.forward
        self.cache, self.taken = cache, taken
        self.count, self.replay, self.result = 0, None, None

    def __call__(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **_: object,
    ) -> CausalLMOutputWithPast:
        """Write the inputs where they are read; compute, record or play the step.

        `Apart` says that what is played is not what is computed.
        """
        filled = self.cache.get_seq_length()
        if not self.count:
            self._begin(input_ids, position_ids, attention_mask, filled)
        self.tokens.copy_(input_ids)
        self.positions.copy_(position_ids)
        self.place.fill_(filled)
        logits = self._logits()
        self.count += 1
        for layer in self.cache.layers:
            layer.go_to(0, filled + 1)
        return CausalLMOutputWithPast(logits=logits, past_key_values=self.cache)

    def _logits(self) -> torch.Tensor:
        if self.replay is None:
            logits = self._compute()
            if self.count == RECORDED:
                self._record()
            return logits
        self.replay()
        self.taken.played += 1
        if self.count == CHECKED:
            self._check()
        return self.result

    def _check(self) -> None:
        try:
            _compare(self.result, self._compute())
        except Apart as apart:
            self._distrust(apart)
            raise

    def _begin(
        self, input_ids: torch.Tensor, position_ids: torch.Tensor, mask: torch.Tensor | None,
        filled: int,
    ) -> None:  # fmt: skip
        self.tokens, self.positions = input_ids.clone(), position_ids.clone()
        self.place = torch.zeros(1, dtype=torch.long, device=input_ids.device)
        room = self.cache.layers[0].room
        self.allowed = input_ids.new_zeros((len(input_ids), 1, 1, room), dtype=torch.bool)
        self.allowed[..., :filled] = True if mask is None else mask[:, None, None, :filled].bool()
        for layer in self.cache.layers:
            layer.place = self.place

    def _record(self) -> None:
        try:
            self.replay, self.result = record(self._compute)
        except torch.OutOfMemoryError as error:  # a smaller batch may be recorded
            logger.warning("a decoding step could not be recorded and is computed: %s", error)
        except RuntimeError as error:
            self._distrust(f"a decoding step could not be recorded ({error})")

    def _distrust(self, why: object) -> None:
        """Let every later step of this model be computed."""
        logger.warning("%s: from here on the steps of this model are computed", why)
        _distrusted.add(self.model)

    def _compute(self) -> torch.Tensor:
        self.allowed.index_fill_(3, self.place, True)
        return self.forward(
            input_ids=self.tokens, attention_mask=self.allowed, position_ids=self.positions,
            past_key_values=self.cache, use_cache=True,
        ).logits  # fmt: skip


def _compare(played: torch.Tensor, computed: torch.Tensor) -> None:
    """Raise `Apart` where logits (rows, 1, vocabulary) are apart by more than rounding.

    While a step is recorded libraries may choose other kernels: in bfloat16 one row was 0.031 apart
    on an H200, relative to its norm. A step that does not see the token before it is further apart
    (a test of the miniature).
    """
    limit = max(1e-3, 12 * torch.finfo(computed.dtype).eps)
    each = (played - computed).float().norm(dim=-1) / computed.float().norm(dim=-1)
    apart = each.max().item()  # of a row: another's would be lost in the mean of many
    if not apart <= limit:  # nan, too
        raise Apart(f"a recorded decoding step gave logits {apart:.2g} apart from the same step "
                    f"computed, relative to their norm (limit {limit:.2g})")  # fmt: skip


def record(compute: Callable[[], torch.Tensor]) -> tuple[Replay, torch.Tensor]:
    """Record what `compute` starts on a card; return what plays it, and where its result will be.

    Recording computes nothing. What is played reads and writes the memory of the recording.
    """
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    try:
        # Other threads may go on: what pins a data loader's memory, say.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            result = compute()
    finally:
        torch.cuda.set_stream(stream)  # where recording fails, torch leaves its own
    return graph.replay, result
