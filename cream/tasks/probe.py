"""In-window retrieval: what must stay while a model is fine-tuned, and what a base must know.

Perplexity does not see retrieval being lost, so training asks these questions as it goes
(`in_window_retrieval`), and the base model is tested on many of them (`skills`).
"""

from types import ModuleType

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cream import models
from cream.inference.generation import greedy
from cream.tasks import kv_retrieval, longchat_lines, needle
from cream.tasks.base import Example

__all__ = ["in_window_retrieval", "skills"]


def skills(
    tokenizer: PreTrainedTokenizerBase,
    window: int,
    samples: int,
    haystack: str | None = None,
    seed: int = 0,
) -> dict[str, tuple[ModuleType, list[Example]]]:
    """Examples of the three skills that fill a window: prompt and answer within N tokens.

    Pairs are asked for at every depth alike, as lines are; the hidden sentence needs a haystack.
    """
    lines = longchat_lines.examples(tokenizer, [window], samples, seed)
    pairs = kv_retrieval.examples(tokenizer, [window], samples, seed, spread=True)
    found = {"lines": (longchat_lines, lines), "pairs": (kv_retrieval, pairs)}
    if haystack is not None:
        hidden = needle.examples(tokenizer, haystack, [window], samples, seed)
        found["needle"] = (needle, hidden)
    return found


def in_window_retrieval(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, samples: int = 16, seed: int = 1
) -> dict[str, float]:
    """Share of exact answers to in-window questions of lines and of pairs, and `n` of each."""
    window = models.describe(model.config)["window"]
    was_training = model.training
    model.eval()
    try:
        found = {
            name: _accuracy(model, tokenizer, task, asked)
            for name, (task, asked) in skills(tokenizer, window, samples, seed=seed).items()
        }
        return {**found, "n": samples}
    finally:
        model.train(was_training)


def _accuracy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: ModuleType,
    asked: list[Example],
) -> float:
    prompts, first = [one.prompt for one in asked], asked[0]
    done = greedy(
        model, tokenizer, prompts, first.max_new_tokens, first.stop, allow_beyond=True
    )  # fmt: skip
    scores = [task.score(one.text, asked[one.index])["score"] for one in done]
    return sum(scores) / len(scores)
