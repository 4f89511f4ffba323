"""The study's conditions and scalings, and how they are named in text."""

from __future__ import annotations

__all__ = ["condition_name"]


CONDITIONS = ("text", "mixed")


DENSE = ("dense", "dense-same")  # retrieval above all, for linear alone (plan "dense")


SCALINGS = ("linear", "ntk", "yarn")


NAMES = {"text": "text only", "mixed": "text with retrieval", "dense-same": "dense retrieval",
         "dense": "dense retrieval, other words"}  # fmt: skip


# The plan that repeats a variant after a tenth of its steps calls it so.
TENTH = {"tenth": "a tenth"}


# The plan "margin": tuned for 1.25 times the length that is used; what such a variant is called.
WIDER, WIDER_NAME = 1.25, "{}, wider"


def condition_name(condition: str) -> str:
    """Return what a reader calls the training data of a condition."""
    return NAMES.get(condition, condition)
