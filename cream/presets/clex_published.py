"""What is published of CLEX's own runs, as fields of a run; None where a number is not published.

    fields = clex_published.fields("CLEX-7B-4K")
    config = presets.get("llama2-7b", fields, corpus="runs/corpora/books").train

**Options that the scripts of CLEX do not set.** They train with act tanh, log_scale off, max_factor
16 and param_factor 1. The released CLEX-7B-16K has silu and log_scale on, so its published
perplexities very probably belong to these; CLEX-LLaMA-2-7B-64K has max_factor 64, the Mixtral chat
model max_factor 10, param_factor 2 and (its code) theta 1e4 inside ln g. Whether the 64K model's
evaluation had log_scale on is not published.

Sources: the script and the README of DAMO-NLP-SG/CLEX at 023709d (2024-03-12), the released
checkpoints' config.json (`models.clex_checkpoints.RELEASES`). Steps are arithmetic: the README's
2B tokens by 512 x 4,096. Their rate stays constant after the warm-up, ours falls to 0; which books
of RedPajama were taken is not published, so the corpus is the reader's own.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["RUNS", "PublishedRun", "fields", "not_published"]


@dataclass(frozen=True)
class PublishedRun:
    """One run of the paper or of a released checkpoint; None: not published."""

    base: str
    window: int  # N of the base
    tokens: int  # of a training example
    max_factor: int | None
    param_factor: int | None
    act: str | None
    log_scale: bool | None
    batch_size: int | None
    steps: int | None
    learning_rate: float | None
    warmup_steps: int | None
    corpus: str | None


RUNS: dict[str, PublishedRun] = {
    "CLEX-7B-4K": PublishedRun(
        "meta-llama/Llama-2-7b-hf", 4096, 4096, 16, 1, "tanh", False, 512, 954, 2e-5, 29,
        "2B tokens of RedPajama's books",
    ),
    "CLEX-7B-16K": PublishedRun(
        "meta-llama/Llama-2-7b-hf", 4096, 16384, 16, 1, "silu", True, None, None, None, None, None
    ),
    "CLEX-LLaMA-2-7B-64K": PublishedRun(
        "meta-llama/Llama-2-7b-hf", 4096, 65536, 64, 1, "tanh", None, None, None, None, None, None
    ),
    "CLEX-Phi-2-32K": PublishedRun(
        "microsoft/phi-2", 2048, 32768, None, None, None, None, None, None, None, None, None
    ),
    "CLEX-Mixtral-8x7B-Chat-32K": PublishedRun(
        "mistralai/Mixtral-8x7B-Instruct-v0.1", 32768, 32768, 10, 2, "tanh", False, None, None,
        None, None, "UltraChat",
    ),
}  # fmt: skip


def not_published(name: str) -> list[str]:
    """Return what is not published of a run; ValueError for an unknown name."""
    return [field for field, value in asdict(_run(name)).items() if value is None]


def fields(name: str) -> dict[str, Any]:
    """Return the published values of a run as fields of `TrainConfig`, for `presets.get`.

    What is not published keeps the preset's value: `not_published` lists it. ValueError for an
    unknown name, and where max_factor is not published, which nothing stands in for.
    """
    run = _run(name)
    if run.max_factor is None:
        raise ValueError(f"max_factor of {name} is not published: choose another run")
    options = {"param_factor": run.param_factor, "act": run.act, "log_scale": run.log_scale}
    taken = ("base", "batch_size", "steps", "learning_rate", "warmup_steps")
    return {
        "method": "clex",
        "scaling": "clex",
        "scale": run.max_factor,
        "scaling_options": {key: value for key, value in options.items() if value is not None},
        **({} if run.tokens == run.window else {"sampler_options": {"tokens": run.tokens}}),
        **{key: value for key in taken if (value := getattr(run, key)) is not None},
    }


def _run(name: str) -> PublishedRun:
    if name not in RUNS:
        raise ValueError(f"{name!r} is no published run of CLEX: choose one of {', '.join(RUNS)}")
    return RUNS[name]
