"""Perplexity as other releases computed it, beside ours on the same documents (protocols 5.5, 5.6).

What belongs here: the ways in which published long-context perplexities were cut into parts and
averaged. They explain a published number; measure with `perplexity`.

Each gives a document a sum and a weight, kept as `nll` and `scored_tokens` of its row, and is
exp(sum of sums / sum of weights) over documents. YaRN's weight is windows, that of others tokens.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from transformers import PreTrainedModel

from cream.inference.likelihood import cached_log_likelihood, log_likelihood
from cream.statistics import perplexities
from cream.tasks.base import Example
from cream.tasks.perplexity import Window, needed_tokens, reads_alike, split_bos, windows
from cream.tasks.perplexity_texts import Document, choose
from cream.tasks.prompts import checked_lengths

__all__ = [
    "DEFINITIONS",
    "Part",
    "by_definition",
    "combine",
    "cut",
    "examples",
    "measure",
]

TASK = "historical_perplexity"
DEFINITIONS = {
    "truncate": "ours: the first W tokens in one forward",
    "sliding": "ours (and PoSE's): windows of w tokens, each token scored once",
    "cream": "CREAM's release: windows of w, the mean over all of each, weighed by its new tokens",
    "yarn": "YaRN's release: windows of w, the mean over windows of the mean over new tokens",
    "clex": "CLEX's release: runs of w with a cache, none's first token scored, weighed by tokens",
}


class Part(NamedTuple):
    """The losses of one window's or run's tokens, and how many of its tokens are in none before."""

    losses: np.ndarray
    new: int


def _tokens_once(parts: Sequence[Part]) -> tuple[float, int]:
    scored = [part.losses[-part.new :] for part in parts]
    return sum(float(each.sum()) for each in scored), sum(map(len, scored))


def _means_by_tokens(parts: Sequence[Part]) -> tuple[float, int]:
    return sum(part.losses.mean() * part.new for part in parts), sum(part.new for part in parts)


def _mean_of_means(parts: Sequence[Part]) -> tuple[float, int]:
    return sum(part.losses[-part.new :].mean() for part in parts), len(parts)


_COMBINE: dict[str, Callable[[Sequence[Part]], tuple[float, int]]] = {
    "truncate": _tokens_once,
    "sliding": _tokens_once,
    "cream": _means_by_tokens,
    "yarn": _mean_of_means,
    "clex": _means_by_tokens,
}


def combine(name: str, parts: Sequence[Part]) -> tuple[float, int]:
    """Return one document's (sum, weight) by the definition `name`, from the losses of its parts.

    The parts are the windows that `cut` gives, or for "clex" the runs, whose tokens are all new.
    """
    _known([name])
    total, weight = _COMBINE[name](parts)
    return float(total), weight


def cut(name: str, num_tokens: int, window: int, stride: int, bos: bool) -> list[Window]:
    """Return the windows in which `name` reads the `num_tokens` of a document that are not BOS.

    YaRN's and ours hold `window` tokens with BOS, CREAM's `window` tokens and BOS (for
    W - 1 = 65,535 tokens, window 32,768 and stride 4,096 they are 9).
    """
    if name == "truncate":
        return [Window(0, num_tokens, num_tokens)]
    return windows(num_tokens, window if name == "cream" else window - bos, stride)


def examples(
    documents: Iterable[Document],
    lengths: Sequence[int],
    samples: int,
    window: int,
    stride: int | None = None,
    bos_token_id: int | None = None,
    definitions: Sequence[str] = tuple(DEFINITIONS),
    corpus: str | None = None,
) -> list[Example]:
    """Ask for the same documents, cut to every length (tokens, BOS counted), by each definition.

    `window` is what the models see at once, `stride` how far windows move (None: window / 8, as
    CREAM's 4,096 of 32,768). ValueError for an unknown definition, for a stride that is not from 1
    to window - 1, and where CLEX's last run is one token, which has no loss.
    """
    lengths = checked_lengths(lengths, samples)
    _known(definitions)
    stride = max(1, window // 8) if stride is None else stride
    if not 1 <= stride < window:
        raise ValueError(f"stride {stride} must be from 1 to {window - 1} in windows of {window}")
    alone = [length for length in lengths if length % window == 1 or length < 2]
    if alone and "clex" in definitions:
        raise ValueError(
            f"length {alone[0]} leaves CLEX's last run of {window} tokens a single one, which has "
            "no loss: use another length or window"
        )
    bos = [] if bos_token_id is None else [bos_token_id]
    of_corpus = {} if corpus is None else {"corpus": corpus}
    needed = needed_tokens(lengths, bos_token_id)
    found = []
    for sample, (name, ids) in enumerate(choose(documents, needed, samples).documents):
        whole = tuple(bos + ids[:needed].tolist())
        for definition in definitions:
            how = {"mode": definition, "window": window, "stride": stride,
                   "bos": "prepended" if bos else "none", **of_corpus}  # fmt: skip
            found += [
                Example(TASK, sample, prompt="", target="", token_length=length, document=name,
                        tokens=whole[:length], context=whole, how=how)
                for length in lengths
            ]  # fmt: skip
    return found


def _known(names: Sequence[str]) -> None:
    if unknown := [name for name in names if name not in DEFINITIONS]:
        raise ValueError(
            f"there is no definition {unknown[0]!r}: choose from {', '.join(DEFINITIONS)}"
        )


def measure(
    model: PreTrainedModel, examples: Sequence[Example], allow_beyond: bool = False
) -> Iterator[tuple[int, dict[str, float | int]]]:
    """Yield (index, row columns): the sum and weight of one document by one definition.

    Windows that several definitions and lengths share are read once: a token's loss depends on
    those before it only (unless the model's RoPE changes with length; then nothing is shared).
    """
    documents: dict[tuple[int, ...], list[int]] = {}
    for index, example in enumerate(examples):
        documents.setdefault(example.context or example.tokens, []).append(index)
    for indices in documents.values():
        reader = _Reader(model, allow_beyond)
        for index in indices:
            total, weight = combine(examples[index].how["mode"], reader.parts(examples[index]))
            yield index, {"nll": total, "scored_tokens": weight,
                          "num_tokens": len(examples[index].tokens)}  # fmt: skip


class _Reader:
    """Gives the parts of one document's examples; what several of them need is read once.

    What is read depends on the document and its settings alone, never on which examples are left to
    do: a resumed evaluation gives the same to the last bit.
    """

    def __init__(self, model: PreTrainedModel, allow_beyond: bool) -> None:
        self._model, self._allow_beyond = model, allow_beyond
        self._alike = reads_alike(model)
        self._losses: dict[tuple[int, int], np.ndarray] = {}
        self._runs: dict[tuple[int, int], list[np.ndarray]] = {}

    def parts(self, example: Example) -> list[Part]:
        """Return the parts of an example whose document this is."""
        if example.how["mode"] == "clex":
            return self._of_runs(example)
        return [Part(self._window(example, one.start, one.end), one.new) for one in _cut(example)]

    def _window(self, example: Example, start: int, end: int) -> np.ndarray:
        """Losses of a window; the document's beginning is read once to its end, for "truncate"."""
        prefix, ids = split_bos(self._tokens(example), example.how)
        far = end
        if self._alike:
            far = len(ids) if start == 0 else min(start + example.how["window"], len(ids))
        if (start, far) not in self._losses:
            read = np.array(prefix + ids[start:far])
            losses = log_likelihood(self._model, read, allow_beyond=self._allow_beyond)
            self._losses[start, far] = losses
        return self._losses[start, far][: len(prefix) + end - start - 1]

    def _of_runs(self, example: Example) -> list[Part]:
        size, tokens, read = example.how["window"], example.tokens, self._tokens(example)
        if (size, len(read)) not in self._runs:
            runs = cached_log_likelihood(self._model, np.array(read), size, self._allow_beyond)
            self._runs[size, len(read)] = list(runs)
        sizes = [min(size, len(tokens) - start) for start in range(0, len(tokens), size)]
        runs = self._runs[size, len(read)]
        return [Part(runs[place][: own - 1], own) for place, own in enumerate(sizes)]

    def _tokens(self, example: Example) -> tuple[int, ...]:
        return (example.context if self._alike else None) or example.tokens


def _cut(example: Example) -> list[Window]:
    prefix, ids = split_bos(example.tokens, example.how)
    how = example.how
    return cut(how["mode"], len(ids), how["window"], how["stride"], bool(prefix))


def by_definition(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row a definition and token_length: value, low, high (perplexity), n documents."""
    named = rows.assign(definition=[json.loads(text)["mode"] for text in rows["settings"]])
    return perplexities(named, ["definition", "token_length"])
