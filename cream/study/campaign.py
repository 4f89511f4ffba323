"""Train and evaluate a list of models on the GPUs of one machine; resumable.

    python -m cream.study.campaign runs/smollm2 --models original,scaled:yarn:8,cream:yarn:8:0 \\
        --needle 5 --passkeys 20 --documents 16

A model is `original`, `scaled:SCALING:SCALE`, `adapter:FOLDER` (a LoRA adapter below root, merged
into the preset's base), or a run METHOD:SCALING:SCALE:SEED, which is trained by the preset first;
`cream:yarn:8:0:float8=tensorwise` changes fields of that run alone,
`cream:yarn:8:0:sampler_options.middle=uniform` one of its sampler's options, and
`clex:clex+frozen:8:0` sets the scaling's option `frozen`. The methods beside CREAM on the
miniature, one seed of eight:

    python -m cream.study.campaign runs/methods --preset miniature --dtype float32 \\
        --tasks longchat_lines,perplexity,ruler --lines 100 --ruler 5 --ruler-lengths 1126 \\
        --models original,plain:yarn:8:0,\\
    pose:yarn:8:0,cream:yarn:8:0,cream:linear:8:0,endprompt:yarn:8:0,endprompt:linear:8:0,\\
    cream:cope:8:0,plain:drope:8:0,clex:clex:8:0,clex:clex+frozen:8:0

One process a GPU takes the next model that no other has, trains it, and asks it the same questions
as every other: the hidden sentence in code and in manuals, the pass key, the perplexity of long
documents, RULER-6, LongChat lines, key-value pairs. Answers are rows in OUT/rows/NAME.jsonl as they
come, runs lie in OUT/NAME; the same command again computes what is missing. `--publish FILE` writes
the rows of OUT as Parquet, and their training metrics beside it.

What belongs here: training and asking, in which order, on which card. Which models there are is in
`campaign_models`, what they are asked in `campaign_questions`.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import itertools
import json
import math
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from cream import presets, results
from cream.evaluation import models as evaluation_models
from cream.evaluation.model_spec import Loaded
from cream.evaluation.runner import evaluate
from cream.results import Rows
from cream.study.campaign_models import Job, claimed, finish, jobs
from cream.study.campaign_questions import TASKS, USUAL, Questions
from cream.study.scoring import check_sharpened, sharpened
from cream.tasks import kv_retrieval, needle
from cream.tasks.base import Example
from cream.training.run import train

__all__ = ["Campaign", "complete", "main", "publish"]


# --------------------------------------------------------------------- one GPU's share


@dataclass(frozen=True)
class Campaign:
    """What every process of a campaign needs to know."""

    out: str
    jobs: tuple[Job, ...]
    questions: Questions
    tasks: tuple[str, ...]
    changes: dict[str, object]
    root: Path
    until: float
    batch_tokens: int
    dtype: str = "bfloat16"
    sharper: tuple[float, ...] = ()  # factors on the logits of attention that models are asked by

    @property
    def asked(self) -> list[str]:
        """A name of each task and factor that every model is asked."""
        again = [f"{task}:x{factor:g}" for factor in self.sharper for task in self.tasks]
        return [*self.tasks, *again]

    def examples(self, task: str) -> list[Example]:
        """The questions of one task, built once for all models."""
        return self.questions.examples(task, self.root, self.root / self.out / "questions")

    def work(self) -> bool:
        """Take one model after another, until none is left or the time is over.

        A model that fails is said and left to the next call; the others go on. True if none failed.
        """
        locks, failed = self.root / self.out / "locks", []
        for job in claimed(self.jobs, locks, self.asked):
            if time.time() > self.until:
                break
            try:
                self._train(job)
                if self._evaluate_job(job):
                    finish(job, locks, self.asked)
            except Exception:
                failed.append(job.name)
                _say(f"{job.name} FAILED\n{traceback.format_exc()}")
                self._clear()
        return not failed

    def _train(self, job: Job) -> None:
        if not job.trained:
            return
        fields = job.run_fields(self.changes)
        config = presets.get(self.questions.preset, **fields).train
        began = time.time()
        train(config, self.root / self.out / job.name, root=self.root, progress=False)
        _say(f"{job.name}: trained in {time.time() - began:.0f} s")
        self._clear()

    def _clear(self) -> None:
        torch.compiler.reset()  # a process may compile only so many models of one code
        gc.collect()
        torch.cuda.empty_cache()

    def _evaluate_job(self, job: Job) -> bool:
        """Ask one model everything; False if the time is over before that."""
        preset = presets.get(self.questions.preset)
        found = evaluation_models.find(
            job.evaluation_name(self.out), preset.train.base, self.root, preset.name
        )
        loaded = found[0].load(getattr(torch, self.dtype))
        if self.sharper:
            check_sharpened(loaded.model)
        path = self.root / self.out / "rows" / f"{job.name}.jsonl"
        with contextlib.closing(Rows(path, loaded.header)) as rows:
            for factor, task in itertools.product((1.0, *self.sharper), self.tasks):
                if time.time() > self.until:
                    return False
                began = time.time()
                frame = self._evaluate(loaded, task, rows, factor)
                how = "" if factor == 1 else f", attention x{factor:g}"
                took = f"{len(frame)} rows, {time.time() - began:.0f} s"
                _say(f"{job.name}{how} {task}: {took}, {_means(frame, task)}")
        return True

    def _evaluate(
        self, loaded: Loaded, task: str, rows: Rows, factor: float = 1.0
    ) -> pd.DataFrame:
        """Ask one task, the longest prompts first, as many at once as `batch_tokens` are.

        By a `factor` that is not 1 attention is sharper, which the rows' settings say.
        """
        settings = loaded.settings | ({} if factor == 1 else {"sharper": factor})
        with sharpened(loaded.model, factor):
            frames = [
                evaluate(
                    loaded.model,
                    loaded.tokenizer,
                    TASKS[task],
                    asked,
                    rows,
                    settings,
                    size,
                    loaded.allow_beyond,
                    progress=False,
                )
                for size, asked in self._batches(task)
            ]
        return pd.concat(frames, ignore_index=True)

    def _batches(self, task: str) -> list[tuple[int, list[Example]]]:
        """How many are read at once, and which: what fits alike is together, the longest first."""
        examples = self.examples(task)
        if task == "perplexity":  # a document's lengths are read in one forward
            longest = max(one.token_length for one in examples)
            return [(max(1, self.batch_tokens // longest), examples)]
        ordered = sorted(examples, key=lambda one: -one.token_length)
        alike = itertools.groupby(ordered, lambda one: self.batch_tokens // one.token_length)
        return [(max(1, size), list(group)) for size, group in alike]


def _means(frame: pd.DataFrame, task: str) -> dict[int, float]:
    """What was measured at each length, all questions alike."""
    groups = frame.groupby("token_length")
    if task == "perplexity":
        found = np.exp(groups["nll"].sum() / groups["scored_tokens"].sum())
    else:
        found = groups["score"].mean()
    return found.astype(float).round(3).to_dict()


def _say(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, flush=True)


# --------------------------------------------------------------------- rows to keep, command line


def complete(frame: pd.DataFrame, sentences: int = 0) -> pd.DataFrame:
    """Return the rows of every length of a task at which a model has answered all questions.

    A campaign that was cut off leaves lengths half asked, and in an order that is not random: the
    longest prompts first. All questions are as many as the model that was asked most has answered;
    of hidden sentences at least `sentences` a length, for where no model came to the end.
    """
    factor = frame["settings"].map(lambda text: json.loads(text).get("sharper", 1))
    pairs, keys = frame["task"] == "kv_retrieval", frame.get("num_keys", frame["token_length"])
    size = frame["token_length"].mask(pairs, keys)  # prompts of UUIDs have a length each
    asked = frame.groupby([frame["run"], frame["task"], size, factor])["key"].transform("size")
    most = asked.groupby([frame["task"], size]).transform("max")
    most = most.mask(frame["task"] == "needle", most.clip(lower=sentences))
    return frame[asked == most].reset_index(drop=True)


def publish(out: Path, file: Path, sentences: int = 0) -> str:
    """Write the rows of all complete lengths as Parquet, and the runs' metrics beside them."""
    found = results.current(results.read(out / "rows"))
    frame = complete(found, sentences)
    results.to_parquet(frame, file)
    folder = file.parent / "metrics" / file.stem
    folder.mkdir(parents=True, exist_ok=True)
    runs = sorted(each.parent for each in out.glob("*/metrics.jsonl"))
    for run in runs:
        (folder / f"{run.name}.jsonl").write_bytes((run / "metrics.jsonl").read_bytes())
        (folder / f"{run.name}.json").write_bytes((run / "config.json").read_bytes())
    return (
        f"{file}: {len(frame):,} rows of {frame['run'].nunique()} models, {len(found) - len(frame)}"
        f" of lengths half asked left out; {folder}: {len(runs)} runs"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and evaluate a list of models, on every GPU of this machine."""
    given = _parser().parse_args(arguments)
    if given.publish:
        print(publish(given.root / given.out, given.publish, given.sentences))
        return
    campaign = _campaign(given)
    if given.worker:
        if not campaign.work():
            raise SystemExit(1)
        return
    started = [] if given.questions_only else _started(arguments or sys.argv[1:], campaign, given)
    for task in campaign.tasks:  # meanwhile: who trains does not need them yet
        began = time.time()
        _say(f"{task}: {len(campaign.examples(task))} questions, {time.time() - began:.0f} s")
    if any([process.wait() for process in started]):
        raise SystemExit("a process of the campaign failed; the same command goes on from here")


def _started(
    arguments: Sequence[str], campaign: Campaign, given: argparse.Namespace
) -> list[subprocess.Popen]:
    """Start the processes, each with one card."""
    again = [sys.executable, "-m", "cream.study.campaign", *arguments, "--worker"]
    again += ["--until", str(campaign.until)]
    return [
        subprocess.Popen(again, env={**os.environ, "CUDA_VISIBLE_DEVICES": card})
        for card in _cards(given.gpus) * given.share
    ] or [subprocess.Popen(again)]


def _cards(gpus: str | None) -> list[str]:
    """The cards named, or else those that this process may see, by the host's numbers."""
    named = gpus or os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(n) for n in range(torch.cuda.device_count())]


def _campaign(given: argparse.Namespace) -> Campaign:
    listed = tuple(jobs(given.models))
    questions = Questions(
        preset=given.preset, lengths=given.lengths, scale=_scale(listed, given.preset),
        needle=given.needle, style=given.style, passkeys=given.passkeys,
        documents=given.documents, ruler=given.ruler, ruler_lengths=given.ruler_lengths,
        split=given.split, seed=given.seed, lines=given.lines, pairs=given.pairs,
        pair_keys=given.pair_keys,
    )  # fmt: skip
    tasks = tuple(given.tasks.split(","))
    if unknown := [task for task in tasks if task not in TASKS]:
        raise SystemExit(f"there is no task {unknown[0]!r}; there are: {', '.join(TASKS)}")
    changes = json.loads(given.changes)
    for job in listed:  # an unknown method or option ends it here, not after the first runs
        fields = job.fields if job.trained else {}
        presets.get(given.preset, **(job.run_fields(changes) if job.trained else changes))
        if given.sharper and fields.get("scaling") == "clex":
            raise SystemExit(f"CLEX has no factor that makes attention sharper: ask {job.name} "
                             "without --sharper")  # fmt: skip
        if job.folder and not (given.root / job.folder / "adapter_config.json").is_file():
            raise SystemExit(f"{given.root / job.folder} holds no adapter_config.json: it is no "
                             "LoRA adapter")  # fmt: skip
    until = given.until or time.time() + 60 * given.minutes
    return Campaign(
        given.out, listed, questions, tasks, changes, given.root, until, given.batch_tokens,
        given.dtype, given.sharper,
    )  # fmt: skip


def _scale(listed: Sequence[Job], preset: str) -> int | None:
    """The largest scale of the models, if it is above the preset's: prompts of the whole target
    length leave room for an answer.
    """
    largest = max((job.scale or 0 for job in listed), default=0)
    return largest if largest > presets.get(preset).train.scale else None


def _counts(text: str) -> tuple[int, ...]:
    return tuple(int(each) for each in text.split(","))


def _windows(text: str) -> tuple[float, ...]:
    return tuple(float(each) for each in text.split(","))


def _factors(text: str) -> tuple[float, ...]:
    found = tuple(float(each) for each in text.split(","))
    if wrong := [each for each in found if not 0 < each < math.inf or each == 1]:
        raise argparse.ArgumentTypeError(f"{wrong[0]:g} is no factor: above 0, and not 1, by which "
                                         "models are asked anyway")  # fmt: skip
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cream.study.campaign", description=main.__doc__
    )
    add = parser.add_argument
    add("out", help="the campaign's folder, below root")
    add("--models", default="original", help="original, scaled:yarn:8, cream:yarn:8:0, ...")
    add("--preset", default="smollm2-135m")
    add("--changes", default="{}", help='of the training preset, as JSON: {"steps": 300}')
    add("--tasks", default=",".join(USUAL), help=", ".join(TASKS))
    add("--lengths", type=_windows, help="of prompts and documents in windows N, instead of the "
        "preset's: 1,8,16,32; RULER and UUIDs have their own")  # fmt: skip
    add("--needle", type=_counts, help="sentences a length, depth and kind; or one number a length")
    add("--style", choices=needle.STYLES, help="of the hidden sentence, instead of the preset's")
    add("--passkeys", type=int, help="pass keys a length")
    add("--lines", type=int, help="LongChat lines a length")
    add("--pairs", type=int, help="objects of key-value pairs a size, each asked at five places")
    add("--pair-keys", type=_counts, default=kv_retrieval.KEYS_PAPER, help="UUIDs of an object")
    add("--dtype", default="bfloat16", choices=("bfloat16", "float32"), help="of evaluations")
    add("--sharper", type=_factors, default=(), help="ask each model again with its attention "
        "sharper by these factors, such as 1.2")  # fmt: skip
    add("--documents", type=int, help="documents whose perplexity is measured")
    add("--ruler", type=int, default=20, help="samples of each task of RULER-6 and each length")
    add("--ruler-lengths", type=_counts, default=(8192, 16384, 32768), help="with commas between")
    add("--split", default="test", help="of the corpus: test or validation")
    add("--seed", type=int, default=0, help="of the questions")
    add("--batch-tokens", type=int, default=262_144, help="of the prompts that are read at once")
    add("--minutes", type=float, default=1e6, help="nothing new begins after so many")
    add("--gpus", help="their numbers, with commas between (all)")
    add("--share", type=int, default=1, help="processes a GPU")
    add("--root", type=Path, default=Path("."))
    add("--publish", type=Path, help="only write the rows of OUT to this Parquet file")
    add(
        "--sentences",
        type=int,
        default=0,
        help="with --publish: hidden sentences that a complete length has, where none is complete",
    )
    add("--questions-only", action="store_true", help="only build what will be asked")
    add("--worker", action="store_true", help=argparse.SUPPRESS)
    add("--until", type=float, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
