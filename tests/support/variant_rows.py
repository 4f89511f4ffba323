"""Answers of SmolLM2-135M's seeds 7 to 9, made up: CREAM, its variants and PoSE at every length."""

from __future__ import annotations

import pandas as pd
from primary_rows import run, runs

from cream.reproduction.smollm2.margin import LENGTHS
from cream.reproduction.smollm2.variants import VARIANTS, run_name


def asked(
    variant: str, seed: int, found: float, sharper: float | None = None, **more: object
) -> pd.DataFrame:
    """A run that finds the share `found` at every length, and `sharper` where it is asked so."""
    method, name = VARIANTS[variant].method, f"runs/seeds/{run_name(variant, seed)}"
    about = {"run": name, "model_hash": name, "lengths": tuple(LENGTHS)} | more
    parts = [run(method, seed, found, **about)]
    if sharper is not None:
        parts.append(run(method, seed, sharper, how={"sharper": 1.2}, **about))
    return runs(*parts)
