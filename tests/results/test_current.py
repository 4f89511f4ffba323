"""Rows that count now: no later asking of a task is pooled with an earlier one."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cream import results
from cream.results import Rows
from cream.tasks import (
    infinitebench,
    kv_retrieval,
    longbench,
    longchat_lines,
    needle,
    passkey,
    perplexity,
    perplexity_variants,
)
from cream.tasks.base import Example
from cream.tasks.longbench import synthetic
from tests.support.answer_rows import HEADER

COLUMNS = ("task", "sample", "target", "token_length", "gold_index", "depth_percent", "num_keys",
           "document", "prompt_hash")  # fmt: skip
BOS = {"bos_token_id": 0}
SLIDING = {"mode": "sliding", **BOS}


def answered(path: Path, examples: Sequence[Example], **header: object) -> list[str]:
    """Write a row for every example, as an evaluation does; return their keys."""
    with Rows(path, {**HEADER, **header}) as rows:
        return [
            rows.append({**{name: getattr(one, name) for name in COLUMNS}, "score": 1.0,
                         "settings": one.settings})
            for one in examples
        ]  # fmt: skip


def texts(start: int = 0) -> list[tuple[str, np.ndarray]]:
    """Four documents of one name whatever is in them."""
    return [(f"{n}.txt", np.arange(start + n, start + n + 900) % 600) for n in range(4)]


@pytest.fixture(scope="module")
def build(tiny_tokenizer, haystack, tmp_path_factory) -> Callable[..., Sequence[Example]]:
    """Build the examples of one task with its own arguments; the same are built once."""
    data = tmp_path_factory.mktemp("longbench")
    synthetic.write(data, samples=4)
    other = haystack[len(haystack) // 2 :]
    makers = {
        "lines": partial(longchat_lines.examples, tiny_tokenizer, [300]),
        "passkey": partial(passkey.examples, tiny_tokenizer, [400]),
        "pairs": partial(kv_retrieval.examples, tiny_tokenizer, [300]),
        "objects": partial(kv_retrieval.generate, 10),
        "needle": lambda samples, text=haystack, **how: needle.grid(
            tiny_tokenizer, text, [300], [0, 50], samples, **how
        ),
        "other needle": lambda samples, **how: needle.grid(
            tiny_tokenizer, other, [300], [0, 50], samples, **how
        ),
        "infinitebench": lambda samples, **how: infinitebench.examples(
            tiny_tokenizer, [400], samples, tasks=["passkey"], **how
        ),
        "perplexity": lambda samples, lengths=(256,), start=0, **how: perplexity.examples(
            texts(start), lengths, samples, **how
        ),
        "historical": lambda samples, **how: perplexity_variants.examples(
            texts(), [500], samples, 128, definitions=["cream"], **how
        ),
        "longbench": lambda samples, length=200, **how: longbench.examples(
            tiny_tokenizer, data, length, ["hotpotqa"], samples, **how
        ),
    }
    return functools.cache(lambda task, **how: tuple(makers[task](**how)))


ASKED_AGAIN = [
    ({"task": "lines"}, {"seed": 1}),
    ({"task": "lines", "questions": 5}, {"questions": 1}),
    ({"task": "lines"}, {"questions": 5}),
    ({"task": "passkey"}, {"seed": 1}),
    ({"task": "pairs"}, {"seed": 1}),
    ({"task": "objects"}, {"seed": 1}),
    ({"task": "objects"}, {"digits": 8}),
    ({"task": "needle"}, {"seed": 1}),
    ({"task": "needle", "corpus": "a"}, {"task": "other needle", "corpus": "b"}),
    ({"task": "infinitebench"}, {"seed": 1}),
    ({"task": "perplexity", "corpus": "a", **BOS}, {"start": 50, "corpus": "b"}),
    ({"task": "perplexity", "stride": 255, **SLIDING}, {"stride": 16}),
    ({"task": "perplexity", **SLIDING}, {"stride": 16}),
    ({"task": "perplexity", **SLIDING}, {"document_tokens": 800}),
    ({"task": "perplexity", **BOS}, {"mode": "sliding"}),
    ({"task": "historical", **BOS}, {"stride": 64}),
    ({"task": "longbench"}, {"chat": "llama2"}),
    ({"task": "longbench"}, {"length": 400}),
]


@pytest.mark.thinned
@pytest.mark.parametrize(("first", "change"), ASKED_AGAIN, ids=str)
@pytest.mark.parametrize("counts", [(4, 2), (2, 4), (3, 3)], ids=str)
def test_a_later_asking_is_never_pooled_with_an_earlier_one(first, change, counts, build, tmp_path):
    """By another seed, number of questions, stride, text or wrapper, with more samples or fewer.

    What a report averages, a variant at one length, holds rows of one of the two alone, and of the
    later all.
    """
    path = tmp_path / "rows.jsonl"
    askings = [
        set(answered(path, build(**how, samples=many)))
        for how, many in zip((first, {**first, **change}), counts, strict=True)
    ]
    frame = results.current(results.read(path))
    for _, part in frame.groupby([results.variant(frame), "token_length"]):
        assert any(set(part["key"]) <= asking for asking in askings)
    assert askings[1] <= set(frame["key"])


@pytest.mark.parametrize("task", ["lines", "passkey", "pairs", "needle", "perplexity"])
def test_more_samples_and_the_same_again_are_one_asking(task, build, tmp_path):
    """What was asked before is a part of what is asked now."""
    path, how = tmp_path / "rows.jsonl", BOS if task == "perplexity" else {}
    answered(path, build(task, samples=2, **how))
    wanted = answered(path, build(task, samples=4, **how))
    frame = results.current(results.read(path))
    assert set(frame["key"]) == set(wanted) and results.variant(frame).nunique() == 1


@pytest.mark.parametrize("task", ["lines", "passkey", "perplexity"])
def test_a_question_whose_text_changed_is_there_once(task, build, tmp_path):
    """Its place in the prompt and the number of lines follow the text, and may change with it."""
    path, how = tmp_path / "rows.jsonl", BOS if task == "perplexity" else {}
    old = build(task, samples=3, **how)
    moved = {"depth_percent": 1.0, "gold_index": 1, "num_keys": 7}
    new = [
        dataclasses.replace(one, **moved, prompt=one.prompt + " ", tokens=one.tokens and (1, 2))
        for one in old[:2]
    ]
    answered(path, old)
    now = answered(path, new)
    frame = results.current(results.read(path))
    assert len(frame) == 3 and set(now) <= set(frame["key"])


def test_a_document_counts_once_at_a_length_though_its_number_changed(build, tmp_path):
    """Longer lengths pass over short documents, and number those that are left anew."""
    path = tmp_path / "rows.jsonl"
    short = [("short", np.arange(300)), *texts()]
    answered(path, perplexity.examples(short, [256], 3, **BOS))
    answered(path, perplexity.examples(short, [256, 512], 3, **BOS))
    frame = results.current(results.read(path))
    assert not frame.duplicated(["token_length", "document"]).any()
    assert frame.groupby("token_length").size().to_dict() == {256: 4, 512: 3}


def test_bases_are_models_of_their_own(build, tmp_path):
    """Each has its original and its scaled form, which are called alike."""
    path, asked = tmp_path / "rows.jsonl", build("lines", samples=2)
    for base in ("one", "two", None):
        for run in ("original", "scaled:yarn:4"):
            answered(path, asked, run=run, base=base, model_hash=f"{run} {base}")
    frame = results.current(results.read(path))
    assert frame.groupby(["run", frame["base"].fillna("")]).size().tolist() == [2] * 6
    again = results.read(path).set_index(pd.Index([0] * 12))
    assert results.current(again).equals(frame)


def test_what_is_usual_has_no_words(build):
    """Rows of the usual seed and stride, and those written before there was another, are alike."""
    for how in ({"task": "lines"}, {"task": "pairs"}, {"task": "passkey"}):
        (settings,) = {str(one.settings) for one in build(**how, samples=2)}
        assert "seed" not in settings
    asked = build("perplexity", samples=1, lengths=(256, 500), **SLIDING)
    frame = pd.DataFrame({"settings": [pd.Series(one.settings).to_json() for one in asked]})
    assert results.variant(frame).unique().tolist() == ["sliding read to 500"]
