"""Tiny training runs: a base and a corpus on disk, configurations for them, what runs leave.

As a script it trains in processes of its own, of which some are killed on the way:

    python tests/training_runs.py JOBS.json      # a list of {"run_dir", "kill": [place, count]}
"""

from __future__ import annotations

import gc
import hashlib
import importlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import warm_python
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cream import models
from cream.data import corpus
from cream.training import callbacks
from cream.training import run as training_run
from cream.training.config import TrainConfig

WINDOW, SCALE = 64, 8
LENGTHS = (64, 65, 90, 200, 400, 511, 512, 700, 900, 1500, 3000)  # tokens of the documents


def lay_out(root: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Path:
    """Write a base and a corpus of random tokens for it, as `root`/base and `root`/corpus."""
    models.save(model, tokenizer, root / "base")
    corpus.build(root / "corpus", documents(), tokenizer, WINDOW, {"of": "tests"}, progress=False)
    return root


def documents(lengths: tuple[int, ...] = LENGTHS) -> Iterator[dict]:
    """Give documents of random token ids, one of each length."""
    rng = np.random.default_rng(0)
    for length in lengths:
        ids = rng.integers(2, 600, length)
        about = {"split": "train", "source": "tests", "name": f"d{length}", "kind": "text"}
        yield {**about, "input_ids": ids.tolist()}


def config(**changes: object) -> TrainConfig:
    """Return the configuration of a short run on what `lay_out` writes."""
    settings = {
        "base": "base", "corpus": "corpus", "scale": SCALE, "steps": 3, "batch_size": 4,
        "micro_batch": 4, "learning_rate": 1e-3, "warmup_steps": 1, "log_steps": 1,
    }  # fmt: skip
    return TrainConfig(**{**settings, **changes})


def train(root: Path, run_dir: Path, *, ask: Callable | None = None, **changes: object) -> Path:
    """Train a short run in this process, with `ask` as its probe."""
    return training_run.train(config(**changes), run_dir, probe=ask, root=root, progress=False)


def losses(run_dir: Path) -> dict[int, float]:
    """Return the loss by step from metrics.jsonl; a step that stands there twice is an error."""
    rows = [row for row in callbacks.read_metrics(run_dir / "metrics.jsonl") if "loss" in row]
    steps = [row["step"] for row in rows]
    assert steps == sorted(set(steps)), steps
    return {row["step"]: row["loss"] for row in rows}


def weights(run_dir: Path) -> str:
    """Return the hash of a finished run's weights, bit for bit."""
    return hashlib.sha256((run_dir / "model" / "model.safetensors").read_bytes()).hexdigest()


def job(run_dir: Path, kill: tuple[str, int] | None = None, **changes: object) -> dict:
    """Write a run's config.json and return the job that trains it, or dies trying."""
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "config.json").write_text(config(**changes).to_json())
    return {"run_dir": str(run_dir), "kill": kill}


def environment() -> dict[str, str]:
    """Return what a training process of the tests is given: this code, one thread, no device."""
    root = Path(__file__).resolve().parents[2]
    paths = [str(root), os.environ.get("PYTHONPATH", "")]
    given = {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    given["PYTHON_EXEC"] = warm_python.executable()  # torchrun's name for it
    return {**os.environ, **given, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}


def share(place: Path, other: Path) -> None:
    """Let `other` hold the base and the corpus of `place` too."""
    other.mkdir(exist_ok=True)
    for name in ("base", "corpus"):
        (other / name).symlink_to(place / name)


def run_jobs(place: Path, jobs: list[dict], processes: int = 1) -> list[int]:
    """Train jobs outside of this process; return how each ended, as subprocess does.

    With several processes it is torchrun that starts them, and RuntimeError if that fails.
    """
    (place / "jobs.json").write_text(json.dumps(jobs))
    command = [__file__, str(place / "jobs.json")]
    if processes > 1:
        many = ["--standalone", f"--nproc-per-node={processes}"]
        command = ["-m", "torch.distributed.run", *many, *command]
    pipe, env = subprocess.PIPE, environment()
    python = warm_python.executable()
    child = subprocess.Popen([python, *command], env=env, stdout=pipe, stderr=pipe)
    try:
        out, errors = child.communicate(timeout=200)
    finally:
        child.terminate()  # torchrun then ends its own children, which a SIGKILL would leave
    if child.returncode:
        raise RuntimeError(errors.decode())
    print(errors.decode(), file=sys.stderr)  # pytest shows it where a test fails
    return json.loads(out.splitlines()[-1]) if processes == 1 else []


def _die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _at(count: int, function: Callable, instead: Callable) -> Callable:
    """Return `function`, replaced by `instead` in its call number `count` (from 1)."""
    calls = iter(range(1, sys.maxsize))
    return lambda *a, **k: (instead if next(calls) == count else function)(*a, **k)


def _torn(value: object, file: str, **_: object) -> None:
    whole = io.BytesIO()
    torch.serialization.save(value, whole)
    Path(file).write_bytes(whole.getvalue()[: whole.tell() // 2])
    _die()


class Stopped(Exception):
    """Ends a run as an error would, in all its processes at the same place."""


def _stop(*_: object, **__: object) -> None:
    raise Stopped


def arm(place: str, count: int, end: Callable = _die) -> None:
    """Let a run end in its `count`-th forward pass, torch.save, seal or save of a model."""
    trainer, seal = training_run.CreamTrainer, callbacks.CheckpointSeal
    if place == "forward":
        trainer.compute_loss = _at(count, trainer.compute_loss, end)
    elif place == "torch.save":
        torch.save = _at(count, torch.save, _torn)
    elif place == "seal":
        seal.on_save = _at(count, seal.on_save, end)
    elif place == "model":
        models.save = _at(count, models.save, end)
    elif place == "weights":
        write = PreTrainedModel.save_pretrained
        PreTrainedModel.save_pretrained = _at(count, write, lambda *a, **k: end(write(*a, **k)))
    else:
        raise ValueError(place)


def record() -> None:
    """Write down which examples this process's forward passes see, a line a forward pass."""
    compute, name = training_run.CreamTrainer.compute_loss, f"{os.environ.get('RANK', 0)}.seen"

    def recorded(self: object, model: object, inputs: dict, *rest: object, **more: object):
        rows = torch.cat([inputs["input_ids"], inputs["position_ids"]], dim=1).numpy()
        seen = [hashlib.sha256(row.tobytes()).hexdigest()[:12] for row in rows]
        with (Path(self.args.output_dir).parent / name).open("a") as out:
            out.write(json.dumps({"step": self.state.global_step + 1, "seen": seen}) + "\n")
        return compute(self, model, inputs, *rest, **more)

    training_run.CreamTrainer.compute_loss = recorded


def seen(folder: Path) -> dict[int, list[str]]:
    """Return the examples of each optimizer step, over all processes, sorted."""
    steps: dict[int, list[str]] = {}
    for file in folder.glob("*.seen"):
        for line in map(json.loads, file.read_text().splitlines()):
            steps.setdefault(line["step"], []).extend(line["seen"])
    return {step: sorted(examples) for step, examples in steps.items()}


def _forked(job: dict, root: Path) -> None:
    """Train one job in a fork of a process that has computed nothing yet, and end the fork."""
    # In a fork torch makes its pool of threads anew in the first call: of two threads that load
    # weights both would do so, and one would find none ("Invalid thread pool!").
    torch.set_num_threads(torch.get_num_threads())
    try:
        if job["kill"]:
            arm(*job["kill"])
        training_run.main([job["run_dir"], "--root", str(root)])
        sys.stdout.flush()
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    os._exit(0)


def main(jobs_file: Path) -> None:
    """Train the jobs one after another, each in a process; the last line says how they ended."""
    importlib.import_module("transformers.models.llama.modeling_llama")  # once for all
    gc.freeze()
    record()
    endings = []
    for each in json.loads(jobs_file.read_text()):
        if (process := os.fork()) == 0:
            _forked(each, jobs_file.parent)
        endings.append(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
    print(json.dumps(endings))


def distributed(jobs_file: Path) -> None:
    """Train the jobs one after another in this process, one of several; one may be stopped.

    The last process is slow to write its part of a checkpoint, which is then not complete.
    """
    record()
    if os.environ["RANK"] != "0":
        write = training_run.CreamTrainer._save_rng_state
        training_run.CreamTrainer._save_rng_state = lambda *a: (time.sleep(0.2), write(*a))
    for each in json.loads(jobs_file.read_text()):
        run = Path(each["run_dir"])
        if each["kill"]:
            arm(*each["kill"], end=_stop)
        try:
            training_run.train(training_run.read_config(run), run, root=jobs_file.parent)
        except Stopped:
            (run / f"{os.environ['RANK']}.seen").unlink()


if __name__ == "__main__":
    (distributed if "RANK" in os.environ else main)(Path(sys.argv[1]))
