"""From rows back to questions: the examples that committed rows say they answer, built again.

A row names its task, length, place and sample, and the hash of its prompt; the prompt itself is not
stored. What belongs here: a builder a task, which reads from rows what it has to be called with.
What is done with the examples is `verify`'s.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from transformers import PreTrainedTokenizerBase

from cream.data.corpus import open_corpus
from cream.tasks import (
    haystack,
    infinitebench,
    kv_retrieval,
    longchat_lines,
    needle,
    passkey,
    perplexity,
    perplexity_texts,
    perplexity_variants,
    ruler,
)
from cream.tasks.base import Example
from cream.tasks.registry import find

__all__ = ["BUILDERS", "Texts", "identity", "identity_of", "rebuild"]

_PLACE = ("gold_index", "depth_percent", "num_keys", "document")


class Texts(NamedTuple):
    """What questions are built with: a tokenizer, its window, a corpus where a task needs one."""

    tokenizer: PreTrainedTokenizerBase
    window: int
    corpus: Path | None = None


def identity(row: pd.Series) -> Hashable:
    """Return what a row answers, by all that it says but the prompt's hash."""
    place = tuple(None if pd.isna(row[name]) else row[name] for name in _PLACE)
    return row["task"], int(row["token_length"]), int(row["sample"]), *_how(row["settings"]), *place


def identity_of(example: Example) -> Hashable:
    """Return the same of an example."""
    place = tuple(getattr(example, name) for name in _PLACE)
    how = _how(json.dumps(example.settings))
    return example.task, example.token_length, example.sample, *how, *place


def _how(settings: str) -> tuple[object, object]:
    """How a question is put together, and in which kind of text a sentence is hidden."""
    found = json.loads(settings)
    return found.get("mode"), found.get("haystack")


def rebuild(
    rows: pd.DataFrame, texts: Texts, seed: int = 0, wanted: pd.DataFrame | None = None
) -> dict[Hashable, Example]:
    """Build the examples of one model's `rows` of one task again, by their identity.

    Lengths, depths, numbers of samples and of questions a record are read from the rows, so all
    rows of the model and task must be given; `seed` is that of rows whose settings name none.
    Examples have no settings that the rows lack: older rows say less of themselves. Of them only
    those of the rows `wanted` are built (None: all), but of perplexity all, as its lengths read the
    same documents. ValueError for a task of which this module has no builder.
    """
    (task,) = set(rows["task"])
    if task not in BUILDERS:
        raise ValueError(f"no builder for {task}: there are {', '.join(BUILDERS)}")
    found: dict[Hashable, Example] = {}
    for settings, part in rows.groupby("settings"):
        asked = part if wanted is None else wanted[wanted["settings"] == settings]
        if asked.empty:
            continue
        if task not in TOGETHER:
            part = part[part["token_length"].isin(asked["token_length"])]
        how = json.loads(settings)
        built = BUILDERS[task](part, asked, texts, how, how.get("seed", seed))
        for one in built:
            own = {name: value for name, value in one.how.items() if name in how}
            found[identity_of(one)] = dataclasses.replace(one, how=own)
    return found


def _lengths(rows: pd.DataFrame) -> list[int]:
    return sorted(int(length) for length in rows["token_length"].unique())


def _samples(rows: pd.DataFrame) -> int:
    return int(rows["sample"].max()) + 1


def _named(asked: pd.DataFrame, *between: str) -> set[tuple]:
    """What is asked, as a builder's `only` names it: by length, what stands between, and sample."""
    names = ["token_length", *between, "sample"]
    return set(asked[names].itertuples(index=False, name=None))


def _lines(
    rows: pd.DataFrame, asked: pd.DataFrame, texts: Texts, settings: dict, seed: int
) -> list[Example]:
    many = int(rows.groupby("document").size().max())
    questions = settings.get("questions_a_record", many)
    return longchat_lines.examples(
        texts.tokenizer, _lengths(rows), _samples(rows), seed, settings["style"], questions,
        only=_named(asked),
    )  # fmt: skip


def _pairs(
    rows: pd.DataFrame, asked: pd.DataFrame, texts: Texts, settings: dict, seed: int
) -> list[Example]:
    if settings["style"] != "miniature":
        raise ValueError(f"objects in style {settings['style']} are not built again here")
    return kv_retrieval.examples(
        texts.tokenizer, _lengths(rows), _samples(rows), seed, only=_named(asked, "gold_index")
    )


def _needles(
    rows: pd.DataFrame, asked: pd.DataFrame, texts: Texts, settings: dict, seed: int
) -> list[Example]:
    if settings.get("mode", "alone") != "alone":
        raise ValueError(f"needles in mode {settings['mode']} are not built again here")
    corpus, kind = open_corpus(texts.corpus, texts.tokenizer), settings.get("haystack")
    text = haystack.from_corpus(corpus, texts.tokenizer, kind=kind)
    depths = sorted(float(depth) for depth in rows["depth_percent"].unique())
    return needle.grid(texts.tokenizer, text, _lengths(rows), depths, _samples(rows), seed,
                       settings["style"], kind=kind, corpus=settings.get("corpus"),
                       only=_named(asked, "depth_percent"))  # fmt: skip


def _keys(
    rows: pd.DataFrame, asked: pd.DataFrame, texts: Texts, settings: dict, seed: int
) -> list[Example]:
    return passkey.examples(
        texts.tokenizer, _lengths(rows), _samples(rows), seed, settings["style"],
        settings.get("blocks", "fitted"), only=_named(asked),
    )  # fmt: skip


def _documents(
    rows: pd.DataFrame, asked: pd.DataFrame, texts: Texts, settings: dict, seed: int
) -> list[Example]:
    found = perplexity_texts.of_corpus(texts.corpus, texts.tokenizer)
    bos = None if settings.get("bos") == "none" else texts.tokenizer.bos_token_id
    return perplexity.examples(
        found.documents, _lengths(rows), _samples(rows), bos, settings["mode"],
        settings.get("stride"), settings.get("document_tokens"), settings.get("corpus"),
    )  # fmt: skip


def _historical(
    rows: pd.DataFrame, asked: pd.DataFrame, texts: Texts, settings: dict, seed: int
) -> list[Example]:
    found = perplexity_texts.of_corpus(texts.corpus, texts.tokenizer)
    return perplexity_variants.examples(
        found.documents, _lengths(rows), _samples(rows), settings["window"], settings["stride"],
        texts.tokenizer.bos_token_id, [settings["mode"]], settings.get("corpus"),
    )  # fmt: skip


def _suite(
    rows: pd.DataFrame, asked: pd.DataFrame, texts: Texts, settings: dict, seed: int
) -> list[Example]:
    """A task of RULER or of InfiniteBench."""
    (task,) = set(rows["task"])
    return find(task).module.examples(
        texts.tokenizer, _lengths(rows), _samples(rows), seed, settings["style"],
        [task.partition("-")[2]], only=_named(asked),
    )  # fmt: skip


# Of all rows of a task, of those that are asked, and what they are built with.
Builder = Callable[[pd.DataFrame, pd.DataFrame, Texts, dict, int], list[Example]]
TOGETHER = ("perplexity", "historical_perplexity")  # all lengths read the same documents
BUILDERS: dict[str, Builder] = {
    "longchat_lines": _lines,
    "kv_retrieval": _pairs,
    "needle": _needles,
    "passkey": _keys,
    "perplexity": _documents,
    "historical_perplexity": _historical,
    **{f"ruler-{name}": _suite for name in ruler.TASKS},
    **{f"infinitebench-{name}": _suite for name in infinitebench.TASKS},
}
