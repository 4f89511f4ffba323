"""Perplexity of long documents at several lengths (protocols 5.5).

So far the release's mode "truncate": of each document the first W tokens, BOS among them, in one
true forward. Rows hold a document's summed loss and its scored tokens; the perplexity of a set is
exp(sum of losses / sum of tokens), with documents as the units of its interval (`statistics`).
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from transformers import PreTrainedModel

from cream.corpus import Corpus
from cream.inference import log_likelihood
from cream.tasks import Example
from cream.tasks.building import checked_lengths

__all__ = ["examples", "from_corpus", "measure", "perplexity"]

TASK = "perplexity"


def examples(
    documents: Iterable[tuple[str, Sequence[int] | np.ndarray]],
    lengths: Sequence[int],
    samples: int,
    bos_token_id: int | None = None,
) -> list[Example]:
    """Cut the first `samples` documents that are long enough to every length (tokens).

    `documents` are (name, token ids without special tokens). The same documents serve every length.
    With a BOS the first W - 1 tokens follow it, else the first W are read; W - 1 are scored in
    both. ValueError when no document reaches the longest length.
    """
    lengths = checked_lengths(lengths, samples)
    if min(lengths) < 2:
        raise ValueError(f"length {min(lengths)} leaves no token to score: use at least 2")
    bos = [] if bos_token_id is None else [bos_token_id]
    needed = max(lengths) - len(bos)
    longest, chosen = 0, []
    for name, ids in documents:
        longest = max(longest, len(ids))
        if len(chosen) < samples and len(ids) >= needed:
            chosen.append((name, np.asarray(ids[:needed])))
    if not chosen:
        raise ValueError(
            f"no document has {needed} tokens (the longest has {longest}): use shorter lengths"
        )
    how = {"mode": "truncate", "bos": "prepended" if bos else "none"}
    found = []
    for sample, (name, ids) in enumerate(chosen):
        whole = tuple(bos + ids.tolist())
        for length in lengths:
            found.append(
                Example(
                    TASK,
                    sample,
                    prompt="",
                    target="",
                    token_length=length,
                    document=name,
                    tokens=whole[:length],
                    context=whole,
                    how=how,
                )
            )
    return found


def from_corpus(
    corpus: Corpus, bos_token_id: int | None, split: str = "test", kind: str = "text"
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, token ids without BOS) of a split's documents of one kind, in their order."""
    documents = corpus.split(split)
    for index, (name, found) in enumerate(
        zip(documents.column("name"), documents.column("kind"), strict=True)
    ):
        if found == kind:
            ids = documents.tokens(index)
            yield name, ids[1:] if ids[0] == bos_token_id else ids


def measure(
    model: PreTrainedModel, examples: Sequence[Example], allow_beyond: bool = False
) -> Iterator[tuple[int, dict[str, float | int]]]:
    """Yield (index, row columns): the loss (nats, float64) summed over all tokens but the first.

    A document's lengths are beginnings of one another, and a token's loss depends on those before
    it only: its longest is read once for all of them, unless the model's RoPE changes with length.
    """
    shared: dict[tuple[int, ...], list[int]] = {}
    for index, example in enumerate(examples):
        read = example.context if example.context and _same_at_any_length(model) else example.tokens
        shared.setdefault(read, []).append(index)
    for read, indices in shared.items():
        losses = log_likelihood(model, np.array(read), allow_beyond=allow_beyond)
        for index in indices:
            scored = len(examples[index].tokens) - 1
            nll = float(losses[:scored].sum())
            yield index, {"nll": nll, "scored_tokens": scored, "num_tokens": scored + 1}


def _same_at_any_length(model: PreTrainedModel) -> bool:
    """Whether a token's rotation does not depend on how long the whole sequence is."""
    rope = getattr(model.config, "rope_parameters", None) or {}
    kind = rope.get("rope_type", "default")
    if kind == "longrope":
        return rope.get("short_factor") == rope.get("long_factor")
    return kind != "dynamic"


def perplexity(nll: Sequence[float], scored_tokens: Sequence[int]) -> float:
    """Perplexity of a set of documents: exp of all loss over all scored tokens."""
    return float(np.exp(np.sum(nll, dtype=np.float64) / np.sum(scored_tokens)))
