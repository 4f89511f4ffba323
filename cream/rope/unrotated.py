"""Bases whose far-seeing layers turn nothing: only their sliding layers have RoPE.

What belongs here: finding that out from a config, without weights. No model family is named.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig

from cream.rope.base import FULL, rotary_dim

__all__ = ["check_far_layers"]


def check_far_layers(config: PreTrainedConfig) -> None:
    """Refuse (ValueError) a base of which no layer of full attention rotates.

    Such layers tell no positions apart. A stretched RoPE would change what its sliding layers do
    within their window, which every text fills already, and nothing beyond it.
    """
    kinds = getattr(config, "layer_types", None) or []
    others = sorted(set(kinds) - {FULL})
    if FULL not in kinds or not others:
        return
    found = [_rotates(one, config) for one in _far_layers(config, kinds)]
    if found and not any(found):
        raise ValueError(
            f"no layer of {FULL} of this {config.model_type} base has RoPE, those of "
            f"{' and '.join(others)} alone do: what sees far reads no positions, and stretching "
            "RoPE would only change what is near; choose a base whose full layers rotate"
        )


def _far_layers(config: PreTrainedConfig, kinds: list[str]) -> Iterator[torch.nn.Module]:
    """The attention modules of the layers that see everything, without weights."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(copy.deepcopy(config), attn_implementation="eager")
    for module in model.modules():
        attention = getattr(module, "self_attn", None)
        place = getattr(attention, "layer_idx", None)
        if place is not None and kinds[place] == FULL:
            yield attention


def _rotates(attention: torch.nn.Module, config: PreTrainedConfig) -> bool:
    """Whether an attention module's output hangs on the cos and sin that it is given.

    True as well where it takes them in another shape, which one that leaves them alone does not
    mind.
    """
    with torch.device("meta"):
        hidden = torch.empty(1, 2, config.hidden_size)
        given = [torch.empty(1, 2, rotary_dim(config), requires_grad=True) for _ in range(2)]
    try:
        out = attention(hidden_states=hidden, position_embeddings=given, attention_mask=None)[0]
        found = torch.autograd.grad(out.sum(), given, allow_unused=True)
    except (RuntimeError, TypeError, ValueError):
        return True
    return any(each is not None for each in found)
