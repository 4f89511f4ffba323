"""The models that are evaluated, as its notebook's `models` parameter names them.

    original              the base as it is, also beyond its window
    scaled                the base with its RoPE scaled as the preset trains it, not tuned
    scaled:yarn:8         the same with a scaling and a scale of your own
    runs/x                what a run trained; or any folder with a checkpoint
    adapter:runs/x        a LoRA adapter's folder, merged into the base as it is loaded
    growing:runs/x        a CLEX model whose t rises with its cache (`rope.clex_growing`)
    http://host/v1#NAME   what an OpenAI-compatible server calls NAME (see `inference.server`)

What belongs here: from such a name to a model (`model_spec`, and `adapters` for LoRA's), what
examples need of a base, and the loop that asks several models the same examples.
"""

import dataclasses
import functools
import json
import os
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd
from transformers import PreTrainedTokenizerBase

from cream import models, results, rope
from cream.data.corpus import cut_alike
from cream.evaluation import distributed
from cream.evaluation.adapters import ADAPTER, find_adapter
from cream.evaluation.model_spec import Loaded, ModelSpec, ServedModel
from cream.evaluation.runner import evaluate, keyed
from cream.inference.server import Failed, parse
from cream.models import bases
from cream.models.checkpoints import rope_state
from cream.models.identity import checkpoint_place, equal_weights, folder_name
from cream.results.store import check_place
from cream.rope import clex
from cream.tasks.base import Example
from cream.tasks.prompts import spared

if TYPE_CHECKING:
    from cream.presets import Preset

__all__ = [
    "Base",
    "base_of",
    "evaluate_models",
    "find",
    "prompt_lengths",
    "token_lengths",
]

GROWING = "growing:"  # before the name of a CLEX model


class Base(NamedTuple):
    """What building examples needs of a base: where it is, its tokenizer and its window N."""

    path: str
    tokenizer: PreTrainedTokenizerBase
    window: int


def base_of(base: str | Path, root: str | Path = ".") -> Base:
    """Read a base's tokenizer and window, without its weights; a relative folder starts at root.

    ValueError for a base whose config states no window.
    """
    path = _place(base, Path(root))
    config = models.load_config(path)
    if not (window := models.describe(config)["window"]):
        raise ValueError(
            f"{path}: this {config.model_type} config names no max_position_embeddings, and N, by "
            "which lengths are told here, is unknown; choose another base"
        )
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


def prompt_lengths(
    multiples: str | Sequence[float],
    base: Base,
    preset: "Preset",
    specs: Sequence[ModelSpec | ServedModel] = (),
) -> list[int]:
    """Turn lengths of prompts in windows into tokens; answers have room within the target length.

    That is so for the target length of the preset, whatever models are asked, and for that of every
    model of `specs` (`find`). All are asked alike.
    """
    lengths = token_lengths(multiples, base.window)
    targets = {base.window * preset.train.scale, *(spec.target_length() for spec in specs)}
    for target in sorted(filter(None, targets)):
        lengths = spared(lengths, target)
    return lengths


def find(
    names: str, base: str | Path, root: str | Path = ".", preset: str | None = None
) -> list[ModelSpec | ServedModel]:
    """Resolve a comma-separated list of names; relative folders start at `root`.

    `preset` says what `scaled` alone means. Raises ValueError for an empty list, a model given
    twice (by another spelling, a link or a copy, too) or a scaling that does not exist, and
    FileNotFoundError for a run that is not there or not finished, before anything is loaded.
    """
    listed = _listed(names, Path(root))
    if not listed:
        raise ValueError("models names no model: use for example 'original,scaled:yarn:8,runs/x'")
    if twice := {name for name in listed if listed.count(name) > 1}:
        raise ValueError(f"models names {', '.join(sorted(twice))} twice: name each model once")
    found = [_parse_spec(name, base, Path(root), preset) for name in listed]
    for (name, one), (other, two) in combinations(zip(listed, found, strict=True), 2):
        _refuse_same(name, one, other, two)
    return _named_apart(found)


def _listed(names: str, root: Path) -> list[str]:
    """The names between commas; a folder may have one in its own name, where it stands alone."""
    if "," in names and (root / os.path.expanduser(names.strip())).is_dir():
        return [names.strip()]
    return [name.strip() for name in names.split(",") if name.strip()]


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
    the processes share the examples, and all return all rows. `examples` are cut by the tokenizer
    of the base that `find` was given. Before any model is loaded, ValueError for one with another
    tokenizer, which would read other tokens, and for samples beyond a model's target length, and
    OSError for a place of `rows` that cannot be written.
    `servers.Failed`, once every model was asked, for requests that have no answer.
    """
    specs, frames, failures = list(specs), [], []
    check_place(rows)
    _check(specs, examples)
    hashes: dict[str, str] = {}
    for spec in specs:
        loaded = spec.load()
        if (same := hashes.setdefault(_whose(loaded), spec.name)) != spec.name:
            raise ValueError(
                f"{same} and {spec.name} have equal weights and RoPE: one model would be "
                "counted twice, so leave one of them out"
            )
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
    read = functools.cache(models.load_tokenizer)
    for spec in specs:
        _check_tokenizer(spec, specs[0].base_place or specs[0].tokenizer_place, read)
    for spec in specs:
        spec.check(examples, read(spec.tokenizer_place))


def _check_tokenizer(
    spec: ModelSpec | ServedModel, base: str, read: Callable[[str], PreTrainedTokenizerBase]
) -> None:
    """Refuse (ValueError) a model that reads other tokens than those the examples were cut into."""
    for place in dict.fromkeys((spec.base_place or base, spec.tokenizer_place)):
        if place != base and not cut_alike(read(place), read(base)):
            raise ValueError(
                f"{spec.name} has another tokenizer ({place}) than the base {base}, which cuts the "
                "questions: its numbers would be of other tokens. Evaluate it with its own base "
                f"(-p base FOLDER), or as a base itself: -p base {place} -p models original"
            )


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
    path = _place(base, root)
    named = {"name": name, "base": Path(base).name, "preset": preset, "base_place": path}
    if address := parse(name):
        own = address.checkpoint
        checkpoint = _parse_spec(own, base, root, preset) if own else None
        return ServedModel(name, address, path, checkpoint, preset)
    if name.startswith(GROWING):
        return _growing(_parse_spec(name.removeprefix(GROWING), base, root, preset))
    if name.startswith(ADAPTER):
        return find_adapter(name.removeprefix(ADAPTER), path, root, named)
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
