"""The models that are evaluated, as its notebook's `models` parameter names them.

    original              the base as it is, also beyond its window
    scaled                the base with its RoPE scaled as the preset trains it, not tuned
    scaled:yarn:8         the same with a scaling and a scale of your own
    runs/x                what a run trained; or any folder with a checkpoint
    adapter:runs/x        a LoRA adapter's folder, merged into the base as it is loaded
    growing:runs/x        a CLEX model whose t rises with its cache (`rope.clex_growing`)
    http://host/v1#NAME   what an OpenAI-compatible server calls NAME (see `inference.server`)

What belongs here: from such a name to a loaded model, to the columns its rows have in common, and
the loop that asks several models the same examples.
"""

import dataclasses
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd
import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from cream import models, results, rope
from cream.data.corpus import tokenizer_hash
from cream.evaluation import distributed
from cream.evaluation.runner import evaluate, keyed
from cream.inference.server import Address, Failed, Server, parse
from cream.models import bases
from cream.models.checkpoints import rope_state
from cream.models.identity import checkpoint_place, equal_weights, folder_name
from cream.rope import clex, clex_growing
from cream.tasks.base import Example, check_lengths
from cream.tasks.prompts import spared

if TYPE_CHECKING:
    from cream.presets import Preset

__all__ = [
    "Adapter",
    "Base",
    "Loaded",
    "ModelSpec",
    "ServedModel",
    "adapter_name",
    "adapter_training",
    "base_of",
    "device_name",
    "evaluate_models",
    "find",
    "prompt_lengths",
    "token_lengths",
]

GROWING = "growing:"  # before the name of a CLEX model
ADAPTER = "adapter:"  # before a LoRA adapter's folder


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
        return Loaded(model, tokenizer, header, header["scaling"] == "none")

    def _read(self, dtype: torch.dtype | str | None, device: str | None = None) -> PreTrainedModel:
        return models.load(self.path, scaling=self.rope, dtype=dtype, device=device)

    @property
    def place(self) -> str:
        """The folder, or hub id, that holds what this model has of its own."""
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
        return config if self.rope is None else models.extend(config, self.rope)

    def check(self, examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase) -> None:
        """Refuse (ValueError) examples beyond the model's target length, before it is loaded."""
        config = self.config()
        if models.describe(config)["scaling"] != "none":
            check_lengths(examples, tokenizer, config.max_position_embeddings, self.name)

    def weights_hash(self) -> str:
        """Hash the weights as they are stored."""
        return models.weights_hash(self._read("auto", "cpu"))

    def _hash(self, model: PreTrainedModel) -> str:
        """Hash the weights as stored: a copy narrowed to bfloat16 would be another model."""
        return models.weights_hash(model) if model.dtype == torch.float32 else self.weights_hash()


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
    """Call an adapter by its run, or by its folder."""
    return folder.resolve().parent.name if folder.name == "adapter" else folder.name


def adapter_training(folder: Path) -> dict[str, object]:
    """What is known of an adapter's training: from its own file, or from its run directory."""
    for file in (folder / "training.json", folder.parent / "config.json"):
        if file.is_file() and "model_type" not in (found := json.loads(file.read_text())):
            return found
    return {}


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

    def check(self, examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase) -> None:
        """Raise ConnectionError if the server gives no answers, while nothing has been computed."""
        Server(self.address, tokenizer)
        if self.checkpoint:
            self.checkpoint.check(examples, tokenizer)

    def load(self, dtype: torch.dtype | None = None) -> "Loaded":
        """Reach the server; what it computes in (`dtype`) is its own."""
        place = self.checkpoint.path if self.checkpoint else self.base
        tokenizer = models.load_tokenizer(place)
        server = Server(self.address, tokenizer)
        first = distributed.current().from_first
        if self.checkpoint:
            about = self.checkpoint.header(self.checkpoint.config())
            hashed = first(self.checkpoint.weights_hash)
        else:
            window = models.describe(models.load_config(self.base))["window"]
            model = self.address.model
            about = {"run": model, "method": model, "scaling": "server", "scale": 1,
                     "base": Path(self.base).name, "window": window,
                     "preset": self.preset}  # fmt: skip
            hashed = first(server.fingerprint)
        header = {**about, "model_hash": hashed, "card": "server", "settings": server.settings}
        return Loaded(server, tokenizer, header, about["scaling"] in ("none", "server"))


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


class Base(NamedTuple):
    """What building examples needs of a base: where it is, its tokenizer and its window N."""

    path: str
    tokenizer: PreTrainedTokenizerBase
    window: int


def base_of(base: str | Path, root: str | Path = ".") -> Base:
    """Read a base's tokenizer and window, without its weights; a relative folder starts at root."""
    path = _place(base, Path(root))
    window = models.describe(models.load_config(path))["window"]
    return Base(path, models.load_tokenizer(path), window)


def token_lengths(multiples: str | Sequence[float], window: int) -> list[int]:
    """Turn lengths in windows ("0.6,1,2" or numbers) into tokens."""
    parts = multiples.split(",") if isinstance(multiples, str) else multiples
    try:
        lengths = [round(float(part) * window) for part in parts]
    except (TypeError, ValueError, OverflowError):
        raise ValueError(
            f"lengths {multiples!r} must be multiples of N with commas between, as in '0.6,1,2'"
        ) from None
    return lengths


def prompt_lengths(multiples: str | Sequence[float], base: Base, preset: "Preset") -> list[int]:
    """Turn lengths of prompts in windows into tokens; answers have room within the target length.

    The target length is that of the preset, whatever models are asked, so that all are asked alike.
    """
    lengths = token_lengths(multiples, base.window)
    return spared(lengths, base.window * preset.train.scale)


def device_name(device: torch.device) -> str:
    """Name the processor that a model is on."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def find(
    names: str, base: str | Path, root: str | Path = ".", preset: str | None = None
) -> list[ModelSpec | ServedModel]:
    """Resolve a comma-separated list of names; relative folders start at `root`.

    `preset` says what `scaled` alone means. Raises ValueError for an empty list, a model given
    twice (by another spelling, a link or a copy, too) or a scaling that does not exist, and
    FileNotFoundError for a run that is not there or not finished, before anything is loaded.
    """
    listed = [name.strip() for name in names.split(",") if name.strip()]
    if not listed:
        raise ValueError("models names no model: use for example 'original,scaled:yarn:8,runs/x'")
    if twice := {name for name in listed if listed.count(name) > 1}:
        raise ValueError(f"models names {', '.join(sorted(twice))} twice: name each model once")
    found = [_parse_spec(name, base, Path(root), preset) for name in listed]
    for (name, one), (other, two) in combinations(zip(listed, found, strict=True), 2):
        _refuse_same(name, one, other, two)
    return _named_apart(found)


def _refuse_same(
    name: str, one: ModelSpec | ServedModel, other: str, two: ModelSpec | ServedModel
) -> None:
    """Refuse (ValueError) two names of one model: its answers would count as those of two."""
    ours, theirs = _weights_of(one), _weights_of(two)
    if _run(one) == _run(two) and (isinstance(one, ServedModel) or isinstance(two, ServedModel)):
        raise ValueError(
            f"models names {_run(one)} twice, by itself and behind a server: evaluate it once into "
            "one file of rows and once into another to compare them"
        )
    if ours is None or theirs is None:
        return
    first, second = checkpoint_place(ours.place), checkpoint_place(theirs.place)
    if ours.growing != theirs.growing:
        return
    if ours.place == theirs.place or (first is not None and first == second):
        if (ours.scaling, ours.scale) == (theirs.scaling, theirs.scale):
            raise ValueError(
                f"models names {name} and {other}, which are one model ({ours.place}): its answers "
                "would be counted twice, so name it once"
            )
        return
    if first is None or second is None or not equal_weights(first, second):
        return
    if rope_state(ours.config()) == rope_state(theirs.config()):
        raise ValueError(
            f"models names {name} and {other}, whose weights and RoPE are equal ({first}, "
            f"{second}): one model would be counted twice, so leave one of them out"
        )


def _weights_of(one: ModelSpec | ServedModel) -> ModelSpec | None:
    """The checkpoint that answers, as far as it is known."""
    return one if isinstance(one, ModelSpec) else one.checkpoint


def _run(one: ModelSpec | ServedModel) -> str:
    known = _weights_of(one)
    return known.name if known else one.address.model


def _named_apart(found: list[ModelSpec | ServedModel]) -> list[ModelSpec | ServedModel]:
    """Call two folders of one last name (a/model, b/model) by their paths, not pooled as one."""
    methods = [one.method for one in found if isinstance(one, ModelSpec)]
    return [
        dataclasses.replace(one, method=one.name)
        if isinstance(one, ModelSpec) and one.foreign and methods.count(one.method) > 1
        else one
        for one in found
    ]


def evaluate_models(
    specs: Iterable[ModelSpec | ServedModel],
    task: ModuleType,
    examples: Sequence[Example],
    rows: str | Path,
    batch_size: int | str = "auto",
    progress: bool = True,
) -> pd.DataFrame:
    """Evaluate every model on the same examples, one model in memory at a time; return their rows.

    What has a row in the file `rows` is not asked again. Under `torchrun` or `accelerate launch`
    the processes share the examples, and all return all rows. ValueError for a model with another
    tokenizer than the first: the examples would not have the same lengths for it; and, before any
    is loaded, for samples beyond a model's target length. `servers.Failed`, once every model was
    asked, for requests that have no answer.
    """
    specs, frames, failures, first = list(specs), [], [], None
    _check(specs, examples)
    hashes: dict[str, str] = {}
    for spec in specs:
        loaded = spec.load()
        if (same := hashes.setdefault(_whose(loaded), spec.name)) != spec.name:
            raise ValueError(
                f"{same} and {spec.name} have equal weights and RoPE: one model would be "
                "counted twice, so leave one of them out"
            )
        mine = tokenizer_hash(loaded.tokenizer)
        first = first or mine
        if mine != first:
            raise ValueError(f"{spec.name} has another tokenizer: evaluate it on its own")
        frame, failed = _answer_share(loaded, task, examples, rows, batch_size, progress)
        frames.append(frame)
        failures += failed
        del loaded
    if failures:
        raise Failed("\n".join(dict.fromkeys(failures)))
    return pd.concat(frames, ignore_index=True)


def _whose(loaded: Loaded) -> str:
    """The identity of what answers: a model's hash, apart for each engine and rule of CLEX's t."""
    how = (loaded.settings.get(name, "") for name in ("engine", "clex_t"))
    return " ".join([loaded.header["model_hash"], *how])


def _check(specs: Sequence[ModelSpec | ServedModel], examples: Sequence[Example]) -> None:
    """Refuse what can be seen to fail before the first model is loaded."""
    for spec in specs:
        place = spec.path if isinstance(spec, ModelSpec) else spec.base
        spec.check(examples, models.load_tokenizer(place))


def _answer_share(
    loaded: Loaded,
    task: ModuleType,
    examples: Sequence[Example],
    path: str | Path,
    batch_size: int | str,
    progress: bool,
) -> tuple[pd.DataFrame, list[str]]:
    """Answer this process's share; all rows of the model, and the failures of every process."""
    here, failed = distributed.current(), None
    with distributed.shared_rows(path, loaded.header) as file:
        try:
            evaluate(
                loaded.model,
                loaded.tokenizer,
                task,
                examples,
                file,
                settings=loaded.settings,
                batch_size=batch_size,
                allow_beyond=loaded.allow_beyond,
                progress=progress and here.rank == 0,
                label=loaded.header["run"],
                part=(here.rank, here.count),
            )
        except Failed as error:
            failed = str(error)
        wanted = keyed(examples, file, loaded.settings)
    frame = results.read(path)
    frame = frame[frame["key"].isin(list(wanted))].reset_index(drop=True)
    return frame, [one for one in here.gather(failed) if one]


def _parse_spec(
    name: str, base: str | Path, root: Path, preset: str | None
) -> ModelSpec | ServedModel:
    named = {"name": name, "base": Path(base).name, "preset": preset}
    path = _place(base, root)
    if address := parse(name):
        own = address.checkpoint
        checkpoint = _parse_spec(own, base, root, preset) if own else None
        return ServedModel(name, address, path, checkpoint, preset)
    if name.startswith(GROWING):
        return _growing(_parse_spec(name.removeprefix(GROWING), base, root, preset))
    if name.startswith(ADAPTER):
        return _adapter(name.removeprefix(ADAPTER), path, root, named)
    if name == "original":
        return ModelSpec(path=path, method="original", **named)
    if name == "scaled" or name.startswith("scaled:"):
        scaling, scale = _as_trained(preset) if name == "scaled" else _scaled(name)
        named["name"] = f"scaled:{scaling}:{scale}"
        return ModelSpec(path=path, method="scaled", scaling=scaling, scale=scale, **named)
    named["name"] = folder_name(os.path.expanduser(name), root)
    folder = root / named["name"]
    if not folder.is_dir():
        raise FileNotFoundError(
            f"models names {name}, and there is no folder {folder}: train it with 02_train, or use "
            "'original' or 'scaled:KIND:SCALE'"
        )
    return _trained(folder, named)


def _growing(spec: ModelSpec | ServedModel) -> ModelSpec:
    """A CLEX model whose t rises with its cache: a method of its own, which no mean mixes in."""
    if isinstance(spec, ServedModel) or spec.growing or not clex.is_clex(spec.config()):
        raise ValueError(
            f"{GROWING}{spec.name}: only a CLEX checkpoint here has a t that can grow; name a run "
            "with scaling clex, for example growing:runs/clex"
        )
    return dataclasses.replace(
        spec, name=GROWING + spec.name, method=f"{spec.method} growing", growing=True
    )


def _adapter(name: str, path: str, root: Path, named: dict[str, str | None]) -> Adapter:
    """An adapter by its folder's name: a mean over methods does not mix it with its run."""
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


def _place(base: str | Path, root: Path) -> str:
    """A folder under root, or what was given: a hub id is no folder here."""
    return bases.place(base, root)


def _scaled(name: str) -> tuple[str, int]:
    parts = name.split(":")
    if len(parts) != 3 or parts[1] not in rope.KINDS or not parts[2].isdecimal():
        raise ValueError(
            f"{name!r} is no scaled base: write scaled:KIND:SCALE with a kind of "
            f"{', '.join(rope.KINDS)} and a whole scale, for example scaled:yarn:8"
        )
    if int(parts[2]) < 2 and parts[1] != "none":
        raise ValueError(f"{name} stretches nothing: write original, or a scale of 2 or more")
    if parts[1] == "none":
        raise ValueError(f"{name} has no scaling, which is the base as it is: write original")
    return parts[1], int(parts[2])


def _as_trained(preset: str | None) -> tuple[str, int]:
    """The scaling and scale that a preset trains with, which `scaled` alone stands for."""
    from cream import presets  # imports the trainer, which no other name needs

    if preset is None:
        raise ValueError(
            "'scaled' alone means as the preset trains it, and no preset is given: write "
            "scaled:KIND:SCALE, for example scaled:yarn:8"
        )
    train = presets.get(preset).train
    if train.scaling == "none":
        raise ValueError(
            f"models names scaled, and the preset {preset} trains without a scaling: leave it out, "
            "or write scaled:KIND:SCALE, for example scaled:yarn:8"
        )
    if train.scaling_options:
        raise ValueError(
            f"models names scaled, and the preset {preset} gives its {train.scaling} scaling "
            f"options ({train.scaling_options}): name a run that has them instead"
        )
    return train.scaling, train.scale


def _trained(folder: Path, named: dict[str, str | None]) -> ModelSpec:
    """A run directory of ours, or a folder that holds a checkpoint itself."""
    config = json.loads((folder / "config.json").read_text()) if _has_config(folder) else {}
    if "model_type" in config:
        if folder.name == "model" and _is_run(folder.parent):
            return _trained(folder.parent, {**named, "name": str(Path(named["name"]).parent)})
        return ModelSpec(path=str(folder), method=folder.name, foreign=True, **named)
    if not (folder / "model").is_dir():
        raise FileNotFoundError(
            f"{folder} has no finished model: run 02_train with this run directory again, it goes "
            "on where it stopped"
        )
    model_config = json.loads((folder / "model" / "config.json").read_text())
    about = model_config.get("cream") or {}
    whole = about.get("target_length") if config.get("method") == "full" else about.get("window")
    own = (config.get("sampler_options") or {}).get("tokens")  # of an example, as CLEX has it
    tokens = config.get("train_window") or own or whole
    steps, batch = config.get("steps"), config.get("batch_size")
    trained = steps * batch * tokens if steps and batch and tokens else None
    known = {**named, "base": Path(config["base"]).name} if "base" in config else named
    return ModelSpec(
        path=str(folder / "model"),
        method=config.get("method", folder.name),
        seed=config.get("seed"),
        tokens_trained=trained,
        **known,
    )


def _is_run(folder: Path) -> bool:
    """Whether a folder's config.json is that of a run, not of a model."""
    return _has_config(folder) and "model_type" not in json.loads(
        (folder / "config.json").read_text()
    )


def _has_config(folder: Path) -> bool:
    return (folder / "config.json").is_file()
