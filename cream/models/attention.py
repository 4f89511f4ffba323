"""Causal attention by a kernel of one's choice, for whole windows: training without a padded row.

    TrainConfig(..., attention="causal-cudnn")      # cuDNN's, also where keys are shared by queries
    TrainConfig(..., attention="causal-fa2")        # FlashAttention-2, as torch has it
    TrainConfig(..., attention="causal-fa4")        # the package flash-attn-4 (Hopper, Blackwell)

torch's SDPA ("auto") chooses cuDNN's kernel on an H200 (torch 2.11). causal-fa4 is faster on long
texts, and in the backward pass of most sizes. TFLOP/s there, forward and backward:

| heads, tokens | auto | causal-fa4 |
|---|---|---|
| 9 (3 of keys) of 64, 8K | 366, 353 | 296, 397 |
| 9 (3 of keys) of 64, 256K | 440, 412 | 522, 541 |
| 32 of 128, 4K | 530, 446 | 511, 527 |
| 32 of 128, 256K | 513, 543 | 652, 623 |

A whole training step of SmolLM2-135M (the first line) is 11 % faster by causal-fa4. causal-fa2
takes 1.5 to 1.7 times as long as "auto". "auto" stays torch's choice whatever is installed, so that
a number does not depend on an optional package: a run names another kernel.

Positions never reach these kernels, so skipped ones cannot be read as the seams of packed
documents. A padded batch, or one behind a KV cache, is an error. So is a base whose attention does
more: layers that slide, capped logits, sinks, dropout.

What belongs here: the kernels and their names. Which is faster is measured
(`python -m cream.performance attention`).
"""

from __future__ import annotations

import functools
import importlib.util

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AttentionInterface, PreTrainedConfig
from transformers.masking_utils import AttentionMaskInterface, flash_attention_mask

__all__ = ["KERNELS", "check_kernel", "check_plain"]

KERNELS = ("causal-cudnn", "causal-fa2", "causal-fa4")
FLASH4 = ("flash_attn.cute", "cutlass.cute")  # modules of flash-attn-4 and of what it compiles by


def check_kernel(attention: str | None) -> None:
    """Raise ModuleNotFoundError if a package behind an attention's name is not installed."""
    if attention == "causal-fa4" and (missing := next(filter(_missing, FLASH4), None)):
        raise ModuleNotFoundError(
            f"attention is 'causal-fa4', which the package flash-attn-4 computes, and {missing} is "
            "not installed: pip install --pre 'flash-attn-4[cu13]'; or choose attention 'auto'"
        )


def _missing(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is None
    except ModuleNotFoundError:  # of the package that it lies in
        return True


def check_plain(attention: str | None, config: PreTrainedConfig) -> None:
    """Raise ValueError if a base's attention does more than one of KERNELS computes.

    Known from its config, before weights are read; what a layer hands over is checked again.
    """
    if attention in KERNELS and (more := _beyond_causal(config)):
        raise ValueError(
            f"attention is {attention!r}, plain causal attention over the whole window, and this "
            f"{config.model_type} base has {more}: choose 'auto'"
        )


def _beyond_causal(config: PreTrainedConfig) -> str | None:
    """Name what of a base's attention no kernel here computes; None if nothing is known of."""
    if cap := getattr(config, "attn_logit_softcapping", None):
        return f"attention logits capped at {cap} (attn_logit_softcapping)"
    kinds = set(getattr(config, "layer_types", None) or [])
    if some := sorted(kinds & {"sliding_attention", "chunked_attention"}):
        return f"layers of {some[0]}"
    sliding = getattr(config, "sliding_window", None)
    reach = getattr(config, "max_position_embeddings", None) or float("inf")
    if kinds or not sliding or getattr(config, "use_sliding_window", True) is False:
        return None
    return f"a sliding window of {sliding} tokens" if sliding < reach else None


def _check_whole(
    query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None, more: dict[str, object]
) -> None:
    """Refuse what a layer hands over and these kernels would leave out."""
    if mask is not None or query.shape[2] != key.shape[2]:
        what = "a padded batch" if mask is not None else "a KV cache"
        raise ValueError(f"causal attention without a mask was given {what}; load with 'auto'")
    sliding = more.get("sliding_window")
    found = {
        f"a sliding window of {sliding} tokens": sliding is not None and sliding < key.shape[2],
        f"logits capped at {more.get('softcap')}": more.get("softcap") is not None,
        "attention sinks": more.get("s_aux") is not None,
        f"dropout of {more.get('dropout')}": bool(more.get("dropout")),
    }
    if given := [what for what, there in found.items() if there]:
        raise ValueError(f"plain causal attention was given {given[0]}; load with 'auto'")


def _by_torch(
    backend: SDPBackend,
    grouped: bool,
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **more: object,
) -> tuple[torch.Tensor, None]:
    """Attend by one backend of SDPA; keys are repeated for it where it takes no groups."""
    _check_whole(query, key, attention_mask, more)
    groups = query.shape[1] // key.shape[1]
    if groups > 1 and not grouped:
        key, value = (each.repeat_interleave(groups, dim=1) for each in (key, value))
    with sdpa_kernel(backend):
        out = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scaling, enable_gqa=groups > 1 and grouped
        )
    return out.transpose(1, 2).contiguous(), None


def _by_flash4(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **more: object,
) -> tuple[torch.Tensor, None]:
    """Attend by flash-attn-4; under autocast queries and keys are narrowed like the values."""
    _check_whole(query, key, attention_mask, more)
    given = [each.to(value.dtype).transpose(1, 2) for each in (query, key, value)]
    return _flash4(*given, scaling or query.shape[-1] ** -0.5)[0], None


@torch.library.custom_op("cream::flash4", mutates_args=())
def _flash4(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return attention (batch, tokens, heads, size) and its log-sum-exp (batch, heads, tokens)."""
    from flash_attn.cute import flash_attn_func  # an optional package, slow to import

    given = [each.detach() for each in (query, key, value)]
    return flash_attn_func(*given, softmax_scale=scale, causal=True, return_lse=True)


@_flash4.register_fake
def _(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    batch, tokens, heads, _ = query.shape
    lse = query.new_empty((batch, heads, tokens), dtype=torch.float32)
    return query.new_empty((*query.shape[:3], value.shape[-1])), lse


@torch.library.custom_op("cream::flash4_backward", mutates_args=())
def _flash4_backward(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    out: torch.Tensor,
    outer: torch.Tensor,
    lse: torch.Tensor,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the gradients of queries, keys and values."""
    from flash_attn.cute.interface import _flash_attn_bwd  # as its own autograd function calls it

    return tuple(_flash_attn_bwd(query, key, value, out, outer, lse, scale, True))


@_flash4_backward.register_fake
def _(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: object
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return tuple(each.new_empty(each.shape) for each in (query, key, value))


def _keep(ctx: object, inputs: tuple, output: tuple) -> None:
    query, key, value, ctx.scale = inputs
    ctx.save_for_backward(query, key, value, *output)


def _backward(ctx: object, outer: torch.Tensor, _: object) -> tuple:
    query, key, value, out, lse = ctx.saved_tensors
    given = (query, key, value, out, outer.contiguous(), lse, ctx.scale)
    return (*_flash4_backward(*given), None)


_flash4.register_autograd(_backward, setup_context=_keep)

for _name, _function in (
    ("causal-cudnn", functools.partial(_by_torch, SDPBackend.CUDNN_ATTENTION, False)),
    ("causal-fa2", functools.partial(_by_torch, SDPBackend.FLASH_ATTENTION, True)),
    ("causal-fa4", _by_flash4),
):
    AttentionInterface.register(_name, _function)
    AttentionMaskInterface.register(_name, flash_attention_mask)
