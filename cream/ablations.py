"""What a grid's runs show: differences as forests, levels over what was varied.

Tables come from `claims`; what belongs here draws them and says what was not run. Intervals are
over bases (thick) and over seeds with the bases as given (thin); a verdict is in the marker: filled
"holds", open "cannot tell", crossed "does not hold".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from cream import statistics
from cream.claims import CLAIMS, FAILS, HOLDS, MARGIN, contrasts
from cream.style import GREY, curve, finish, in_order, in_windows, legend, printed, sheet

__all__ = [
    "by_learning_rate",
    "NotRun",
    "by_length",
    "by_place",
    "by_sigma",
    "forest",
    "level_table",
    "not_run",
    "table",
]


class NotRun(ValueError):
    """A figure or table asks for runs that are not there."""


SCALINGS = {"linear": ("o", "#111111"), "ntk": ("s", "#6A6A6A"), "yarn": ("^", "#A0A0A0")}
_SIGMA = re.compile(r"sigma (\d+(?:\.\d+)?)$")


# ------------------------------------------------------------------------------------- tables


def table(runs: pd.DataFrame, plans: Sequence[str]) -> pd.DataFrame:
    """Return `claims.contrasts` of some plans as a reader wants them: what was run, rounded."""
    found = contrasts(runs, tuple(plans))
    found = found[found["n"] > 0]
    shown = found[["claim", "condition", "scaling", "a", "b"]].copy()
    shown["difference"] = [_cell(*row) for row in found[["value", "low", "high"]].to_numpy()]
    shown["over seeds"] = [
        _cell(*row) for row in found[["value", "seeds_low", "seeds_high"]].values
    ]
    for name in ("n", "bases", "seeds", "verdict"):
        shown[name] = found[name]
    return shown.fillna({"b": "-"}).reset_index(drop=True)


def _cell(value: float, low: float, high: float) -> str:
    if np.isnan(low):
        return f"{value:+.1f} [no interval]"
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


def not_run(runs: pd.DataFrame, plans: Sequence[str]) -> list[str]:
    """Return the claims of these plans that no run of `runs` speaks of, each with its plan."""
    wanted = [claim for claim in CLAIMS if claim.plan in plans]
    if runs.empty:
        return [f"{claim.name} (plan {claim.plan})" for claim in wanted]
    found = contrasts(runs, tuple(plans))
    there = set(found.loc[found["n"] > 0, "claim"])
    return [f"{claim.name} (plan {claim.plan})" for claim in wanted if claim.name not in there]


def level_table(runs: pd.DataFrame, by: Sequence[str], endpoint: str = "lines") -> pd.DataFrame:
    """Return the mean of an endpoint over bases and seeds: a row a group of `by`.

    Columns: those of `by`, value, low, high (points; over bases where there are several), unit,
    bases, runs. Runs that were not asked are left out.
    """
    found = []
    for key, part in runs.dropna(subset=[endpoint]).groupby(list(by), sort=False):
        level = statistics.two_level(part, endpoint)
        found.append((*key, part.groupby("base")[endpoint].mean().mean(), level.low, level.high,
                      level.unit, part["base"].nunique(), len(part)))  # fmt: skip
    return pd.DataFrame(found, columns=[*by, "value", "low", "high", "unit", "bases", "runs"])


# ------------------------------------------------------------------------------------- forests


@printed
def forest(
    found: pd.DataFrame, title: str = "", published: Mapping[tuple[str, str], float] | None = None
) -> Figure:
    """Draw contrasts (of `claims.contrasts`) as a forest, a line a claim and a panel a condition.

    `published` maps (claim, scaling) to the paper's own number, drawn as a diamond. The band is
    the equivalence margin. Claims without a run are not drawn. NotRun where none has one.
    """
    found = found[found["n"] > 0]
    if found.empty:
        raise NotRun("no contrast has a run; there is nothing to draw")
    names = list(dict.fromkeys(found["claim"]))
    conditions = sorted(set(found["condition"]) - {"none"}, reverse=True) or ["none"]
    figure, axes = sheet(7.4, 1.2 + 0.42 * len(names), 1, len(conditions), sharex=True, sharey=True)
    for panel, condition in zip(axes[0], conditions, strict=True):
        part = found[found["condition"].isin([condition, "none"])]
        panel.axvspan(-MARGIN, MARGIN, color="#EFEFEF", zorder=0)
        panel.axvline(0, color=GREY, linewidth=0.8, zorder=1)
        for row in part.itertuples():
            _mark(panel, row, len(names) - 1 - names.index(row.claim))
        for (claim, scaling), value in (published or {}).items():
            if claim in names and condition != "mixed":  # the paper's data are text alone
                y = len(names) - 1 - names.index(claim) + _shift(scaling)
                panel.plot(value, y, "D", color="#B2182B", markersize=4, zorder=4)
        panel.set_ylim(-0.6, len(names) - 0.4)
        panel.grid(False, axis="y")
        named = condition if len(conditions) > 1 or condition != "none" else ""
        finish(panel, f"{title}{': ' if title and named else ''}{_data(named)}", "points")
    axes[0][0].set_yticks(range(len(names)), [_wrapped(name) for name in reversed(names)])
    _forest_legend(figure, found, bool(published))
    return figure


def _data(condition: str) -> str:
    return {"text": "text only", "mixed": "text with retrieval"}.get(condition, condition)


def _wrapped(name: str, most: int = 30) -> str:
    if len(name) <= most:
        return name
    cut = name.rfind(" ", 0, most)
    return f"{name[:cut]}\n{name[cut + 1 :]}"


def _shift(scaling: str) -> float:
    known = list(SCALINGS)
    return 0.24 * (1 - known.index(scaling)) if scaling in known else 0.0


def _mark(panel: Axes, row: tuple, line: int) -> None:
    marker, color = SCALINGS.get(row.scaling, ("o", "#111111"))
    y = line + _shift(row.scaling)
    panel.hlines(y, row.low, row.high, color=color, linewidth=1.0, zorder=2)
    panel.hlines(y, row.seeds_low, row.seeds_high, color=color, linewidth=2.6, zorder=2)
    face = color if row.verdict == HOLDS else "white"
    panel.plot(row.value, y, marker, color=color, markerfacecolor=face, markersize=5.5, zorder=3)
    if row.verdict == FAILS:
        panel.plot(row.value, y, "x", color=color, markersize=3.8, zorder=4)


def _forest_legend(figure: Figure, found: pd.DataFrame, published: bool) -> None:
    scalings = [s for s in SCALINGS if s in set(found["scaling"])]
    items = [Line2D([], [], color=SCALINGS[s][1], marker=SCALINGS[s][0], linestyle="none",
                    label=s) for s in scalings]  # fmt: skip
    items += [
        Line2D([], [], color="#111111", marker="o", linestyle="none", label="holds"),
        Line2D([], [], color="#111111", marker="o", linestyle="none", markerfacecolor="white",
               label="cannot tell"),
        Line2D([], [], color="#111111", marker="x", linestyle="none", markersize=5,
               label="does not hold"),
        Line2D([], [], color="#111111", linewidth=1.0, label="95 % over bases"),
        Line2D([], [], color="#111111", linewidth=2.6, label="over seeds, these bases"),
        Patch(color="#EFEFEF", label=f"within {MARGIN:g}"),
    ]  # fmt: skip
    if published:
        items.append(Line2D([], [], color="#B2182B", marker="D", linestyle="none", markersize=4,
                            label="paper"))  # fmt: skip
    figure.legend(handles=items, loc="outside upper left", fontsize=8, ncols=5, columnspacing=1.2,
                  handlelength=1.6)  # fmt: skip


# ------------------------------------------------------------------------------- over what varies


@printed
def by_sigma(runs: pd.DataFrame, endpoint: str = "lines") -> Figure:
    """Draw an endpoint over sigma, a panel a condition and scaling; CREAM itself is sigma 3.

    The paper's own sigma ablation is not among the published numbers in data/paper. NotRun
    when no other sigma was run.
    """
    runs = runs[(runs["variant"] == "cream") | runs["variant"].str.match(_SIGMA)]
    if not runs["variant"].str.match(_SIGMA).any():
        raise NotRun("no run has another sigma than 3: run the plan ablations")
    settings = runs.loc[runs["variant"] != "cream", ["condition", "scaling"]].drop_duplicates()
    found = level_table(
        _preferred(runs, "ablations"), ["condition", "scaling", "variant"], endpoint
    )
    found["sigma"] = [float(_SIGMA.match(v).group(1)) if v != "cream" else 3.0
                      for v in found["variant"]]  # fmt: skip
    return _panels(found, settings, "sigma", "sigma, in half windows", ["cream"])


@printed
def by_learning_rate(runs: pd.DataFrame, endpoint: str = "lines") -> Figure:
    """Draw an endpoint over the learning rate by method, a panel a condition and scaling.

    NotRun when the plan "sensitivity" was not run.
    """
    runs = runs[(runs["plan"] == "sensitivity") & runs["learning_rate"].notna()]
    if runs.empty:
        raise NotRun("no run of another learning rate: run the plan sensitivity")
    settings = runs[["condition", "scaling"]].drop_duplicates()
    keys = ["condition", "scaling", "variant", "learning_rate"]
    found = level_table(runs, keys, endpoint)
    figure = _panels(found, settings, "learning_rate", "learning rate", in_order(runs["variant"]))
    for panel in figure.axes:
        panel.set_xscale("log")
        rates = sorted(found["learning_rate"].unique())
        panel.set_xticks(rates, [f"{rate:g}" for rate in rates])
        panel.minorticks_off()
    return figure


def _preferred(runs: pd.DataFrame, plan: str) -> pd.DataFrame:
    """Runs of a plan; of a variant that it leaves to the primary grid, those."""
    own = runs[runs["plan"] == plan]
    keys = ["variant", "condition", "scaling"]
    there = set(map(tuple, own[keys].to_numpy()))
    primary = runs[runs["plan"] == "primary"]
    absent = [tuple(key) not in there for key in primary[keys].to_numpy()]
    return pd.concat([own, primary[absent]])


def _panels(
    found: pd.DataFrame, settings: pd.DataFrame, x: str, label: str, variants: Sequence[str]
) -> Figure:
    settings = settings.sort_values(["condition", "scaling"], ascending=[False, True])
    figure, axes = sheet(max(6.6, 2.4 * len(settings)), 3.3, 1, len(settings), sharey=True)
    for panel, (condition, scaling) in zip(axes[0], settings.to_numpy(), strict=True):
        part = found[(found["condition"] == condition) & (found["scaling"] == scaling)]
        for variant in variants:
            mine = part if len(variants) == 1 else part[part["variant"] == variant]
            if len(mine):
                mine = mine.sort_values(x)
                curve(panel, variant, mine[x], mine)
        runs = f"{part['runs'].min()} runs of {part['bases'].min()} bases" if len(part) else "none"
        finish(panel, f"{_data(condition)}, {scaling}\n({runs} a point)", label)
    axes[0][0].set_ylabel("correct (%)")
    legend(figure)
    return figure


@printed
def by_length(frame: pd.DataFrame, plan: str, variants: Sequence[str] | None = None) -> Figure:
    """Draw LongChat-Lines over length from a grid's rows, a panel a condition and scaling.

    `variants` None draws all of the plan. Points are means over bases and seeds with their 95 %
    interval. NotRun when the plan has no such rows.
    """
    rows = frame[(frame["task"] == "longchat_lines") & (frame["plan"] == plan)]
    rows = rows if variants is None else rows[rows["variant"].isin(list(variants))]
    if rows.empty:
        raise NotRun(f"plan {plan} has no rows of LongChat-Lines: run it first")
    rows = rows.assign(x=(rows["token_length"] / rows["window"]).round(2))
    figure, found = _grid_of_panels(rows, 2**0.035)
    for panel in figure.axes:
        in_windows(panel, found["x"])
        panel.tick_params(axis="x", labelsize=7.5)
        panel.set_xlabel("length of the record")
    legend(figure)
    return figure


@printed
def by_place(frame: pd.DataFrame, plan: str, variants: Sequence[str] | None = None) -> Figure:
    """Draw key-value retrieval at 2.4 N over the gold record's place, as `by_length` draws lines.

    NotRun when the plan has no such rows.
    """
    rows = frame[(frame["task"] == "kv_retrieval") & (frame["plan"] == plan)]
    rows = rows[rows["token_length"] > 1.8 * rows["window"]]
    rows = rows if variants is None else rows[rows["variant"].isin(list(variants))]
    if rows.empty:
        raise NotRun(f"plan {plan} has no rows of key-value retrieval: run it first")
    most = rows.groupby(["token_length", "scale"])["gold_index"].transform("max")
    rows = rows.assign(x=(100 * rows["gold_index"].astype(float) / most.astype(float)).round(0))
    figure, _ = _grid_of_panels(rows, None)
    for panel in figure.axes:
        panel.set_xticks([0, 25, 50, 75, 100])
        panel.set_xlabel("place of the gold record (%)")
    legend(figure)
    return figure


def _grid_of_panels(rows: pd.DataFrame, beside: float | None) -> tuple[Figure, pd.DataFrame]:
    """A panel a condition and scaling: the accuracy of every variant over `x`.

    Curves stand beside each other by a factor, or by 1.2 where `beside` is None.
    """
    rows = rows.assign(percent=100 * rows["score"].astype(float))
    keys = ["condition", "scaling", "variant", "x", "base", "seed"]
    runs = rows.groupby(keys)["percent"].mean().reset_index()
    found = level_table(runs, keys[:4], "percent")
    tuned = found[found["condition"] != "none"]
    settings = sorted(set(zip(tuned["condition"], tuned["scaling"], strict=True)), reverse=True)
    lines = -(-len(settings) // 3)
    columns = -(-len(settings) // lines)
    figure, axes = sheet(max(6.6, 2.5 * columns), 0.8 + 2.6 * lines, lines, columns, sharey=True)
    for panel, (condition, scaling) in zip(axes.flat, settings, strict=False):
        here = found["scaling"].isin([scaling, "none"])
        part = found[here & found["condition"].isin([condition, "none"])]
        methods = in_order(part["variant"])
        for number, variant in enumerate(methods):
            mine = part[part["variant"] == variant].sort_values("x")
            place = number - (len(methods) - 1) / 2
            x = mine["x"] + 1.2 * place if beside is None else mine["x"] * beside**place
            curve(panel, variant, x, mine)
        panel.set_ylim(-4, 104)
        finish(panel, f"{_data(condition)}, {scaling}")
    for panel in axes.flat[len(settings) :]:
        panel.remove()
    for line in axes:
        line[0].set_ylabel("correct (%)")
    return figure, found
