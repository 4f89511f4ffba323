"""What the name of a campaign's run says beside method, scaling, scale and seed.

    options_of("runs/x/clex-clex+frozen-8-seed2")                  {"frozen": "True"}
    options_of("runs/x/cream-yarn-8-seed2-lora_rank-16")           {"lora_rank": "16"}

Rows have no columns for these, and runs that differ in them are other methods. What belongs here:
reading such names. `study.campaign_models.Job.name` writes them.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

__all__ = ["campaign_model", "options_of"]

_RUN = re.compile(r"(?:growing:)?[^+]*?((?:\+\w+)*)-\d+-seed\d+(?:-(.+))?")
_NAME = r"[a-z]\w*(?:\.[a-z]\w*)?"
_FIELD = re.compile(rf"({_NAME})-(.*?)(?=-{_NAME}-|$)")


def options_of(run: str) -> dict[str, str]:
    """Return the options of a run's scaling and the fields changed for it alone, as written.

    Empty for a name that no campaign gave.
    """
    flags, changes = _parts(run)
    return {**dict.fromkeys(flags.split("+")[1:], "True"), **dict(changes)}


def _parts(run: str) -> tuple[str, list[tuple[str, str]]]:
    """The flags of a run's scaling, each after a plus, and its fields with their values."""
    found = _RUN.fullmatch(PurePosixPath(run).name)
    flags, changes = found.groups(default="") if found else ("", "")
    return flags, _FIELD.findall(changes)


def campaign_model(method: str, scaling: str, scale: int, run: str = "") -> str:
    """Return how a campaign (or else an evaluation) names a row's model, `SEED` for its seed."""
    if method.endswith(" growing"):
        return run  # no campaign asks so, an evaluation does
    if method == "original":
        return method
    if method == "scaled":
        return f"scaled:{scaling}:{scale}"
    flags, changes = _parts(run)
    return ":".join([method, scaling + flags, str(scale), "SEED", *map("=".join, changes)])
