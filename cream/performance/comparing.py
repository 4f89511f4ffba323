"""A comparison of one process with several: a folder, processes of their own, a row.

What belongs here: what every part of `multi_gpu` needs.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from transformers import LlamaConfig

from cream import models, notebook
from cream.performance import random_models
from cream.results import Rows
from cream.utils.provenance import hash_of

__all__ = ["checked", "child", "place", "row"]


@contextlib.contextmanager
def place(given: argparse.Namespace) -> Iterator[Path]:
    """Give a folder for what is written, and remove it."""
    if given.folder:
        Path(given.folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        yield Path(folder)


def child(given: argparse.Namespace, what: str, count: int, **job: object) -> dict:
    """Do `what` of `multi_gpu` with `job` in `count` processes of its own; what the first found."""
    job = {"what": what, **job}
    fixed = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"} if what == "train" else {}
    return random_models.in_child("cream.performance.multi_gpu", job, given.limit, count, **fixed)


def checked(name: str, found: dict) -> dict:
    """Print how long a process took and return what it found; SystemExit for one that failed."""
    if "error" in found:
        raise SystemExit(f"{name}: {found['error']}")
    print(f"{name}: {found['wall']:.0f} s", flush=True)
    return found


def row(
    given: argparse.Namespace,
    task: str,
    card: str,
    shape: LlamaConfig | None = None,
    **more: object,
) -> None:
    """Append a row of a comparison, with its command: of a shape with random weights.

    Without one, of the shipped miniature.
    """
    if not given.rows:
        return
    about = {"command": given.command, "processes": given.gpus}
    if shape is None:
        place = notebook.find_root() / "data" / "miniature"
        window = models.describe(models.load_config(place))["window"]
        model = {"preset": "miniature", "base": "miniature", "window": window,
                 "model_hash": models.weights_hash(place)}  # fmt: skip
    else:
        model = {"preset": given.shape, "base": "random weights",
                 "model_hash": hash_of(shape.to_dict()),
                 "window": shape.max_position_embeddings}  # fmt: skip
    header = {"run": f"several GPUs, {model['preset']}", **model, "card": card, "seed": 0,
              "settings": about}  # fmt: skip
    settings = {**about, **more.pop("settings")}
    with Rows(given.rows, header) as rows:
        rows.append({"task": task, "sample": 0, "prompt_hash": hash_of("random"),
                     "settings": settings, **more})  # fmt: skip
