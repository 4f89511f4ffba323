"""The training examples of a run: which document, which tokens, which positions, in what order.

An example is a pure function of (seed, epoch, document); what a batch of them looks like to the
model is decided by `collate`.
"""

from __future__ import annotations

import logging
from pathlib import Path

import datasets
import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from cream.data.corpus import open_corpus
from cream.positions import PERMUTATION_STREAM, Indices, Sampler, example_rng
from cream.positions.base import FORWARD_STREAM
from cream.positions.clex import Clex

__all__ = ["ExampleDataset", "collate"]

log = logging.getLogger(__name__)


class ExampleDataset(Dataset):
    """The examples of a whole run in order: item k names its epoch and document by itself.

    Nothing else decides what an example is, so workers, processes and resuming cannot change it
    (Trainer does not call `set_epoch` after a resume in the middle of an epoch). ValueError when
    no document is long enough, or `tokenizer` is not the one that cut the corpus.
    """

    def __init__(
        self,
        corpus_path: str | Path,
        draw: Sampler,
        seed: int,
        num_examples: int,
        tokenizer: PreTrainedTokenizerBase | None = None,
        forward: int = 1,
    ):
        self.forward = forward  # examples of a forward pass, for what is drawn once for all
        self.documents = open_corpus(corpus_path, tokenizer).split("train")
        lengths = np.asarray(self.documents.num_tokens)
        self.usable = np.flatnonzero(lengths >= draw.min_tokens)
        if not len(self.usable):
            raise ValueError(
                f"no document of {corpus_path} has the {draw.min_tokens} tokens that "
                f"{draw.name} needs; the longest has {lengths.max(initial=0)}"
            )
        if dropped := len(lengths) - len(self.usable):
            log.info("%d of %d documents are too short and left out", dropped, len(lengths))
        self.draw, self.seed, self.num_examples = draw, seed, num_examples
        self._epoch, self._order = -1, self.usable

    @property
    def uneven(self) -> bool:
        """Whether examples differ in how many of their tokens are in the loss."""
        return any(len(self.documents.answers(int(document))) for document in self.usable)

    def __len__(self) -> int:
        return self.num_examples

    def document(self, item: int) -> tuple[int, int]:
        """Return the epoch of item k and the document it is drawn from."""
        if not 0 <= item < self.num_examples:
            raise IndexError(f"item {item} of {self.num_examples} examples")
        epoch, place = divmod(item, len(self.usable))
        if epoch != self._epoch:
            shuffle = example_rng(self.seed, epoch, 0, PERMUTATION_STREAM).permutation
            self._epoch, self._order = epoch, shuffle(self.usable)
        return epoch, int(self._order[place])

    def __getitem__(self, item: int) -> dict[str, np.ndarray]:
        epoch, document = self.document(item)
        tokens = self.documents.tokens(document)
        indices = self._indices(len(tokens), epoch, document, item)
        example = {"input_ids": tokens[indices.tokens], "position_ids": indices.positions}
        if isinstance(self.draw, Clex):
            example["clex_t"] = self.draw.factor(indices.positions)
        if len(answers := self.documents.answers(document)):
            begun, ended = (np.searchsorted(ends, indices.tokens, "right") for ends in answers.T)
            example["loss_mask"] = begun > ended  # spans stand in order
        return example

    def _indices(self, num_tokens: int, epoch: int, document: int, item: int) -> Indices:
        if isinstance(self.draw, Clex) and self.draw.shared:
            rng = example_rng(self.seed, 0, item // self.forward, FORWARD_STREAM)
            return self.draw(num_tokens, rng)
        return self.draw.draw(num_tokens, self.seed, epoch, document)

    def as_datasets(self) -> datasets.Dataset:
        """Return the same examples as a Dataset of the library datasets, drawn as they are read.

        TRL's trainers take no other kind; leave its columns (remove_unused_columns=False).
        """
        items = datasets.Dataset.from_dict({"item": np.arange(len(self))})
        return items.with_transform(self._rows)

    def _rows(self, asked: dict[str, list[int]]) -> dict[str, list[np.ndarray]]:
        """Columns of examples, as datasets has them: one key lacks in none or in all."""
        rows = [self[int(item)] for item in asked["item"]]
        if any("loss_mask" in row for row in rows):
            for row in rows:
                row.setdefault("loss_mask", np.ones(len(row["input_ids"]), dtype=bool))
        return {name: [row[name] for row in rows] for name in rows[0]}


def collate(examples: list[dict[str, np.ndarray]]) -> dict[str, torch.Tensor | tuple[int, ...]]:
    """Stack examples of equal length into int64 tensors `(batch, window)`.

    The all-ones mask is not decoration: without it transformers reads skipped positions as packed
    documents, and head, middle and tail no longer see each other. The first label is masked since
    no token predicts it, so that every transformers version divides by the same count. Positions
    between whole numbers are float32. `clex_t`, where a sampler draws it, stays a tuple of numbers,
    which no device has to be waited for.
    """
    tokens = torch.from_numpy(np.stack([e["input_ids"] for e in examples]).astype(np.int64))
    labels = tokens.clone()
    labels[:, 0] = -100
    for row, example in enumerate(examples):
        if "loss_mask" in example:
            labels[row, ~torch.from_numpy(example["loss_mask"])] = -100
    places = torch.from_numpy(np.stack([e["position_ids"] for e in examples]))
    batch = {
        "input_ids": tokens,
        "position_ids": places.float() if places.is_floating_point() else places,
        "attention_mask": torch.ones_like(tokens),
        "labels": labels,
    }
    if "clex_t" in examples[0]:
        batch["clex_t"] = tuple(e["clex_t"] for e in examples)
    return batch
