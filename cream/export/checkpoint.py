"""Export: a finished run as a stock checkpoint for others, with a card and serving commands.

    python -m cream.export RUN [OUT]                             OUT is RUN/export by default
    python -m cream.export RUN [OUT] --factor 4                  a CLEX run at t = 4, for 4 N tokens
    python -m cream.export RUN [OUT] --sharper 1.2               logits of attention times 1.2
    python -m cream.export check OUT --engine transformers       does an engine give our logits?
    python -m cream.export gguf OUT FILE --llama-cpp LLAMA_CPP   a GGUF file for llama.cpp
    python -m cream.export check OUT --engine llama.cpp --gguf FILE     or llama-server
    python -m cream.export transcript FILE                       hub id to served model, by family

An export holds the weights as they were saved, bit for bit, a config.json that transformers 5 and
4, vLLM and SGLang read alike, hf_overrides.json (of that, what differs from the base, for engines
that serve the base's own files), README.md (the model card) and cream.json (the facts in it). What
an engine makes of it is asked in `engines`; the card's words are in `model_card`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from cream import models
from cream.export import engines, model_card
from cream.models import checkpoints
from cream.models.sharper import sharper as write_sharper
from cream.rope import clex
from cream.rope.base import FULL, parameters_of
from cream.rope.sharper import factor_on_cos
from cream.training.callbacks import read_metrics
from cream.training.config import TrainConfig, read_config
from cream.utils import provenance
from cream.utils.options import check_number

__all__ = ["export", "facts_of", "licence_of", "main"]

_REWRITTEN = ("config.json", "tokenizer_config.json", "README.md", engines.FACTS,
              model_card.OVERRIDES)  # fmt: skip
_OVERRIDDEN = ("max_position_embeddings", "original_max_position_embeddings", "rope_parameters",
               "sliding_window", "layer_types", "head_dim")  # fmt: skip


def export(
    run: str | Path,
    out: str | Path | None = None,
    root: str | Path = ".",
    licence: str = "",
    factor: float | None = None,
    sharper: float | None = None,
) -> Path:
    """Write a finished run as a stock checkpoint with its card into `out`; return that folder.

    `root` is where the run's relative base lies; `licence` is the base's, read from its README.md
    if not given; `factor` is the t of a CLEX run, whose checkpoint is for t N tokens; `sharper`
    multiplies the logits of attention (`models.sharper`). Written beside and renamed.
    FileNotFoundError for a run that is not finished, FileExistsError for an `out` that holds
    anything, OSError for a disk that is too full, ValueError for a run that takes no such factor.
    """
    run = Path(run)
    config, model = _finished(run)
    _check_factor(run, config, factor)
    if sharper is not None:
        check_number("sharper", sharper, 0, above=True)
    target = (Path(out) if out else run / _usual(factor, sharper)).resolve()
    _check_target(target, model, copies=1 + (factor is not None) + (sharper is not None))
    kinds = ("part", "stock", "sharper")
    part, stock, sharp = (
        target.with_name(f".{target.name}.{kind}-{os.getpid()}") for kind in kinds
    )
    for place in (part, stock, sharp):
        shutil.rmtree(place, ignore_errors=True)
    try:
        model = model if factor is None else _at_factor(model, factor, stock)
        model = model if sharper is None else write_sharper(model, sharp, sharper)
        facts = facts_of(run, config, Path(root), licence, model)
        part.mkdir(parents=True)
        _write(part, model, facts)
        _check_written(part, model)
        part.rename(target)
    except OSError as error:
        raise OSError(f"{target} was not exported, nothing is left behind: {error}") from error
    finally:
        for place in (part, stock, sharp):
            shutil.rmtree(place, ignore_errors=True)
    return target


def _usual(factor: float | None, sharper: float | None) -> str:
    """The folder in a run that its export goes to."""
    at = "" if factor is None else f"-t{factor:g}"
    return f"export{at}" + ("" if sharper is None else f"-x{sharper:g}")


def _check_factor(run: Path, config: TrainConfig, factor: float | None) -> None:
    """Refuse a t for another scaling than CLEX, none for CLEX, and what no stock config holds."""
    if config.scaling != "clex":
        if factor is not None:
            raise ValueError(f"{run} has {config.scaling} scaling: factor is the t of a CLEX run")
        return
    if factor is None:
        raise ValueError(
            f"{run} is a CLEX run, whose frequencies follow the length, and a stock checkpoint "
            f"holds those of one t: give factor, from 1 to {config.scale} (--factor t), for t N "
            "tokens"
        )
    if not 1 <= factor <= config.scale:
        raise ValueError(f"factor is {factor}: {run} was trained for t from 1 to {config.scale}")
    if config.scaling_options.get("log_scale"):
        raise ValueError(
            f"{run} scales attention by ln(tokens) / ln(N), which follows the length and which no "
            "stock config holds: it cannot be exported"
        )


def _at_factor(model: Path, factor: float, place: Path) -> Path:
    """Write a CLEX checkpoint as the stock one of its frequencies at t; return where."""
    loaded = models.load(model, dtype="auto", device="cpu", attention="eager")
    fixed = clex.fixed(loaded, int(factor) if float(factor).is_integer() else factor)
    return models.save(fixed, models.load_tokenizer(model), place)


def _finished(run: Path) -> tuple[TrainConfig, Path]:
    if not run.is_dir():
        raise FileNotFoundError(f"{run}: there is no such run directory")
    if (run / "config.json").is_file() and "model_type" in _json(run / "config.json"):
        raise ValueError(f"{run} is a checkpoint, not a run: name the run directory that holds it")
    config = read_config(run)
    model = run / "model"
    if not model.is_dir():
        raise FileNotFoundError(
            f"{run} has no model/: the run is not finished, python -m cream.training {run} goes on "
            "where it stopped"
        )
    checkpoints.check_files(model)
    return config, model


def _check_target(target: Path, model: Path, copies: int = 1) -> None:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target} is not empty: choose another place or remove it")
    needed = copies * sum(file.stat().st_size for file in _files(model)) + 2**20
    there = next(place for place in target.parents if place.is_dir())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise OSError(
            f"{there} has {free / 2**20:,.0f} MiB free and the export takes "
            f"{needed / 2**20:,.0f}: choose another place for it"
        )


def _files(model: Path) -> list[Path]:
    return sorted(p for p in model.iterdir() if p.is_file() and not p.name.startswith("."))


def facts_of(
    run: Path, config: TrainConfig, root: Path, licence: str = "", place: Path | None = None
) -> dict[str, Any]:
    """Return what the card says of a run: numbers from its config, its metrics and its model.

    `place` is where the model lies that is exported, RUN/model by default.
    """
    place = place or run / "model"
    model = models.load(place, dtype="auto", device="cpu", attention="eager")
    base = root / config.base
    local = base.is_dir() or Path(config.base).is_absolute()
    taken = ("revision", "method", "steps", "batch_size", "learning_rate", "seed", "train_window",
             "lora_rank", "lora_train")  # fmt: skip
    return {
        "run": run.resolve().name,
        "base": Path(config.base).name if Path(config.base).is_absolute() else config.base,
        "base_is_local": local,
        "licence": licence or licence_of(base),
        "corpus": Path(config.corpus).name,
        **{name: getattr(config, name) for name in taken},
        "sampler_options": config.sampler_options,
        **models.describe(model.config),
        "rope_type": parameters_of(model.config).get("rope_type", "default"),
        "model_type": model.config.model_type,
        "tokens_trained": _tokens_trained(run),
        "dtype": str(model.dtype).removeprefix("torch."),
        "model_hash": models.weights_hash(model),
        "commit": provenance.commit(),
        "date": datetime.date.today().isoformat(),
        "versions": ", ".join(f"{k} {v}" for k, v in provenance.versions().items()),
        "checks": [],
    }


def licence_of(base: Path) -> str:
    """Return the licence that a base's README.md names, in its metadata or its text, or ""."""
    readme = base / "README.md"
    if not readme.is_file():
        return ""
    text = readme.read_text(encoding="utf-8")
    if front := re.match(r"---\n(.*?)\n---\n", text, re.S):
        told = dict(re.findall(r"^(license(?:_name)?): *[\"']?([^\"'\n]+)", front[1], re.M))
        if name := told.get("license_name") or told.get("license"):
            return name.strip()
    found = re.search(r"\bLicen[cs]e: *([A-Za-z][\w.+-]*\w)", text)
    return found[1] if found else ""


def _tokens_trained(run: Path) -> int | None:
    log = run / "metrics.jsonl"
    rows = read_metrics(log) if log.is_file() else []
    return max((int(row["tokens"]) for row in rows if "tokens" in row), default=None)


def _write(part: Path, model: Path, facts: dict[str, Any]) -> None:
    for file in _files(model):
        if file.name not in _REWRITTEN:
            shutil.copyfile(file, part / file.name)
    about = AutoConfig.from_pretrained(model)
    config = _for_every_engine(_json(model / "config.json"), about)
    _write_json(part / "config.json", config)
    changed = {key: config[key] for key in _OVERRIDDEN if key in config}
    _write_json(part / model_card.OVERRIDES, changed)
    if (model / "tokenizer_config.json").is_file():
        about = _for_both_majors(_json(model / "tokenizer_config.json"))
        _write_json(part / "tokenizer_config.json", about)
    _write_json(part / engines.FACTS, facts)
    (part / "README.md").write_text(model_card.card(facts), encoding="utf-8")


def _for_every_engine(config: dict[str, Any], about: PreTrainedConfig) -> dict[str, Any]:
    """Say longrope's factor on cos and sin in the keys where vLLM and SGLang look for it."""
    if parameters_of(about).get("rope_type") != "longrope":
        return config
    factor = factor_on_cos(about)
    found = config.get("rope_parameters") or {}
    for parameters in (found, found.get(FULL), config.get("rope_scaling")):
        if parameters and parameters.get("rope_type") == "longrope":
            parameters.update(short_mscale=factor, long_mscale=factor)
    return config


def _for_both_majors(about: dict[str, Any]) -> dict[str, Any]:
    """Name the tokenizer by a class that transformers 4 has too, and say nothing of this disk."""
    if about.get("tokenizer_class") == "TokenizersBackend":
        about["tokenizer_class"] = "PreTrainedTokenizerFast"
    return {k: v for k, v in about.items() if k not in ("is_local", "local_files_only")}


def _check_written(part: Path, model: Path) -> None:
    """Refuse to publish a copy that is cut short or would be read with another RoPE."""
    checkpoints.check_files(part)
    for file in _files(model):
        size = file.stat().st_size
        if file.name not in _REWRITTEN and (part / file.name).stat().st_size != size:
            raise OSError(f"{file.name} was not copied whole")
    configs = (AutoConfig.from_pretrained(place) for place in (part, model))
    there, here = (checkpoints.rope_state(config) for config in configs)
    if there != here:
        raise RuntimeError(f"{part / 'config.json'} reads back with another RoPE than {model}'s")


def _json(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    """Export a run, convert an export for llama.cpp, or check what an engine makes of it."""
    words = sys.argv[1:] if arguments is None else arguments
    if words and words[0] in engines.COMMANDS:
        engines.main(words)
        return
    if words and words[0] == "transcript":
        from cream.export import transcript  # which runs this command on stand-ins

        transcript.main(words[1:])
        return
    parser = argparse.ArgumentParser(
        prog="python -m cream.export",
        description="Write a finished run as a stock checkpoint with a model card. "
        "`check --help` and `gguf --help` tell of the other two commands.",
    )
    parser.add_argument("run", type=Path, help="the run directory (one named check: ./check)")
    parser.add_argument("out", type=Path, nargs="?", help="a new folder; default RUN/export")
    parser.add_argument("--root", type=Path, default=".", help="where the run's base starts")
    parser.add_argument("--licence", default="", help="of the base; default: its README.md's")
    parser.add_argument("--factor", type=float, help="of a CLEX run: the t that is exported")
    parser.add_argument("--sharper", type=float, help="a factor on the logits of attention")
    given = parser.parse_args(words)
    how = given.factor, given.sharper
    try:
        print(export(given.run, given.out, given.root, given.licence, *how))
    except (OSError, ValueError) as error:
        parser.exit(1, f"{error}\n")
