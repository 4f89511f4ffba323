"""Figures: rows and published numbers in, a matplotlib Figure out.

Belongs here: how things are drawn; one public function a figure. Does not: statistics. Read first:
`style`, then `evaluations`. Figures of the study stand in `study.figures`.
"""

from cream.plots.evaluations import (
    accuracy_by_length,
    accuracy_by_position,
    document_lengths,
    extensions,
    of_extension,
    perplexity_by_length,
    training_curves,
    training_metrics,
)
from cream.plots.frequencies import wavelengths
from cream.plots.needle import needle_heatmap, passkey_by_length
from cream.plots.positions import distance_coverage, indices_picture, middle_histogram
from cream.plots.ruler import task_heatmap

__all__ = [
    "accuracy_by_length",
    "accuracy_by_position",
    "distance_coverage",
    "document_lengths",
    "extensions",
    "indices_picture",
    "middle_histogram",
    "needle_heatmap",
    "of_extension",
    "passkey_by_length",
    "perplexity_by_length",
    "task_heatmap",
    "training_curves",
    "training_metrics",
    "wavelengths",
]
