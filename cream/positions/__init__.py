"""Which tokens of a document are read, and the position ids they are assigned: the method.

Belongs here: samplers and what can be computed of them, pure functions of numbers. Does not:
tensors, files, models (`data.dataset` applies a sampler to a corpus). Read first: `cream`.
A new sampler subclasses `base.Sampler` and joins `registry`.
"""

from cream.positions.base import PERMUTATION_STREAM, Indices, Sampler, example_rng
from cream.positions.baselines import pose_indices
from cream.positions.cream import alpha_probabilities, continuity_ends, cream_indices, end_bounds
from cream.positions.registry import METHODS, RELEASES, sampler

__all__ = [
    "Indices",
    "METHODS",
    "PERMUTATION_STREAM",
    "RELEASES",
    "Sampler",
    "alpha_probabilities",
    "continuity_ends",
    "cream_indices",
    "end_bounds",
    "example_rng",
    "pose_indices",
    "sampler",
]
