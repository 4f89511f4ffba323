"""CLEX's matrices in checkpoints: our own, and those that its authors released.

What belongs here: names, shapes and settings on disk. The module itself is `cream.rope.clex`.
"""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import PreTrainedConfig
from transformers.utils import cached_file

from cream.rope import scalings
from cream.rope.clex import DOWN, LAYER, UP, ClexLayer, is_clex
from cream.rope.config import extend

__all__ = [
    "RELEASES",
    "is_released",
    "load_matrices",
    "read_matrices",
    "released",
    "without_matrices",
]

# The values of each released model (Hugging Face config.json, revisions as in field notes of
# 2026-11); None: not published. `tokens` is the length it was trained at.
RELEASES: dict[str, dict[str, Any]] = {
    "CLEX-7B-16K": {"window": 4096, "scale": 16, "param_factor": 1, "act": "silu",
                    "log_scale": True, "theta": 1e4, "tokens": 16384},
    "CLEX-LLaMA-2-7B-64K": {"window": 4096, "scale": 64, "param_factor": 1, "act": "tanh",
                            "log_scale": None, "theta": 1e4, "tokens": 65536},
    "CLEX-Phi-2-32K": {"window": 2048, "scale": None, "param_factor": None, "act": None,
                       "log_scale": None, "theta": 1e4, "tokens": 32768},
    "CLEX-Mixtral-8x7B-Chat-32K": {"window": 32768, "scale": 10, "param_factor": 2, "act": "tanh",
                                   "log_scale": False, "theta": 1e6, "tokens": 32768},
}  # fmt: skip
THETA_INSIDE = 1e4  # in ln g of the released code, whatever the model's theta is


def read_matrices(path: str | Path, revision: str | None = None) -> dict[str, torch.Tensor]:
    """Read W_up and W_down from a checkpoint's safetensors by name; empty if it has none."""
    files = _files(path, revision)
    found = {}
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (not a dictionary)
                if name.endswith((f"{LAYER}.proj_func.{UP}", f"{LAYER}.proj_func.{DOWN}")):
                    found[name.rpartition(".")[2]] = tensors.get_tensor(name)
    if len(found) == 1:
        raise ValueError(f"{path} holds {next(iter(found))} alone: CLEX has two matrices")
    return found


def _files(path: str | Path, revision: str | None) -> list[str]:
    """Return the weight files that can hold the matrices, of a directory or Hub id."""
    got = functools.partial(cached_file, path, revision=revision,
                            _raise_exceptions_for_missing_entries=False)  # fmt: skip
    index = got("model.safetensors.index.json")
    if index is None:
        return [file for file in [got("model.safetensors")] if file]
    listed = json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"]
    return [got(file) for file in sorted({f for n, f in listed.items() if f".{LAYER}." in n})]


def without_matrices(config: PreTrainedConfig, names: Iterable[str]) -> list[str]:
    """Return the weights that transformers had no place for, but CLEX's own of a CLEX model."""
    return [name for name in names if not (is_clex(config) and f"{LAYER}." in name)]


def load_matrices(layer: ClexLayer, found: dict[str, torch.Tensor], path: str | Path) -> None:
    """Fill the module with what `read_matrices` found; ValueError for other shapes."""
    for name, tensor in found.items():
        own = getattr(layer.proj_func, name)
        if own.shape != tensor.shape:
            raise ValueError(
                f"{path}: {name} is {tuple(tensor.shape)} and this model's CLEX takes "
                f"{tuple(own.shape)} (d/2 and param_factor x d); set param_factor"
            )
        with torch.no_grad():
            own.copy_(tensor)


def is_released(config: PreTrainedConfig) -> bool:
    """Whether a config is of the authors' own checkpoints, whose `rope_scaling` names clex."""
    return is_clex(config) and not getattr(config, "cream", None)


def released(config: PreTrainedConfig, options: dict[str, Any]) -> PreTrainedConfig:
    """Turn the config of an authors' checkpoint into ours; `options` replace or add to its own.

    Their code has theta 1e4 inside ln g whatever the model's is (C10), and so has this. ValueError
    where the config leaves out what decides numbers: max_factor, param_factor or act.
    """
    config = copy.deepcopy(config)
    theirs = config.rope_parameters
    given = {"scale": theirs.get("max_factor"), "param_factor": theirs.get("param_factor"),
             "act": theirs.get("act"), "log_scale": getattr(config, "log_scale", False),
             "log_g_theta": THETA_INSIDE, **options}  # fmt: skip
    if lacking := [name for name, value in given.items() if value is None]:
        raise ValueError(
            f"the config of this CLEX checkpoint does not say {', '.join(lacking)}: give it as "
            "scaling_options (RELEASES here has the released values; silu is the code of 2023-10)"
        )
    kept = ("rope_theta", "partial_rotary_factor")
    plain = {key: theirs[key] for key in kept if theirs.get(key) is not None}
    config.rope_parameters = {"rope_type": "default", **plain}
    scale = given.pop("scale")
    return extend(config, scalings.scaling("clex", scale, **given))
