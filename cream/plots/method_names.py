"""One name for each method of a table or figure, also where rows have no column for what it is.

    rows = by_name(rows)         `method` is the name: cream, "CoPE, CREAM's positions", ...

CoPE and DroPE are scalings that some sampler's positions are trained with; CLEX without its ODE,
LoRA and a gradient limit of its own stand in the run's name (`results.run_names`), and the cache
that CLEX was evaluated with in its rows' settings. Runs that differ in any of these are never one
method. What belongs here: names, for `style` and the tables.
"""

from __future__ import annotations

import json

import pandas as pd

from cream.plots.style import style
from cream.results.run_names import options_of

__all__ = ["by_name", "method_name"]

OWN = {"cope": "CoPE", "drope": "DroPE"}  # scalings that are methods, whichever the positions
FROZEN = "RandPos on frozen NTK"  # CLEX whose W_down stays 0
SAID = {
    "lora_rank": "LoRA rank {}", "learning_rate": "rate {}",
    "clex_grad_norm": "matrices clipped apart at {}",
}  # fmt: skip


def by_name(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows whose `method` is the method's name, apart for all that makes another method.

    Rows without the columns run or settings have nothing that would set them apart.
    """
    absent = pd.Series("", index=rows.index)
    about = [rows.get(name, absent).fillna("") for name in ("run", "settings")]
    keys = list(zip(rows["method"], rows["scaling"].fillna("none"), *about, strict=True))
    names = {key: method_name(*key) for key in set(keys)}
    return rows.assign(method=[names[key] for key in keys])


def method_name(method: str, scaling: str, run: str = "", settings: str = "") -> str:
    """Return a method's name: as rows have it, or in words where more than that makes it."""
    options = options_of(run)
    growing = json.loads(settings or "{}").get("clex_t") == "growing"
    method = method.removesuffix(" growing")
    if options.pop("frozen", None):
        name = FROZEN
    elif scaling in OWN and method != "scaled":
        of = style(method).label
        name = f"{OWN[scaling]}, {of}" if method == "plain" else f"{OWN[scaling]}, {of}'s positions"
    elif not options and not growing:
        return method
    else:
        name = style(method).label
    more = [SAID.get(key, key + " {}").format(value) for key, value in options.items()]
    return ", ".join([name, *more, *(["growing cache"] if growing else [])])
