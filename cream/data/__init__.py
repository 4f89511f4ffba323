"""Text to training examples: read, cut into tokens, stored, drawn.

Belongs here: readers, the corpus on disk, and `dataset`, which applies a sampler to it. Does not:
questions of evaluations (`tasks`). Read first: `dataset`; then `corpus`, which it reads, and
`mixture`, the named recipes that 01_data builds.
"""

from cream.data.corpus import open_corpus
from cream.data.mixture import RECIPES, prepare, training_texts

__all__ = [
    "RECIPES",
    "open_corpus",
    "prepare",
    "training_texts",
]
