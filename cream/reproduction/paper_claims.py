"""The paper's claims as its text and tables state them, and what this package measures for each.

What belongs here: the list of claims of REPRODUCTION.md, the paper's number of each (computed from
data/paper), which contrasts of `study.analysis.contrasts` test it, and measurements that no
contrast holds. How they become tables is `document`'s.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pandas as pd

from cream.plots import published
from cream.results.published import PAPER_WINDOW, read_published
from cream.study import conditions
from cream.study.analysis import contrasts as analysis_contrasts

__all__ = ["ENTRIES", "SCALING", "Entry", "Evidence", "Line", "counted", "ends", "signed"]

SCALING = {"linear": "linear", "ntk": "NTK", "yarn": "YaRN", "none": ""}


class Evidence(NamedTuple):
    """What there is to measure from: the grid's runs and contrasts, rows of answers and speed.

    `query_counts` is of `study.training_data.read`. `first` has the runs of a first look, where
    some were added after it.
    """

    runs: pd.DataFrame
    contrasts: pd.DataFrame
    rows: pd.DataFrame
    query_counts: Mapping = MappingProxyType({})
    first: pd.DataFrame = pd.DataFrame()


UNTOLD = "not told apart"  # of times that scatter by more than they could differ: no verdict


class Line(NamedTuple):
    """One measured number of a claim: where, how much, from how much, and what follows.

    `interval` is over bases, `given` over seeds with the bases as given.
    """

    where: str
    value: str
    interval: str
    given: str
    counted: str
    verdict: str


@dataclass(frozen=True)
class Entry:
    """A claim of the paper, its number there, and how ours is found.

    `claims` are names in `study.analysis.contrasts.CLAIMS`, which must all hold in a setting for
    it to hold there; `beside` are shown with them and not counted. `scaling` takes the settings of
    one. `measure` instead reads what no contrast holds.
    """

    title: str
    paper: Callable[[Path], str]
    claims: tuple[str, ...] = ()
    scaling: str | None = None
    beside: tuple[str, ...] = ()
    measure: Callable[[Evidence], list[Line]] | None = None
    command: str = "python -m cream.study primary"


# -------------------------------------------------------------- what the paper says, as numbers


def _unnumbered(said: str) -> Callable[[Path], str]:
    return lambda _: f"{said} (no number of it in data/paper)"


def _lines(folder: Path) -> str:
    means = read_published(folder, "longchat_lines").groupby("method")["accuracy"].mean()
    gap = means["cream"] - means["pose"]
    return f"{gap:+.1f} points over PoSE ({means['cream']:.1f} against {means['pose']:.1f}; linear)"


def _middle(folder: Path) -> str:
    table = published.key_value_table(folder).set_index(["scaling", "keys"])
    cells = [f"{table.loc[('linear', keys), 'difference']:+.1f}" for keys in (75, 140)]
    numbers = published.endpoints(folder)
    same = [f"{numbers['middle of key-value pairs', scaling]:+.1f} {SCALING[scaling]}"
            for scaling in conditions.SCALINGS]  # fmt: skip
    return (f"{cells[0]} and {cells[1]} points over PoSE at 75 and 140 keys (linear, inner "
            f"places); its own numbers on the endpoint here, middle less ends at 140 keys: "
            f"{', '.join(same)}")  # fmt: skip


def _scaling(scaling: str) -> Callable[[Path], str]:
    def said(folder: Path) -> str:
        table = published.key_value_table(folder).set_index(["scaling", "keys"])
        gaps = [table.loc[(scaling, k), "CREAM"] - table.loc[(scaling, k), "PoSE"]
                for k in (75, 140)]  # fmt: skip
        return f"{gaps[0]:+.1f} and {gaps[1]:+.1f} points over PoSE (75 and 140 keys, all places)"

    return said


def _zero(method: str) -> Callable[[Path], str]:
    def said(folder: Path) -> str:
        table = read_published(folder, "longchat_lines")
        part = table[table["method"] == method]
        part = part[part["token_length"] > PAPER_WINDOW] if method == "original" else part
        return f"{part['accuracy'].max():.0f} at all {len(part)} lengths" + (
            " beyond N" if method == "original" else "")  # fmt: skip

    return said


def _needle(folder: Path) -> str:
    scores = read_published(folder, "needle")["judge_score"]
    full = (scores == 10).sum()
    return (
        f"CREAM alone: judged 10 of 10 in {full} of {len(scores)} cells (mean {scores.mean():.1f})"
    )


def _chat(folder: Path) -> str:
    table = read_published(folder, "longbench_categories").set_index("model")["average"]
    return (f"chat model after 100 steps (base: 1,000): LongBench {table['CREAM-7B-32k']:.1f}, the "
            f"untuned chat model {table['Llama2-7B-chat-4k']:.1f}")  # fmt: skip


# ---------------------------------------------------------------------- what no contrast measures


def _cost(evidence: Evidence) -> list[Line]:
    """How much longer a step of CREAM takes at the longest target than at the shortest."""
    rows = evidence.rows
    if rows.empty:
        return []
    rows = rows[(rows["task"] == "speed_efficiency") & rows["score"].notna()]
    how = [json.loads(text) for text in rows["settings"]]
    whole = [one.get("layers") == one.get("of_layers") for one in how]
    rows = rows[np.array(whole, dtype=bool)]
    found = []
    for (preset, card), part in rows.groupby(["preset", "card"]):
        times = part.groupby(["method", "token_length"])["score"].min()
        if "cream" not in times.index or len(cream := times["cream"].sort_index()) < 2:
            continue
        growth, scatter = 100 * (cream.max() / cream.min() - 1), _scatter(times)
        verdict = _cost_verdict(growth, scatter)
        where = f"{preset}, {card}, {cream.index[0]:,} to {cream.index[-1]:,} tokens"
        said = f"{cream.min():,.0f} to {cream.max():,.0f} ms, {growth:.1f} % apart"
        if "full" in times.index and len(full := times["full"].sort_index()) > 1:
            said += (f"; full length {full.iloc[0]:,.0f} ms at {full.index[0]:,} and "
                     f"{full.iloc[-1]:,.0f} at {full.index[-1]:,}")  # fmt: skip
        if scatter > analysis_contrasts.MARGIN:
            said += f"; plain fine-tuning, which is the same work, up to {scatter:.0f} % from it"
        found.append(Line(where, said, "-", "-", f"{len(cream)} targets, one timing each", verdict))
    return found


def _scatter(times: pd.Series) -> float:
    """How far plain fine-tuning's step is from CREAM's at one target, at most, in per cent."""
    wide = times.unstack("method")
    if "plain" not in wide:
        return 0.0
    both = wide[["cream", "plain"]].dropna()
    return 100 * (both.max(axis=1) / both.min(axis=1) - 1).max()


def _cost_verdict(growth: float, scatter: float) -> str:
    """Whether a step costs the same; times that scatter by more than the margin do not tell."""
    if growth <= analysis_contrasts.MARGIN:
        return analysis_contrasts.HOLDS
    return UNTOLD if scatter > analysis_contrasts.MARGIN else analysis_contrasts.FAILS


# ------------------------------------------------------------------------- texts of numbers


def signed(value: float, unit: str = "") -> str:
    """Return a difference as text, with its sign; what rounds to nothing has none."""
    text = f"{value:+,.{0 if unit and abs(value) >= 100 else 1}f}"
    return f"0.0{unit}" if float(text.replace(",", "")) == 0 else text + unit


def ends(low: float, high: float, unit: str = "") -> str:
    """Return an interval as text, "-" where there is none."""
    if np.isnan(low):
        return "-"
    both = (signed(end, unit).removesuffix(unit) for end in (low, high))
    return f"[{', '.join(both)}]{unit}"


def counted(n: int, seeds: int, most: int, bases: int) -> str:
    """Return how many pairs of runs a number stands on, as text: 5 = 1 to 2 x 3."""
    return f"{n} = {seeds if seeds == most else f'{seeds} to {most}'} x {bases}"


# ---------------------------------------------------------------------------------------- claims

ENTRIES = (
    Entry("CREAM leads PoSE on LongChat-Lines", _lines, ("lines average",)),
    Entry("CREAM leads PoSE in the middle of key-value retrieval", _middle,
          ("middle of key-value pairs",), beside=("accuracy at the middle",)),
    Entry("CREAM leads PoSE on key-value retrieval by linear", _scaling("linear"),
          ("key-value average",), "linear",
          beside=("linear, dense retrieval: key-value average",),
          command="python -m cream.study primary && python -m cream.study dense"),
    Entry("CREAM leads PoSE on key-value retrieval by NTK", _scaling("ntk"),
          ("key-value average",), "ntk"),
    Entry("CREAM leads PoSE on key-value retrieval by YaRN", _scaling("yarn"),
          ("key-value average",), "yarn"),
    Entry("A Gaussian middle leads a uniform one",
          _unnumbered("a truncated Gaussian beats a uniform middle"),
          ("gaussian over uniform",), beside=("gaussian over uniform, middle",),
          command="python -m cream.study ablations"),
    Entry("Both modes are needed", _unnumbered("each of the two modes alone is worse"),
          ("both modes: without relativity", "both modes: without continuity"),
          command="python -m cream.study ablations"),
    Entry("Sigma 3 is best", _unnumbered("sigma 3 is best"),
          ("sigma 3 over 1", "sigma 3 over 2", "sigma 3 over 4"),
          command="python -m cream.study ablations"),
    Entry("The original model is 0 beyond N", _zero("original"), ("original is 0 beyond N",)),
    Entry("RandPos is 0", _zero("randpos"), ("randpos is 0",)),
    Entry("Perplexity is flat to the target", _unnumbered("flat to the target"),
          ("flat perplexity",)),
    Entry("Perplexity is flat at scale 64", _unnumbered("flat to 256K (its windows end at 32K)"),
          ("scale 64: flat perplexity",), beside=("scale 64: perplexity no higher than pose",),
          command="python -m cream.study scale64"),
    Entry("CREAM leads PoSE on the needle", _needle, ("needle",)),
    Entry("Short tasks are kept", _unnumbered("little is lost on six short benchmarks"),
          ("short tasks kept",)),
    Entry("A tenth of the steps is as good", _chat, ("a tenth of the steps",),
          command="python -m cream.study tenth"),
    Entry("A step costs the same at every target", _unnumbered("trains at N whatever the target"),
          measure=_cost, command="python -m cream.performance step-cost"),
)  # fmt: skip
