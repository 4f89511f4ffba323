"""LongBench v1's 16 English and code tasks, as the release asks and scores them (protocols 5.4).

What belongs here: from checked rows to prompts (truncated in the middle, with a chat model's
template where the protocol has it), from an answer to its score, and the paper's averages.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerBase

from cream.data.chat import UserTurn
from cream.inference.generation import tokenize
from cream.statistics import mean_interval, proportion
from cream.tasks.base import Example
from cream.tasks.longbench import data as longbench_data
from cream.tasks.longbench import metrics
from cream.tasks.longbench.definitions import (
    CATEGORIES,
    TASKS,
    Definition,
    checked_tasks,
    definition,
)
from cream.utils.provenance import hash_of

__all__ = [
    "CHATS",
    "TWELVE",
    "LongBenchExample",
    "averages",
    "evaluations",
    "examples",
    "max_prompt_tokens",
    "score",
    "truncate",
]

PREFIX = "longbench-"
HUB_NAME = "LongBench"  # what rows that name no data are asked of
CHATS = ("none", "llama2", "tokenizer")
# The tasks of the paper's second table.
TWELVE = tuple(t for c in ("single_doc_qa", "multi_doc_qa", "summarization", "few_shot")
               for t in CATEGORIES[c])  # fmt: skip
_PUBLISHED = {4096: 3500, 32768: 31500}
_ROOM = 4096 - 3500  # the longest answer, 512 tokens, and what a chat template takes


@dataclass(frozen=True)
class LongBenchExample(Example):
    """An example with every right answer, and the classes an answer may name (trec)."""

    answers: tuple[str, ...] = ()
    all_classes: tuple[str, ...] = ()


def max_prompt_tokens(window: int) -> int:
    """The most tokens of a prompt for a model of this window, before its chat template.

    The release's numbers are 3,500 for 4,096 and 31,500 for 32,768. Other windows keep the room
    that 4,096 leaves to an answer and a template; small ones give a quarter to the prompt.
    """
    if window < 4:
        raise ValueError(f"window {window} must be at least 4 tokens")
    return _PUBLISHED.get(window, max(window - _ROOM, window // 4))


def examples(
    tokenizer: PreTrainedTokenizerBase,
    data: str | Path,
    max_tokens: int,
    tasks: Sequence[str] = TASKS,
    samples: int | None = None,
    chat: str = "none",
    revision: str | None = None,
) -> list[Example]:
    """Build the examples of `tasks` from the data at a folder, data.zip or hub id (`revision`).

    `samples` takes the first so many of each task. `chat` says what stands around the prompts of
    the 11 tasks that LongBench asks chat models in their template: "llama2" the release's
    [INST]...[/INST], "tokenizer" the tokenizer's own template, "none" nothing. Everything is read
    and checked before the first is returned; see `longbench.data` and `definition` for the errors.
    """
    if samples is not None and samples < 1:
        raise ValueError(f"samples {samples} must be at least 1 a task, or None for all")
    if max_tokens < 2:
        raise ValueError(f"max_tokens {max_tokens} must be at least 2: half from each end")
    wrap, how = _chat(chat, tokenizer)
    corpus = _corpus(data, revision)
    asked = [definition(task) for task in checked_tasks(tasks)]
    for one in asked:
        metrics.find(one.metric)
    place = longbench_data.locate(data, revision)
    read = [longbench_data.read(place, one.task)[:samples] for one in asked]
    return [
        _example(one, row, number, tokenizer, max_tokens, wrap, corpus | (how if one.chat else {}))
        for one, rows in zip(asked, read, strict=True)
        for number, row in enumerate(rows)
    ]


def _example(
    asked: Definition,
    row: dict,
    number: int,
    tokenizer: PreTrainedTokenizerBase,
    max_tokens: int,
    wrap: Callable[[str], str],
    how: dict[str, object],
) -> LongBenchExample:
    prompt = asked.prompt.format(context=row["context"], input=row["input"])
    prompt = truncate(tokenizer, prompt, max_tokens)
    classes = row["all_classes"] or []
    right = {"metric": asked.metric, "answers": hash_of(row["answers"], classes)}
    return LongBenchExample(
        task=PREFIX + asked.task,
        sample=number,
        prompt=wrap(prompt) if asked.chat else prompt,
        target=json.dumps(row["answers"], ensure_ascii=False),
        token_length=max_tokens,
        max_new_tokens=asked.max_new_tokens,
        stop=asked.stop,
        min_new_tokens=asked.min_new_tokens,
        document=f"{asked.task} {row.get('_id', number)}",
        how={**right, **how},
        answers=tuple(row["answers"]),
        all_classes=tuple(classes),
    )


def _corpus(data: str | Path, revision: str | None) -> dict[str, object]:
    """What a row's settings say of data that are not LongBench's own: their name and revision."""
    if str(data) == longbench_data.HUB and revision is None:
        return {}
    return {"corpus": " ".join([Path(data).name, *([revision] if revision else [])])}


def _chat(chat: str, tokenizer: PreTrainedTokenizerBase) -> tuple[Callable[[str], str], dict]:
    """What puts a prompt into a chat model's words, and what a row's settings say of it."""
    if chat not in CHATS:
        raise ValueError(f"chat is {chat!r}; choose one of {', '.join(CHATS)}")
    if chat == "tokenizer":
        turn = UserTurn(tokenizer)
        return turn, {"chat": chat, **turn.settings}
    wrapped = "[INST]{}[/INST]" if chat == "llama2" else "{}"
    return wrapped.format, {"chat": chat}


def truncate(tokenizer: PreTrainedTokenizerBase, prompt: str, max_tokens: int) -> str:
    """Cut a prompt in the middle: the text of its first and last max_tokens // 2 tokens.

    Tokens are counted with BOS; a prompt of no more than max_tokens stays as it is.
    """
    ids = tokenize(tokenizer, prompt)
    if len(ids) <= max_tokens:
        return prompt
    half = max_tokens // 2
    decode = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    return tokenizer.decode(ids[:half], **decode) + tokenizer.decode(ids[-half:], **decode)


def score(prediction: str, example: Example) -> dict[str, float]:
    """Score an answer in [0, 1] by its task's metric; of few-shot answers the first line counts."""
    asked = definition(example.task.removeprefix(PREFIX))
    if asked.first_line:
        prediction = prediction.lstrip("\n").split("\n")[0]
    found = metrics.score(asked.metric, prediction, example.answers, example.all_classes)
    return {"score": found}


def averages(frame: pd.DataFrame) -> pd.DataFrame:
    """Tasks, category means and both averages of one model's rows, in points of 100.

    One row each of value, low, high (95 %) and n. A category is the mean of its tasks, "average"
    that of the six categories, "average_12" that of the second table's twelve tasks. What lacks a
    task is not a number: a mean over fewer would look like the paper's. ValueError for rows of
    several models, prompt lengths, data or chats (see `evaluations`).
    """
    if frame["model_hash"].nunique() != 1:
        raise ValueError(f"{frame['model_hash'].nunique()} models in these rows; give one's")
    if len(asked := list(evaluations(frame))) > 1:
        raise ValueError(
            f"{len(asked)} evaluations in these rows ({'; '.join(said for said, _ in asked)}), "
            "which are never averaged: give the rows of one, as longbench.evaluations parts them"
        )
    found = frame.assign(task=frame["task"].str.removeprefix(PREFIX))
    tasks = {task: _points(found.loc[found["task"] == task, "score"]) for task in TASKS}
    means = {name: _mean([tasks[task] for task in members]) for name, members in CATEGORIES.items()}
    total = {
        "average": _mean(list(means.values())),
        "average_12": _mean([tasks[t] for t in TWELVE]),
    }
    columns = [field.name for field in dataclasses.fields(_Points)]
    lines = {name: dataclasses.astuple(one) for name, one in {**tasks, **means, **total}.items()}
    return pd.DataFrame.from_dict(lines, orient="index", columns=columns)


def evaluations(frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield (what was asked, its rows) for each way in which one model of `frame` was asked.

    Ways differ in the most tokens of a prompt, in the data and in the chat wrapper. Tasks that have
    no wrapper are asked alike in all of them.
    """
    frame = frame.reset_index(drop=True)
    how = frame["settings"].map(json.loads)
    corpus = how.map(lambda one: one.get("corpus", HUB_NAME))
    chat = how.map(lambda one: one.get("chat"))
    for (length, place), part in frame.groupby(["token_length", corpus], dropna=False):
        wrappers = sorted(chat[part.index].dropna().unique())
        for wrapper in wrappers or [None]:
            alike = chat[part.index].isna() | (chat[part.index] == wrapper)
            yield f"{place}, {length} tokens, chat {wrapper or 'none'}", part[alike]


@dataclass(frozen=True)
class _Points:
    value: float
    low: float
    high: float
    n: int


def _points(scores: pd.Series) -> _Points:
    """A task's mean: Wilson's interval where answers are right or wrong, else Student's."""
    if not len(scores):
        return _Points(math.nan, math.nan, math.nan, 0)
    values = scores.to_numpy(dtype=float)
    found = proportion(values) if set(values) <= {0, 1} else mean_interval(values)
    low, high = np.clip([100 * found.low, 100 * found.high], 0, 100).tolist()
    return _Points(round(100 * found.value, 2), low, high, len(scores))


def _mean(parts: Sequence[_Points]) -> _Points:
    """The unweighted mean; each side of its interval takes the parts as independent."""
    value = float(np.mean([part.value for part in parts]))
    below = float(np.linalg.norm([part.value - part.low for part in parts])) / len(parts)
    above = float(np.linalg.norm([part.high - part.value for part in parts])) / len(parts)
    return _Points(value, value - below, value + above, sum(part.n for part in parts))
