"""The model of a conversation: from the name that an evaluation accepts to a loaded model.

    runs/x                what a run trained; or any folder with a checkpoint
    runs/x/adapter        a LoRA adapter, merged into its base as it is loaded
    smollm2-135m          a base by its name here, by its hub id, or by its folder
    original, scaled:yarn:8   the base of --base, as it is or scaled and untuned

What belongs here: finding it and its original model, and the length it may be asked at.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cream import models
from cream.evaluation.models import find
from cream.inference.server import parse
from cream.models import bases
from cream.training import lora

__all__ = ["ChatModel", "open_model", "open_original", "original_of"]

ADAPTER = "adapter_config.json"


@dataclass(frozen=True)
class ChatModel:
    """A loaded model and what a conversation with it must know.

    `limit` is L, the most tokens it is meant to read, answers included; `beyond` lets it be asked
    at more, as the original model is where it stands beside an extended one.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    limit: int
    beyond: bool = False

    @property
    def has_template(self) -> bool:
        """Whether the tokenizer says how a conversation is written for this model."""
        return bool(self.tokenizer.chat_template)


def open_model(run: str, base: str | None = None, root: str | Path = ".") -> ChatModel:
    """Load the model called `run`; relative folders start at `root`.

    ValueError or FileNotFoundError, naming the cause, for what is no model, for a model behind a
    server, and for a name that needs `base` and has none.
    """
    root = Path(root)
    if parse(run):
        raise ValueError(f"{run} is a server, which has a chat of its own: name a folder or a base")
    folder = _folder(run, root)
    if folder and (folder / ADAPTER).is_file():
        place, revision = _base(run, base, root)
        if place is None:
            raise ValueError(f"{run} is an adapter, and no run tells its base: give --base")
        model = lora.load(folder, bases.place(place, root), revision=revision)
        tokenizer = models.load_tokenizer(bases.place(place, root), revision)
        return _chat_model(run, model, tokenizer)
    (subject,) = find(*_named(run, base, folder, root), root)
    model = models.load(subject.path, scaling=subject.scaling, scale=subject.scale)
    name = run if run != "original" else str(base)
    return _chat_model(name, model, models.load_tokenizer(subject.path))


def open_original(run: str, base: str | None = None, root: str | Path = ".") -> ChatModel | None:
    """Load the model that `run` was made from, to be asked beyond its window too.

    None where `run` is itself an original model, or where nothing tells what it was made from
    (`original_of` says which before anything is loaded).
    """
    place, revision = original_of(run, base, root)
    if place is None:
        return None
    path = bases.place(place, root)
    model, tokenizer = models.load(path, revision=revision), models.load_tokenizer(path, revision)
    return _chat_model(place, model, tokenizer, beyond=True)


def original_of(
    run: str, base: str | None = None, root: str | Path = "."
) -> tuple[str | None, str | None]:
    """Return the base that `run` was made from and its hub revision; None where there is none."""
    root = Path(root)
    if run == "original":
        return None, None
    if run.startswith("scaled") or _folder(run, root):
        return _base(run, base, root)
    return None, None


def _chat_model(
    name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, beyond: bool = False
) -> ChatModel:
    models.check_pair(model, tokenizer)
    limit = models.describe(model.config.get_text_config(decoder=True))["target_length"]
    if not limit:
        raise ValueError(f"{name} says no length (max_position_embeddings): nothing to stay within")
    return ChatModel(name, model, tokenizer, int(limit), beyond)


def _folder(run: str, root: Path) -> Path | None:
    folder = root / os.path.expanduser(run)
    return folder if folder.is_dir() and run not in bases.NAMED else None


def _named(run: str, base: str | None, folder: Path | None, root: Path) -> tuple[str, str]:
    """The name and the base that `evaluation.find` is asked for."""
    if run == "original" or run == "scaled" or run.startswith("scaled:"):
        if base is None:
            raise ValueError(f"{run} is a base, and none is named: give --base, as in --base "
                             "smollm2-135m")  # fmt: skip
        return run, base
    if folder:
        return run, str(root)  # of a folder the base is not read
    return "original", run


def _base(run: str, base: str | None, root: Path) -> tuple[str | None, str | None]:
    """The base that was named, or that the run of a folder wrote down; and its revision."""
    if base is not None:
        return base, None
    folder = _folder(run, root)
    if folder is None:
        return None, None
    ours = (folder / "config.json", folder / lora.TRAINING, folder.resolve().parent / "config.json")
    for file in ours:
        try:
            about = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(about, dict) and "model_type" not in about and about.get("base"):
            return str(about["base"]), about.get("revision")
    return None, None
