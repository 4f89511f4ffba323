"""Answers of SmolLM2-135M's primary runs, made up: every length, depth and kind of text."""

from __future__ import annotations

import itertools
import json

import pandas as pd

from cream.results import COLUMNS
from cream.utils.provenance import hash_of

LENGTHS = (16384, 32768, 65436)
DEPTHS = (0, 11, 22, 33, 44, 55, 66, 77, 88, 100)
SCALINGS = {"clex": "clex"}
FORMS = {"clex": "-clex_grad_norm-1.0"}


def settings(kind: str, **changed: object) -> str:
    usual = {"decoding": "greedy", "dtype": "bfloat16", "mode": "alone", "style": "chat"}
    return json.dumps({**usual, "haystack": kind, **changed}, sort_keys=True)


def run(
    method: str, seed: int, found: float = 0.5, samples: int | dict = 3, lengths: tuple = LENGTHS,
    folder: str = "runs/primary", how: dict | None = None, **about: object,
) -> pd.DataFrame:  # fmt: skip
    """One run whose every answer scores `found`, a share; `samples` a length, depth and kind."""
    scaling = SCALINGS.get(method, "yarn")
    name = f"{folder}/{method}-{scaling}-8-seed{seed}{FORMS.get(method, '')}"
    constant = {
        "schema": "cream-rows-1", "run": name, "model_hash": hash_of(name), "base": "smollm2-135m",
        "preset": "smollm2-135m", "method": method, "scaling": scaling, "scale": 8, "window": 8192,
        "seed": seed, "task": "needle", "score": found, "contained": found,
        "tokens_trained": 150 * 16 * 8192, "commit": "0123abc", "date": "2026-11-28T22:00:00Z",
    } | about  # fmt: skip
    made = []
    for length, depth, kind in itertools.product(lengths, DEPTHS, ("code", "manual")):
        for sample in range(samples[length] if isinstance(samples, dict) else samples):
            question = f"{kind} {length} {depth} {sample}"
            made.append({
                **constant, "token_length": length, "depth_percent": depth, "sample": sample,
                "settings": settings(kind, **(how or {})), "prompt_hash": question,
                "key": hash_of(constant["model_hash"], question, str(how)),
            })  # fmt: skip
    return pd.DataFrame(made).reindex(columns=list(COLUMNS)).astype(COLUMNS)


def runs(*parts: pd.DataFrame) -> pd.DataFrame:
    return pd.concat(parts, ignore_index=True)
