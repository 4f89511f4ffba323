"""LoRA adapters as models of an evaluation: `adapter:FOLDER`, merged into the base as it is loaded.

What belongs here: an adapter's name, its base, and what is known of its training. Merging itself
is `training.lora`'s.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from cream import models
from cream.evaluation.model_spec import ModelSpec
from cream.models.identity import folder_name

__all__ = ["ADAPTER", "Adapter", "adapter_name", "adapter_training", "find_adapter"]

ADAPTER = "adapter:"  # before a LoRA adapter's folder


@dataclass(frozen=True)
class Adapter(ModelSpec):
    """A base with a LoRA adapter merged into it as it is loaded; `path` is the base's."""

    adapter: str = ""

    def _read(self, dtype: torch.dtype | str | None, device: str | None = None) -> PreTrainedModel:
        from cream.training import lora  # imports peft, which no other name needs

        return lora.load(self.adapter, self.path, dtype=dtype, device=device)

    @property
    def place(self) -> str:
        """The adapter's folder."""
        return self.adapter

    def config(self) -> PreTrainedConfig:
        """Read the adapter's config, which holds the scaling."""
        return models.load_config(self.adapter)

    def weights_hash(self) -> str:
        """Hash the weights merged in float32 on the CPU, as a run's model/ is."""
        return models.weights_hash(self._read(torch.float32, "cpu"))

    def _hash(self, model: PreTrainedModel) -> str:
        """Hash what a CPU computes: a card's sums in merging may differ in their last bits."""
        here = model.dtype == torch.float32 and model.device.type == "cpu"
        return models.weights_hash(model) if here else self.weights_hash()


def adapter_name(folder: Path) -> str:
    """Call an adapter by its run, or by its folder; one named "adapter" alone would say nothing."""
    if folder.name != "adapter":
        return folder.name
    parent = folder.resolve().parent
    return parent.name if (parent / "config.json").is_file() else f"{parent.name}-adapter"


def adapter_training(folder: Path) -> dict[str, object]:
    """What is known of an adapter's training: from its own file, or from its run directory."""
    for file in (folder / "training.json", folder.parent / "config.json"):
        if file.is_file() and "model_type" not in (found := json.loads(file.read_text())):
            return found
    return {}


def find_adapter(name: str, path: str, root: Path, named: dict[str, str | None]) -> Adapter:
    """Return the adapter in a folder below root, on the base at `path`.

    Its method is the folder's name, so that a mean over methods does not mix it with its run.
    `named` holds the base's name and the preset. FileNotFoundError where the folder holds no
    adapter, ValueError for one of another base.
    """
    within = folder_name(os.path.expanduser(name), root)
    folder = root / within
    if not (folder / "adapter_config.json").is_file():
        raise FileNotFoundError(f"{ADAPTER}{name}: {folder} holds no adapter_config.json, so it is "
                                "no LoRA adapter; a run's is in its folder adapter")  # fmt: skip
    known = adapter_training(folder)
    theirs = Path(str(known.get("base", named["base"]))).name
    if theirs != named["base"]:
        raise ValueError(
            f"{ADAPTER}{name} was made for the base {theirs}, and the base here is "
            f"{named['base']}: on another one its numbers would mean nothing"
        )
    return Adapter(
        path=path, method=adapter_name(folder), seed=known.get("seed"), foreign=True,
        adapter=str(folder), **{**named, "name": ADAPTER + within},
    )  # fmt: skip
