"""A large model's speed at length, with random weights of its true shape, one setting a process.

`python -m cream.performance long` and `generation --shape NAME` come here. Rows are of the tasks
speed_long (`score`: seconds of a document's loss) and speed_generation (`score`: samples a second),
appended as they come.

What belongs here: the settings, the random model and the two measurements, `forwards` (a document's
loss in one true forward) and `answers` (questions decoded in batches), and what is said of them. A
setting that does not fit is a line that says so.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import statistics
import sys
import time
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from cream import models, rope
from cream.inference import generation, memory
from cream.inference.likelihood import log_likelihood
from cream.inference.tiling import Tiling
from cream.models.attention import KERNELS, check_kernel
from cream.models.hardware import forward_flops, utilisation
from cream.performance import harness, random_models
from cream.performance.harness import GIB
from cream.rope.config import fix_longrope
from cream.tasks import kv_retrieval, longchat_lines
from cream.tasks.base import Example
from cream.utils.provenance import hash_of

__all__ = [
    "add_long",
    "add_shape",
    "answers",
    "forwards",
    "measure_answers",
    "measure_forwards",
    "measured",
    "random_model",
]

OWN = ("card", "tokens", "seconds", "tokens_per_second", "peak_gib", "task")
_ONCE = 262_144  # tokens from which on a document is read once
_BOTH_WAYS = 32_768  # tokens up to which the whole forward is compared with the one in tiles


def random_model(config: LlamaConfig, tokens: int, attention: str = "auto") -> PreTrainedModel:
    """Return a model for `tokens` tokens, by YaRN if beyond its window, made where it will run.

    In bfloat16 on a GPU, else in float32; random weights. `attention` is "auto" or a kernel of
    `models.attention`.
    """
    scale = -(-tokens // config.max_position_embeddings)
    config = models.extend(config, rope.scaling("yarn" if scale > 1 else "none", max(scale, 1)))
    place = harness.place()
    chosen = None if attention == "auto" else attention
    torch.manual_seed(0)
    with place:
        model = AutoModelForCausalLM.from_config(
            config, dtype=_dtype(), attn_implementation=chosen
        )
    if scale > 1:
        models.check_rotation(model)
        fix_longrope(model)
    return models.guard_positions(model.eval())


def _dtype() -> torch.dtype:
    return torch.bfloat16 if torch.cuda.is_available() else torch.float32


def measured(job: dict, limit: float) -> Iterator[dict]:
    """Do a job in a process of its own and pass on its lines; say so if it ends before its time."""
    return harness.child_lines(
        harness.command("cream.performance.long_context", job), limit, until_done=True
    )


def _main() -> None:
    job = json.loads(sys.argv[2])  # after --one
    for line in {"forwards": forwards, "answers": answers}[job.pop("do")](**job):
        print(json.dumps(line), flush=True)
    print(json.dumps(harness.DONE), flush=True)


def _tried(about: dict, found: Iterator[dict]) -> Iterator[dict]:
    """Pass lines on; an error becomes one, so that the next measurement is still taken."""
    try:
        yield from (about | line for line in found)
    except (RuntimeError, ValueError, MemoryError) as error:
        yield {**about, "error": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
    harness.fresh()


def _memory() -> dict[str, float | None]:
    """The most that was held, and taken from the card, since `harness.fresh`; in GiB."""
    reserved = torch.cuda.max_memory_reserved() / GIB if torch.cuda.is_available() else None
    return {"peak_gib": harness.peak_gib(), "reserved_gib": reserved}


# ----------------------------------------------------------------------------------- forwards


def forwards(
    shape: str, layers: int | None, lengths: list[int], tiling: dict | None, repeats: int | None,
    attention: str = "auto",
) -> Iterator[dict]:  # fmt: skip
    """Time the loss of random documents, a line a length, after a first pass through one layer.

    A line has seconds (the median of `repeats` passes; None: 3, and 1 from 256K tokens on), tflops
    by `models.hardware.forward_flops`, mfu, and memory. At the shortest length, if it is no longer
    than 32K tokens, the losses are compared with those of the whole forward.
    """
    config = random_models.shape(shape, layers)
    how = None if tiling is None else Tiling(**tiling)
    start = time.perf_counter()
    model = random_model(config, max(lengths), attention)
    count = sum(one.numel() for one in model.parameters())
    about = {
        "card": harness.card_name(),
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
    harness.fresh()
    passes = [harness.timed(lambda: log_likelihood(model, ids, tiling=how)) for _ in range(repeats)]
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
    asked = _questions(task, words, size, samples)
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
        "card": harness.card_name(),
        "samples": len(asked),
    }
    yield {"needs": str(needs), "one": str(room.needs(1, longest + new)), "most": most, **about}
    for one in _tried(about, _answer(model, words, asked, batch_size, repeats)):
        yield one | _as_predicted(room, one, longest)


def _questions(task: str, words: PreTrainedTokenizerBase, size: int, samples: int) -> list[Example]:
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
        harness.fresh()
        rows.clear()
        seconds, done = harness.timed(
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


# -------------------------------------------------------------------------------- the command line


def add_long(add: argparse.ArgumentParser) -> None:
    """Declare what `measure_forwards` takes from the command line."""
    add_shape(add, "llama2-7b")
    add.add_argument("--lengths", type=harness.numbers, default=[32_768, 262_144], help="tokens")
    add.add_argument("--tile", type=harness.listed, default=["auto", "none"],
                     help="tokens a tile, auto, or none: stock layers, loss in chunks")  # fmt: skip
    add.add_argument("--heads", type=harness.listed, default=["auto"],
                     help="heads read at once, or auto")  # fmt: skip
    add.add_argument("--compile", type=harness.listed, default=["none"], help="none,tiles")
    add.add_argument("--attention", choices=("auto", *KERNELS), default="auto")
    add.add_argument("--repeats", type=int, help="passes (default: 3, 1 from 256K tokens on)")


def add_shape(add: argparse.ArgumentParser, default: str | None) -> None:
    """Declare what both measurements take."""
    random_models.add_shape(add, default)
    add.add_argument("--limit", type=float, default=600, help="seconds a setting may take")


# ---------------------------------------------------- forwards: settings, what is said and written


def measure_forwards(given: argparse.Namespace) -> None:
    """Measure a document's loss at every length, for every setting; print and write as it comes."""
    settings = list(_settings(given))
    if min(given.lengths) < 2 or (given.repeats is not None and given.repeats < 1):
        raise ValueError(f"lengths {given.lengths} must be at least 2, repeats at least 1")
    random_models.check_card(given.shape, given.layers)
    check_kernel(given.attention)
    kernel = {} if given.attention == "auto" else {"attention": given.attention}
    full = random_models.shape(given.shape).num_hidden_layers
    missing = full - (given.layers or full)
    print(f"{given.shape}, {given.layers or full} of {full} layers, random weights", flush=True)
    for name, tiling in settings:
        job = {"do": "forwards", "shape": given.shape, "layers": given.layers,
               "lengths": given.lengths, "tiling": tiling, "repeats": given.repeats,
               "attention": given.attention}  # fmt: skip
        for line in measured(job, given.limit):
            print(f"{name}: {_said(line, missing)}", flush=True)
            if "seconds" in line:
                _write(given, line, {**_named(tiling), **kernel})


def _settings(given: argparse.Namespace) -> Iterator[tuple[str, dict | None]]:
    """Name each way of reading; ValueError for one that there is not."""
    for kinds, offered in ((given.compile, ("none", "tiles")), (given.tile, ("auto", "none")),
                           (given.heads, ("auto",))):  # fmt: skip
        if odd := [one for one in kinds if isinstance(one, str) and one not in offered]:
            raise ValueError(f"{odd[0]!r} is none of: {', '.join(offered)}, or a number")
    if "none" in given.tile:
        yield "whole", None
    ways = itertools.product([one for one in given.tile if one != "none"], given.heads,
                             given.compile)  # fmt: skip
    for tile, heads, compiled in ways:
        how = {} if tile == "auto" else {"tokens": tile}
        how |= {} if heads == "auto" else {"heads": heads}
        how |= {} if compiled == "none" else {"compiled": True}
        Tiling(**how)
        yield f"tile {tile}, heads {heads}, compile {compiled}", how


def _named(tiling: Mapping[str, object] | None) -> dict[str, object]:
    """What a row's settings say of a way of reading."""
    if tiling is None:
        return {"tile": "none"}
    return {"tile": tiling.get("tokens", "auto"), "heads": tiling.get("heads", "auto"),
            "compile": "tiles" if tiling.get("compiled") else "none"}  # fmt: skip


def _said(line: dict, missing: int) -> str:
    if "compared" in line and "error" not in line:
        return (f"{line['compared']:,} tokens in tiles of {line['tile']:,}, {line['heads']} heads "
                f"at once, beside the whole: mean loss {line['nll']:.4f} {line['mean']:+.1e}, of a "
                f"token {line['typical']:.1e}, at most {line['most']:.1e}")  # fmt: skip
    where = f"{line['tokens']:,} tokens: " if "tokens" in line else ""
    if "error" in line:
        return where + line["error"]
    said = f"{where}{line['seconds']:.2f} s, {line['tflops']:.3g} TFLOP/s"
    if line["mfu"] is not None:
        said += f" ({line['mfu']:.1%} of the card's)"
    if line["peak_gib"] is not None:
        said += f", peak {line['peak_gib']:.2f} GiB (reserved {line['reserved_gib']:.2f})"
        if missing:
            whole = line["peak_gib"] + missing * line["layer_gib"]
            said += f", with the other {missing} layers' weights {whole:.2f}"
    return f"{said}; {line['card']}, mean loss {line['nll']:.4f}"


# ------------------------------------------------------------------------------- answers: the same


def measure_answers(given: argparse.Namespace) -> None:
    """Measure questions at length: what is needed before it starts, what was used after."""
    wanted = [("longchat_lines", given.tokens, given.lines),
              ("kv_retrieval", given.keys, given.pairs)]  # fmt: skip
    if min(given.repeats, given.tokens, given.keys) < 1 or min(given.lines, given.pairs) < 0:
        raise ValueError(
            f"repeats {given.repeats}, tokens {given.tokens} and keys {given.keys} must be at "
            f"least 1, lines {given.lines} and pairs {given.pairs} at least 0"
        )
    random_models.check_card(given.shape, given.layers)
    print(f"{given.shape}, random weights, official prompts in the tokens of {given.words}, as "
          "many new tokens as the release allows", flush=True)  # fmt: skip
    for task, size, samples in wanted:
        if not samples:
            continue
        job = {"do": "answers", "shape": given.shape, "layers": given.layers, "task": task,
               "tokenizer": given.words, "size": size, "samples": samples,
               "batch_size": given.batch_size, "repeats": given.repeats}  # fmt: skip
        for line in measured(job, given.limit):
            print(f"{task}: {_answered(line)}", flush=True)
            if "seconds" in line:
                _write_answers(given, line)


def _answered(line: dict) -> str:
    if "error" in line:
        return line["error"]
    if "needs" in line:
        most = "nobody can tell how many fit" if line["most"] is None else f"{line['most']} fit"
        return f"{line['one']}; {most}; to be decoded: {line['needs']}"
    said = (f"{line['samples']} prompts of up to {line['longest']:,} tokens, {line['rows']} at "
            f"once: {line['samples'] / line['seconds']:.3f} samples/s, "
            f"{line['prompt_tokens'] / line['seconds']:,.0f} prompt tokens/s, "
            f"{line['new_tokens']} new tokens, {line['seconds']:.1f} s")  # fmt: skip
    if line["peak_gib"] is None:
        return said
    return (f"{said}; peak {line['peak_gib']:.2f} GiB (reserved {line['reserved_gib']:.2f}), "
            f"predicted at most {line['predicted_gib']:.2f}, cache {line['cache_gib']:.2f}; "
            f"{line['card']}")  # fmt: skip


def _write_answers(given: argparse.Namespace, line: dict) -> None:
    names = ("rows", "new_tokens", "samples", "reserved_gib", "predicted_gib", "cache_gib")
    about = {name: line[name] for name in names if line.get(name) is not None}
    about |= {"way": "batches", "of": line["task"], "tokenizer": given.words,
              "batch_size": given.batch_size, "repeats": given.repeats}  # fmt: skip
    mean = round(line["prompt_tokens"] / line["samples"])
    row = {"tokens": line["longest"], "num_tokens": mean, "card": line["card"],
           "score": line["samples"] / line["seconds"], "peak_gib": line["peak_gib"],
           "tokens_per_second": line["prompt_tokens"] / line["seconds"]}  # fmt: skip
    _append(given, "speed_generation", row, {**about, "score": "samples a second"})


# -------------------------------------------------------------------------------------------- rows


def _write(given: argparse.Namespace, line: dict, how: dict[str, object]) -> None:
    about = {name: value for name, value in line.items() if name not in OWN and value is not None}
    row = {name: line.get(name) for name in OWN} | {"score": line["seconds"]}
    row |= {"num_tokens": line["tokens"]}
    _append(given, "speed_long", row, {**about, **how, "score": "seconds"})


def _append(
    given: argparse.Namespace, task: str, row: dict[str, object], how: dict[str, object]
) -> None:
    """Append one row; when it was measured is part of its settings, and so of its key."""
    shape = random_models.shape(given.shape, given.layers)
    about = {"shape": given.shape, "layers": shape.num_hidden_layers, **how}
    about["measured"] = harness.now()
    header = harness.shape_header(given.shape, shape, f"speed of {given.shape}", row["card"], about)
    named = ("num_tokens", "score", "tokens_per_second", "peak_gib")
    harness.append(given.rows, header, {
        "task": task, "prompt_hash": hash_of(task, row["tokens"]), "token_length": row["tokens"],
        "settings": about, **{name: row[name] for name in named},
    })  # fmt: skip


if __name__ == "__main__":
    _main()
