"""Checkpoints on disk: checked before they are read, written whole or not at all, and hashed.

`models` is the room users enter; here lies what it does to directories. A saved config.json carries
the RoPE scaling twice, as `rope_parameters` (transformers 5) and as `rope_scaling` + `rope_theta`
(4.x, which ignores the former and would silently load an unscaled model).
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from cream.rope import to_legacy
from cream.rope.base import FULL, SLIDING
from cream.utils.files import readable_alike

__all__ = [
    "check_files",
    "check_place",
    "check_saved",
    "check_shapes",
    "check_unexpected",
    "rope_state",
    "save",
    "save_config",
    "weight_files",
    "weights_digest",
]

log = logging.getLogger(__name__)

_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_ADAPTER = "adapter_config.json"
_READ_QUANTIZED = ("mxfp4", "fp8")  # which transformers itself widens
_OTHER_SENSES = re.compile(r"(^|[._])(vision|visual|image|audio|multi_modal|mm)([._]|$)")
# What says nothing new: an older name of rope_type, and what exports repeat for other engines.
_REPEATED = ("type", "short_mscale", "long_mscale")
# What 4.x families call the keys that transformers 5 gathers in rope_parameters.
_SPELLINGS = {
    "rope_theta": ("rope_theta", "rotary_emb_base"),
    "partial_rotary_factor": ("partial_rotary_factor", "rotary_pct"),
}

_LOCAL = "rope_local_base_freq"  # theta of sliding layers in 4.x, where they have their own


def check_place(path: str | Path) -> None:
    """Raise FileNotFoundError for a path that is no directory and cannot be a Hub id either.

    A name like runs/x beside an existing runs/ is a missing directory, not a model of the Hub.
    """
    place = Path(path)
    hub_id = not place.is_absolute() and not str(path).startswith(".") and len(place.parts) <= 2
    here = place.parent != Path(".") and place.parent.is_dir()
    if not place.exists() and (here or not hub_id):
        raise FileNotFoundError(f"{path}: there is no such checkpoint directory")


def check_files(path: str | Path) -> None:
    """Raise if a local checkpoint is missing, incomplete, truncated or not safetensors.

    A Hub id, which is no directory here, is left to transformers.
    """
    check_place(path)
    directory = Path(path)
    if not directory.exists():
        return
    if not (directory / "config.json").is_file():
        if (directory / _ADAPTER).is_file():
            raise ValueError(_beside(directory, "and no model"))
        raise FileNotFoundError(f"{directory} holds no config.json: it is not a checkpoint")
    if (directory / _ADAPTER).is_file():
        raise ValueError(_beside(directory, "beside a model"))
    _check_precision(directory / "config.json")
    for name in weight_files(directory):
        _check_weights(directory / name)


def weight_files(directory: Path) -> list[str]:
    """Return the names of a local checkpoint's safetensors files; ValueError if it is pickled."""
    if (directory / _INDEX).is_file():
        return sorted(set(_indexed(directory / _INDEX).values()))
    pickled = sorted(p.name for p in directory.iterdir() if p.suffix in (".bin", ".pt", ".pth"))
    if not (directory / _WEIGHTS).is_file() and pickled:
        raise ValueError(
            f"{directory} holds {pickled[0]} but no {_WEIGHTS}: pickled weights can run code and "
            "are not read, convert them to safetensors"
        )
    return [_WEIGHTS]


def _indexed(file: Path) -> dict[str, str]:
    """Read which file holds which weight; ValueError for a torn index."""
    found = _json(file).get("weight_map")
    if not isinstance(found, dict) or not all(isinstance(each, str) for each in found.values()):
        raise ValueError(f"{file} has no weight_map: it is torn, download or save it again")
    return found


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{file} is no whole JSON file ({error}): download or save it again"
        ) from error
    if not isinstance(found, dict):
        raise ValueError(f"{file} holds no JSON object: download or save it again")
    return found


def _beside(directory: Path, what: str) -> str:
    return (
        f"{directory} holds a LoRA adapter ({_ADAPTER}) {what}, which is not read: merge it into "
        "its base (peft: merge_and_unload, save_pretrained), or move it away to read the model"
    )


def _check_precision(file: Path) -> None:
    """Refuse weights that are stored in a form which needs a library of its own."""
    about = _json(file).get("quantization_config")
    kind = about.get("quant_method", "unknown") if isinstance(about, dict) else None
    if kind is not None and kind not in _READ_QUANTIZED:
        raise ValueError(
            f"{file} says that the weights are quantized ({kind}): they are not read, for they "
            "cannot be trained or compared in full precision; choose the unquantized model"
        )


def check_shapes(path: str | Path, different: Sequence[tuple]) -> None:
    """Refuse (ValueError) weights of other shapes than config.json gives: (name, file's, its)."""
    if not different:
        return
    name, stored, wanted = sorted(different)[0][:3]
    rest = f", and {len(different) - 1} more" if len(different) > 1 else ""
    raise ValueError(
        f"{path} holds weights that do not fit its config.json: {name} is "
        f"{' x '.join(map(str, stored))} and should be {' x '.join(map(str, wanted))}{rest}. The "
        "config is of another model: take both from one place"
    )


def check_unexpected(path: str | Path, names: Sequence[str]) -> None:
    """Refuse (ValueError) weights that a model has no place for; those of other senses are said.

    `names` are what transformers did not read: of layers that config.json does not count, or of
    another architecture.
    """
    other = sorted(name for name in names if _OTHER_SENSES.search(name))
    if left := sorted(set(names) - set(other)):
        shown = ", ".join(left[:5]) + (f" and {len(left) - 5} more" if len(left) > 5 else "")
        raise ValueError(
            f"{path} holds weights that its config.json has no place for: {shown}. The config is "
            "of another model (num_hidden_layers?): take both from one place"
        )
    if other:
        log.warning("%s: not read are %s%s", path, ", ".join(other[:3]),
                    f" and {len(other) - 3} more" if len(other) > 3 else "")  # fmt: skip


def _check_weights(file: Path) -> None:
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: the checkpoint is incomplete")
    if not os.access(file, os.R_OK):  # of which safetensors says that it is not there
        raise PermissionError(f"{file} may not be read: its owner can allow it (chmod a+r)")
    try:
        with safe_open(file, framework="pt"):
            pass
    except SafetensorError as error:
        raise ValueError(
            f"{file} is truncated or no safetensors file ({error}): download or save it again"
        ) from error


def _spelling(config: PreTrainedConfig, key: str) -> str:
    """Return the 4.x name of a RoPE key, by asking the config class which name it understands."""
    for name in _SPELLINGS[key]:
        probe = type(config)(**{name: 0.5})
        if (probe.rope_parameters or {}).get(key) == 0.5:
            return name
    return key


def _write_both_styles(file: Path, config: PreTrainedConfig) -> None:
    """Add the transformers 4 keys to a config.json written by transformers 5."""
    content = json.loads(file.read_text())
    parameters = content.get("rope_parameters") or {}
    if FULL in parameters:
        content |= _layered_keys(config, parameters)
    elif "rope_theta" in parameters:
        legacy = to_legacy(parameters)
        content["rope_scaling"] = legacy["rope_scaling"]
        content[_spelling(config, "rope_theta")] = legacy["rope_theta"]
        if "partial_rotary_factor" in parameters:
            name = _spelling(config, "partial_rotary_factor")
            content[name] = parameters["partial_rotary_factor"]
    if "use_cache" in content:
        content["use_cache"] = True  # training turns it off, decoding wants it
    if "dtype" in content:
        content["torch_dtype"] = content["dtype"]
    file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def save_config(config: PreTrainedConfig, directory: Path) -> None:
    """Write a config.json that transformers 5 and 4 read alike into a directory."""
    config.save_pretrained(directory)
    _write_both_styles(directory / "config.json", config)


def _layered_keys(config: PreTrainedConfig, parameters: dict[str, Any]) -> dict[str, Any]:
    """Return the 4.x keys of a RoPE a layer type: the scaling there is of full attention alone."""
    found = to_legacy(parameters[FULL])
    sliding = parameters.get(SLIDING)
    if sliding is None or sliding["rope_theta"] == found["rope_theta"]:
        return found
    probe = type(config)(**{_LOCAL: 0.5}).rope_parameters
    if (probe.get(SLIDING) or {}).get("rope_theta") != 0.5:
        log.warning(
            "transformers 4 reads one theta for all layers of a %s, and this one has %s and %s: "
            "load this checkpoint in transformers 5",
            config.model_type, found["rope_theta"], sliding["rope_theta"],
        )  # fmt: skip
    return {**found, _LOCAL: sliding["rope_theta"]}


def check_saved(part: Path, config: PreTrainedConfig) -> None:
    """Refuse (RuntimeError) to publish a checkpoint that would not be read back as it was."""
    check_files(part)
    again = AutoConfig.from_pretrained(part)
    if rope_state(again) != rope_state(config):
        raise RuntimeError(
            f"the config of this {config.model_type} model reads back with another RoPE: "
            f"{rope_state(again)} instead of {rope_state(config)}"
        )


def _save_tokenizer(tokenizer: PreTrainedTokenizerBase, part: Path, length: int | None) -> None:
    if length and tokenizer.model_max_length < length:
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.model_max_length = length
    tokenizer.save_pretrained(part)
    settings = json.loads((part / "tokenizer_config.json").read_text(encoding="utf-8"))
    if settings.get("tokenizer_class") == "TokenizersBackend":
        # The name that transformers 5 writes means nothing to 4; this one both know.
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
        text = json.dumps(settings, indent=2, sort_keys=True) + "\n"
        (part / "tokenizer_config.json").write_text(text, encoding="utf-8")


def _swap(part: Path, target: Path) -> None:
    """Put `part` where `target` is, and `target` back if that fails."""
    if not target.exists():
        part.rename(target)
        return
    old = target.with_name(f".{target.name}.old-{os.getpid()}")
    target.rename(old)
    try:
        part.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old)


def save(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    directory: str | Path,
    state_dict: dict[str, torch.Tensor] | None = None,
) -> Path:
    """Write a stock checkpoint and its tokenizer, in the model's dtype; return the directory.

    A checkpoint already there is replaced, anything else is refused. Written beside and renamed, so
    that a failure leaves nothing half-written. `state_dict` takes weights gathered from shards.
    """
    target = Path(directory).resolve()
    if target.exists() and not (target / "config.json").is_file() and any(target.iterdir()):
        raise FileExistsError(f"{target} holds files that are no checkpoint: choose another place")
    part = target.with_name(f".{target.name}.part-{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        model.save_pretrained(part, state_dict=state_dict)
        length = getattr(model.config, "max_position_embeddings", None)
        _save_tokenizer(tokenizer, part, length)
        _write_both_styles(part / "config.json", model.config)
        check_saved(part, model.config)
        readable_alike(part)
        _swap(part, target)
    except (OSError, SafetensorError) as error:
        raise OSError(f"{target} was not saved, nothing is left behind: {error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target


def rope_state(config: PreTrainedConfig) -> dict[str, Any]:
    """Return what decides a model's positions, in a form that survives JSON and versions."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            told = sorted((k, v) for k, v in value.items() if k not in _REPEATED)
            return {k: plain(v) for k, v in told if v is not None}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return float(f"{value:.12g}") if number else value

    keys = ("rope_parameters", "max_position_embeddings", "sliding_window", "layer_types")
    return plain({key: getattr(config, key, None) for key in keys})


def weights_digest(model: PreTrainedModel) -> str:
    """Return 16 hex digits over the weights as float32 (tied ones once) and the RoPE config."""
    digest = hashlib.sha256(json.dumps(rope_state(model.config)).encode())
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    for name, tensor in sorted(model.state_dict().items()):
        if name in tied:
            continue
        tensor = tensor.detach().cpu().contiguous()
        tensor = tensor.float() if tensor.is_floating_point() else tensor
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().data)
    return digest.hexdigest()[:16]
