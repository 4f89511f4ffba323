"""What several GPUs of one host make of the same work: speed, resuming, equal losses, equal rows.

    python -m cream.several --gpus 2 --parts speed,resume,small,evaluate --rows runs/rows/two.jsonl

speed     tokens a second of the paper's recipe on one GPU and on all, for each stage of ZeRO
resume    a checkpoint by all, the end of their processes, the same losses again; the saved model
          read by stock transformers on one GPU
small     on one GPU: a small model's losses at every stage beside plain training's
offload   the same with optimizer and weights in RAM (DeepSpeed compiles its own AdamW for that)
evaluate  the rows of one process and of all, and how much sooner they are there

Every setting runs in processes of its own with a limit of `--limit` seconds, and a part that fails
leaves the others alone. Weights are random, made in bfloat16 on the GPU where DeepSpeed trains.

What belongs here: what is compared between one process and several. One GPU's own measurements are
in `throughput` and `endurance`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, TrainerCallback

from cream import (
    corpus,
    evaluation,
    models,
    notebook,
    processes,
    results,
    shapes,
    subjects,
    throughput,
    training,
    training_memory,
)
from cream.provenance import hash_of
from cream.results import Rows
from cream.training_config import TrainConfig
from cream.training_log import read_metrics

__all__ = ["PARTS", "main"]

GIB = 2**30
RUNS = {"base": 1000, "chat": 100}  # steps of the paper's two runs (protocols 4.1)
# What small models train at on one GPU, beside plain training: (stage, what lies in RAM).
SMALL = ((1, "none"), (2, "none"), (3, "none"))
OFFLOAD = ((2, "optimizer"), (3, "optimizer"), (3, "all"))
NOISE = 5e-3  # of a loss: what the order of sums in bfloat16 makes of it in a few steps


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare several GPUs' training and evaluation with one GPU's."""
    parser = argparse.ArgumentParser(prog="python -m cream.several", description=main.__doc__)
    parser.add_argument("--parts", default="speed,resume,evaluate", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--gpus", type=int, default=max(1, torch.cuda.device_count()))
    parser.add_argument("--shape", choices=shapes.SHAPES, default="llama2-7b")
    parser.add_argument("--layers", type=int, help="of speed; fewer than the shape's: not its own")
    parser.add_argument("--zero", default="1,2,3", help="stages of speed and, the first, of resume")
    parser.add_argument("--micro-batch", default="1", help="of speed, such as 1,2")
    parser.add_argument("--recompute", default="auto", help="of speed")
    parser.add_argument("--steps", type=int, default=3, help="of speed; the first is left out")
    parser.add_argument("--batch-size", type=int, default=32, help="windows a step, of speed")
    parser.add_argument("--compile", choices=("auto", "none", "layers"), default="auto")
    parser.add_argument("--no-baseline", action="store_true", help="speed: not one GPU alone")
    parser.add_argument("--resume-layers", type=int, default=8)
    parser.add_argument("--small-layers", type=int, default=2)
    parser.add_argument("--evaluate-layers", type=int, default=8, help="of the perplexity's model")
    parser.add_argument("--lengths", default="1,4", help="of the perplexity, in windows")
    parser.add_argument("--documents", type=int, default=32, help="of the perplexity")
    parser.add_argument("--samples", type=int, default=100, help="of LongChat-Lines, a length")
    parser.add_argument("--lines-lengths", default="1,2,4,7.8", help="of LongChat-Lines")
    parser.add_argument("--limit", type=int, default=150, help="seconds a setting may take")
    parser.add_argument("--folder", help="where checkpoints and models are written, and removed")
    parser.add_argument("--rows", metavar="FILE", help="append rows to this JSON Lines file")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.one:
        _tell(_inside(json.loads(given.one)))
        return
    parts = [part.strip() for part in given.parts.split(",")]
    if unknown := set(parts) - set(PARTS):
        parser.error(f"parts are {', '.join(PARTS)}; there is no {', '.join(sorted(unknown))}")
    given.command = " ".join(
        ["python -m cream.several", *(sys.argv[1:] if arguments is None else arguments)]
    )
    if failed := [part for part in parts if not _done(part, given)]:
        raise SystemExit(f"not as it should be: {', '.join(failed)}")


def _done(part: str, given: argparse.Namespace) -> bool:
    """Do a part, say how long it took, and whether all was as it should be."""
    start = time.perf_counter()
    print(f"--- {part}", flush=True)
    try:
        good = PARTS[part](given)
    except (Exception, SystemExit):
        traceback.print_exc()
        good = False
    print(f"--- {part}: {time.perf_counter() - start:.0f} s", flush=True)
    return good


@contextlib.contextmanager
def _place(given: argparse.Namespace) -> Iterator[Path]:
    if given.folder:
        Path(given.folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        yield Path(folder)


def _child(given: argparse.Namespace, what: str, count: int, **job: object) -> dict:
    job = {"what": what, **job}
    fixed = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"} if what == "train" else {}
    return shapes.in_child("cream.several", job, given.limit, count, **fixed)


def _tell(found: dict) -> None:
    """Print what the first process found, and end; the first last, whose messages others read."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps(found), flush=True)
        time.sleep(1 if torch.distributed.is_initialized() else 0)
    sys.stderr.flush()
    os._exit(0)


def _inside(job: dict) -> dict:
    return {"train": _train, "read": _read, "write": _written, "ask": _ask}[job.pop("what")](**job)


def _row(
    given: argparse.Namespace, task: str, card: str, shape: LlamaConfig, **more: object
) -> None:
    """Append a row of a comparison, with its command."""
    if not given.rows:
        return
    about = {"command": given.command, "processes": given.gpus}
    header = {
        "run": f"several GPUs, {given.shape}", "preset": given.shape, "base": "random weights",
        "model_hash": hash_of(shape.to_dict()), "window": shape.max_position_embeddings,
        "card": card, "seed": 0, "settings": about,
    }  # fmt: skip
    settings = {**about, **more.pop("settings")}
    with Rows(given.rows, header) as rows:
        rows.append({"task": task, "sample": 0, "prompt_hash": hash_of("random"),
                     "settings": settings, **more})  # fmt: skip


# --------------------------------------------------------------------------------------- speed


def _speed(given: argparse.Namespace) -> bool:
    """Train by one GPU and by all, through `throughput`, and compare their rows."""
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(given.rows) if given.rows else Path(folder) / "rows.jsonl"
        before = set(results.read(rows)["key"]) if rows.exists() else set()
        common = ["--shape", given.shape, "--steps", str(given.steps), "--rows", str(rows),
                  "--batch-size", str(given.batch_size), "--compile", given.compile,
                  "--recompute", given.recompute, "--micro-batch", given.micro_batch,
                  "--limit", str(given.limit)]  # fmt: skip
        common += ["--layers", str(given.layers)] if given.layers else []
        if not given.no_baseline:
            throughput.main(common)
        throughput.main([*common, "--processes", str(given.gpus), "--zero", given.zero])
        found = results.read(rows) if rows.exists() else pd.DataFrame({"key": []})
        found = found[~found["key"].isin(before)]
    if found.empty:
        raise SystemExit("no setting ran")
    _scaling(found)
    return True


def _scaling(found: pd.DataFrame) -> None:
    """Print speeds in all and a GPU, MFU, memory, efficiency, and the hours of the paper's runs."""
    settings = found["settings"].map(json.loads)
    count = settings.map(lambda one: one.get("processes", 1))
    alone = max(found["tokens_per_second"][count == 1], default=None)
    for (_, row), how, many in zip(found.iterrows(), settings, count, strict=True):
        speed = row["tokens_per_second"]
        said = f"{many} x {row['card']}, zero {how['zero']}, micro-batch {how['micro_batch']}"
        said += f", recompute {how['recompute']}, offload {how['offload']}: {speed:,.0f} tokens/s"
        said += f", {speed / many:,.0f} a GPU"
        if how.get("mfu") is not None:
            said += f", MFU {how['mfu']:.1%}, peak {row['peak_gib']:.1f} GiB"
        if many > 1 and alone:
            said += f", {speed / alone / many:.1%} of {many} times one GPU"
        size = row["num_tokens"]
        hours = [f"{name} {steps * size / speed / 3600:.2f}" for name, steps in RUNS.items()]
        print(f"{said}; hours of a run: {', '.join(hours)}", flush=True)


# -------------------------------------------------------------------------------------- resume


def _resume(given: argparse.Namespace) -> bool:
    """Write a checkpoint and go on; end; go on from the checkpoint; read the saved model."""
    shape, stage = shapes.shape(given.shape, given.resume_layers), given.zero.split(",")[0]
    count = training_memory.parameters(shape)
    with _place(given) as root:
        shapes.lay_out(root, shape)
        fields = {"steps": 4, "save_steps": 2, "batch_size": 4 * given.gpus, "micro_batch": 1,
                  "zero": int(stage) if stage.isdigit() else stage, "recompute": "auto",
                  "save_dtype": "bfloat16", "compile": given.compile}  # fmt: skip
        job = {"root": str(root), "run": "run", "fields": fields}
        first = _checked("to the end", _child(given, "train", given.gpus, **job, end=4))
        size = sum(f.stat().st_size for f in (root / "run" / "checkpoints").rglob("*"))
        again = _checked("resumed", _child(given, "train", given.gpus, **job))
        shutil.rmtree(root / "run" / "checkpoints")
        stock = _checked("read", _child(given, "read", 1, folder=str(root / "run" / "model")))
    same = {"losses": first["losses"] == again["losses"], "norms": first["norms"] == again["norms"],
            "weights": first["bits"] == again["bits"]}  # fmt: skip
    whole = training_memory.parameters(shapes.shape(given.shape))
    read = max(0.0, again["ready"] - first["ready"])
    print(f"zero {first['zero']}: equal after resuming: {same}; losses {again['losses']}")
    print(f"a checkpoint of {count:,} parameters: {size / GIB:.1f} GiB, written (synced) in "
          f"{first['write']:.1f} s, read in {read:.1f} s; at full depth, {whole:,} (extrapolated): "
          f"{size * whole / count / GIB:.1f} GiB, {first['write'] * whole / count:.0f} s, "
          f"{read * whole / count:.0f} s; the model saved in {again['saved']:.1f} s")  # fmt: skip
    print(f"stock transformers, one GPU: {stock}", flush=True)
    close = max(abs(a - b) for a, b in zip(first["losses"], again["losses"], strict=True))
    _row(given, "speed_resume", first["card"], shape, score=1000 * first["write"],
         token_length=shape.max_position_embeddings,
         settings={"shape": given.shape, "layers": given.resume_layers, "zero": first["zero"],
                   "equal": same, "largest_difference": close, "checkpoint_gib": size / GIB,
                   "write_seconds": first["write"], "read_seconds": read, "parameters": count,
                   "save_seconds": again["saved"], "full_parameters": whole,
                   "score": "milliseconds to write a checkpoint"})  # fmt: skip
    return close < NOISE and stock["parameters"] == count and stock["dtype"] == "bfloat16"


def _checked(name: str, found: dict) -> dict:
    if "error" in found:
        raise SystemExit(f"{name}: {found['error']}")
    print(f"{name}: {found['wall']:.0f} s", flush=True)
    return found


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


def _train(root: str, run: str, fields: dict, end: int | None = None) -> dict:
    """Train one run of several processes, up to a step without a model or to its end.

    By kernels that add in a fixed order: what differs is not theirs.
    """
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    common = {"base": "base", "corpus": "corpus", "precision": "master", "log_steps": 1,
              "warmup_steps": 1}  # fmt: skip
    config, folder = TrainConfig(**{**common, **fields}), Path(root) / run
    found = {"start": time.perf_counter(), "card": subjects.card(shapes.place())}
    with contextlib.suppress(_Watch.Reached):
        training.train(config, folder, root=root, progress=False, load=shapes.random_weights,
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


def _read(folder: str) -> dict:
    """Read a saved model by transformers alone, and compute a loss with it."""
    start = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").to(shapes.place()).eval()
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


# --------------------------------------------------------------------------------------- small


def _small(given: argparse.Namespace, settings: Sequence[tuple[int, str]] = SMALL) -> bool:
    """Train a small model on one GPU, plainly and sharded, all at once, and compare losses."""
    shape = shapes.shape(given.shape, given.small_layers)
    with _place(given) as root:
        shapes.lay_out(root, shape)
        fields = {"steps": 6, "batch_size": 4, "micro_batch": 1, "compile": given.compile}
        wanted = {(0, "none"): {"zero": 0}}
        wanted |= {pair: {"zero": pair[0], "zero_offload": pair[1]} for pair in settings}
        with ThreadPoolExecutor(_at_once(shape, len(wanted))) as pool:
            started = {
                pair: pool.submit(_child, given, "train", 1, root=str(root), end=6,
                                  run=f"zero-{pair[0]}-{pair[1]}", fields={**fields, **more})
                for pair, more in wanted.items()
            }  # fmt: skip
            found = {pair: one.result() for pair, one in started.items()}
    return _compared(given, shape, found)


def _at_once(shape: LlamaConfig, most: int) -> int:
    """How many trainings of a small model one card holds: 18 bytes a parameter and 8 GiB each."""
    card, _ = shapes.card()
    each = 18 * training_memory.parameters(shape) + 8 * GIB
    return most if card is None else max(1, min(most, card // each))


def _compared(given: argparse.Namespace, shape: LlamaConfig, found: dict[tuple, dict]) -> bool:
    plain, good = _checked("plain training", found.pop((0, "none"))), True
    print(f"losses {plain['losses']}")
    for (stage, place), one in found.items():
        if "error" in one:
            print(f"zero {stage}, offload {place}: {one['error']}", flush=True)
            good = False
            continue
        off = max(abs(a - b) for a, b in zip(plain["losses"], one["losses"], strict=True))
        print(f"zero {stage}, offload {place}: losses within {off:.1e} of plain training's, peak "
              f"{one['peak']} GiB, {one['wall']:.0f} s", flush=True)  # fmt: skip
        good &= off < NOISE
        _row(given, "check_sharding", one["card"], shape, score=off,
             token_length=shape.max_position_embeddings,
             settings={"shape": given.shape, "layers": shape.num_hidden_layers, "zero": stage,
                       "zero_offload": place, "processes": 1, "losses": one["losses"],
                       "plain": plain["losses"],
                       "score": "largest difference of a loss"})  # fmt: skip
    return good


def _offload(given: argparse.Namespace) -> bool:
    """Compare losses where the optimizer, or the weights too, lie in RAM."""
    return _small(given, OFFLOAD)


# ------------------------------------------------------------------------------------ evaluate


def _evaluate(given: argparse.Namespace) -> bool:
    """Ask LongChat-Lines of the miniature and perplexity of a large model, by one and by all."""
    shape = shapes.shape(given.shape, given.evaluate_layers)
    with _place(given) as root:
        shapes.lay_out(root, shape)
        _checked("random weights", _child(given, "write", 1, folder=str(root)))
        base = str(root / "large")
        lengths = [float(one) for one in given.lengths.split(",")]
        _documents(root, shape, given.documents, max(lengths))
        lines = {"models": "scaled:yarn:8", "samples": given.samples,
                 "lengths": given.lines_lengths}  # fmt: skip
        text = {"preset": "llama2-7b", "models": "original", "base": base, "historical": 0,
                "corpus": str(root / "texts"), "lengths": given.lengths,
                "documents": given.documents}  # fmt: skip
        wanted = {"03_longchat_lines": lines, "07_perplexity": text}
        return all([_asked(given, root, name, more, shape) for name, more in wanted.items()])


def _written(folder: str) -> dict:
    """Write a shape with random bfloat16 weights beside its empty base."""
    base, large = Path(folder) / "base", Path(folder) / "large"
    model = shapes.random_weights(str(base), "none", 1, dtype=torch.bfloat16)
    models.save(model, AutoTokenizer.from_pretrained(base), large)
    return {"folder": str(large)}


def _documents(root: Path, shape: LlamaConfig, count: int, windows: float) -> None:
    """Write a corpus of test documents of random tokens."""
    rng, size = np.random.default_rng(0), int(windows * shape.max_position_embeddings) + 8

    def documents() -> Iterator[dict[str, object]]:
        for split, many in (("train", 1), ("test", count)):
            for number in range(many):
                ids = rng.integers(2, shape.vocab_size, size)
                yield {"split": split, "source": f"random {split}", "name": f"{split}{number}",
                       "kind": "text", "input_ids": ids.tolist()}  # fmt: skip

    tokenizer = AutoTokenizer.from_pretrained(root / "base")
    corpus.build(root / "texts", documents(), tokenizer, shape.max_position_embeddings,
                 {"of": "several"}, progress=False)  # fmt: skip


def _asked(
    given: argparse.Namespace, root: Path, name: str, parameters: dict, shape: LlamaConfig
) -> bool:
    """Ask one evaluation's questions by one process and by all; compare rows and times."""
    found = {}
    for count in (1, given.gpus):
        rows = root / f"{name}-{count}.jsonl"
        said = _child(given, "ask", count, name=name, parameters={**parameters, "rows": str(rows)})
        said = _checked(f"{name}, {count} processes", said)
        found[count] = {**said, "rows": results.read(rows).set_index("key").sort_index()}
    one, all_ = found[1], found[given.gpus]
    same, off, other = _same(one["rows"], all_["rows"])
    faster = {"asking": one["asked"] / all_["asked"], "in all": one["wall"] / all_["wall"]}
    print(f"{name}: {len(one['rows'])} rows, equal: {same} ({other} answers differ, losses a "
          f"token by {off:.1e}); asking took "
          f"{one['asked']:.1f} and {all_['asked']:.1f} s ({faster['asking']:.2f} times), the "
          f"command {one['wall']:.0f} and {all_['wall']:.0f} s", flush=True)  # fmt: skip
    _row(given, "speed_evaluation", one["card"], shape, score=1000 * all_["asked"],
         token_length=shape.max_position_embeddings,
         settings={"evaluation": name, "rows": len(one["rows"]), "equal": same, "faster": faster,
                   "answers_differ": other, "largest_difference": off,
                   "asked_seconds": [one["asked"], all_["asked"]],
                   "wall_seconds": [one["wall"], all_["wall"]], "shape": given.shape,
                   "layers": shape.num_hidden_layers,
                   "score": "milliseconds to ask by all"})  # fmt: skip
    return same


def _same(one: pd.DataFrame, other: pd.DataFrame) -> tuple[bool, float, int]:
    """Whether two tables are equal but for rounding, how far apart losses a token are, and answers.

    Batches are made of other prompts where processes share them, and bfloat16 rounds them another
    way: one answer in two hundred may differ.
    """
    if list(one.index) != list(other.index):
        raise SystemExit(f"{len(one)} and {len(other)} rows, and not the same questions")
    asked = ["sample", "prompt_hash", "target", "num_tokens"]
    answers = (one["prediction"].fillna("") != other["prediction"].fillna("")).sum()
    apart = ((one["nll"] - other["nll"]).abs() / one["scored_tokens"]).max()
    apart = 0.0 if pd.isna(apart) else float(apart)
    same = one[asked].equals(other[asked]) and answers <= len(one) / 200 and apart < 1e-3
    return same, apart, int(answers)


def _ask(name: str, parameters: dict) -> dict:
    """Run an evaluation's cells, as `cream.evaluation` does, and time the asking alone."""
    asked, evaluate = [], subjects.evaluate

    def timed(*args: object, **options: object) -> object:
        start = time.perf_counter()
        try:
            return evaluate(*args, **options)
        finally:
            asked.append(time.perf_counter() - start)

    subjects.evaluate = timed
    with contextlib.redirect_stdout(sys.stderr):
        evaluation.run(name, parameters, notebook.find_root())
    slowest = max(processes.current().gather(sum(asked)))
    return {"asked": slowest, "card": subjects.card(shapes.place())}


PARTS: dict[str, Callable[[argparse.Namespace], bool]] = {
    "speed": _speed,
    "resume": _resume,
    "small": _small,
    "offload": _offload,
    "evaluate": _evaluate,
}


if __name__ == "__main__":
    main()
