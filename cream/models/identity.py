"""Which model is which: one checkpoint has one identity, whatever it is called and wherever it is.

What belongs here: where a name leads (links and ./ followed, a hub id to its cached files), and
whether two checkpoints hold the same weights.
"""

import os
from pathlib import Path

import torch
from huggingface_hub import try_to_load_from_cache
from safetensors import safe_open

from cream.models import hub
from cream.models.checkpoints import weight_files

__all__ = ["checkpoint_place", "equal_weights", "folder_name"]


def folder_name(name: str | Path, root: Path) -> str:
    """Return one spelling for a folder: relative to `root` where it lies in it, without ./ or /."""
    here, place = os.path.abspath(root), os.path.abspath(root / name)
    inside = place.startswith(here + os.sep)
    return os.path.relpath(place, here) if inside else place


def checkpoint_place(path: str | Path, revision: str | None = None) -> Path | None:
    """Return the folder that a checkpoint's files are in, links followed; None if not here."""
    if Path(path).is_dir():
        return Path(path).resolve()
    try:
        revision = revision or hub.REVISIONS.get(str(path))
        cached = try_to_load_from_cache(str(path), "config.json", revision=revision)
    except ValueError:  # no hub id
        return None
    return Path(cached).parent.resolve() if isinstance(cached, str) else None


def equal_weights(first: Path, second: Path) -> bool:
    """Whether two folders hold the same tensors, in whatever shards and however precise.

    Compared from the smallest tensor on, and only up to the first that differs: two trainings of
    one base part there. Folders without weights to read are not equal.
    """
    ours, theirs = _shapes(first), _shapes(second)
    if not ours or {n: s for n, (_, s) in ours.items()} != {n: s for n, (_, s) in theirs.items()}:
        return False
    ordered = sorted(ours, key=lambda name: (torch.Size(ours[name][1]).numel(), name))
    return all(_equal(_tensor(ours, n), _tensor(theirs, n)) for n in ordered)


_Shapes = dict[str, tuple[Path, tuple[int, ...]]]


def _shapes(folder: Path) -> _Shapes:
    """Every tensor's file and shape; nothing where a file is missing or torn."""
    found: _Shapes = {}
    try:
        for name in weight_files(folder):
            with safe_open(folder / name, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 (it is no dict)
                    found[key] = folder / name, tuple(file.get_slice(key).get_shape())
    except Exception:  # loading it says what is wrong
        return {}
    return found


def _tensor(shapes: _Shapes, name: str) -> torch.Tensor:
    with safe_open(shapes[name][0], framework="pt") as file:
        return file.get_tensor(name)


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.dtype == other.dtype:
        return torch.equal(one, other)
    return torch.equal(one.float(), other.float())
