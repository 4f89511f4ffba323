"""RoPE scaling: each kind's frequencies, and the stock Hugging Face config that carries it.

One frozen dataclass a kind, reached by `scaling(name, scale)`; no model and no torch in here.
Everywhere `theta` is RoPE's base, `dim` the number of rotated dimensions of a head (the whole head,
unless the model rotates a part of it), `window` the pre-training length N, and `scale` the whole
number s by which it is to grow. A base that scales its RoPE already gives, in the place of theta,
the inverse frequencies that it turns by (float64, shape (dim/2,)): every kind starts from
`_base_frequencies`, which takes either. A new kind subclasses `RopeScaling` and joins `_CLASSES`.
Formulas: PoSE (arXiv 2309.10400) and CREAM (arXiv 2406.07138), with YaRN (arXiv 2309.00071);
CLEX, CoPE and DroPE as their classes say.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar

import numpy as np

from cream.utils.options import check_choice, check_flag, check_number, check_whole

__all__ = [
    "KINDS",
    "Clex",
    "Cope",
    "Drope",
    "Linear",
    "NoScaling",
    "Ntk",
    "RopeScaling",
    "Yarn",
    "YarnOriginal",
    "described",
    "longrope",
    "longrope_parameters",
    "scaling",
]

BETA_FAST, BETA_SLOW = 32, 1  # rotations within the window where YaRN's ramp begins and ends
STOPPED = 1e9  # how much longer a wavelength becomes that CoPE makes infinite: JSON has no infinity
DROPPED = 1e12  # and every wavelength under DroPE
CLEX_ACTS = ("tanh", "silu")


Theta = float | np.ndarray  # RoPE's base, or the inverse frequencies of a base scaled already


def _base_frequencies(theta: Theta, dim: int) -> np.ndarray:
    """Return theta^(-2i/dim) for i = 0..dim/2-1, or the given frequencies; float64, (dim/2,)."""
    if dim < 4 or dim % 2:
        raise ValueError(f"dim is {dim}: RoPE rotates pairs, so give an even dim of at least 4")
    if isinstance(theta, np.ndarray):
        if theta.shape != (dim // 2,) or not (np.isfinite(theta) & (theta > 0)).all():
            raise ValueError(f"a base of dim {dim} needs {dim // 2} frequencies above 0: {theta}")
        return theta.astype(np.float64)
    if not theta > 1:
        raise ValueError(f"theta is {theta}: RoPE's base must be above 1 (10000 is usual)")
    return float(theta) ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)


def _crossing(frequencies: np.ndarray, window: int, rotations: float) -> float:
    """Return the pair, as a fraction, that turns `rotations` times within the window.

    Between two pairs, and beyond the ends, the logarithm of the frequency is linear in the pair,
    as it is for powers of theta.
    """
    depth = np.maximum.accumulate(np.log(2 * math.pi * rotations / (window * frequencies)))
    place = int(np.clip(np.searchsorted(depth, 0) - 1, 0, len(depth) - 2))
    rise = depth[place + 1] - depth[place]
    if rise == 0:  # frequencies that do not fall at this end
        return float(place if depth[place] > 0 else place + 1)
    return float(place - depth[place] / rise)


def _ramp(theta: Theta, dim: int, window: int) -> tuple[int, int]:
    """Return the pair indices (low, high) between which YaRN goes from keeping to scaling."""
    if window < 8:
        raise ValueError(f"window is {window}: YaRN's ramp needs a window of at least 8 tokens")

    def pair(rotations: int) -> float:
        if isinstance(theta, np.ndarray):
            return _crossing(theta, window, rotations)
        return dim * math.log(window / (2 * math.pi * rotations)) / (2 * math.log(theta))

    return max(math.floor(pair(BETA_FAST)), 0), min(math.ceil(pair(BETA_SLOW)), dim - 1)


def _ramp_share(theta: Theta, dim: int, window: int) -> np.ndarray:
    """Return gamma, the share of each pair's frequency YaRN leaves as it is; shape (dim/2,)."""
    low, high = _ramp(theta, dim, window)
    width = high - low or 0.001
    return 1 - np.clip((np.arange(dim // 2, dtype=np.float64) - low) / width, 0, 1)


@dataclass(frozen=True)
class RopeScaling(ABC):
    """A way to stretch RoPE from `window` to `scale * window` positions."""

    scale: int
    name: ClassVar[str] = ""
    least: ClassVar[int] = 2

    def __post_init__(self) -> None:
        number = isinstance(self.scale, Real) and not isinstance(self.scale, bool)
        if not (number and self.scale >= self.least and float(self.scale).is_integer()):
            raise ValueError(
                f"scale is {self.scale!r}: {self.name} scaling needs a whole number of at least "
                f"{self.least}"
            )
        object.__setattr__(self, "scale", int(self.scale))

    @property
    def options(self) -> dict[str, Any]:
        """Return what `scaling` was given beside name and scale; kept in `config.cream`."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)[1:]}

    @abstractmethod
    def inv_freq(self, theta: Theta, dim: int, window: int) -> np.ndarray:
        """Return the angle each pair turns a position, float64 of shape (dim/2,)."""

    def attention_factor(self, window: int) -> float:
        """Return the factor on cos and sin (attention logits grow by its square)."""
        return 1.0

    @abstractmethod
    def hf_parameters(self, theta: float, dim: int, window: int) -> dict[str, Any]:
        """Return the `rope_parameters` of a transformers 5 config that reproduce this scaling."""


def to_legacy(parameters: dict[str, Any]) -> dict[str, Any]:
    """Split transformers 5 `rope_parameters` into the 4.x keys `rope_theta` and `rope_scaling`."""
    rest = {k: v for k, v in parameters.items() if k not in ("rope_theta", "partial_rotary_factor")}
    scaled = rest.get("rope_type", "default") != "default"
    return {"rope_theta": parameters["rope_theta"], "rope_scaling": rest if scaled else None}


def longrope_parameters(
    theta: float, inv_freq: np.ndarray, attention_factor: float, scale: float, window: int
) -> dict[str, Any]:
    """Return `rope_parameters` of type longrope under which a model turns by any `inv_freq`.

    `inv_freq` (dim/2,) are carried as multiples of theta's wavelengths. Equal short and long lists
    make longrope's switch at N tokens do nothing.
    """
    stretch = (_base_frequencies(theta, 2 * len(inv_freq)) / inv_freq).tolist()
    return {
        "rope_type": "longrope",
        "factor": float(scale),
        "original_max_position_embeddings": int(window),
        "attention_factor": float(attention_factor),
        "short_factor": stretch,
        "long_factor": list(stretch),
        "rope_theta": float(theta),
    }


@dataclass(frozen=True)
class NoScaling(RopeScaling):
    """RoPE as pre-trained; its scale says how far positions go, and changes no frequency."""

    scale: int = 1
    name: ClassVar[str] = "none"
    least: ClassVar[int] = 1

    def inv_freq(self, theta: Theta, dim: int, window: int) -> np.ndarray:
        """Return theta^(-2i/dim), float64 of shape (dim/2,)."""
        return _base_frequencies(theta, dim)

    def hf_parameters(self, theta: float, dim: int, window: int) -> dict[str, Any]:
        """Return the default `rope_parameters`."""
        return {"rope_type": "default", "rope_theta": float(theta)}


@dataclass(frozen=True)
class Linear(RopeScaling):
    """Position interpolation: every position divided by the scale (arXiv 2306.15595)."""

    name: ClassVar[str] = "linear"

    def inv_freq(self, theta: Theta, dim: int, window: int) -> np.ndarray:
        """Return every frequency divided by the scale, float64 of shape (dim/2,)."""
        return _base_frequencies(theta, dim) / self.scale

    def hf_parameters(self, theta: float, dim: int, window: int) -> dict[str, Any]:
        """Return `rope_parameters` of type linear."""
        return {"rope_type": "linear", "factor": float(self.scale), "rope_theta": float(theta)}


@dataclass(frozen=True)
class Ntk(RopeScaling):
    """Fixed NTK-aware scaling: the lowest frequency divided by the scale through a larger base."""

    name: ClassVar[str] = "ntk"

    def theta(self, theta: float, dim: int) -> float:
        """Return the base theta * scale^(dim/(dim-2))."""
        _base_frequencies(theta, dim)
        return float(theta) * self.scale ** (dim / (dim - 2))

    def inv_freq(self, theta: Theta, dim: int, window: int) -> np.ndarray:
        """Return the frequencies of the larger base, float64 of shape (dim/2,)."""
        if isinstance(theta, np.ndarray):
            powers = np.arange(0, dim, 2, dtype=np.float64) / (dim - 2)
            return _base_frequencies(theta, dim) / float(self.scale) ** powers
        return _base_frequencies(self.theta(theta, dim), dim)

    def hf_parameters(self, theta: float, dim: int, window: int) -> dict[str, Any]:
        """Return default `rope_parameters` with the larger base."""
        return {"rope_type": "default", "rope_theta": self.theta(theta, dim)}


@dataclass(frozen=True)
class YarnOriginal(RopeScaling):
    """YaRN as published: along its ramp, frequencies are mixed linearly."""

    name: ClassVar[str] = "yarn-original"

    def inv_freq(self, theta: Theta, dim: int, window: int) -> np.ndarray:
        """Return gamma * w + (1 - gamma) * w / scale, float64 of shape (dim/2,)."""
        kept = _ramp_share(theta, dim, window)
        return _base_frequencies(theta, dim) * (kept + (1 - kept) / self.scale)

    def attention_factor(self, window: int) -> float:
        """Return 0.1 ln(scale) + 1."""
        return 0.1 * math.log(self.scale) + 1

    def hf_parameters(self, theta: float, dim: int, window: int) -> dict[str, Any]:
        """Return `rope_parameters` of type yarn, whose default attention factor is YaRN's."""
        return {
            "rope_type": "yarn",
            "factor": float(self.scale),
            "original_max_position_embeddings": int(window),
            "rope_theta": float(theta),
        }


@dataclass(frozen=True)
class Yarn(RopeScaling):
    """The revised YaRN of PoSE and CREAM: along the ramp, wavelengths are mixed linearly."""

    name: ClassVar[str] = "yarn"

    def stretch(self, theta: Theta, dim: int, window: int) -> np.ndarray:
        """Return (1 - gamma) * scale + gamma, how much longer each wavelength is; (dim/2,)."""
        kept = _ramp_share(theta, dim, window)
        return (1 - kept) * self.scale + kept

    def inv_freq(self, theta: Theta, dim: int, window: int) -> np.ndarray:
        """Return w / ((1 - gamma) * scale + gamma), float64 of shape (dim/2,)."""
        return _base_frequencies(theta, dim) / self.stretch(theta, dim, window)

    def attention_factor(self, window: int) -> float:
        """Return 0.1 ln(scale) + 1."""
        return 0.1 * math.log(self.scale) + 1

    def hf_parameters(self, theta: float, dim: int, window: int) -> dict[str, Any]:
        """Return `rope_parameters` of type longrope: stock `yarn` would be the published one."""
        stretch = self.stretch(theta, dim, window)
        return longrope(theta, window, self.scale, stretch, self.attention_factor(window))


@dataclass(frozen=True)
class Cope(RopeScaling):
    """CoPE: frequencies too slow for a whole turn within N are clipped (arXiv 2602.05258).

    The n slowest of the dim/2 frequencies are multiplied by (1 + cos(pi k / (n - 1))) / 2 for
    k = 0 .. n-1, from 1 down to 0. n is how many have a period above N (18 of 64 for Llama-2),
    or `clipped` (the authors' constant is 20, for theta 500,000 and 8,192). Attention and inference
    stay stock. The authors train Llama-3-8B on at ProLong's 64K data and claim gains on HELMET,
    RULER and InfiniteBench over theta scaling and a hard clip; at window N there is no published
    run. `scale` only sets how far the model is to reach.
    """

    clipped: int | None = None
    name: ClassVar[str] = "cope"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clipped is not None:
            check_whole("clipped", self.clipped, 2)

    def stretch(self, theta: float, dim: int, window: int) -> np.ndarray:
        """Return by how much each wavelength grows, (dim/2,); 1e9 where a frequency is 0."""
        base = _base_frequencies(theta, dim)
        count = int((2 * np.pi / base > window).sum()) if self.clipped is None else self.clipped
        if not 2 <= count <= dim // 2:
            raise ValueError(
                f"cope would clip {count} of {dim // 2} frequencies (theta {theta}, window "
                f"{window}): give clipped from 2 to {dim // 2}, or choose another scaling"
            )
        mask = np.ones(dim // 2)
        mask[-count:] = (1 + np.cos(np.linspace(0, np.pi, count))) / 2
        return 1 / np.maximum(mask, 1 / STOPPED)

    def inv_freq(self, theta: float, dim: int, window: int) -> np.ndarray:
        """Return the clipped frequencies, float64 of shape (dim/2,); the last is 1e-9 of RoPE's."""
        return _base_frequencies(theta, dim) / self.stretch(theta, dim, window)

    def hf_parameters(self, theta: float, dim: int, window: int) -> dict[str, Any]:
        """Return `rope_parameters` of type longrope whose attention factor is 1."""
        return longrope(theta, window, self.scale, self.stretch(theta, dim, window), 1.0)


@dataclass(frozen=True)
class Drope(RopeScaling):
    """DroPE: no rotation at all, and the model is trained on at N (arXiv 2512.12167).

    Every frequency is divided by 1e12: stock `linear` scaling, under which a million positions turn
    by a millionth of a radian. `scale` only sets how far the model is to reach, and the sampler
    that belongs to it is `plain`. The authors' recipe for Llama-2-7B is 512 x 4,096 tokens for
    5,000 steps (10.5B tokens) at 1e-4, cosine, 100 steps of warm-up; they claim 74.9 on needles and
    30.5 on LongBench. CREAM's budget is an eightieth of it. Their softmax temperature is left out.
    """

    name: ClassVar[str] = "drope"

    def inv_freq(self, theta: float, dim: int, window: int) -> np.ndarray:
        """Return every frequency divided by 1e12, float64 of shape (dim/2,)."""
        return _base_frequencies(theta, dim) / DROPPED

    def hf_parameters(self, theta: float, dim: int, window: int) -> dict[str, Any]:
        """Return `rope_parameters` of type linear."""
        return {"rope_type": "linear", "factor": DROPPED, "rope_theta": float(theta)}


@dataclass(frozen=True)
class Clex(RopeScaling):
    """CLEX: frequencies that follow an ODE in the length factor t (arXiv 2310.16450, ICLR 2024).

    `scale` is its max_factor T. d ln w_i / dt = [act((ln w + ln g(t)) W_up) W_down]_i + d ln g_i/dt
    from w_i(1) = theta^(-2i/d), where g is NTK scaling by 2t - 1; the two matrices, d/2 x
    `param_factor` d and back, serve the whole model and are trained with it (`cream.rope.clex`).
    Trained by the sampler `clex`, evaluated at t = ceil((prompt + answer) / N), at most T.
    Published: 2B tokens of RedPajama's books (954 steps of 512 x 4,096 by arithmetic, lr 2e-5);
    its README claims for Llama-2-7B trained at 4K a perplexity of 5.86 at 4K and 5.87 at 16K
    (14.53 at 32K).
    """

    param_factor: int = 1
    act: str = "tanh"  # or "silu": the code of 2023-10, and the released CLEX-7B-16K
    log_scale: bool = False  # logits times ln(tokens) / ln(N)
    frozen: bool = False  # W_down stays 0 and nothing of the two is trained: NTK by 2t - 1
    step: float = 0.05  # of the solver, in ln(2t - 1)
    log_g_theta: float | None = None  # theta inside ln g; None: the model's (released code: 1e4)
    name: ClassVar[str] = "clex"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("act", self.act, CLEX_ACTS)
        check_whole("param_factor", self.param_factor, 1, 64)
        check_number("step", self.step, 0, 1, above=True, note="0.05 is usual")
        for name in ("log_scale", "frozen"):
            check_flag(name, getattr(self, name))
        if self.log_g_theta is not None:
            check_number("log_g_theta", self.log_g_theta, 1, above=True)

    def factor(self, tokens: int, window: int) -> int:
        """Return t = ceil(tokens / window), at most T."""
        return min(self.scale, -(-tokens // window))

    def ntk(self, theta: float, dim: int, t: float) -> np.ndarray:
        """Return g(t), the frequencies while W_down is 0: theta^(-2i/d) (2t - 1)^(-2i/(d - 2))."""
        pairs = np.arange(0, dim, 2, dtype=np.float64)
        return _base_frequencies(theta, dim) * (2 * t - 1) ** (-pairs / (dim - 2))

    def inv_freq(self, theta: float, dim: int, window: int) -> np.ndarray:
        """Return g(T), an untrained model's frequencies at its full length; shape (dim/2,)."""
        return self.ntk(theta, dim, self.scale)

    def hf_parameters(self, theta: float, dim: int, window: int) -> dict[str, Any]:
        """Return `rope_parameters` of a type that stock transformers refuses to build.

        No stock type has frequencies that depend on the length: `clex.fixed` exports one t.
        """
        return {
            "rope_type": self.name,
            "factor": float(self.scale),
            "original_max_position_embeddings": int(window),
            **self.options,
            "rope_theta": float(theta),
        }


def longrope(
    theta: float, window: int, scale: int, stretch: np.ndarray, factor: float
) -> dict[str, Any]:
    """Return longrope `rope_parameters`: wavelengths times `stretch`, cos and sin times `factor`.

    Equal short and long lists make longrope's switch at N tokens do nothing; its own default
    attention factor differs, so ours is written out (protocols.md 3).
    """
    listed = np.asarray(stretch).tolist()
    return {
        "rope_type": "longrope",
        "factor": float(scale),
        "original_max_position_embeddings": int(window),
        "attention_factor": float(factor),
        "short_factor": listed,
        "long_factor": list(listed),
        "rope_theta": float(theta),
    }


_CLASSES: dict[str, type[RopeScaling]] = {
    kind.name: kind for kind in (NoScaling, Linear, Ntk, Yarn, YarnOriginal, Cope, Drope, Clex)
}
KINDS: tuple[str, ...] = tuple(_CLASSES)


def scaling(name: str, scale: int = 1, /, **options: Any) -> RopeScaling:
    """Return the scaling called `name` (one of `KINDS`) by `scale`; `none` takes 1, too.

    Options are the fields of the kind's class. Raises ValueError for an unknown name or option,
    and for a scale below 2 or not whole.
    """
    if name not in _CLASSES:
        raise ValueError(f"scaling is {name!r}: choose one of {', '.join(KINDS)}")
    known = {f.name for f in dataclasses.fields(_CLASSES[name])} - {"scale"}
    if unknown := sorted(set(options) - known):
        raise ValueError(
            f"scaling_options: {name} scaling has no option {', '.join(unknown)}; it has: "
            f"{', '.join(sorted(known)) or '-'}"
        )
    try:
        return _CLASSES[name](scale, **options)
    except ValueError as error:
        raise ValueError(f"scaling_options: {error}" if options else str(error)) from error


def described(about: dict[str, Any]) -> RopeScaling:
    """Return the scaling that a `config.cream` tells of."""
    return scaling(about["scaling"], about["scale"], **about.get("options", {}))
