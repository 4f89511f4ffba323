"""RoPE scaling: each kind's frequencies, and the stock Hugging Face config that carries it.

One frozen dataclass a kind, reached by `scaling(name, scale)`; no model and no torch in here.
Everywhere `theta` is RoPE's base, `dim` the number of rotated dimensions of a head (the whole head,
unless the model rotates a part of it), `window` the pre-training length N, and `scale` the whole
number s by which it is to grow. A base that scales its RoPE already gives, in the place of theta,
the inverse frequencies that it turns by (float64, shape (dim/2,)): every kind starts from
`_base_frequencies`, which takes either. A new kind subclasses `RopeScaling` and joins `_CLASSES`.
Formulas: PoSE (arXiv 2309.10400) and CREAM (arXiv 2406.07138), with YaRN (arXiv 2309.00071).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar

import numpy as np

__all__ = [
    "KINDS",
    "Linear",
    "NoScaling",
    "Ntk",
    "RopeScaling",
    "Yarn",
    "YarnOriginal",
    "longrope_parameters",
    "scaling",
]

BETA_FAST, BETA_SLOW = 32, 1  # rotations within the window where YaRN's ramp begins and ends


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


def _kept(theta: Theta, dim: int, window: int) -> np.ndarray:
    """Return gamma, the share of each pair's frequency YaRN leaves as it is; shape (dim/2,)."""
    low, high = _ramp(theta, dim, window)
    width = high - low or 0.001
    return 1 - np.clip((np.arange(dim // 2, dtype=np.float64) - low) / width, 0, 1)


@dataclass(frozen=True)
class RopeScaling:
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

    def inv_freq(self, theta: Theta, dim: int, window: int) -> np.ndarray:
        """Return the angle each pair turns a position, float64 of shape (dim/2,)."""
        raise NotImplementedError

    def attention_factor(self, window: int) -> float:
        """Return the factor on cos and sin (attention logits grow by its square)."""
        return 1.0

    def hf_parameters(self, theta: float, dim: int, window: int) -> dict[str, Any]:
        """Return the `rope_parameters` of a transformers 5 config that reproduce this scaling."""
        raise NotImplementedError

    def legacy_parameters(self, theta: float, dim: int, window: int) -> dict[str, Any]:
        """Return the transformers 4 keys, `rope_theta` and `rope_scaling`, that do the same."""
        return to_legacy(self.hf_parameters(theta, dim, window))


def to_legacy(parameters: dict[str, Any]) -> dict[str, Any]:
    """Split transformers 5 `rope_parameters` into the 4.x keys `rope_theta` and `rope_scaling`."""
    rest = {k: v for k, v in parameters.items() if k not in ("rope_theta", "partial_rotary_factor")}
    scaled = rest.get("rope_type", "default") != "default"
    return {"rope_theta": parameters["rope_theta"], "rope_scaling": rest if scaled else None}


def longrope_parameters(
    theta: float, inv_freq: np.ndarray, attention_factor: float, scale: int, window: int
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
        kept = _kept(theta, dim, window)
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
        kept = _kept(theta, dim, window)
        return (1 - kept) * self.scale + kept

    def inv_freq(self, theta: Theta, dim: int, window: int) -> np.ndarray:
        """Return w / ((1 - gamma) * scale + gamma), float64 of shape (dim/2,)."""
        return _base_frequencies(theta, dim) / self.stretch(theta, dim, window)

    def attention_factor(self, window: int) -> float:
        """Return 0.1 ln(scale) + 1."""
        return 0.1 * math.log(self.scale) + 1

    def hf_parameters(self, theta: float, dim: int, window: int) -> dict[str, Any]:
        """Return `rope_parameters` of type longrope: stock `yarn` would be the published one.

        Equal short and long lists make longrope's switch at N tokens do nothing; its own default
        attention factor differs, so ours is written out (protocols.md 3).
        """
        stretch = self.stretch(theta, dim, window).tolist()
        return {
            "rope_type": "longrope",
            "factor": float(self.scale),
            "original_max_position_embeddings": int(window),
            "attention_factor": self.attention_factor(window),
            "short_factor": stretch,
            "long_factor": list(stretch),
            "rope_theta": float(theta),
        }


_CLASSES: dict[str, type[RopeScaling]] = {
    kind.name: kind for kind in (NoScaling, Linear, Ntk, Yarn, YarnOriginal)
}
KINDS: tuple[str, ...] = tuple(_CLASSES)


def scaling(name: str, scale: int = 1) -> RopeScaling:
    """Return the scaling called `name` (one of `KINDS`) by `scale`; `none` takes 1, too.

    Raises ValueError for an unknown name, and for a scale below 2 or not whole.
    """
    if name not in _CLASSES:
        raise ValueError(f"scaling is {name!r}: choose one of {', '.join(KINDS)}")
    return _CLASSES[name](scale)
