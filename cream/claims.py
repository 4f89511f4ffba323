"""What a grid's runs say about the paper's claims: differences, intervals, p values, verdicts.

    runs = units(grid.read())          # a row a run, its endpoints as columns
    contrasts(runs)                    # a row a claim, condition and scaling

What belongs here: endpoints, the claims of data/results/PREREGISTRATION.md, and the rules by which
one "holds", "does not hold" or "cannot tell". Units are bases and, inside them, seeds; never
samples. Accuracies are in points of 100, perplexities in 100 times their logarithm (per cent).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from cream import statistics

__all__ = ["CLAIMS", "MARGIN", "Claim", "contrasts", "levels", "units", "verdict"]

MARGIN = 5.0  # points (or per cent of perplexity): smaller differences count as none
ALPHA = 0.05
FAR = (4.0, 6.0, 7.8)  # multiples of N whose mean is the endpoint of LongChat-Lines
RUN = ["plan", "condition", "variant", "method", "scaling", "scale", "base", "seed", "steps",
       "learning_rate", "options"]  # fmt: skip
HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot tell"
CONDITIONS = ("text", "mixed")
SCALINGS = ("linear", "ntk", "yarn")


@dataclass(frozen=True)
class Claim:
    """A statement about one endpoint of a variant `a`, compared with `b` where there is one.

    `kind` is "lead" (a is above b), "most" (a, or a - b, is at most the margin) or "kept" (a - b is
    at least minus the margin). `family` is "primary" (Holm) or "secondary" (as they are).
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
)  # fmt: skip


# --------------------------------------------------------------------------- endpoints of runs


def units(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a row a run with its endpoints, from rows of answers (`grid.read`).

    lines: mean accuracy of LongChat-Lines over 4, 6 and 7.8 N; lines_all: over every length asked
    beyond N; far: over those from half the target on; kv, middle_accuracy, middle: key-value
    retrieval at 2.4 N, its mean, its middle place, and the middle less the mean of the two ends;
    in_window: lines and pairs up to N; needle; log_ppl_near and log_ppl_far at N and at the target,
    rise: their difference. NaN where a run was not asked.
    """
    frame = frame.assign(options=frame["options"].fillna("{}"), score=100 * frame["score"])
    frame["run"] = frame.groupby(RUN, dropna=False).ngroup()
    frame["multiple"] = (frame["token_length"] / frame["window"]).astype(float).round(1)
    found = frame.drop_duplicates("run").set_index("run")[RUN].sort_index()
    target = found["scale"].where(
        found["scale"] > 1, frame.groupby("run")["multiple"].max().round()
    )
    parts = (
        _lines(frame, target),
        _pairs_of_keys(frame),
        _others(frame),
        _perplexity(frame, target),
    )
    return pd.concat([found, *parts], axis=1).sort_values(RUN, ignore_index=True)


def _cells(frame: pd.DataFrame, task: str, column: str) -> pd.DataFrame:
    """Mean points of a task: a row a run, a column a value of `column`."""
    asked = frame[frame["task"] == task]
    return asked.groupby(["run", column])["score"].mean().astype(float).unstack()


def _lines(frame: pd.DataFrame, target: pd.Series) -> pd.DataFrame:
    cells = _cells(frame, "longchat_lines", "multiple")
    beyond = cells.loc[:, cells.columns > 1.05]
    late = beyond.columns.to_numpy()[None, :] >= 0.48 * target.loc[beyond.index].to_numpy()[:, None]
    return pd.DataFrame({
        "lines": cells.reindex(columns=list(FAR)).mean(axis=1, skipna=False),
        "lines_all": beyond.mean(axis=1),
        "far": beyond.where(late).mean(axis=1),
    })  # fmt: skip


def _pairs_of_keys(frame: pd.DataFrame) -> pd.DataFrame:
    """Places are told apart by rank: objects of other lengths have other gold indices."""
    asked = frame[frame["multiple"] > 1.05]
    rank = asked["gold_index"].astype(float).groupby([asked["run"], asked["task"]]).rank("dense")
    cells = _cells(asked.assign(place=rank - 1), "kv_retrieval", "place").reindex(columns=range(5))
    return pd.DataFrame({
        "kv": cells.mean(axis=1, skipna=False),
        "middle_accuracy": cells[2],
        "middle": cells[2] - (cells[0] + cells[4]) / 2,
    })  # fmt: skip


def _others(frame: pd.DataFrame) -> pd.DataFrame:
    near = frame["task"].isin(["longchat_lines", "kv_retrieval"]) & (frame["multiple"] < 1.05)
    in_window = frame[near].groupby("run")["score"].mean().astype(float)
    needle = frame[frame["task"] == "needle"].groupby("run")["score"].mean().astype(float)
    return pd.DataFrame({"in_window": in_window, "needle": needle})


def _perplexity(frame: pd.DataFrame, target: pd.Series) -> pd.DataFrame:
    """100 times the mean loss (nats) over the scored tokens of all texts."""
    texts = frame[frame["task"] == "perplexity"]
    sums = texts.groupby(["run", "multiple"])[["nll", "scored_tokens"]].sum().astype(float)
    cells = (100 * sums["nll"] / sums["scored_tokens"]).unstack()
    last = target.reindex(cells.index)
    far = cells.where(cells.columns.to_numpy()[None, :] == last.to_numpy()[:, None]).mean(axis=1)
    near = cells[1.0] if 1.0 in cells else far * np.nan
    return pd.DataFrame({"log_ppl_near": near, "log_ppl_far": far, "rise": far - near})


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
    base), level_a, level_b, p, holm (primary claims, over all of them), verdict. A claim that no
    run speaks of has n 0 and cannot be told.
    """
    runs = units(runs) if "task" in runs else runs
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
        table.loc[primary, "holm"] = statistics.holm(table.loc[primary, "p"])
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
    return sorted(set(zip(of_plan["condition"], of_plan["scaling"], strict=True)))


def _contrast(runs: pd.DataFrame, claim: Claim, condition: str, scaling: str) -> dict:
    pairs = _pairs(runs, claim, condition, scaling)
    named = {"claim": claim.name, "family": claim.family, "plan": claim.plan,
             "condition": condition, "scaling": scaling, "endpoint": claim.endpoint, "a": claim.a,
             "b": claim.b, "kind": claim.kind}  # fmt: skip
    sizes = pairs.groupby("base").size()
    counted = {"n": len(pairs), "bases": len(sizes), "seeds": int(sizes.min()) if len(sizes) else 0}
    if pairs.empty:
        empty = dict.fromkeys(("value", "low", "high", "seeds_low", "seeds_high"), np.nan)
        return {**named, **empty, **counted, "level_a": np.nan, "level_b": np.nan, "p": np.nan}
    found = statistics.two_level(pairs, "value")
    low, high = (found.low, found.high) if len(sizes) > 1 else (np.nan, np.nan)
    near, far = _given_bases(found, sizes)
    levels = {"level_a": pairs["a"].mean(), "level_b": pairs["b"].mean()}
    p = statistics.p_value(found) if len(sizes) > 1 else np.nan
    return {**named, "value": pairs.groupby("base")["value"].mean().mean(), "low": low,
            "high": high, "seeds_low": near, "seeds_high": far, **counted, **levels,
            "p": p}  # fmt: skip


def _pairs(runs: pd.DataFrame, claim: Claim, condition: str, scaling: str) -> pd.DataFrame:
    """One row a run of `a`: base, seed, a, b (of the same base and seed) and a - b or a."""
    a = _side(runs, claim, claim.a, condition, scaling)
    if claim.b is None:
        pairs = a.rename(columns={claim.endpoint: "a"}).assign(b=np.nan)
        return pairs.assign(value=pairs["a"]).dropna(subset="value")
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
    if own.empty and claim.plan == "ablations":
        own = chosen[chosen["plan"] == "primary"]
    return own.reindex(columns=["base", "seed", claim.endpoint])


def _given_bases(found: statistics.TwoLevel, sizes: pd.Series) -> tuple[float, float]:
    """The 95 % interval over seeds with the bases as they are: narrower, and of these alone."""
    freedom = int((sizes - 1).sum())
    if not freedom:
        return np.nan, np.nan
    error = found.sd_inner * np.sqrt((1 / sizes).mean() / len(sizes))
    half = stats.t.ppf(0.5 + statistics.CONFIDENCE / 2, freedom) * error
    return found.value - half, found.value + half


def verdict(
    kind: str, low: float, high: float, holm: float | None = None, margin: float = MARGIN
) -> str:
    """Return "holds", "does not hold" or "cannot tell" for an interval (PREREGISTRATION.md).

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


def levels(runs: pd.DataFrame, endpoint: str = "lines", plan: str = "primary") -> pd.DataFrame:
    """Return the level of every variant, condition and scaling: value, low, high, bases, runs."""
    of_plan = runs[(runs["plan"] == plan) & runs[endpoint].notna()]
    keys = ["condition", "scaling", "variant"]
    found = []
    for key, part in of_plan.groupby(keys, sort=False):
        level = statistics.two_level(part, endpoint)
        bases = part["base"].nunique()
        found.append((*key, part.groupby("base")[endpoint].mean().mean(), level.low, level.high,
                      level.unit, bases, len(part)))  # fmt: skip
    return pd.DataFrame(found, columns=[*keys, "value", "low", "high", "unit", "bases", "runs"])
