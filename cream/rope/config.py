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
import torch
from transformers import PreTrainedConfig, PreTrainedModel

from cream.rope import base as rope_base
from cream.rope import scalings
from cream.rope.base import rotary_dim
from cream.rope.unrotated import check_far_layers

__all__ = [
    "check_rotation",
    "describe",
    "extend",
    "fix_longrope",
    "recorded_base",
]

logger = logging.getLogger(__name__)


def describe(config: PreTrainedConfig) -> dict[str, Any]:
    """Return window N, scaling, scale s, original theta and target_length sN of a config.

    A config scaled by others is named by its own `rope_type`, at scale 1 of the length it gives;
    one that we extended from such a base also holds the base's `rope_parameters` (base_rope), and
    one with sharper attention the factor on its logits (sharper).
    """
    if stored := getattr(config, "cream", None):
        return dict(stored)
    parameters = rope_base.parameters_of(config)
    kind = parameters.get("rope_type") or "default"
    window = rope_base.own_window(config)
    return {
        "window": window,
        "scaling": "none" if kind == "default" else kind,
        "scale": 1,
        "theta": parameters.get("rope_theta"),
        "target_length": window,
    }


def _lift_sliding_window(config: PreTrainedConfig, window: int, scale: int) -> None:
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
    try:
        config.sliding_window = None
    except Exception:  # config classes that take whole numbers alone: one that never acts
        config.sliding_window = scale * window
    if getattr(config, "layer_types", None):
        config.layer_types = ["full_attention"] * len(config.layer_types)


def extend(config: PreTrainedConfig, kind: scalings.RopeScaling) -> PreTrainedConfig:
    """Return a copy of a base's config, stretched by `kind` from N to s N tokens.

    A base that scales its RoPE already is stretched from what it turns by at its own window N; of
    one with a RoPE a layer type, the full-attention layers are, and the sliding ones kept.
    Raises ValueError for no RoPE, one that is not to be extended, or none in layers that see far.
    """
    config = copy.deepcopy(config)
    base = rope_base.read(config)
    if isinstance(kind, scalings.NoScaling) and kind.scale == 1:
        return config
    if isinstance(kind, scalings.Clex) and base.layered:
        raise ValueError(
            f"this {config.model_type} base has a RoPE for each layer type, and CLEX gives all "
            "layers one: choose another scaling or another base"
        )
    check_far_layers(config)
    _lift_sliding_window(config, base.window, kind.scale)
    if getattr(config, "head_dim", 0) is None:  # stock yarn and longrope trip over an explicit None
        config.head_dim = config.hidden_size // config.num_attention_heads
    config.max_position_embeddings = kind.scale * base.window
    if hasattr(config, "original_max_position_embeddings"):
        config.original_max_position_embeddings = base.window
    if hasattr(config, rope_base.LONGEST):
        setattr(config, rope_base.LONGEST, kind.scale * base.window)
    config.cream = {
        "window": base.window,
        "scaling": kind.name,
        "scale": kind.scale,
        "theta": base.theta,
        "target_length": kind.scale * base.window,
        **({} if base.plain else {"base_rope": base.parameters}),
        **({"options": kind.options} if kind.options else {}),
    }
    return _carry(config, kind, base)


def _carry(
    config: PreTrainedConfig, kind: scalings.RopeScaling, base: rope_base.BaseRope
) -> PreTrainedConfig:
    """Write the scaling as a stock config has it: by its own name where there is one.

    Else, and where a family does not read that name, as longrope, which carries any frequencies.
    """
    refusal, lengthwise = None, isinstance(kind, scalings.Clex)  # no one list of frequencies
    if base.plain or lengthwise:
        refusal = _written(config, kind.hf_parameters(base.theta, base.dim, base.window), base)
        if refusal is None:
            return config
        if lengthwise:
            raise ValueError(f"{config.model_type} configs take no clex scaling: {refusal}")
    frequencies, factor = _rotation(kind, base)
    carried = scalings.longrope_parameters(base.theta, frequencies, factor, kind.scale, base.window)
    if other := _written(config, carried, base):
        error = refusal or other
        raise ValueError(
            f"{config.model_type} configs take no {kind.name} scaling ({error}): choose another "
            "scaling or another base"
        ) from error
    return config


def _written(
    config: PreTrainedConfig, scaled: dict[str, Any], base: rope_base.BaseRope
) -> Exception | None:
    """Put scaled `rope_parameters` into a config; return why its class does not read them back."""
    if part := base.parameters.get("partial_rotary_factor"):
        scaled = {"partial_rotary_factor": part, **scaled}
    if base.layered:
        scaled = {**config.rope_parameters, rope_base.FULL: scaled}
    config.rope_parameters = scaled
    try:
        again = type(config).from_dict(config.to_dict())
    except Exception as error:  # config classes raise kinds of their own
        return error
    if again.rope_parameters != scaled:
        return ValueError(f"they read it back as {again.rope_parameters}")
    return None


def _rotation(kind: scalings.RopeScaling, base: rope_base.BaseRope) -> tuple[np.ndarray, float]:
    """Return the inverse frequencies (dim/2,) and the factor on cos and sin of a scaled base."""
    start, factor = rope_base.turning(base)
    frequencies = kind.inv_freq(start, base.dim, base.window)
    return frequencies, factor * kind.attention_factor(base.window)


def recorded_base(config: PreTrainedConfig) -> rope_base.BaseRope:
    """Return the base that an extended config was made from."""
    about = config.cream
    parameters = about.get("base_rope") or {"rope_type": "default", "rope_theta": about["theta"]}
    layered = isinstance(config.rope_parameters.get(rope_base.FULL), dict)
    return rope_base.BaseRope(parameters, rotary_dim(config), about["window"], layered)


def check_rotation(model: PreTrainedModel) -> None:
    """Refuse a model whose rotary modules do not turn as its `config.cream` says."""
    about = describe(model.config)
    kind = scalings.described(about)
    wanted, factor = _rotation(kind, recorded_base(model.config))
    factor *= about.get("sharper", 1.0) ** 0.5  # logits are larger by it (`rope.sharper`)
    if "fixed_t" in about:  # of a solution that only the config holds
        parameters = model.config.rope_parameters
        base = scalings.scaling("none").inv_freq(about["theta"], rotary_dim(model.config), 0)
        wanted, factor = base / parameters["long_factor"], parameters["attention_factor"]
    found = [turned for module in model.modules() if (turned := _turned(module))]
    for got, scaling in found:
        same = got.shape == wanted.shape and np.allclose(got, wanted, rtol=1e-5, atol=0)
        if not same or not np.isclose(scaling, factor):
            found = []
            break
    if not found:
        raise ValueError(
            f"the {model.config.model_type} model does not turn by the {kind.name} frequencies its "
            "config asks for: this family does not follow rope_parameters, choose another base"
        )


def _turned(module: torch.nn.Module) -> tuple[np.ndarray, float] | None:
    """Return a rotary module's frequencies and factor, of the layers that are extended."""
    for prefix in ("", f"{rope_base.FULL}_"):
        if (table := getattr(module, f"{prefix}inv_freq", None)) is not None:
            factor = getattr(module, f"{prefix}attention_scaling", 1.0)
            return table.detach().float().cpu().numpy(), factor
    return None


def fix_longrope(model: PreTrainedModel) -> None:
    """Stop longrope from choosing between its short and long factors where the two are equal.

    The choice, made anew in every forward pass, waits for the device and breaks compiled graphs.
    """
    parameters = rope_base.parameters_of(model.config)
    if parameters.get("short_factor") != parameters.get("long_factor"):
        return
    for module in model.modules():
        kind = getattr(module, "rope_type", None)
        if kind == "longrope":
            module.rope_type = "default"
        elif isinstance(kind, dict) and kind.get(rope_base.FULL) == "longrope":
            module.rope_type = {**kind, rope_base.FULL: "default"}
