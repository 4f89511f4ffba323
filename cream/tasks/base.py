"""What a task is: a module that builds examples, and scores answers or measures by itself.

What belongs here: `Example`, the protocols of a task's module, and the check of lengths. The loop
from examples to rows is `evaluation.runner`; the list of tasks is `registry`.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cream.inference.generation import BOS_POLICY
from cream.inference.prompt_tokens import prompts_ids
from cream.utils.provenance import hash_of

__all__ = ["Answered", "Example", "Measured", "Task", "check_lengths"]

_AT_ONCE = 64  # prompts tokenized together, on all cores


@dataclass(frozen=True)
class Example:
    """One question to a model: a prompt (or tokens to score) and what the answer should be.

    `token_length` is nominal; prompt and target together have at most so many tokens. `how` is
    what else decides the result, and so belongs into the row's key. `tokens` may be the beginning
    of a longer `context` that is read once for several examples.
    """

    task: str
    sample: int
    prompt: str
    target: str
    token_length: int
    max_new_tokens: int = 0
    stop: str | None = None
    min_new_tokens: int = 0
    gold_index: int | None = None
    depth_percent: float | None = None
    num_keys: int | None = None
    document: str | None = None
    tokens: tuple[int, ...] | None = None
    context: tuple[int, ...] | None = None
    how: Mapping[str, object] = field(default_factory=dict)

    @property
    def prompt_hash(self) -> str:
        """16 hex digits over what the model reads."""
        return hash_of(self.prompt if self.tokens is None else self.tokens)

    @property
    def settings(self) -> dict[str, object]:
        """How the answer is generated; part of the row's key."""
        if self.tokens is not None:
            return dict(self.how)
        return {
            **self.how,
            "decoding": "greedy",
            "max_new_tokens": self.max_new_tokens,
            "min_new_tokens": self.min_new_tokens,
            "stop": self.stop,
            "bos": BOS_POLICY,
        }


@runtime_checkable
class Answered(Protocol):
    """The module of a task whose prompts are answered greedily.

    It also has `examples(...)`, whose arguments are the task's own and which returns `Example`s.
    """

    __name__: str

    def score(self, prediction: str, example: Example) -> Mapping[str, float]:
        """Return columns of the answer's row: `score`, 0 or 1 or a share, and others."""


@runtime_checkable
class Measured(Protocol):
    """The module of a task that asks a model for something else, such as likelihoods."""

    __name__: str

    def measure(
        self, model: PreTrainedModel, examples: Sequence[Example], allow_beyond: bool = False
    ) -> Iterator[tuple[int, Mapping[str, float]]]:
        """Yield an example's number and columns of its row, as they come."""


Task = Answered | Measured


def check_lengths(
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    window: int | None,
    label: str = "the model",
) -> None:
    """Refuse (ValueError) examples longer with their answers than `window`: how many, and one."""
    if window is None:
        return
    sizes = zip(_sizes(examples, tokenizer), examples, strict=True)
    if not (beyond := [(size, example) for size, example in sizes if size > window]):
        return
    size, example = max(beyond, key=lambda one: one[0])
    lengths = Counter(one.token_length for _, one in beyond)
    listed = ", ".join(f"{count} of {length} tokens" for length, count in sorted(lengths.items()))
    raise ValueError(
        f"{len(beyond)} of {len(examples)} samples exceed the model's window of {window} tokens "
        f"(by the config of {label or 'the model'}): {listed}. The longest is "
        f"{example.task} sample {example.sample} with {size} tokens, its answer included. Ask "
        "shorter ones, or a model extended further"
    )


def _sizes(examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase) -> Iterator[int]:
    """The most tokens of each example that are read at a time."""
    for start in range(0, len(examples), _AT_ONCE):
        part = examples[start : start + _AT_ONCE]
        prompts = [one.prompt for one in part if one.tokens is None]
        counts = map(len, prompts_ids(tokenizer, prompts))
        for one in part:
            if one.tokens is None:
                yield next(counts) + one.max_new_tokens
            else:
                yield min(len(one.tokens), one.token_length)
