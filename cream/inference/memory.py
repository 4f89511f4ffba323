"""What generating takes of a card's memory, or of RAM, computed before anything is spent.

What belongs here: the arithmetic as data (`generation`), from a loaded model or from a config
alone, and the sentence that says it. What is done about it, `inference` decides. The cache is
counted on an empty twin of the model (no memory, no compute), so that grouped heads, head sizes of
their own, sliding windows and compressed caches are what transformers makes of them.
"""

from __future__ import annotations

import bisect
import copy
import functools
import weakref
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

import psutil
import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    DynamicCache,
    PreTrainedConfig,
    PreTrainedModel,
)

from cream.models.backbone import backbone
from cream.rope import clex

__all__ = ["AT_ONCE", "Footprint", "Needs", "footprint", "generation"]

GIB = 2**30
AT_ONCE = 32_768  # tokens that are read in one forward where prompts can be read in parts
_SPARE = 0.9  # share of what is available that "auto" plans with: allocators leave gaps


class _Layer(NamedTuple):
    """What a layer caches: numbers a token, the shape they have, tokens kept (None: all)."""

    numbers: int
    shape: str
    window: int | None


@dataclass(frozen=True)
class Needs:
    """What decoding `rows` prompts at once holds at its peak, in bytes, and what there is for it.

    `tokens` is the longest prompt with its new tokens. `activations` is an upper bound for reading
    prompts with stock kernels; sliding layers, which then still hold all they read, count in it.
    `available` includes what a loaded model's weights have taken; None where it is unknown.
    """

    rows: int
    tokens: int
    weights: int
    cache: int
    activations: int
    available: int | None
    device: str
    formula: str

    @property
    def total(self) -> int:
        """Weights, cache and activations together."""
        return self.weights + self.cache + self.activations

    @property
    def fits(self) -> bool:
        """Whether there is room for it, as far as is known."""
        return self.available is None or self.total <= self.available

    def __str__(self) -> str:
        prompts = "1 prompt" if self.rows == 1 else f"{self.rows} prompts at once"
        has = "unknown" if self.available is None else _gib(self.available)
        return (
            f"{prompts} of {self.tokens:,} tokens: weights {_gib(self.weights)} + KV cache "
            f"{_gib(self.cache)} ({self.formula}) + activations {_gib(self.activations)} = "
            f"{_gib(self.total)}; available on {self.device}: {has}"
        )


def _gib(count: int) -> str:
    return f"{count / GIB:.3g} GiB"


@dataclass(frozen=True)
class Footprint:
    """What is known of a model before any prompt is: its shape, its weights, the memory there is.

    `size` is the bytes of a number in its cache; `available` was free when this was made.
    """

    config: PreTrainedConfig
    layers: tuple[_Layer, ...]
    weights: int
    size: int
    available: int | None
    device: str
    stock_cache: bool = True

    def needs(self, rows: int, tokens: int, in_parts: bool = True, tail: int = 1) -> Needs:
        """Say what decoding `rows` prompts of at most `tokens` tokens, new ones included, holds.

        `in_parts`: they are read at most `AT_ONCE` tokens at a time, or one by one, unpadded, but
        for the last `tail` tokens of each, which are read for all rows at once and padded (more
        than 1 where prompts differ in length or early).
        """
        text = self.config.get_text_config(decoder=True)
        kept = sum(one.numbers * min(tokens, one.window or tokens) for one in self.layers)
        whole = tokens * sum(one.numbers for one in self.layers)
        read = min(rows * tokens, max(tokens, AT_ONCE)) if in_parts else rows * tokens
        behind = rows * min(tail, tokens) if in_parts and rows > 1 else 0
        numbers = max(read, behind) * _numbers_a_token(text)
        numbers += rows * tokens * _repeated(text, self.layers) if behind else 0
        numbers += rows * (whole - kept)
        return Needs(
            rows=rows,
            tokens=tokens,
            weights=self.weights,
            cache=rows * kept * self.size,
            activations=numbers * self.size
            + rows * text.vocab_size * (self.size + 8)
            + self._masks(rows, tokens, in_parts, behind),
            available=self.available,
            device=self.device,
            formula=_formula(self.layers, self.size, tokens, rows),
        )

    def most_rows(self, tokens: int, in_parts: bool = True, tail: int = 1) -> int | None:
        """Return how many prompts of `tokens` tokens fit at once with something to spare.

        0 if not even one fits with nothing to spare; None: unknown.
        """
        if self.available is None:
            return None
        room = _SPARE * self.available
        one = self.needs(1, tokens, in_parts, tail)
        if one.total > room:
            return int(one.fits)
        rows = range(1, 2**16)
        above = bisect.bisect_right(
            rows, room, key=lambda n: self.needs(n, tokens, in_parts, tail).total
        )
        return rows[above - 1]

    def _masks(self, rows: int, tokens: int, in_parts: bool, behind: int) -> int:
        """Bytes of masks: of what is read first, or of what is then read behind it, padded."""
        if not in_parts:
            return self._mask(rows * tokens, tokens, padded=rows > 1)
        first = self._mask(min(rows * tokens, max(tokens, AT_ONCE)), tokens, padded=False)
        return max(first, self._mask(behind, tokens, padded=True))

    def _mask(self, queries: int, tokens: int, padded: bool) -> int:
        """Bytes of `queries` by `tokens`: none where attention is causal in its kernel."""
        square = queries * tokens
        slides = any(one.window is not None and one.window < tokens for one in self.layers)
        needed = square * (1 + self.size) if slides or padded else 0
        if getattr(self.config, "_attn_implementation", None) == "eager":
            heads = self.config.get_text_config(decoder=True).num_attention_heads
            needed += square * (1 + self.size + heads * (2 * self.size + 4))
        return needed


def footprint(
    model: PreTrainedModel | PreTrainedConfig,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
) -> Footprint:
    """Look at a loaded model, or at a config for weights of `dtype` (bfloat16) on `device`.

    Without a device a config is looked at for CUDA where it is, else for the CPU.
    """
    loaded = isinstance(model, torch.nn.Module)
    config = model.config if loaded else model
    layers, parameters, stock = _shape(config, model if loaded else None)
    if loaded:
        size, place = model.dtype.itemsize, model.device
        held = [*model.parameters(), *model.buffers()]
        weights = sum(one.numel() * one.element_size() for one in held)
    else:
        size = (dtype or torch.bfloat16).itemsize
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        weights = parameters * size
    free = _free(place)
    return Footprint(
        config=config,
        layers=layers,
        weights=weights,
        size=size,
        available=free if free is None else free + weights * loaded,
        device=torch.cuda.get_device_name(place) if place.type == "cuda" else place.type,
        stock_cache=stock,
    )


def generation(
    model: PreTrainedModel | PreTrainedConfig,
    rows: int,
    tokens: int,
    in_parts: bool = True,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    tail: int = 1,
) -> Needs:
    """Say at once what `footprint` and `Footprint.needs` say."""
    return footprint(model, dtype, device).needs(rows, tokens, in_parts, tail)


@dataclass(frozen=True)
class _Asked:
    """A config as a key: two that say the same are one."""

    kind: type[PreTrainedConfig]
    text: str
    config: PreTrainedConfig = field(compare=False)


_Shape = tuple[tuple[_Layer, ...], int, bool]
_OWN: weakref.WeakKeyDictionary[PreTrainedModel, _Shape] = weakref.WeakKeyDictionary()


def _shape(config: PreTrainedConfig, model: PreTrainedModel | None) -> _Shape:
    """Count on an empty twin; where its forward looks at numbers, on the model itself."""
    if model is not None and model in _OWN:
        return _OWN[model]
    asked = _Asked(type(config), config.to_json_string(use_diff=False), config)
    try:
        return _counted(asked)
    except Exception as error:  # families fail on an empty twin in ways of their own
        if model is None:
            raise ValueError(
                f"what a {config.model_type} caches cannot be counted from its config alone "
                f"({type(error).__name__}: {error}): load the model"
            ) from error
    with torch.inference_mode():
        one = torch.zeros((1, 1), dtype=torch.long, device=model.device)
        cache = getattr(backbone(model)(input_ids=one, use_cache=True), "past_key_values", None)
    count = sum(parameter.numel() for parameter in model.parameters())
    return _OWN.setdefault(model, (_cached(cache), count, type(cache) is DynamicCache))


@functools.lru_cache(maxsize=32)
def _counted(asked: _Asked) -> _Shape:
    """What each layer caches for a token, the number of parameters, and if in a stock cache."""
    config = copy.deepcopy(asked.config)
    with (
        torch.random.fork_rng(devices=[]),
        torch.device("meta"),
        torch.inference_mode(),
        clex.registered(),
    ):
        twin = MODEL_FOR_CAUSAL_LM_MAPPING[asked.kind](config).to(torch.bfloat16).eval()
        _fix_rotary(twin)
        cache = DynamicCache(config=config)
        one = torch.zeros((1, 1), dtype=torch.long)
        backbone(twin)(input_ids=one, past_key_values=cache, use_cache=True)
    layers = _cached(cache)  # a family may take a cache and leave it empty
    return layers, sum(parameter.numel() for parameter in twin.parameters()), bool(layers)


def _cached(cache: object) -> tuple[_Layer, ...]:
    """What each layer of a cache holds of the one token that was read."""
    layers = []
    cache = getattr(cache, "self_attention_cache", cache)
    for layer in getattr(cache, "layers", []):
        keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
        if keys is None:  # a layer whose state does not grow with the tokens
            continue
        (_, heads, _, first), (_, _, _, second) = keys.shape, values.shape
        wide = f"2 x {first}" if first == second else f"({first} + {second})"
        shape = f"{heads} heads x {wide}"
        window = getattr(layer, "sliding_window", None)
        layers.append(_Layer(keys.numel() + values.numel(), shape, window))
    return tuple(layers)


def _fix_rotary(twin: PreTrainedModel) -> None:
    """Keep rotary modules from looking at positions, which an empty twin has none of."""
    for module in twin.modules():
        if isinstance(kind := getattr(module, "rope_type", None), dict):
            module.rope_type = dict.fromkeys(kind, "default")
        elif kind is not None:
            module.rope_type = "default"


def _numbers_a_token(config: PreTrainedConfig) -> int:
    """Upper bound for the numbers that one layer holds of a token while it is read."""
    hidden = config.hidden_size
    inner = getattr(config, "intermediate_size", None) or 4 * hidden
    experts = getattr(config, "num_experts_per_tok", None) or 0
    narrow = getattr(config, "moe_intermediate_size", None) or inner
    return 8 * hidden + max(3 * inner, experts * (3 * narrow + 2 * hidden))


def _repeated(config: PreTrainedConfig, layers: tuple[_Layer, ...]) -> int:
    """Numbers a token of one layer's keys and values, repeated for grouped heads under a mask."""
    most = max((one.numbers for one in layers), default=0)
    heads = getattr(config, "num_attention_heads", None) or 1
    kept = getattr(config, "num_key_value_heads", None) or heads
    return most * -(-heads // kept) if heads > kept else 0


def _formula(layers: tuple[_Layer, ...], size: int, tokens: int, rows: int) -> str:
    kinds = Counter((one.shape, min(tokens, one.window or tokens)) for one in layers)
    parts = [f"{n} layers x {shape} x {kept:,} tokens" for (shape, kept), n in kinds.items()]
    sums = parts[0] if len(parts) == 1 else f"({' + '.join(parts)})"
    return f"{sums} x {size} bytes x {rows}" if parts else "no layer has one"


def _free(device: torch.device) -> int | None:
    """Bytes that are free for this process; a container's own limit on RAM is not seen."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        reserved = torch.cuda.memory_reserved(device)
        return free + reserved - torch.cuda.memory_allocated(device)
    return psutil.virtual_memory().available if device.type == "cpu" else None
