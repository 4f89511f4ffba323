"""LoRA of a large shape within a smaller card's memory: the allocator is held to that card's size.

    python -m cream.performance lora --shape llama2-7b --gib 24 --rows runs/rows/lora.jsonl

takes a few optimizer steps of a LoRA run (random weights at the true shape, windows of N tokens,
skipped positions) through `training.train`, in a process that may use no more than a card of so
many GB shows (`memory.SHOWN` of them), what CUDA itself holds taken off. Afterwards one more
allocation beyond that must fail, or the process was not held. Without a card the steps run all the
same, and the line says that nothing was held. With `--rows FILE`, a row of the task
check_lora_memory is appended.

What belongs here: the hold and its proof. What fits by arithmetic is in `training.memory`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoConfig

from cream.performance import harness, random_models, training
from cream.training import lora, memory
from cream.training.config import TrainConfig
from cream.utils.provenance import hash_of

__all__ = ["main"]

MODULE = "cream.performance.lora"
KEPT = ("lora_rank", "lora_targets", "lora_train", "micro_batch", "batch_size", "recompute",
        "offload", "precision", "compile")  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Take LoRA steps of a large shape within the memory of a smaller card."""
    parser = argparse.ArgumentParser(
        prog="python -m cream.performance lora", description=main.__doc__
    )
    random_models.add_shape(parser)
    parser.add_argument("--gib", type=float, default=24, help="GB in the smaller card's name")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--targets", default="all-linear", help="such as q_proj,k_proj")
    parser.add_argument("--train", default="none", help="norms, embeddings, embeddings+norms")
    parser.add_argument("--micro-batch", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=4, help="windows an optimizer step")
    parser.add_argument("--recompute", default="auto", help="auto, cheap or a number of layers")
    parser.add_argument("--compile", choices=("auto", "none", "layers"), default="auto")
    parser.add_argument("--scale", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3, help="the first is left out of the speed")
    harness.add_common(parser, 400, "the process")
    given = parser.parse_args(arguments)
    if given.one:
        harness.tell(_inside(json.loads(given.one)))
        return
    if given.steps < 2:
        parser.error(f"steps is {given.steps}; the first is left out, so it must be at least 2")
    random_models.refuse_without_card(parser, given.shape, given.layers)
    try:
        config = _config(given)
    except ValueError as error:
        parser.error(str(error))
    command = harness.typed_command("lora", arguments)
    found = _measured(given, config)
    print(_line(given, found), flush=True)
    if "error" in found:
        parser.exit(1)
    _write(given, config, found, command)


def _config(given: argparse.Namespace) -> TrainConfig:
    again = int(given.recompute) if given.recompute.isdigit() else given.recompute
    return TrainConfig(
        base="base", corpus="corpus", scale=given.scale, steps=max(given.steps, 11), log_steps=1,
        batch_size=given.batch_size, micro_batch=given.micro_batch, precision="master",
        recompute=again, offload="none", zero=0, zero_offload="none", compile=given.compile,
        lora_rank=given.rank, lora_targets=given.targets, lora_train=given.train,
        save_dtype="bfloat16",
    )  # fmt: skip


def _measured(given: argparse.Namespace, config: TrainConfig) -> dict[str, object]:
    with harness.scratch(None) as folder:
        random_models.lay_out(folder, random_models.shape(given.shape, given.layers))
        job = {"root": str(folder), "config": json.loads(config.to_json()), "steps": given.steps,
               "gib": given.gib}  # fmt: skip
        return harness.in_child(MODULE, job, given.limit)


# ------------------------------------------------------------------------------ in the process


def _inside(job: dict) -> dict[str, object]:
    """Settle by arithmetic for the smaller card, hold this process to it, and train."""
    root, config = Path(job["root"]), TrainConfig(**job["config"])
    about = AutoConfig.from_pretrained(root / "base")
    room, run = int(memory.SHOWN * job["gib"] * memory.GIB), root / "run"
    try:
        name = f"a card of {job['gib']:g} GB"
        window = about.max_position_embeddings
        settled, needed = memory.plan_memory(config, about, window, room, name)
        held = _hold(room)
        training.steps_of(settled, run, root, job["steps"])
    except (MemoryError, torch.OutOfMemoryError) as error:
        return {"error": str(error).splitlines()[0]}
    return {
        **training.metrics_of(run, job["steps"]),
        "window": window,
        "trained": lora.frozen_and_trained(about, settled)[2],
        "estimate": str(needed),
        "estimated_gib": needed.total / memory.GIB,
        "settings": {name: getattr(settled, name) for name in KEPT},
        **held,
        "refused": _refused_beyond(room),
    }


def _hold(room: int) -> dict[str, float | None]:
    """Let the allocator use `room` bytes less what CUDA holds beside it; say both, in GiB."""
    if not torch.cuda.is_available():
        return {"held_gib": None, "context_gib": None}
    place = harness.place()
    torch.zeros(1, device=place)
    free, total = torch.cuda.mem_get_info(place)
    if room > total:
        raise MemoryError(
            f"this card has {total / memory.GIB:.1f} GiB, fewer than the {room / memory.GIB:.1f} "
            "that it was to be held to: give a smaller --gib"
        )
    context = max(total - free - torch.cuda.memory_reserved(place), 0)
    torch.cuda.set_per_process_memory_fraction((room - context) / total, place)
    return {"held_gib": (room - context) / memory.GIB, "context_gib": context / memory.GIB}


def _refused_beyond(room: int) -> bool | None:
    """Whether the allocator refuses what a card of `room` bytes has not; None without a card."""
    if not torch.cuda.is_available():
        return None
    with contextlib.suppress(torch.OutOfMemoryError):
        torch.empty(room, dtype=torch.uint8, device=harness.place())
        return False
    return True


# ------------------------------------------------------------------------------- what is said


def _line(given: argparse.Namespace, found: dict) -> str:
    what = f"LoRA of rank {given.rank}, {given.shape}"
    if "error" in found:
        return f"{what} in {given.gib:g} GB: {found['error']}"
    if found["held_gib"] is None:
        where = "no card: no memory was held"
    else:
        where = (
            f"held to {found['held_gib']:.2f} GiB (a card of {given.gib:g} GB, CUDA's own "
            f"{found['context_gib']:.2f} taken off), an allocation beyond "
            f"{'was refused' if found['refused'] else 'WAS NOT REFUSED: nothing was held'}; peak "
            f"{found['peak_gib']:.2f} GiB, reserved {found['reserved_gib']:.2f}"
        )
    how = found["settings"]
    return (
        f"{what}: {found['trained']:,} trained, {how['micro_batch']} x {found['window']:,} tokens, "
        f"recompute {how['recompute']}; {where}; estimated {found['estimated_gib']:.2f} GiB; "
        f"{found['speed']:,.0f} tokens/s; losses {found['losses']}; {found['card']}"
    )


def _write(given: argparse.Namespace, config: TrainConfig, found: dict, command: str) -> None:
    shape = random_models.shape(given.shape, given.layers)
    how = {"shape": given.shape, "layers": shape.num_hidden_layers, "command": command}
    header = harness.shape_header(
        given.shape, shape, f"LoRA of {given.shape}", found["card"], how, method=config.method,
        scaling=config.scaling, scale=config.scale, seed=config.seed,
    )  # fmt: skip
    names = ("held_gib", "context_gib", "reserved_gib", "estimated_gib", "refused", "trained")
    how |= {
        **found["settings"],
        **{name: found[name] for name in names},
        "gib": given.gib,
        "steps": given.steps,
        "score": "whether the steps fitted",
        "measured": harness.now(),
    }
    harness.append(given.rows, header, {
        "task": "check_lora_memory", "prompt_hash": hash_of("random"),
        "token_length": found["window"], "num_tokens": config.batch_size * found["window"],
        "settings": {k: v for k, v in how.items() if v is not None},
        "score": float(bool(found["refused"])), "tokens_per_second": found["speed"],
        "peak_gib": found["peak_gib"],
    })  # fmt: skip


if __name__ == "__main__":
    main()
