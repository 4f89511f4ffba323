"""Index samplers: which tokens of a document are read, and the positions they are told.

Everything here is a pure function of numbers: no tensors, no files, no global random state. A
sampler is made by `sampler(name, window, scale, **options)` and drawn from by document length:

    draw = sampler("cream", window=4096, scale=8)
    tokens, positions = draw(num_tokens=20_000, rng=example_rng(seed=0, epoch=0, index=17))

Below the samplers lie functions without randomness (`cream_indices`, `pose_indices`), so that any
published draw can be replayed.
"""

from __future__ import annotations

import dataclasses

from cream.positions.base import Sampler, check_choice
from cream.positions.baselines import Full, Plain, PoSE, RandPos
from cream.positions.cream import Cream

__all__ = ["METHODS", "RELEASES", "sampler"]


_SAMPLERS: dict[str, tuple[type[Sampler], dict]] = {
    "cream": (Cream, {}),
    "pose": (PoSE, {}),
    "pose-v1": (PoSE, {"first_shift": True}),
    "randpos": (RandPos, {}),
    "full": (Full, {}),
    "plain": (Plain, {}),
}

METHODS = tuple(_SAMPLERS)


def _release(scale: int, mean: int) -> dict:
    return {"ends": 4 * scale, "mean": mean, "mode_group": 3000, "overlap": True}


RELEASES = {
    # What each official code does at a scale, as options of `cream` (protocols 1.1 and 1.4).
    "bigai-nlco": lambda scale: _release(scale, 1 + scale),
    "wutong4012": lambda scale: _release(scale, 9),
}


def sampler(name: str, window: int, scale: int, **options: object) -> Sampler:
    """Make the sampler called `name` (one of METHODS) for a window N and a scale s.

    Options are the fields of the sampler's class; ValueError for an unknown name or option and
    for numbers that cannot work together.
    """
    check_choice("method", name, METHODS)
    kind, preset = _SAMPLERS[name]
    known = {field.name for field in dataclasses.fields(kind)} - {"window", "scale", *preset}
    if unknown := sorted(set(options) - known):
        raise ValueError(
            f"{name} has no option {', '.join(unknown)}; it has: {', '.join(sorted(known)) or '-'}"
        )
    return kind(window, scale, **preset, **options)
