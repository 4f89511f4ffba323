"""Text to training examples: read, cut into tokens, stored, drawn.

Belongs here: readers, the corpus on disk, and `dataset`, which applies a sampler to it. Does not:
questions of evaluations (`tasks`). Read first: `dataset`; then `corpus`, which it reads, and
`mixture`, the named recipes that 01_data builds. Any trainer of transformers' models takes
`ExampleDataset` with `collate` (notebooks/13_your_trainer).
"""

from cream.data.corpus import open_corpus
from cream.data.dataset import ExampleDataset, collate
from cream.data.mixture import RECIPES, prepare, training_texts

__all__ = [
    "RECIPES",
    "ExampleDataset",
    "collate",
    "open_corpus",
    "prepare",
    "training_texts",
]
