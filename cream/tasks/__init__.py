"""Evaluations: one module a task builds examples and scores answers; `evaluate` runs any of them.

What belongs here: `Example`, and the loop from examples to rows. A task is a module with
`examples(...)` and either `score(prediction, example)`, for greedy answers, or
`measure(model, examples)`, for what is computed otherwise; both give columns of a row.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType

import pandas as pd
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cream.inference import BOS_POLICY, greedy
from cream.provenance import hash_of
from cream.results import Rows

__all__ = ["Example", "evaluate"]


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


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: ModuleType,
    examples: Iterable[Example],
    rows: Rows,
    settings: Mapping[str, object] | None = None,
    batch_size: int | str = "auto",
    allow_beyond: bool = False,
    progress: bool = True,
    label: str = "",
) -> pd.DataFrame:
    """Answer the examples that have no row yet, a row each as answers come; return all their rows.

    `settings` are added to each example's own and become part of its key. `allow_beyond` lets a
    model be questioned beyond its window. The rows of a killed evaluation, started again with the
    same file, are those of one that was not.
    """
    keyed: dict[str, tuple[Example, dict[str, object]]] = {}
    for example in examples:
        how = {**example.settings, **(settings or {})}
        keyed[rows.key(example.task, example.prompt_hash, example.sample, how)] = example, how
    missing = [keyed[key] for key in rows.missing(keyed)]
    name = f"{task.__name__.rpartition('.')[2]} {label}".strip()
    with tqdm(total=len(keyed), initial=len(keyed) - len(missing), desc=name, unit="sample",
              disable=not progress) as bar:  # fmt: skip
        if hasattr(task, "measure"):
            answers = _measured(model, task, missing, allow_beyond)
        else:
            answers = _answered(model, tokenizer, task, missing, batch_size, allow_beyond)
        for example, how, found in answers:
            rows.append({**_asked(example), "settings": how, **found})
            bar.update()
    frame = rows.frame()
    return frame[frame["key"].isin(list(keyed))].reset_index(drop=True)


_Pairs = Sequence[tuple[Example, dict[str, object]]]
_Answers = Iterator[tuple[Example, dict[str, object], dict[str, object]]]


def _measured(
    model: PreTrainedModel, task: ModuleType, pairs: _Pairs, allow_beyond: bool
) -> _Answers:
    asked = [example for example, _ in pairs]
    for index, found in task.measure(model, asked, allow_beyond=allow_beyond):
        yield *pairs[index], found


def _answered(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: ModuleType,
    pairs: _Pairs,
    batch_size: int | str,
    allow_beyond: bool,
) -> _Answers:
    """Decode greedily, the examples that share their generation settings together."""
    groups: dict[tuple, list[tuple[Example, dict[str, object]]]] = {}
    for pair in pairs:
        one = pair[0]
        groups.setdefault((one.max_new_tokens, one.stop, one.min_new_tokens), []).append(pair)
    for (max_new_tokens, stop, min_new_tokens), group in groups.items():
        prompts = [example.prompt for example, _ in group]
        done = greedy(
            model,
            tokenizer,
            prompts,
            max_new_tokens,
            stop=stop,
            batch_size=batch_size,
            min_new_tokens=min_new_tokens,
            allow_beyond=allow_beyond,
        )
        for completion in done:
            example, how = group[completion.index]
            found = task.score(completion.text, example)
            num_tokens = completion.num_prompt_tokens
            yield example, how, {**found, "prediction": completion.text, "num_tokens": num_tokens}


def _asked(example: Example) -> dict[str, object]:
    names = ("task", "sample", "target", "token_length", "gold_index", "depth_percent",
             "num_keys", "document", "prompt_hash")  # fmt: skip
    return {name: getattr(example, name) for name in names}
