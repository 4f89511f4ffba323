"""Made-up samples in LongBench's format: for tests, and for a first run without the hub.

What belongs here: rows of all 16 tasks over pseudo-words, written where `longbench.data` reads
them. They show that the path works. What a model scores on them says nothing about LongBench.
"""

import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cream.data.retrieval import vocabulary
from cream.tasks.longbench.definitions import CATEGORIES, TASKS

__all__ = ["CLASSES", "write"]

CLASSES = ["Place", "Person", "Number of something", "Number"]
Row = tuple[str, str, list[str]]  # context, input, answers


def write(folder: str | Path, samples: int = 2, facts: int = 20, seed: int = 0) -> Path:
    """Write `samples` rows a task as TASK.jsonl into a folder, each over `facts` sentences.

    The same for the same numbers; a file is whole or not there. Returns the folder.
    """
    if samples < 1 or facts < 4:
        raise ValueError(f"samples {samples} must be at least 1, and facts {facts} at least 4")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for task in TASKS:
        rng = np.random.default_rng([zlib.crc32(task.encode()), seed, facts])
        lines = [json.dumps(_row(task, rng, facts, number)) + "\n" for number in range(samples)]
        beside = folder / f".{task}.{os.getpid()}"
        beside.write_text("".join(lines), encoding="utf-8")
        beside.replace(folder / f"{task}.jsonl")
    return folder


def _row(task: str, rng: np.random.Generator, facts: int, number: int) -> dict[str, object]:
    context, asked, answers = _builder(task)(rng, facts)
    return {
        "input": asked,
        "context": context,
        "answers": answers,
        "length": len(f"{context} {asked} {' '.join(answers)}".split()),
        "dataset": task,
        "language": "en",
        "all_classes": CLASSES if task == "trec" else None,
        "_id": f"made-up-{number}",
    }


def _builder(task: str) -> Callable[[np.random.Generator, int], Row]:
    if task in CATEGORIES["code"]:
        return _code if task == "lcc" else _repository
    own = {"trec": _classes, "triviaqa": _trivia, "samsum": _dialogue, "passage_count": _count,
           "passage_retrieval_en": _retrieval}  # fmt: skip
    return own.get(task, _summary if task in CATEGORIES["summarization"] else _question)


def _facts(rng: np.random.Generator, count: int) -> list[tuple[str, str, str]]:
    """(sentence, question, answer), each about another name."""
    names = list(dict.fromkeys(vocabulary.words(rng, "evaluation", 3 * count, syllables=3)))[:count]
    things = vocabulary.words(rng, "evaluation", count)
    return [
        (f"The house of {name} is in {thing}.", f"Where is the house of {name}?", thing)
        for name, thing in zip(names, things, strict=True)
    ]


def _question(rng: np.random.Generator, count: int) -> Row:
    facts = _facts(rng, count)
    passages = [f"Passage {i}:\n{fact[0]}" for i, fact in enumerate(facts, 1)]
    _, question, answer = facts[rng.integers(count)]
    return "\n\n".join(passages), question, [answer]


def _summary(rng: np.random.Generator, count: int) -> Row:
    sentences = [fact[0] for fact in _facts(rng, count)]
    return " ".join(sentences), "What was said first?", [" ".join(sentences[:2])]


def _classes(rng: np.random.Generator, count: int) -> Row:
    facts = _facts(rng, count + 1)
    kinds = rng.choice(CLASSES, count + 1).tolist()
    shots = [f"Question: {f[1]}\nType: {kind}" for f, kind in zip(facts, kinds, strict=True)]
    return "\n".join(shots[:-1]), f"Question: {facts[-1][1]}\nType:", kinds[-1:]


def _trivia(rng: np.random.Generator, count: int) -> Row:
    facts = _facts(rng, count)
    shots = [f"Passage:\n{f[0]}\nQuestion:\n{f[1]}\nAnswer:\n{f[2]}\n" for f in facts]
    return "\n".join(shots[:-1]), shots[-1].removesuffix(f"\n{facts[-1][2]}\n"), [facts[-1][2]]


def _dialogue(rng: np.random.Generator, count: int) -> Row:
    facts = _facts(rng, count)
    shots = [f"Dialogue: {f[1]}\r\nIn {f[2]}.\nSummary: {f[0]}" for f in facts]
    return "\n".join(shots[:-1]), shots[-1].removesuffix(f" {facts[-1][0]}"), [facts[-1][0]]


def _count(rng: np.random.Generator, count: int) -> Row:
    facts = _facts(rng, count)
    unique = int(rng.integers(2, count))
    drawn = [*range(unique), *rng.integers(0, unique, count - unique).tolist()]
    order = [drawn[place] for place in rng.permutation(count)]
    paragraphs = [f"Paragraph {i}: {facts[one][0]}" for i, one in enumerate(order, 1)]
    return "\n\n".join(paragraphs), "", [str(unique)]


def _retrieval(rng: np.random.Generator, count: int) -> Row:
    facts = _facts(rng, count)
    paragraphs = [f"Paragraph {i}: {fact[0]}" for i, fact in enumerate(facts, 1)]
    gold = int(rng.integers(count))
    return "\n\n".join(paragraphs), f"A house in {facts[gold][2]}.", [f"Paragraph {gold + 1}"]


def _code(rng: np.random.Generator, count: int) -> Row:
    names = vocabulary.words(rng, "evaluation", count)
    lines = [f"{name} = load('{name}')" for name in names]
    return "".join(f"{line}\n" for line in lines), "", [f"store({names[0]})"]


def _repository(rng: np.random.Generator, count: int) -> Row:
    context, _, (answer,) = _code(rng, count)
    return context, f"def close({answer[6:-1]}):\n", [f"    return {answer}"]
