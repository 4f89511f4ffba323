"""Large models as shapes alone: random weights and random documents, to measure what they cost.

What belongs here: the shapes, a base and a corpus laid on disk without weights or text. How they
are measured is in `harness`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
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
from cream.models.attention import check_kernel
from cream.performance import harness
from cream.rope import clex
from cream.rope.config import fix_longrope

__all__ = [
    "SHAPES",
    "add_shape",
    "check_card",
    "lay_out",
    "random_weights",
    "refuse_without_card",
    "shape",
]

MOST_WITHOUT_CARD = 500_000_000  # weights that a machine without a GPU is asked to compute with

SHAPES = {
    "llama2-7b": {"max_position_embeddings": 4096, "rms_norm_eps": 1e-5},  # LlamaConfig's defaults
    "smollm2-135m": {
        "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536,
        "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
        "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
    },
    "tiny": {
        "vocab_size": 600, "hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 4,
        "num_attention_heads": 2, "max_position_embeddings": 64,
    },
}  # fmt: skip


def add_shape(parser: argparse._ActionsContainer, default: str | None = "llama2-7b") -> None:
    """Declare the options `--shape` and `--layers` of a command."""
    parser.add_argument(
        "--shape", choices=SHAPES, default=default, help="a large model's, with random weights"
    )
    parser.add_argument("--layers", type=int, help="fewer than the shape has: not its true depth")


def shape(name: str, layers: int | None = None) -> LlamaConfig:
    """Return a shape's config, at another depth where `layers` says so."""
    depth = {"num_hidden_layers": layers} if layers else {}
    return LlamaConfig(**{**SHAPES[name], **depth}, bos_token_id=0, eos_token_id=1)


def refuse_without_card(
    parser: argparse.ArgumentParser, name: str, layers: int | None = None
) -> None:
    """Stop a command that would train a large shape where there is no GPU, before any weights."""
    try:
        check_card(name, layers)
    except ValueError as error:
        parser.error(str(error))


def check_card(name: str, layers: int | None = None) -> None:
    """Raise ValueError for a shape too large to compute with where there is no GPU."""
    if torch.cuda.is_available():
        return
    with torch.device("meta"):
        count = AutoModelForCausalLM.from_config(shape(name, layers)).num_parameters()
    if count > MOST_WITHOUT_CARD:
        raise ValueError(
            f"--shape {name} has {count:,} weights here, and this machine has no GPU; without one "
            f"at most {MOST_WITHOUT_CARD:,} are computed with: give --shape smollm2-135m or tiny"
        )


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
    check_kernel(chosen)
    torch.manual_seed(0)
    with torch.device(device or harness.place()), clex.registered():
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=chosen)
    if clex.is_clex(config):
        clex.attach(model)
    else:
        models.check_rotation(model)
        fix_longrope(model)
    return models.guard_positions(model.eval())
