"""Perplexity of long documents: one definition, in two modes (protocols 5.5 and 5.6).

perplexity = exp(sum of losses / sum of scored tokens), over all documents, every token weighing the
same; a row holds one document's two sums, and documents are the units of its interval
(`statistics.perplexities`). Length W counts BOS, and the first token is never scored.

truncate: the first W tokens of each document, in one true forward.
sliding: the whole document at each W, through windows of W tokens that move by `stride`, each of
them begun by BOS; what an earlier window scored is read again and not scored again.

What other releases computed instead is in `historical_perplexity`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from transformers import PreTrainedModel

from cream.inference.likelihood import log_likelihood
from cream.rope import clex
from cream.rope.length import depends_on_length
from cream.tasks.base import Example
from cream.tasks.perplexity_texts import Document, choose
from cream.tasks.prompts import checked_lengths

__all__ = [
    "MODES",
    "TASK",
    "Window",
    "examples",
    "measure",
    "needed_tokens",
    "perplexity",
    "reads_alike",
    "split_bos",
    "windows",
]

TASK = "perplexity"
MODES = ("truncate", "sliding")


class Window(NamedTuple):
    """Tokens [start, end) of a document without BOS; the last `new` are in no window before."""

    start: int
    end: int
    new: int


def windows(num_tokens: int, size: int, stride: int) -> list[Window]:
    """Cut a document into windows of `size` tokens, each `stride` after the one before.

    The last ends with the document and is shorter where the strides do not add up to it.
    """
    found, start, done = [], 0, 0
    while done < num_tokens:
        end = min(start + size, num_tokens)
        found.append(Window(start, end, end - done))
        start, done = start + stride, end
    return found


def needed_tokens(
    lengths: Iterable[int], bos_token_id: int | None, min_tokens: int | None = None
) -> int:
    """Return the tokens a document must have besides BOS, to be read at all of `lengths`."""
    return max(*lengths, min_tokens or 0, 0) - (bos_token_id is not None)


def examples(
    documents: Iterable[Document],
    lengths: Sequence[int],
    samples: int,
    bos_token_id: int | None = None,
    mode: str = "truncate",
    stride: int | None = None,
    document_tokens: int | None = None,
    corpus: str | None = None,
) -> list[Example]:
    """Ask for the first `samples` documents that are long enough, at every length (tokens).

    `documents` are (name, token ids without special tokens); the same serve every length. With a
    BOS the first W - 1 tokens follow it, else the first W are read. In mode "sliding" lengths are
    windows, `stride` is in tokens (None: half of each window) and each document is read to its
    first `document_tokens`, BOS counted (None: the longest length). `corpus` becomes part of the
    rows' settings. ValueError when no document is long enough, for an unknown mode, and for a
    stride that is not from 1 to W - 1.
    """
    lengths = checked_lengths(lengths, samples)
    if min(lengths) < 2:
        raise ValueError(f"length {min(lengths)} leaves no token to score: use at least 2")
    bos = [] if bos_token_id is None else [bos_token_id]
    hows = [_how(mode, length, stride, bool(bos), corpus) for length in lengths]
    if mode == "truncate" and document_tokens is not None:
        raise ValueError("document_tokens is of mode 'sliding': in 'truncate' lengths say it")
    read = document_tokens or max(lengths)
    if read < max(lengths):
        raise ValueError(
            f"document_tokens {read} is below the longest window, {max(lengths)}: raise it"
        )
    if mode == "sliding":
        hows = [{**how, "document_tokens": read} for how in hows]
    needed = needed_tokens([read], bos_token_id)
    found = []
    for sample, (name, ids) in enumerate(choose(documents, needed, samples).documents):
        whole = tuple(bos + ids[:needed].tolist())
        for length, how in zip(lengths, hows, strict=True):
            cut = whole[:length] if mode == "truncate" else whole
            one = Example(TASK, sample, prompt="", target="", token_length=length, document=name,
                          tokens=cut, context=whole, how=how)  # fmt: skip
            found.append(one)
    return found


def _how(
    mode: str, length: int, stride: int | None, bos: bool, corpus: str | None
) -> dict[str, object]:
    """What decides a document's sums besides its tokens; part of the row's key."""
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}: choose one of {', '.join(MODES)}")
    of_corpus = {} if corpus is None else {"corpus": corpus}
    if mode == "truncate":
        if stride is not None:
            raise ValueError(f"stride {stride} is of mode 'sliding': leave it out of 'truncate'")
        return {"mode": mode, "bos": "prepended" if bos else "none", **of_corpus}
    stride = max(1, length // 2) if stride is None else stride
    if not 1 <= stride < length:
        raise ValueError(
            f"stride {stride} must be from 1 to {length - 1} in windows of {length} tokens, where "
            "BOS, or a token with nothing before it, is not scored: change stride or lengths"
        )
    return {"mode": mode, "window": length, "stride": stride,
            "bos": "prepended to each window" if bos else "none", **of_corpus}  # fmt: skip


def measure(
    model: PreTrainedModel, examples: Sequence[Example], allow_beyond: bool = False
) -> Iterator[tuple[int, dict[str, float | int]]]:
    """Yield (index, row columns): the loss (nats, float64) summed over the scored tokens.

    In "truncate" a document's lengths are beginnings of one another, and a token's loss depends on
    those before it only: its longest is read once for all of them, unless the model's RoPE changes
    with length.
    """
    shared: dict[tuple[int, ...], list[int]] = {}
    for index, example in enumerate(examples):
        if example.how.get("mode") == "sliding":
            yield index, _columns(example, _sliding(model, example, allow_beyond))
            continue
        read = example.context if example.context and reads_alike(model) else example.tokens
        shared.setdefault(read, []).append(index)
    for read, indices in shared.items():
        losses = log_likelihood(model, np.array(read), allow_beyond=allow_beyond)
        for index in indices:
            scored = len(examples[index].tokens) - 1
            yield index, _columns(examples[index], losses[:scored])


def _columns(example: Example, losses: np.ndarray) -> dict[str, float | int]:
    return {"nll": float(losses.sum()), "scored_tokens": len(losses),
            "num_tokens": len(example.tokens)}  # fmt: skip


def _sliding(model: PreTrainedModel, example: Example, allow_beyond: bool) -> np.ndarray:
    """Losses of all tokens but the first, each in the first window that holds it."""
    prefix, ids = split_bos(example.tokens, example.how)
    parts = []
    for window in windows(len(ids), example.how["window"] - len(prefix), example.how["stride"]):
        read = np.array(prefix + ids[window.start : window.end])
        first = max(1, len(read) - window.new)
        parts.append(log_likelihood(model, read, first_scored=first, allow_beyond=allow_beyond))
    return np.concatenate(parts)


def split_bos(
    tokens: tuple[int, ...], how: Mapping[str, object]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return BOS, if the settings say that it is there, and the document's own tokens."""
    own = 0 if how["bos"] == "none" else 1
    return tokens[:own], tokens[own:]


def reads_alike(model: PreTrainedModel) -> bool:
    """Whether a token's rotation does not depend on how long the whole sequence is: CLEX's does."""
    return clex.layer_of(model) is None and not depends_on_length(model.config)


def perplexity(nll: Sequence[float], scored_tokens: Sequence[int]) -> float:
    """Perplexity of a set of documents: exp of all loss over all scored tokens."""
    return float(np.exp(np.sum(nll, dtype=np.float64) / np.sum(scored_tokens)))
