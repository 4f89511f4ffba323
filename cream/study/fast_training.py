"""Many short fine-tunings in one process: the loop of `training`, without a Trainer for each.

What a run learns is decided by the same rooms (`data.dataset`, `training.loss`, `trainer`'s
schedule) and the same AdamW and clipping; only starting up is left out. A test trains both ways
and compares. On CUDA the layers and the loss are compiled and the step is captured once as a
graph, for each shape, and replayed: a model of 6 M parameters otherwise waits for Python. Weights
and rotation are read where they lie, so that one graph serves every run: overwrite them in place.
What belongs here: the step, and the material of a run.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from cream.data.dataset import ExampleDataset, collate
from cream.positions import Sampler
from cream.training.loss import mean_loss
from cream.training.trainer import decoder_layers, learning_rate_factor

__all__ = ["Batches", "CapturedStep", "copy_rope", "load_batches"]

log = logging.getLogger(__name__)

BETAS, EPSILON, MAX_NORM, WARMUP = (0.9, 0.999), 1e-8, 1.0, 10  # those of `TrainConfig`
# SDPA without a mask is causal. Known by a name that has no mask of its own, transformers makes
# none, and asks no tensor whether it could do without: a graph cannot be asked.
CAUSAL = "causal_sdpa"
AttentionInterface.register(CAUSAL, sdpa_attention_forward)


class Batches(NamedTuple):
    """The batches of a whole run, int32 (steps, batch, window) each."""

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    labels: torch.Tensor

    def first(self, steps: int) -> Batches:
        """The first steps: item k of a run does not depend on how many follow."""
        return Batches(*(each[:steps] for each in self))


def load_batches(
    corpus: str | Path,
    draw: Sampler,
    seed: int,
    steps: int,
    batch: int,
) -> Batches:
    """Draw every example of a run as `training.train` draws them."""
    dataset = ExampleDataset(corpus, draw, seed, steps * batch)
    parts: dict[str, list[torch.Tensor]] = {name: [] for name in Batches._fields}
    for step in range(steps):
        made = collate([dataset[k] for k in range(step * batch, (step + 1) * batch)])
        for name, listed in parts.items():
            listed.append(made[name].to(torch.int32))
    return Batches(*(torch.stack(parts[name]) for name in Batches._fields))


@torch.no_grad()
def copy_rope(model: PreTrainedModel, other: PreTrainedModel) -> None:
    """Give a model the rotation of another, written where graphs and compiled code read it.

    Call it once before a `CapturedStep` is made: a factor that is a number would be a constant
    to it.
    """
    found = [
        [each for each in one.modules() if hasattr(each, "inv_freq")] for one in (model, other)
    ]
    for mine, theirs in zip(*found, strict=True):
        mine.inv_freq.copy_(theirs.inv_freq)
        factor = getattr(theirs, "attention_scaling", 1.0)
        if not isinstance(mine.attention_scaling, torch.Tensor):
            mine.attention_scaling = torch.ones((), device=mine.inv_freq.device)
        mine.attention_scaling.fill_(factor)


def _compile(model: PreTrainedModel) -> None:
    """Compile each layer and the loss, once: one code serves all layers, so it takes seconds.

    For the shapes that come: made for any, the code of the second would be slower.
    """
    layers = decoder_layers(model)
    if layers[0]._compiled_call_impl is None:
        for layer in layers:
            layer.compile(dynamic=False)
        model.loss_function = torch.compile(model.loss_function, dynamic=False)


class CapturedStep:
    """One optimizer step on one model and one shape; on CUDA a graph, unless `graphs` is False.

    The model's weights are trained in place: copy a base's into it before each run. A model that
    was compiled or captured is one for training: its attention knows no mask.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        shape: Sequence[int],
        graphs: bool = True,
        pool: object = None,
        compiled: bool = False,
    ):
        self.model, self.device, self.compiled = model, model.device, compiled
        cuda = self.device.type == "cuda"
        whole = torch.zeros(tuple(shape), dtype=torch.int64, device=self.device)
        places = torch.arange(shape[-1], device=self.device).expand(tuple(shape)).contiguous()
        self.inputs = {"input_ids": whole, "position_ids": places, "labels": whole.clone(),
                       "attention_mask": torch.ones_like(whole)}  # fmt: skip
        self.rate = torch.zeros((), device=self.device)
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=self.rate, betas=BETAS, eps=EPSILON, weight_decay=0.0,
            fused=True, capturable=cuda,
        )  # fmt: skip
        self.graph: torch.cuda.CUDAGraph | None = None
        self.loss = torch.zeros((), device=self.device)
        graphs = graphs and cuda
        if compiled or graphs:
            self.model.set_attn_implementation(CAUSAL)
        if compiled:
            _compile(model)
        if graphs:
            self._capture(pool)

    @property
    def kind(self) -> str:
        """How steps are computed: "compiled graph", "graph", "compiled" or "eager"."""
        words = ["compiled"] * self.compiled + ["graph"] * (self.graph is not None)
        return " ".join(words) or "eager"

    def _compute(self) -> torch.Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        # Weights are cast anew in every step anyway; a cache of casts would outlive the graph.
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.device.type == "cuda",
            cache_enabled=False,
        ):  # fmt: skip
            loss = mean_loss(self.model, self.inputs)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), MAX_NORM)
        self.optimizer.step()
        return loss.detach()

    def _capture(self, pool: object) -> None:
        """Warm up beside the main stream, then record one step; the weights are spoilt."""
        self.model.train()
        side = torch.cuda.Stream(self.device)
        side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(side):
            for _ in range(3):
                self._compute()
        torch.cuda.current_stream(self.device).wait_stream(side)
        self.optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize(self.device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, stream=side):
            self.loss = self._compute()
        self.graph = graph

    def _reset(self) -> None:
        """Forget the moments and the count of steps, where they lie."""
        for state in self.optimizer.state.values():
            for held in state.values():
                held.zero_()

    def train(self, data: Batches, learning_rate: float) -> np.ndarray:
        """Train for all steps of `data`; return their losses, float32 (steps,).

        Warm-up of 10 steps and linear decay, as `learning_rate_factor` says.
        """
        self._reset()
        steps = len(data.input_ids)
        data = Batches(*(each.to(self.device, non_blocking=True) for each in data))
        losses = torch.zeros(steps, device=self.device)
        self.model.train()
        for step in range(steps):
            for name in Batches._fields:
                self.inputs[name].copy_(getattr(data, name)[step])
            self.rate.fill_(learning_rate * learning_rate_factor(step, steps, WARMUP))
            if self.graph is None:
                self.loss = self._compute()
            else:
                self.graph.replay()
            losses[step] = self.loss
        self.model.eval()
        return losses.cpu().numpy()
