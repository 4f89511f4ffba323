"""Sharper attention as a checkpoint: its config multiplies the logits by a factor, nothing else.

    python -m cream.models.sharper runs/pose runs/pose-sharper --factor 1.2

writes a copy of a checkpoint, or of a run's, that stock transformers 5 and 4 load alike and that
evaluations take as any folder (`-p models runs/pose,runs/pose-sharper`). The weights are not tuned
further; data/sharper/SHARPER.md says what a factor of 1.2 was seen to do and for which model.
What belongs here: files. What a config then says is in `rope.sharper`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig

from cream.models import checkpoints
from cream.models.loading import load_config
from cream.rope.base import FULL, parameters_of
from cream.rope.sharper import factor_on_cos, sharpen
from cream.utils import provenance

__all__ = ["main", "sharper"]

_REWRITTEN = ("config.json", "README.md")
_EXPORTED = "cream.json"  # the facts of an export, with the hash of its model and its checks


def sharper(source: str | Path, target: str | Path, factor: float) -> Path:
    """Write a copy of a checkpoint with `factor` times the logits of attention; return its folder.

    `source` is a folder with a checkpoint or a finished run, `target` a new folder. Weights are
    hard links to the source's where the disk has them, else copies. Written beside and renamed.
    FileNotFoundError for a source that is not there or not finished, FileExistsError for a target
    that is there, OSError for a full disk, ValueError for an export and what `sharpen` refuses,
    RuntimeError for a config that does not read back as it was written.
    """
    place, target = _checkpoint(Path(source)), Path(target).resolve()
    if target.exists():
        raise FileExistsError(f"{target} is there already: choose a new folder or remove it")
    before = load_config(place)
    config = sharpen(before, factor)
    _check_built(config)
    part = target.with_name(f".{target.name}.part-{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        _link_files(place, part)
        checkpoints.save_config(config, part)
        card = _card(place, Path(source), target.name, factor, (before, config))
        (part / "README.md").write_text(card, encoding="utf-8")
        checkpoints.check_saved(part, config)
        part.rename(target)
    except OSError as error:
        raise OSError(f"{target} was not written, nothing is left behind: {error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target


def _checkpoint(source: Path) -> Path:
    """Return the folder of the weights: the source, or model/ of a run; refuse an export."""
    if not source.is_dir():
        raise FileNotFoundError(f"{source}: there is no such folder (download a hub model first)")
    about = source / "config.json"
    run = about.is_file() and "model_type" not in json.loads(about.read_text(encoding="utf-8"))
    place = source / "model" if run else source
    if run and not place.is_dir():
        raise FileNotFoundError(
            f"{source} has no model/: the run is not finished, python -m cream.training {source} "
            "goes on where it stopped"
        )
    if (place / _EXPORTED).is_file():
        raise ValueError(
            f"{source} is an export, whose card and checks are of its model as it is: name its run "
            "in python -m cream.export RUN OUT --sharper FACTOR"
        )
    checkpoints.check_files(place)
    return place


def _check_built(config: PreTrainedConfig) -> None:
    """Refuse a family whose rotation does not take the factor from its config; no weights."""
    wanted = parameters_of(config)["attention_factor"]
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    found = [getattr(module, f"{prefix}attention_scaling", None)
             for module in model.modules() for prefix in ("", f"{FULL}_")]  # fmt: skip
    found = [one for one in found if one is not None]
    if not found or not all(math.isclose(one, wanted, rel_tol=1e-9) for one in found):
        raise ValueError(
            f"the {config.model_type} model does not take the attention factor {wanted:g} that its "
            "config would give: its attention cannot be made sharper, choose another model"
        )


def _link_files(place: Path, part: Path) -> None:
    """Put the files of a checkpoint into another folder but those that are written anew.

    Weights alone are links: what is edited in a copy must not change its source.
    """
    weights = checkpoints.weight_files(place)
    for file in sorted(place.iterdir()):
        if file.name.startswith(".") or file.name in _REWRITTEN:
            continue
        if file.is_dir():
            shutil.copytree(file, part / file.name)
        elif file.name in weights:
            _link(file.resolve(), part / file.name)
        else:
            shutil.copyfile(file, part / file.name)


def _link(file: Path, target: Path) -> None:
    try:
        os.link(file, target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(file, target)


def _card(
    place: Path,
    source: Path,
    name: str,
    factor: float,
    configs: tuple[PreTrainedConfig, PreTrainedConfig],
) -> str:
    """Return the source's README.md, or a title, with a section that says what was changed."""
    there = place / "README.md"
    text = there.read_text(encoding="utf-8").rstrip() if there.is_file() else f"# {name}"
    was, now = (factor_on_cos(config) for config in configs)
    origin = source.resolve().name if source.is_absolute() else source
    return (
        f"{text}\n\n## Sharper attention\n\n"
        f"The weights are those of `{origin}`, not tuned further. config.json multiplies the "
        f"logits of attention by {factor:g}: the `attention_factor` of its RoPE scaling is "
        f"{now:.6g} and was {was:.6g}, and logits grow by its square. Whether this model answers "
        "better with it was not measured when it was written, nor what engines other than "
        "transformers make of it.\n\n"
        f"Written by `python -m cream.models.sharper` at commit {provenance.commit()}.\n"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Write a copy of a checkpoint whose config makes attention sharper."""
    parser = argparse.ArgumentParser(
        prog="python -m cream.models.sharper", description=main.__doc__
    )
    parser.add_argument("source", type=Path, help="a run, or a folder with a checkpoint")
    parser.add_argument("target", type=Path, help="a new folder")
    parser.add_argument("--factor", type=float, required=True,
                        help="on the logits of attention; above 1 is sharper")  # fmt: skip
    given = parser.parse_args(arguments)
    try:
        print(sharper(given.source, given.target, given.factor))
    except (OSError, RuntimeError, ValueError) as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
