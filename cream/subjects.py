"""The models that an evaluation asks, as its notebook's `models` parameter names them.

    original              the base as it is, also beyond its window
    scaled:yarn:8         the base with its RoPE scaled by 8, not tuned
    runs/x                what a run trained; or any folder with a checkpoint

What belongs here: from such a name to a loaded model, to the columns its rows have in common, and
the loop that asks several models the same examples.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pandas as pd
import torch
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from cream import models
from cream.corpus import tokenizer_hash
from cream.results import Rows
from cream.rope import KINDS
from cream.tasks import Example, evaluate

__all__ = ["Base", "Loaded", "Subject", "ask", "base_of", "card", "find", "token_lengths"]


@dataclass(frozen=True)
class Subject:
    """A model to be asked, not yet loaded: where it is, how it is scaled, what is known of it."""

    name: str
    path: str
    method: str
    scaling: str | None = None
    scale: int | None = None
    base: str | None = None
    seed: int | None = None
    tokens_trained: int | None = None
    preset: str | None = None

    def load(self, dtype: torch.dtype | None = None) -> "Loaded":
        """Load the model (see `models.load` for dtype) and its tokenizer, and hash its weights."""
        model = models.load(self.path, scaling=self.scaling, scale=self.scale, dtype=dtype)
        tokenizer = models.load_tokenizer(self.path)
        models.check_pair(model, tokenizer)
        about = models.describe(model.config)
        header = {
            "run": self.name,
            "model_hash": self._hash(model),
            "base": self.base,
            "preset": self.preset,
            "method": self.method,
            "scaling": about["scaling"],
            "scale": about["scale"],
            "window": about["window"],
            "seed": self.seed,
            "tokens_trained": self.tokens_trained,
            "card": card(model.device),
            "settings": {"dtype": str(model.dtype).removeprefix("torch.")},
        }
        return Loaded(model, tokenizer, header, about["scaling"] == "none")

    def _hash(self, model: PreTrainedModel) -> str:
        """Hash the weights as stored: a copy narrowed to bfloat16 would be another model."""
        if model.dtype != torch.float32:
            how = {"scaling": self.scaling, "scale": self.scale}
            model = models.load(self.path, dtype="auto", device="cpu", **how)
        return models.weights_hash(model)


@dataclass(frozen=True)
class Loaded:
    """A loaded model, the columns its rows share, and whether it may be asked beyond its window."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    header: dict[str, object]
    allow_beyond: bool

    @property
    def settings(self) -> dict[str, object]:
        """What of the model's loading decides its answers; goes into every row's key."""
        return dict(self.header["settings"])


class Base(NamedTuple):
    """What building examples needs of a base: where it is, its tokenizer and its window N."""

    path: str
    tokenizer: PreTrainedTokenizerBase
    window: int


def base_of(base: str | Path, root: str | Path = ".") -> Base:
    """Read a base's tokenizer and window, without its weights; a relative folder starts at root."""
    path = _place(base, Path(root))
    config = AutoConfig.from_pretrained(path)
    return Base(path, models.load_tokenizer(path), models.describe(config)["window"])


def token_lengths(multiples: str | Sequence[float], window: int) -> list[int]:
    """Turn lengths in windows ("0.6,1,2" or numbers) into tokens."""
    parts = multiples.split(",") if isinstance(multiples, str) else multiples
    try:
        lengths = [round(float(part) * window) for part in parts]
    except ValueError:
        raise ValueError(
            f"lengths {multiples!r} must be multiples of N with commas between, as in '0.6,1,2'"
        ) from None
    return lengths


def card(device: torch.device) -> str:
    """Name the processor that a model is on."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def find(
    names: str, base: str | Path, root: str | Path = ".", preset: str | None = None
) -> list[Subject]:
    """Resolve a comma-separated list of names; relative folders start at `root`.

    Raises ValueError for an empty list, a name given twice or a scaling that does not exist, and
    FileNotFoundError for a run that is not there or not finished, before anything is loaded.
    """
    listed = [name.strip() for name in names.split(",") if name.strip()]
    if not listed:
        raise ValueError("models names no model: use for example 'original,scaled:yarn:8,runs/x'")
    if twice := {name for name in listed if listed.count(name) > 1}:
        raise ValueError(f"models names {', '.join(sorted(twice))} twice: name each model once")
    return [_subject(name, base, Path(root), preset) for name in listed]


def ask(
    subjects: Iterable[Subject],
    task: ModuleType,
    examples: Sequence[Example],
    rows: str | Path,
    batch_size: int | str = "auto",
    progress: bool = True,
) -> pd.DataFrame:
    """Ask every model the same examples, one model in memory at a time; return their rows.

    What has a row in the file `rows` is not asked again. ValueError for a model with another
    tokenizer than the first: the examples would not have the same lengths for it.
    """
    frames, first = [], None
    for subject in subjects:
        loaded = subject.load()
        mine = tokenizer_hash(loaded.tokenizer)
        first = first or mine
        if mine != first:
            raise ValueError(f"{subject.name} has another tokenizer: evaluate it on its own")
        with Rows(rows, loaded.header) as file:
            frames.append(
                evaluate(
                    loaded.model,
                    loaded.tokenizer,
                    task,
                    examples,
                    file,
                    settings=loaded.settings,
                    batch_size=batch_size,
                    allow_beyond=loaded.allow_beyond,
                    progress=progress,
                    label=subject.name,
                )
            )
        del loaded
    return pd.concat(frames, ignore_index=True)


def _subject(name: str, base: str | Path, root: Path, preset: str | None) -> Subject:
    named = {"name": name, "base": Path(base).name, "preset": preset}
    path = _place(base, root)
    if name == "original":
        return Subject(path=path, method="original", **named)
    if name.startswith("scaled:"):
        scaling, scale = _scaled(name)
        return Subject(path=path, method="scaled", scaling=scaling, scale=scale, **named)
    folder = root / name
    if not folder.is_dir():
        raise FileNotFoundError(
            f"models names {name}, and there is no folder {folder}: train it with 02_train, or use "
            "'original' or 'scaled:KIND:SCALE'"
        )
    return _trained(folder, named)


def _place(base: str | Path, root: Path) -> str:
    """A folder under root, or what was given: a hub id is no folder here."""
    return str(root / base if (root / base).exists() else base)


def _scaled(name: str) -> tuple[str, int]:
    parts = name.split(":")
    if len(parts) != 3 or parts[1] not in KINDS or not parts[2].isdecimal():
        raise ValueError(
            f"{name!r} is no scaled base: write scaled:KIND:SCALE with a kind of "
            f"{', '.join(KINDS)} and a whole scale, for example scaled:yarn:8"
        )
    return parts[1], int(parts[2])


def _trained(folder: Path, named: dict[str, str | None]) -> Subject:
    """A run directory of ours, or a folder that holds a checkpoint itself."""
    config = json.loads((folder / "config.json").read_text()) if _has_config(folder) else {}
    if "model_type" in config:
        return Subject(path=str(folder), method=folder.name, **named)
    if not (folder / "model").is_dir():
        raise FileNotFoundError(
            f"{folder} has no finished model: run 02_train with this run directory again, it goes "
            "on where it stopped"
        )
    model_config = json.loads((folder / "model" / "config.json").read_text())
    window = (model_config.get("cream") or {}).get("window")
    steps, batch = config.get("steps"), config.get("batch_size")
    trained = steps * batch * window if steps and batch and window else None
    known = {**named, "base": Path(config["base"]).name} if "base" in config else named
    return Subject(
        path=str(folder / "model"),
        method=config.get("method", folder.name),
        seed=config.get("seed"),
        tokens_trained=trained,
        **known,
    )


def _has_config(folder: Path) -> bool:
    return (folder / "config.json").is_file()
