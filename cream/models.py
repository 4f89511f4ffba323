"""Models: stock Hugging Face in, stock Hugging Face out, the RoPE scaling in the config between.

`load` reads a checkpoint (directory or Hub id), puts a scaling into its config *before* the model
is built (set afterwards it does nothing), checks that the built model turns by the frequencies that
were asked for, and guards the model against reading skipped positions as packed documents. `save`
writes a checkpoint that transformers 5 and 4 load alike, with no code of ours. Any RoPE decoder
goes; nothing in here may name a model family, and remote code and pickled weights are never read.
"""

from __future__ import annotations

import copy
import importlib.util
import inspect
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.integrations import is_deepspeed_zero3_enabled

from cream import rope
from cream.checkpoints import check_files, save, weights_digest

__all__ = [
    "check_pair",
    "create",
    "describe",
    "extend",
    "guard_positions",
    "load",
    "load_tokenizer",
    "rotary_dim",
    "save",
    "weights_hash",
]

logger = logging.getLogger(__name__)


def describe(config: PreTrainedConfig) -> dict[str, Any]:
    """Return window N, scaling, scale s, original theta and target_length sN of a config.

    A config scaled by others is named by its own `rope_type`, at scale 1 of the length it gives.
    """
    if stored := getattr(config, "cream", None):
        return dict(stored)
    parameters = getattr(config, "rope_parameters", None) or {}
    kind = parameters.get("rope_type") or "default"
    window = getattr(config, "max_position_embeddings", None)
    return {
        "window": window,
        "scaling": "none" if kind == "default" else kind,
        "scale": 1,
        "theta": parameters.get("rope_theta"),
        "target_length": window,
    }


def rotary_dim(config: PreTrainedConfig) -> int:
    """Return how many dimensions of a head RoPE rotates."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(head * (config.rope_parameters.get("partial_rotary_factor") or 1.0))


def _plain_rope(config: PreTrainedConfig) -> dict[str, Any]:
    """Return the `rope_parameters` of a config that can be extended, or say why it cannot."""
    family = config.model_type
    parameters = getattr(config, "rope_parameters", None)
    if not parameters:
        raise ValueError(f"a {family} config has no rope_parameters: only RoPE decoders extend")
    parameters = {key: value for key, value in parameters.items() if value is not None}
    if any(isinstance(value, dict) for value in parameters.values()):
        raise ValueError(
            f"this {family} config gives each layer type its own RoPE ({', '.join(parameters)}): "
            "one scaling cannot serve them all, so choose a base with a single RoPE"
        )
    kind = parameters.get("rope_type", "default")
    if getattr(config, "cream", None) or kind != "default":
        name = describe(config)["scaling"]
        raise ValueError(
            f"this base already scales its RoPE ({name}): scalings do not compose, so start from "
            "an unscaled base, or leave scaling out to load it as it is"
        )
    if odd := parameters.keys() - {"rope_type", "type", "rope_theta", "partial_rotary_factor"}:
        raise ValueError(f"the rope_parameters of this {family} config also hold {sorted(odd)}")
    return parameters


def _lift_sliding_window(config: PreTrainedConfig, window: int) -> None:
    """Let layers see past N where their sliding window never acted within it, else refuse."""
    sliding = getattr(config, "sliding_window", None)
    if not sliding or getattr(config, "use_sliding_window", True) is False:
        return
    kinds = set(getattr(config, "layer_types", None) or ["sliding_attention"])
    if "full_attention" in kinds:
        if "sliding_attention" in kinds:
            logger.info("layers that slide keep their window of %d; the others reach all", sliding)
        return
    if sliding < window:
        raise ValueError(
            f"every layer slides over {sliding} tokens, less than the window of {window}: no layer "
            "would see further when extended, so choose a base with full attention"
        )
    logger.warning("sliding window of %d lifted: it never acted within N = %d", sliding, window)
    config.sliding_window = None
    if getattr(config, "layer_types", None):
        config.layer_types = ["full_attention"] * len(config.layer_types)


def extend(config: PreTrainedConfig, kind: rope.RopeScaling) -> PreTrainedConfig:
    """Return a copy of a base's config, scaled by `kind`, for s * max_position_embeddings tokens.

    Raises ValueError for no RoPE, several RoPEs, a RoPE already scaled, or only short layers.
    """
    config = copy.deepcopy(config)
    parameters = _plain_rope(config)
    if isinstance(kind, rope.NoScaling):
        return config
    window, theta = config.max_position_embeddings, parameters["rope_theta"]
    _lift_sliding_window(config, window)
    scaled = kind.hf_parameters(theta, rotary_dim(config), window)
    kept = {k: v for k, v in parameters.items() if k == "partial_rotary_factor"}
    config.rope_parameters = {**kept, **scaled}
    config.max_position_embeddings = kind.scale * window
    if hasattr(config, "original_max_position_embeddings"):
        config.original_max_position_embeddings = window
    config.cream = {
        "window": window,
        "scaling": kind.name,
        "scale": kind.scale,
        "theta": theta,
        "target_length": kind.scale * window,
    }
    return config


def _check_rotation(model: PreTrainedModel) -> None:
    """Refuse a model whose rotary modules do not turn as its `config.cream` says."""
    about = describe(model.config)
    kind = rope.scaling(about["scaling"], about["scale"])
    wanted = kind.inv_freq(about["theta"], rotary_dim(model.config), about["window"])
    factor = kind.attention_factor(about["window"])
    found = [module for module in model.modules() if hasattr(module, "inv_freq")]
    for module in found:
        got = module.inv_freq.detach().float().cpu().numpy()
        same = got.shape == wanted.shape and np.allclose(got, wanted, rtol=1e-5, atol=0)
        if not same or not np.isclose(getattr(module, "attention_scaling", 1.0), factor):
            found = []
            break
    if not found:
        raise ValueError(
            f"the {model.config.model_type} model does not turn by the {kind.name} frequencies its "
            "config asks for: this family does not follow rope_parameters, choose another base"
        )


def _all_ones(module: torch.nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
    """Give a forward that has position_ids, no mask and no cache a mask of ones, (batch, n)."""
    names = list(inspect.signature(module.forward).parameters)
    given = dict(zip(names, args, strict=False)) | kwargs
    absent = all(given.get(key) is None for key in ("attention_mask", "past_key_values"))
    if given.get("position_ids") is None or not absent:
        return None
    tokens = given.get("input_ids")
    tokens = given["inputs_embeds"] if tokens is None else tokens
    mask = torch.ones(tokens.shape[:2], dtype=torch.long, device=tokens.device)
    place = names.index("attention_mask")
    if place < len(args):
        return (*args[:place], mask, *args[place + 1 :]), kwargs
    return args, {**kwargs, "attention_mask": mask}


def guard_positions(model: PreTrainedModel) -> PreTrainedModel:
    """Make skipped positions safe: never read as the seams of packed documents.

    transformers >= 4.53 cuts attention at every jump of `position_ids` that comes without a mask
    and without a cache (protocols.md 3.1). The guard sits on the backbone, so that it also holds
    where the backbone is called alone.
    """
    model.base_model.register_forward_pre_hook(_all_ones, with_kwargs=True)
    return model


def _place(device: str | torch.device | None) -> torch.device:
    if device is not None:
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("cpu")


def _attention(attention: str, device: torch.device) -> str:
    """Resolve "auto": SDPA, but flash-attn on CUDA cards before Hopper where it is installed."""
    if attention != "auto":
        return attention
    picked = "sdpa"
    if device.type == "cuda":
        before_hopper = torch.cuda.get_device_capability(device)[0] < 9
        if before_hopper and importlib.util.find_spec("flash_attn"):
            picked = "flash_attention_2"
    logger.info("attention: %s on %s", picked, device)
    return picked


def create(config: PreTrainedConfig, seed: int, attention: str = "auto") -> PreTrainedModel:
    """Return a randomly initialised float32 model on the CPU, in eval mode, the same for a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(
            copy.deepcopy(config),
            dtype=torch.float32,
            attn_implementation=_attention(attention, torch.device("cpu")),
        )
    return guard_positions(model.eval())


def load(
    path: str | Path,
    scaling: str | None = None,
    scale: int | None = None,
    attention: str = "auto",
    dtype: torch.dtype | None = None,
    revision: str | None = None,
    device: str | torch.device | None = None,
) -> PreTrainedModel:
    """Return the causal language model at a directory or Hub id, in eval mode.

    With `scaling` (one of `rope.KINDS`) and `scale`, a base is extended; without, a checkpoint
    comes as it is. dtype None is bfloat16 on CUDA and float32 elsewhere; device None is this
    process's CUDA device, else the CPU. Raises ValueError or FileNotFoundError, naming the cause.
    """
    kind = None if scaling is None else rope.scaling(scaling, 1 if scale is None else scale)
    if kind is None and scale is not None:
        raise ValueError(f"scale is {scale} but scaling is not given: choose one of {rope.KINDS}")
    place = _place(device)
    check_files(path)
    config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False)
    config = config if kind is None else extend(config, kind)
    model, report = AutoModelForCausalLM.from_pretrained(
        path,
        config=config,
        revision=revision,
        dtype=dtype or (torch.bfloat16 if place.type == "cuda" else torch.float32),
        attn_implementation=_attention(attention, place),
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    if report["missing_keys"]:
        raise ValueError(f"{path} lacks weights: {', '.join(sorted(report['missing_keys'])[:5])}")
    if getattr(config, "cream", None):
        _check_rotation(model)
    if not is_deepspeed_zero3_enabled():
        model = model.to(place)
    return guard_positions(model.eval())


def load_tokenizer(path: str | Path, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Return the tokenizer at a directory or Hub id."""
    return AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=False)


def check_pair(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise ValueError if the tokenizer gives ids that the model has no embedding for."""
    rows = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} tokens and the model {rows} embeddings: they are "
            "not a pair, load both from the same place"
        )
    ends = model.config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in ends:
        logger.warning(
            "the tokenizer ends texts with id %s, the model with %s", tokenizer.eos_token_id, ends
        )


def weights_hash(model: str | Path | PreTrainedModel) -> str:
    """Return 16 hex digits over a model's weights, as float32, and its RoPE configuration.

    The same before `save` and after `load`, whatever the dtype, as long as none was narrowed: hash
    the path, rather than a bfloat16 copy of it, to name a float32 checkpoint.
    """
    if isinstance(model, str | Path):
        model = load(model, dtype="auto", device="cpu", attention="eager")
    return weights_digest(model)
