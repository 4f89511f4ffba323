"""Fine-tuning at length N on skipped positions: what a run directory holds, and how it is filled.

A run directory holds `config.json` (every number of the run), `metrics.jsonl` (a line a log),
`checkpoints/` (for resuming) and `model/` (a stock Hugging Face checkpoint with its tokenizer).
A run is started, resumed after any interruption and skipped when done by the same call:

    train(config, run_dir)                         # from a notebook
    python -m cream.training RUN_DIR               # from any launcher; reads RUN_DIR/config.json

What the fields mean is in `config`, what is read in `inputs`, what an example is in `data.dataset`,
the optimizer loop in `trainer`, what is written while it goes in `callbacks`.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import importlib
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from accelerate import PartialState
from transformers import (
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback

from cream import models
from cream.data.dataset import collate
from cream.models.hardware import training_flops
from cream.rope import clex
from cream.training import checkpoint_room, float8, lora, memory, parallel, zero
from cream.training.arguments import accumulation, trainer_arguments
from cream.training.callbacks import (
    COMPUTED,
    CheckpointNotes,
    CheckpointSeal,
    MetricsLog,
    ProbeCallback,
    ProgressBar,
    check_corpus,
    check_settings,
    last_complete_checkpoint,
)
from cream.training.config import TrainConfig, read_config
from cream.training.inputs import base_place, identity, load_inputs
from cream.training.trainer import (
    CreamTrainer,
    compile_layers,
    decoder_layers,
    recompute_layers,
    recomputing_cheaply,
)
from cream.utils.files import atomic_write
from cream.utils.launcher import (
    NAMES,
    check_complete,
    name_accelerator,
    reports_waiting,
    whole,
)
from cream.utils.run_lock import run_lock

__all__ = [
    "check_directory",
    "claim",
    "train",
]

log = logging.getLogger(__name__)

Probe = Callable[[PreTrainedModel, PreTrainedTokenizerBase], dict[str, float]]
Load = Callable[..., PreTrainedModel]


def train(
    config: TrainConfig,
    run_dir: str | Path,
    probe: Probe | None = None,
    root: str | Path = ".",
    progress: bool = True,
    load: Load | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> Path:
    """Train, or go on after an interruption, and return the folder of the finished model.

    `probe` (or the function that `config.probe` names) is given the model and the tokenizer every
    `probe_steps`, and its numbers are logged. The folders that `config` names start at `root`.
    `load` stands in for `models.load`, which it is called like. ValueError when the directory holds
    another run, or checkpoints of another corpus or config than it has now; BlockingIOError while
    another process trains in it; MemoryError (before anything is loaded) for a card that is too
    small.
    """
    run_dir, root = Path(run_dir), Path(root)
    check_directory(config, run_dir)
    if (run_dir / "model").exists():
        log.info("%s is finished; nothing to train", run_dir)
        return run_dir / "model"
    # Of several processes the first writes, and stands for all of them.
    first = whole("RANK", 0) == 0
    with run_lock(run_dir) if first else contextlib.nullcontext():
        check_directory(config, run_dir)  # another process may have ended meanwhile
        if not (run_dir / "model").exists():
            shown = [ProgressBar()] if progress else []
            _train(config, run_dir, probe, root, load or models.load, [*shown, *callbacks])
    return run_dir / "model"


def _train(
    config: TrainConfig,
    run_dir: Path,
    probe: Probe | None,
    root: Path,
    load: Load,
    callbacks: Sequence[TrainerCallback],
) -> None:
    """Train in a run directory that is this launch's alone."""
    asked = config
    _environment(config)
    check_complete()
    check_settings(run_dir, _settings(asked))
    machine = parallel.Machine.here()
    accumulation(config, machine.processes)
    probe = probe or _named_probe(config.probe)
    lora.check_bits(config.base_bits)
    extended, tokenizer, dataset = load_inputs(config, root)
    corpus = identity(root / config.corpus)
    check_corpus(run_dir, corpus, config.corpus)
    config = _with_memory_plan(config, extended, dataset.draw.example_length, machine)
    count = memory.parameters(extended)
    trained = lora.frozen_and_trained(extended, config)[2] if config.lora_rank else count
    room = checkpoint_room.check_disk(config, count, run_dir, trained)
    # Before DeepSpeed is set up: later, stage 3 would divide what is being read.
    place = None if parallel.loads_on_card(config, count, machine) else "cpu"
    model = _loaded(config, root, tokenizer, load, place)
    if config.lora_rank:
        lora.add(model, config)
    with reports_waiting():
        arguments = trainer_arguments(config, run_dir, room)
    if arguments.world_size != machine.processes:
        raise ValueError(
            f"the environment's WORLD_SIZE is {machine.processes} and the Trainer found "
            f"{arguments.world_size} processes, by which a step would have another batch: unset "
            "WORLD_SIZE, or start by torchrun"
        )
    trainer = CreamTrainer(
        config,
        uneven=dataset.uneven,
        model=model,
        args=arguments,
        train_dataset=dataset,
        data_collator=collate,
    )
    trainer.sparing = room == 0
    trainer.room = memory.left(config, extended, len(dataset[0]["input_ids"]), machine.card)
    trainer.add_callback(CheckpointNotes(corpus, _settings(asked)))  # before the seal counts files
    _prepare(trainer, asked, tokenizer, run_dir)
    if probe and config.probe_steps:
        trainer.add_callback(ProbeCallback(probe, tokenizer, config.probe_steps, run_dir))
    for callback in callbacks:
        trainer.add_callback(callback)
    checkpoint = _left(config, arguments, run_dir)
    cheaply = config.precision == "master" and config.recompute != 0
    with checkpoint_room.writing(run_dir):
        with recomputing_cheaply(cheaply), zero.alone():
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        merged = functools.partial(_merged, config, root, load) if config.lora_rank else None
        _save(trainer, tokenizer, run_dir, merged)



def _settings(config: TrainConfig) -> dict[str, object]:
    """What decides the weights, with what precision "auto" is on this machine."""
    if config.precision != "auto":
        return config.deciding()
    here = "bfloat16" if torch.cuda.is_available() else "float32"
    return {**config.deciding(), COMPUTED: here}


def _environment(config: TrainConfig) -> None:
    """Set what must be set before a device is used."""
    for name in (*NAMES, "MASTER_PORT", "LOCAL_WORLD_SIZE"):
        if not os.environ.get(name, "unset").strip():
            del os.environ[name]  # accelerate takes an empty one for a number
    if config.precision == "master":  # a card that is nearly full has no room for gaps
        os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    name_accelerator()


def _left(config: TrainConfig, arguments: TrainingArguments, run_dir: Path) -> Path | None:
    """Return the checkpoint to go on from, if a run of the same kind left one."""
    with arguments.main_process_first(local=False):  # which removes what is torn
        _sweep(run_dir)
        checkpoint = last_complete_checkpoint(run_dir / "checkpoints")
    if checkpoint:
        zero.check_resumable(checkpoint, config.zero, arguments.world_size)
    return checkpoint


def _merged(config: TrainConfig, root: Path, load: Load, adapter: Path) -> PreTrainedModel:
    """Return the base, read again in float32, with an adapter merged into it."""
    base = load(
        base_place(config.base, root), scaling=config.rope,
        attention=config.attention, dtype=torch.float32, revision=config.revision, device="cpu",
    )  # fmt: skip
    return lora.merge(base, adapter)


def _save(
    trainer: CreamTrainer,
    tokenizer: PreTrainedTokenizerBase,
    run_dir: Path,
    merged: Callable[[Path], PreTrainedModel] | None = None,
) -> None:
    """Write model/, from the float32 weights, wherever they are; once, by the first process.

    Of LoRA (`merged`) write adapter/, and model/ from the base with what adapter/ holds.
    """
    model, dtype = trainer.model, getattr(torch, trainer.config.save_dtype)
    first, state = trainer.is_world_process_zero(), None
    if trainer.config.sharded:
        state = zero.gathered_weights(model, dtype, keep=first)
        model = zero.shell(model, dtype)
    elif trainer.masters is not None:
        trainer.masters.restore(torch.float32 if merged else dtype)
    if first and merged:
        model = merged(lora.save(model, trainer.config, run_dir / "adapter"))
    if first:
        model.config.use_cache = True
        if state is None:
            model.to(dtype)
        models.save(model, tokenizer, run_dir / "model", state_dict=state)
    trainer.accelerator.wait_for_everyone()


def check_directory(config: TrainConfig, run_dir: Path) -> None:
    """Raise ValueError if a directory holds another run, naming the fields that differ."""
    if not (run_dir / "config.json").exists():
        if found := [n for n in ("model", "checkpoints") if (run_dir / n).exists()]:
            raise ValueError(
                f"{run_dir} holds {' and '.join(found)} but no config.json that says of what run; "
                "choose another run directory or remove this one"
            )
        return
    there = read_config(run_dir)
    differs = [
        f"{f.name} {getattr(there, f.name)!r} -> {getattr(config, f.name)!r}"
        for f in dataclasses.fields(config)
        if getattr(there, f.name) != getattr(config, f.name)
    ]
    if differs:
        raise ValueError(
            f"{run_dir} holds another run ({'; '.join(differs)}); choose another run directory "
            "or remove this one"
        )


def _sweep(run_dir: Path) -> None:
    """Remove what a killed process was writing: parts of a model, files not yet renamed."""
    for left in [*run_dir.glob(".model.*"), *run_dir.glob("**/*.partial")]:
        shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)


def claim(config: TrainConfig, run_dir: Path) -> None:
    """Write config.json, once all that can be checked has been: nothing half-written."""
    atomic_write(run_dir / "config.json", config.to_json())



def _loaded(
    config: TrainConfig,
    root: Path,
    tokenizer: PreTrainedTokenizerBase,
    load: Load,
    device: str | None,
) -> PreTrainedModel:
    # DeepSpeed makes its float32 masters of bfloat16 weights.
    # The frozen base of LoRA is computed with as it is.
    narrow = config.precision == "master" and (config.sharded or config.lora_rank)
    dtype = torch.bfloat16 if narrow or config.base_bits == 4 else torch.float32
    model = load(
        base_place(config.base, root),
        scaling=config.rope,
        attention=config.attention,
        dtype=dtype,
        revision=config.revision,
        **({} if device is None else {"device": device}),
        **({"bits": config.base_bits} if config.base_bits != 16 else {}),
    )
    clex.initialise(model, config.seed)
    models.check_pair(model, tokenizer)
    return model


def _with_memory_plan(
    config: TrainConfig, about: PreTrainedConfig, window: int, machine: parallel.Machine
) -> TrainConfig:
    """Decide what memory decides, or say before anything is loaded that it does not fit."""
    config, said = parallel.choose(config, about, window, machine)
    if said and whole("RANK", 0) == 0:
        log.info("%s", said)
    if config.sharded:
        zero.quieten()
    if config.float8 != "none":
        float8.check(config, about, window)
    return config



def _prepare(
    trainer: CreamTrainer, asked: TrainConfig, tokenizer: PreTrainedTokenizerBase, run_dir: Path
) -> None:
    """Settle how the model computes, write down what was asked for, and what is logged."""
    model, config = trainer.model, trainer.config
    model.config.use_cache = False
    if config.float8 != "none":
        float8.convert(model, config)
    if config.gradient_checkpointing:
        # The first name is the newer one; the second warns where both are there.
        enable = getattr(model, "activation_checkpointing_enable", None)
        (enable or model.gradient_checkpointing_enable)({"use_reentrant": False})
    if config.precision == "master":
        count = config.recompute if isinstance(config.recompute, int) else 0
        recompute_layers(model, count, trainer.compiled == "layers")
    elif trainer.compiled == "layers":
        compile_layers(model)
    if config.zero == 3:
        zero.gather_layers_whole(decoder_layers(model))
    if trainer.is_world_process_zero():
        claim(asked, run_dir)
    trainer.remove_callback(PrinterCallback)
    length = trainer.train_dataset.draw.example_length
    trained = model.num_parameters(only_trainable=True)
    flops = training_flops(model.config, model.num_parameters(), length, trained)
    metrics = run_dir / "metrics.jsonl"
    trainer.add_callback(MetricsLog(metrics, config.batch_size * length, flops))
    trainer.add_callback(CheckpointSeal())





def _named_probe(name: str | None) -> Probe | None:
    if name is None:
        return None
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"probe is {name!r}; it must be MODULE:FUNCTION ({error})") from error


def main(arguments: list[str] | None = None) -> None:
    """Train the run that a directory's config.json describes."""
    parser = argparse.ArgumentParser(prog="python -m cream.training", description=main.__doc__)
    parser.add_argument("run_dir", type=Path, help="the run directory; holds config.json")
    parser.add_argument("--root", type=Path, default=".", help="where config.json's folders start")
    parser.add_argument("--local_rank", "--local-rank", type=int, help="what launchers pass")
    given = parser.parse_args(arguments)
    try:
        config = read_config(given.run_dir)
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))
    first = whole("RANK", 0) == 0
    logging.basicConfig(level=logging.INFO if first else logging.ERROR, format="%(message)s")
    try:
        model = train(config, given.run_dir, root=given.root)
    except (MemoryError, OSError, ValueError, ModuleNotFoundError) as error:
        parser.exit(1, f"{error}\n")
    if PartialState().is_main_process:
        print(model)
    PartialState().destroy_process_group()
