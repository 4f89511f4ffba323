"""The loss without its logits: the head and the cross-entropy, a few rows at a time.

What belongs here: `mean_loss`, which a trainer calls for a model's own loss, and `chunked_loss`,
which is equal to it and never holds the logits of a micro-batch (1 GiB in float32 for two windows
of Llama-2-7B, several times over with their gradient).
"""

from __future__ import annotations

import functools
import math

import torch
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel

from cream.models.backbone import backbone

__all__ = ["CHUNK", "check_head", "chunked_loss", "mean_loss", "summed_loss"]

CHUNK = 2**26  # logits that are held at once


def mean_loss(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the model's own loss; compiled as a whole, its logits need never be stored."""
    return model(**inputs, use_cache=False).loss


def chunked_loss(
    model: PreTrainedModel,
    inputs: dict[str, torch.Tensor],
    chunk: int = CHUNK,
    compiled: bool = False,
) -> torch.Tensor:
    """Return the mean cross-entropy over labels that are not -100, in float32; 0 for none.

    About `chunk` logits are made at a time, and their gradient with them: nothing is computed
    twice. For models whose logits are a head without bias on the last hidden state (`check_head`).
    """
    inputs = dict(inputs)
    labels = inputs.pop("labels")
    hidden = backbone(model)(**inputs, use_cache=False).last_hidden_state
    following = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100).reshape(-1)
    weight = model.get_output_embeddings().weight
    total = summed_loss(hidden.flatten(0, 1), weight, following, chunk, compiled)
    return total / (following != -100).sum().clamp(min=1)


def summed_loss(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    chunk: int = CHUNK,
    compiled: bool = False,
) -> torch.Tensor:
    """Return the cross-entropy of a head `weight`, summed over rows (tokens, hidden), in float32.

    `labels` (tokens,) are what each row itself predicts; -100 is left out.
    """
    parts = math.ceil(labels.numel() * len(weight) / chunk)
    rows = math.ceil(labels.numel() / parts)  # even parts: one shape to compile for
    return _SummedLoss.apply(hidden, weight, labels, rows, compiled)


class _SummedLoss(torch.autograd.Function):
    """Cross-entropy summed over rows; the gradient is made where the logits are."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        labels: torch.Tensor,
        rows: int,
        compiled: bool,
    ) -> torch.Tensor:
        """Return the loss summed over hidden (n, d), `rows` at a time; weight is (vocab, d)."""
        gradient_of = _compiled() if compiled else _loss_and_gradient
        total = torch.zeros((), device=hidden.device)
        wanted, trained = ctx.needs_input_grad[:2]  # a head may be frozen
        to_hidden = torch.empty_like(hidden) if wanted else None
        to_weight = torch.zeros_like(weight, dtype=torch.float32) if trained else None
        for start in range(0, len(hidden), rows):
            part = slice(start, start + rows)
            loss, gradient = gradient_of(hidden[part] @ weight.T, labels[part])
            total += loss
            if wanted:
                to_hidden[part] = gradient @ weight
            if trained:
                to_weight += gradient.T @ hidden[part]
        ctx.save_for_backward(to_hidden, to_weight)
        ctx.dtype = hidden.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(
        ctx: torch.autograd.function.FunctionCtx, outer: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients by hidden (n, d) and weight (vocab, d), None where frozen."""
        to_hidden, to_weight = ctx.saved_tensors
        hidden = None if to_hidden is None else to_hidden * outer
        weight = None if to_weight is None else (to_weight * outer).to(ctx.dtype)
        return hidden, weight, None, None, None


def _loss_and_gradient(
    logits: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the summed loss of some rows, computed in float32, and its gradient by the logits."""
    precise, in_loss = logits.float(), (labels != -100).float()
    target = labels.clamp(min=0).unsqueeze(-1)
    normaliser = precise.logsumexp(-1, keepdim=True)
    loss = ((normaliser - precise.gather(-1, target)).squeeze(-1) * in_loss).sum()
    hit = torch.arange(logits.shape[-1], device=logits.device) == target
    gradient = ((precise - normaliser).exp() - hit.float()) * in_loss.unsqueeze(-1)
    return loss, gradient.to(logits.dtype)


@functools.cache
def _compiled() -> object:
    return torch.compile(_loss_and_gradient, dynamic=False)


@torch.no_grad()
def check_head(model: PreTrainedModel) -> None:
    """Raise ValueError if the model does more between its last hidden state and its loss."""
    head = model.get_output_embeddings()
    tokens = torch.arange(8, device=model.device).unsqueeze(0) % head.weight.shape[0]
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": tokens}
    own, ours = mean_loss(model, inputs), chunked_loss(model, inputs)
    if getattr(head, "bias", None) is not None or not torch.allclose(own, ours, rtol=1e-3):
        raise ValueError(
            f"the loss of a {model.config.model_type} is not its head applied to its last hidden "
            f"state ({ours.item():.4f} instead of {own.item():.4f}), as precision 'master' needs "
            "it; choose precision 'bfloat16'"
        )
