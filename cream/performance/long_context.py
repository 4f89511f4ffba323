"""Timing a large model at length, with random weights of its true shape, in a process of its own.

    measured(job, limit)   yields what the process says, line by line, until it ends

What belongs here: the random model and the two measurements, `forwards` (a document's loss in one
true forward) and `answers` (questions decoded in batches). `long_speed` chooses the settings,
prints and writes rows. One that does not fit is a line that says so.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator

import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from cream import models, rope
from cream.evaluation import models as evaluation_models
from cream.inference import generation, memory
from cream.inference.likelihood import log_likelihood
from cream.inference.tiling import Tiling
from cream.models.hardware import forward_flops, utilisation
from cream.performance import random_models
from cream.rope.config import settle_rotation
from cream.tasks import kv_retrieval, longchat_lines
from cream.tasks.base import Example

__all__ = ["TASKS", "answers", "forwards", "measured", "random_model"]

GIB = 2**30
DONE = {"done": True}
TASKS = ("longchat_lines", "kv_retrieval")
_ONCE = 262_144  # tokens from which on a document is read once
_BOTH_WAYS = 32_768  # tokens up to which the whole forward is compared with the one in tiles


def random_model(config: LlamaConfig, tokens: int) -> PreTrainedModel:
    """Return a model for `tokens` tokens, by YaRN if beyond its window, made where it will run.

    In bfloat16 on a GPU, else in float32; random weights.
    """
    scale = -(-tokens // config.max_position_embeddings)
    config = models.extend(config, rope.scaling("yarn" if scale > 1 else "none", max(scale, 1)))
    place = random_models.place()
    torch.manual_seed(0)
    with place:
        model = AutoModelForCausalLM.from_config(config, dtype=_dtype())
    if scale > 1:
        models.check_rotation(model)
        settle_rotation(model)
    return models.guard_positions(model.eval())


def _dtype() -> torch.dtype:
    return torch.bfloat16 if torch.cuda.is_available() else torch.float32


def measured(job: dict, limit: float) -> Iterator[dict]:
    """Do a job in a process of its own and pass on its lines; say so if it ends before its time.

    Once it says that it is done it is ended, with all that it started: compilers take minutes.
    """
    command = [sys.executable, "-m", "cream.performance.long_context", json.dumps(job)]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, env=random_models.environment(), stdout=subprocess.PIPE, stderr=errors,
            text=True,
            start_new_session=True,
        )  # fmt: skip
        late = threading.Event()
        timer = threading.Timer(limit, lambda: (late.set(), _end(process)))
        timer.start()
        try:
            for line in process.stdout:
                found = _read(line)
                if found == DONE:
                    return
                if found is not None:
                    yield found
            process.wait()
        finally:
            timer.cancel()
            _end(process)
        errors.seek(0)
        said = errors.read().strip().splitlines() or [f"exit {process.returncode}"]
        yield {"error": f"not done within {limit:g} s" if late.is_set() else said[-1]}


def _end(process: subprocess.Popen) -> None:
    """Kill a process and what it started, and wait for it; its own session is one group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _read(line: str) -> dict | None:
    """A line of ours; libraries print others."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _main() -> None:
    job = json.loads(sys.argv[1])
    for line in {"forwards": forwards, "answers": answers}[job.pop("do")](**job):
        print(json.dumps(line), flush=True)
    print(json.dumps(DONE), flush=True)


def _tried(about: dict, found: Iterator[dict]) -> Iterator[dict]:
    """Pass lines on; an error becomes one, so that the next measurement is still taken."""
    try:
        yield from (about | line for line in found)
    except (RuntimeError, ValueError, MemoryError) as error:
        yield {**about, "error": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
    _fresh()


def _fresh() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _memory() -> dict[str, float | None]:
    """The most that was held, and taken from the card, since `_fresh`; in GiB."""
    if not torch.cuda.is_available():
        return {"peak_gib": None, "reserved_gib": None}
    return {
        "peak_gib": torch.cuda.max_memory_allocated() / GIB,
        "reserved_gib": torch.cuda.max_memory_reserved() / GIB,
    }


def _taken(function: object, *given: object, **named: object) -> tuple[float, object]:
    """Seconds that a call took, and what it gave, which is on the CPU and so is done."""
    start = time.perf_counter()
    found = function(*given, **named)
    return time.perf_counter() - start, found


# ----------------------------------------------------------------------------------- forwards


def forwards(
    shape: str, layers: int | None, lengths: list[int], tiling: dict | None, repeats: int | None
) -> Iterator[dict]:
    """Time the loss of random documents, a line a length, after a first pass through one layer.

    A line has seconds (the median of `repeats` passes; None: 3, and 1 from 256K tokens on), tflops
    by `models.hardware.forward_flops`, mfu, and memory. At the shortest length, if it is no longer
    than 32K tokens, the losses are compared with those of the whole forward.
    """
    config = random_models.shape(shape, layers)
    how = None if tiling is None else Tiling(**tiling)
    start = time.perf_counter()
    model = random_model(config, max(lengths))
    count = sum(one.numel() for one in model.parameters())
    about = {
        "card": evaluation_models.card(random_models.place()),
        "model_seconds": time.perf_counter() - start,
    }
    for tokens in lengths:
        passes = repeats or (1 if tokens >= _ONCE else 3)
        found = _forward(model, config, count, tokens, how, passes, about)
        yield from _tried({"tokens": tokens}, found)
    least = min(lengths)
    if how is not None and least <= _BOTH_WAYS:
        yield from _tried({"compared": least}, _compared(model, least, how))


def _forward(
    model: PreTrainedModel, config: LlamaConfig, count: int, tokens: int, how: Tiling | None,
    repeats: int, about: dict,
) -> Iterator[dict]:  # fmt: skip
    ids = _document(config, tokens)
    with _first_layer(model):
        log_likelihood(model, ids, tiling=how)
    _fresh()
    passes = [_taken(log_likelihood, model, ids, tiling=how) for _ in range(repeats)]
    seconds = statistics.median(taken for taken, _ in passes)
    flops = forward_flops(config, count, tokens)
    each = (count - _parameters_outside(model)) / config.num_hidden_layers
    yield {
        "seconds": seconds, "tokens_per_second": tokens / seconds, "repeats": repeats,
        "tflops": flops * tokens / seconds / 1e12, "nll": float(passes[-1][1].mean()),
        "mfu": utilisation(tokens / seconds, flops, about["card"]), **_memory(),
        "layer_gib": each * model.dtype.itemsize / GIB, **about,
    }  # fmt: skip


@contextlib.contextmanager
def _first_layer(model: PreTrainedModel) -> Iterator[None]:
    """Let the model read through one layer only: kernels are chosen and compiled at this length."""
    layers, depth = model.model.layers, model.config.num_hidden_layers
    model.model.layers, model.config.num_hidden_layers = layers[:1], 1
    try:
        yield
    finally:
        model.model.layers, model.config.num_hidden_layers = layers, depth


def _parameters_outside(model: PreTrainedModel) -> int:
    inside = sum(one.numel() for one in model.model.layers.parameters())
    return sum(one.numel() for one in model.parameters()) - inside


def _document(config: LlamaConfig, tokens: int) -> np.ndarray:
    return np.random.default_rng(0).integers(2, config.vocab_size, tokens)


def _compared(model: PreTrainedModel, tokens: int, how: Tiling) -> Iterator[dict]:
    """The losses of one document in the finest parts of this setting, beside the whole."""
    ids = _document(model.config, tokens)
    fine = Tiling(min(how.tokens, max(1, tokens // 3)), heads=how.heads or 1)
    ours, whole = (log_likelihood(model, ids, tiling=one) for one in (fine, None))
    yield {
        "tile": fine.tokens, "heads": fine.heads,
        "nll": float(whole.mean()), "mean": float((ours - whole).mean()),
        "typical": float(np.abs(ours - whole).mean()), "most": float(np.abs(ours - whole).max()),
    }  # fmt: skip


# ------------------------------------------------------------------------------------ answers


def answers(
    shape: str, layers: int | None, tokenizer: str, task: str, size: int, samples: int,
    batch_size: int | str, repeats: int,
) -> Iterator[dict]:  # fmt: skip
    """Time official prompts of one task, answered by as many tokens as its release allows.

    `size` is tokens of a LongChat-Lines record, or keys of a retrieval object, of which every gold
    position is asked. First a line with what one prompt and what a batch need by `memory`.
    """
    words = models.load_tokenizer(tokenizer)
    asked = _asked(task, words, size, samples)
    longest = max(len(generation.tokenize(words, one.prompt)) for one in asked)
    new = asked[0].max_new_tokens
    config = random_models.shape(shape, layers)
    config.vocab_size = max(config.vocab_size, len(words))
    model = random_model(config, longest + new)
    room = memory.footprint(model)
    most = room.most_rows(longest + new)
    wanted = batch_size if batch_size != "auto" else min(len(asked), max(1, most or len(asked)))
    needs = room.needs(wanted, longest + new)
    about = {
        "task": task,
        "card": evaluation_models.card(random_models.place()),
        "samples": len(asked),
    }
    yield {"needs": str(needs), "one": str(room.needs(1, longest + new)), "most": most, **about}
    for one in _tried(about, _answer(model, words, asked, batch_size, repeats)):
        yield one | _as_predicted(room, one, longest)


def _asked(task: str, words: PreTrainedTokenizerBase, size: int, samples: int) -> list[Example]:
    if task == "longchat_lines":
        return longchat_lines.examples(words, [size], samples, style="official")
    positions = len(kv_retrieval.gold_indices(size))
    return kv_retrieval.generate(size, -(-samples // positions), tokenizer=words)[:samples]


def _answer(
    model: PreTrainedModel, words: PreTrainedTokenizerBase, asked: list[Example],
    batch_size: int | str, repeats: int,
) -> Iterator[dict]:  # fmt: skip
    """Decode all prompts to their last allowed token: random weights end nowhere of themselves."""
    new, prompts = asked[0].max_new_tokens, [one.prompt for one in asked]
    rows: list[int] = []
    hook = model.model.register_forward_pre_hook(
        lambda _, args, given: rows.append(len(given["input_ids"])), with_kwargs=True
    )
    list(generation.greedy(model, words, prompts[:1], 2, min_new_tokens=2))
    taken, done = [], []
    for _ in range(repeats):
        _fresh()
        rows.clear()
        seconds, done = _taken(
            lambda: list(generation.greedy(model, words, prompts, new, None, batch_size, new))
        )
        taken.append(seconds)
    hook.remove()
    yield {
        "seconds": statistics.median(taken), "new_tokens": sum(len(one.tokens) for one in done),
        "prompt_tokens": sum(one.num_prompt_tokens for one in done), "rows": max(rows),
        "longest": max(one.num_prompt_tokens for one in done), "wanted_new": new, **_memory(),
    }  # fmt: skip


def _as_predicted(room: memory.Footprint, found: dict, longest: int) -> dict[str, object]:
    """What `memory` says of the largest batch that was decoded."""
    if "rows" not in found:
        return {}
    needs = room.needs(found["rows"], longest + found["wanted_new"])
    return {"predicted_gib": needs.total / GIB, "cache_gib": needs.cache / GIB}


if __name__ == "__main__":
    _main()
