"""Models: stock Hugging Face in, stock Hugging Face out, the RoPE scaling in the config between.

`load` reads a checkpoint (directory or Hub id), puts a scaling into its config *before* the model
is built (set afterwards it does nothing), checks that the built model turns by the frequencies that
were asked for, and guards the model against reading skipped positions as packed documents. `save`
writes a checkpoint that transformers 5 and 4 load alike, with no code of ours. Any RoPE decoder
goes; nothing in here may name a model family, and remote code and pickled weights are never read.
"""

from __future__ import annotations

import copy
import functools
import importlib.util
import inspect
import logging
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.integrations import is_deepspeed_zero3_enabled

from cream import rope
from cream.models import clex_checkpoints, hub
from cream.models.attention import check_kernel, check_plain
from cream.models.backbone import backbone
from cream.models.checkpoints import (
    check_files,
    check_place,
    check_shapes,
    check_unexpected,
    weights_digest,
)
from cream.models.embeddings import check_embedded
from cream.rope import clex
from cream.rope.config import check_rotation, extend, fix_longrope
from cream.rope.length import start_afresh
from cream.utils.launcher import whole

__all__ = [
    "check_pair",
    "check_vocabulary",
    "create",
    "guard_positions",
    "load",
    "load_config",
    "load_tokenizer",
    "weights_hash",
]

logger = logging.getLogger(__name__)

FLASH = "flash_attention_2"
# Parameters; below, a card computes in float32 by default. In float32 torch has no fast attention
# with shared keys: a prompt of 64K tokens takes SmolLM2-135M 137 GiB.
SMALL = 10**8


def _all_ones(
    names: list[str], module: torch.nn.Module, args: tuple, kwargs: dict
) -> tuple[tuple, dict] | None:
    """Give a forward that has position_ids, no mask and no cache a mask of ones, (batch, n)."""
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
    below = backbone(model)
    names = list(inspect.signature(below.forward).parameters)
    below.register_forward_pre_hook(functools.partial(_all_ones, names), with_kwargs=True)
    return model


def _place(device: str | torch.device | None) -> torch.device:
    if device is not None:
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda", whole("LOCAL_RANK", 0))
    return torch.device("cpu")


def _attention(attention: str, device: torch.device) -> str | None:
    """Resolve "auto": flash-attn on CUDA cards before Hopper where it is installed, else None.

    None is transformers' own choice, SDPA wherever the family has it: through cuDNN it is faster
    than flash-attn 2 on Hopper.
    """
    if attention != "auto":
        check_kernel(attention)
        return attention
    if device.type != "cuda" or torch.cuda.get_device_capability(device)[0] >= 9:
        return None
    return FLASH if importlib.util.find_spec("flash_attn") else None


def _ready(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    logger.info("attention: %s on %s", model.config._attn_implementation, device)
    start_afresh(model)
    return guard_positions(model.eval())


def _read(auto: Any, path: str | Path, revision: str | None) -> Any:
    """Read a config or tokenizer, and say of a path that is nowhere where it was looked for."""
    check_place(path)
    revision = revision or hub.REVISIONS.get(str(path))
    try:
        return auto.from_pretrained(path, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        if Path(path).exists():
            raise ValueError(f"{path} gives no {auto.__name__[4:].lower()}: {error}") from error
        raise FileNotFoundError(hub.refusal(path, error, revision)) from error
    except (AttributeError, LookupError, TypeError, StrictDataclassError) as error:
        said = " ".join(str(error).split())
        raise ValueError(
            f"{path} gives no {auto.__name__[4:].lower()}: transformers refuses what its files say "
            f"({type(error).__name__}: {said})"
        ) from error


def load_config(path: str | Path, revision: str | None = None) -> PreTrainedConfig:
    """Return the config at a directory or Hub id: what can be known before weights are read."""
    return _read(AutoConfig, path, revision)


def create(config: PreTrainedConfig, seed: int, attention: str = "auto") -> PreTrainedModel:
    """Return a randomly initialised float32 model on the CPU, in eval mode, the same for a seed."""
    place = torch.device("cpu")
    attention = _attention(attention, place)
    check_plain(attention, config)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        with clex.registered():
            model = AutoModelForCausalLM.from_config(
                copy.deepcopy(config), dtype=torch.float32, attn_implementation=attention
            )
    if clex.is_clex(config):
        clex.attach(model, seed)
    return _ready(model, place)


def load(
    path: str | Path,
    scaling: str | rope.RopeScaling | None = None,
    scale: int | None = None,
    attention: str = "auto",
    dtype: torch.dtype | str | None = None,
    revision: str | None = None,
    device: str | torch.device | None = None,
    bits: int = 16,
    scaling_options: dict[str, Any] | None = None,
) -> PreTrainedModel:
    """Return the causal language model at a directory or Hub id, in eval mode.

    With `scaling` (one of `rope.KINDS`), `scale` and `scaling_options`, or a `rope.RopeScaling`, a
    base is extended; without, a checkpoint comes as it is; the options then fill in what the config
    of a checkpoint of CLEX's authors leaves out. A model with CLEX needs its t before it is called
    (`clex`). dtype None is float32, but bfloat16 on CUDA from a hundred million parameters; device
    None is this process's CUDA device, else the CPU; revision None is the one that `hub` pins, if
    it does; bits 4 reads linear layers into 4 bits, on CUDA by bitsandbytes. Raises ValueError or
    FileNotFoundError, naming the cause.
    """
    options = scaling_options or {}
    kind = _kind(scaling, scale, options)
    place = _place(device)
    revision = revision or hub.REVISIONS.get(str(path))
    check_files(path)
    config = _read(AutoConfig, path, revision)
    config = _scaled(config, kind, options)
    asked, attention = attention, _attention(attention, place)
    check_plain(attention, config)
    if dtype is None:
        dtype = _usual_dtype(config, place, asked)
        if dtype == torch.float32 and attention == FLASH:
            attention = None  # flash-attn would narrow what is to be precise
    with clex.registered():
        model, report = AutoModelForCausalLM.from_pretrained(
            path,
            config=config,
            revision=revision,
            dtype=dtype,
            attn_implementation=attention,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # and refused below, by name
            **_quantised(bits, place),
        )
    if report["missing_keys"]:
        raise ValueError(f"{path} lacks weights: {', '.join(sorted(report['missing_keys'])[:5])}")
    check_shapes(path, report["mismatched_keys"])
    check_unexpected(path, clex_checkpoints.without_matrices(config, report["unexpected_keys"]))
    if clex.is_clex(config):
        _with_clex(model, path, revision, new=kind is not None)
    elif getattr(config, "cream", None):
        check_rotation(model)
        fix_longrope(model)
    if not is_deepspeed_zero3_enabled() and bits == 16:
        model = model.to(place)
    return _ready(model, place)


def _kind(
    scaling: str | rope.RopeScaling | None, scale: int | None, options: dict[str, Any]
) -> rope.RopeScaling | None:
    """The scaling that `load` was given, by name or made; None: the checkpoint's own."""
    if isinstance(scaling, str):
        return rope.scaling(scaling, 1 if scale is None else scale, **options)
    if scaling is None and scale is not None:
        raise ValueError(f"scale is {scale} but scaling is not given: choose one of {rope.KINDS}")
    if scaling is not None and (options or scale is not None):
        raise ValueError(
            f"scaling is {scaling}, which has its own scale and options; give its kind's name with "
            "scale and scaling_options, or it alone"
        )
    return scaling


def _quantised(bits: int, place: torch.device) -> dict[str, Any]:
    """How transformers reads a base into NormalFloat4 (arXiv 2305.14314), computing in bfloat16."""
    if bits == 16:
        return {}
    if bits != 4 or place.type != "cuda":
        raise ValueError(f"bits is {bits} on {place}: 16 goes anywhere, 4 on a CUDA device")
    how = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return {"quantization_config": how, "device_map": {"": place}}


def _scaled(
    config: PreTrainedConfig, kind: rope.RopeScaling | None, options: dict[str, Any]
) -> PreTrainedConfig:
    """Return the config of the model to build: extended, of CLEX's authors, or as it is."""
    if kind is not None:
        return extend(config, kind)
    if clex_checkpoints.is_released(config):
        return clex_checkpoints.released(config, options)
    if options:
        raise ValueError(f"scaling_options {options} are given and no scaling: choose one")
    return config


def _with_clex(model: PreTrainedModel, path: str | Path, revision: str | None, new: bool) -> None:
    """Give a model its CLEX module, with the matrices of its checkpoint unless it is a base."""
    found = {} if new else clex_checkpoints.read_matrices(path, revision)
    if not new and not found:
        raise ValueError(f"{path} lacks weights: the two matrices of CLEX ({clex.LAYER})")
    clex_checkpoints.load_matrices(clex.attach(model), found, path)


def _usual_dtype(config: PreTrainedConfig, place: torch.device, attention: str) -> torch.dtype:
    """A small model's answers must not hang on rounding, which batches and cards change."""
    if place.type != "cuda":
        return torch.float32
    if attention == FLASH:
        return torch.bfloat16
    with torch.random.fork_rng(devices=[]), torch.device("meta"), clex.registered():
        model = AutoModelForCausalLM.from_config(config)
    count = sum(one.numel() for one in model.parameters())
    return torch.float32 if count < SMALL else torch.bfloat16


def load_tokenizer(path: str | Path, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Return the tokenizer at a directory or Hub id."""
    return _read(AutoTokenizer, path, revision)


def check_vocabulary(
    tokenizer: PreTrainedTokenizerBase, path: str | Path, revision: str | None = None
) -> None:
    """Check a tokenizer against the config at its model's place, before text is cut by it.

    ValueError as `check_pair`; a place that holds a tokenizer without a config is not checked.
    """
    try:
        config = load_config(path, revision).get_text_config()
    except (OSError, ValueError):
        return
    if rows := getattr(config, "vocab_size", None):
        check_embedded(tokenizer, rows)


def check_pair(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise ValueError if the tokenizer gives text ids that the model has no embedding for."""
    check_embedded(tokenizer, model.get_input_embeddings().num_embeddings)
    ends = model.config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    if None not in (tokenizer.eos_token_id, *ends) and tokenizer.eos_token_id not in ends:
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
