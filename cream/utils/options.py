"""Numbers and options as people give them: of the right kind and in range, or refused by name.

The one place where a sampler's options and a run's fields are checked. Numbers come from YAML and
JSON, where 1e1 may be text, 4.0 is no whole number and 'false' in quotes is true.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real

import numpy as np

__all__ = ["check_choice", "check_flag", "check_number", "check_text", "check_whole"]


def check_whole(name: str, value: object, least: int, most: int | None = None) -> None:
    """Refuse (ValueError) what is no whole number of at least `least` and at most `most`."""
    whole = isinstance(value, Integral) and not _is_flag(value)
    if whole and value >= least and (most is None or value <= most):
        return
    upto = "" if most is None else f" and at most {most:,}"
    near = None if whole or not _is_integral(value) else f": write {int(float(value))}"
    raise ValueError(
        f"{name} is {value!r}; it must be a whole number of at least {least}{upto}"
        f"{near or _hint(value)}"
    )


def check_number(
    name: str,
    value: object,
    low: float = -math.inf,
    high: float = math.inf,
    above: bool = False,
    note: str = "",
) -> None:
    """Refuse (ValueError) what is no finite number in [low, high], with `above` in (low, high]."""
    number = isinstance(value, Real) and not _is_flag(value)
    if number and math.isfinite(value) and low <= value <= high and not (above and value == low):
        return
    wanted = [] if low == -math.inf else [f"larger than {low:g}" if above else f"at least {low:g}"]
    wanted += [] if high == math.inf else [f"at most {high:g}"]
    limits = f", {' and '.join(wanted)}" if wanted else ""
    hint = f" ({note})" if note else ""
    raise ValueError(f"{name} is {value!r}; it must be a finite number{limits}{hint}{_hint(value)}")


def check_flag(name: str, value: object) -> None:
    """Refuse (ValueError) what is not true or false: 0, 1 and text, too."""
    if _is_flag(value):
        return
    quoted = str(value).lower() in ("true", "false", "yes", "no")
    hint = ", without quotes" if isinstance(value, str) and quoted else ""
    raise ValueError(f"{name} is {value!r}; it must be true or false{hint}")


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Refuse (ValueError) what is none of the choices; true is not 1."""
    if not any(type(value) is type(one) and value == one for one in choices):
        raise ValueError(f"{name} is {value!r}; choose one of {', '.join(map(str, choices))}")


def check_text(name: str, value: object) -> None:
    """Refuse (ValueError) what is no text, or empty."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} is {value!r}; it must be a text that is not empty")


def _is_flag(value: object) -> bool:
    return isinstance(value, bool | np.bool_)


def _as_number(value: object) -> float | None:
    """The finite number that a text or a number stands for."""
    try:
        found = float(value) if isinstance(value, str | Real) and not _is_flag(value) else math.nan
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def _is_integral(value: object) -> bool:
    found = _as_number(value)
    return found is not None and found == int(found)


def _hint(value: object) -> str:
    """How to write a number that YAML took for text."""
    if not isinstance(value, str) or (found := _as_number(value)) is None:
        return ""
    return f": this is text, write {found!r} (YAML takes 1e1 for text and 1.0e+1 for a number)"
