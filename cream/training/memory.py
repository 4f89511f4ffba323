"""What training holds of a card's memory, computed before anything is loaded, and what to change.

What belongs here: the arithmetic of weights, optimizer and activations (`needs`), and the choice of
what is recomputed or kept in RAM where a configuration says "auto" (`plan_memory`). An estimate:
kernels and the allocator are counted as `SPARE`. What generating takes is in `memory`.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from dataclasses import dataclass

import psutil
import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig

from cream.rope import clex
from cream.training import lora
from cream.training.config import TrainConfig
from cream.training.loss import CHUNK

__all__ = [
    "BUCKET",
    "LIVE",
    "Needs",
    "check_states",
    "choices",
    "fitting",
    "free_ram",
    "left",
    "needs",
    "parameters",
    "plan_memory",
    "recomputed_layers",
]

GIB = 2**30
SPARE = 2 * GIB  # CUDA's context, kernels' workspaces, what the allocator cannot hand out
# Bytes a parameter: weights, gradients and AdamW's states; what autocast copies counts, too.
STATES = {"float32": 16, "bfloat16": 18, "master": 16}
OFFLOADED = 8  # of which this many may lie in RAM (precision "master")
PLANNED = 0.97  # share of a card that "auto" plans with: an estimate must not be a gamble
# What ZeRO shards or keeps whole, bytes a parameter: (weights, gradients, masters and moments).
# Gradients of micro-batches are added in float32; at stage 1 on every process, whole.
SHARDED = {"master": (2, 4, 12), "float32": (4, 8, 12)}
CARDS = (16, 24, 48, 80)  # GB
SHOWN = 0.91  # of which at least so much is shown: 14.6 GiB of a T4's 16, 22 of an L4's 24
BUCKET = 200_000_000  # parameters whose gradients DeepSpeed sends at once
LIVE = 1_000_000_000  # parameters that stage 3 gathers at once
FACTOR = 1.5  # of what lies in RAM, as DeepSpeed's own estimators have it


def parameters(config: PreTrainedConfig) -> int:
    """Return how many parameters a model of this configuration has, tied ones once."""
    return _counted(type(config), config.to_json_string(use_diff=False))


@functools.lru_cache(maxsize=64)
def _counted(kind: type[PreTrainedConfig], text: str) -> int:
    config = kind.from_dict(json.loads(text))
    with torch.random.fork_rng(devices=[]), torch.device("meta"), clex.registered():
        model = AutoModelForCausalLM.from_config(config)
    return sum(one.numel() for one in model.parameters())


@dataclass(frozen=True)
class Needs:
    """Bytes that a training step holds at its peak, and those that it keeps in RAM."""

    states: int
    activations: int
    loss: int
    ram: int
    about: str

    @property
    def total(self) -> int:
        """What the card must have."""
        return self.states + self.activations + self.loss + SPARE

    def __str__(self) -> str:
        ram = f", and {self.ram / GIB:.1f} GiB of RAM" if self.ram else ""
        return (
            f"{self.about}: states {self.states / GIB:.1f} + activations "
            f"{self.activations / GIB:.1f} + loss {self.loss / GIB:.1f} + spare {SPARE / GIB:.1f} "
            f"= {self.total / GIB:.1f} GiB{ram}"
        )


def needs(
    model: PreTrainedConfig, config: TrainConfig, window: int, count: int = 0, processes: int = 1
) -> Needs:
    """Return what one device holds in training a model of `count` parameters (0: counted here).

    `config` says how: its `recompute`, `offload`, `zero` and `zero_offload` must not be "auto"
    (they then count as 0 and "none"). `window` is tokens an example; `ram` is what one process
    keeps there.
    """
    text = model.get_text_config(decoder=True)
    count, tokens = count or parameters(model), config.micro_batch * window
    kind = "bfloat16" if config.precision == "auto" else config.precision
    size = 4 if kind == "float32" else 2
    if config.lora_rank:
        states, ram, learning = _lora_states(model, config, kind, processes)
    else:
        (states, ram), learning = _states(config, kind, count, processes), ""
    checkpointed = recomputed_layers(config, text.num_hidden_layers)
    kept = (text.num_hidden_layers - checkpointed) * _kept(text, config)
    numbers = kept + checkpointed * text.hidden_size + _at_work(text, config)
    logits, head = text.vocab_size * tokens, 0
    if kind == "master":  # a part of them at a time, and the head's gradient in float32
        whole = not config.lora_rank or (
            "embeddings" in config.lora_train and model.tie_word_embeddings
        )  # else the head is frozen
        head = 6 * text.vocab_size * text.hidden_size if whole else 0
        logits = min(logits, CHUNK)
    about = f"{count:,} parameters{learning}, {config.micro_batch} x {window:,} tokens"
    about += f", {_how(config)}"
    return Needs(
        states=states,
        activations=numbers * tokens * size,
        loss=12 * logits + head,
        ram=ram,
        about=about,
    )


def _lora_states(
    model: PreTrainedConfig, config: TrainConfig, kind: str, processes: int
) -> tuple[int, int, str]:
    """Bytes of a frozen base with what LoRA trains, on a device and in RAM, and how many it trains.

    A 4-bit base: 4 bits a weight of its linear layers and their scales (4.13 in all, QLoRA), the
    rest in bfloat16.
    """
    whole, linear, trained = lora.frozen_and_trained(model, config)
    size = 2 if kind == "master" else 4
    base = size * whole
    if config.base_bits == 4:
        base = int(4.13 / 8 * linear) + 2 * (whole - linear)
    states, ram = _states(config, kind, trained, processes)
    kept = "4-bit" if config.base_bits == 4 else f"{8 * size}-bit"
    return base + states, ram, f", {trained:,} trained by LoRA on a frozen {kept} base"


def _states(config: TrainConfig, kind: str, count: int, processes: int) -> tuple[int, int]:
    """Bytes of weights, gradients and optimizer on a device, and in RAM, of one process."""
    if config.zero not in (1, 2, 3):
        offload = OFFLOADED if config.offload == "moments" else 0
        buckets = 4 if processes > 1 else 0  # gradients once more, as DDP sends them
        return count * (STATES[kind] - offload + buckets), count * offload
    stage, place = config.zero, config.zero_offload
    weights, gradients, rest = SHARDED[kind]
    share = {
        "weights": weights / (processes if stage == 3 else 1),
        "gradients": gradients / (processes if stage > 1 else 1),
        "rest": rest / processes,
    }
    away = {"optimizer": ["rest"], "all": ["rest", "weights"]}.get(place, [])
    if stage == 3 and away:
        away.append("gradients")
    held = sum(value for name, value in share.items() if name not in away)
    ram = sum(share[name] for name in away)
    if away:  # gradients on their way, and the weights that come back
        ram += 6 / processes if stage < 3 else 0
    return int(count * held) + _in_flight(stage, kind, count), int(count * ram * FACTOR)


def _in_flight(stage: int, kind: str, count: int) -> int:
    """Bytes of what is being sent, NCCL's own: gradients' buckets, at stage 3 weights gathered."""
    size = 2 if kind == "master" and stage > 1 else 4
    sent = GIB + 3 * size * min(BUCKET, count)
    return sent + (SHARDED[kind][0] * min(LIVE, count) if stage == 3 else 0)


def recomputed_layers(config: TrainConfig, layers: int) -> int:
    """Return how many of a model's layers are computed again as a whole in a backward pass."""
    if config.gradient_checkpointing:
        return layers
    return min(config.recompute, layers) if isinstance(config.recompute, int) else 0


def _kept(text: PreTrainedConfig, config: TrainConfig) -> int:
    """Numbers a token that a layer keeps for its backward pass.

    Compiled: its two residual inputs, queries, keys, values and attention's output, and the two
    inner projections; and, unless those are recomputed, both normalised inputs and the product.
    Counted in a compiled layer (tests/test_training_memory.py). In float8 an H100 held 12 GiB more
    for each window of Llama-2-7B (98,304 bytes a token and layer; counted here: 101,376).
    """
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    keys = (getattr(text, "num_key_value_heads", None) or text.num_attention_heads) * head
    inner = getattr(text, "intermediate_size", None) or 4 * text.hidden_size
    attention = 2 * text.num_attention_heads * head + 2 * keys
    least = 2 * text.hidden_size + attention + 2 * inner
    if config.float8 != "none":  # element-wise results are made again before a cast
        return least + text.hidden_size
    if config.compile == "none":  # norms in float32, each product of its own
        return least + 12 * text.hidden_size + 2 * inner
    return least if config.recompute != 0 else least + 2 * text.hidden_size + inner


def _at_work(text: PreTrainedConfig, config: TrainConfig) -> int:
    """Numbers a token of the layer that is in its backward pass, recomputed or not."""
    inner = getattr(text, "intermediate_size", None) or 4 * text.hidden_size
    whole = _kept(text, config) if recomputed_layers(config, text.num_hidden_layers) else 0
    return whole + 4 * text.hidden_size + 2 * inner


def _how(config: TrainConfig) -> str:
    if config.gradient_checkpointing:
        again = "all layers"
    elif config.recompute == "cheap":
        again = "element-wise results"
    else:
        again = f"{config.recompute} layers" if config.recompute else "nothing"
    where = f", float8 {config.float8}" if config.float8 != "none" else ""
    where += ", moments in RAM" if config.offload == "moments" else ""
    if config.zero in (1, 2, 3):
        names = {"optimizer": ", optimizer in RAM", "all": ", optimizer and weights in RAM"}
        where = f", ZeRO-{config.zero}{names.get(config.zero_offload, '')}"
    return f"precision '{config.precision}', {again} recomputed{where}"


def plan_memory(
    config: TrainConfig, model: PreTrainedConfig, window: int, card: int | None, name: str = "card"
) -> tuple[TrainConfig, Needs]:
    """Return the configuration with every "auto" of memory decided for a card of `card` bytes.

    The least recomputation that fits: none, element-wise results, then whole layers; moments go to
    RAM only where all of it is not enough. None: no card, nothing is recomputed. MemoryError with
    the arithmetic where nothing fits, or what was asked for does not.
    """
    count = parameters(model)
    layers = model.get_text_config(decoder=True).num_hidden_layers
    tried = [
        dataclasses.replace(config, recompute=again, offload=place)
        for place in (["none", "moments"] if config.offload == "auto" else [config.offload])
        for again in choices(config, layers)
    ]
    for each in tried:
        needed = needs(model, each, window, count)
        room = card and (PLANNED * card if config.recompute == "auto" else card)
        if room is None or needed.total <= room:
            _check_ram(needed)
            return each, needed
    needed = needs(model, tried[-1], window, count)
    raise MemoryError(
        f"{needed}; {name} has {card / GIB:.1f} GiB. {_advice(config, model, window, count, card)}"
    )


def left(config: TrainConfig, model: PreTrainedConfig, window: int, card: int | None) -> int:
    """Return the bytes of a card that a run leaves free; 0 for none, or for a run with no need.

    Only precision "master" with its moments in RAM has one: as many of them stay on the card.
    """
    if card is None or config.precision != "master" or config.offload != "moments":
        return 0
    return max(0, int(PLANNED * card) - needs(model, config, window).total)


def fitting(model: PreTrainedConfig, config: TrainConfig, window: int) -> list[str]:
    """Say what cards of 16, 24, 48 and 80 GB hold: full fine-tuning, LoRA, LoRA on 4 bits.

    Each with precision "master", one process, the least recomputation that fits, and the run's
    micro_batch or else 1. Of its name a card shows `SHOWN` (the rest goes to ECC and firmware).
    """
    rank = config.lora_rank or 16
    free = {"precision": "master", "recompute": "auto", "gradient_checkpointing": False, "zero": 0,
            "zero_offload": "none", "offload": "none", "base_bits": 16,
            "compile": "layers" if config.compile == "model" else config.compile}  # fmt: skip
    full = {"lora_rank": 0, "lora_alpha": 0, "lora_targets": "all-linear", "lora_train": "none"}
    adapters = {"lora_rank": rank, "float8": "none", "float8_layers": "auto"}
    ways = {
        "full fine-tuning": dataclasses.replace(config, **free, **full),
        "full, moments in RAM": dataclasses.replace(
            config, **{**free, "offload": "moments"}, **full
        ),
        f"LoRA of rank {rank}": dataclasses.replace(config, **free, **adapters),
        f"LoRA of rank {rank}, 4-bit base": dataclasses.replace(
            config, **{**free, "base_bits": 4}, **adapters
        ),
    }
    return [f"{name}: {_on_cards(model, way, window)}" for name, way in ways.items()]


def _on_cards(model: PreTrainedConfig, config: TrainConfig, window: int) -> str:
    count, layers = parameters(model), model.get_text_config(decoder=True).num_hidden_layers
    least, said = None, []
    for gigabytes in CARDS:
        for micro in dict.fromkeys((config.micro_batch, 1)):
            tried = dataclasses.replace(config, micro_batch=micro)
            held = [
                needs(model, dataclasses.replace(tried, recompute=again), window, count)
                for again in choices(tried, layers)
            ]
            least = min([*held, *([least] if least else [])], key=lambda one: one.total)
            fits = [one for one in held if one.total <= PLANNED * SHOWN * gigabytes * GIB]
            if fits:
                share = "" if micro == config.micro_batch else f" (micro_batch {micro})"
                said.append(f"{gigabytes} GB fits with {fits[0].total / GIB:.1f} GiB{share}")
                break
        else:
            said.append(f"{gigabytes} GB no")
    return f"{', '.join(said)}; at least {least.total / GIB:.1f} GiB"


def check_states(
    config: TrainConfig, model: PreTrainedConfig, window: int, card: int, name: str = "card",
    processes: int = 1,
) -> None:  # fmt: skip
    """Raise MemoryError if a card cannot hold weights and optimizer, whatever is recomputed.

    For the precisions whose activations are not settled here.
    """
    count = parameters(model)
    needed = needs(model, config, window, count, processes)
    if needed.states + SPARE > card:
        raise MemoryError(
            f"{needed}; {name} has {card / GIB:.1f} GiB. "
            f"{_advice(config, model, window, count, card)}"
        )


def choices(config: TrainConfig, layers: int) -> list[int | str]:
    """Return what a configuration lets be recomputed, the least first."""
    if config.recompute != "auto":
        return [config.recompute]
    cheap = ["cheap"] if config.compile != "none" else []
    return [0, *cheap, *range(1, layers + 1)]


def free_ram() -> int:
    """Return the bytes of RAM that are free on this host."""
    return psutil.virtual_memory().available


def _check_ram(needed: Needs) -> None:
    free = free_ram()
    if needed.ram > free:
        raise MemoryError(
            f"{needed}; of RAM {free / GIB:.1f} GiB are free. Take a larger machine or card, or "
            "several cards with DeepSpeed"
        )


def _advice(
    config: TrainConfig, model: PreTrainedConfig, window: int, count: int, card: int
) -> str:
    """What would fit, as a setting to change."""
    free = {"gradient_checkpointing": False, "recompute": "auto", "precision": "master"}
    free |= {"compile": "layers" if config.compile == "model" else config.compile}
    free |= {"zero": 0, "zero_offload": "none"}
    for micro in dict.fromkeys((config.micro_batch, 1)):
        for place in ("none", "moments"):
            other = dataclasses.replace(config, micro_batch=micro, offload=place, **free)
            for again in choices(other, model.get_text_config(decoder=True).num_hidden_layers):
                each = dataclasses.replace(other, recompute=again)
                if (needed := needs(model, each, window, count)).total <= PLANNED * card:
                    return (
                        f"Set precision='master', recompute='auto', offload='{place}', "
                        f"micro_batch={micro}, which fits ({needed})"
                    )
    return "Take a card with more memory, or several with DeepSpeed"
