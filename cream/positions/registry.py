"""Index samplers: which tokens of a document are read, and the positions they are assigned.

Everything here is a pure function of numbers: no tensors, no files, no global random state. A
sampler is made by `sampler(name, window, scale, **options)` and drawn from by document length:

    draw = sampler("cream", window=4096, scale=8)
    tokens, positions = draw(num_tokens=20_000, rng=example_rng(seed=0, epoch=0, index=17))

Below the samplers lie functions without randomness (`cream_indices`, `pose_indices`), so that any
published draw can be replayed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from cream.positions.base import MOST_POSITIONS, Sampler
from cream.positions.baselines import EndPrompt, Full, Plain, PoSE, RandPos
from cream.positions.clex import Clex
from cream.positions.cream import Cream
from cream.utils.options import check_choice, check_whole

__all__ = ["METHODS", "RELEASES", "check_options", "sampler"]


_SAMPLERS: dict[str, tuple[type[Sampler], dict]] = {
    "cream": (Cream, {}),
    "pose": (PoSE, {}),
    "pose-v1": (PoSE, {"first_shift": True}),
    "randpos": (RandPos, {}),
    "endprompt": (EndPrompt, {}),
    "clex": (Clex, {}),
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
    kind, preset = _kind(name, options)
    return kind(window, scale, **preset, **options)


def check_options(name: str, scale: int, options: Mapping[str, object]) -> None:
    """Refuse (ValueError) options of a sampler that no window would make right."""
    kind, preset = _kind(name, options)
    made = object.__new__(kind)
    for field in dataclasses.fields(kind):
        given = {"window": 2, "scale": scale, **preset, **options}
        object.__setattr__(made, field.name, given.get(field.name, field.default))
    check_whole("scale", scale, kind.min_scale, MOST_POSITIONS // 2)
    made._check_options()


def _kind(name: str, options: Mapping[str, object]) -> tuple[type[Sampler], dict]:
    check_choice("method", name, METHODS)
    kind, preset = _SAMPLERS[name]
    known = {field.name for field in dataclasses.fields(kind)} - {"window", "scale", *preset}
    if unknown := sorted(set(map(str, options)) - known):
        raise ValueError(
            f"{name} has no option {', '.join(unknown)}; it has: {', '.join(sorted(known)) or '-'}"
        )
    return kind, preset
