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
from typing import NamedTuple

import numpy as np
import pandas as pd

from cream.statistics import intervals
from cream.study.analysis.endpoints import PERPLEXITIES, units
from cream.study.conditions import (
    CONDITIONS,
    DENSE,
    SCALINGS,
    SHARPER,
    SHARPER_NAME,
    TENTH,
    WIDER_NAME,
)

__all__ = ["CLAIMS", "Claim", "MARGIN", "contrasts", "verdict"]

MARGIN = 5.0  # points (or per cent of perplexity): smaller differences count as none
ALPHA = 0.05
UNTUNED = ("original", "scaled")
ITSELF = ("margin", "sharper")  # plans of a method beside itself, which reads the same windows
NO_RUN = np.empty(0, int)
HOLDS, FAILS, OPEN = "holds", "does not hold", "inconclusive"


@dataclass(frozen=True)
class Claim:
    """A statement about one endpoint of a variant `a`, compared with `b` where there is one.

    `kind` is "lead" (a is above b), "more" (by more than the margin), "most" (a, or a - b, is at
    most the margin) or "kept" (a - b is at least minus the margin). `family` is "primary" (Holm),
    "secondary" (as they are) or "exploratory" (as they are, and added after the rows had been
    seen).
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
    *(Claim(f"tuned for 1.25 L, {method}: {what}", endpoint, WIDER_NAME.format(method), method,
            kind, plan="margin")
      for method in ("cream", "pose", "plain", "full")
      for what, endpoint, kind in (("gains at 7.8 N", "lines_last", "more"),
                                   ("short tasks kept", "in_window", "kept"))),
    *(Claim(f"attention x{factor:g} when used, {method}: {what}", endpoint,
            SHARPER_NAME.format(method, factor), method, kind, plan="sharper")
      for method in ("cream", "pose", "plain") for factor in SHARPER
      for what, endpoint, kind in (("gains at 7.8 N", "lines_last", "more"),
                                   ("short tasks kept", "in_window", "kept"))),
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
    table = pd.DataFrame(_measured(runs, _where(runs, wanted)))
    at = np.where(table["plan"] == "scale64", ", scale 64", "")
    for condition, variants in (flagged or {}).items():
        uneven = ((table["a"] + at).isin(variants) | (table["b"] + at).isin(variants)) & (
            table["b"].notna() & (table["condition"] == condition)
        )
        uneven &= ~table["plan"].isin(ITSELF)
        table.loc[uneven, "family"] = "sensitivity"
    table["holm"] = np.nan
    if (primary := table["family"] == "primary").any():
        table.loc[primary, "holm"] = intervals.holm(table.loc[primary, "p"])
    table["verdict"] = [
        verdict(row.kind, row.low, row.high, row.holm if row.family == "primary" else None)
        for row in table.itertuples()
    ]
    return table


class _Setting(NamedTuple):
    """A claim, and the condition and scaling that it is tested in."""

    claim: Claim
    condition: str
    scaling: str


def _where(runs: pd.DataFrame, claims: Sequence[Claim]) -> list[_Setting]:
    """The settings of these claims: the conditions and scalings of their plans."""
    keys = runs[["plan", "condition", "scaling"]].drop_duplicates()
    there = {plan: set(part.itertuples(index=False, name=None))
             for plan, part in keys.set_index("plan").groupby(level=0)}  # fmt: skip
    primary = list(itertools.product(CONDITIONS, SCALINGS))
    every = list(itertools.product((*CONDITIONS, *DENSE), SCALINGS))
    found = []
    for claim in claims:
        asked = primary if claim.plan == "primary" else [
            at for at in every if at in there.get(claim.plan, ())
        ]  # fmt: skip
        asked = [("none", "none")] if claim.a == "original" else asked
        found += [_Setting(claim, *at) for at in asked]
    return found


def _measured(runs: pd.DataFrame, settings: Sequence[_Setting]) -> list[dict]:
    """A row a setting: its names, numbers and bound."""
    # `middle` is a difference of places, which is at an end where their mean is.
    at_end = {number: _Setting(dataclasses.replace(one.claim, endpoint="kv"), *one[1:])
              for number, one in enumerate(settings) if one.claim.endpoint == "middle"}  # fmt: skip
    pairs = _pairs(runs, [*settings, *at_end.values()])
    sizes, levels = _by_base(pairs)
    found = intervals.two_levels(pairs, "value", "setting")
    ends = levels | {n: levels.get(len(settings) + k) for k, n in enumerate(at_end)}
    beside = _beside(runs)
    return [
        _row(one, found[n], sizes[n], levels[n]) | {"bound": _bound(one, ends[n], beside)}
        if n in found
        else _row(one)
        for n, one in enumerate(settings)
    ]


def _row(
    setting: _Setting,
    found: intervals.TwoLevel | None = None,
    sizes: np.ndarray | None = None,
    levels: np.ndarray | None = None,
) -> dict:
    """A setting's names and numbers: sizes are the runs of each base, levels its three means."""
    claim, condition, scaling = setting
    named = {"claim": claim.name, "family": claim.family, "plan": claim.plan,
             "condition": condition, "scaling": scaling, "endpoint": claim.endpoint, "a": claim.a,
             "b": claim.b, "kind": claim.kind}  # fmt: skip
    if found is None:
        nothing = dict.fromkeys(("value", "low", "high", "seeds_low", "seeds_high"), np.nan)
        counted = dict.fromkeys(("n", "bases", "seeds", "seeds_most"), 0)
        sides = dict.fromkeys(("level_a", "level_b", "p"), np.nan)
        return {**named, **nothing, **counted, **sides, "bound": ""}
    several = len(sizes) > 1
    low, high = (found.low, found.high) if several else (np.nan, np.nan)
    near, far = intervals.inner_interval(found.value, found.sd_inner, sizes)
    return {**named, "value": levels[0], "low": low, "high": high, "seeds_low": near,
            "seeds_high": far, "n": found.n_runs, "bases": len(sizes), "seeds": int(sizes.min()),
            "seeds_most": int(sizes.max()), "level_a": levels[1], "level_b": levels[2],
            "p": intervals.p_value(found) if several else np.nan}  # fmt: skip


def _by_base(pairs: pd.DataFrame) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
    """Of each setting the runs of each base, and the means of value, a and b, bases alike."""
    keys = ["setting", "base"]
    # Without NaN: beside them pandas' means of the other rows differ in the last bit.
    means = pd.DataFrame({name: pairs.dropna(subset=name).groupby(keys)[name].mean()
                          for name in ("value", "a", "b")})  # fmt: skip
    sizes = pairs.groupby(keys).size()
    of_setting = pd.Series(range(len(sizes))).groupby(sizes.index.get_level_values(0)).indices
    counted, table = sizes.to_numpy(), means.to_numpy()
    return (
        {number: counted[at] for number, at in of_setting.items()},
        {number: table[at].mean(axis=0) for number, at in of_setting.items()},
    )


def _beside(runs: pd.DataFrame) -> pd.DataFrame:
    """The mean of each endpoint of every variant, by plan, condition and scaling."""
    endpoints = sorted({claim.endpoint for claim in CLAIMS} & set(runs))
    keys = ["plan", "condition", "scaling", "variant"]
    return runs.groupby(keys)[endpoints].mean()


def _bound(setting: _Setting, levels: np.ndarray | None, beside: pd.DataFrame) -> str:
    """Where both sides lie at one end of the scale, or, of a single side, all its neighbours.

    What the original model can do up to N is near 100, and to keep that says something.
    """
    claim, condition, scaling = setting
    if claim.endpoint in PERPLEXITIES or (claim.a == "original" and claim.b is None):
        return ""
    if claim.b is None:
        sides = beside.loc[(claim.plan, condition, scaling), claim.endpoint]
    else:
        sides = np.full(1, np.nan) if levels is None else levels[1:]
    if sides.max() < MARGIN:
        return "near 0"
    return "near 100" if sides.min() > 100 - MARGIN and claim.b != "original" else ""


def _pairs(runs: pd.DataFrame, settings: Sequence[_Setting]) -> pd.DataFrame:
    """One row a run of `a` in each setting: setting (its number), base, seed, a, b and value.

    `b` is of the same base and seed, `value` a - b or a. Of a rise a is the loss at the target and
    b that at N.
    """
    places = _places(runs)
    names = [one.claim.endpoint for one in settings]
    # An untuned model has no seed: every tuned one of its base is compared with it.
    untuned = [n for n, one in enumerate(settings) if one.claim.b in UNTUNED]
    a, b = (_side(runs, places, settings, side) for side in "ab")
    for part in (a, b):
        part["value"] = _values(runs, part, names)
        part["match"] = part["seed"].where(~part["setting"].isin(untuned), 0)
    single = a["setting"].isin([n for n, one in enumerate(settings) if one.claim.b is None])
    on = ["setting", "base", "match"]
    pairs = a[~single].merge(b[[*on, "value"]], on=on, suffixes=("_a", "_b"))
    pairs = pairs.rename(columns={"value_a": "a", "value_b": "b"})
    pairs["value"] = pairs["a"] - pairs["b"]
    alone = a[single]
    first = [{"rise": "log_ppl_far"}.get(name, name) for name in names]
    second = [{"rise": "log_ppl_near"}.get(name) for name in names]
    alone = alone.assign(a=_values(runs, alone, first), b=_values(runs, alone, second))
    columns = ["setting", "base", "seed", "a", "b", "value"]
    found = pd.concat([pairs[columns], alone[columns]]).dropna(subset="value")
    return found.sort_values("setting", kind="stable", ignore_index=True)


def _values(runs: pd.DataFrame, part: pd.DataFrame, names: Sequence[str | None]) -> np.ndarray:
    """The runs' values of the endpoints (`names`) of their settings; NaN where there is none."""
    columns = list(dict.fromkeys(names))
    table = runs.reindex(columns=columns).to_numpy(float)
    column = np.array([columns.index(name) for name in names], dtype=int)
    return table[part["run"], column[part["setting"]]]


def _side(
    runs: pd.DataFrame, places: dict[tuple, np.ndarray], settings: Sequence[_Setting], side: str
) -> pd.DataFrame:
    """The runs of one side of all settings: setting and run (both as numbers), base and seed."""
    found = [_chosen(places, one, getattr(one.claim, side)) for one in settings]
    number = np.repeat(np.arange(len(found)), [len(rows) for rows in found])
    run = np.concatenate([np.empty(0, int), *found])
    there = runs[["base", "seed"]].take(run).reset_index(drop=True)
    return there.assign(setting=number, run=run)


def _chosen(places: dict[tuple, np.ndarray], setting: _Setting, variant: str | None) -> np.ndarray:
    """The runs of a variant: a plan's own, and where it has none those of the primary grid."""
    claim, condition, scaling = setting
    key = (
        variant,
        "none" if variant in UNTUNED else condition,
        "none" if variant == "original" else scaling,
    )
    plans = (claim.plan, "primary") if claim.plan in ("ablations", "tenth") else (claim.plan,)
    return next((places[plan, *key] for plan in plans if (plan, *key) in places), NO_RUN)


def _places(runs: pd.DataFrame) -> dict[tuple, np.ndarray]:
    """The runs (as numbers) by plan, variant, condition and scaling, untuned in no condition."""
    condition = runs["condition"].mask(runs["variant"].isin(UNTUNED), "none")
    scaling = runs["scaling"].mask(runs["variant"] == "original", "none")
    return runs.groupby([runs["plan"], runs["variant"], condition, scaling]).indices


def verdict(
    kind: str, low: float, high: float, holm: float | None = None, margin: float = MARGIN
) -> str:
    """Return "holds", "does not hold" or "inconclusive" for an interval (PREREGISTRATION.md).

    "lead": holds above 0 (and, with `holm`, below 0.05 there); does not below 0 or within the
    margin. "more": holds above the margin, does not below it. "most": holds up to the margin, does
    not beyond it. "kept": holds from minus the margin on, does not below it.
    """
    if np.isnan(low) or np.isnan(high):
        return OPEN
    if kind == "more":
        return HOLDS if low > margin else FAILS if high < margin else OPEN
    if kind == "most":
        return HOLDS if high <= margin else FAILS if low > margin else OPEN
    if kind == "kept":
        return HOLDS if low >= -margin else FAILS if high < -margin else OPEN
    if low > 0 and (holm is None or holm < ALPHA):
        return HOLDS
    return FAILS if high < 0 or (low >= -margin and high <= margin) else OPEN
