"""What a run costs, from measured rows: hours, memory, disk, by card and by target length.

What belongs here: arithmetic on rows of the tasks speed_training, speed_efficiency and
speed_optimizer, and what is said of a run before it starts (`plan`). Nothing is measured here, and
what was not measured is not guessed: what is extrapolated is marked so. Measuring is done by
`training`, `step_cost` and `speed`; figures of it are in `figures`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from transformers import PreTrainedConfig

from cream import models, presets, results
from cream.models import bases
from cream.models.hardware import training_flops, utilisation
from cream.performance import random_models
from cream.training import checkpoint_room, lora, memory, parallel
from cream.training.config import TrainConfig

__all__ = [
    "Plan",
    "by_target",
    "command",
    "default_rows",
    "latest",
    "measured",
    "of_one",
    "plan",
    "runs",
]

GIB = 2**30
EXAMPLES = 32  # sequences a step of the paper
STATES = {"none": 16, "moments": 8}  # bytes a parameter on the card, as `optimizer` keeps them
SAME_MACHINE = pd.Timedelta(minutes=30)
NEAR = 4  # a model so many times larger or smaller has another share of the card's peak
SHAPES = {"llama2-7b": "llama2-7b", "llama2-7b-chat": "llama2-7b"}  # of presets on the hub


def command(row: dict) -> str:
    """Return the command that measures a speed row again: the one it kept, or the one it says."""
    how = row["settings"] if isinstance(row["settings"], dict) else json.loads(row["settings"])
    if "command" in how:
        return how["command"]
    shape = how.get("shape", row.get("preset"))
    depth = random_models.SHAPES.get(shape) and random_models.shape(
        shape
    ).num_hidden_layers != how.get("layers")
    layers = f" --layers {how['layers']}" if depth and "layers" in how else ""
    if row["task"] == "speed_long":
        names = ("tile", "heads", "compile", "attention")
        parts = [f"--{name} {how[name]}" for name in names if name in how]
        where = f"--shape {shape}{layers} --lengths {row['token_length']}"
        return " ".join(["python -m cream.performance long", where, *parts])
    if row["task"] == "speed_generation":
        return (
            "python -m cream.performance generation "
            f"{_question_options(row, how, f'{shape}{layers}')}"
        )
    if "trainer" not in how:
        corpus = how.get("corpus", "random")
        return f"python -m cream.performance small-training {shape} --corpus {corpus}"
    said = f"python -m cream.performance training --shape {shape}{layers} --steps {how['steps']}"
    if how["trainer"] == "stock Trainer":
        return f"{said} --stock --stock-micro-batch {how['micro_batch']}"
    again = re.search(r"recompute (\w+)", how["trainer"])
    eight = f" --float8 {how['float8']}" if how.get("float8", "none") != "none" else ""
    said += f" --micro-batch {how['micro_batch']} --recompute {again and again.group(1)}"
    for name, usual in (("precision", "master"), ("attention", "auto")):
        said += f" --{name} {how[name]}" if how.get(name, usual) != usual else ""
    return said + eight


def _question_options(row: dict, how: dict, shape: str) -> str:
    """The arguments that ask the questions of a generation row, and no other's."""
    samples, repeats = how["samples"], f"--repeats {how['repeats']}"
    if "of" not in how:
        asked = f"--samples {samples} --questions {how['questions']} {repeats}"
        return f"{_of_base(row, how)}{asked}"
    lines = how["of"] == "longchat_lines"
    which = f"--lines {samples} --pairs 0" if lines else f"--lines 0 --pairs {samples}"
    return f"--shape {shape} {which} {repeats}"


def _of_base(row: dict, how: dict) -> str:
    """The base, dtype, length and way of a generation row, where it is not the miniature's."""
    if row.get("base", "miniature") == "miniature":
        return ""
    ways = {"computed": "--computed ", "continuous": "--continuous "}
    multiple = row["token_length"] / row["window"]
    return (f"--base runs/bases/{row['base']} --dtype {how['dtype']} --lengths {multiple:g} "
            f"{ways.get(how['way'], '')}")  # fmt: skip


# ----------------------------------------------------------------------------- measured training


def measured(rows: pd.DataFrame, root: str | Path = ".") -> pd.DataFrame:
    """Return a line for each measurement of training: what of, on which card, how, how fast.

    Fewer layers than a shape has are left out. `latest` takes one line a way to train.
    """
    found = []
    for row in rows[rows["task"] == "speed_training"].to_dict("records"):
        how = json.loads(row["settings"])
        about = _about(row, how, Path(root))
        if about is None or how.get("layers", about.num_hidden_layers) != about.num_hidden_layers:
            continue
        count = memory.parameters(about)
        flops = training_flops(about, count, int(row["window"]))
        cards = int(how.get("processes", 1))
        speed = float(row["tokens_per_second"])
        found.append({
            "model": row["preset"], "parameters": count, "flops": flops, "card": row["card"],
            "cards": cards, "how": _how(how), "tokens_per_second": speed,
            "mfu": utilisation(speed, flops, row["card"], cards), "gib": row["peak_gib"],
            "command": command(row), "date": row["date"], "settings": how,
        })  # fmt: skip
    columns = ["model", "card", "cards", "how", "tokens_per_second", "mfu", "gib", "command"]
    if not found:
        return pd.DataFrame(columns=columns)
    order = ["model", "cards", "card", "tokens_per_second"]
    rising = [True, True, True, False]
    return pd.DataFrame(found).sort_values(order, ascending=rising, ignore_index=True)


def latest(table: pd.DataFrame) -> pd.DataFrame:
    """Return `measured` with the last of each way to train alone."""
    if table.empty:
        return table
    kept = table.sort_values("date", kind="stable")
    kept = kept.drop_duplicates(["model", "card", "cards", "how"], keep="last")
    return table.loc[sorted(kept.index)].reset_index(drop=True)


def of_one(table: pd.DataFrame) -> pd.Series:
    """Return a measurement's speed as a share of as many times one GPU's, where there are several.

    One GPU's is the fastest of our own settings on that card within half an hour, when the machine
    was the same one, or else of all. None where nothing is known of one.
    """
    other = table["how"].str.startswith("stock Trainer") | table["how"].str.contains("float8")
    alone = table[(table["cards"] == 1) & ~other]
    found = []
    for row in table.to_dict("records"):
        like = alone[(alone["card"] == row["card"]) & (alone["model"] == row["model"])]
        when = pd.to_datetime(like["date"], utc=True)
        apart = (when - pd.to_datetime(row["date"], utc=True)).abs()
        near = like[apart <= SAME_MACHINE]
        speed = (near if len(near) else like)["tokens_per_second"].max()
        several = row["cards"] > 1 and len(like)
        found.append(row["tokens_per_second"] / row["cards"] / speed if several else None)
    return pd.Series(found, index=table.index, dtype=object)


def _about(row: dict, how: dict, root: Path) -> PreTrainedConfig | None:
    """The config of what a row trained; None where it is not here."""
    if how.get("shape") in random_models.SHAPES:
        return random_models.shape(how["shape"])
    folder = root / "data" / str(row["base"])
    return models.load_config(folder) if (folder / "config.json").is_file() else None


def _how(how: dict) -> str:
    """A way to train in a few words."""
    if how.get("trainer") == "stock Trainer":
        return f"stock Trainer, micro-batch {how['micro_batch']}"
    parts = [f"micro-batch {how['micro_batch']}"]
    if how.get("zero") in (1, 2, 3):
        parts.append(f"ZeRO-{how['zero']}")
        if how.get("zero_offload") in ("optimizer", "all"):
            parts.append(f"{how['zero_offload']} in RAM")
    if how.get("precision") == "master":
        again = {0: "nothing", "cheap": "element-wise results"}.get(how.get("recompute"))
        parts.append(f"{again or str(how.get('recompute')) + ' layers'} recomputed")
    if how.get("offload") == "moments":
        parts.append("moments in RAM")
    if how.get("attention", "auto") != "auto":
        parts.append(f"attention {how['attention']}")
    if how.get("float8", "none") != "none":
        parts.append(f"float8 {how['float8']}")
    if "trainer" not in how:
        parts.append(f"compile {how['compile']}, {how.get('workers', 0)} workers")
    return ", ".join(parts)


def runs(table: pd.DataFrame, tokens: dict[str, int]) -> pd.DataFrame:
    """Return `measured` with hours and GPU-hours of each run in `tokens` (tokens it trains)."""
    table = table.copy()
    for name, number in tokens.items():
        hours = number / table["tokens_per_second"] / 3600
        table[f"{name}, hours"] = hours
        table[f"{name}, GPU-hours"] = hours * table["cards"]
    return table


# ------------------------------------------------------------------------- before a run is started


@dataclass(frozen=True)
class Plan:
    """What a run will take: `table` has a line a measured card; as text it says all of it."""

    said: tuple[str, ...]
    table: pd.DataFrame

    def __str__(self) -> str:
        return "\n".join(self.said)


def plan(
    config: TrainConfig, preset: str, run_dir: Path, rows: pd.DataFrame, root: str | Path = "."
) -> Plan:
    """Say what a run takes of time, memory and disk, before anything is loaded or downloaded.

    Hours are of the nearest measured setting of each card: same size of model, then the run's own
    precision and micro-batch, then the fastest. A model up to four times larger or smaller than any
    measured is counted at that one's share of the card's peak (MFU), and that is said.
    FileNotFoundError for a base that is nowhere.
    """
    about = _config(config, preset, Path(root))
    length = config.sampler(models.describe(about)["window"]).example_length
    count = memory.parameters(about)
    size = config.batch_size * length
    said = [
        f"{config.steps:,} steps of {config.batch_size} x {length:,} = {size:,} tokens, "
        f"{config.steps * size:,} in all; {count:,} parameters. Hours are of the steps alone"
    ]
    machine = parallel.Machine.here()
    table = _nearest(config, about, length, count, latest(measured(rows, root)))
    said += _times(table, config.steps * size, machine)
    said.append(_memory(config, about, length, machine, table))
    trained = lora.frozen_and_trained(about, config)[2] if config.lora_rank else count
    said.append(_disk(config, count, run_dir, trained))
    said += [f"on one card: {line}" for line in memory.fitting(about, config, length)]
    return Plan(tuple(said), table)


def _config(config: TrainConfig, preset: str, root: Path) -> PreTrainedConfig:
    """The base's config: a preset's own on the hub is known without asking."""
    if preset in SHAPES and config.base == presets.get(preset).train.base:
        return random_models.shape(SHAPES[preset])
    return bases.config_of(config.base, root, config.revision)


def _nearest(
    config: TrainConfig, about: PreTrainedConfig, window: int, count: int, table: pd.DataFrame
) -> pd.DataFrame:
    """One line a card and number of cards, with the speed that this run should have there."""
    if table.empty:
        return table.assign(scaled=[])
    ratio = table["flops"] / training_flops(about, count, window)
    same = (ratio - 1).abs() < 0.01
    like = same if same.any() else ratio.between(1 / NEAR, NEAR) & table["mfu"].notna()
    ours = ~table["how"].str.startswith("stock Trainer")
    eight = pd.Series([how.get("float8", "none") for how in table["settings"]], table.index)
    # Hours of bfloat16 for float8 that was not measured, but never the other way round.
    asked = config.float8 if (ours & like & (eight == config.float8)).any() else "none"
    table = table[ours & like & (eight == asked)].assign(scaled=not same.any())
    table["tokens_per_second"] *= 1.0 if same.any() else ratio[table.index]
    near = [
        (how.get("precision") == config.precision) + (how["micro_batch"] == config.micro_batch)
        for how in table["settings"]
    ]
    table = table.assign(near=near).sort_values(["near", "tokens_per_second"], ascending=False)
    table = table.drop_duplicates(["card", "cards"]).sort_values(["cards", "card"])
    return table.reset_index(drop=True)


def _times(table: pd.DataFrame, tokens: int, machine: parallel.Machine) -> list[str]:
    here = "cpu" if machine.card is None else machine.name
    lines = []
    for row in table.to_dict("records"):
        hours = tokens / row["tokens_per_second"] / 3600
        mine = row["card"] == here and row["cards"] == machine.processes
        name = f"{row['cards']} x {row['card']}" if row["cards"] > 1 else row["card"]
        speed = f"{row['tokens_per_second']:,.0f} tokens/s"
        parts = [f"{'this machine, ' if mine else ''}{name}: {_hours(hours)} at {speed}"]
        if row["mfu"] is not None and not pd.isna(row["mfu"]):
            parts.append(f"MFU {row['mfu']:.1%}")
        if row["gib"] is not None and not pd.isna(row["gib"]) and not row["scaled"]:
            parts.append(f"peak {row['gib']:.1f} GiB")
        known = f"from {row['model']}, at its MFU" if row["scaled"] else "measured"
        if row["card"] == "cpu":
            threads = row["settings"].get("threads", "some")
            known = f"processors differ; {known} with {threads} threads"
        lines.append(f"{', '.join(parts)} ({row['how']}; {known} {row['date'][:10]}: "
                     f"{row['command']})")  # fmt: skip
    lines.sort(key=lambda line: not line.startswith("this machine"))
    if not any(line.startswith("this machine") for line in lines):
        lines.insert(0, f"this machine, {here}: hours not measured for a model of this size")
    return [f"time: {line}" for line in lines]


def _hours(hours: float) -> str:
    if hours < 1 / 60:
        return f"{3600 * hours:.0f} seconds"
    return f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes"


def _memory(
    config: TrainConfig,
    about: PreTrainedConfig,
    window: int,
    machine: parallel.Machine,
    table: pd.DataFrame,
) -> str:
    """What the run holds here, or why it is refused; without a card, where it was measured."""
    if machine.card is None:
        lines = [f"{memory.needs(about, config, window)}, in RAM: no card here"]
        if config.precision == "master" and len(table):
            lines = [
                f"{memory.needs(about, _as_measured(config, row['settings']), window)}, "
                f"as on {row['card']}"
                for row in table.to_dict("records") if row["cards"] == 1
            ]  # fmt: skip
        return "\n".join(f"memory: {line}" for line in lines)
    try:
        _, said = parallel.choose(config, about, window, machine)
    except (MemoryError, ModuleNotFoundError, ValueError) as error:
        return f"memory: this run would be refused here: {error}"
    return f"memory: {said or memory.needs(about, config, window)}"


def _as_measured(config: TrainConfig, how: dict) -> TrainConfig:
    names = ("micro_batch", "recompute", "offload")
    return dataclasses.replace(config, **{name: how[name] for name in names if name in how})


def _disk(config: TrainConfig, count: int, run_dir: Path, trained: int) -> str:
    """What checkpoints and the model take, and what is free where they will lie."""
    size = checkpoint_room.checkpoint_bytes(config, trained) / GIB
    model = checkpoint_room.model_bytes(config, count) / GIB
    saves = math.ceil(config.steps / config.save_steps) if config.save_steps else 0
    most = max(min(saves, 3) * size, min(saves, 2) * size + model)
    there = run_dir.resolve()
    while not there.exists():
        there = there.parent
    kept = f"{'two checkpoints' if saves > 1 else 'a checkpoint'} of {size:.1f} GiB"
    free = shutil.disk_usage(there).free / GIB
    short = "" if most <= free else ": not enough for all of it"
    return (
        f"disk: {kept if saves else 'no checkpoints'}, a model of {model:.1f} GiB, at most "
        f"{most:.1f} GiB at a time; {free:.1f} free{short}"
    )


# ---------------------------------------------------------------------------- by target length


def by_target(rows: pd.DataFrame) -> pd.DataFrame:
    """Return what a step costs at each target, by card and method, from `step_cost`'s rows.

    `step` is seconds of an optimizer step of 32 examples (CREAM's are N tokens, full-length ones
    the target), `tokens` seconds for as many tokens as CREAM's step has, `gib` the peak and `held`
    what of it is neither weights nor optimizer. `kind` is "measured", "extrapolated" (from two
    depths; `gib` then with the moments in RAM) or "does not fit".
    """
    rows = rows[rows["task"].isin(["speed_efficiency", "speed_optimizer"])]
    lines = [
        {**json.loads(row["settings"]), **row, "command": command(row)}
        for row in rows.sort_values("date", kind="stable").to_dict("records")
    ]
    updates = {(one["card"], one["shape"], one["offload"]): one["score"] / 1000
               for one in lines if one["task"] == "speed_optimizer"}  # fmt: skip
    groups: dict[tuple, list[dict]] = {}
    for one in lines:
        if one["task"] == "speed_efficiency":
            key = (one["card"], one["shape"], one["method"], int(one["token_length"]))
            groups.setdefault(key, []).append(one)
    found = [_target(key, group, updates) for key, group in groups.items()]
    names = ["card", "shape", "target", "method"]
    return pd.DataFrame(found).sort_values(names, ignore_index=True) if found else pd.DataFrame()


def _target(key: tuple, group: list[dict], updates: dict) -> dict:
    """One line of `by_target` from the rows of one card, method and target."""
    card, shape, method, target = key
    whole = [one for one in group if one.get("layers") == one["of_layers"]]
    last = (whole or group)[-1]
    line = {"card": card, "shape": shape, "target": target, "method": method, "kind": "measured",
            "offload": last["offload"], "recompute": last.get("recompute"), "gib": None,
            "held": None, "why": next((one["why"] for one in group if one.get("why")), None),
            "card_gib": last.get("card_gib"), "command": last["command"]}  # fmt: skip
    if whole and last["score"] is not None and not pd.isna(last["score"]):
        seconds, line["gib"] = last["score"] / 1000, last["peak_gib"]
        if not pd.isna(last["peak_gib"]) and last.get("resident_gib") is not None:
            line["held"] = last["peak_gib"] - last["resident_gib"]
    else:
        line["kind"] = "does not fit"
        depths = {one["layers"]: one for one in group
                  if one.get("layers", one["of_layers"]) < one["of_layers"]}  # fmt: skip
        if len(depths) < 2:
            return {**line, "step": None, "tokens": None}
        seconds, line["held"] = _deepened(*[depths[one] for one in sorted(depths)][-2:])
        line |= {"kind": "extrapolated", "offload": "moments", "recompute": last["of_layers"]}
        if line["held"] is not None:
            count = memory.parameters(random_models.shape(shape))
            line["gib"] = STATES["moments"] * count / GIB + line["held"]
    update = updates.get((card, shape, line["offload"]), updates.get((card, shape, "none")))
    passes = EXAMPLES / last["micro_batch"]
    size = EXAMPLES * last["window"] / last["num_tokens"]
    more = update or 0.0
    return {**line, "step": passes * seconds + more, "tokens": size * seconds + more,
            "update": update}  # fmt: skip


def _deepened(one: dict, other: dict) -> tuple[float, float | None]:
    """Seconds and held GiB of a pass at full depth from two smaller: both grow by the layer."""
    times = (other["of_layers"] - other["layers"]) / (other["layers"] - one["layers"])
    seconds = [each["score"] / 1000 for each in (one, other)]
    grown = seconds[1] + times * (seconds[1] - seconds[0])
    if pd.isna(other["peak_gib"]) or other.get("resident_gib") is None:
        return grown, None
    held = [each["peak_gib"] - each["resident_gib"] for each in (one, other)]
    return grown, held[1] + times * (held[1] - held[0])


def default_rows(root: str | Path) -> pd.DataFrame:
    """Return the committed rows of a project; none is an empty table."""
    folder = Path(root) / "data" / "results"
    return results.read(folder) if folder.is_dir() else results.read()
