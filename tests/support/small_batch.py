"""Batches of 8 for the grid's workers that a test starts; those of test_runner's own process."""

from cream.study import design, worker

__all__ = ["BATCH", "worker"]

BATCH = 8
design.BATCH = BATCH
