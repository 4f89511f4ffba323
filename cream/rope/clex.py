"""CLEX: the module that solves its frequency ODE and gives every rotary module its angles.

Of a stock model with `rope.Clex` in its config, `attach` replaces the forward of each rotary module
(arXiv 2310.16450). One module holds the two matrices, under the names of the released checkpoints,
so that they are trained, saved and resumed with the model. t is chosen outside of the model:

    clex.draw(model, (3, 3))           before a training forward, one number or one an example
    with clex.chosen(model, 9_000):    around inference on prompts of so many tokens with answers
    clex.choose(model, 9_000)          the same until it is chosen again
    stock = clex.fixed(model, t=4)     a stock longrope model of one t, for export and servers

A forward without a t is an error: no number is computed at a t that nobody chose.

The equation and its gradient are in `clex_ode`, files in `models.clex_checkpoints`.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from cream.rope import scalings
from cream.rope.base import rotary_dim, turning
from cream.rope.clex_ode import Ode, Solved
from cream.rope.config import describe, recorded_base

__all__ = [
    "ClexLayer",
    "attach",
    "choose",
    "chosen",
    "draw",
    "fixed",
    "initialise",
    "is_clex",
    "layer_of",
    "plan_key",
    "registered",
    "trained_matrices",
]

LAYER, UP, DOWN = "clex_layer", "ode_up_proj", "ode_down_proj"


# ----------------------------------------------------------------------------------- the module
class _Matrices(torch.nn.Module):
    """W_up (d/2, lambda d) and W_down (lambda d, d/2), named as in the released checkpoints."""

    def __init__(self, kind: scalings.Clex, start: scalings.Theta, dim: int):
        super().__init__()
        shape, trained = (dim // 2, kind.param_factor * dim), not kind.frozen
        self.ode_up_proj = torch.nn.Parameter(torch.empty(shape), requires_grad=trained)
        self.ode_down_proj = torch.nn.Parameter(torch.empty(shape[::-1]), requires_grad=trained)
        self.ode = Ode.of(kind, start, dim)

    def forward(self, x: np.ndarray) -> torch.Tensor:
        """Return u(x), float64 (rows, d/2), on the CPU."""
        return Solved.apply(self.ode_up_proj, self.ode_down_proj, self.ode, x)


class ClexLayer(torch.nn.Module):
    """A model's CLEX: its t, the frequencies at t, and the angles of every rotary module.

    `start` is theta, or the frequencies (dim/2,) that a base scaled already turns by; `factor` is
    that base's own on cos and sin.
    """

    def __init__(
        self,
        kind: scalings.Clex,
        start: scalings.Theta,
        dim: int,
        window: int,
        factor: float = 1.0,
    ):
        super().__init__()
        self.kind, self.start, self.dim, self.window = kind, start, dim, window
        self.base_factor = factor
        self.proj_func = _Matrices(kind, start, dim)
        self._drawn: tuple[float, ...] | None = None  # of the training forward
        self._tokens: int | None = None  # of inference
        self._pinned: float | None = None  # a t that was given by number
        self._kept: torch.Tensor | None = None
        self.growing = False  # t rises with the cache (`clex_growing`)

    @property
    def tokens(self) -> int | None:
        """The number of tokens that t was chosen for, or None."""
        return self._tokens

    @property
    def pinned(self) -> bool:
        """Whether t was chosen by number."""
        return self._pinned is not None

    def initialise(self, seed: int) -> None:
        """Draw W_up from U(+-1/sqrt(lambda d)), as published, and set W_down to 0."""
        up, down = self.proj_func.ode_up_proj, self.proj_func.ode_down_proj
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.empty(up.shape).uniform_(-1, 1, generator=generator)
        with torch.no_grad():
            up.copy_(drawn / math.sqrt(up.shape[1]))
            down.zero_()

    def _apply(self, fn: Callable, *rest: Any, **more: Any) -> ClexLayer:
        """Move as every module does, but never to 16 bits: far positions would turn otherwise."""

        def kept(one: torch.Tensor) -> torch.Tensor:
            moved = fn(one)
            return one.to(moved.device) if moved.dtype.itemsize == 2 else moved

        return super()._apply(kept, *rest, **more)

    def train(self, mode: bool = True) -> ClexLayer:
        """Switch as every module does, and forget the frequencies of weights that may change."""
        self._kept = None
        return super().train(mode)

    def draw(self, t: Sequence[float]) -> None:
        """Set the t of the next training forwards: one number, or one an example."""
        self._drawn, self._kept = _checked(t, self.kind.scale), None

    def choose(self, tokens: int | None, t: float | None = None) -> None:
        """Set t for inference on so many tokens (prompt and answer); None takes it back."""
        self._tokens, self._kept = tokens, None
        self._pinned = None if t is None else _checked((t,), self.kind.scale)[0]

    def t_of(self, tokens: int | None) -> float | None:
        """Return the t at which so many tokens are read; None for None."""
        if self._pinned is not None:
            return self._pinned
        return None if tokens is None else self.kind.factor(tokens, self.window)

    def inv_freq_at(self, t: Sequence[float]) -> torch.Tensor:
        """Return the frequencies at each t, float64 (len(t), d/2) on the CPU."""
        factors = np.array(_checked(t, self.kind.scale), dtype=np.float64)
        start = np.stack([self.kind.ntk(self.start, self.dim, each) for each in factors])
        return torch.from_numpy(start) * self.proj_func(np.log(2 * factors - 1)).exp()

    def log_factor(self, tokens: int) -> float:
        """Return the factor on cos and sin: the base's, with log scaling also its root."""
        if not self.kind.log_scale:
            return self.base_factor
        root = math.sqrt(math.log(max(tokens, 2)) / math.log(self.window))
        return self.base_factor * root

    def frequencies(self, device: torch.device) -> torch.Tensor:
        """Return the frequencies of this forward, float32 (1 or batch, d/2); computed once."""
        if self._kept is not None and self._kept.device == device:
            return self._kept
        t = self._drawn if self.training else (self.t_of(self._tokens),)
        if t is None or None in t:
            raise ValueError(
                "no t is chosen for this CLEX model: call clex.draw(model, t) before a training "
                "forward, clex.choose(model, tokens) before asking it"
            )
        found = self.inv_freq_at(t).float().to(device, non_blocking=True)
        # What may be differentiated outside of training must not come from an earlier graph.
        if self.training or not torch.is_grad_enabled():
            self._kept = found
        return found

    def angles(
        self, states: torch.Tensor, position_ids: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cos and sin (batch, tokens, d) in the dtype of `states`, as rotary modules do."""
        half = position_ids[..., None].float() * self.frequencies(states.device)[:, None]
        both = torch.cat((half, half), dim=-1)
        tokens = position_ids.shape[-1] if self.training else self._tokens or 0
        factor = self.log_factor(tokens)
        return (both.cos() * factor).to(states.dtype), (both.sin() * factor).to(states.dtype)


def _checked(t: Sequence[float], most: int) -> tuple[float, ...]:
    found = tuple(dict.fromkeys(t)) if len(set(t)) == 1 else tuple(t)
    if not found or not all(1 <= each <= most for each in found):
        raise ValueError(f"t is {t}: CLEX was given max_factor {most}, so t lies in [1, {most}]")
    return found


# ---------------------------------------------------------------------------- models with CLEX
def _as_pretrained(config: PreTrainedConfig, device: Any = None, **_: Any) -> tuple:
    """Give transformers the base's own frequencies for `rope_type` clex; the angles are ours."""
    start, factor = turning(recorded_base(config))
    found = torch.from_numpy(scalings.scaling("none").inv_freq(start, rotary_dim(config), 0))
    return found.to(device=device, dtype=torch.float32), factor


@contextlib.contextmanager
def registered() -> Iterator[None]:
    """Let transformers build models whose `rope_type` is clex meanwhile.

    At any other time it refuses them, since it would build plain RoPE without the module.
    """
    name = scalings.Clex.name
    before = ROPE_INIT_FUNCTIONS.get(name)
    ROPE_INIT_FUNCTIONS[name] = _as_pretrained
    try:
        yield
    finally:
        if before is None:
            del ROPE_INIT_FUNCTIONS[name]


# transformers knows no check of our rope_type, and no place for the matrices: both are ours.
logging.getLogger("transformers.modeling_rope_utils").addFilter(
    lambda record: "'rope_type'='clex'" not in str(record.msg)
)
logging.getLogger("transformers.modeling_utils").addFilter(
    lambda record: not ("LOAD REPORT" in str(record.msg) and f".{LAYER}." in str(record.msg))
)


def is_clex(config: PreTrainedConfig) -> bool:
    """Whether a config asks for CLEX at a t that is chosen when it is used."""
    # A family without RoPE has none.
    parameters = getattr(config, "rope_parameters", None) or {}
    return parameters.get("rope_type") == scalings.Clex.name


def layer_of(model: torch.nn.Module) -> ClexLayer | None:
    """Return a model's CLEX module, or None."""
    return getattr(getattr(model, "base_model", model), LAYER, None)


def attach(model: PreTrainedModel, seed: int = 0, check: bool = True) -> ClexLayer:
    """Put the module of `config.cream` into a model and let it make the angles; return it.

    ValueError for a family whose angles are laid out in another way than two equal halves, and for
    log scaling where only a part of a head is rotated.
    """
    about, dim = describe(model.config), rotary_dim(model.config)
    kind = scalings.described(about)
    rotary = [each for each in model.modules() if hasattr(each, "inv_freq")]
    head = getattr(model.config, "head_dim", None) or dim
    if kind.log_scale and _rotated_share(model.config) != 1:
        raise ValueError(
            f"log_scale scales whole queries, and RoPE rotates {dim} of {head} dimensions of a "
            f"{model.config.model_type}: it cannot be done through cos and sin, set it to false"
        )
    start, factor = turning(recorded_base(model.config))
    layer = ClexLayer(kind, start, dim, about["window"], factor)
    layer.to(device=model.device).train(model.training)  # float32 beside weights of any dtype
    if check:
        layer.initialise(seed)
        _check_layout(layer, rotary, model.config.model_type)
    setattr(model.base_model, LAYER, layer)
    for each in rotary:
        each.forward = functools.partial(_angles, layer)
    return layer


def _rotated_share(config: PreTrainedConfig) -> float:
    return config.rope_parameters.get("partial_rotary_factor") or 1.0


def _angles(
    layer: ClexLayer, x: torch.Tensor, position_ids: torch.Tensor, *_: Any, **__: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    return layer.angles(x, position_ids)


@torch.no_grad()
def _check_layout(layer: ClexLayer, rotary: list[torch.nn.Module], family: str) -> None:
    """Refuse a family whose rotary modules give other angles than ours at its own frequencies."""
    places = torch.tensor([[0, 1, 7, 100]], device=layer.proj_func.ode_up_proj.device)
    states = torch.zeros((1, 4, 1), device=places.device)
    mode, layer.training = layer.training, False
    layer.choose(layer.window, 1.0)
    ours = layer.angles(states, places)
    layer.choose(None)
    layer.training = mode
    for each in rotary or [None]:
        theirs = each and each(states, places)
        same = theirs and all(
            a.shape == b.shape and torch.allclose(a, b, atol=1e-4)
            for a, b in zip(ours, theirs, strict=True)
        )
        if not same:
            raise ValueError(
                f"the {family} model does not rotate as CLEX needs it (two equal halves of cos and "
                "sin): choose another base"
            )


def trained_matrices(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """Return the matrices of a model's CLEX that are trained: two, or none."""
    layer = layer_of(model)
    return [one for one in layer.parameters() if one.requires_grad] if layer else []


def initialise(model: PreTrainedModel, seed: int) -> None:
    """Draw the matrices of a model that is to be trained; nothing for a model without CLEX."""
    if layer := layer_of(model):
        layer.initialise(seed)


def draw(model: PreTrainedModel, t: Sequence[float] | None) -> None:
    """Set t for the next training forward; nothing for a model without CLEX."""
    layer = layer_of(model)
    if layer is not None and t is None:
        raise ValueError("examples for a CLEX model must hold clex_t: choose the sampler clex")
    if layer is not None:
        layer.draw(t)


def choose(model: PreTrainedModel, tokens: int, t: float | None = None) -> float:
    """Choose t for inference until it is chosen again, and return it.

    t = ceil(tokens / N), at most max_factor, unless it is given; `tokens` counts prompt and answer.
    One t for a whole request is exact. The released code raises t while the answer grows and turns
    old keys again, whose values were computed under a smaller t: neither t gives those numbers
    (`clex_growing` does so).
    """
    layer = layer_of(model)
    if layer is None:
        raise ValueError("this model has no CLEX: t means nothing to it")
    layer.choose(tokens, t)
    return layer.t_of(tokens)


@contextlib.contextmanager
def chosen(model: PreTrainedModel, tokens: int) -> Iterator[None]:
    """Choose t for inference on so many tokens meanwhile; a model without CLEX is left alone.

    A t that was chosen by number before stands.
    """
    layer = layer_of(model)
    if layer is None:
        yield
        return
    before = (layer._tokens, layer._pinned)
    layer.choose(tokens, layer._pinned)
    try:
        yield
    finally:
        layer.choose(*before)


def plan_key(model: PreTrainedModel, tokens: int) -> float:
    """Return what prompts must have in common to be decoded together: 0 without CLEX, else t."""
    layer = layer_of(model)
    if layer is None:
        return 0
    return tokens if layer.kind.log_scale else layer.t_of(tokens)


# ------------------------------------------------------------------------------------- one t
def fixed(model: PreTrainedModel, t: float, tokens: int | None = None) -> PreTrainedModel:
    """Return a CLEX model at one t as a stock longrope model of t N positions, without the module.

    Wavelengths are multiplied by E_i = theta^(-2i/d) / inv_freq_i(t). With log scaling the factor
    is that of `tokens`, t N by default. The weights are the model's own, not copies; the model
    itself is no longer CLEX.
    """
    layer = layer_of(model)
    if layer is None:
        raise ValueError("this model has no CLEX: there is no t to fix")
    about, tokens = describe(model.config), tokens or math.ceil(t * layer.window)
    with torch.no_grad():
        found = layer.inv_freq_at((t,))[0].numpy()
    carrier = scalings.longrope_parameters(
        about["theta"], found, layer.log_factor(tokens), t, layer.window
    )
    config = copy.deepcopy(model.config)
    config.rope_parameters = {
        **carrier,
        **{k: v for k, v in config.rope_parameters.items() if k == "partial_rotary_factor"},
    }
    length = math.ceil(t * layer.window)
    config.max_position_embeddings = length
    config.cream = {**about, "target_length": length, "fixed_t": t}
    return _rebuilt(model, config)


def _rebuilt(model: PreTrainedModel, config: PreTrainedConfig) -> PreTrainedModel:
    """Build a model anew around the weights of another."""
    weights = {name: one for name, one in model.state_dict().items() if f"{LAYER}." not in name}
    config._attn_implementation = model.config._attn_implementation
    built = type(model)._from_config(config, dtype=model.dtype)
    built.load_state_dict(weights, strict=True)
    built.generation_config = model.generation_config
    return built.to(model.device).eval()
