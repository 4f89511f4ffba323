"""Perplexity of long documents at several lengths (protocols 5.5).

So far the release's mode "truncate": of each document the first W tokens, BOS among them, in one
forward. Rows hold a document's summed loss and its scored tokens; the perplexity of a set is
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
    return [
        Example(
            TASK,
            sample,
            prompt="",
            target="",
            token_length=length,
            document=name,
            tokens=tuple(bos + ids[: length - len(bos)].tolist()),
            how={"mode": "truncate", "bos": "prepended" if bos else "none"},
        )
        for length in lengths
        for sample, (name, ids) in enumerate(chosen)
    ]


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
    model: PreTrainedModel, example: Example, allow_beyond: bool = False
) -> dict[str, float | int]:
    """Sum the loss (nats, in double precision) over every token of the example but the first."""
    losses = log_likelihood(model, np.array(example.tokens), allow_beyond=allow_beyond)
    return {
        "nll": float(losses.sum()),
        "scored_tokens": len(losses),
        "num_tokens": len(example.tokens),
    }


def perplexity(nll: Sequence[float], scored_tokens: Sequence[int]) -> float:
    """Perplexity of a set of documents: exp of all loss over all scored tokens."""
    return float(np.exp(np.sum(nll, dtype=np.float64) / np.sum(scored_tokens)))
