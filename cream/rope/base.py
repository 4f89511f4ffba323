"""What a base turns by today: the frequencies and the attention factor at its own window.

What belongs here: reading the RoPE of a base's config, scaled already (llama3, yarn, linear,
dynamic, longrope) or not, one for all layers or one a layer type; and the reasons why a base cannot
be extended. The formulas of scaled bases are transformers' own, so every option of theirs counts.
No model family is named here.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

__all__ = [
    "FULL",
    "LONGEST",
    "SLIDING",
    "BaseRope",
    "own_window",
    "parameters_of",
    "read",
    "rotary_dim",
    "turning",
]

FULL, SLIDING = "full_attention", "sliding_attention"  # transformers' names of layer types
_ANY = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
LONGEST = "max_sequence_length"  # FastChat's key
_ORIGINAL = "original_max_position_embeddings"
_NO_NUMBERS = {"rope_type", "type", "truncate", "short_factor", "long_factor"}
# The keys that a rope_type may have: what is beyond them is read by attention itself in some
# families (mscale_all_dim, llama_4_scaling_beta), and would be lost.
SCALED = {
    "dynamic": {"factor", _ORIGINAL},
    "linear": {"factor", _ORIGINAL},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor", _ORIGINAL},
    "longrope": {"factor", "short_factor", "long_factor", "attention_factor", _ORIGINAL},
    "yarn": {"factor", "attention_factor", "beta_fast", "beta_slow", "truncate", "mscale",
             _ORIGINAL},
}  # fmt: skip


@dataclass(frozen=True)
class BaseRope:
    """The RoPE of a base, as far as it is extended.

    `parameters` are its `rope_parameters` (of the full-attention layers where `layered`), `dim` the
    rotated dimensions of a head, `window` its own length N.
    """

    parameters: dict[str, Any]
    dim: int
    window: int
    layered: bool = False

    @property
    def kind(self) -> str:
        """The `rope_type`; "default" where nothing is scaled."""
        return self.parameters.get("rope_type") or "default"

    @property
    def plain(self) -> bool:
        """Whether theta alone says how every layer turns."""
        return self.kind == "default" and not self.layered

    @property
    def theta(self) -> float:
        """RoPE's base."""
        return self.parameters["rope_theta"]


def turning(base: BaseRope) -> tuple[float | np.ndarray, float]:
    """Return what a scaling starts from, and the base's factor on cos and sin.

    The former is theta, or the inverse frequencies (dim/2,) of a base that scales them. Dynamic NTK
    does nothing up to the base's own window, so it gives theta.
    """
    if base.kind in ("default", "dynamic"):
        return base.theta, 1.0
    stand_in = PreTrainedConfig(
        head_dim=base.dim,
        hidden_size=base.dim,
        num_attention_heads=1,
        max_position_embeddings=base.window,
        layer_types=[FULL],
    )
    given = {k: v for k, v in base.parameters.items() if k != "partial_rotary_factor"}
    stand_in.rope_parameters = {FULL: given} if base.layered else given
    which = {"layer_type": FULL} if base.layered else {}
    compute = ROPE_INIT_FUNCTIONS[base.kind]
    with torch.device("cpu"):  # also while a model is built without weights
        found, factor = compute(stand_in, "cpu", seq_len=base.window, **which)
    return found.double().numpy(), float(factor)


def parameters_of(config: PreTrainedConfig) -> dict[str, Any]:
    """Return the `rope_parameters` that are extended: of all layers, or of those that see all."""
    parameters = getattr(config, "rope_parameters", None) or {}
    parameters = parameters[FULL] if _layered(parameters) else parameters
    return {key: value for key, value in (parameters or {}).items() if value is not None}


def _layered(parameters: dict[str, Any]) -> bool:
    return isinstance(parameters.get(FULL), dict)


def own_window(config: PreTrainedConfig) -> int | None:
    """Return the length N that a base has: its max_position_embeddings.

    But yarn's factor times its original length where that is more: configs of Qwen2.5 and Qwen3
    name, beside a yarn that was switched on, the length that the base has without. And under linear
    scaling max_sequence_length where that is more: so say those of Vicuna 16K what they were
    trained at, beside Llama's own 4,096.
    """
    window = getattr(config, "max_position_embeddings", None)
    parameters = parameters_of(config)
    original = parameters.get("original_max_position_embeddings")
    if parameters.get("rope_type") == "yarn" and window and original:
        return max(window, int(original * (parameters.get("factor") or 1)))
    if parameters.get("rope_type") == "linear" and window:
        return max(window, getattr(config, LONGEST, None) or 0)
    return window


def rotary_dim(config: PreTrainedConfig) -> int:
    """Return how many dimensions of a head RoPE rotates."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(head * (parameters_of(config).get("partial_rotary_factor") or 1.0))


def read(config: PreTrainedConfig) -> BaseRope:
    """Return the RoPE of a base that can be extended; ValueError says why one cannot."""
    _check_rope(config)
    if getattr(config, "cream", None):
        kind, scale = config.cream["scaling"], config.cream["scale"]
        raise ValueError(
            f"this base already scales its RoPE ({kind}) by {scale}, as cream extended it: start "
            f"from its base with a multiple of {scale}, or leave scaling out to load it as it is"
        )
    _check_layers(config)
    parameters = parameters_of(config)
    _check_kind(config, parameters)
    layered = _layered(config.rope_parameters)
    return BaseRope(parameters, rotary_dim(config), own_window(config), layered)


def _check_rope(config: PreTrainedConfig) -> None:
    family = config.model_type
    if not getattr(config, "rope_parameters", None):
        raise ValueError(f"a {family} config has no rope_parameters: {_no_rope(config)}")
    if getattr(config, "alibi", False):
        raise ValueError(f"this {family} base was trained with ALiBi: it has no RoPE to extend")
    if not getattr(config, "max_position_embeddings", None):
        raise ValueError(f"this {family} config names no max_position_embeddings: N is unknown")


def _no_rope(config: PreTrainedConfig) -> str:
    if getattr(config, "rotary_dim", None):
        return (
            "the family's own code rotates by a fixed table (theta 10000) and reads no scaling, so "
            "stock transformers could not load an extended copy; choose another base"
        )
    if config.get_text_config(decoder=True) is not config:
        return (
            "its RoPE is that of the text model inside; choose the text-only checkpoint of this "
            "base, or save its language model as one"
        )
    return "only a decoder whose RoPE is set in its config can be extended, choose such a base"


def _check_layers(config: PreTrainedConfig) -> None:
    """Refuse RoPEs by layer type other than those of full and of sliding attention."""
    nested = {k for k, v in config.rope_parameters.items() if isinstance(v, dict)}
    if not nested:
        return
    if FULL not in nested or nested - {FULL, SLIDING}:
        raise ValueError(
            f"this {config.model_type} config gives each layer type its own RoPE "
            f"({', '.join(sorted(nested))}): only layers of {FULL} beside {SLIDING} are extended"
        )
    if FULL not in (getattr(config, "layer_types", None) or []):
        raise ValueError(f"no layer of this {config.model_type} base is of {FULL}: none sees far")


def _check_kind(config: PreTrainedConfig, parameters: dict[str, Any]) -> None:
    """Refuse a rope_type that has no frequencies of its own at the base's window."""
    kind = parameters.get("rope_type", "default")
    if kind not in ("default", *SCALED):
        raise ValueError(
            f"the RoPE of this {config.model_type} base is of type {kind!r}: a base is extended "
            f"from default, {', '.join(SCALED)}; choose another base"
        )
    if odd := sorted(parameters.keys() - _ANY - SCALED.get(kind, set())):
        raise ValueError(
            f"the rope_parameters of this {config.model_type} config also hold {odd}, which an "
            "extended config has no place for; choose another base"
        )
    for name in sorted(parameters.keys() - _NO_NUMBERS):
        if isinstance(value := parameters[name], bool) or not isinstance(value, Real):
            raise ValueError(
                f"the rope_parameters of this {config.model_type} config have {name} {value!r}, "
                "which is no number: write one into its config.json"
            )
