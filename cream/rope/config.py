"""Extension of a config: what window and scaling it has, and how a base's config is stretched.

`models` uses this before it builds a model (a scaling set afterwards does nothing) and checks the
built model against it. What is in a config is read generically; no model family is named here.
What we did is kept in `config.cream`, a plain dict that stock transformers carries along.
"""

from __future__ import annotations

import copy
import logging
from typing import Any

import numpy as np
from transformers import PreTrainedConfig, PreTrainedModel

from cream.rope import scalings

__all__ = ["check_rotation", "describe", "extend", "rotary_dim", "settle_rotation"]

logger = logging.getLogger(__name__)


def describe(config: PreTrainedConfig) -> dict[str, Any]:
    """Return window N, scaling, scale s, original theta and target_length sN of a config.

    A config scaled by others is named by its own `rope_type`, at scale 1 of the length it gives.
    """
    if stored := getattr(config, "cream", None):
        return dict(stored)
    parameters = getattr(config, "rope_parameters", None) or {}
    kind = parameters.get("rope_type") or "default"
    window = getattr(config, "max_position_embeddings", None)
    return {
        "window": window,
        "scaling": "none" if kind == "default" else kind,
        "scale": 1,
        "theta": parameters.get("rope_theta"),
        "target_length": window,
    }


def rotary_dim(config: PreTrainedConfig) -> int:
    """Return how many dimensions of a head RoPE rotates."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(head * (config.rope_parameters.get("partial_rotary_factor") or 1.0))


def _plain_rope(config: PreTrainedConfig) -> dict[str, Any]:
    """Return the `rope_parameters` of a config that can be extended, or say why it cannot."""
    family = config.model_type
    parameters = getattr(config, "rope_parameters", None)
    if not parameters:
        raise ValueError(
            f"a {family} config has no rope_parameters: only a decoder whose RoPE is set in its "
            "config can be extended, choose such a base"
        )
    if getattr(config, "alibi", False):
        raise ValueError(f"this {family} base was trained with ALiBi: it has no RoPE to extend")
    if not getattr(config, "max_position_embeddings", None):
        raise ValueError(f"this {family} config names no max_position_embeddings: N is unknown")
    parameters = {key: value for key, value in parameters.items() if value is not None}
    if any(isinstance(value, dict) for value in parameters.values()):
        raise ValueError(
            f"this {family} config gives each layer type its own RoPE ({', '.join(parameters)}): "
            "one scaling cannot serve them all, so choose a base with a single RoPE"
        )
    kind = parameters.get("rope_type", "default")
    if getattr(config, "cream", None) or kind != "default":
        name = describe(config)["scaling"]
        raise ValueError(
            f"this base already scales its RoPE ({name}): scalings do not compose, so start from "
            "an unscaled base, or leave scaling out to load it as it is"
        )
    if odd := parameters.keys() - {"rope_type", "type", "rope_theta", "partial_rotary_factor"}:
        raise ValueError(f"the rope_parameters of this {family} config also hold {sorted(odd)}")
    return parameters


def _lift_sliding_window(config: PreTrainedConfig, window: int) -> None:
    """Let layers see past N where their sliding window never acted within it, else refuse."""
    sliding = getattr(config, "sliding_window", None)
    if not sliding or getattr(config, "use_sliding_window", True) is False:
        return
    kinds = set(getattr(config, "layer_types", None) or ["sliding_attention"])
    if "full_attention" in kinds:
        if "sliding_attention" in kinds:
            logger.info("layers that slide keep their window of %d; the others reach all", sliding)
        return
    if sliding < window:
        raise ValueError(
            f"every layer slides over {sliding} tokens, less than the window of {window}: no layer "
            "would see further when extended, so choose a base with full attention"
        )
    logger.warning("sliding window of %d lifted: it never acted within N = %d", sliding, window)
    config.sliding_window = None
    if getattr(config, "layer_types", None):
        config.layer_types = ["full_attention"] * len(config.layer_types)


def extend(config: PreTrainedConfig, kind: scalings.RopeScaling) -> PreTrainedConfig:
    """Return a copy of a base's config, scaled by `kind`, for s * max_position_embeddings tokens.

    Raises ValueError for no RoPE, several RoPEs, a RoPE already scaled, or only short layers.
    """
    config = copy.deepcopy(config)
    parameters = _plain_rope(config)
    if isinstance(kind, scalings.NoScaling) and kind.scale == 1:
        return config
    window, theta = config.max_position_embeddings, parameters["rope_theta"]
    _lift_sliding_window(config, window)
    scaled = kind.hf_parameters(theta, rotary_dim(config), window)
    kept = {k: v for k, v in parameters.items() if k == "partial_rotary_factor"}
    config.rope_parameters = {**kept, **scaled}
    config.max_position_embeddings = kind.scale * window
    if hasattr(config, "original_max_position_embeddings"):
        config.original_max_position_embeddings = window
    if getattr(config, "head_dim", 0) is None:  # stock yarn and longrope trip over an explicit None
        config.head_dim = config.hidden_size // config.num_attention_heads
    config.cream = {
        "window": window,
        "scaling": kind.name,
        "scale": kind.scale,
        "theta": theta,
        "target_length": kind.scale * window,
    }
    _check_accepted(config, kind)
    return config


def _check_accepted(config: PreTrainedConfig, kind: scalings.RopeScaling) -> None:
    """Refuse a scaling that the family's own config class does not read back."""
    try:
        type(config).from_dict(config.to_dict())
    except Exception as error:  # config classes raise kinds of their own
        carrier = config.rope_parameters["rope_type"]
        raise ValueError(
            f"{config.model_type} configs take no {kind.name} scaling (rope_type {carrier}: "
            f"{error}): choose another scaling or another base"
        ) from error


def check_rotation(model: PreTrainedModel) -> None:
    """Refuse a model whose rotary modules do not turn as its `config.cream` says."""
    about = describe(model.config)
    kind = scalings.scaling(about["scaling"], about["scale"])
    wanted = kind.inv_freq(about["theta"], rotary_dim(model.config), about["window"])
    factor = kind.attention_factor(about["window"])
    found = [module for module in model.modules() if hasattr(module, "inv_freq")]
    for module in found:
        got = module.inv_freq.detach().float().cpu().numpy()
        same = got.shape == wanted.shape and np.allclose(got, wanted, rtol=1e-5, atol=0)
        if not same or not np.isclose(getattr(module, "attention_scaling", 1.0), factor):
            found = []
            break
    if not found:
        raise ValueError(
            f"the {model.config.model_type} model does not turn by the {kind.name} frequencies its "
            "config asks for: this family does not follow rope_parameters, choose another base"
        )


def settle_rotation(model: PreTrainedModel) -> None:
    """Stop longrope from choosing between its short and long factors where the two are equal.

    The choice, made anew in every forward pass, waits for the device and breaks compiled graphs.
    """
    parameters = model.config.rope_parameters or {}
    same = parameters.get("short_factor") == parameters.get("long_factor")
    for module in model.modules():
        if same and getattr(module, "rope_type", None) == "longrope":
            module.rope_type = "default"
