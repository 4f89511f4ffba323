"""LoRA by peft: a few trainable parameters beside frozen weights, as a file of their own.

What belongs here: putting adapters into a model that `training` then trains as any other, writing
them in peft's format with the extended config, and merging them into their base. peft does the
adapters themselves (arXiv 2106.09685); norms and embeddings may be trained with them, which
LongLoRA found necessary for long context (arXiv 2309.12307).

An adapter folder names no base (`base_model_name_or_path` is null) on purpose: loaded by that name,
the base would come without its RoPE scaling, in silence. `load` takes config.json, which has it:

    model = lora.load("runs/RUN/adapter", "meta-llama/Llama-3.1-8B")
"""

from __future__ import annotations

import copy
import functools
import importlib.util
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict, inject_adapter_in_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from cream import models
from cream.models import bases, checkpoints
from cream.rope.config import check_rotation
from cream.training.config import TrainConfig
from cream.utils.files import readable_alike

__all__ = ["add", "check_bits", "frozen_and_trained", "load", "merge", "restore", "save", "store"]

WEIGHTS = "adapter_model.safetensors"
TRAINING = "training.json"  # of an adapter that left its run directory: the run's numbers
STATE = "trained.safetensors"  # in checkpoints: what is trained, by the model's own names
BITS = 4


def add(model: PreTrainedModel, config: TrainConfig) -> PreTrainedModel:
    """Freeze a model and put trainable adapters into its linear layers, in place; return it.

    `config` gives lora_rank, lora_alpha, lora_targets, lora_train and the seed, on which alone the
    adapters' first weights depend. ValueError for targets that the model does not have.
    """
    extra = _also_trained(model, config.lora_train)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)
        try:
            inject_adapter_in_model(_peft_config(config), model)
        except ValueError as error:
            raise ValueError(
                f"lora_targets is {config.lora_targets!r}, which this {model.config.model_type} "
                f"does not have ({error}); take 'all-linear' or names of its linear layers"
            ) from error
    for name in extra:
        model.get_submodule(name).requires_grad_(True)
    if getattr(model, "is_quantized", False):
        model._hf_peft_config_loaded = True  # Trainer then knows that the 4-bit base is frozen
    return model


def _peft_config(config: TrainConfig) -> LoraConfig:
    targets = config.lora_targets
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=config.lora_rank,
        lora_alpha=config.lora_alpha or 2 * config.lora_rank,
        lora_dropout=0.0,
        target_modules=targets if targets == "all-linear" else targets.replace(" ", "").split(","),
    )


def _also_trained(model: PreTrainedModel, which: str) -> list[str]:
    """Return the full names of the norms or input embeddings that are trained as they are."""
    found = []
    if "norms" in which:
        found += [n for n, each in model.named_modules() if "Norm" in type(each).__name__]
    if "embeddings" in which:
        table = model.get_input_embeddings()
        found += [name for name, each in model.named_modules() if each is table]
    return found


def trained(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return the parameters that are trained, by name."""
    return {name: one for name, one in model.named_parameters() if one.requires_grad}


@functools.lru_cache(maxsize=64)
def _counted(kind: type[PreTrainedConfig], text: str, asked: tuple) -> tuple[int, int, int]:
    config = TrainConfig("base", "corpus", **dict(asked))
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(kind.from_dict(json.loads(text)))
        linear = sum(
            one.weight.numel() for one in model.modules()
            if isinstance(one, torch.nn.Linear) and one is not model.get_output_embeddings()
        )  # fmt: skip
        total = sum(one.numel() for one in model.parameters())
        add(model, config)
    return total, linear, sum(one.numel() for one in trained(model).values())


def frozen_and_trained(about: PreTrainedConfig, config: TrainConfig) -> tuple[int, int, int]:
    """Return a base's parameters, those of its linear layers, and those that LoRA trains.

    Counted on an empty twin: the first includes norms and embeddings that are trained, too.
    """
    names = ("lora_rank", "lora_alpha", "lora_targets", "lora_train")
    asked = tuple((name, getattr(config, name)) for name in names)
    return _counted(type(about), about.to_json_string(use_diff=False), asked)


def store(model: PreTrainedModel, folder: Path) -> None:
    """Write what is trained into a checkpoint, as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: one.detach().cpu().contiguous() for name, one in trained(model).items()}
    save_file(state, folder / STATE)


@torch.no_grad()
def restore(model: PreTrainedModel, folder: Path) -> None:
    """Read what `store` wrote; ValueError if it is of other adapters."""
    there, here = load_file(folder / STATE), trained(model)
    shapes = [{name: one.shape for name, one in each.items()} for each in (there, here)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"{folder} holds other adapters than this run's: remove it to start anew")
    for name, one in here.items():
        one.copy_(there[name])


def save(model: PreTrainedModel, config: TrainConfig, folder: Path) -> Path:
    """Write adapters in peft's format, float32, with the extended config; return the folder.

    One that is there is replaced; written beside and renamed.
    """
    part = folder.with_name(f".model.{folder.name}")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    about = copy.deepcopy(model.peft_config["default"])
    extra = _also_trained(model, config.lora_train)
    about.modules_to_save = extra or None
    tied = model.config.get_text_config(decoder=True).tie_word_embeddings
    about.ensure_weight_tying = bool(tied and "embeddings" in config.lora_train)
    about.inference_mode, about.base_model_name_or_path = True, None
    about.save_pretrained(str(part))
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    state |= {f"{name}.weight": model.get_submodule(name).weight for name in extra}
    for name in extra:
        if getattr(model.get_submodule(name), "bias", None) is not None:
            state[f"{name}.bias"] = model.get_submodule(name).bias
    if about.ensure_weight_tying:  # peft reads a tied head by its own name, too
        head = model.get_output_embeddings()
        name = next(name for name, each in model.named_modules() if each is head)
        state[f"{name}.weight"] = head.weight
    written = {
        f"base_model.model.{name}": one.detach().float().cpu().clone().contiguous()
        for name, one in state.items()
    }
    save_file(written, part / WEIGHTS, {"format": "pt"})
    checkpoints.save_config(model.config, part)
    (part / "README.md").write_text(_card(config, model.config), encoding="utf-8")
    readable_alike(part)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    return folder


def _card(config: TrainConfig, about: PreTrainedConfig) -> str:
    told = models.describe(about)
    base, note = config.base, ""
    if named := bases.NAMED.get(base):
        base = f"{bases.FOLDER}/{base}"
        note = (
            f"\nThat folder is what `python -c \"from cream.models import bases; "
            f"bases.place('{named.name}')\"` makes: {named.hub}, de-quantised. The published "
            "weights are not those that this adapter was trained on.\n"
        )
    return f"""---
library_name: peft
---
# A LoRA adapter of `{config.base}`

Rank {config.lora_rank}; its base's context stretched from {told["window"]:,} to
{told["target_length"]:,} tokens by `{told["scaling"]}` scaling of RoPE, trained by the method
`{config.method}`. config.json here holds that scaling, and the base must be loaded with it:

```python
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM

config = AutoConfig.from_pretrained("PATH")
base = AutoModelForCausalLM.from_pretrained("{base}", config=config)
model = PeftModel.from_pretrained(base, "PATH").merge_and_unload()
```
{note}
`adapter_config.json` names no base, so that nothing loads this adapter on an unscaled one.
"""


def merge(base: PreTrainedModel, folder: str | Path) -> PreTrainedModel:
    """Add a saved adapter to its extended base, in place; return a stock model in eval mode."""
    with warnings.catch_warnings():  # peft asks transformers for a name that it has renamed
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")
        merged = PeftModel.from_pretrained(base, str(folder)).merge_and_unload(safe_merge=True)
    merged.tie_weights()
    merged.requires_grad_(True)
    return merged.eval()


def load(folder: str | Path, base: str | Path, **how: Any) -> PreTrainedModel:
    """Return a base with a saved adapter merged into it, stretched as the adapter's config says.

    `how` is passed to `models.load` (attention, dtype, device, revision). ValueError for a folder
    that is no adapter of ours.
    """
    config = models.load_config(folder)
    about = getattr(config, "cream", None)
    if about is None and not (Path(folder) / "adapter_config.json").is_file():
        raise ValueError(f"{folder} holds no adapter: its config.json names no scaling of cream's")
    scaling = {k: about[k] for k in ("scaling", "scale")} if about else {}
    if about and about.get("options"):
        scaling["scaling_options"] = about["options"]
    model = merge(models.load(base, **scaling, **how), folder)
    if about:
        check_rotation(model)
    return model


def check_bits(bits: int, find: Callable = importlib.util.find_spec) -> None:
    """Refuse a 4-bit base, before anything is loaded, where nothing computes with it."""
    if bits != BITS:
        return
    if not torch.cuda.is_available():
        raise ValueError("base_bits is 4, which takes a CUDA device; leave it at 16 here")
    if find("bitsandbytes") is None:
        raise ModuleNotFoundError(
            "base_bits is 4, which bitsandbytes does, and it is not installed: pip install -c "
            "constraints.txt 'cream-positions[gpu]', or leave base_bits at 16"
        )
