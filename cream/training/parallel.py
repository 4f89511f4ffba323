"""Several GPUs or hosts: what DeepSpeed's ZeRO shards over them, what fits, how runs are started.

    torchrun --nproc-per-node 2 -m cream.training RUN_DIR
    deepspeed --num_gpus 2 --module cream.training RUN_DIR
    accelerate launch --multi_gpu --num_processes 2 -m cream.training RUN_DIR
    python -m cream.training.slurm RUN_DIR --nodes 2 --gpus 8 > job.sbatch
    python -m cream.training.parallel RUN_DIR --processes 2 --card 80 # what is chosen, and why

Every launcher starts the same `python -m cream.training`; the run's own `zero` and `zero_offload`
say what is sharded, and "auto" takes the least that fits (`choose`). DeepSpeed's own file is made
here (`deepspeed_config`); there is none to write. Precision "master" computes on bfloat16 weights;
float32 masters, AdamW's states and the sums of gradients over micro-batches are float32 at every
stage. The masters begin as the bfloat16 weights, as DeepSpeed makes them.

What belongs here: the choice, the settings. What is done to a model is in `zero`, the
arithmetic of memory in `memory`, of the disk in `checkpoint_room`.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedConfig

from cream.models import bases
from cream.rope.config import describe, extend
from cream.training import memory
from cream.training.config import TrainConfig, read_config
from cream.training.memory import BUCKET, GIB, LIVE, PLANNED, SHARDED, Needs, needs, parameters
from cream.utils.launcher import name_accelerator, whole
from cream.utils.options import check_number, check_whole

__all__ = [
    "Machine",
    "choose",
    "deepspeed_config",
    "loads_on_card",
    "main",
    "own_estimate",
]

# What is tried under "auto", the least first: (stage, what lies in RAM).
SHARDINGS = (
    (1, "none"), (2, "none"), (3, "none"), (2, "optimizer"), (3, "optimizer"), (3, "all"),
)  # fmt: skip
INSTALL = "pip install -c constraints.txt -e '.[gpu]'"
PREFETCHED = 200_000_000  # parameters that stage 3 gathers ahead: a layer of a 7B
STEPPED = 100_000_000  # parameters that stage 3 updates at once


@dataclass(frozen=True)
class Machine:
    """What a launch runs on: processes in all and on this host, each one's card in bytes."""

    processes: int = 1
    on_host: int = 1
    card: int | None = None
    name: str = "card"

    @classmethod
    def here(cls) -> Machine:
        """Return what the launcher set for this process, and the card that is its own."""
        processes = whole("WORLD_SIZE", 1)
        on_host = whole("LOCAL_WORLD_SIZE", whole("LOCAL_SIZE", processes))
        if not torch.cuda.is_available():
            return cls(processes, on_host)
        local, cards = whole("LOCAL_RANK", 0), torch.cuda.device_count()
        if local >= cards:
            raise ValueError(
                f"process {local} of this host has no GPU of its own, there are {cards}: start at "
                f"most {cards} a host (torchrun --nproc-per-node {cards})"
            )
        found = torch.cuda.get_device_properties(local)
        return cls(processes, on_host, found.total_memory, found.name)

    def __str__(self) -> str:
        hosts = (
            f" on {self.processes // self.on_host} hosts" if self.processes > self.on_host else ""
        )
        size = "no GPU" if self.card is None else f"{self.name} of {self.card / GIB:.1f} GiB"
        return (
            f"{self.processes} {'process' if self.processes == 1 else 'processes'}{hosts}, {size}"
        )


def choose(
    config: TrainConfig, model: PreTrainedConfig, window: int, machine: Machine
) -> tuple[TrainConfig, str]:
    """Return the configuration with nothing of memory left "auto", and the arithmetic behind it.

    `model` is the base's configuration, `window` tokens an example. Least first: no sharding where
    one process is enough or the model is small ("auto" for precisions other than "master"), then
    stages 1, 2, 3, then what lies in RAM; in each as little recomputation as fits. MemoryError with
    what to change where nothing does, ModuleNotFoundError where DeepSpeed is needed and missing.
    """
    if config.lora_rank:
        return _with_lora(config, model, window, machine)
    if config.float8 != "none":
        config = _alone(config, machine)
    if config.precision != "master" and config.zero in ("auto", 0):
        return _unsharded(config, model, window, machine)
    if config.zero == 0 and machine.processes > 1:
        raise ValueError(
            f"zero is 0, precision 'master', and {machine.processes} processes train; choose zero "
            "'auto', 1, 2 or 3"
        )
    alone = machine.processes == 1 and config.zero in ("auto", 0)
    if alone and config.zero_offload in ("auto", "none"):
        try:
            plain = dataclasses.replace(config, zero=0, zero_offload="none")
            settled, needed = memory.plan_memory(plain, model, window, machine.card, machine.name)
            return settled, str(needed)
        except MemoryError as error:
            # What was asked for by number is told how it would fit; "auto" may go on to DeepSpeed.
            if config.zero == 0 or "auto" not in (config.recompute, config.offload):
                raise
            return _instead(error, config, model, window, machine)
    if importlib.util.find_spec("deepspeed") is None:
        raise ModuleNotFoundError(f"this run takes DeepSpeed, which is not installed: {INSTALL}")
    return _sharded(config, model, window, machine)


def _with_lora(
    config: TrainConfig, model: PreTrainedConfig, window: int, machine: Machine
) -> tuple[TrainConfig, str]:
    """LoRA's optimizer is small: nothing is sharded, and "master" is of one process."""
    if config.precision != "master":
        return _unsharded(config, model, window, machine)
    if machine.processes > 1:
        raise ValueError(
            f"lora_rank is {config.lora_rank}, precision 'master', and {machine.processes} "
            "processes train; choose precision 'bfloat16' for several"
        )
    plain = dataclasses.replace(config, zero=0, zero_offload="none")
    settled, needed = memory.plan_memory(plain, model, window, machine.card, machine.name)
    return settled, str(needed)


def _alone(config: TrainConfig, machine: Machine) -> TrainConfig:
    """Float8 is of one process, without DeepSpeed: several were not tested."""
    if machine.processes > 1:
        raise ValueError(
            f"float8 is {config.float8!r} and {machine.processes} processes train, which was not "
            "tested; start one, or choose float8 'none'"
        )
    return dataclasses.replace(config, zero=0, zero_offload="none")


def _instead(
    refused: MemoryError,
    config: TrainConfig,
    model: PreTrainedConfig,
    window: int,
    machine: Machine,
) -> tuple[TrainConfig, str]:
    """Let DeepSpeed keep in RAM what one card does not hold, or say why that does not do either."""
    if importlib.util.find_spec("deepspeed") is None:
        raise MemoryError(
            f"{refused}. DeepSpeed can keep more of it in RAM, and is not installed: {INSTALL}"
        ) from refused
    try:
        return _sharded(config, model, window, machine)
    except MemoryError as error:
        raise MemoryError(f"{refused}\nWith DeepSpeed on {error}") from error


def _unsharded(
    config: TrainConfig, model: PreTrainedConfig, window: int, machine: Machine
) -> tuple[TrainConfig, str]:
    config = dataclasses.replace(config, zero=0, zero_offload="none")
    if machine.card is not None:
        processes = machine.processes
        memory.check_states(config, model, window, machine.card, machine.name, processes)
    return config, ""


def _sharded(
    config: TrainConfig, model: PreTrainedConfig, window: int, machine: Machine
) -> tuple[TrainConfig, str]:
    """Choose among the shardings that the configuration allows."""
    count = parameters(model)
    said, tried = [f"{machine}: {count:,} parameters"], []
    layers = model.get_text_config(decoder=True).num_hidden_layers
    if config.precision == "float32":  # nothing is recomputed there but by gradient_checkpointing
        config = dataclasses.replace(config, recompute=0)
    for stage, place in _allowed(config, machine):
        if place != "none" and any(fits and one.zero_offload == "none" for one, _, fits in tried):
            break  # nothing is as slow as RAM
        each = _least(config, model, window, machine, count, (stage, place))
        tried.append(each)
        said.append(_judged(each, machine, count))
        if each[2] and memory.recomputed_layers(each[0], layers) <= layers / 4:
            break  # more layers computed twice cost more than what the next stage sends
    fitting = [one for one, _, fits in tried if fits]
    if not fitting:
        raise MemoryError("\n  ".join([*said, _advice(config, machine, tried)]))
    quick = tried[-1][2] and memory.recomputed_layers(tried[-1][0], layers) <= layers / 4
    chosen = fitting[-1] if quick else fitting[0]
    said.append(
        f"chosen: ZeRO-{chosen.zero}, offload {chosen.zero_offload}, recompute {chosen.recompute}"
    )
    return chosen, "\n  ".join(said)


def _allowed(config: TrainConfig, machine: Machine) -> Iterator[tuple[int, str]]:
    for stage, place in SHARDINGS:
        if machine.processes == 1 and config.zero == "auto" and place == "none":
            continue  # there is nobody to share with
        if config.zero in ("auto", stage) and config.zero_offload in ("auto", place):
            if not (stage == 3 and config.zero == "auto" and config.probe and config.probe_steps):
                yield stage, place
    if config.zero == 1 and config.zero_offload == "optimizer":
        yield 1, "optimizer"


def _least(
    config: TrainConfig, model: PreTrainedConfig, window: int, machine: Machine, count: int,
    sharding: tuple[int, str],
) -> tuple[TrainConfig, Needs, bool]:  # fmt: skip
    """Return a sharding with the least recomputation that fits, or with the most."""
    base = dataclasses.replace(config, zero=sharding[0], zero_offload=sharding[1], offload="none")
    layers = model.get_text_config(decoder=True).num_hidden_layers
    share = PLANNED if config.recompute == "auto" else 1
    for again in memory.choices(base, layers):
        each = dataclasses.replace(base, recompute=again)
        needed = needs(model, each, window, count, machine.processes)
        if machine.card is None or needed.total <= share * machine.card:
            enough = needed.ram * machine.on_host <= memory.free_ram()
            return each, needed, enough
    return each, needed, False


def _judged(tried: tuple[TrainConfig, Needs, bool], machine: Machine, count: int) -> str:
    config, needed, fits = tried
    theirs = own_estimate(config, count, machine)
    beside = (
        "" if theirs is None else f" (DeepSpeed's own estimate of the states: {theirs / GIB:.1f})"
    )
    answer = "fits" if fits else "does not fit"
    if needed.ram and needed.ram * machine.on_host > memory.free_ram():
        answer += f", {memory.free_ram() / GIB:.1f} GiB of RAM are free on this host"
    return f"{needed}{beside}: {answer}"


def own_estimate(config: TrainConfig, count: int, machine: Machine) -> int | None:
    """Return the bytes of states a GPU that DeepSpeed's own estimators give; None for stage 1.

    They have no stage 1. At stages 2 and 3 they count 18 bytes over the GPUs: gradients twice, in
    16 and in 32 bits. Stage 2 keeps the 32-bit sums alone, and both leave out the buckets and the
    weights that are gathered; with the optimizer in RAM stage 2 still holds 4/n of sums on the GPU.
    """
    if config.zero == 1:
        return None
    name_accelerator()
    # Imported here: it takes seconds, and talks.
    with contextlib.redirect_stdout(io.StringIO()):
        from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs as third
        from deepspeed.runtime.zero.stage_1_and_2 import (
            estimate_zero2_model_states_mem_needs as second,
        )
    hosts = max(1, machine.processes // machine.on_host)
    away = config.zero_offload != "none"
    about = {"num_gpus_per_node": machine.on_host, "num_nodes": hosts, "cpu_offload": away}
    if config.zero == 2:
        return second(count, **about)[1]
    params = config.zero_offload == "all"
    return third(count, BUCKET, cpu_offload_params=params, **about)[1]


def loads_on_card(config: TrainConfig, count: int, machine: Machine) -> bool:
    """Whether all of `count` weights lie on a card before stage 3 divides them; else in RAM."""
    if config.zero != 3 or machine.card is None:
        return True
    return config.zero_offload != "all" and SHARDED[config.precision][0] * count < machine.card / 2


def _advice(config: TrainConfig, machine: Machine, tried: Sequence[tuple]) -> str:
    """What to change where nothing fits."""
    found = []
    if config.zero != "auto" or config.zero_offload != "auto":
        found.append("zero='auto' and zero_offload='auto'")
    if config.recompute != "auto" and config.precision == "master":
        found.append("recompute='auto'")
    if config.micro_batch > 1:
        found.append(f"micro_batch less than {config.micro_batch}")
    if config.precision != "master":
        found.append("precision='master'")
    short = min((needed.total for _, needed, _ in tried), default=0)
    least = f" (at least {short / GIB:.1f} GiB a card as it is)" if short else ""
    change = f"Set {', '.join(found)}, or take" if found else "Take"
    return f"Nothing fits{least}. {change} more GPUs, or larger ones"


def deepspeed_config(config: TrainConfig) -> dict:
    """Return what `TrainingArguments(deepspeed=...)` is given for a settled configuration.

    "auto" is left where the Trainer knows. The optimizer is torch's fused AdamW, made by the
    Trainer: nothing is compiled, unless it lies in RAM (DeepSpeed's own, which takes nvcc's host
    compiler and ninja a minute, once).
    """
    if config.zero not in (1, 2, 3):
        raise ValueError(f"zero is {config.zero!r}; DeepSpeed is for 1, 2 and 3")
    master = config.precision == "master"
    zero = {
        "stage": config.zero,
        "contiguous_gradients": True,
        "overlap_comm": config.zero > 1,
        "reduce_bucket_size": BUCKET,
        "allgather_bucket_size": BUCKET,
    }
    if config.zero == 3:
        zero |= {"stage3_max_live_parameters": LIVE, "stage3_prefetch_bucket_size": PREFETCHED,
                 "stage3_max_reuse_distance": LIVE, "sub_group_size": STEPPED,
                 "stage3_gather_16bit_weights_on_model_save": False}  # fmt: skip
    away = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if config.zero_offload in ("optimizer", "all"):
        zero["offload_optimizer"] = away
    if config.zero_offload == "all":
        zero["offload_param"] = away
    found = {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": "auto"},
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
    }
    if master and config.zero == 1:
        found["communication_data_type"] = "fp32"  # sent once a step, not once a micro-batch
        found["bf16"]["immediate_grad_update"] = True  # a gradient is added up and freed at once
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Say what ZeRO a run would take on a machine, with the arithmetic."""
    parser = argparse.ArgumentParser(
        prog="python -m cream.training.parallel", description=main.__doc__
    )
    parser.add_argument("run_dir", help="the run directory; holds config.json")
    parser.add_argument("--root", default=".", help="where config.json's folders start")
    parser.add_argument("--processes", type=int, default=2, help="GPUs in all (2)")
    parser.add_argument("--on-host", type=int, help="of them on a host (all)")
    parser.add_argument("--card", type=float, default=80, help="GiB of a GPU (80)")
    given = vars(parser.parse_args(arguments))
    try:
        print(_planned(**given))
    except (MemoryError, ModuleNotFoundError, OSError, ValueError) as error:
        parser.exit(1, f"{error}\n")


def _planned(run_dir: str, root: str, processes: int, on_host: int | None, card: float) -> str:
    check_whole("processes", processes, 1)
    check_whole("on_host", on_host or processes, 1, processes)
    check_number("card", card, 0, above=True)
    config = read_config(run_dir)
    extended = extend(bases.config_of(config.base, root, config.revision), config.rope)
    tokens = config.sampler(describe(extended)["window"]).example_length
    machine = Machine(processes, on_host or processes, int(card * GIB), "a GPU")
    settled, said = choose(config, extended, tokens, machine)
    return said or (
        f"{machine}: zero {settled.zero}, nothing is sharded; with precision {config.precision!r} "
        "each process holds the whole model, and its states fit"
    )


if __name__ == "__main__":
    main()
