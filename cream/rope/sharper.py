"""Sharper attention: a config under which the logits of attention are larger by a factor.

The number stands where stock transformers reads it, as the `attention_factor` of the RoPE scaling.
Queries and keys are both turned by cos and sin times it, so logits grow by its square. YaRN's
authors (arXiv 2309.00071) call the inverse a temperature: logits times 1.2 are t = 1 / 1.2.
What belongs here: which configs can carry it, and what they then say. Files belong in `models`.
"""

from __future__ import annotations

import copy
import math

from transformers import PreTrainedConfig

from cream.rope import base as rope_base
from cream.utils.options import check_number

__all__ = ["CARRIERS", "check_whole_head", "factor_on_cos", "sharpen"]

CARRIERS = ("longrope", "yarn")  # whose attention_factor stock transformers reads
_REPEATED = ("short_mscale", "long_mscale")  # longrope's, as vLLM and SGLang spell it


def factor_on_cos(config: PreTrainedConfig) -> float:
    """Return what cos and sin are multiplied by under a config, written there or by default."""
    parameters = rope_base.parameters_of(config)
    about = rope_base.BaseRope(
        parameters, rope_base.rotary_dim(config), rope_base.own_window(config), _layered(config)
    )
    return rope_base.turning(about)[1]


def sharpen(config: PreTrainedConfig, factor: float) -> PreTrainedConfig:
    """Return a copy of a config under which the logits of attention are `factor` times as large.

    Its attention factor, YaRN's 0.1 ln s + 1 where none is written, grows by sqrt(factor); twice
    multiplies. Of a RoPE a layer type, the layers of full attention are sharpened. ValueError for a
    factor that is not finite or not above 0, a `rope_type` without an attention factor (default,
    linear, dynamic, llama3, clex), and heads of which RoPE turns a part.
    """
    check_number("factor", factor, 0, above=True, note="1.2 was chosen on the miniature")
    _check_carrier(config)
    check_whole_head(config)
    config, now = copy.deepcopy(config), factor_on_cos(config)
    parameters = rope_base.parameters_of(config)
    scaled = {**parameters, "attention_factor": now * math.sqrt(factor)}
    scaled |= {key: scaled["attention_factor"] for key in _REPEATED if key in parameters}
    layered = _layered(config)
    config.rope_parameters = (
        {**config.rope_parameters, rope_base.FULL: scaled} if layered else scaled
    )
    if about := getattr(config, "cream", None):
        config.cream = {**about, "sharper": about.get("sharper", 1.0) * factor}
    return config


def _layered(config: PreTrainedConfig) -> bool:
    return isinstance((config.rope_parameters or {}).get(rope_base.FULL), dict)


def _check_carrier(config: PreTrainedConfig) -> None:
    """Refuse a config whose RoPE has no attention factor in stock transformers."""
    kind = rope_base.parameters_of(config).get("rope_type") or "default"
    if kind in CARRIERS:
        return
    about = getattr(config, "cream", None) or {}
    named = f" (cream's {about['scaling']})" if about.get("scaling", kind) != kind else ""
    hint = (
        "python -m cream.export RUN OUT --factor T --sharper FACTOR writes a CLEX run at one t"
        if kind == "clex"
        else "choose a model tuned with scaling yarn or yarn-original"
    )
    raise ValueError(
        f"the RoPE of this {config.model_type} model is of type {kind!r}{named}, which has no "
        f"attention factor in stock transformers ({' and '.join(CARRIERS)} have one), so its "
        f"attention cannot be made sharper in a config; {hint}"
    )


def check_whole_head(config: PreTrainedConfig) -> None:
    """Refuse (ValueError) heads of which a part is not turned: its share of a logit stays."""
    share = rope_base.parameters_of(config).get("partial_rotary_factor") or 1.0
    still = getattr(config, "qk_nope_head_dim", None) or 0
    if share == 1 and not still:
        return
    part = f"{still} dimensions of a head are not" if still else f"{share:g} of a head is"
    raise ValueError(
        f"RoPE turns a part of each head of this {config.model_type} model ({part} turned): an "
        "attention factor would multiply that part of the logits alone; choose a model that turns "
        "whole heads"
    )
