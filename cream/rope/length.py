"""RoPE that depends on how long a sequence is: dynamic NTK, and longrope with two lists.

What belongs here: telling such models, and starting every sequence as a fresh model would. A stock
dynamic RoPE remembers the longest sequence that it has read, so that a later, shorter one turns
otherwise than alone.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from cream.rope.base import parameters_of

__all__ = ["depends_on_length", "start_afresh"]


def depends_on_length(config: PreTrainedConfig) -> bool:
    """Return whether a token's rotation depends on the length of the whole sequence.

    Sequences of such a model are read one at a time: in a batch, the longest decides for all.
    """
    rope = parameters_of(config.get_text_config(decoder=True))
    kind = rope.get("rope_type", "default")
    if kind == "longrope":
        return rope.get("short_factor") != rope.get("long_factor")
    return kind == "dynamic"


def start_afresh(model: PreTrainedModel) -> None:
    """Let a dynamic RoPE forget, wherever a sequence begins, what was read before.

    A sequence begins where a forward pass has a position 0.
    """
    for module in model.modules():
        kind = getattr(module, "rope_type", None)
        kinds = kind.values() if isinstance(kind, dict) else [kind]
        if "dynamic" in kinds and hasattr(module, "max_seq_len_cached"):
            module.register_forward_pre_hook(_forget, with_kwargs=True)


def _forget(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    positions = kwargs.get("position_ids", args[1] if len(args) > 1 else None)
    if positions is None or int(positions.min()) > 0:
        return
    for name in [name for name in vars(module) if name.endswith("max_seq_len_cached")]:
        setattr(module, name, module.original_max_seq_len)
    for name, table in list(module.named_buffers(recurse=False)):
        original = getattr(module, name.replace("inv_freq", "original_inv_freq"), None)
        if name.endswith("inv_freq") and "original" not in name and original is not None:
            module.register_buffer(name, original.to(table.device), persistent=False)
