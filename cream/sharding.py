"""What ZeRO does to a model: its loss where its head is whole, its weights gathered.

At stage 3 no process has a module's weights but while the module is called, in its forward and its
backward pass. So the loss is computed in a call of the head, and a decoder layer comes as one.

What belongs here: what touches a model or a checkpoint under DeepSpeed. What is chosen and why is
in `parallel`.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from cream.losses import summed_loss

__all__ = [
    "check_resumable",
    "gathered_weights",
    "gather_layers_whole",
    "lose_in_forward",
    "quieten",
    "shell",
]


def quieten() -> None:
    """Tell DeepSpeed where it computes, and let it compile nothing on a CPU.

    Its operation for processes that share a memory would be compiled first, for 80 s; gloo does.
    """
    if torch.cuda.is_available():
        return
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def lose_in_forward(model: PreTrainedModel, compiled: bool = False) -> None:
    """Let the model's own forward, where it is given labels, return the chunked loss alone.

    Equal to `losses.chunked_loss`. The head is called, as DeepSpeed expects of a module, but makes
    the summed loss instead of logits.
    """
    own, head = model.forward, model.get_output_embeddings()

    @functools.wraps(own)
    def forward(*args: object, **inputs: object) -> object:
        labels = inputs.pop("labels", None)
        if labels is None:
            return own(*args, **inputs)
        inputs["use_cache"] = False
        hidden = model.base_model(*args, **inputs).last_hidden_state
        following = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100).reshape(-1)
        with _summing(head, following, compiled):
            total = head(hidden.flatten(0, 1))
        return CausalLMOutput(loss=total / (following != -100).sum().clamp(min=1))

    model.forward = forward


@contextlib.contextmanager
def _summing(head: torch.nn.Module, labels: torch.Tensor, compiled: bool) -> Iterator[None]:
    """Let a head, called meanwhile, return the summed loss of the hidden states it is given."""

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        return summed_loss(hidden, head.weight, labels, compiled=compiled)

    head.forward = forward
    try:
        yield
    finally:
        del head.forward


def gather_layers_whole(layers: torch.nn.ModuleList) -> None:
    """Let stage 3 gather a decoder layer as one: inside, a compiled layer has no hooks."""
    from deepspeed.utils import set_z3_leaf_modules

    set_z3_leaf_modules(torch.nn.ModuleList(layers), [type(layers[0])])


@torch.no_grad()
def gathered_weights(model: PreTrainedModel, dtype: torch.dtype, keep: bool) -> dict:
    """Return a sharded model's float32 weights, cast to `dtype`, on the CPU, by name.

    Every process must call this; those that do not `keep` get an empty dictionary.
    """
    from deepspeed.utils import safe_get_full_fp32_param

    found = {}
    for name, parameter in model.named_parameters():
        whole = safe_get_full_fp32_param(parameter)
        if keep:
            found[name] = whole.to(dtype).reshape(whole.shape).cpu()
    if keep:
        kept = set(model.state_dict())
        found |= {name: one.cpu() for name, one in model.named_buffers() if name in kept}
    return found


def shell(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """Return a model of the same configuration without weights, to be saved with given ones."""
    with torch.device("meta"):
        made = type(model)(copy.deepcopy(model.config)).to(dtype)
    made.config.dtype = dtype
    made.generation_config = model.generation_config
    return made


def check_resumable(checkpoint: Path, zero: int, processes: int) -> None:
    """Raise ValueError if a checkpoint was written at another stage or by other processes."""
    folders = list(checkpoint.glob("global_step*"))
    if not folders:
        if zero:
            raise ValueError(
                f"{checkpoint} was written without DeepSpeed, and this run takes ZeRO-{zero}; set "
                f"zero=0, or remove {checkpoint.parent}"
            )
        return
    wrote = len(list(folders[0].glob("*_optim_states.pt")))
    third = any(folders[0].glob("*zero_pp_rank_*_model_states.pt"))
    if zero and wrote == processes and third == (zero == 3):
        return
    stage = "3" if third else "1 or 2"
    raise ValueError(
        f"{checkpoint} was written by {wrote} processes at ZeRO-{stage}, and this is "
        f"{processes} at {f'ZeRO-{zero}' if zero else 'no stage'}; start as many processes and set "
        f"zero as it was, or remove {checkpoint.parent}"
    )
