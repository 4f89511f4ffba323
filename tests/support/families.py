"""The families of bases that people extend, as tiny random models with their true RoPE.

Each has the rope settings, window and layer types of a published config, and the weights of a toy.
As a script it writes the table of families that the tests check:

    python tests/support/families.py notebooks/families.md
"""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tiny_models
import transformers
from transformers import PreTrainedConfig

from cream import rope
from cream.rope import base as rope_base
from cream.rope import config as rope_config

_TWO = ["sliding_attention", "full_attention"]
_DIM = 64  # of a head, wherever the family lets it be set


@dataclass(frozen=True)
class Family:
    """A published base: its config class and what its config says of RoPE and layers."""

    name: str
    stands_for: str
    config: str
    settings: dict[str, Any] = field(default_factory=dict)
    keeps: str = "-"

    def make(self) -> PreTrainedConfig:
        """Return the tiny config."""
        kind = getattr(transformers, self.config)
        shape = {**tiny_models.SHAPE, "num_key_value_heads": 1, "head_dim": _DIM}
        return kind(**copy.deepcopy({**shape, **self.settings}))


def _rope(theta: float, kind: str = "default", **rest: Any) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": theta, **rest}


def _longrope(count: int) -> dict[str, list[float]]:
    """Factors of the published lists' shape: 1 to 1.1 in short, 1 to the factor in long."""
    steps = [i / (count - 1) for i in range(count)]
    return {"short_factor": [1 + 0.1 * x for x in steps],
            "long_factor": [1 + 47 * x**2 for x in steps]}  # fmt: skip


_YARN = {"factor": 4.0, "original_max_position_embeddings": 32768}
FAMILIES = (
    Family("Llama 2", "meta-llama/Llama-2-7b-hf", "LlamaConfig",
           {"max_position_embeddings": 4096, "rope_parameters": _rope(1e4)}),
    Family("Llama 3.1", "meta-llama/Llama-3.1-8B", "LlamaConfig",
           {"max_position_embeddings": 131072, "rope_parameters": _rope(
               5e5, "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
               original_max_position_embeddings=8192)}),
    Family("LLaMA-2-7B-32K", "togethercomputer/LLaMA-2-7B-32K", "LlamaConfig",
           {"max_position_embeddings": 32768, "rope_parameters": _rope(1e4, "linear", factor=8.0)}),
    Family("Vicuna 16K", "lmsys/vicuna-7b-v1.5-16k", "LlamaConfig",
           {"max_position_embeddings": 4096, "max_sequence_length": 16384,
            "rope_parameters": _rope(1e4, "linear", factor=4.0)}),
    Family("dynamic NTK", "a Llama with rope_type dynamic", "LlamaConfig",
           {"max_position_embeddings": 4096, "rope_parameters": _rope(1e4, "dynamic", factor=2.0)}),
    Family("Mistral 0.3", "mistralai/Mistral-7B-v0.3", "MistralConfig",
           {"max_position_embeddings": 32768, "sliding_window": None,
            "rope_parameters": _rope(1e6)}),
    Family("Mixtral", "mistralai/Mixtral-8x7B-v0.1", "MixtralConfig",
           {"max_position_embeddings": 32768, "sliding_window": None, "num_local_experts": 2,
            "rope_parameters": _rope(1e6)}),
    Family("Qwen2.5", "Qwen/Qwen2.5-7B", "Qwen2Config",
           {"max_position_embeddings": 131072, "rope_parameters": _rope(1e6)}),
    Family("Qwen2.5 with yarn", "Qwen/Qwen2.5-7B-Instruct with yarn switched on", "Qwen2Config",
           {"max_position_embeddings": 32768, "rope_parameters": _rope(1e6, "yarn", **_YARN)}),
    Family("Qwen3", "Qwen/Qwen3-8B", "Qwen3Config",
           {"max_position_embeddings": 40960, "rope_parameters": _rope(1e6)}),
    Family("Qwen3 with yarn", "Qwen/Qwen3-8B with yarn switched on", "Qwen3Config",
           {"max_position_embeddings": 40960, "rope_parameters": _rope(1e6, "yarn", **_YARN)}),
    Family("Phi-2", "microsoft/phi-2", "PhiConfig",
           {"hidden_size": 80, "head_dim": 40, "max_position_embeddings": 2048,
            "rope_parameters": _rope(1e4, partial_rotary_factor=0.4)}),
    Family("Phi-3 128K", "microsoft/Phi-3-mini-128k-instruct", "Phi3Config",
           {"hidden_size": 128, "max_position_embeddings": 131072, "sliding_window": 262144,
            "original_max_position_embeddings": 4096,
            "rope_parameters": _rope(1e4, "longrope", **_longrope(32))}),
    Family("Phi-4-mini", "microsoft/Phi-4-mini-instruct", "Phi3Config",
           {"hidden_size": 128, "max_position_embeddings": 131072, "sliding_window": 262144,
            "original_max_position_embeddings": 4096, "tie_word_embeddings": True,
            "rope_parameters": _rope(
                1e4, "longrope", partial_rotary_factor=0.75, **_longrope(24))}),
    Family("Phi-3.5-like, unscaled", "a Phi-3 with full attention and rope_type default",
           "Phi3Config", {"hidden_size": 128, "max_position_embeddings": 4096,
                          "rope_parameters": _rope(1e4)}),
    Family("Gemma", "google/gemma-7b", "GemmaConfig",
           {"max_position_embeddings": 8192, "rope_parameters": _rope(1e4)}),
    Family("Gemma 2", "google/gemma-2-9b", "Gemma2Config",
           {"max_position_embeddings": 8192, "sliding_window": 32, "layer_types": _TWO,
            "rope_parameters": _rope(1e4)}, "their window; one RoPE is shared, and stretched"),
    Family("Gemma 3 1B", "google/gemma-3-1b-pt", "Gemma3TextConfig",
           {"max_position_embeddings": 32768, "sliding_window": 32, "layer_types": _TWO,
            "rope_parameters": {"full_attention": _rope(1e6), "sliding_attention": _rope(1e4)}},
           "window and RoPE"),
    Family("Gemma 3, scaled", "the text model of google/gemma-3-4b-pt", "Gemma3TextConfig",
           {"max_position_embeddings": 131072, "sliding_window": 32, "layer_types": _TWO,
            "rope_parameters": {"full_attention": _rope(1e6, "linear", factor=8.0),
                                "sliding_attention": _rope(1e4)}}, "window and RoPE"),
    Family("OLMo 3", "allenai/Olmo-3-1025-7B", "Olmo3Config",
           {"max_position_embeddings": 65536, "sliding_window": 32, "layer_types": _TWO,
            "rope_parameters": {
                "full_attention": _rope(
                    5e5, "yarn", factor=8.0, original_max_position_embeddings=8192,
                    attention_factor=1.2079441541679836, beta_fast=32.0, beta_slow=1.0),
                "sliding_attention": _rope(5e5)}}, "window and RoPE"),
    Family("gpt-oss", "openai/gpt-oss-20b", "GptOssConfig",
           {"max_position_embeddings": 131072, "sliding_window": 32, "layer_types": _TWO,
            "num_local_experts": 2, "num_experts_per_tok": 1, "rope_parameters": _rope(
                150000.0, "yarn", factor=32.0, beta_fast=32.0, beta_slow=1.0, truncate=False,
                original_max_position_embeddings=4096)},
           "their window; one RoPE is shared, and stretched"),
    Family("GPT-NeoX, Pythia", "EleutherAI/pythia-1.4b", "GPTNeoXConfig",
           {"hidden_size": 128, "max_position_embeddings": 2048,
            "rope_parameters": _rope(1e4, partial_rotary_factor=0.25)}),
)  # fmt: skip
_MSCALE = {"mscale": 1.0, "mscale_all_dim": 1.0, "original_max_position_embeddings": 4096}
_ONE_IN_FOUR = {**tiny_models.SHAPE, "num_hidden_layers": 4, "num_key_value_heads": 1,
                "sliding_window": 32, "sliding_window_pattern": 4,
                "layer_types": ["sliding_attention"] * 3 + ["full_attention"]}  # fmt: skip
REFUSED = (
    Family("GPT-J", "EleutherAI/gpt-j-6b", "GPTJConfig", {"rotary_dim": 64}),
    Family("CodeGen", "Salesforce/codegen-2B-mono", "CodeGenConfig", {"rotary_dim": 64}),
    Family("GPT-2", "openai-community/gpt2", "GPT2Config"),
    Family("Mistral 0.1", "mistralai/Mistral-7B-v0.1", "MistralConfig",
           {"max_position_embeddings": 32768, "sliding_window": 4096}),
    Family("Phi-3 4K", "microsoft/Phi-3-mini-4k-instruct", "Phi3Config",
           {"max_position_embeddings": 4096, "sliding_window": 2047}),
    Family("Gemma 3, with vision", "google/gemma-3-4b-pt", "Gemma3Config", {}),
    Family("Command R7B", "CohereLabs/c4ai-command-r7b-12-2024", "Cohere2Config",
           {**_ONE_IN_FOUR, "max_position_embeddings": 8192, "rope_parameters": _rope(5e4)}),
    Family("EXAONE 4", "LGAI-EXAONE/EXAONE-4.0-32B", "Exaone4Config",
           {**_ONE_IN_FOUR, "max_position_embeddings": 131072, "rope_parameters": _rope(1e6)}),
    Family("DeepSeek-V3", "deepseek-ai/DeepSeek-V3", "DeepseekV3Config",
           {"max_position_embeddings": 163840,
            "rope_parameters": _rope(1e4, "yarn", factor=40.0, **_MSCALE)}),
)  # fmt: skip
NAMES = [family.name for family in FAMILIES]
_ROWS = ("linear", "ntk", "yarn", "yarn-original")


def refusal(family: Family) -> str:
    """Return why a base is not extended."""
    kind = getattr(transformers, family.config)
    try:
        rope_config.extend(kind(**family.settings), rope.Linear(8))
    except ValueError as error:
        return str(error)
    raise AssertionError(f"{family.name} was extended")


def refused_by_4(family: Family, name: str) -> bool:
    """Whether transformers 4 refuses a scaling: its Phi-3 takes no attention factor."""
    config = rope_config.extend(family.make(), rope.scaling(name, 8))
    kind = rope_base.parameters_of(config)["rope_type"]
    return family.config == "Phi3Config" and kind == "longrope"


def _row(family: Family) -> str:
    config = family.make()
    base = rope_base.read(config)
    carried = {
        rope_base.parameters_of(rope_config.extend(config, rope.scaling(name, 8)))["rope_type"]
        for name in _ROWS
    }
    how = "longrope" if carried == {"longrope"} else "by its own name, yarn as longrope"
    old = "refuses longrope" if refused_by_4(family, "yarn") else "the same"
    return (
        f"| {family.name} | {family.stands_for} | {base.kind} | {base.window:,} "
        f"| {family.keeps} | {how} | {old} |"
    )


def table() -> str:
    """Return the table of families, as Markdown."""
    lines = [
        "# Bases that can be extended",
        "",
        "Written by `python tests/support/families.py notebooks/families.md` and checked by",
        "`tests/rope/test_families.py`, which runs each row on a tiny random model that has the",
        "RoPE, the window and the layer types of the published config: the base's frequencies",
        "against formulas, the stretched ones in the loaded model, equal logits in stock",
        "transformers 5 after saving, and that the last token sees the first across gaps in the",
        "positions. The published weights themselves were not run.",
        "",
        "| family | stands for | RoPE today | N | sliding layers keep | config.json carries the "
        "scaling as | transformers 4.57 reads |",
        "|---|---|---|---|---|---|---|",
        *(_row(family) for family in FAMILIES),
        "",
        "A base that scales its RoPE already is stretched from the frequencies and the attention",
        "factor that it has at its own window N (dynamic NTK: theta's). Phi-3 configs of",
        "transformers 4 take no attention factor beside the two lists, and refuse to load.",
        "",
        "## Refused, before weights are read",
        "",
        "| family | stands for | reason |",
        "|---|---|---|",
        *(f"| {one.name} | {one.stands_for} | {refusal(one)} |" for one in REFUSED),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(table(), encoding="utf-8")
