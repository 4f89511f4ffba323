"""What a grid's runs say about the paper's claims: differences, intervals, p values, verdicts.

    runs = units(grid.read())          # a row a run, its endpoints as columns
    contrasts(runs)                    # a row a claim, condition and scaling

What belongs here: endpoints, the claims of data/results/PREREGISTRATION.md, and the rules by which
one "holds", "does not hold" or "inconclusive". Units are bases and, inside them, seeds; never
samples. Accuracies are in points of 100, perplexities in 100 times their logarithm (per cent).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cream.statistics import intervals
from cream.study.analysis.endpoints import PERPLEXITIES, units
from cream.study.conditions import CONDITIONS, DENSE, SCALINGS, TENTH

__all__ = ["CLAIMS", "Claim", "MARGIN", "contrasts", "verdict"]

MARGIN = 5.0  # points (or per cent of perplexity): smaller differences count as none
ALPHA = 0.05
HOLDS, FAILS, OPEN = "holds", "does not hold", "inconclusive"


@dataclass(frozen=True)
class Claim:
    """A statement about one endpoint of a variant `a`, compared with `b` where there is one.

    `kind` is "lead" (a is above b), "most" (a, or a - b, is at most the margin) or "kept" (a - b is
    at least minus the margin). `family` is "primary" (Holm), "secondary" (as they are) or
    "exploratory" (as they are, and added after the rows had been seen).
    """

    name: str
    endpoint: str
    a: str
    b: str | None = None
    kind: str = "lead"
    family: str = "secondary"
    plan: str = "primary"


CLAIMS = (
    Claim("lines average", "lines", "cream", "pose", family="primary"),
    Claim("middle of key-value pairs", "middle", "cream", "pose", family="primary"),
    Claim("key-value average", "kv", "cream", "pose"),
    Claim("accuracy at the middle", "middle_accuracy", "cream", "pose"),
    Claim("needle", "needle", "cream", "pose"),
    Claim("skipped positions help: cream", "lines", "cream", "plain"),
    Claim("skipped positions help: pose", "lines", "pose", "plain"),
    Claim("tuning helps", "lines", "cream", "scaled"),
    Claim("full length is no better", "lines", "cream", "full", kind="kept"),
    Claim("original is 0 beyond N", "lines", "original", kind="most"),
    Claim("randpos is 0", "lines_all", "randpos", kind="most"),
    Claim("flat perplexity", "rise", "cream", kind="most"),
    Claim("short tasks kept", "in_window", "cream", "original", kind="kept"),
    Claim("gaussian over uniform", "lines", "cream", "uniform", plan="ablations"),
    Claim("gaussian over uniform, middle", "middle", "cream", "uniform", plan="ablations"),
    Claim("both modes: without relativity", "lines", "cream", "continuity", plan="ablations"),
    Claim("both modes: without continuity", "lines", "cream", "relativity", plan="ablations"),
    Claim("sigma 3 over 1", "lines", "cream", "sigma 1", plan="ablations"),
    Claim("sigma 3 over 2", "lines", "cream", "sigma 2", plan="ablations"),
    Claim("sigma 3 over 4", "lines", "cream", "sigma 4", plan="ablations"),
    Claim("coin a batch of 3,000 is as good", "lines", "mode by batch", "cream", "kept",
          plan="ablations"),
    Claim("longer ends are as good", "lines", "ends x4", "cream", "kept", plan="ablations"),
    Claim("pose v2 over v1", "lines", "pose", "pose-v1", plan="ablations"),
    Claim("scale 64: sigma grown", "far", "sigma grown", "cream", plan="scale64"),
    Claim("scale 64: uniform", "far", "uniform", "cream", plan="scale64"),
    Claim("scale 64: cream over pose", "far", "cream", "pose", plan="scale64"),
    Claim("scale 64: release of wutong4012", "far", "cream", "mean 9", plan="scale64"),
    Claim("scale 64: flat perplexity", "rise", "cream", kind="most", plan="scale64"),
    Claim("a tenth of the steps", "lines", "a tenth", "cream", "kept", plan="tenth"),
    # Added after the rows had been seen (PREREGISTRATION, changes).
    Claim("ends 16 times as long are as good", "lines", "ends x16", "cream", "kept",
          "exploratory", "ablations"),
    Claim("a renormalised Gaussian is as good", "lines", "truncated", "cream", "kept",
          "exploratory", "ablations"),
    Claim("coin a batch of 70 is as good", "lines", "mode by 70", "cream", "kept",
          "exploratory", "ablations"),
    Claim("scale 64: cream over plain", "far", "cream", "plain", "lead", "exploratory", "scale64"),
    Claim("scale 64: pose over plain", "far", "pose", "plain", "lead", "exploratory", "scale64"),
    *(Claim(f"scale 64: {what} than {name}", endpoint, "cream", b, kind, "exploratory", "scale64")
      for what, endpoint, kind in (("more lines from 8 N on", "lines_all", "lead"),
                                   ("perplexity no higher", "log_ppl_far", "most"))
      for b, name in (("pose", "pose"), ("mean 9", "the release of wutong4012"))),
    Claim("scale 64: free content, perplexity no higher than pose", "log_ppl_far", "content free",
          "pose", "most", "exploratory", "scale64"),
    Claim("scale 64: free content, more lines than cream", "lines_all", "content free", "cream",
          "lead", "exploratory", "scale64"),
    *(Claim(f"linear, dense retrieval: {what}", endpoint, a, b, kind, "exploratory", "dense")
      for what, endpoint, a, b, kind in (
          ("lines average", "lines", "cream", "pose", "lead"),
          ("middle", "middle", "cream", "pose", "lead"),
          ("key-value average", "kv", "cream", "pose", "lead"),
          ("skipped positions help, pose", "lines", "pose", "plain", "lead"),
          ("full length is no better", "lines", "cream", "full", "kept"))),
)  # fmt: skip


# --------------------------------------------------------------------------- endpoints of runs


# --------------------------------------------------------------------------- claims


def contrasts(
    runs: pd.DataFrame,
    plans: tuple[str, ...] | None = None,
    flagged: Mapping[str, Sequence[str]] | None = None,
) -> pd.DataFrame:
    """Return a row a claim, condition and scaling: what was found, and the verdict.

    Comparisons with a variant that is `flagged` in a condition (grid_data.json: its windows can
    answer a fifth more or fewer queries than CREAM's) are of the family "sensitivity".

    `runs` is of `units`, or rows of answers. Columns: claim, family, plan, condition, scaling,
    endpoint, a, b, kind, value, low, high (95 %, bases as units), seeds_low, seeds_high (over seeds
    with these bases taken as given), n (runs, or pairs of them), bases, seeds (the fewest of a
    base), seeds_most (the most of one), level_a, level_b (means of those pairs, bases weighing
    alike), p, holm (primary claims, over all of them), bound, verdict. `bound` is "near 0" or "near
    100" where both sides lie within the margin of that end: no difference can be measured there. A
    claim without runs has n 0 and is inconclusive.
    """
    runs = units(runs) if "task" in runs else runs
    runs = runs.assign(variant=runs["plan"].map(TENTH).fillna(runs["variant"]))
    wanted = [c for c in CLAIMS if plans is None or c.plan in plans]
    rows = [
        _contrast(runs, claim, condition, scaling)
        for claim in wanted
        for condition, scaling in _where(runs, claim)
    ]
    table = pd.DataFrame(rows)
    at = np.where(table["plan"] == "scale64", ", scale 64", "")
    for condition, variants in (flagged or {}).items():
        uneven = ((table["a"] + at).isin(variants) | (table["b"] + at).isin(variants)) & (
            table["b"].notna() & (table["condition"] == condition)
        )
        table.loc[uneven, "family"] = "sensitivity"
    table["holm"] = np.nan
    if (primary := table["family"] == "primary").any():
        table.loc[primary, "holm"] = intervals.holm(table.loc[primary, "p"])
    table["verdict"] = [
        verdict(row.kind, row.low, row.high, row.holm if row.family == "primary" else None)
        for row in table.itertuples()
    ]
    return table


def _where(runs: pd.DataFrame, claim: Claim) -> list[tuple[str, str]]:
    """The conditions and scalings a claim is tested in: those of its plan."""
    if claim.a == "original":
        return [("none", "none")]
    if claim.plan == "primary":
        return [(condition, scaling) for condition in CONDITIONS for scaling in SCALINGS]
    of_plan = runs[(runs["plan"] == claim.plan) & (runs["condition"] != "none")]
    there = set(zip(of_plan["condition"], of_plan["scaling"], strict=True))
    return [at for at in itertools.product((*CONDITIONS, *DENSE), SCALINGS) if at in there]


def _contrast(runs: pd.DataFrame, claim: Claim, condition: str, scaling: str) -> dict:
    pairs = _pairs(runs, claim, condition, scaling)
    named = {"claim": claim.name, "family": claim.family, "plan": claim.plan,
             "condition": condition, "scaling": scaling, "endpoint": claim.endpoint, "a": claim.a,
             "b": claim.b, "kind": claim.kind}  # fmt: skip
    sizes = pairs.groupby("base").size()
    counted = {"n": len(pairs), "bases": len(sizes), "seeds": int(sizes.min()) if len(sizes) else 0,
               "seeds_most": int(sizes.max()) if len(sizes) else 0}  # fmt: skip
    if pairs.empty:
        empty = dict.fromkeys(("value", "low", "high", "seeds_low", "seeds_high"), np.nan)
        levels = dict.fromkeys(("level_a", "level_b", "p"), np.nan)
        return {**named, **empty, **counted, **levels, "bound": ""}
    found = intervals.two_level(pairs, "value")
    low, high = (found.low, found.high) if len(sizes) > 1 else (np.nan, np.nan)
    near, far = intervals.inner_interval(found.value, found.sd_inner, sizes)
    value, *levels = pairs.groupby("base")[["value", "a", "b"]].mean().mean()
    p = intervals.p_value(found) if len(sizes) > 1 else np.nan
    return {**named, "value": value, "low": low, "high": high, "seeds_low": near,
            "seeds_high": far, **counted, "level_a": levels[0], "level_b": levels[1], "p": p,
            "bound": _bound(runs, claim, condition, scaling, pairs)}  # fmt: skip


def _bound(
    runs: pd.DataFrame, claim: Claim, condition: str, scaling: str, pairs: pd.DataFrame
) -> str:
    """Where both sides lie at one end of the scale, or, of a single side, all its neighbours.

    `middle` is a difference of places: it is at an end where their mean is. What the original model
    can do up to N is near 100, and to keep that says something.
    """
    if claim.endpoint in PERPLEXITIES or (claim.a == "original" and claim.b is None):
        return ""
    endpoint = {"middle": "kv"}.get(claim.endpoint, claim.endpoint)
    if claim.b is None:
        beside = runs[(runs["plan"] == claim.plan) & (runs["condition"] == condition)]
        sides = beside[beside["scaling"] == scaling].groupby("variant")[endpoint].mean()
    else:
        if endpoint != claim.endpoint:
            other = dataclasses.replace(claim, endpoint=endpoint)
            pairs = _pairs(runs, other, condition, scaling)
        sides = pairs.groupby("base")[["a", "b"]].mean().mean()
    if sides.max() < MARGIN:
        return "near 0"
    return "near 100" if sides.min() > 100 - MARGIN and claim.b != "original" else ""


def _pairs(runs: pd.DataFrame, claim: Claim, condition: str, scaling: str) -> pd.DataFrame:
    """One row a run of `a`: base, seed, a, b (of the same base and seed) and value: a - b or a.

    Of a rise a is the loss at the target and b that at N.
    """
    a = _side(runs, claim, claim.a, condition, scaling)
    if claim.b is None:
        levels = {"a": a[claim.endpoint], "b": np.nan}
        if claim.endpoint == "rise":
            levels = {"a": a["log_ppl_far"], "b": a["log_ppl_near"]}
        return a.assign(value=a[claim.endpoint], **levels).dropna(subset="value")
    b = _side(runs, claim, claim.b, condition, scaling)
    # An untuned model has no seed: every tuned one of its base is compared with it.
    on = ["base"] if claim.b in ("original", "scaled") else ["base", "seed"]
    b = b[[*on, claim.endpoint]].rename(columns={claim.endpoint: "b"})
    pairs = a.rename(columns={claim.endpoint: "a"}).merge(b, on=on)
    return pairs.assign(value=pairs["a"] - pairs["b"]).dropna(subset="value")


def _side(
    runs: pd.DataFrame, claim: Claim, variant: str, condition: str, scaling: str
) -> pd.DataFrame:
    """The runs of a variant: a plan's own, and where it has none those of the primary grid."""
    chosen = runs[runs["variant"] == variant]
    if variant != "original":
        chosen = chosen[chosen["scaling"] == scaling]
        if variant != "scaled":
            chosen = chosen[chosen["condition"] == condition]
    own = chosen[chosen["plan"] == claim.plan]
    if own.empty and claim.plan in ("ablations", "tenth"):
        own = chosen[chosen["plan"] == "primary"]
    levels = ("log_ppl_near", "log_ppl_far") if claim.endpoint == "rise" else ()
    return own.reindex(columns=["base", "seed", claim.endpoint, *levels])


def verdict(
    kind: str, low: float, high: float, holm: float | None = None, margin: float = MARGIN
) -> str:
    """Return "holds", "does not hold" or "inconclusive" for an interval (PREREGISTRATION.md).

    "lead": holds above 0 (and, with `holm`, below 0.05 there); does not below 0 or within the
    margin. "most": holds up to the margin, does not beyond it. "kept": holds from minus the margin
    on, does not below it.
    """
    if np.isnan(low) or np.isnan(high):
        return OPEN
    if kind == "most":
        return HOLDS if high <= margin else FAILS if low > margin else OPEN
    if kind == "kept":
        return HOLDS if low >= -margin else FAILS if high < -margin else OPEN
    if low > 0 and (holm is None or holm < ALPHA):
        return HOLDS
    return FAILS if high < 0 or (low >= -margin and high <= margin) else OPEN
