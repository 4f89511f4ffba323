"""Many questions to many models at once: exact match by one forward, without generating.

A greedy answer is exactly right if and only if, with the right answer put behind the prompt, the
most likely next token is the right one at each of its places: no token is generated, and all
answers of a batch are read together. What belongs here: the sets of questions that a grid asks,
and how a model is scored on them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import lzma
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cream.data.corpus import open_corpus
from cream.inference.generation import tokenize
from cream.inference.kv_cache import read_heads
from cream.inference.prompt_tokens import appended
from cream.rope.clex import is_clex
from cream.rope.sharper import check_whole_head
from cream.tasks import haystack, kv_retrieval, longchat_lines, needle, perplexity
from cream.tasks.base import Example
from cream.tasks.perplexity_texts import from_corpus
from cream.utils.files import atomic_write
from cream.utils.provenance import hash_of

__all__ = [
    "SETS",
    "Answers",
    "QuestionSpec",
    "Questions",
    "answer",
    "as_question",
    "build",
    "right_tokens",
    "sharpened",
    "store",
    "stored",
]

EACH = 5  # questions about one record of lines: it is read once for all of them
HIDDEN = 5  # sentences in one stretch of text
AT_ONCE = 50  # questions that are answered together
MOST_TOKENS = 400_000  # of keys and values held together


@dataclass(frozen=True)
class QuestionSpec:
    """A set of questions; lengths are multiples of N, the numbers records, objects or samples."""

    lines: tuple[tuple[float, int], ...]
    pairs: tuple[tuple[float, int], ...] = ()
    needle: tuple[tuple[float, int], ...] = ()
    perplexity: tuple[float, ...] = ()
    documents: int = 0
    seed: int = 0


SETS = {
    "tiny": QuestionSpec(((0.6, 1), (2, 1)), ((1, 1), (2.4, 1)), ((2, 1),), (1, 2), 1),
    "validation": QuestionSpec(
        ((1, 10), (4, 20), (6, 20), (7.8, 20)), ((1, 10), (2.4, 30)), seed=7
    ),
    "main": QuestionSpec(
        ((0.6, 10), (1, 10), (2, 10), (4, 20), (6, 20), (7.8, 20)),
        ((1, 10), (2.4, 50)),
        ((4, 5),),
        (1, 2, 4, 8),
        10,
    ),
    "far": QuestionSpec(((1, 10), (8, 10), (32, 8), (64, 8)), ((1, 10),), (), (1, 8, 64), 6),
}  # fmt: skip


class Question(NamedTuple):
    """A question as tokens: the prompt, and the answer with the token that closes it."""

    example: Example
    prompt: np.ndarray
    target: np.ndarray


class Answers(NamedTuple):
    """What a model said: right tokens before its first error and that error (-1: none), and nll.

    `nll` has a row a document and a column a length, None where it was not finite.
    """

    right: list[int]
    wrong: list[int]
    nll: list[list[float]] | None


@dataclass(frozen=True)
class Questions:
    """A set built for a tokenizer: items in order, documents for perplexity, lengths of those."""

    name: str
    window: int
    items: tuple[Question, ...]
    documents: tuple[tuple[str, np.ndarray], ...]
    lengths: tuple[int, ...]

    @property
    def hash(self) -> str:
        """16 hex digits over every token that is read and every answer."""
        tokens = [[i.prompt.tolist(), i.target.tolist()] for i in self.items]
        return hash_of(tokens, [ids.tolist() for _, ids in self.documents], self.lengths)

    def table(self, tokenizer: PreTrainedTokenizerBase) -> pd.DataFrame:
        """Return a row a question, in order: what is asked, and the answer."""
        rows = [
            {"task": e.task, "token_length": e.token_length, "gold_index": e.gold_index,
             "depth_percent": e.depth_percent, "num_keys": e.num_keys, "sample": e.sample,
             "document": e.document, "target": e.target, "answer_tokens": len(target)}
            for e, _, target in self.items
        ]  # fmt: skip
        rows += [
            {"task": "perplexity", "token_length": length, "sample": sample, "document": name,
             "scored_tokens": length - 1}
            for sample, (name, _) in enumerate(self.documents)
            for length in self.lengths
        ]  # fmt: skip
        return pd.DataFrame(rows)


def build(
    name: str, tokenizer: PreTrainedTokenizerBase, window: int, corpus: str | Path
) -> Questions:
    """Build the set `name` of SETS; text comes from the corpus's test split.

    ValueError for an unknown set, and for answers whose tokens depend on what stands before them.
    """
    if name not in SETS:
        raise ValueError(f"there is no set of questions {name!r}: choose from {', '.join(SETS)}")
    asked, opened = SETS[name], open_corpus(corpus, tokenizer)
    examples: list[Example] = []
    for multiple, records in asked.lines:
        length = round(multiple * window)
        examples += longchat_lines.examples(
            tokenizer, [length], EACH * records, asked.seed, questions=EACH
        )
    for multiple, objects in asked.pairs:
        length = round(multiple * window)
        examples += kv_retrieval.examples(tokenizer, [length], objects, asked.seed)
    text = haystack.from_corpus(opened, tokenizer) if asked.needle else ""
    for multiple, samples in asked.needle:
        found = needle.grid(tokenizer, text, [round(multiple * window)], samples=samples,
                            seed=asked.seed, hidden=HIDDEN)  # fmt: skip
        examples += sorted(found, key=lambda one: (str(one.document), one.depth_percent))
    lengths = tuple(round(multiple * window) for multiple in asked.perplexity)
    texts = _texts(opened, tokenizer, max(lengths), asked.documents) if lengths else ()
    items = tuple(as_question(tokenizer, one) for one in examples)
    return Questions(name, window, items, tuple(texts), lengths)


def _texts(
    corpus: object, tokenizer: PreTrainedTokenizerBase, length: int, documents: int
) -> Iterator[tuple[str, np.ndarray]]:
    """The first documents that are long enough; where there are too few, pieces of all, joined."""
    bos = np.array([] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id], np.int64)
    listed = list(from_corpus(corpus, tokenizer.bos_token_id))
    own = length - len(bos)  # tokens of the text
    long = [(name, ids) for name, ids in listed if len(ids) >= own]
    if len(long) < documents:
        joined = np.concatenate([ids for _, ids in listed])
        count = len(joined) // own
        if count < documents:
            raise ValueError(f"the test text gives {count} pieces of {length} tokens: ask fewer")
        pieces = joined[: count * own].reshape(count, own)
        long = [(f"joined text, piece {k}", ids) for k, ids in enumerate(pieces)]
    for name, ids in long[:documents]:
        yield name, np.concatenate([bos, ids[:own]]).astype(np.int64)


def as_question(tokenizer: PreTrainedTokenizerBase, example: Example) -> Question:
    """Cut prompt and answer; pairs are closed by the empty line that ends them in `score`.

    What a model has read goes on behind that line, and how its tokens are cut depends on it.
    """
    pairs = example.task == kv_retrieval.TASK
    text = example.prompt + example.target + "\n\n" * pairs
    prompt = tokenize(tokenizer, example.prompt)
    cut = tokenizer(text + "Key" * pairs, return_offsets_mapping=True)
    kept = len(cut["input_ids"]) - len(appended(tokenizer))
    ends = [end for _, end in cut["offset_mapping"][:kept]]
    ids = cut["input_ids"][:kept]
    whole = [token for token, end in zip(ids, ends, strict=True) if end <= len(text)]
    if whole[: len(prompt)] != prompt or len(text) not in ends:
        raise ValueError(
            f"the tokens of {example.task} {example.sample}'s prompt change with the answer "
            f"{example.target!r} behind it: this tokenizer cannot be asked without generating"
        )
    return Question(example, np.array(prompt), np.array(whole[len(prompt) :]))


# ------------------------------------------------------------------------------- files


def store(questions: Questions, path: str | Path) -> None:
    """Write a set as JSON, compressed, with the hash of all that was written."""
    items = [{"example": dataclasses.asdict(each.example), "prompt": each.prompt.tolist(),
              "target": each.target.tolist()} for each in questions.items]  # fmt: skip
    content = {
        "name": questions.name, "window": questions.window, "items": items,
        "documents": [[name, ids.tolist()] for name, ids in questions.documents],
        "lengths": list(questions.lengths),
    }  # fmt: skip
    text = json.dumps({"hash": hash_of(content), "questions": content})
    atomic_write(path, lzma.compress(text.encode(), preset=1))


def stored(path: str | Path) -> Questions:
    """Read a set that `store` wrote; ValueError for a file that holds anything else."""
    try:
        held = json.loads(lzma.decompress(Path(path).read_bytes()))
        content = held["questions"]
        whole = held["hash"] == hash_of(content)
    except (lzma.LZMAError, ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise ValueError(f"{path} does not hold the questions that were built: delete it")
    items = tuple(
        Question(Example(**each["example"]), np.array(each["prompt"]), np.array(each["target"]))
        for each in content["items"]
    )
    documents = tuple((name, np.array(ids)) for name, ids in content["documents"])
    return Questions(
        content["name"], content["window"], items, documents, tuple(content["lengths"])
    )


# ------------------------------------------------------------------------------- answers


def answer(model: PreTrainedModel, questions: Questions, sharper: float = 1.0) -> Answers:
    """Ask a model all questions of a set, also beyond its window; `sharper` as in `sharpened`."""
    with sharpened(model, sharper):
        right, wrong = right_tokens(model, questions.items)
        nll = _losses(model, questions) if questions.documents else []
    return Answers(right, wrong, nll)


@contextlib.contextmanager
def sharpened(model: PreTrainedModel, factor: float) -> Iterator[None]:
    """Multiply the logits of attention by `factor` inside: a key's share grows where it was large.

    Queries and keys are turned by cos and sin times `attention_scaling`, so their product grows by
    its square. A softmax over s times as many keys is flatter; a window of N never shows that.
    `models.sharper` writes a checkpoint that answers so by itself.
    """
    if factor != 1:
        check_sharpened(model)
    found = [one for one in model.modules() if hasattr(one, "attention_scaling")]
    before = [one.attention_scaling for one in found]
    try:
        for one, scaling in zip(found, before, strict=True):
            one.attention_scaling = scaling * factor**0.5
        yield
    finally:
        for one, scaling in zip(found, before, strict=True):
            one.attention_scaling = scaling


def check_sharpened(model: PreTrainedModel) -> None:
    """Refuse (ValueError) a model whose logits `sharpened` would leave, or multiply in part."""
    found = any(hasattr(one, "attention_scaling") for one in model.modules())
    if not found or is_clex(model.config):  # CLEX has a factor of its own
        raise ValueError(f"the rotation of {type(model).__name__} has no factor: its attention "
                         "cannot be made sharper; ask it as it is")  # fmt: skip
    check_whole_head(model.config)


@torch.inference_mode()
def right_tokens(model: PreTrainedModel, items: Sequence[Question]) -> tuple[list[int], list[int]]:
    """Return for each item its right tokens before the first error, and the wrong one (or -1)."""
    right, wrong = [], []
    for batch in _batches(items):
        said = _predicted_tokens(model, batch)
        for item, tokens in zip(batch, said, strict=True):
            same = tokens == item.target
            first = len(same) if same.all() else int(np.argmin(same))
            right.append(first)
            wrong.append(-1 if first == len(same) else int(tokens[first]))
    return right, wrong


def _batches(items: Sequence[Question]) -> Iterator[Sequence[Question]]:
    """Runs of items of one task and length, in order, as many as are held together."""
    start = 0
    while start < len(items):
        first = items[start].example
        most = max(EACH, min(AT_ONCE, MOST_TOKENS // first.token_length // EACH * EACH))
        end = start
        while end < min(start + most, len(items)):
            one = items[end].example
            if (one.task, one.token_length) != (first.task, first.token_length):
                break
            end += 1
        yield items[start:end]
        start = end


def _predicted_tokens(model: PreTrainedModel, batch: Sequence[Question]) -> list[np.ndarray]:
    """The most likely tokens at the places of the answers; common beginnings are read once."""
    rows = [np.concatenate([item.prompt, item.target]) for item in batch]
    shared = min(len(item.prompt) for item in batch) - 1
    for k in range(1, len(batch)):
        if batch[k].example.document == batch[k - 1].example.document:
            shared = min(shared, _common(rows[k], rows[k - 1]))
    rest = [row[shared:] for row in rows]
    longest = max(map(len, rest))
    # Filled up behind the answers, where no token that counts can look.
    padded = np.stack([np.pad(row, (0, longest - len(row))) for row in rest])
    cache = read_heads(model, rows, [shared] * len(rows), shared + longest)
    tokens = torch.from_numpy(padded).to(model.device)
    hidden = model.base_model(
        input_ids=tokens, past_key_values=cache, use_cache=True
    ).last_hidden_state
    spans = [(len(i.prompt) - 1 - shared, len(i.target)) for i in batch]
    row = np.repeat(np.arange(len(batch)), [n for _, n in spans])
    column = np.concatenate([np.arange(at, at + n) for at, n in spans])
    best = model.get_output_embeddings()(hidden[row, column]).argmax(-1).cpu().numpy()
    return np.split(best, np.cumsum([n for _, n in spans])[:-1])


def _common(a: np.ndarray, b: np.ndarray) -> int:
    """How many first tokens two rows share."""
    least = min(len(a), len(b))
    differ = np.flatnonzero(a[:least] != b[:least])
    return int(differ[0]) if len(differ) else least


def _losses(model: PreTrainedModel, questions: Questions) -> list[list[float]] | None:
    """Loss of each document over its first tokens, at every length; None where it is not finite."""
    examples = perplexity.examples(
        [(name, ids[1:]) for name, ids in questions.documents], questions.lengths,
        len(questions.documents), int(questions.documents[0][1][0]),
    )  # fmt: skip
    found: dict[tuple[int, int], float] = {}
    try:
        for index, columns in perplexity.measure(model, examples, allow_beyond=True):
            found[examples[index].sample, examples[index].token_length] = columns["nll"]
    except ValueError as error:
        if "finite" not in str(error):
            raise
        return None
    return [[round(found[sample, length], 3) for length in questions.lengths]
            for sample in range(len(questions.documents))]  # fmt: skip
