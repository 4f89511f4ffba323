"""What a trainer must hand on to the model for skipped positions to be trained, checked as it runs.

    model = check_inputs(models.load(base, "yarn", 8))     # then any trainer: its first step tells

A trainer that drops `position_ids` trains on plain positions, and one that drops `attention_mask`
lets transformers read every jump of the positions as the seam between packed documents, so that
head, middle and tail no longer see each other. The loss looks healthy both times.
"""

from __future__ import annotations

import functools
import inspect
from typing import TypeVar

import torch

__all__ = ["check_inputs"]

Model = TypeVar("Model", bound=torch.nn.Module)
SEAMS = ("cu_seq_lens_q", "cu_seq_lens_k", "cu_seqlens", "seq_idx")  # of packed documents
CURES = {
    "position_ids": "every token would be trained at its plain position",
    "attention_mask": "every jump of the positions would be read as the seam of packed documents",
}


def check_inputs(model: Model) -> Model:
    """Let a model refuse training batches that lost what `collate` put into them; return it.

    The backbone of a causal language model of transformers, also inside peft's wrapper, is watched
    while it trains (not in eval mode). Its forward pass then raises ValueError without
    position_ids or attention_mask, or with the seams of packed documents. A model of `models.load`
    gives itself the mask, and lacks the positions alone.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    backbone = inner.base_model
    names = list(inspect.signature(backbone.forward).parameters)
    backbone.register_forward_pre_hook(functools.partial(_refuse, names), with_kwargs=True)
    return model


def _refuse(names: list[str], module: torch.nn.Module, args: tuple, kwargs: dict) -> None:
    """Raise for what is missing in a training forward pass."""
    if not module.training:
        return
    given = dict(zip(names, args, strict=False)) | kwargs
    for name, outcome in CURES.items():
        if given.get(name) is None:
            raise ValueError(
                f"the model was given no {name}, so {outcome}: let the trainer take cream.data's "
                "collate as its data collator (Trainer: remove_unused_columns=False) and call the "
                "model with all that it returns"
            )
    if packed := [name for name in SEAMS if given.get(name) is not None]:
        raise ValueError(
            f"the model was given {packed[0]}, which cuts attention between packed documents: "
            "switch packing (TRL: packing and padding_free) off, an example is one document"
        )
