"""What of the Hugging Face Hub is read, and what to say when it gives no model.

What belongs here: pinned revisions; reasons and open models, as text. `models` does the reading.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["OPEN", "REVISIONS", "refusal"]

# The commits that are read of these models wherever none is named.
REVISIONS = {
    "meta-llama/Llama-2-7b-hf": "01c7f73d771dfac7d292323805ebc428287df4f9",
    "meta-llama/Llama-2-7b-chat-hf": "f5db02db724555f92da89c216ac04704f23d4590",
    "HuggingFaceTB/SmolLM2-135M-Instruct": "12fd25f77366fa6b3b4b768ec3050bf629380bac",
}

# Models of Llama-2's family whose unscaled RoPE and safetensors this package reads, by their cards;
# none was downloaded here. The first ones have Llama-2's own weights.
OPEN = {
    "meta-llama/Llama-2-7b-hf": {
        "NousResearch/Llama-2-7b-hf": "a copy of these weights under Llama 2's licence, N = 4,096",
        "01-ai/Yi-6B": "Apache-2.0, N = 4,096, a tokenizer of its own",
        "TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T": "Apache-2.0, N = 2,048",
        "huggyllama/llama-7b": "the first LLaMA, non-commercial, N = 2,048",
    },
    "meta-llama/Llama-2-7b-chat-hf": {
        "NousResearch/Llama-2-7b-chat-hf": "a copy of these weights under Llama 2's licence, "
        "N = 4,096",
        "01-ai/Yi-6B-Chat": "Apache-2.0, N = 4,096, a tokenizer of its own",
        "TinyLlama/TinyLlama-1.1B-Chat-v1.0": "Apache-2.0, N = 2,048",
    },
}


def refusal(path: str | Path, error: BaseException, revision: str | None = None) -> str:
    """Return why the hub did not give the model `path`, and what can be done about it."""
    causes = _causes(error)
    # By name: the hub's package is transformers' dependency, not ours.
    kinds = {kind.__name__ for one in causes for kind in type(one).__mro__}
    status = {getattr(getattr(one, "response", None), "status_code", None) for one in causes}
    if "GatedRepoError" in kinds or status & {401, 403}:
        return (
            f"{path}: the Hugging Face Hub gives this model only to accounts that have access. "
            f"Ask for it at https://huggingface.co/{path}, then log in with `hf auth login`"
            f"{_open(path)}"
        )
    if "RevisionNotFoundError" in kinds:
        return f"{path}: the Hugging Face Hub has this model, but not its revision {revision}"
    if "RepositoryNotFoundError" in kinds:
        return (
            f"{path}: no such directory here, and the Hugging Face Hub has no such model, or does "
            f"not show it to this account (`hf auth login`){_open(path)}"
        )
    pinned = f" --revision {revision}" if revision else ""
    return (
        f"{path}: no such directory here, and the Hugging Face Hub did not give it "
        f"({_first_line(error)}). Without a network: `hf download {path}{pinned} --local-dir DIR` "
        f"where there is one, then name the folder DIR instead{_open(path)}"
    )


def _causes(error: BaseException | None) -> list[BaseException]:
    """An error and those it came from: transformers wraps the hub's in its own."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _open(path: str | Path) -> str:
    """The open models of a family, as the end of a sentence."""
    if (known := OPEN.get(str(path))) is None:
        return "."
    listed = "; ".join(f"{name} ({about})" for name, about in known.items())
    return (
        f". Open models of the same family: {listed}. They were not tried here. Give one to "
        "01_data as `-p tokenizer NAME -p window N` and to the other notebooks as `-p base NAME`: "
        "a corpus is of one tokenizer and one N"
    )
