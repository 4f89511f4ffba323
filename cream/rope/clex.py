"""CLEX: the module that solves its frequency ODE and gives every rotary module its angles.

Of a stock model with `rope.Clex` in its config, `attach` replaces the forward of each rotary module
(arXiv 2310.16450). One module holds the two matrices, under the names of the released checkpoints,
so that they are trained, saved and resumed with the model. t is chosen outside of the model:

    clex.draw(model, (3, 3))           before a training forward, one number or one an example
    with clex.chosen(model, 9_000):    around inference on prompts of so many tokens with answers
    clex.choose(model, 9_000)          the same until it is chosen again
    stock = clex.fixed(model, t=4)     a stock longrope model of one t, for export and servers

A forward without a t is an error: no number is computed at a t that nobody chose.

With y = ln inv_freq and u = y - ln g, where g is NTK scaling by 2t - 1, the ODE of the paper is
du/dt = act((2 ln g(t) + u + c) W_up) W_down from u(1) = 0, and u = 0 while W_down is 0 (c is 0, or
what another theta inside ln g adds). It is solved in NumPy's float64 over x = ln(2t - 1) by
steps of at most 0.05 of the 3/8 rule, backwards by the exact adjoint of those steps: the work grows
with ln t, and a GPU, for which it is thousands of tiny kernels, is not asked. A training forward
reads the matrices from the device once (32 KiB at bfloat16), a backward pass writes their gradient.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from scipy.special import expit
from torch.autograd.function import once_differentiable
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.utils import cached_file

from cream.rope import scalings
from cream.rope.base import rotary_dim, turning
from cream.rope.config import describe, extend, recorded_base

__all__ = [
    "RELEASES",
    "ClexLayer",
    "Ode",
    "attach",
    "choose",
    "chosen",
    "draw",
    "fixed",
    "initialise",
    "is_clex",
    "is_released",
    "layer_of",
    "plan_key",
    "read_matrices",
    "registered",
    "released",
    "trained_matrices",
    "without_matrices",
]

LAYER, UP, DOWN = "clex_layer", "ode_up_proj", "ode_down_proj"
# The values of each released model (Hugging Face config.json, revisions as in field notes of
# 2026-11); None: not published. `tokens` is the length it was trained at.
RELEASES: dict[str, dict[str, Any]] = {
    "CLEX-7B-16K": {"window": 4096, "scale": 16, "param_factor": 1, "act": "silu",
                    "log_scale": True, "theta": 1e4, "tokens": 16384},
    "CLEX-LLaMA-2-7B-64K": {"window": 4096, "scale": 64, "param_factor": 1, "act": "tanh",
                            "log_scale": None, "theta": 1e4, "tokens": 65536},
    "CLEX-Phi-2-32K": {"window": 2048, "scale": None, "param_factor": None, "act": None,
                       "log_scale": None, "theta": 1e4, "tokens": 32768},
    "CLEX-Mixtral-8x7B-Chat-32K": {"window": 32768, "scale": 10, "param_factor": 2, "act": "tanh",
                                   "log_scale": False, "theta": 1e6, "tokens": 32768},
}  # fmt: skip
THETA_INSIDE = 1e4  # in ln g of the released code, whatever the model's theta is

# ------------------------------------------------------------------------------------- the ODE
# The 3/8 rule: stage j stands at NODES[j] of a step and looks at the stages before it.
NODES = (0.0, 1 / 3, 2 / 3, 1.0)
STAGES = ((), (1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0))
WEIGHTS = (1 / 8, 3 / 8, 3 / 8, 1 / 8)
Tape = list[tuple[np.ndarray, np.ndarray, np.ndarray]]


def _tanh(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    value = np.tanh(z)
    return value, 1 - value * value


def _silu(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    share = expit(z)
    return z * share, share * (1 + z * (1 - share))


ACTS = {"tanh": _tanh, "silu": _silu}


@dataclass(frozen=True)
class Ode:
    """du/dx = (e^x / 2) act((level - 2 x slope + u) W_up) W_down, u(0) = 0, over x = ln(2t - 1).

    `level` and `slope` are (d/2,); x is (rows,) and u (rows, d/2), float64. Every row has the same
    number of steps, each of at most `step` for the longest row.
    """

    level: np.ndarray
    slope: np.ndarray
    act: str
    step: float

    @classmethod
    def of(cls, kind: scalings.Clex, start: scalings.Theta, dim: int) -> Ode:
        """Return the ODE from theta, or from the frequencies (dim/2,) that a base turns by."""
        pairs, plain = np.arange(0, dim, 2, dtype=np.float64), scalings.scaling("none")
        inside = start if kind.log_g_theta is None else kind.log_g_theta
        level = np.log(plain.inv_freq(start, dim, 0)) + np.log(plain.inv_freq(inside, dim, 0))
        return cls(level, pairs / (dim - 2), kind.act, kind.step)

    def _steps(self, x: np.ndarray) -> tuple[int, np.ndarray]:
        count = max(1, math.ceil(float(x.max()) / self.step - 1e-9))
        return count, (x / count)[:, None]

    def solve(self, up: np.ndarray, down: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, Tape]:
        """Return u(x), and each evaluation's input, activation and its slope for `adjoint`."""
        act, (count, h) = ACTS[self.act], self._steps(x)
        u, tape = np.zeros((len(x), len(self.level))), []
        for number in range(count):
            slopes: list[np.ndarray] = []
            for node, before in zip(NODES, STAGES, strict=True):
                now = h * (number + node)
                at = self.level - 2 * now * self.slope + u
                for share, slope in zip(before, slopes, strict=True):
                    at = at + (h * share) * slope
                value, derivative = act(at @ up)
                slopes.append(0.5 * np.exp(now) * (value @ down))
                tape.append((at, value, derivative))
            u = u + h * sum(w * slope for w, slope in zip(WEIGHTS, slopes, strict=True))
        return u, tape

    def adjoint(
        self, up: np.ndarray, down: np.ndarray, x: np.ndarray, tape: Tape, grad: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the gradients of W_up and W_down for that of u(x): the solver's own, exactly."""
        count, h = self._steps(x)
        to_hidden, to_slope = [], []  # of each evaluation, the last first
        for number in reversed(range(count)):
            inputs: dict[int, np.ndarray] = {}
            for stage in reversed(range(4)):
                back = WEIGHTS[stage] * grad
                for later, given in inputs.items():
                    back = back + STAGES[later][stage] * given
                back = h * back * 0.5 * np.exp(h * (number + NODES[stage]))
                hidden = (back @ down.T) * tape[4 * number + stage][2]
                inputs[stage] = hidden @ up.T
                to_hidden.append(hidden)
                to_slope.append(back)
            grad = grad + sum(inputs.values())
        states, values = (np.concatenate([row[i] for row in reversed(tape)]) for i in (0, 1))
        return states.T @ np.concatenate(to_hidden), values.T @ np.concatenate(to_slope)


class _Solved(torch.autograd.Function):
    """u(x) as torch sees it: from the two matrices, wherever they are, to float64 on the CPU."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        up: torch.Tensor,
        down: torch.Tensor,
        ode: Ode,
        x: np.ndarray,
    ) -> torch.Tensor:
        ctx.like, ctx.ode, ctx.x = (up.dtype, up.device), ode, x
        ctx.matrices = [one.detach().double().cpu().numpy() for one in (up, down)]
        u, ctx.tape = ode.solve(*ctx.matrices, x)
        return torch.from_numpy(u)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: torch.autograd.function.FunctionCtx, grad: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        found = ctx.ode.adjoint(*ctx.matrices, ctx.x, ctx.tape, grad.numpy())
        dtype, device = ctx.like
        return *(torch.from_numpy(one).to(device, dtype) for one in found), None, None


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
        return _Solved.apply(self.ode_up_proj, self.ode_down_proj, self.ode, x)


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
    return (config.rope_parameters or {}).get("rope_type") == scalings.Clex.name


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
    old keys again, whose values were computed under a smaller t: neither t gives those numbers.
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


# ------------------------------------------------------------------------------- to and from disk
def read_matrices(path: str | Path, revision: str | None = None) -> dict[str, torch.Tensor]:
    """Read W_up and W_down from a checkpoint's safetensors by name; empty if it has none."""
    files = _files(path, revision)
    found = {}
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (not a dictionary)
                if name.endswith((f"{LAYER}.proj_func.{UP}", f"{LAYER}.proj_func.{DOWN}")):
                    found[name.rpartition(".")[2]] = tensors.get_tensor(name)
    if len(found) == 1:
        raise ValueError(f"{path} holds {next(iter(found))} alone: CLEX has two matrices")
    return found


def _files(path: str | Path, revision: str | None) -> list[str]:
    """Return the weight files that can hold the matrices, of a directory or Hub id."""
    got = functools.partial(cached_file, path, revision=revision,
                            _raise_exceptions_for_missing_entries=False)  # fmt: skip
    index = got("model.safetensors.index.json")
    if index is None:
        return [file for file in [got("model.safetensors")] if file]
    listed = json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"]
    return [got(file) for file in sorted({f for n, f in listed.items() if f".{LAYER}." in n})]


def without_matrices(config: PreTrainedConfig, names: Iterable[str]) -> list[str]:
    """Return the weights that transformers had no place for, but CLEX's own of a CLEX model."""
    return [name for name in names if not (is_clex(config) and f"{LAYER}." in name)]


def load_matrices(layer: ClexLayer, found: dict[str, torch.Tensor], path: str | Path) -> None:
    """Fill the module with what `read_matrices` found; ValueError for other shapes."""
    for name, tensor in found.items():
        own = getattr(layer.proj_func, name)
        if own.shape != tensor.shape:
            raise ValueError(
                f"{path}: {name} is {tuple(tensor.shape)} and this model's CLEX takes "
                f"{tuple(own.shape)} (d/2 and param_factor x d); set param_factor"
            )
        with torch.no_grad():
            own.copy_(tensor)


def is_released(config: PreTrainedConfig) -> bool:
    """Whether a config is of the authors' own checkpoints, whose `rope_scaling` names clex."""
    return is_clex(config) and not getattr(config, "cream", None)


def released(config: PreTrainedConfig, options: dict[str, Any]) -> PreTrainedConfig:
    """Turn the config of an authors' checkpoint into ours; `options` replace or add to its own.

    Their code has theta 1e4 inside ln g whatever the model's is (C10), and so has this. ValueError
    where the config leaves out what decides numbers: max_factor, param_factor or act.
    """
    config = copy.deepcopy(config)
    theirs = config.rope_parameters
    given = {"scale": theirs.get("max_factor"), "param_factor": theirs.get("param_factor"),
             "act": theirs.get("act"), "log_scale": getattr(config, "log_scale", False),
             "log_g_theta": THETA_INSIDE, **options}  # fmt: skip
    if lacking := [name for name, value in given.items() if value is None]:
        raise ValueError(
            f"the config of this CLEX checkpoint does not say {', '.join(lacking)}: give it as "
            f"scaling_options (released values: clex.RELEASES; the code of 2023-10 had act silu)"
        )
    kept = ("rope_theta", "partial_rotary_factor")
    plain = {key: theirs[key] for key in kept if theirs.get(key) is not None}
    config.rope_parameters = {"rope_type": "default", **plain}
    return extend(config, scalings.scaling("clex", **given))


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
