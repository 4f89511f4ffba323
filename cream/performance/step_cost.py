"""The paper's argument, measured: what a step costs at each target, for CREAM and at full length.

    python -m cream.performance step-cost --shape llama2-7b --targets 8192,32768,131072,262144

CREAM, plain fine-tuning and CLEX train windows of N tokens whatever the target; full-length
training reads all L of them. For each of `--methods` this times one forward and backward pass of
the paper's recipe (random weights, bfloat16 on float32 masters, compiled layers, recomputation and
moments in RAM as memory demands), and the optimizer's step once. CLEX is timed at t = s, where its
ODE takes the longest. A length that does not fit at full depth is said not to fit, and measured at
two smaller depths (`--depths`), from which `costs` extrapolates.

With `--rows FILE`, rows of the tasks speed_efficiency and speed_optimizer are appended as they
come. What belongs here: the passes and their processes. What they add up to is in `costs`.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import subprocess
import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from cream import rope
from cream.data.dataset import collate
from cream.evaluation.model_spec import device_name
from cream.performance import harness, random_models
from cream.performance.harness import GIB
from cream.positions import sampler
from cream.rope import clex
from cream.training import memory
from cream.training.config import TrainConfig
from cream.training.loss import chunked_loss
from cream.training.optimizer import MasterAdamW
from cream.training.trainer import recompute_layers, recomputing_cheaply
from cream.utils.provenance import hash_of

__all__ = ["main"]

ENOUGH = 3.0  # seconds of passes, the shortest of which counts, after one at a depth of one or two
TARGETS = [8192, 16384, 32768, 65536, 131072, 262144]
METHODS = ("cream", "plain", "clex", "full")
SHALLOW = "fewer layers"  # of what does not fit at full depth


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure a training step's cost by target, for CREAM, other methods and full length."""
    parser = argparse.ArgumentParser(
        prog="python -m cream.performance step-cost", description=main.__doc__
    )
    parser.add_argument("--shape", choices=random_models.SHAPES, default="llama2-7b")
    parser.add_argument("--targets", type=harness.numbers, default=TARGETS,
                        help="tokens, multiples of N")  # fmt: skip
    parser.add_argument("--methods", type=harness.listed, default=["cream", "full"],
                        help=f"of {', '.join(METHODS)}")  # fmt: skip
    parser.add_argument("--micro-batch", type=int, default=2, help="windows of N tokens a pass")
    parser.add_argument("--offload", choices=("auto", "none", "moments"), default="auto")
    parser.add_argument("--compile", choices=("layers", "none"), default="layers")
    parser.add_argument("--depths", type=harness.numbers, default=[2, 4],
                        help="layers at which a length is measured that does not fit")  # fmt: skip
    parser.add_argument("--card-gib", type=float, help="plan for less than the card has")
    harness.add_common(parser, 150, "a process")
    given = parser.parse_args(arguments)
    if given.one:
        _inside(json.loads(given.one))
        return
    window = random_models.shape(given.shape).max_position_embeddings
    if wrong := [one for one in given.targets if one % window or one < 2 * window]:
        parser.error(f"target {wrong[0]} is not a multiple of the window {window}, from 2 on")
    if unknown := [one for one in given.methods if one not in METHODS]:
        parser.error(f"there is no method {unknown[0]!r} here: {', '.join(METHODS)}")
    random_models.refuse_without_card(parser, given.shape)
    said = harness.typed_command("step-cost", arguments)
    for job in _jobs(given):
        _run({**job, "command": said}, given.limit)


# ------------------------------------------------------------------------------ what is measured


def _jobs(given: argparse.Namespace) -> list[dict]:
    """Group the passes by what a process can share: RoPE, a depth, and where the moments are."""
    shape = random_models.shape(given.shape)
    window, layers = shape.max_position_embeddings, shape.num_hidden_layers
    base = {"base": "base", "corpus": "corpus", "precision": "master", "batch_size": 32,
            "compile": given.compile, "recompute": "auto", "offload": given.offload}  # fmt: skip
    groups: dict[tuple[str, str], list[dict]] = {}
    for method, target in itertools.product(given.methods, given.targets):
        micro, tokens = (1, target) if method == "full" else (given.micro_batch, window)
        scaling = "clex" if method == "clex" else "linear"
        config = TrainConfig(**base, micro_batch=micro)
        one = {"method": method, "target": target, "micro_batch": micro, "tokens": tokens}
        settled, why = _memory_plan(config, shape, tokens, given.card_gib)
        if settled is None:
            one |= {"why": why, "depths": given.depths}
            groups.setdefault((scaling, SHALLOW), []).append(one)
            continue
        one |= {"recompute": settled.recompute, "depths": [layers]}
        place = settled.offload if settled.offload == "moments" else "none"
        groups.setdefault((scaling, place), []).append(one)
    common = {"shape": given.shape, "compile": given.compile, "rows": given.rows}
    return [
        {**common, "passes": passes, "scaling": scaling, "offload": place == "moments",
         "layers": max(given.depths) if place == SHALLOW else layers}
        for (scaling, place), passes in groups.items()
    ]  # fmt: skip


def _memory_plan(
    config: TrainConfig, shape: object, tokens: int, gib: float | None
) -> tuple[TrainConfig | None, str]:
    """What memory decides for a pass of so many tokens, or None and the arithmetic."""
    card, name = harness.card()
    card = int(gib * GIB) if gib else card
    try:
        settled, needed = memory.plan_memory(config, shape, tokens, card, name)
    except MemoryError as error:
        return None, str(error)
    return settled, str(needed)


def _run(job: dict, limit: int) -> None:
    """Measure a group in a process of its own, which says and writes what it finds as it goes."""
    command = harness.command("cream.performance.step_cost", job)
    where = "moments in RAM" if job["offload"] else "all on the card"
    print(f"{job['layers']} layers, {where}: {len(job['passes'])} passes", flush=True)
    try:
        done = subprocess.run(command, env=harness.environment(), timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        print(f"not done within {limit} s; what was measured is kept", flush=True)
        return
    if done.returncode:
        print(f"ended with exit code {done.returncode}; what was measured is kept", flush=True)


# ------------------------------------------------------------------------------ in the process


def _inside(job: dict) -> None:
    """Measure every pass of a group, then the optimizer's step."""
    torch._dynamo.config.automatic_dynamic_shapes = False  # each length as a run would compile it
    torch._dynamo.config.recompile_limit = 64
    start = time.perf_counter()
    bare = random_models.shape(job["shape"], job["layers"])
    scale = max(one["target"] for one in job["passes"]) // bare.max_position_embeddings
    model = random_models.random_weights(bare, rope.scaling(job["scaling"], scale)).train()
    clex.initialise(model, 0)
    model.config.use_cache = False
    compiled = job["compile"] == "layers"
    quick = compiled and model.device.type == "cuda"
    masters = MasterAdamW(model.parameters(), 1e-5, max_norm=1.0, offload=job["offload"],
                          compiled=quick, kept=clex.trained_matrices(model))  # fmt: skip
    print(f"model ready after {time.perf_counter() - start:.0f} s", flush=True)
    layers, warm = model.base_model.layers, set()
    with _written(job, model) as write:
        for one in job["passes"]:
            if "why" in one:
                write("speed_efficiency", {**one, "fits": False}, None, None)
            for depth in one["depths"]:
                again = one.get("recompute", depth)  # what does not fit recomputes every layer
                _arrange(model, layers, depth, again, compiled)
                found = _pass(model, one, again, quick, warm)
                write("speed_efficiency", {**one, "layers": depth, "recompute": again}, **found)
        _arrange(model, layers, len(layers), 0, False)
        if job["layers"] == random_models.shape(job["shape"]).num_hidden_layers:
            write("speed_optimizer", {"method": "step"}, **_optimizer_step(masters))


def _arrange(
    model: PreTrainedModel,
    layers: torch.nn.ModuleList,
    depth: int,
    again: int | str,
    compiled: bool,
) -> None:
    """Give the model its first `depth` layers, compiled and recomputed as in a run."""
    for layer in layers:
        vars(layer).pop("forward", None)
    _keep(model, layers[:depth])
    recompute_layers(model, again if isinstance(again, int) else 0, compiled)


def _keep(model: PreTrainedModel, layers: torch.nn.ModuleList) -> None:
    model.base_model.layers = layers
    model.config.num_hidden_layers = len(layers)


def _pass(
    model: PreTrainedModel, one: dict, again: int | str, quick: bool, warm: set
) -> dict[str, float | None]:
    """Seconds and GiB of a forward and backward pass; why not, where memory runs out."""
    inputs, t = _inputs(model, one), one["target"] // model.config.cream["window"]
    chosen, compiled = model.base_model.layers, (one["micro_batch"], one["tokens"])
    alike = not isinstance(again, int) or again in (0, len(chosen))  # what is computed of each
    try:
        with recomputing_cheaply(again != 0):
            if (*compiled, alike) not in warm:
                _keep(model, torch.nn.ModuleList([chosen[0], chosen[-1]][: 1 if alike else 2]))
                _timed(model, inputs, t, quick)  # compiles, whatever the depth
                _keep(model, chosen)
                warm.add((*compiled, alike))
            seconds = spent = _timed(model, inputs, t, quick)
            while spent < ENOUGH:
                spent += (once := _timed(model, inputs, t, quick))
                seconds = min(seconds, once)
    except torch.OutOfMemoryError as error:
        return {"seconds": None, "why": str(error).splitlines()[0], "peak": _forget()}
    return {"seconds": seconds, "peak": _forget()}


def _inputs(model: PreTrainedModel, one: dict) -> dict[str, torch.Tensor]:
    """Random tokens at the positions that the method assigns, on the model's device."""
    window = model.config.cream["window"]
    rng = np.random.default_rng(0)
    scale = one["target"] // window
    options = {"least": scale} if one["method"] == "clex" else {}
    draw = sampler(one["method"], window, scale, **options)
    examples = []
    for number in range(one["micro_batch"]):
        indices = draw.draw(2 * one["target"], 0, 0, number)
        tokens = rng.integers(2, model.config.vocab_size, len(indices.positions))
        examples.append({"input_ids": tokens, "position_ids": indices.positions})
    return {name: value.to(model.device) for name, value in collate(examples).items()}


def _timed(model: PreTrainedModel, inputs: dict[str, torch.Tensor], t: int, quick: bool) -> float:
    """Seconds of a forward and backward pass; CLEX solves its ODE up to t in each, as in a run."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()

    def step() -> None:
        clex.draw(model, (t,))  # nothing for a model without CLEX
        chunked_loss(model, inputs, compiled=quick).backward()

    return harness.timed(step)[0]


def _forget() -> float | None:
    """Give back what a pass held; its peak in GiB, on a card."""
    peak = harness.peak_gib()
    harness.fresh()
    return peak


def _optimizer_step(masters: MasterAdamW) -> dict[str, float | None]:
    """Seconds of the second step: the first makes the moments that lie in RAM."""
    for _ in range(2):
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        seconds, _ = harness.timed(masters.step)
    return {"seconds": seconds, "peak": _forget()}


# --------------------------------------------------------------------------------- what is said


@contextlib.contextmanager
def _written(job: dict, model: PreTrainedModel) -> Iterator:
    """Give a function that says and writes one measurement."""
    resident = torch.cuda.memory_allocated() / GIB if torch.cuda.is_available() else None
    shape, size = random_models.shape(job["shape"]), harness.card()[0]
    about = {"shape": job["shape"], "of_layers": shape.num_hidden_layers,
             "compile": job["compile"], "offload": "moments" if job["offload"] else "none",
             "resident_gib": resident, "card_gib": size and size / GIB,
             "command": job["command"]}  # fmt: skip
    header = harness.shape_header(
        job["shape"], shape, f"efficiency of {job['shape']}", device_name(model.device),
        about, scaling=job["scaling"],
    )  # fmt: skip

    def write(
        task: str, one: dict, seconds: float | None, peak: float | None, why: str | None = None
    ) -> None:
        """Print and append one row: seconds of the pass, peak in GiB, or why neither exists."""
        target, method = one.get("target"), one["method"]
        size = one["micro_batch"] * one["tokens"] if target else None
        how = {**about, "score": "milliseconds", "fits": seconds is not None, "why": why}
        how |= {k: v for k, v in one.items() if k not in ("target", "method", "depths")}
        print(_line(task, one, seconds, peak, why), flush=True)
        harness.append(job["rows"], header, {
            "task": task, "prompt_hash": hash_of(task, method, str(target)),
            "method": method, "token_length": target, "num_tokens": size,
            "scale": target and target // shape.max_position_embeddings,
            "settings": {k: v for k, v in how.items() if v is not None},
            "score": seconds and 1000 * seconds, "peak_gib": peak,
            "tokens_per_second": seconds and size and size / seconds,
        })  # fmt: skip

    yield write


def _line(task: str, one: dict, seconds: float | None, peak: float | None, why: str | None) -> str:
    if task == "speed_optimizer":
        name = "optimizer step"
    else:
        name = f"{one['method']} at {one['target']:,}: {one['micro_batch']} x {one['tokens']:,}"
    if "layers" in one:
        name += f", {one['layers']} layers, recompute {one['recompute']}"
    if seconds is None:
        return f"{name}: does not fit ({why or one['why']})"
    return f"{name}: {seconds:.2f} s" + ("" if peak is None else f", peak {peak:.1f} GiB")


if __name__ == "__main__":
    main()
