"""Contrasts as `claims.contrasts` gives them, one by one, and evidence that holds nothing else."""

from __future__ import annotations

import pandas as pd

from cream.reproduction.paper_claims import Evidence


def contrast(claim: str, verdict: str, **other: object) -> dict:
    """A contrast of CREAM and PoSE in lines, by YaRN on text; `other` changes what it says."""
    return {
        "claim": claim, "plan": "ablations", "condition": "text", "scaling": "yarn", "a": "cream",
        "b": "pose", "endpoint": "lines", "value": 1.0, "low": 0.5, "high": 1.5, "seeds_low": 0.9,
        "seeds_high": 1.1, "n": 6, "seeds": 2, "seeds_most": 2, "bases": 3, "level_a": 51.0,
        "level_b": 50.0, "p": 0.01, "holm": float("nan"), "bound": "", "kind": "lead",
        "verdict": verdict, "family": "secondary", **other,
    }  # fmt: skip


def evidence(*rows: dict) -> Evidence:
    """Evidence of these contrasts alone."""
    found = pd.DataFrame(rows, columns=list(contrast("", "")))
    return Evidence(pd.DataFrame(), found, pd.DataFrame())
