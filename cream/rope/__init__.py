"""RoPE scaling: the frequencies of each kind, and a model's config that carries them.

Belongs here: formulas of frequencies and how a config says them. Does not: weights and files
(`models`). Read first: `scalings`. A new kind subclasses `RopeScaling` there; `config` extends a
base's config by it.
"""

from cream.rope.scalings import (
    KINDS,
    Linear,
    NoScaling,
    Ntk,
    RopeScaling,
    Yarn,
    YarnOriginal,
    scaling,
    to_legacy,
)

__all__ = [
    "KINDS",
    "Linear",
    "NoScaling",
    "Ntk",
    "RopeScaling",
    "Yarn",
    "YarnOriginal",
    "scaling",
    "to_legacy",
]
