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
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import PreTrainedModel
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from transformers.modeling_outputs import CausalLMOutput

from cream.rope import clex
from cream.training.loss import summed_loss
from cream.utils.launcher import name_accelerator

__all__ = [
    "alone",
    "check_resumable",
    "gathered_weights",
    "gather_layers_whole",
    "lose_in_forward",
    "note_sharding",
    "quieten",
    "shell",
]

NOTE = "sharding.json"


def quieten() -> None:
    """Set DeepSpeed's rank and address, and let it compile nothing on a CPU.

    A single process that no launcher started would look for MPI. The operation for processes that
    share a CPU's memory would be compiled first, for 80 s; gloo does.
    """
    if "RANK" not in os.environ:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = str(free.getsockname()[1])
        alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
        os.environ |= {**alone, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    if torch.cuda.is_available():
        return
    name_accelerator()
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Let transformers forget a run's stage with the run: it would divide the next model, too."""
    try:
        yield
    finally:
        unset_hf_deepspeed_config()


def lose_in_forward(model: PreTrainedModel, compiled: bool = False) -> None:
    """Let the model's own forward, where it is given labels, return the chunked loss alone.

    Equal to `loss.chunked_loss`. The head is called, as DeepSpeed expects of a module, but makes
    the summed loss instead of logits.
    """
    own, head = model.forward, model.get_output_embeddings()

    @functools.wraps(own)
    def forward(*args: object, **inputs: object) -> object:
        """Return the mean loss over labels (batch, n) alone; without labels, the own output."""
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
        """Return the summed loss, a scalar, of hidden states of shape (batch x n, d)."""
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
            found[name] = whole.to(dtype).cpu()
    if keep:
        kept = set(model.state_dict())
        found |= {name: one.cpu() for name, one in model.named_buffers() if name in kept}
    return found


def shell(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """Return a model of the same configuration without weights, to be saved with given ones."""
    with torch.device("meta"), clex.registered():
        made = type(model)(copy.deepcopy(model.config)).to(dtype)
        if clex.layer_of(model):
            clex.attach(made, check=False)
    made.config.dtype = dtype
    made.generation_config = model.generation_config
    return made


def note_sharding(checkpoint: Path, zero: int, processes: int) -> None:
    """Write into a checkpoint of DeepSpeed by how many processes it was written, at what stage."""
    (checkpoint / NOTE).write_text(json.dumps({"zero": zero, "processes": processes}))


def check_resumable(checkpoint: Path, zero: int, processes: int) -> None:
    """Raise ValueError if a checkpoint was written at another stage or by other processes.

    Without DeepSpeed (`zero` 0) as many processes as there are can resume.
    """
    note = checkpoint / NOTE
    was = json.loads(note.read_text()) if note.exists() else {"zero": 0}
    if was == {"zero": zero, "processes": processes} or was["zero"] == zero == 0:
        return
    before = was.get("processes")  # not known of a checkpoint without DeepSpeed
    setting = f'write "zero": {was["zero"]} into {checkpoint.parents[1] / "config.json"}'
    if not before:  # with masters one process wrote it, which then takes zero 0 by itself
        setting = f"start one process of precision 'master', else {setting}"
    raise ValueError(
        f"{checkpoint} was written {f'by {before} processes ' if before else ''}at zero "
        f"{was['zero']}, and this run has {processes} at zero {zero}: "
        f"{setting if before in (None, processes) else f'start {before} processes'}, or remove "
        f"{checkpoint.parent}"
    )
