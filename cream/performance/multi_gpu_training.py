"""Trainings that must be the same by one process and by several, sharded, stopped or in RAM.

What belongs here: the parts resume, small, offload and miniature of `multi_gpu`, what their
processes do, and what every part of it needs: a process (`child`) and a row (`append`).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, TrainerCallback

from cream import models, notebook
from cream.data import corpus
from cream.data.retrieval import documents
from cream.inference.prompt_tokens import prompt_ids
from cream.performance import harness, random_models
from cream.performance.harness import GIB, scratch
from cream.training import memory
from cream.training import run as training_run
from cream.training.callbacks import read_metrics
from cream.training.config import TrainConfig
from cream.utils.provenance import hash_of

__all__ = [
    "append", "checked", "child", "miniature", "offload", "read", "resume", "small", "train",
]  # fmt: skip

# What small models train at on one GPU, beside plain training: (stage, what lies in RAM).
SMALL = ((1, "none"), (2, "none"), (3, "none"))
OFFLOAD = ((2, "optimizer"), (3, "optimizer"), (3, "all"))
FLOAT = 1e-3  # the same in float32, whose products a card may round to 10 bits
NOISE = 5e-3  # of a loss: what the order of sums in bfloat16 makes of it in a few steps


def resume(given: argparse.Namespace) -> bool:
    """Write a checkpoint and go on; end; go on from the checkpoint; read the saved model."""
    shape, stage = random_models.shape(given.shape, given.resume_layers), given.zero.split(",")[0]
    count = memory.parameters(shape)
    with scratch(given.folder) as root:
        random_models.lay_out(root, shape)
        fields = {"steps": 4, "save_steps": 2, "batch_size": 4 * given.gpus, "micro_batch": 1,
                  "zero": int(stage) if stage.isdigit() else stage, "recompute": "auto",
                  "save_dtype": "bfloat16", "compile": given.compile}  # fmt: skip
        job = {"root": str(root), "run": "run", "fields": fields, "exact": True}
        first = checked("to the end", child(given, "train", given.gpus, **job, end=4))
        size = sum(f.stat().st_size for f in (root / "run" / "checkpoints").rglob("*"))
        again = checked("resumed", child(given, "train", given.gpus, **job))
        shutil.rmtree(root / "run" / "checkpoints")
        stock = checked("read", child(given, "read", 1, folder=str(root / "run" / "model")))
    same = {"losses": first["losses"] == again["losses"], "norms": first["norms"] == again["norms"],
            "weights": first["bits"] == again["bits"]}  # fmt: skip
    whole = memory.parameters(random_models.shape(given.shape))
    read = max(0.0, again["ready"] - first["ready"])
    print(f"zero {first['zero']}: equal after resuming: {same}; losses {again['losses']}")
    print(f"a checkpoint of {count:,} parameters: {size / GIB:.1f} GiB, written (synced) in "
          f"{first['write']:.1f} s, read in {read:.1f} s; at full depth, {whole:,} (extrapolated): "
          f"{size * whole / count / GIB:.1f} GiB, {first['write'] * whole / count:.0f} s, "
          f"{read * whole / count:.0f} s; the model saved in {again['saved']:.1f} s")  # fmt: skip
    print(f"stock transformers, one GPU: {stock}", flush=True)
    close = max(abs(a - b) for a, b in zip(first["losses"], again["losses"], strict=True))
    append(given, "speed_resume", first["card"], shape, score=1000 * first["write"],
         token_length=shape.max_position_embeddings,
         settings={"shape": given.shape, "layers": given.resume_layers, "zero": first["zero"],
                   "kernels": "deterministic", "equal": same, "largest_difference": close,
                   "checkpoint_gib": size / GIB,
                   "write_seconds": first["write"], "read_seconds": read, "parameters": count,
                   "save_seconds": again["saved"], "full_parameters": whole,
                   "score": "milliseconds to write a checkpoint"})  # fmt: skip
    return all(same.values()) and stock["parameters"] == count and stock["dtype"] == "bfloat16"


class _Watch(TrainerCallback):
    """Takes times, sums up the weights' bits at the end, and may end the run there."""

    class Reached(Exception):
        pass

    def __init__(self, found: dict, end: int | None):
        self.found, self.end = found, end

    def on_train_begin(self, args: object, state: object, control: object, **_: object) -> None:
        """Everything is loaded, a checkpoint included."""
        self.found["ready"] = time.perf_counter() - self.found["start"]
        self.begun = state.global_step

    def on_step_end(self, args: object, state: object, control: object, **more: object) -> None:
        """Write one checkpoint alone: the first of the run that began at 0."""
        control.should_save = control.should_save and self.begun == 0 and not (
            "write" in self.found or "saving" in self.found)  # fmt: skip
        if control.should_save:
            self.found["saving"] = time.perf_counter()
        if state.global_step == state.max_steps:
            self.found["bits"] = _bits(more["model"])
            self.found["trained"] = time.perf_counter()

    def on_save(self, args: object, state: object, control: object, **_: object) -> None:
        """Take the time once the disk has it."""
        if state.is_world_process_zero:
            os.sync()
        self.found["write"] = time.perf_counter() - self.found.pop("saving")

    def on_log(self, args: object, state: object, control: object, **_: object) -> None:
        """End where no model is wanted."""
        if self.end is not None and state.global_step >= self.end:
            raise self.Reached


@torch.no_grad()
def _bits(model: torch.nn.Module) -> list[int]:
    """A sum over the bits of every weight that this process holds."""
    held = [getattr(one, "ds_tensor", one).detach() for one in model.parameters()]
    kinds = {2: torch.int16, 4: torch.int32}
    return [int(one.contiguous().view(kinds[one.element_size()]).sum(dtype=torch.int64))
            for one in held]  # fmt: skip


def _deterministic(exact: bool) -> None:
    """Take kernels that add in a fixed order; those without one fail if `exact`, else they warn.

    Where it only warns, torch leaves attention's backward unordered, FlashAttention's too.
    """
    torch.use_deterministic_algorithms(True, warn_only=not exact)
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.backends.cuda.enable_cudnn_sdp(False)


def train(
    root: str,
    run: str,
    fields: dict,
    end: int | None = None,
    own: bool = False,
    exact: bool = False,
) -> dict:
    """Train one run of several processes, up to a step without a model or to its end.

    By kernels that add in a fixed order, every one of them if `exact`, where bits are compared.
    Weights are random, or the base's `own`.
    """
    _deterministic(exact)
    common = {"base": "base", "corpus": "corpus", "precision": "master", "log_steps": 1,
              "warmup_steps": 1}  # fmt: skip
    load = None if own else random_models.random_weights
    config, folder = TrainConfig(**{**common, **fields}), Path(root) / run
    found = {"start": time.perf_counter(), "card": harness.card_name()}
    with contextlib.suppress(_Watch.Reached):
        training_run.train(config, folder, root=root, progress=False, load=load,
                       callbacks=[_Watch(found, end)])  # fmt: skip
        found["saved"] = time.perf_counter() - found["trained"]
    if os.environ.get("RANK", "0") != "0":
        return {}
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if "loss" in row]
    notes = list((folder / "checkpoints").glob("*/sharding.json"))
    found["zero"] = json.loads(notes[0].read_text())["zero"] if notes else config.zero
    return {**found, "losses": [row["loss"] for row in rows],
            "norms": [row["grad_norm"] for row in rows],
            "peak": rows[-1].get("peak_gib")}  # fmt: skip


def read(folder: str) -> dict:
    """Read a saved model by transformers alone, and compute a loss with it."""
    start = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").to(harness.place()).eval()
    AutoTokenizer.from_pretrained(folder)
    loaded = time.perf_counter() - start
    window = model.config.cream["window"]
    tokens = torch.randint(2, model.config.vocab_size, (1, window), device=model.device)
    with torch.inference_mode():
        loss = model(input_ids=tokens, labels=tokens).loss.item()
    if not np.isfinite(loss):
        raise ValueError(f"the saved model's loss is {loss}")
    return {"parameters": model.num_parameters(), "dtype": str(model.dtype).split(".")[1],
            "seconds": round(loaded, 1), "loss": round(loss, 4),
            "files": sorted(p.name for p in Path(folder).glob("*.safetensors"))}  # fmt: skip


def small(given: argparse.Namespace, settings: Sequence[tuple[int, str]] = SMALL) -> bool:
    """Train a small model on one GPU, plainly and sharded, all at once, and compare losses."""
    shape = random_models.shape(given.shape, given.small_layers)
    with scratch(given.folder) as root:
        random_models.lay_out(root, shape)
        fields = {"steps": 6, "batch_size": 4, "micro_batch": 1, "compile": given.compile}
        wanted = {(0, "none"): {"zero": 0}}
        wanted |= {pair: {"zero": pair[0], "zero_offload": pair[1]} for pair in settings}
        with ThreadPoolExecutor(_at_once(shape, len(wanted))) as pool:
            started = {
                pair: pool.submit(child, given, "train", 1, root=str(root), end=6,
                                  run=f"zero-{pair[0]}-{pair[1]}", fields={**fields, **more})
                for pair, more in wanted.items()
            }  # fmt: skip
            found = {pair: one.result() for pair, one in started.items()}
    return _compared(given, shape, found)


def _at_once(shape: LlamaConfig, most: int) -> int:
    """How many trainings of a small model one card holds: 18 bytes a parameter and 8 GiB each."""
    card, _ = harness.card()
    each = 18 * memory.parameters(shape) + 8 * GIB
    return most if card is None else max(1, min(most, card // each))


def _compared(given: argparse.Namespace, shape: LlamaConfig, found: dict[tuple, dict]) -> bool:
    plain, good = checked("plain training", found.pop((0, "none"))), True
    print(f"losses {plain['losses']}")
    for (stage, away), one in found.items():
        if "error" in one:
            print(f"zero {stage}, offload {away}: {one['error']}", flush=True)
            good = False
            continue
        off = max(abs(a - b) for a, b in zip(plain["losses"], one["losses"], strict=True))
        print(f"zero {stage}, offload {away}: losses within {off:.1e} of plain training's, peak "
              f"{one['peak']} GiB, {one['wall']:.0f} s", flush=True)  # fmt: skip
        good &= off < NOISE
        append(given, "check_sharding", one["card"], shape, score=off,
             token_length=shape.max_position_embeddings,
             settings={"shape": given.shape, "layers": shape.num_hidden_layers, "zero": stage,
                       "zero_offload": away, "processes": 1, "losses": one["losses"],
                       "plain": plain["losses"],
                       "score": "largest difference of a loss"})  # fmt: skip
    return good


def offload(given: argparse.Namespace) -> bool:
    """Compare losses where the optimizer, or the weights too, lie in RAM."""
    return small(given, OFFLOAD)


def miniature(given: argparse.Namespace) -> bool:
    """Train the miniature by one process and by all, with the same examples a step."""
    base = notebook.find_root() / "data" / "miniature"
    tokenizer = AutoTokenizer.from_pretrained(base)
    with scratch(given.folder) as root:
        (root / "base").symlink_to(base)
        corpus.build(root / "corpus", _lines(tokenizer), tokenizer, 512, {"of": "several"},
                     progress=False)  # fmt: skip
        fields = {"steps": 10, "batch_size": 8 * given.gpus, "micro_batch": 8, "scaling": "yarn",
                  "precision": "float32", "learning_rate": 3e-4}  # fmt: skip
        job = {"root": str(root), "fields": fields, "own": True}
        found = {
            count: checked(f"miniature, {count} processes",
                           child(given, "train", count, run=f"by-{count}", **job))
            for count in (1, given.gpus)
        }  # fmt: skip
    one, several = found[1]["losses"], found[given.gpus]["losses"]
    off = max(abs(a - b) for a, b in zip(one, several, strict=True))
    print(f"the miniature's losses by {given.gpus} processes: {several}, within {off:.1e} of one's",
          flush=True)  # fmt: skip
    append(given, "check_processes", found[1]["card"], score=off, token_length=512,
        settings={"base": "data/miniature", "losses": several, "one": one,
                  "score": "largest difference of a loss"})  # fmt: skip
    return off < FLOAT


def _lines(tokenizer: object) -> Iterator[dict[str, object]]:
    """Retrieval documents in the miniature's own form."""
    for number in range(40):
        made = documents.training_document("lines", np.random.default_rng(number), 3000)
        yield {"split": "train", "source": "made", "name": str(number), "kind": "lines",
               "input_ids": prompt_ids(tokenizer, made.text)}  # fmt: skip


# ------------------------------------------------------------------------ what every part needs


def child(given: argparse.Namespace, what: str, count: int, **job: object) -> dict:
    """Do `what` of `multi_gpu` with `job` in `count` processes of its own; what the first found."""
    job = {"what": what, **job}
    fixed = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"} if what == "train" else {}
    return harness.in_child("cream.performance.multi_gpu", job, given.limit, count, **fixed)


def checked(name: str, found: dict) -> dict:
    """Print how long a process took and return what it found; SystemExit for one that failed."""
    if "error" in found:
        raise SystemExit(f"{name}: {found['error']}")
    print(f"{name}: {found['wall']:.0f} s", flush=True)
    return found


def append(
    given: argparse.Namespace,
    task: str,
    card: str,
    shape: LlamaConfig | None = None,
    **more: object,
) -> None:
    """Append a row of a comparison, with its command: of a shape with random weights.

    Without one, of the shipped miniature.
    """
    if not given.rows:
        return
    about = {"command": given.command, "processes": given.gpus}
    if shape is None:
        place = notebook.find_root() / "data" / "miniature"
        window = models.describe(models.load_config(place))["window"]
        header = {"run": "several GPUs, miniature", "preset": "miniature", "base": "miniature",
                  "window": window, "model_hash": models.weights_hash(place), "card": card,
                  "seed": 0, "settings": about}  # fmt: skip
    else:
        run = f"several GPUs, {given.shape}"
        header = harness.shape_header(given.shape, shape, run, card, about)
    settings = {**about, **more.pop("settings")}
    harness.append(given.rows, header, {
        "task": task, "prompt_hash": hash_of("random"), "settings": settings, **more
    })  # fmt: skip
