"""Large models as shapes alone: random weights and random documents, to measure what they cost.

What belongs here: the shapes, a base and a corpus laid on disk without weights or text, and a
measurement in a process of its own, which one that does not fit ends alone. What is measured lies
in `training`, `step_cost` and `resume`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from cream import models, rope
from cream.data import corpus
from cream.rope.config import settle_rotation

__all__ = [
    "SHAPES",
    "card",
    "command",
    "environment",
    "in_child",
    "lay_out",
    "place",
    "random_weights",
    "shape",
]

SHAPES = {
    "llama2-7b": {"max_position_embeddings": 4096, "rms_norm_eps": 1e-5},  # LlamaConfig's defaults
    "tiny": {
        "vocab_size": 600, "hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 4,
        "num_attention_heads": 2, "max_position_embeddings": 64,
    },
}  # fmt: skip


def shape(name: str, layers: int | None = None) -> LlamaConfig:
    """Return a shape's config, at another depth where `layers` says so."""
    depth = {"num_hidden_layers": layers} if layers else {}
    return LlamaConfig(**{**SHAPES[name], **depth}, bos_token_id=0, eos_token_id=1)


def place() -> torch.device:
    """Return where this process measures: its launcher's card or the first, or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def card() -> tuple[int | None, str]:
    """Return the card's bytes and its name; None and "no card" without one."""
    if not torch.cuda.is_available():
        return None, "no card"
    found = torch.cuda.get_device_properties(place())
    return found.total_memory, found.name


def lay_out(root: Path, config: LlamaConfig) -> None:
    """Write what a run reads: a base without weights, its tokenizer, documents of random tokens."""
    words = {str(number): number for number in range(config.vocab_size)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="2")), bos_token="0", eos_token="1"
    )
    config.save_pretrained(root / "base")
    tokenizer.save_pretrained(root / "base")
    save_file({}, root / "base" / "model.safetensors", {"format": "pt"})
    rng, window = np.random.default_rng(0), config.max_position_embeddings

    def documents() -> Iterator[dict[str, object]]:
        for number in range(256):
            ids = rng.integers(2, config.vocab_size, rng.integers(window, 4 * window))
            yield {"split": "train", "source": "random", "name": str(number), "kind": "text",
                   "input_ids": ids.tolist()}  # fmt: skip

    corpus.build(root / "corpus", documents(), tokenizer, window, {"of": "shapes"}, progress=False)


def random_weights(
    base: str | PreTrainedConfig,
    scaling: rope.RopeScaling,
    attention: str = "auto",
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
    **_: object,
) -> PreTrainedModel:
    """Stand in for `models.load`: the extended model, the same random weights each time."""
    about = AutoConfig.from_pretrained(base) if isinstance(base, str) else base
    config = models.extend(about, scaling)
    chosen = None if attention == "auto" else attention
    torch.manual_seed(0)
    with torch.device(device or place()):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=chosen)
    models.check_rotation(model)
    settle_rotation(model)
    return models.guard_positions(model.eval())


def command(module: str, arguments: Sequence[str] | None) -> str:
    """Return the command that a row was measured by, without the files of the one who typed it."""
    kept, given = [], list(sys.argv[1:] if arguments is None else arguments)
    while given:
        if (one := given.pop(0)) in ("--rows", "--folder"):
            given = given[1:]
        elif not one.startswith(("--rows=", "--folder=")):
            kept.append(one)
    return " ".join([f"python -m {module}", *kept])


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a process that measures: no hub, an allocator without gaps."""
    fixed = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", **more}
    return {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True", **os.environ, **fixed}


def in_child(
    module: str, job: Mapping[str, object], limit: float, processes: int = 1, **variables: str
) -> dict[str, object]:
    """Do a job in a process of its own; what it said last, or as "error" why it said nothing.

    `python -m MODULE --one JOB`, started once or by torchrun as several `processes`, prints a line
    of JSON last. `variables` join its environment. After `limit` seconds it is ended.
    """
    command = [sys.executable, "-m", module, "--one", json.dumps(job)]
    if processes > 1:
        launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [sys.executable, "-m", *launcher, *command[1:]]
    start = time.perf_counter()
    child = subprocess.Popen(
        command, env=environment(**variables), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip
    try:
        said, wrong = child.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        return {"error": f"not done within {limit} s"}
    finally:
        _end(child)
    found = [line for line in said.splitlines() if line.startswith("{")]
    if child.returncode or not found:
        return {"error": _reason(wrong, child.returncode)}
    return {**json.loads(found[-1]), "wall": time.perf_counter() - start}


def _end(child: subprocess.Popen) -> None:
    """End a process and what it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _reason(wrong: str, code: int) -> str:
    """The last error that a process told of, not its launcher's."""
    lines = [line.strip() for line in wrong.splitlines() if line.strip()]
    errors = [re.sub(r"^\[rank\d+\]: ", "", line) for line in lines]
    told = [one for one in errors if re.match(r"[\w.]*(Error|Exception|Exit|Interrupt)\b", one)]
    told = [one for one in told if "ChildFailedError" not in one]
    return (told or lines or [f"exit {code}"])[-1]
