"""The loop from examples to rows: `evaluate` runs any task with any model.

A killed evaluation, started again with the same file, ends with the same rows.
"""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence

import pandas as pd
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cream.inference.generation import Completion, greedy
from cream.inference.server import Request, Server
from cream.models import describe
from cream.results import Rows
from cream.tasks.base import Answered, Example, Measured, Task, check_lengths

__all__ = ["evaluate", "keyed", "share"]


_Pair = tuple[Example, dict[str, object]]


_Answers = Iterator[tuple[Example, dict[str, object], dict[str, object]]]


def keyed(
    examples: Iterable[Example], rows: Rows, settings: Mapping[str, object] | None = None
) -> dict[str, _Pair]:
    """Return examples with all that decides their answers, by the keys of their rows."""
    found = {}
    for example in examples:
        how = {**example.settings, **(settings or {})}
        found[rows.key(example.task, example.prompt_hash, example.sample, how)] = example, how
    return found


def evaluate(
    model: PreTrainedModel | Server,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    examples: Iterable[Example],
    rows: Rows,
    settings: Mapping[str, object] | None = None,
    batch_size: int | str = "auto",
    allow_beyond: bool = False,
    progress: bool = True,
    label: str = "",
    part: tuple[int, int] = (0, 1),
) -> pd.DataFrame:
    """Answer the examples that have no row yet, a row each as answers come; return all their rows.

    `settings` are added to each example's own and become part of its key. `allow_beyond` lets a
    model be questioned beyond its window; without, ValueError names what is longer, before
    anything is computed. `part` (k, n) answers the k-th of n shares. The rows of a killed
    evaluation, started again with the same file, are those of one that was not. A server's
    requests that failed have no row: `servers.Failed` counts them once the others have theirs.
    """
    wanted = keyed(examples, rows, settings)
    missing = [wanted[key] for key in rows.missing(wanted)]
    missing = share(missing, *part)
    if isinstance(model, Server):
        _check_asks(task)
    elif not allow_beyond:
        window = describe(model.config)["target_length"]
        check_lengths([example for example, _ in missing], tokenizer, window, label)
    name = f"{task.__name__.rpartition('.')[2]} {label}".strip()
    done = len(wanted) - len(rows.missing(wanted))
    with tqdm(total=done + len(missing), initial=done, desc=name, unit="sample",
              disable=not progress) as bar:  # fmt: skip
        if isinstance(task, Measured):
            answers = _measured(model, task, missing, allow_beyond)
        elif isinstance(model, Server):
            answers = _served(model, task, missing)
        else:
            answers = _answered(model, tokenizer, task, missing, batch_size, allow_beyond)
        for example, how, found in answers:
            rows.append({**_question_columns(example), "settings": how, **found})
            bar.update()
    frame = rows.frame()
    return frame[frame["key"].isin(list(wanted))].reset_index(drop=True)


def share(pairs: Sequence[_Pair], number: int, of: int) -> list[_Pair]:
    """Return the share of process `number` (from 0) of `of`: all shares are the whole, once each.

    Examples of one document stay together, as far as shares of equal length allow: what they have
    in common is read once.
    """
    if of == 1:
        return list(pairs)
    groups: dict[Hashable, list[_Pair]] = {}
    for place, pair in enumerate(pairs):
        one = pair[0]
        groups.setdefault((one.task, one.document) if one.document else place, []).append(pair)
    most = max(1, len(pairs) // of)
    pieces = [group[i : i + most] for group in groups.values() for i in range(0, len(group), most)]
    loads, shares = [0] * of, [[] for _ in range(of)]
    for piece in sorted(pieces, key=_tokens, reverse=True):
        least = loads.index(min(loads))
        loads[least] += _tokens(piece)
        shares[least] += piece
    return shares[number]


def _tokens(pairs: Sequence[_Pair]) -> int:
    return sum(example.token_length for example, _ in pairs)


def _check_asks(task: Task) -> None:
    if isinstance(task, Measured):
        name = task.__name__.rpartition(".")[2]
        raise ValueError(
            f"{name} needs the likelihood of given tokens, which a completion server does not "
            "give: evaluate a model here, by its folder"
        )


def _measured(
    model: PreTrainedModel, task: Measured, pairs: Sequence[_Pair], allow_beyond: bool
) -> _Answers:
    asked = [example for example, _ in pairs]
    for index, found in task.measure(model, asked, allow_beyond=allow_beyond):
        yield *pairs[index], found


def _served(server: Server, task: Answered, pairs: Sequence[_Pair]) -> _Answers:
    asked = [Request(one.prompt, one.max_new_tokens, one.stop, one.min_new_tokens)
             for one, _ in pairs]  # fmt: skip
    for completion in server.complete(asked):
        yield _scored(task, pairs[completion.index], completion)


def _scored(
    task: Answered, pair: _Pair, completion: Completion
) -> tuple[Example, dict[str, object], dict[str, object]]:
    example, how = pair
    found = task.score(completion.text, example)
    num_tokens = completion.num_prompt_tokens
    return example, how, {**found, "prediction": completion.text, "num_tokens": num_tokens}


def _answered(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Answered,
    pairs: Sequence[_Pair],
    batch_size: int | str,
    allow_beyond: bool,
) -> _Answers:
    """Decode greedily, the examples that share their generation settings together."""
    groups: dict[tuple, list[_Pair]] = {}
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
            yield _scored(task, group[completion.index], completion)


def _question_columns(example: Example) -> dict[str, object]:
    names = ("task", "sample", "target", "token_length", "gold_index", "depth_percent",
             "num_keys", "document", "prompt_hash")  # fmt: skip
    return {name: getattr(example, name) for name in names}
