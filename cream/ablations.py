"""What a grid's runs show: differences as forests, levels over what was varied.

Tables come from `claims`; what belongs here draws them and says what was not run. Intervals are
over bases (thick) and over seeds with the bases as given (thin); a verdict is in the marker: filled
"holds", open "cannot tell", crossed "does not hold".
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as parquet
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from cream import statistics
from cream.claims import CLAIMS, FAILS, HOLDS, MARGIN, contrasts, units
from cream.style import GREY, curve, finish, in_order, in_windows, legend, printed, sheet

__all__ = [
    "by_learning_rate",
    "NotRun",
    "by_length",
    "by_place",
    "by_option",
    "counts",
    "forest",
    "level_table",
    "load",
    "not_run",
    "table",
]


class NotRun(ValueError):
    """A figure or table asks for runs that are not there."""


SCALINGS = {"linear": ("o", "#111111"), "ntk": ("s", "#6A6A6A"), "yarn": ("^", "#A0A0A0")}
UNLIKE = "sensitivity"  # the family of comparisons whose variants were shown unlike data
READ = ["plan", "condition", "variant", "method", "scaling", "scale", "options", "base", "seed",
        "steps", "learning_rate", "window", "key", "commit", "task", "token_length", "gold_index",
        "depth_percent", "num_keys", "sample", "score", "nll", "scored_tokens"]  # fmt: skip
SCALE = 8
# Of CREAM at N = 512 and scale 8, and what the axis is called.
DEFAULTS = {"sigma": (3.0, "sigma, in half windows"), "ends": (4.0, "ends in continuity, tokens")}


# ------------------------------------------------------------------------------------- tables


def load(path: str | Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return a grid's answers and its runs with their endpoints; both empty without the file.

    Of the answers what is drawn and counted, without their texts; runs of the plan "tiny", which
    only shows that everything runs, are left out.
    """
    if not Path(path).is_file():
        return pd.DataFrame(), pd.DataFrame()
    there = parquet.read_schema(path).names
    frame = pd.read_parquet(path, columns=[name for name in READ if name in there])
    frame = frame[frame["plan"] != "tiny"]
    return frame, units(frame)


def counts(runs: pd.DataFrame) -> pd.DataFrame:
    """Return how many models there are: a row a plan, data and variant, a column a scaling."""
    if runs.empty:
        return pd.DataFrame({"runs": []})
    keys = ["plan", "condition", "variant", "scaling"]
    return runs.groupby(keys, sort=False).size().unstack(fill_value=0)


def table(
    runs: pd.DataFrame, plans: Sequence[str], flagged: Mapping[str, Sequence[str]] | None = None
) -> pd.DataFrame:
    """Return `claims.contrasts` of some plans as a reader wants them: what was run, rounded.

    With `flagged` (see `layout.flagged`) comparisons of unlike data have no verdict.
    """
    if not _any(runs, plans):
        return pd.DataFrame({"claim": []})
    found = contrasts(runs, tuple(plans), flagged)
    found = found[found["n"] > 0]
    found["verdict"] = found["verdict"].where(found["family"] != UNLIKE, "data differ")
    shown = found[["claim", "condition", "scaling", "a", "b"]].copy()
    shown["difference"] = [_cell(*row) for row in found[["value", "low", "high"]].to_numpy()]
    shown["over seeds"] = [
        _cell(*row) for row in found[["value", "seeds_low", "seeds_high"]].values
    ]
    for name in ("n", "bases", "seeds", "verdict"):
        shown[name] = found[name]
    return shown.fillna({"b": "-"}).reset_index(drop=True)


def _any(runs: pd.DataFrame, plans: Sequence[str]) -> bool:
    return len(runs) > 0 and bool(runs["plan"].isin(list(plans)).any())


def _cell(value: float, low: float, high: float) -> str:
    if np.isnan(low):
        return f"{value:+.1f} [no interval]"
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


def not_run(runs: pd.DataFrame, plans: Sequence[str]) -> list[str]:
    """Return the claims of these plans that no run of `runs` speaks of, each with its plan."""
    wanted = [claim for claim in CLAIMS if claim.plan in plans]
    if not _any(runs, plans):
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
    the equivalence margin. Rows of the family "sensitivity" compare variants that were shown unlike
    data; they are drawn pale. Claims without a run are not drawn. NotRun where none has one.
    """
    found = found[found["n"] > 0]
    if found.empty:
        raise NotRun("no contrast has a run; there is nothing to draw")
    names = list(dict.fromkeys(found["claim"]))
    one = len(set(found["scaling"]) - {"none"}) == 1
    conditions = sorted(set(found["condition"]) - {"none"}, reverse=True) or ["none"]
    figure, axes = sheet(7.4, 1.2 + 0.42 * len(names), 1, len(conditions), sharex=True, sharey=True)
    for panel, condition in zip(axes[0], conditions, strict=True):
        part = found[found["condition"].isin([condition, "none"])]
        panel.axvspan(-MARGIN, MARGIN, color="#EFEFEF", zorder=0)
        panel.axvline(0, color=GREY, linewidth=0.8, zorder=1)
        for row in part.itertuples():
            _mark(panel, row, len(names) - 1 - names.index(row.claim), one=one)
        for (claim, scaling), value in (published or {}).items():
            if claim in names and condition != "mixed":  # the paper's data are text alone
                y = len(names) - 1 - names.index(claim) + _shift(scaling)
                panel.plot(value, y, "D", color="#B2182B", markersize=4, zorder=4)
        panel.set_ylim(-0.6, len(names) - 0.4)
        panel.grid(False, axis="y")
        said = [title, "" if condition == "none" else _data(condition)]
        said += [f"{found['scaling'].iloc[0]}"] if one else []
        finish(panel, ", ".join(word for word in said if word), "points")
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


def _mark(panel: Axes, row: tuple, line: int, one: bool) -> None:
    marker, color = SCALINGS.get("linear" if one else row.scaling, ("o", "#111111"))
    y = line + (0.0 if one else _shift(row.scaling))
    flagged = row.family == UNLIKE
    pale = {"color": color, "alpha": 0.35 if flagged else 1.0}
    panel.hlines(y, row.low, row.high, linewidth=1.0, zorder=2, **pale,
                 linestyle=(0, (1, 1)) if flagged else "solid")  # fmt: skip
    if flagged:
        panel.plot(row.value, y, marker, markerfacecolor="white", markersize=4, zorder=3, **pale)
        return
    panel.hlines(y, row.seeds_low, row.seeds_high, color=color, linewidth=2.6, zorder=2)
    face = color if row.verdict == HOLDS else "white"
    panel.plot(row.value, y, marker, color=color, markerfacecolor=face, markersize=5.5, zorder=3)
    if row.verdict == FAILS:
        panel.plot(row.value, y, "x", color=color, markersize=3.8, zorder=4)


def _forest_legend(figure: Figure, found: pd.DataFrame, published: bool) -> None:
    scalings = [s for s in SCALINGS if s in set(found["scaling"])]
    items = [
        Line2D([], [], color=SCALINGS[s][1], marker=SCALINGS[s][0], linestyle="none", label=s)
        for s in scalings if len(scalings) > 1
    ]  # fmt: skip
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
    if (found["family"] == UNLIKE).any():
        items.append(Line2D([], [], color="#111111", alpha=0.35, linestyle=(0, (1, 1)),
                            marker="o", markersize=4, markerfacecolor="white",
                            label="data differ"))  # fmt: skip
    if published:
        items.append(Line2D([], [], color="#B2182B", marker="D", linestyle="none", markersize=4,
                            label="paper"))  # fmt: skip
    figure.legend(handles=items, loc="outside upper left", fontsize=8, ncols=5, columnspacing=1.2,
                  handlelength=1.6)  # fmt: skip


# ------------------------------------------------------------------------------- over what varies


@printed
def by_option(runs: pd.DataFrame, option: str, endpoint: str = "lines") -> Figure:
    """Draw an endpoint over one number of CREAM's sampler, a panel a condition and scaling.

    `option` is of `DEFAULTS`: "sigma" in half windows, "ends" in tokens; CREAM as it is has the
    default. The paper's own sigma ablation is not among the published numbers in data/paper.
    NotRun when no other value was run.
    """
    default, label = DEFAULTS[option]
    found = {text: json.loads(text) for text in runs["options"].dropna().unique()}
    runs = runs[(runs["method"] == "cream") & (runs["scale"] == SCALE) & runs["options"].notna()]
    given = [found[text] for text in runs["options"]]
    runs = runs.assign(x=[float(one.get(option, default)) for one in given])
    runs = runs[np.array([set(one) <= {option} for one in given], dtype=bool)]
    varied = runs[runs["x"] != default]
    if varied.empty:
        raise NotRun(f"no run has another {option} than {default:g}: run the plan ablations")
    settings = varied[["condition", "scaling"]].drop_duplicates()
    table = level_table(_preferred(runs, "ablations"), ["condition", "scaling", "x"], endpoint)
    return _panels(table, settings, label, ["cream"])


@printed
def by_learning_rate(runs: pd.DataFrame, endpoint: str = "lines") -> Figure:
    """Draw an endpoint over the learning rate by method, a panel a condition and scaling.

    NotRun when the plan "sensitivity" was not run.
    """
    runs = runs[(runs["plan"] == "sensitivity") & runs["learning_rate"].notna()]
    if runs.empty:
        raise NotRun("no run of another learning rate: run the plan sensitivity")
    settings = runs[["condition", "scaling"]].drop_duplicates()
    runs = runs.assign(x=runs["learning_rate"])
    found = level_table(runs, ["condition", "scaling", "variant", "x"], endpoint)
    figure = _panels(found, settings, "learning rate", in_order(runs["variant"]))
    for panel in figure.axes:
        panel.set_xscale("log")
        rates = sorted(found["x"].unique())
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
    found: pd.DataFrame, settings: pd.DataFrame, label: str, variants: Sequence[str]
) -> Figure:
    settings = settings.sort_values(["condition", "scaling"], ascending=[False, True])
    figure, axes = sheet(max(6.6, 2.4 * len(settings)), 3.3, 1, len(settings), sharey=True)
    for panel, (condition, scaling) in zip(axes[0], settings.to_numpy(), strict=True):
        part = found[(found["condition"] == condition) & (found["scaling"] == scaling)]
        for variant in variants:
            mine = part if len(variants) == 1 else part[part["variant"] == variant]
            if len(mine):
                mine = mine.sort_values("x")
                curve(panel, variant, mine["x"], mine)
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
