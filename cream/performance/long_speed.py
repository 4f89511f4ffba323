"""A large model's speed at length, one setting a process: settings, lines to read, and rows.

`python -m cream.performance long` and `generation --shape NAME` of it come here. Rows are of the
tasks speed_long (`score`: seconds of a document's loss) and speed_generation (`score`: samples a
second), appended as they come.

What belongs here: what is run and what is said of it. What is measured is in `long_context`.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

from cream.inference.tiling import Tiling
from cream.performance import long_context, random_models
from cream.results import Rows
from cream.utils.provenance import hash_of

__all__ = ["add_long", "add_shape", "answers", "forwards"]

OWN = ("card", "tokens", "seconds", "tokens_per_second", "peak_gib", "task")


def add_long(add: argparse.ArgumentParser) -> None:
    """Declare what `forwards` takes from the command line."""
    add_shape(add, "llama2-7b")
    add.add_argument("--lengths", type=_numbers, default=[32_768, 262_144], help="tokens")
    add.add_argument("--tile", type=_parts, default=["auto", "none"],
                     help="tokens a tile, auto, or none: stock layers, loss in chunks")  # fmt: skip
    add.add_argument("--heads", type=_parts, default=["auto"], help="heads read at once, or auto")
    add.add_argument("--compile", type=_parts, default=["none"], help="none,tiles")
    add.add_argument("--repeats", type=int, help="passes (default: 3, 1 from 256K tokens on)")


def add_shape(add: argparse.ArgumentParser, default: str | None) -> None:
    """Declare what both measurements take."""
    add.add_argument("--shape", choices=random_models.SHAPES, default=default,
                     help="a large model's, with random weights")  # fmt: skip
    add.add_argument("--layers", type=int, help="fewer than the shape has: not its true depth")
    add.add_argument("--limit", type=float, default=600, help="seconds a setting may take")


def _parts(text: str) -> list[int | str]:
    parts = [part.strip() for part in text.split(",")]
    return [int(part) if part.isdigit() else part for part in parts]


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


_parts.__name__ = _numbers.__name__ = "list with commas between"  # as argparse says it


# ----------------------------------------------------------------------------------- forwards


def forwards(given: argparse.Namespace) -> None:
    """Measure a document's loss at every length, for every setting; print and write as it comes."""
    settings = list(_settings(given))
    if min(given.lengths) < 2 or (given.repeats is not None and given.repeats < 1):
        raise ValueError(f"lengths {given.lengths} must be at least 2, repeats at least 1")
    full = random_models.shape(given.shape).num_hidden_layers
    missing = full - (given.layers or full)
    print(f"{given.shape}, {given.layers or full} of {full} layers, random weights", flush=True)
    for name, tiling in settings:
        job = {"do": "forwards", "shape": given.shape, "layers": given.layers,
               "lengths": given.lengths, "tiling": tiling, "repeats": given.repeats}  # fmt: skip
        for line in long_context.measured(job, given.limit):
            print(f"{name}: {_said(line, missing)}", flush=True)
            if given.rows and "seconds" in line:
                _write(given, line, _named(tiling))


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


# ------------------------------------------------------------------------------------ answers


def answers(given: argparse.Namespace) -> None:
    """Measure questions at length: what is needed before it starts, what was used after."""
    wanted = [("longchat_lines", given.tokens, given.lines),
              ("kv_retrieval", given.keys, given.pairs)]  # fmt: skip
    if min(given.repeats, given.tokens, given.keys) < 1 or min(given.lines, given.pairs) < 0:
        raise ValueError(
            f"repeats {given.repeats}, tokens {given.tokens} and keys {given.keys} must be at "
            f"least 1, lines {given.lines} and pairs {given.pairs} at least 0"
        )
    print(f"{given.shape}, random weights, official prompts in the tokens of {given.words}, as "
          "many new tokens as the release allows", flush=True)  # fmt: skip
    for task, size, samples in wanted:
        if not samples:
            continue
        job = {"do": "answers", "shape": given.shape, "layers": given.layers, "task": task,
               "tokenizer": given.words, "size": size, "samples": samples,
               "batch_size": given.batch_size, "repeats": given.repeats}  # fmt: skip
        for line in long_context.measured(job, given.limit):
            print(f"{task}: {_answered(line)}", flush=True)
            if given.rows and "seconds" in line:
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


# --------------------------------------------------------------------------------------- rows


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
    about["measured"] = datetime.now(UTC).isoformat(timespec="seconds")
    header = {
        "run": f"speed of {given.shape}", "preset": given.shape, "base": "random weights",
        "model_hash": hash_of(shape.to_dict()), "window": shape.max_position_embeddings,
        "card": row["card"], "seed": 0, "settings": about,
    }  # fmt: skip
    named = ("num_tokens", "score", "tokens_per_second", "peak_gib")
    with Rows(given.rows, header) as rows:
        rows.append({"task": task, "sample": 0, "prompt_hash": hash_of(task, row["tokens"]),
                     "token_length": row["tokens"], "settings": about,
                     **{name: row[name] for name in named}})  # fmt: skip
