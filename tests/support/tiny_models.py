"""Tiny random models of several families, a tokenizer, and formulas written a second time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    Gemma2Config,
    GemmaConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    PhiConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from cream import rope

WINDOW, VOCABULARY = 64, 64
# What a stock config can hold; CLEX's frequencies follow the length, test_clex has it at one t.
STOCK_KINDS = tuple(kind for kind in rope.KINDS if kind != "clex")
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": WINDOW,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
    "initializer_range": 0.2,
}
_ROPE = {"rope_type": "default"}
FAMILIES: dict[str, tuple[type[PreTrainedConfig], dict[str, Any]]] = {
    "llama": (LlamaConfig, {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    "mistral": (MistralConfig, {"num_key_value_heads": 1, "sliding_window": WINDOW}),
    "qwen2": (Qwen2Config, {"num_key_value_heads": 1}),
    "qwen3": (
        Qwen3Config,
        {"num_key_value_heads": 1, "head_dim": 32, "rope_parameters": _ROPE | {"rope_theta": 1e6}},
    ),
    "phi": (PhiConfig, {"num_key_value_heads": 1}),
    "gpt_neox": (
        GPTNeoXConfig,
        {"rope_parameters": _ROPE | {"rope_theta": 5000.0, "partial_rotary_factor": 0.5}},
    ),
    "gemma": (GemmaConfig, {"num_key_value_heads": 1, "head_dim": 24}),
    "mixtral": (
        MixtralConfig,
        {"num_key_value_heads": 1, "num_local_experts": 2, "sliding_window": None},
    ),
}


def config(family: str, **changes: Any) -> PreTrainedConfig:
    """Return the tiny config of a family, by default the base of every test."""
    kind, special = FAMILIES[family]
    return kind(**{**SHAPE, **special, **changes})


def alternating(**changes: Any) -> PreTrainedConfig:
    """Return a config whose layers take turns in sliding and full attention."""
    special = {"num_key_value_heads": 1, "head_dim": 24, "sliding_window": 32}
    return Gemma2Config(**{**SHAPE, **special, **changes})


def tokenizer(extra: int = 0) -> PreTrainedTokenizerFast:
    """Return a word tokenizer of 5 + extra tokens."""
    words = ["<s>", "</s>", "<unk>", "a", "b", *(f"w{i}" for i in range(extra))]
    backend = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=WINDOW,
    )


def unguarded(model: PreTrainedModel) -> PreTrainedModel:
    """Take off the guard that `cream.models` puts on every model, to see what it prevents."""
    model.base_model._forward_pre_hooks.clear()
    model.base_model._forward_pre_hooks_with_kwargs.clear()
    return model


def reference_rotation(
    name: str, scale: int, theta: float, dim: int, window: int
) -> tuple[np.ndarray, float]:
    """Return (frequencies, factor on cos and sin) by the formulas of protocols.md 3, in a loop."""

    def pair(rotations: float) -> float:
        return dim * math.log(window / (2 * math.pi * rotations)) / (2 * math.log(theta))

    if name == "ntk":
        theta = theta * scale ** (dim / (dim - 2))
    low, high = max(math.floor(pair(32)), 0), min(math.ceil(pair(1)), dim - 1)
    high = high + 0.001 if low == high else high
    frequencies = []
    for i in range(dim // 2):
        plain = 1 / theta ** (2 * i / dim)
        keep = 1 - min(max((i - low) / (high - low), 0), 1)
        frequencies.append(
            {
                "none": plain,
                "ntk": plain,
                "linear": plain / scale,
                "yarn": plain / ((1 - keep) * scale + keep),
                "yarn-original": keep * plain + (1 - keep) * plain / scale,
                "drope": plain / 1e12,
                "clex": plain * (2 * scale - 1) ** (-2 * i / (dim - 2)),  # untrained, at t = scale
                "cope": plain,
            }[name]
        )
    if name == "cope":
        slow = [i for i in range(dim // 2) if 2 * math.pi / frequencies[i] > window]
        for k, i in enumerate(slow):
            kept = (1 + math.cos(math.pi * k / (len(slow) - 1))) / 2
            frequencies[i] *= max(kept, 1e-9)
    return np.array(frequencies), 0.1 * math.log(scale) + 1 if name.startswith("yarn") else 1.0
