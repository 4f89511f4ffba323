"""The cache of CLEX's released code as an option: t rises while a sequence is read or answered.

    with clex_growing.growing(model):        every forward at t = ceil(tokens so far / N)
    clex_growing.grow(model)                 the same from now on

In evaluations the model is `growing:runs/x`, and its rows say so in their method and settings.

**What it changes.** `clex.chosen` takes one t from prompt and answer, and every number is that of
one forward at that t. Here t steps up whenever a multiple of N is passed. Keys in the cache are
turned on to the new t, as the authors' cache of un-rotated keys gives them. The values, and the
keys of all layers but the first, stay what was computed under the smaller t: from the first rise on
no number is that of a fresh forward at any t. While t stays, both rules give the same. Each rise
rounds the keys in the cache once more in their dtype, where the authors round once.

Nothing is copied: keys turned by p w(t1) become keys turned by p w(t2) by a turn of
p (w(t2) - w(t1)). One sequence, or several of one length, without padding; at most max_factor.
What belongs here: this rule. `clex` has the usual one.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from transformers import Cache, PreTrainedModel

from cream.rope import clex

__all__ = ["grow", "growing", "is_growing"]

AT_ONCE = 8192  # tokens of the cache that are turned at once, in float32


def is_growing(model: torch.nn.Module) -> bool:
    """Whether a model's t rises with its cache."""
    layer = clex.layer_of(model)
    return layer is not None and layer.growing


def grow(model: PreTrainedModel) -> Callable[[], None]:
    """Let a CLEX model's t rise with its cache, and return what ends it.

    ValueError for a model without CLEX, with log scaling (whose factor on old keys would change
    with every token), or whose t was chosen by number. Forwards raise ValueError for padding, for
    positions that do not follow the cache, and for a cache whose keys are not all there.
    """
    layer = clex.layer_of(model)
    if layer is None:
        raise ValueError("this model has no CLEX: it has no t that could grow")
    if layer.kind.log_scale:
        raise ValueError(
            "log_scale is true: its factor changes with every token, which keys in a cache cannot "
            "follow; use clex.chosen, which takes one t and one factor"
        )
    if layer.pinned:
        raise ValueError("t was chosen by number: give clex.choose the tokens alone first")
    if layer.growing:
        raise ValueError("the t of this model grows already")
    below = getattr(model, "base_model", model)
    names = list(inspect.signature(below.forward).parameters)
    before = below.register_forward_pre_hook(_Before(layer, names), with_kwargs=True)
    after = below.register_forward_hook(_after, with_kwargs=True)
    layer.growing = True

    def end() -> None:
        before.remove()
        after.remove()
        layer.growing = False
        layer.choose(None)

    return end


@contextlib.contextmanager
def growing(model: PreTrainedModel) -> Iterator[None]:
    """Let a CLEX model's t rise with its cache meanwhile; see `grow`."""
    end = grow(model)
    try:
        yield
    finally:
        end()


class _Before:
    """Chooses the t of a forward, and turns the cache on to it, before the model runs."""

    def __init__(self, layer: clex.ClexLayer, names: list[str]):
        self.layer, self.names = layer, names

    def __call__(self, module: torch.nn.Module, args: tuple, given: dict[str, Any]) -> None:
        if module.training:
            return
        given = dict(zip(self.names, args, strict=False)) | given
        read = given.get("input_ids")
        read = given["inputs_embeds"] if read is None else read
        cache = given.get("past_key_values")
        past = 0 if cache is None else int(cache.get_seq_length())
        total = past + read.shape[1]
        if read.shape[1] > 1 or not past:  # a single further token follows what was checked
            _check_places(given, past, total)
        t = self.layer.kind.factor(total, self.layer.window)
        if past:
            self._turn_on(cache, past, t)
        if cache is not None:
            cache.clex_t = t
        if self.layer.t_of(self.layer.tokens) != t:
            self.layer.choose(total)

    def _turn_on(self, cache: Cache, past: int, t: float) -> None:
        before = getattr(cache, "clex_t", None)
        if before is None:
            raise ValueError(
                f"this cache of {past} tokens was filled outside of clex_growing, and nobody knows "
                "at which t: read the prompt inside"
            )
        if before == t:
            return
        _check_whole(cache, past)
        cos, sin = _turn(self.layer, past, before, t)
        for each in cache.layers:
            _apply(each.keys, cos, sin)


def _after(module: torch.nn.Module, args: tuple, given: dict[str, Any], out: Any) -> None:
    """Note the t of a cache that the forward made itself."""
    cache = getattr(out, "past_key_values", None)
    if cache is not None and not module.training and not hasattr(cache, "clex_t"):
        layer = clex.layer_of(module)
        cache.clex_t = layer.kind.factor(int(cache.get_seq_length()), layer.window)


def _check_places(given: dict[str, Any], past: int, total: int) -> None:
    """Refuse tokens that do not stand at past .. total - 1 in every row."""
    mask, places = given.get("attention_mask"), given.get("position_ids")
    padded = isinstance(mask, torch.Tensor) and mask.dim() == 2 and not bool(mask.all())
    if padded:
        raise ValueError(
            "the rows of this batch are padded: with a growing t each length has its own t, so ask "
            "one prompt at a time, or prompts of one length"
        )
    if places is not None and not bool(
        (places == torch.arange(past, total, device=places.device)).all()
    ):
        raise ValueError(
            f"positions are not {past} to {total - 1}: with a growing t, keys in the cache are "
            "turned on from their places, so leave position_ids out"
        )


def _check_whole(cache: Cache, past: int) -> None:
    """Refuse a cache whose layers do not hold the keys of all tokens as they are."""
    for number, each in enumerate(cache.layers):
        keys = getattr(each, "keys", None)
        if not isinstance(keys, torch.Tensor) or keys.dim() != 4 or keys.shape[-2] != past:
            raise ValueError(
                f"layer {number} of this cache ({type(each).__name__}) does not hold the keys of "
                f"all {past} tokens, so they cannot be turned on: use transformers' DynamicCache"
            )


@torch.no_grad()
def _turn(
    layer: clex.ClexLayer, past: int, before: float, t: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cos and sin (past, d/2), float32, of the turn from one t to another.

    The difference of the angles that a forward at either t computes, in its own float32.
    """
    old, new = layer.inv_freq_at((before, t)).float()
    places = torch.arange(past, dtype=torch.float32)[:, None]
    angle = (places * new).double() - (places * old).double()
    return angle.cos().float(), angle.sin().float()


@torch.no_grad()
def _apply(keys: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> None:
    """Turn the rotated part of keys (rows, heads, tokens, size) in their place."""
    half = cos.shape[-1]
    for start in range(0, len(cos), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        c, s = (each[part].to(keys.device) for each in (cos, sin))
        first, second = keys[..., part, : 2 * half].float().split(half, dim=-1)
        turned = torch.cat((first * c - second * s, second * c + first * s), dim=-1)
        keys[..., part, : 2 * half] = turned.to(keys.dtype)
