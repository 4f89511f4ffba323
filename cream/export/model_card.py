"""The model card of an export: what it is, how it loads, how it is served, what was checked.

What belongs here: text made of facts that `export` gathered, and nothing that was not measured. An
engine's row in the table says "not run" until `engines` has run it on this export and recorded it.
"""

from __future__ import annotations

import re
from typing import Any

__all__ = ["CARRIERS", "OVERRIDES", "card", "checks_table", "commands", "on_the_base",
           "with_checks"]  # fmt: skip

OVERRIDES = "hf_overrides.json"  # of an export: its config's scaling, for the base's own files

# How a stock config carries each scaling; the key is what cream calls it.
CARRIERS = {
    "none": "an unscaled RoPE",
    "linear": "`rope_type` linear",
    "ntk": "a larger `rope_theta`, which every engine reads",
    "yarn": "`rope_type` longrope with equal short and long factors: stock `yarn` is another "
    "formula, and none of it may be replaced by that name",
    "yarn-original": "`rope_type` yarn",
    "cope": "`rope_type` longrope with equal short and long factors, which lengthen the slowest "
    "wavelengths",
    "drope": "`rope_type` linear by a factor of 1e12, under which no position turns anything",
    "clex": "`rope_type` longrope with equal short and long factors, which are CLEX's frequencies "
    "at one t: longer texts need another export",
}
ROWS = {
    "transformers 5": ("transformers", "transformers 5"),
    "transformers 4": ("transformers", "transformers 4"),
    "llama.cpp": ("llama.cpp", ""),
    "llama.cpp's server": ("llama-server", ""),
    "vLLM": ("vllm", ""),
    "SGLang": ("sglang", ""),
}
# Configs that in transformers 4 take two lists of factors beside longrope and nothing else.
_STRICT = ("phi3",)
_BEGIN, _END = "<!-- checks -->", "<!-- end of checks -->"


def card(facts: dict[str, Any]) -> str:
    """Return the card, a README.md with the Hub's metadata, of an export's facts (cream.json)."""
    parts = (_metadata, _title, _training, _loading, _serving, _checked, _licence)
    return "\n".join(part(facts) for part in parts)


def with_checks(text: str, checks: list[dict[str, Any]]) -> str:
    """Return a card with its table of checks made anew; the rest stays, as edited by its owner."""
    table = f"{_BEGIN}\n{checks_table(checks)}\n{_END}"
    if _BEGIN not in text or _END not in text:
        return f"{text.rstrip()}\n\n{table}\n"
    return re.sub(f"{_BEGIN}.*?{_END}", lambda _: table, text, flags=re.S)


def checks_table(checks: list[dict[str, Any]]) -> str:
    """Return a table of engines: the last check of each, or "not run"."""
    lines = ["| engine | version | greedy tokens equal | logits differ by | checked by |",
             "|---|---|---|---|---|"]  # fmt: skip
    for name, (engine, version) in ROWS.items():
        mine = [c for c in checks if c["engine"] == engine and c["version"].startswith(version)]
        lines.append(_row(name, mine[-1]) if mine else f"| {name} | not run | | | |")
    return "\n".join(lines)


def _row(name: str, check: dict[str, Any]) -> str:
    equal = sum(one["equal"] for one in check["lengths"])
    tokens = sum(one["tokens"] for one in check["lengths"])
    relative = max(one.get("difference", 0) / one.get("spread", 1) for one in check["lengths"])
    longest = max(one["length"] for one in check["lengths"])
    apart = f"{relative:.0e} of their standard deviation" if relative else "nothing"
    if not all("difference" in one for one in check["lengths"]):
        apart = "a server gives none"
    verdict = "" if check["agrees"] else "**DIFFERS: do not use**, "
    text = "" if check["text_equal"] else "; **text becomes other tokens**"
    return (
        f"| {name} | {check['version']} | {verdict}{equal} of {tokens}, prompts to {longest} "
        f"tokens{text} | {apart} | `{check['command']}`, "
        f"{check['date']} |"
    )


def commands(facts: dict[str, Any], place: str = "PATH") -> dict[str, str]:
    """Return the command that serves the export, by engine; `place` is where it lies."""
    length = facts["target_length"]
    sglang = f"python -m sglang.launch_server --model-path {place} --context-length {length}"
    if _equal_lists(facts):
        original = f'{{"original_max_position_embeddings": {length}}}'
        sglang += f" \\\n    --json-model-override-args '{original}'"
    return {
        "transformers": f"transformers serve {place}",
        "vLLM": f"vllm serve {place} --max-model-len {length}",
        "SGLang": sglang,
        "llama.cpp": f"python -m cream.export gguf {place} model.gguf --llama-cpp LLAMA_CPP\n"
        f"llama-server -m model.gguf -c {length}",
    }


def on_the_base(facts: dict[str, Any], place: str = "PATH") -> dict[str, str]:
    """Return the commands that serve the base's own files with this scaling, by engine.

    Untuned; or tuned, where the run left a LoRA adapter that engines can apply by themselves (one
    without trained norms or embeddings).
    """
    base = "BASE" if facts["base_is_local"] else facts["base"]
    length, how = facts["target_length"], f'"$(cat {place}/{OVERRIDES})"'
    found = {
        "vLLM": f"vllm serve {base} --max-model-len {length} --hf-overrides {how}",
    }
    if not _equal_lists(facts):  # which it takes with another original length, as in `commands`
        found["SGLang"] = (
            f"python -m sglang.launch_server --model-path {base} --context-length {length} "
            f"\\\n    --json-model-override-args {how}"
        )
    if rank := _adapter_rank(facts):
        found["vLLM"] += (
            f" \\\n    --enable-lora --max-lora-rank {rank} --lora-modules tuned=RUN/adapter"
        )
        if "SGLang" in found:
            found["SGLang"] += f" \\\n    --max-lora-rank {rank} --lora-paths tuned=RUN/adapter"
    return found


def _adapter_rank(facts: dict[str, Any]) -> int:
    """The rank of a LoRA adapter that engines take as it is, as vLLM counts ranks; else 0."""
    if facts.get("lora_train", "none") != "none":
        return 0
    rank = facts.get("lora_rank") or 0
    return next((one for one in (8, 16, 32, 64, 128, 256, 320, 512) if one >= rank), 0) * (rank > 0)


def _longrope(facts: dict[str, Any]) -> bool:
    """Whether config.json carries the scaling as longrope; cards before say it by its name."""
    return facts.get("rope_type", "longrope" if facts["scaling"] == "yarn" else "") == "longrope"


def _equal_lists(facts: dict[str, Any]) -> bool:
    """Whether that longrope is ours: a base's own turns otherwise beyond its original length."""
    return _longrope(facts) and facts["scaling"] != "longrope"


def _carrier(facts: dict[str, Any]) -> str:
    """How config.json carries the scaling."""
    base = facts.get("base_rope")
    if base and facts["scale"] > 1:
        kind = base.get("rope_type", "default")
        own = "a RoPE a layer type" if kind == "default" else f"its own `{kind}` scaling"
        return (
            "`rope_type` longrope with equal short and long factors, which stretch what the base "
            f"turned by ({own}) at {facts['window']:,} tokens"
        )
    if _equal_lists(facts) and facts["scaling"] not in ("cope", "clex"):
        return CARRIERS["yarn"]
    return CARRIERS.get(facts["scaling"], f"the base's own `rope_type` {facts['scaling']}")


def _metadata(facts: dict[str, Any]) -> str:
    lines = ["---", "library_name: transformers", "pipeline_tag: text-generation"]
    if re.fullmatch(r"[\w.-]+", facts["licence"] or ""):
        lines.append(f"license: {facts['licence'].lower()}")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", facts["base"]) and not facts["base_is_local"]:
        lines.append(f"base_model: {facts['base']}")
    return "\n".join([*lines, "tags: [long-context, cream]", "---", ""])


def _title(facts: dict[str, Any]) -> str:
    window, length = facts["window"], facts["target_length"]
    grown = (
        f"its context fine-tuned from {window:,} to {length:,} tokens by the method "
        f"`{facts['method']}` of [CREAM](https://arxiv.org/abs/2406.07138)'s reference "
        f"implementation, with `{facts['scaling']}` RoPE scaling"
        if facts["scale"] > 1
        else f"fine-tuned at its own window of {window:,} tokens (`{facts['method']}`)"
    )
    return (
        f"# {facts['run']}\n\n`{facts['base']}`, {grown}. The scaling stands in config.json as "
        f"{_carrier(facts)}. No code but the engine's own is needed.\n\n"
        "What this model can and cannot do beyond its window was not measured by the export: ask "
        "it with the package's notebooks.\n"
    )


def _training(facts: dict[str, Any]) -> str:
    tokens = facts["tokens_trained"]
    options = f" {facts['sampler_options']}" if facts["sampler_options"] else ""
    short = facts.get("train_window")  # cards before have none
    rows = {
        "base": facts["base"] + (f" at {facts['revision']}" if facts["revision"] else ""),
        "method": facts["method"] + options,
        "RoPE scaling": _scaling(facts),
        "window N": f"{facts['window']:,} tokens",
        **({"tokens an example": f"{short:,}"} if short else {}),
        "target length s N": f"{facts['target_length']:,} tokens",
        "steps": f"{facts['steps']:,} of {facts['batch_size']} examples",
        "tokens trained": f"{tokens:,}" if tokens else "not recorded",
        "learning rate": f"{facts['learning_rate']:g}",
        "seed": facts["seed"],
        "corpus": facts["corpus"],
        "weights": f"{facts['dtype']}, hash {facts['model_hash']}",
        "exported": f"{facts['date']} at commit {facts['commit']}, {facts['versions']}",
    }
    lines = [f"| {name} | {value} |" for name, value in rows.items()]
    return "\n".join(["## Training\n", "| | |", "|---|---|", *lines, ""])


def _scaling(facts: dict[str, Any]) -> str:
    """The scaling by name, with its options where it has any."""
    said = f"{facts['scaling']}, s = {facts['scale']} (theta {facts['theta']:g})"
    if "fixed_t" in facts:
        said += f", at t = {facts['fixed_t']:g}"
    if "sharper" in facts:
        said += f", logits of attention times {facts['sharper']:g} (not in training)"
    return said + (f" {facts['options']}" if facts.get("options") else "")


def _loading(facts: dict[str, Any]) -> str:
    note = (
        "transformers says that it does not know `short_mscale` and `long_mscale`: they say the "
        "attention factor to vLLM and SGLang, which read those and not `attention_factor`.\n"
        if _longrope(facts)
        else ""
    )
    majors = (
        f"With transformers 5: version 4 refuses longrope with an attention factor in a "
        f"{facts['model_type']} config"
        if _longrope(facts) and facts.get("model_type") in _STRICT
        else "The same lines for transformers 5 and 4 (config.json has the keys of both; of 4, "
        "take 4.57 or later)"
    )
    return (
        f"## Load it\n\n{majors}:\n\n```python\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'model = AutoModelForCausalLM.from_pretrained("PATH")\n'
        'tokenizer = AutoTokenizer.from_pretrained("PATH")\n```\n\n' + note
    )


def _serving(facts: dict[str, Any]) -> str:
    blocks = [f"# {name}\n{line}" for name, line in commands(facts).items()]
    notes = [
        "Lengths are given because vLLM and SGLang would multiply a length that is already "
        "extended by the factor of `linear` once more.",
        "LLAMA_CPP is a clone of llama.cpp; `cream.export gguf` runs its own converter "
        "(convert_hf_to_gguf.py).",
    ]
    if _longrope(facts):
        notes += [
            "That command then adds longrope's factors and attention factor, which the converter "
            "alone leaves out: its file without them is another model.",
            "llama.cpp's code for a family must read those factors: Llama's and Mistral's were "
            "seen to, Qwen3's not (it stops with a wrong number of tensors; linear, ntk and "
            "yarn-original need none).",
        ]
    if _equal_lists(facts):
        notes += [
            "SGLang's override keeps position N from being rotated as position 0 (seen in the "
            "source of 0.5.23); as both lists of factors are equal, it changes nothing else.",
        ]
    if "sharper" in facts and not _longrope(facts):
        notes.append(
            "The factor on the logits of attention stands in `attention_factor` of `rope_type` "
            "yarn. Whether vLLM, SGLang and llama.cpp read it there was not tested: `python -m "
            "cream.export check` finds out."
        )
    listed = "\n".join(f"- {note}" for note in notes)
    served = "## Serve it\n\n```\n" + "\n\n".join(blocks) + f"\n```\n\n{listed}\n"
    return served + (_serving_the_base(facts) if facts["scale"] > 1 else "")


def _serving_the_base(facts: dict[str, Any]) -> str:
    own = [f"# {name}\n{line}" for name, line in on_the_base(facts).items()]
    adapter = (
        "with the run's adapter (ask for the model `tuned`)" if _adapter_rank(facts) else "untuned"
    )
    return (
        f"\n`{OVERRIDES}` holds the same scaling as an option, for engines that serve the base's "
        f"own files, {adapter}. vLLM has no `--rope-scaling` any more; this took its place:\n\n"
        "```\n" + "\n\n".join(own) + "\n```\n"
    )


def _checked(facts: dict[str, Any]) -> str:
    return with_checks(
        "## What was checked\n\nEach engine against cream's own float32 model, on this export: "
        "greedy tokens, and the largest difference of any logit. `not run` means that. A command "
        "that serves is not what was run: the check asks the engine's library.\n\n"
        f"{_BEGIN}{_END}\n",
        facts["checks"],
    )


def _licence(facts: dict[str, Any]) -> str:
    said = facts["licence"] or "the base's folder names none that was found"
    page = (
        f" See [its page](https://huggingface.co/{facts['base']})."
        if not facts["base_is_local"]
        else ""
    )
    return f"## Licence\n\nThat of the base, `{facts['base']}`: {said}.{page}\n"
