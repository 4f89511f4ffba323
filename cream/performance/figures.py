"""What a step costs by target length, as a figure, and costs as tables that a notebook shows.

What belongs here: drawing and wording of what `costs` returns; numbers are made there.
"""

from __future__ import annotations

import json

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from cream.performance import costs
from cream.plots.style import finish, legend, printed, sheet, style

__all__ = [
    "attention",
    "by_target",
    "clex_steps",
    "generation",
    "long",
    "losses",
    "reading",
    "resumed",
    "ruler",
    "run_costs",
    "sharded",
    "split",
    "ways",
]

DRAWN = ("full", "plain", "clex", "cream")  # the last on top
APART = {"plain": 0.92, "clex": 1.09}  # of a target: equal costs are drawn beside each other


@printed
def by_target(table: pd.DataFrame) -> Figure:
    """Draw seconds and GiB of an optimizer step over the target, two panels a shape and card.

    `table` is `costs.by_target`'s. Full markers are measured, hollow ones extrapolated; a length
    that does not fit the card is said to where its memory would stand. Markers of methods that
    train windows stand a little apart, so that equal costs are seen. ValueError for an empty table.
    """
    if table.empty:
        raise ValueError(
            "there are no rows of a step's cost: python -m cream.performance step-cost"
        )
    parts = [part for _, part in table.groupby(["shape", "card"])]
    figure, panels = sheet(7.4, 3.6 * len(parts), len(parts), 2)
    for (left, right), part in zip(panels, parts, strict=True):
        _costs(left, right, part)
    legend(figure)
    return figure


def _costs(left: Axes, right: Axes, table: pd.DataFrame) -> None:
    """The two panels of one shape on one card."""
    for method in (one for one in DRAWN if one in set(table["method"])):
        part = table[table["method"] == method].sort_values("target")
        part = part.assign(x=part["target"] * APART.get(method, 1.0))
        _line(left, part, "step", method)
        _line(right, part, "gib", method)
        if method in ("full", "cream"):
            _beside(right, part, "held", method, "less weights and optimizer")
    full = table[table["method"] == "full"].sort_values("target")
    _beside(left, full.assign(x=full["target"]), "tokens", "full", "as many tokens as CREAM's step")
    _marks(right, table)
    left.set_yscale("log")
    left.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,g}"))
    right.set_ylim(0, 1.14 * max(right.get_ylim()[1], table["card_gib"].max()))
    for panel in (left, right):
        _targets(panel, sorted(table["target"].unique()))
    where = f"{table['shape'].iloc[0]}, {table['card'].iloc[0]}"
    finish(left, f"Time: {where}", "target length (tokens)", "step of 32 examples (s)")
    finish(right, "Memory", "target length (tokens)", "peak of the GPU's memory (GiB)")


def _targets(panel: Axes, targets: list[int]) -> None:
    """Targets on a log2 axis, each named."""
    panel.set_xscale("log", base=2)
    panel.xaxis.set_major_locator(FixedLocator(targets))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(FuncFormatter(_thousands))
    panel.set_xlim(0.8 * targets[0], 1.25 * targets[-1])


def _thousands(x: float, _: object) -> str:
    return f"{x / 1024:g}K" if x >= 1024 else f"{x:g}"


def _line(panel: Axes, part: pd.DataFrame, column: str, method: str) -> None:
    part, how = part.dropna(subset=[column]), style(method)
    if part.empty:
        return
    panel.plot(part["x"], part[column].astype(float), color=how.color, ls=how.line, lw=1.4)
    for kind, filled in (("measured", True), ("extrapolated", False)):
        some = part[part["kind"] == kind]
        if len(some):
            panel.plot(some["x"], some[column].astype(float), color=how.color, ls="none",
                       marker=how.marker, ms=7, mfc=how.color if filled else "white",
                       label=how.label + ("" if filled else ", extrapolated"))  # fmt: skip


def _beside(panel: Axes, part: pd.DataFrame, column: str, method: str, label: str) -> None:
    part, how = part.dropna(subset=[column]), style(method)
    if len(part):
        panel.plot(part["x"], part[column].astype(float), color=how.color, lw=0.9, ls=":",
                   label=f"{how.label}, {label}")  # fmt: skip


def _marks(panel: Axes, table: pd.DataFrame) -> None:
    """The card's memory, which lengths do not fit it, and which had their moments in RAM."""
    if len(card := table["card_gib"].dropna()):
        panel.axhline(card.iloc[0], color="#555555", lw=0.9, ls="--")
        _note(panel, table["target"].min(), card.iloc[0], "the card", 3)
        refused = table[table["kind"] == "does not fit"]
        for method, target in refused[["method", "target"]].to_numpy():
            said = f"{style(method).label}\ndoes not fit"
            _note(panel, target, card.iloc[0], said, 4, "center")
    away = table[(table["offload"] == "moments") & (table["method"] == "full")]
    if len(table["offload"].unique()) > 1:
        for row in away.dropna(subset=["gib"]).to_dict("records"):
            _note(panel, row["target"], row["gib"], "moments\nin RAM", -22, "center")


def _note(panel: Axes, x: float, y: float, text: str, up: int, where: str = "left") -> None:
    panel.annotate(text, (x, y), xytext=(0, up), textcoords="offset points", fontsize=7.5,
                   color="#555555", ha=where)  # fmt: skip


def run_costs(rows: pd.DataFrame, root: object = ".") -> pd.DataFrame:
    """Return the table of what the paper's base and chat run cost, a line a measured way."""
    tokens = {"base": 1000 * 32 * 4096, "chat": 100 * 32 * 4096}
    table = costs.measured(rows, root)
    table = costs.runs(table[table["model"] == "llama2-7b"], tokens)
    if table.empty:
        return table
    return pd.DataFrame({
        "GPUs": table["cards"].astype(str) + " x " + table["card"].str.removeprefix("NVIDIA "),
        "how": table["how"],
        "tokens/s": table["tokens_per_second"].map("{:,.0f}".format),
        "a GPU": (table["tokens_per_second"] / table["cards"]).map("{:,.0f}".format),
        "of as many times one": costs.of_one(table).map(lambda share: _number(share, "{:.1%}")),
        "MFU": table["mfu"].map(lambda share: f"{share:.1%}", na_action="ignore"),
        "GiB a GPU": table["gib"].map("{:.1f}".format, na_action="ignore"),
        "base run, hours": table["base, hours"].map("{:.2f}".format),
        "base run, GPU-hours": table["base, GPU-hours"].map("{:.2f}".format),
        "chat run, hours": table["chat, hours"].map("{:.2f}".format),
        "chat run, GPU-hours": table["chat, GPU-hours"].map("{:.2f}".format),
        "measured": table["date"].str[:16].str.replace("T", " "),
        "command": table["command"],
    }).reset_index(drop=True)  # fmt: skip


def _task(rows: pd.DataFrame, task: str, shaped: bool = True) -> list[dict]:
    """Rows of a task, if so of a large model's shape, with their settings beside their columns."""
    lines = [
        {**json.loads(row["settings"]), **row, "command": costs.command(row)}
        for row in rows[rows["task"] == task].to_dict("records")
    ]
    return [line for line in lines if not shaped or "shape" in line]


def _number(value: object, form: str) -> str:
    return "" if value is None or pd.isna(value) else form.format(value)


def long(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the table of single forwards of long documents: seconds, TFLOP/s, GiB."""
    lines = _task(rows, "speed_long")
    lines.sort(key=lambda one: (one["shape"], one["card"], one["token_length"],
                                str(one.get("tile"))))  # fmt: skip
    return pd.DataFrame([
        {"shape": one["shape"], "tokens": f"{one['token_length']:,}", "layers": one["layers"],
         "GPU": one["card"].removeprefix("NVIDIA "), "tile": one.get("tile"),
         "heads at once": one.get("heads", ""),
         "attention": one.get("attention", "auto"), "seconds": _number(one["score"], "{:.2f}"),
         "TFLOP/s": _number(one.get("tflops"), "{:.0f}"),
         "mean loss": _number(json.loads(one["settings"]).get("nll"), "{:.6f}"),
         "GiB": _number(one["peak_gib"], "{:.1f}"), "command": one["command"]}
        for one in lines
    ])  # fmt: skip


def generation(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the table of questions answered at length by a large model's shape."""
    lines = _task(rows, "speed_generation")
    lines.sort(key=lambda one: (one["card"], str(one.get("of")), one["token_length"]))
    return pd.DataFrame([
        {"task": one.get("of"), "tokens": f"{one['token_length']:,}",
         "GPU": one["card"].removeprefix("NVIDIA "), "at once": one.get("rows"),
         "samples/s": _number(one["score"], "{:.3f}"),
         "prompt tokens/s": _number(one["tokens_per_second"], "{:,.0f}"),
         "GiB": _number(one["peak_gib"], "{:.1f}"),
         "GiB, said before": _number(one.get("predicted_gib"), "{:.1f}"),
         "command": one["command"]}
        for one in lines
    ])  # fmt: skip


def ways(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the table of the same questions answered in batches, prompt by prompt, and otherwise.

    A line a length, samples a second by each way; a way that was not measured is empty.
    """
    asked = [one for one in _task(rows, "speed_generation", shaped=False) if "shape" not in one]
    found: dict[tuple, dict] = {}
    for one in asked:
        where = (one["card"].removeprefix("NVIDIA "), one["base"], one["dtype"], one["measured"],
                 f"{one['token_length']:,}", one["samples"], one["questions"])  # fmt: skip
        found.setdefault(where, {})[one["way"]] = one
    names = ("one by one", "continuous", "computed", "batches")
    return pd.DataFrame([
        {"base": base, "GPU": card, "dtype": dtype, "tokens": tokens, "samples": samples,
         "questions a record": questions,
         **{f"{name}, samples/s": _number(one.get(name, {}).get("score"), "{:.1f}")
            for name in names},
         **{f"batches / {name}": _times(one, name) for name in names[:2]},
         "tokens of one by one": _number(one["batches"]["contained"], "{:.0%}"),
         "command": _asking(one)}
        for (card, base, dtype, _, tokens, samples, questions), one in found.items()
        if "batches" in one
    ])  # fmt: skip


def _asking(ways: dict[str, dict]) -> str:
    """The command that asks by all these ways."""
    said = ways.get("continuous", ways["batches"])["command"]
    return f"{said} --computed" if "computed" in ways else said


def _times(ways: dict[str, dict], other: str) -> str:
    """How many times the samples a second of another way the batches answer."""
    return f"{ways['batches']['score'] / ways[other]['score']:.1f}" if other in ways else ""


def ruler(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the table of RULER-6 timed from texts to scores: a line a length, and one of all."""
    lines = _task(rows, "speed_ruler", shaped=False)
    lines.sort(key=lambda one: (one["card"], one["run"], one["measured"], one["of"] == "all"))
    return pd.DataFrame([
        {"model": one["run"], "GPU": one["card"].removeprefix("NVIDIA "),
         "tokens": "all" if one["of"] == "all" else f"{int(one['token_length']):,}",
         "questions": one["questions"], "seconds": _number(one["score"], "{:.0f}"),
         "prompts": _number(one.get("building_seconds"), "{:.0f}"),
         "loading": _number(one.get("loading_seconds"), "{:.0f}"),
         "prompt tokens/s": _number(one["tokens_per_second"], "{:,.0f}"),
         "GiB": _number(one["peak_gib"], "{:.1f}"),
         "RULER-6": _number(one.get("ruler6"), "{:.2f}"), "command": one["command"]}
        for one in lines
    ])  # fmt: skip


def losses(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the table of losses beside each other: ours, a library's, the plain one."""
    return pd.DataFrame([
        {"loss": one["way"], "GPU": one["card"].removeprefix("NVIDIA "),
         "tokens": f"{one['num_tokens']:,}", "ms": _number(one["score"], "{:.1f}"),
         "GiB": _number(one["peak_gib"], "{:.2f}"),
         "head's gradient from float32's": _number(one.get("head_gradient_error"), "{:.1e}"),
         "command": one["command"]}
        for one in _task(rows, "speed_loss")
    ])  # fmt: skip


def attention(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the table of attention kernels beside each other, forward and backward."""
    found: dict[tuple, dict] = {}
    for one in _task(rows, "speed_attention", shaped=False):
        keys = "" if one["key_heads"] == one["heads"] else f" / {one['key_heads']}"
        where = (one["card"], f"{one['heads']}{keys} x {one['head_size']}", one["token_length"],
                 one["windows"], one["kernel"], one["command"])  # fmt: skip
        found.setdefault(where, {})[one["pass"]] = one
    return pd.DataFrame([
        {"GPU": card.removeprefix("NVIDIA "), "heads": heads, "tokens": f"{tokens:,}",
         "windows": windows, "kernel": kernel,
         **{f"{name}, {unit}": _number(one.get(name, {}).get(key), form)
            for name in ("forward", "backward")
            for unit, key, form in (("ms", "score", "{:.2f}"), ("TFLOP/s", "tflops", "{:.0f}"))},
         "command": command}
        for (card, heads, tokens, windows, kernel, command), one in sorted(found.items(), key=_size)
    ])  # fmt: skip


def _size(line: tuple) -> tuple:
    """What attention was computed of: measurements of one size stand together, as they came."""
    return line[0][:4]


def clex_steps(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the table of what CLEX's ODE adds to a training step, in ms, by head size and t."""
    return pd.DataFrame([
        {"beside": one["card"].removeprefix("NVIDIA "), "head size": one["dim"], "t": one["t"],
         "ms a step": _number(one["score"], "{:.1f}"),
         "solving": _number(one["solve_ms"], "{:.1f}"),
         "its gradient": _number(one["gradient_ms"], "{:.1f}"),
         "longest": _number(one["longest_ms"], "{:.1f}"), "command": one["command"]}
        for one in _task(rows, "speed_clex", shaped=False)
    ])  # fmt: skip


def resumed(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the table of stopped and resumed runs, with what a whole checkpoint would take."""
    found = []
    for one in _task(rows, "speed_resume"):
        times = one["full_parameters"] / one["parameters"]
        equal = one.get("equal", {})  # as `multi_gpu` says it
        cards, kernels = one.get("processes", 1), f"{one.get('kernels', 'usual')} kernels"
        found.append({
            "GPUs": f"{cards} x {one['card'].removeprefix('NVIDIA ')}",
            "how": f"ZeRO-{one['zero']}, {kernels}" if cards > 1 else kernels,
            "layers": one["layers"],
            "losses equal": one.get("losses_equal", equal.get("losses")),
            "weights equal": one.get("weights_equal", equal.get("weights")),
            "losses apart, at most": _number(one.get("largest_difference"), "{:.1e}"),
            "checkpoint, written, read": _checkpoint(one, 1),
            "with all layers (extrapolated)": _checkpoint(one, times) if times > 1 else "these",
            "command": one["command"],
        })  # fmt: skip
    return pd.DataFrame(found)


def sharded(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the table of trainings whose losses must be those of one plain process."""
    found = []
    for one in _task(rows, "check_sharding") + _task(rows, "check_processes", shaped=False):
        cards, place = one["processes"], one.get("zero_offload", "none")
        how = f"ZeRO-{one['zero']}" if "zero" in one else "data parallel"
        plain = one.get("plain", one.get("one"))
        base = json.loads(one["settings"]).get("base", one["base"])
        found.append({
            "model": f"{one['shape']}, {one['layers']} layers" if "shape" in one else base,
            "GPUs": f"{cards} x {one['card'].removeprefix('NVIDIA ')}",
            "how": how if place == "none" else f"{how}, {place} in RAM",
            "steps": len(plain),
            "losses of plain training": f"{plain[0]:.4f} to {plain[-1]:.4f}",
            "losses apart, at most": f"{one['score']:.1e}",
            "command": one["command"],
        })  # fmt: skip
    found.sort(key=lambda line: (line["model"], line["how"]))
    return pd.DataFrame(found)


def split(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the table of evaluations by one GPU and by several: the same rows, how much sooner."""
    found = []
    for one in _task(rows, "speed_evaluation", shaped=False):
        asked, wall = one["asked_seconds"], one["wall_seconds"]
        found.append({
            "evaluation": one["evaluation"],
            "model": _evaluated(one),
            "GPUs": f"{one['processes']} x {one['card'].removeprefix('NVIDIA ')}",
            "rows": one["rows"],
            "equal": one["equal"],
            "answers that differ": one["answers_differ"],
            "asking, s": f"{asked[0]:.1f} -> {asked[1]:.1f}",
            "times as fast": f"{asked[0] / asked[1]:.2f}",
            "with loading, s": f"{wall[0]:.0f} -> {wall[1]:.0f}",
            "command": one["command"],
        })  # fmt: skip
    return pd.DataFrame(found)


def _evaluated(one: dict) -> str:
    """What an evaluation asked: the miniature answers questions, a large shape is read."""
    if one["evaluation"] == "03_longchat_lines" or "shape" not in one:
        return "data/miniature"
    return f"{one['shape']}, {one['layers']} layers"


def _checkpoint(one: dict, times: float) -> str:
    return (
        f"{times * one['checkpoint_gib']:.0f} GiB, {times * one['write_seconds']:.0f} s, "
        f"{times * one['read_seconds']:.0f} s"
    )


def reading(table: pd.DataFrame, rows: pd.DataFrame, root: object = ".") -> str:
    """Return what the tables come to, in sentences; what is missing is said to be missing."""
    said = []
    for (card, shape), part in table.groupby(["card", "shape"]) if len(table) else []:
        said.append(_argument(card, shape, part.set_index(["method", "target"])))
    paid = costs.measured(rows, root)
    paid = paid[(paid["model"] == "llama2-7b") & ~paid["how"].str.startswith("stock Trainer")]
    if len(paid):
        best = costs.runs(paid, {"base": 1000 * 32 * 4096}).sort_values("base, GPU-hours").iloc[0]
        said.append(
            f"The paper's base run costs {best['base, GPU-hours']:.1f} GPU-hours at best "
            f"({best['cards']} x {best['card']}, {best['how']})."
        )
    return "\n".join(said) or "Nothing was run yet."


def _argument(card: str, shape: str, part: pd.DataFrame) -> str:
    """How much more a full-length step takes, at the largest target where both are known."""
    both = [
        target for target in sorted(part.index.get_level_values("target").unique())
        if {("cream", target), ("full", target)} <= set(part.index)
        and part.loc[[("cream", target), ("full", target)], "step"].notna().all()
    ]  # fmt: skip
    if not both:
        return f"{shape} on {card}: no target has both CREAM and full length."
    ours, full = part.loc[("cream", both[-1])], part.loc[("full", both[-1])]
    fits = [target for (method, target), row in part.iterrows()
            if method == "full" and row["kind"] == "measured"]  # fmt: skip
    return (
        f"{shape} on {card}: at a target of {both[-1]:,} tokens a step of 32 examples takes CREAM "
        f"{ours['step']:,.1f} s and full-length training {full['step']:,.0f} s ({full['kind']}), "
        f"{full['step'] / ours['step']:,.0f} times as long; for as many tokens "
        f"{full['tokens'] / ours['tokens']:.1f} times. Full length fits this card up to "
        f"{max(fits, default=0):,} tokens."
    )
