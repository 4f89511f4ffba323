"""Tokens a second of training a large model at its true shape, with random weights, on one card.

    python -m cream.performance training --shape llama2-7b --micro-batch 1,2 --stock
    python -m cream.performance training --shape llama2-7b --float8 none,tensorwise

runs a few optimizer steps of the paper's recipe for each setting, through `training.train` as a run
takes it: 32 windows a step by accumulation, skipped positions, clipping, float32 AdamW, logging.
`--stock` adds transformers' own Trainer in its own settings (float32 weights, bfloat16 autocast,
gradient checkpointing) on the same examples. Each setting runs in a process of its own, so that one
that does not fit ends alone. `--card-check` first prints what each needs of the card's memory.
With `--rows FILE`, rows of the task speed_training are appended; `--profile FILE` appends a table
of one more step's kernels.

What belongs here: the settings and what is said of them. The shapes are in `random_models`, the
arithmetic in `training.memory`; the small models' steps are timed by `speed`.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import statistics
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    LlamaConfig,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from cream.data.dataset import collate
from cream.models.hardware import training_flops
from cream.performance import harness, random_models
from cream.training import memory, parallel
from cream.training import run as training_run
from cream.training.arguments import trainer_arguments
from cream.training.callbacks import MetricsLog, read_metrics
from cream.training.config import TrainConfig
from cream.training.inputs import load_inputs
from cream.utils.provenance import hash_of

__all__ = ["main", "metrics_of", "steps_of"]

KEPT = ("precision", "micro_batch", "recompute", "offload", "zero", "zero_offload", "compile",
        "gradient_checkpointing", "float8", "attention")  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure how fast a model of a large shape trains on this machine's card."""
    parser = argparse.ArgumentParser(
        prog="python -m cream.performance training", description=main.__doc__
    )
    random_models.add_shape(parser)
    parser.add_argument(
        "--steps", type=int, default=4, help="optimizer steps; the first is left out"
    )
    parser.add_argument("--batch-size", type=int, default=32, help="windows an optimizer step")
    parser.add_argument("--scale", type=int, default=8)
    parser.add_argument("--micro-batch", type=harness.listed, default=[2], help="such as 1,2")
    parser.add_argument(
        "--recompute", type=harness.listed, default=["auto"], help="such as auto,0,cheap,4"
    )
    parser.add_argument(
        "--precision", type=harness.listed, default=["master"], help="such as master,bfloat16"
    )
    parser.add_argument(
        "--attention", type=harness.listed, default=["auto"],
        help="such as auto,causal-cudnn,causal-fa4",
    )  # fmt: skip
    parser.add_argument("--profile", metavar="FILE", help="write what one more step's kernels took")
    parser.add_argument("--offload", choices=("auto", "none", "moments"), default="auto")
    parser.add_argument("--compile", choices=("auto", "none", "layers", "model"), default="auto")
    parser.add_argument("--processes", type=int, default=1, help="GPUs of this host")
    parser.add_argument("--zero", type=harness.listed, default=["auto"], help="such as 1,2,3")
    parser.add_argument(
        "--zero-offload", choices=("auto", "none", "optimizer", "all"), default="auto"
    )
    parser.add_argument(
        "--float8", type=harness.listed, default=["none"], help="such as none,tensorwise,rowwise"
    )
    parser.add_argument("--stock", action="store_true", help="transformers' own Trainer, too")
    parser.add_argument("--stock-micro-batch", type=int, default=4)
    parser.add_argument("--workers", type=int, default=4, help="data loader processes")
    parser.add_argument("--card-check", action="store_true", help="print what each setting needs")
    harness.add_common(parser, 240)
    given = parser.parse_args(arguments)
    if given.one:
        harness.tell(_inside(json.loads(given.one)))
        return
    if given.steps < 2:
        parser.error(f"steps is {given.steps}; the first is left out, so it must be at least 2")
    random_models.refuse_without_card(parser, given.shape, given.layers)
    _measure(given, harness.typed_command("training", arguments))


def _measure(given: argparse.Namespace, command: str) -> None:
    """Run every setting in its own process, print a line each, and write rows."""
    with harness.scratch(None) as root:
        shape = random_models.shape(given.shape, given.layers)
        random_models.lay_out(root, shape)
        work = {"root": str(root), "steps": given.steps}
        jobs = {name: {**work, **job} for name, job in _jobs(given).items()}
        if given.card_check:
            check = _child({**work, "check": list(jobs.values())}, given.limit, given.processes)
            print(check.get("said") or check["error"], flush=True)
        found = {}
        for name, job in jobs.items():
            processes = 1 if job["stock"] else given.processes
            job["run"] = name.replace(" ", "-")
            found[name] = {**_child(job, given.limit, processes), "processes": processes}
            print(_line(name, found[name]), flush=True)
            if "speed" in found[name]:
                _write(given, shape, name, found[name], command)
    _compare(found)


def _jobs(given: argparse.Namespace) -> dict[str, dict]:
    """Name what each process trains: fields of a run, or the stock Trainer's micro-batch."""
    common = {
        "base": "base", "corpus": "corpus", "scale": given.scale, "batch_size": given.batch_size,
        "log_steps": 1, "workers": given.workers,
    }  # fmt: skip
    jobs = {}
    profile = {"profile": given.profile} if given.profile else {}
    if given.stock:
        stock = {**common, "micro_batch": given.stock_micro_batch, "gradient_checkpointing": True}
        stock |= {"precision": "bfloat16", "compile": "none"}
        jobs["stock Trainer"] = {"config": stock, "stock": True}
    settings = itertools.product(
        given.micro_batch, given.recompute, given.zero, given.float8, given.precision,
        given.attention,
    )  # fmt: skip
    for micro, again, zero, eight, precision, attention in settings:
        ours = {**common, "micro_batch": micro, "recompute": again, "precision": precision}
        ours |= {"float8": eight, "attention": attention}
        ours |= {"offload": given.offload, "compile": given.compile}
        ours |= {"zero": zero, "zero_offload": given.zero_offload}
        name = f"micro-batch {micro}, recompute {again}"
        if given.processes > 1 or zero != "auto":
            name += f", {given.processes} processes, zero {zero}"
        name += "" if precision == "master" else f", precision {precision}"
        name += "" if attention == "auto" else f", attention {attention}"
        name += "" if eight == "none" else f", float8 {eight}"
        jobs[name] = {"config": ours, "stock": False, **profile}
    for job in jobs.values():
        TrainConfig(**job["config"])  # a typing error costs nothing
    return jobs


def _child(job: dict, limit: int, processes: int) -> dict:
    return harness.in_child("cream.performance.training", job, limit, processes)


# ------------------------------------------------------------------------------ in the process


class _Enough(TrainerCallback):
    """Ends a run when so many steps are logged: no model is saved."""

    class Reached(Exception):
        pass

    def __init__(self, steps: int):
        self.steps = steps

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Raise once the last step's line is written."""
        if state.global_step >= self.steps:
            raise self.Reached


class _Profile(TrainerCallback):
    """Appends to a file what the kernels of the step after `steps` took."""

    def __init__(self, file: str, name: str, steps: int):
        self.file, self.name, self.steps = Path(file), name, steps
        self.profile = torch.profiler.profile()

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Begin with the last step."""
        if state.global_step == self.steps:
            self.profile.start()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Write the table, the most expensive kernels first."""
        if state.global_step <= self.steps:
            return
        self.profile.stop()
        where = "cuda" if torch.cuda.is_available() else "cpu"
        table = self.profile.key_averages().table(
            sort_by=f"self_{where}_time_total", row_limit=60, max_name_column_width=90
        )
        with self.file.open("a") as file:
            file.write(f"{self.name}\n{table}\n\n")


def _inside(job: dict) -> dict:
    root = Path(job["root"])
    if "check" in job:
        return {"said": _checked(root, job["check"])}
    config, run = TrainConfig(**job["config"]), root / job["run"]
    watching = [_Profile(job["profile"], job["run"], job["steps"])] if "profile" in job else []
    try:
        with contextlib.suppress(_Enough.Reached):
            if job["stock"]:
                _stock(config, run, root, job["steps"])
            else:
                _ours(config, run, root, job["steps"] + len(watching), watching)
    except (MemoryError, torch.OutOfMemoryError) as error:
        if "RANK" in os.environ:  # the others wait: the launcher must see it end
            raise
        return {"error": str(error).splitlines()[0]}
    if os.environ.get("RANK", "0") != "0":
        return {}
    settled, _ = _with_memory_plan(config, root)
    return {
        **metrics_of(run, job["steps"]),  # one step more was slowed by its profile
        "settings": {name: getattr(settled, name) for name in KEPT},
    }


def metrics_of(run: Path, steps: int) -> dict[str, object]:
    """Return what a run's first steps took: tokens a second without the first one, GiB, losses."""
    rows = [row for row in read_metrics(run / "metrics.jsonl") if "tokens_per_second" in row]
    first, *warm = rows = rows[:steps]
    return {
        "speed": statistics.median(row["tokens_per_second"] for row in warm),
        **{name: warm[-1].get(name) for name in ("mfu", "peak_gib", "reserved_gib")},
        "losses": [round(row["loss"], 4) for row in rows],
        "first": first["tokens"] / first["tokens_per_second"],
        "card": harness.card_name(),
    }


def _with_memory_plan(config: TrainConfig, root: Path) -> tuple[TrainConfig, str]:
    """Return the configuration as this machine settles it, and the arithmetic behind it."""
    about = AutoConfig.from_pretrained(root / "base")
    window, machine = about.max_position_embeddings, parallel.Machine.here()
    if config.precision != "master":
        return config, str(memory.needs(about, config, window))
    return parallel.choose(config, about, window, machine)


def _checked(root: Path, jobs: list[dict]) -> str:
    """The arithmetic of every setting, beside the card."""
    card, name = harness.card()
    said = [f"{name}: " + (f"{card / harness.GIB:.1f} GiB" if card else "nothing to check")]
    for job in jobs:
        try:
            said.append(_with_memory_plan(TrainConfig(**job["config"]), root)[1])
        except (MemoryError, ModuleNotFoundError) as error:
            said.append(f"refused: {error}")
    return "\n".join(said)


def _ours(
    config: TrainConfig, run: Path, root: Path, steps: int, watching: Sequence[TrainerCallback] = ()
) -> None:
    training_run.train(config, run, root=root, progress=False, load=random_models.random_weights,
                       callbacks=[*watching, _Enough(steps)])  # fmt: skip


def steps_of(config: TrainConfig, run: Path, root: Path, steps: int) -> None:
    """Take so many optimizer steps of a run with random weights; no model is saved."""
    with contextlib.suppress(_Enough.Reached):
        _ours(config, run, root, steps)


def _stock(config: TrainConfig, run: Path, root: Path, steps: int) -> None:
    """Train the same examples by transformers' Trainer as its documentation has it."""
    _, _, dataset = load_inputs(config, root)
    model = random_models.random_weights(str(root / "base"), config.rope, config.attention)
    model.config.use_cache = False
    ours = trainer_arguments(config, run)
    arguments = TrainingArguments(
        output_dir=str(run), max_steps=config.steps, report_to=[], disable_tqdm=True,
        per_device_train_batch_size=config.micro_batch, save_strategy="no", logging_steps=1,
        gradient_accumulation_steps=ours.gradient_accumulation_steps, bf16=True,
        gradient_checkpointing=True, gradient_checkpointing_kwargs={"use_reentrant": False},
        learning_rate=config.learning_rate, remove_unused_columns=False, use_cpu=ours.use_cpu,
        dataloader_num_workers=config.workers,
    )  # fmt: skip
    trainer = Trainer(
        model=model, args=arguments, train_dataset=dataset, data_collator=collate
    )
    window = model.config.cream["window"]
    flops = training_flops(model.config, model.num_parameters(), window)
    run.mkdir(parents=True, exist_ok=True)
    trainer.add_callback(MetricsLog(run / "metrics.jsonl", config.batch_size * window, flops))
    trainer.add_callback(_Enough(steps))
    trainer.train()


# ------------------------------------------------------------------------------- what is said


def _line(name: str, found: dict) -> str:
    if "error" in found:
        return f"{name}: {found['error']}"
    parts = [f"{name}: {found['speed']:,.0f} tokens/s"]
    if found["mfu"] is not None:
        parts.append(f"MFU {found['mfu']:.1%}")
    if found["peak_gib"] is not None:
        parts.append(f"peak {found['peak_gib']:.1f} GiB (reserved {found['reserved_gib']:.1f})")
    how = found["settings"]
    parts.append(f"recompute {how['recompute']}, offload {how['offload']}, zero {how['zero']}")
    parts.append(f"first step {found['first']:.0f} s, in all {found['wall']:.0f} s")
    return ", ".join([*parts, f"losses {found['losses']}"])


def _compare(found: dict[str, dict]) -> None:
    stock = found.get("stock Trainer", {}).get("speed")
    ours = {n: one["speed"] for n, one in found.items() if "speed" in one and n != "stock Trainer"}
    if stock and ours:
        best = max(ours, key=ours.get)
        print(f"{best}: {ours[best] / stock:.2f} times the stock Trainer")
    for name, speed in ours.items():
        plain, _, kind = name.partition(", float8 ")
        if kind and plain in ours:
            print(f"{name}: {speed / ours[plain]:.2f} times bfloat16")


def _write(
    given: argparse.Namespace, shape: LlamaConfig, name: str, one: dict, command: str
) -> None:
    config = TrainConfig(base="base", corpus="corpus", scale=given.scale)
    about = {"shape": given.shape, "layers": shape.num_hidden_layers, "command": command}
    size = given.batch_size * shape.max_position_embeddings
    header = harness.shape_header(
        given.shape, shape, f"throughput of {given.shape}", one["card"], about,
        method=config.method, scaling=config.scaling, scale=config.scale,
    )  # fmt: skip
    how = {**about, **one["settings"], "score": "milliseconds a step", "trainer": name,
           "processes": one["processes"], "steps": given.steps, "measured": harness.now(),
           "mfu": one["mfu"], "reserved_gib": one["reserved_gib"]}  # fmt: skip
    harness.append(given.rows, header, {
        "task": "speed_training", "prompt_hash": hash_of("random"),
        "token_length": shape.max_position_embeddings, "num_tokens": size,
        "settings": {k: v for k, v in how.items() if v is not None},
        "score": 1000 * size / one["speed"], "tokens_per_second": one["speed"],
        "peak_gib": one["peak_gib"],
    })  # fmt: skip


if __name__ == "__main__":
    main()
