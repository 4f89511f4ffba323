"""Long forwards in little memory: what treats tokens one by one, in tiles; attention, by heads.

    with tiled(model, tokens) as whole: ...

While a sequence is read, feed-forwards and norms run over some thousand tokens at a time, and every
attention over the whole sequence but for some of its heads at a time, from their projections to
their rows of one output, which then goes through the output projection in tiles. What stays with
the length is a few hidden states. The sums are those of the whole module: nothing is approximated.

No family is named here. Layers are found by their number, attentions by their projections, and all
that takes and gives one hidden state is tried on a few tokens, whole and in parts: what differs is
run whole and named. What belongs here: taking modules' forwards over and giving them back.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from cream.models.backbone import backbone
from cream.rope.clex import ClexLayer

__all__ = ["Tiling", "tiled"]

logger = logging.getLogger(__name__)

INDEXED = 2**31 - 1  # numbers of a tensor that kernels with 32-bit indices can reach
_PART = 2**17  # tokens that are projected at once where there are too many for one product
_TRIED = 12  # tokens that modules are tried on


@dataclass(frozen=True)
class Tiling:
    """How finely: `tokens` a tile, `numbers` in the queries of the heads read at once.

    `heads` sets the heads at once instead of `numbers`. `compiled`: tiles and attentions are
    compiled by torch.compile, which takes some seconds for every length.
    """

    tokens: int = 16_384
    numbers: int = 2**28
    heads: int | None = None
    compiled: bool = False

    def __post_init__(self) -> None:
        least = min(self.tokens, self.numbers, self.heads or 1)
        if least < 1:
            raise ValueError(f"{self}: tokens, numbers and heads must be at least 1")


@contextlib.contextmanager
def tiled(model: PreTrainedModel, tokens: int, how: Tiling | None = None) -> Iterator[list[str]]:
    """Let a model read sequences of `tokens` tokens in tiles while the context is open.

    Yields the names of what stays whole. Without a cache and one sequence at a time only; a call
    of another form goes to the module as it was. ValueError where an attention that cannot be split
    would have more than 2^31 - 1 numbers on a GPU.
    """
    how = how or Tiling()
    taken = [*_pointwise(model, how), *_attentions(model, how, tokens)]
    try:
        for one in taken:
            one.module.forward = one
        with torch.inference_mode():
            ids = torch.arange(_TRIED, device=model.device)[None]
            backbone(model)(input_ids=ids, use_cache=False)
        whole = _stay_whole(taken)
        _check_indices(model, taken, tokens)
        yield whole
    finally:
        for one in taken:
            one.give_back()


def _stay_whole(taken: list[_Taken]) -> list[str]:
    """Name what gave something else in parts, once a class; say it."""
    for one in taken:
        one.why = one.why or ("" if one.tried else "it is not given one hidden state and no more")
    odd = {type(one.module).__name__: one.why for one in taken if one.why}
    for name, why in odd.items():
        logger.warning("%s stays whole: %s", name, why)
    return sorted(odd)


def _check_indices(model: PreTrainedModel, taken: list[_Taken], tokens: int) -> None:
    text = model.config.get_text_config(decoder=True)
    split = [one for one in taken if isinstance(one, _Attention) and not one.why]
    most = max((tokens * one.at_once * one.module.head_dim for one in split), default=0)
    if len(split) < text.num_hidden_layers:
        most = max(most, tokens * text.hidden_size)
    if model.device.type == "cuda" and most > INDEXED:
        raise ValueError(
            f"{tokens:,} tokens give {most:,} numbers to one attention of this "
            f"{model.config.model_type}, more than the {INDEXED:,} that its kernels can index: "
            "shorten the document"
        )


# ------------------------------------------------------------------------------ what is taken


def _decoder(model: PreTrainedModel) -> tuple[nn.Module | None, list[nn.Module]]:
    """The module that holds the decoder layers, and these."""
    depth = model.config.get_text_config(decoder=True).num_hidden_layers
    for parent in backbone(model).modules():
        for child in parent.children():
            if isinstance(child, nn.ModuleList) and len(child) == depth:
                return parent, list(child)
    logger.warning("no %d layers in %s: it is read whole", depth, type(model).__name__)
    return None, []


def _pointwise(model: PreTrainedModel, how: Tiling) -> list[_Pointwise]:
    """Candidates: children of layers with weights, that are no attentions; the last norm.

    CLEX's layer has weights, too, but gives angles: it is not given hidden states to split.
    """
    parent, layers = _decoder(model)
    found = [] if parent is None else [
        child for child in parent.children()
        if not isinstance(child, nn.ModuleList | nn.Embedding | ClexLayer)
    ]  # fmt: skip
    found += [child for layer in layers for child in layer.children() if not _projections(child)]
    return [_Pointwise(one, how) for one in found if any(True for _ in one.parameters())]


def _attentions(model: PreTrainedModel, how: Tiling, tokens: int) -> list[_Attention]:
    return [
        _Attention(child, names, how, tokens)
        for layer in _decoder(model)[1]
        for child in layer.children()
        if (names := _projections(child))
    ]


def _projections(module: nn.Module) -> tuple[str, str, str, str] | None:
    """The names of an attention's four projections, if it has them one a head and plain."""
    linear = {name: one for name, one in module.named_children() if type(one) is nn.Linear}
    first = [name for name in ("q_proj", "k_proj", "v_proj") if name in linear]
    last = [name for name in linear if name not in first]
    if len(first) < 3 or len(last) != 1 or not getattr(module, "head_dim", None):
        return None
    query, key, value = (linear[name].out_features for name in first)
    size = module.head_dim
    fits = query == linear[last[0]].in_features and key == value and query % key == 0
    return (*first, last[0]) if fits and key % size == 0 else None


@functools.cache
def _compiled(kind: type) -> Callable:
    """A class's forward, compiled once for all of its modules."""
    return torch.compile(kind.forward, dynamic=False)


class _Taken:
    """A module's forward in other hands: tried first, then in parts if the two agreed."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.own = module, module.__dict__.get("forward")
        self.original, self.why, self.tried = module.forward, "", False

    def give_back(self) -> None:
        """Let the module run as before."""
        self.module.__dict__.pop("forward", None)
        if self.own is not None:
            self.module.forward = self.own

    def compare(self, whole: Any, parts: Callable[[], Any]) -> None:
        """Note why parts cannot stand for the whole, if they cannot."""
        self.tried = True
        try:
            found = parts()
        except Exception as error:  # whatever a module does not take
            self.why = f"it does not run in parts ({error})"
            return
        whole, found = (one[0] if isinstance(one, tuple) else one for one in (whole, found))
        if not isinstance(whole, torch.Tensor) or whole.shape != found.shape:
            self.why = "it gives something else than one hidden state"
            return
        far = (whole.float() - found.float()).abs().max()
        near = 1e-4 if whole.dtype == torch.float32 else 3e-2
        if not far <= near * whole.float().abs().max():
            self.why = "its parts do not add up to the whole"


# ------------------------------------------------------------------------------------- tokens


class _Pointwise(_Taken):
    """Runs a module that treats every token by itself over `tokens` of them at a time."""

    def __init__(self, module: nn.Module, how: Tiling) -> None:
        super().__init__(module)
        self.tokens, kind = how.tokens, type(module)
        self.fast = functools.partial(_compiled(kind), module) if how.compiled else None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Stand in for the module's forward."""
        given = args[0] if len(args) == 1 and not kwargs else None
        if not isinstance(given, torch.Tensor) or given.dim() != 3 or len(given) != 1:
            return self.original(*args, **kwargs)
        if not self.tried:
            whole = self.original(given)
            self.compare(whole, lambda: _in_tiles(self.original, given, (_TRIED + 1) // 2))
            return whole
        if self.why or given.shape[1] <= self.tokens:
            return self.original(given)
        return _in_tiles(self.original, given, self.tokens, self.fast)


def _in_tiles(
    function: Callable[[torch.Tensor], torch.Tensor],
    given: torch.Tensor,
    tokens: int,
    fast: Callable[[torch.Tensor], torch.Tensor] | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Apply a function of (1, n, size) to `tokens` tokens at a time; `fast`, to whole tiles.

    `out` takes the results, also where it is what was given.
    """
    for start in range(0, given.shape[1], tokens):
        tile = given[0, start : start + tokens][None]  # strides that say nothing of the length
        done = (fast if fast and tile.shape[1] == tokens else function)(tile)
        if not isinstance(done, torch.Tensor):
            raise TypeError(f"gives a {type(done).__name__}")
        if out is None:
            out = done.new_empty((1, given.shape[1], done.shape[-1]))
        out[:, start : start + tokens] = done
    return out


# -------------------------------------------------------------------------------------- heads


class _Rows(nn.Module):
    """Some rows of a linear layer: the projections of some heads, on the same memory."""

    def __init__(self, linear: nn.Linear, rows: slice) -> None:
        super().__init__()
        self.rows = linear.weight.detach()[rows]
        self.shift = None if linear.bias is None else linear.bias.detach()[rows]

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        if states.numel() <= INDEXED:
            return nn.functional.linear(states, self.rows, self.shift)
        project = functools.partial(nn.functional.linear, weight=self.rows, bias=self.shift)
        return _in_tiles(project, states, _PART)


class _Attention(_Taken):
    """Runs an attention for some of its heads at a time, over all tokens."""

    def __init__(self, module: nn.Module, names: tuple[str, ...], how: Tiling, long: int) -> None:
        super().__init__(module)
        self.names, self.tokens, kind = names, how.tokens, type(module)
        self.forward = _compiled(kind) if how.compiled else kind.forward
        query, key = (getattr(module, name).out_features // module.head_dim for name in names[:2])
        wanted = how.heads or max(1, how.numbers // (long * module.head_dim))
        counts = [n for n in range(1, key + 1) if key % n == 0]
        groups = next((n for n in counts if query // n <= wanted), key)
        self.at_once, self.groups = query // groups, groups
        # Tried in as few parts as show it: each is a forward, for every layer and document.
        self.trial = groups if groups > 1 else counts[min(1, len(counts) - 1)]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Stand in for the module's forward."""
        if not self.tried:
            whole = self.original(*args, **kwargs)
            self.compare(whole, lambda: self._in_groups(type(self.module).forward, self.trial,
                                                        args, kwargs))  # fmt: skip
            return whole
        states = args[0] if args else kwargs.get("hidden_states")
        long = len(states) == 1 and states.shape[1] > self.tokens
        if self.why or not long or kwargs.get("past_key_values") is not None:
            return self.original(*args, **kwargs)
        return self._in_groups(self.forward, self.groups, args, kwargs)

    def _in_groups(self, forward: Callable, groups: int, args: tuple, kwargs: dict) -> tuple:
        states = args[0] if args else kwargs["hidden_states"]
        last = getattr(self.module, self.names[3])
        held = states.new_empty((*states.shape[:2], last.in_features))
        width = last.in_features // groups
        for number in range(groups):
            found = forward(self._part(number, groups), *args, **kwargs)
            held[..., number * width : (number + 1) * width] = found[0]
        out = held if last.out_features == last.in_features else None
        return _in_tiles(last, held, self.tokens, out=out), *(None for _ in found[1:])

    def _part(self, number: int, groups: int) -> nn.Module:
        """The module with one group's heads only, whose output projection does nothing."""
        part = copy.copy(self.module)
        part.__dict__.pop("forward", None)
        part.__dict__["_modules"] = dict(self.module._modules)
        for name in self.names[:3]:
            linear = getattr(self.module, name)
            size = linear.out_features // groups
            setattr(part, name, _Rows(linear, slice(number * size, (number + 1) * size)))
        setattr(part, self.names[3], nn.Identity())
        return part
