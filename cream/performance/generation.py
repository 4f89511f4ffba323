"""Timing what a notebook does: questions answered a second, milliseconds of a training step.

What belongs here: measuring through the doors that notebooks use, nothing that only benchmarks do.
`speed` is the command line to it, prints its tables and writes its rows.
"""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteriaList

from cream import models, presets
from cream.data import corpus
from cream.evaluation import models as evaluation_models
from cream.inference import generation as inference_generation
from cream.inference.stopping import StopString, decode
from cream.tasks import longchat_lines
from cream.tasks.base import Example
from cream.training.callbacks import read_metrics
from cream.training.config import TrainConfig
from cream.training.run import train
from cream.utils.provenance import hash_of

__all__ = ["generation", "one_by_one", "training"]

GIB = 2**30
Tokens = list[tuple[int, ...]]


# --------------------------------------------------------------------------------- generation


def generation(
    subject: evaluation_models.Subject,
    lengths: Sequence[int],
    samples: int,
    questions: int = 5,
    batch_size: int | str = "auto",
    dtype: torch.dtype | None = torch.float32,
    repeats: int = 3,
    seed: int = 0,
) -> tuple[pd.DataFrame, dict[str, object], list[str]]:
    """Time both ways over `samples` questions a length (tokens), `questions` to a record.

    The median of `repeats` passes, the two ways in turns after a short warm-up. Returns a table (a
    line a length and way), the header of its rows, and a sentence for each sample where the two
    ways part: in float32 none should; in bfloat16 logits that are nearly equal are told apart by
    rounding, which any other batch changes.
    """
    if min(repeats, 1 if batch_size == "auto" else batch_size) < 1:
        raise ValueError(f"repeats is {repeats}, batch_size {batch_size}; both must be at least 1")
    place = models.load_tokenizer(subject.path)
    examples = longchat_lines.examples(place, lengths, samples, seed, questions=questions)
    subject.check(examples, place)
    loaded = subject.load(dtype)
    model, tokenizer = loaded.model, loaded.tokenizer
    ways = {"one by one": one_by_one, "batches": _in_batches(batch_size, loaded.allow_beyond)}
    lines, parted = [], []
    for length in lengths:
        asked = [one for one in examples if one.token_length == length]
        taken, found = _timed(ways, model, tokenizer, asked, repeats)
        lines += [
            {"token_length": length, "way": way, "samples": len(asked), **_numbers(taken[way]),
             "prompt_tokens": sum(
                 len(inference_generation.tokenize(tokenizer, one.prompt)) for one in asked),
             "same": sum(a == b for a, b in zip(found[way], found["one by one"], strict=True)),
             "prompt_hash": hash_of(*(one.prompt for one in asked))}
            for way in ways
        ]  # fmt: skip
        parted += _parted(model, tokenizer, asked, *found.values())
    about = {"questions": questions, "batch_size": batch_size, "repeats": repeats}
    header = {**loaded.header, "seed": seed, "settings": {**loaded.settings, **about}}
    return pd.DataFrame(lines), header, parted


Way = Callable[[PreTrainedModel, PreTrainedTokenizerBase, Sequence[Example]], Tokens]


@torch.inference_mode()
def one_by_one(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, asked: Sequence[Example]
) -> Tokens:
    """Answer example after example with one `generate` each, as one would write it without us."""
    found = []
    for one in asked:
        ids = torch.tensor(
            [inference_generation.tokenize(tokenizer, one.prompt)], device=model.device
        )
        width = ids.shape[1]
        rule = [StopString(tokenizer, width, one.stop)] if one.stop else []
        config = inference_generation.settings(
            model, tokenizer, one.max_new_tokens, one.min_new_tokens
        )
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            generation_config=config,
            stopping_criteria=StoppingCriteriaList(rule),
        )
        found.append(tuple(out[0, width:].tolist()))
        decode(tokenizer, [found[-1]])
    return found


def _in_batches(batch_size: int | str, allow_beyond: bool) -> Way:
    def answer(
        model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, asked: Sequence[Example]
    ) -> Tokens:
        one, prompts = asked[0], [example.prompt for example in asked]
        done = inference_generation.greedy(
            model, tokenizer, prompts, one.max_new_tokens, one.stop, batch_size,
            one.min_new_tokens, allow_beyond,
        )  # fmt: skip
        return [answered.tokens for answered in sorted(done, key=lambda found: found.index)]

    return answer


def _timed(
    ways: dict[str, Way],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    asked: Sequence[Example],
    repeats: int,
) -> tuple[dict[str, list[tuple[float, float | None]]], dict[str, Tokens]]:
    """Seconds and peak bytes of each way's passes, and what it answered."""
    taken, found = {way: [] for way in ways}, {}
    for answer in ways.values():
        answer(model, tokenizer, asked[:2])
    for _ in range(repeats):
        for way, answer in ways.items():
            cuda = _fresh()
            start = time.perf_counter()
            found[way] = answer(model, tokenizer, asked)
            seconds = time.perf_counter() - start
            taken[way].append((seconds, torch.cuda.max_memory_allocated() if cuda else None))
    return taken, found


def _numbers(passes: list[tuple[float, float | None]]) -> dict[str, float | None]:
    peaks = [peak for _, peak in passes if peak is not None]
    seconds = statistics.median(seconds for seconds, _ in passes)
    return {"seconds": seconds, "peak_gib": max(peaks) / GIB if peaks else None}


@torch.inference_mode()
def _parted(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    asked: Sequence[Example],
    first: Tokens,
    second: Tokens,
) -> list[str]:
    """Where two answers part, and how far apart the logits of the two tokens are there."""
    said = []
    for one, ours, theirs in zip(asked, first, second, strict=True):
        if ours == theirs:
            continue
        where = f"{one.token_length} tokens, sample {one.sample}"
        places = [place for place, pair in enumerate(zip(ours, theirs, strict=False))
                  if pair[0] != pair[1]]  # fmt: skip
        if not places:
            said.append(f"{where}: one ends before the other")
            continue
        ids = [*inference_generation.tokenize(tokenizer, one.prompt), *ours[: places[0]]]
        logits = model(torch.tensor([ids], device=model.device), use_cache=False).logits[0, -1]
        gap = (logits[ours[places[0]]] - logits[theirs[places[0]]]).abs().item()
        said.append(f"{where}: parts at new token {places[0] + 1}, by logits {gap:.2g} apart")
    return said


# ----------------------------------------------------------------------------------- training


def training(
    preset: str,
    compiles: Sequence[str] = ("auto",),
    workers: Sequence[int] = (0,),
    steps: int = 200,
    progress: bool = False,
    **overrides: object,
) -> pd.DataFrame:
    """Time a preset's training steps for every choice of compilation and of loader processes.

    Each runs `steps` steps of the real Trainer in a directory that is thrown away; a step counts
    from the second half on, when all is compiled and warm, by the median of the logged intervals.
    `overrides` are fields of the run; corpus "random" is one of random tokens, made on the spot.
    """
    if steps < 4:
        raise ValueError(f"steps is {steps}; it must be at least 4, of which the last half counts")
    fixed = {"save_steps": 0, "probe_steps": 0, "log_steps": max(1, steps // 20), "steps": steps}
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        named = overrides.get("corpus")
        if named == "random":
            base = overrides.get("base") or presets.get(preset).train.base
            overrides["corpus"] = str(_random_corpus(base, Path(folder) / "corpus"))
        configs = [
            presets.get(preset, **{**overrides, **fixed}, compile=kind, workers=count).train
            for kind in compiles
            for count in workers
        ]
        lines = [
            {
                **_step(config, Path(folder) / str(number), progress),
                "corpus": named or config.corpus,
            }
            for number, config in enumerate(configs)
        ]
    return pd.DataFrame(lines)


def _step(config: TrainConfig, run_dir: Path, progress: bool) -> dict[str, object]:
    """Train one run; what decides its speed, and its speed."""
    cuda = _fresh()
    torch.compiler.reset()
    start = time.perf_counter()
    train(config, run_dir, progress=progress)
    wall = time.perf_counter() - start
    rate, size = _steady(run_dir / "metrics.jsonl")
    named = ["base", "method", "scaling", "scale", "seed", "compile", "workers", "steps"]
    named += ["batch_size", "micro_batch", "precision", "attention", "gradient_checkpointing"]
    return {
        **{name: getattr(config, name) for name in named},
        "ms_a_step": 1000 * size / rate,
        "tokens_per_second": rate,
        "tokens_a_step": size,
        "peak_gib": torch.cuda.max_memory_allocated() / GIB if cuda else None,
        "wall": wall,
    }


def _steady(metrics: Path) -> tuple[float, int]:
    """Tokens a second once a run is warm, and tokens a step."""
    logs = [row for row in read_metrics(metrics) if "tokens_per_second" in row]
    warm = [row["tokens_per_second"] for row in logs[len(logs) // 2 :]]
    return statistics.median(warm), logs[-1]["tokens"] // logs[-1]["step"]


def _random_corpus(base: str, place: Path) -> Path:
    """A corpus of random tokens in documents of 2 to 16 windows: the data path without its text."""
    about = evaluation_models.base_of(base)
    rng, window = np.random.default_rng(0), about.window

    def documents() -> Iterator[dict[str, object]]:
        for number in range(256):
            ids = rng.integers(0, len(about.tokenizer), rng.integers(2 * window, 16 * window))
            yield {"split": "train", "source": "random", "name": str(number), "kind": "text",
                   "input_ids": ids.tolist()}  # fmt: skip

    corpus.build(place, documents(), about.tokenizer, window, {"of": "speed"}, progress=False)
    return place


# --------------------------------------------------------------------------------------- both


def _fresh() -> bool:
    """Give back what the last measurement held; whether there is a GPU whose peak is now 0."""
    gc.collect()
    if not torch.cuda.is_available():
        return False
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return True
