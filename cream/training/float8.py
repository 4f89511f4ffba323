"""Linear layers of the decoder computed in float8, by torchao: which ones, and where it is refused.

Weights, gradients and the optimizer stay as they are: a product's two sides are cast to 8 bits
where it is computed, scaled by the largest value of a tensor ("tensorwise") or of each row
("rowwise"), so a run keeps nothing of float8 and its checkpoints are stock. The head and the
embeddings are never cast, nor are layers that are too small to gain by it.

What belongs here: the choice of layers and what must be there. The products are torchao's.
"""

from __future__ import annotations

import importlib.util
import logging
from collections import Counter
from collections.abc import Iterator

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from cream.training.config import TrainConfig
from cream.training.trainer import decoder_layers

__all__ = ["check", "check_machine", "convert", "gain", "left_out", "recipe"]

log = logging.getLogger(__name__)

MULTIPLE = 16  # which every size of a float8 product must be of
CAPABILITY = (8, 9)  # CUDA compute capability of the first cards with float8 products
# What `gain` must reach. Casting reads and writes each side, which takes as long as the product
# saves at about 830 (a Hopper card: 2.5 TB/s, 700 TFLOP/s, 8 bytes an element cast). torchao's own
# list for an H100 agrees: 4,096 x 1,024 does not pay (819). Rows are cast twice, once a direction.
LEAST = {"tensorwise": 830, "rowwise": 1400}
INSTALL = "pip install -c constraints.txt -e '.[float8]'"


def gain(layer: torch.nn.Linear) -> float:
    """Return a layer's multiplications for each number that is cast: in x out / (in + out)."""
    return layer.in_features * layer.out_features / (layer.in_features + layer.out_features)


def left_out(layer: torch.nn.Linear, config: TrainConfig) -> str | None:
    """Return why a linear layer is not computed in float8; None if it is."""
    if layer.in_features % MULTIPLE or layer.out_features % MULTIPLE:
        return f"sizes are not multiples of {MULTIPLE}"
    if config.float8_layers == "auto" and gain(layer) < LEAST[config.float8]:
        return "too small to be faster"
    return None


def check_machine(config: TrainConfig) -> None:
    """Raise an error where torchao is missing or no card computes in float8."""
    if importlib.util.find_spec("torchao") is None:
        raise ModuleNotFoundError(
            f"float8 is {config.float8!r}, which torchao computes, and it is not installed: "
            f"{INSTALL}; or choose float8 'none'"
        )
    has = torch.cuda.get_device_capability() if torch.cuda.is_available() else None
    if has is None or has < CAPABILITY:
        found = "there is no CUDA device" if has is None else f"this card has {has[0]}.{has[1]}"
        raise ValueError(
            f"float8 is {config.float8!r}, which takes a card of compute capability "
            f"{CAPABILITY[0]}.{CAPABILITY[1]} (Ada, Hopper or newer), and {found}; choose float8 "
            "'none'"
        )


def check(config: TrainConfig, about: PreTrainedConfig, window: int) -> None:
    """Raise ValueError if float8 would gain nothing, or cannot multiply; before weights are loaded.

    `about` is the model's configuration, `window` the tokens of an example.
    """
    check_machine(config)
    if (tokens := config.micro_batch * window) % MULTIPLE:
        raise ValueError(
            f"float8 is {config.float8!r} and a micro-batch {tokens} tokens, which is not a "
            f"multiple of {MULTIPLE}; change micro_batch"
        )
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(about)
    layers = [layer for _, layer in _linear(model)]
    if all(left_out(layer, config) for layer in layers):
        largest = max(layers, key=gain, default=None)
        size = f", the largest is {_size(largest)}" if largest is not None else ""
        raise ValueError(
            f"float8 is {config.float8!r} and none of {len(layers)} linear layers would be faster "
            f"by it ({left_out(largest, config) if layers else 'there is none'}{size}); choose "
            "float8 'none', or float8_layers 'all' to compare what float8 does to training"
        )


def recipe(name: str) -> object:
    """Return torchao's settings for "tensorwise" or "rowwise"."""
    from torchao.float8 import Float8LinearConfig  # here: an optional package, slow to import

    return Float8LinearConfig.from_recipe_name(name)


def convert(model: PreTrainedModel, config: TrainConfig) -> str:
    """Let a model's linear layers compute in float8, in place; return which do and which do not.

    Parameters stay the same objects under the same names. Before layers are compiled.
    """
    from torchao.float8 import convert_to_float8_training  # an optional package, slow to import

    listed = list(_linear(model))
    kept = Counter(
        f"{name} ({_size(layer)}): {why}"
        for name, layer in listed
        if (why := left_out(layer, config))
    )
    for layer in decoder_layers(model):
        convert_to_float8_training(
            layer,
            module_filter_fn=lambda one, _: left_out(one, config) is None,
            config=recipe(config.float8),
        )
    said = f"float8 {config.float8}: {len(listed) - kept.total()} of {len(listed)} linear layers"
    rest = "; ".join(f"{count} {what}" for what, count in kept.items())
    said += f", left as they are: {rest}" if kept else ""
    log.info("%s", said)
    return said


def _linear(model: PreTrainedModel) -> Iterator[tuple[str, torch.nn.Linear]]:
    """Give the linear layers inside decoder layers, with their names there."""
    for layer in decoder_layers(model):
        for name, module in layer.named_modules():
            if isinstance(module, torch.nn.Linear):
                yield name, module


def _size(layer: torch.nn.Linear) -> str:
    return f"{layer.in_features:,} x {layer.out_features:,}"
