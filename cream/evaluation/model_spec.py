"""A model of an evaluation: before it is loaded, behind a server, and loaded.

What belongs here: what a model is called, how it is loaded, and the columns that its rows have in
common. `models.find` makes these of names; `adapters` adds a LoRA adapter on its base.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from cream import models, rope
from cream.evaluation import distributed
from cream.inference.server import Address, Server
from cream.models import clex_checkpoints
from cream.rope import clex_growing
from cream.tasks.base import Example, check_lengths

__all__ = ["Loaded", "ModelSpec", "ServedModel", "device_name"]


@dataclass(frozen=True)
class ModelSpec:
    """A model to be evaluated, not yet loaded: its place, its scaling, what is known of it."""

    name: str
    path: str
    method: str
    scaling: str | None = None
    scale: int | None = None
    base: str | None = None
    seed: int | None = None
    tokens_trained: int | None = None
    preset: str | None = None
    foreign: bool = False  # no run of ours: the folder's name stands for its method
    growing: bool = False  # CLEX whose t rises with its cache
    base_place: str | None = None  # of the base whose tokenizer cuts the examples, where known

    @property
    def rope(self) -> rope.RopeScaling | None:
        """The RoPE scaling that it is evaluated with; None: as its checkpoint says."""
        return None if self.scaling is None else rope.scaling(self.scaling, self.scale or 1)

    def load(self, dtype: torch.dtype | None = None) -> "Loaded":
        """Load the model (see `models.load` for dtype) and its tokenizer, and hash its weights."""
        model = self._read(dtype)
        tokenizer = models.load_tokenizer(self.path)
        models.check_pair(model, tokenizer)
        settings = {"dtype": str(model.dtype).removeprefix("torch.")}
        if self.growing:
            clex_growing.grow(model)
            settings["clex_t"] = "growing"
        header = {
            **self.header(model.config),
            "model_hash": distributed.current().from_first(lambda: self._hash(model)),
            "card": device_name(model.device),
            "settings": settings,
        }
        return Loaded(model, tokenizer, header, _may_read_beyond(model.config))

    def _read(self, dtype: torch.dtype | str | None, device: str | None = None) -> PreTrainedModel:
        return models.load(self.path, scaling=self.rope, dtype=dtype, device=device)

    @property
    def place(self) -> str:
        """The folder, or hub id, that holds what this model has of its own."""
        return self.path

    @property
    def tokenizer_place(self) -> str:
        """The folder, or hub id, of the tokenizer that cuts what the model reads."""
        return self.path

    def header(self, config: PreTrainedConfig) -> dict[str, object]:
        """Return the columns that say what the model is, wherever it is evaluated."""
        about = models.describe(config)
        return {
            "run": self.name,
            "base": self.base,
            "preset": self.preset,
            "method": self.method,
            "scaling": about["scaling"],
            "scale": about["scale"],
            "window": about["window"],
            "seed": self.seed,
            "tokens_trained": self.tokens_trained,
        }

    def config(self) -> PreTrainedConfig:
        """Read the model's config, scaled as the model will be, without its weights."""
        config = models.load_config(self.path)
        if self.rope is not None:
            return models.extend(config, self.rope)
        released = clex_checkpoints.is_released(config)
        return clex_checkpoints.released(config, {}) if released else config

    def check(self, examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase) -> None:
        """Refuse (ValueError) examples beyond the model's target length, before it is loaded."""
        if target := self.target_length():
            check_lengths(examples, tokenizer, target, self.name)

    def target_length(self) -> int | None:
        """Return the length in tokens that the model was extended to; None of a base as it is."""
        config = self.config()
        return None if _may_read_beyond(config) else models.describe(config)["target_length"]

    def weights_hash(self) -> str:
        """Hash the weights as they are stored."""
        return models.weights_hash(self._read("auto", "cpu"))

    def _hash(self, model: PreTrainedModel) -> str:
        """Hash the weights as stored: a copy narrowed to bfloat16 would be another model."""
        return models.weights_hash(model) if model.dtype == torch.float32 else self.weights_hash()


@dataclass(frozen=True)
class ServedModel:
    """A model behind a server: its address, and the checkpoint that it is said to be.

    Rows of a named checkpoint are those of that checkpoint (run, method, hash of its weights, taken
    at its word) with the server in their settings. Otherwise the run and the method are the
    server's name for the model, its scaling is "server", and the hash stands for its name and its
    answers to fixed prompts (`Server.fingerprint`).
    """

    name: str
    address: Address
    base: str
    checkpoint: ModelSpec | None = None
    preset: str | None = None

    @property
    def base_place(self) -> str:
        """The base whose tokenizer cuts the examples."""
        return self.base

    @property
    def tokenizer_place(self) -> str:
        """The folder, or hub id, of the tokenizer that the server is taken to have."""
        return self.checkpoint.path if self.checkpoint else self.base

    def target_length(self) -> int | None:
        """Return the target length of its checkpoint; None where that is not known."""
        return self.checkpoint.target_length() if self.checkpoint else None

    def check(self, examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase) -> None:
        """Raise ConnectionError if the server gives no answers, while nothing has been computed."""
        Server(self.address, tokenizer)
        if self.checkpoint:
            self.checkpoint.check(examples, tokenizer)

    def load(self, dtype: torch.dtype | None = None) -> "Loaded":
        """Reach the server; what it computes in (`dtype`) is its own."""
        tokenizer = models.load_tokenizer(self.tokenizer_place)
        server = Server(self.address, tokenizer)
        first = distributed.current().from_first
        beyond = True
        if self.checkpoint:
            config = self.checkpoint.config()
            about, beyond = self.checkpoint.header(config), _may_read_beyond(config)
            hashed = first(self.checkpoint.weights_hash)
        else:
            window = models.describe(models.load_config(self.base))["window"]
            model = self.address.model
            about = {"run": model, "method": model, "scaling": "server", "scale": 1,
                     "base": Path(self.base).name, "window": window,
                     "preset": self.preset}  # fmt: skip
            hashed = first(server.fingerprint)
        header = {**about, "model_hash": hashed, "card": "server", "settings": server.settings}
        return Loaded(server, tokenizer, header, beyond)


@dataclass(frozen=True)
class Loaded:
    """A loaded model, the columns its rows share, and whether it may read beyond its window."""

    model: PreTrainedModel | Server
    tokenizer: PreTrainedTokenizerBase
    header: dict[str, object]
    allow_beyond: bool

    @property
    def settings(self) -> dict[str, object]:
        """What of the model's loading decides its answers; goes into every row's key."""
        return dict(self.header["settings"])


def _may_read_beyond(config: PreTrainedConfig) -> bool:
    """Whether a model has no target length of ours: a base, however its makers scaled its RoPE."""
    about = getattr(config, "cream", None)
    return not about or about["scaling"] == "none"


def device_name(device: torch.device) -> str:
    """Name the processor that a model is on."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
