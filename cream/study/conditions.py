"""The study's conditions and scalings, and how they are named in text."""

from __future__ import annotations

__all__ = ["asked_as", "condition_name"]


CONDITIONS = ("text", "mixed")


DENSE = ("dense", "dense-same")  # retrieval above all, for linear alone (plan "dense")


SCALINGS = ("linear", "ntk", "yarn")


NAMES = {"text": "text only", "mixed": "text with retrieval", "dense-same": "dense retrieval",
         "dense": "dense retrieval, other words"}  # fmt: skip


# The plan that repeats a variant after a tenth of its steps calls it so.
TENTH = {"tenth": "a tenth"}


# The plan "margin": tuned for 1.25 times the length that is used; what such a variant is called.
WIDER, WIDER_NAME = 1.25, "{}, wider"


# The plan "sharper": the logits of attention times a factor when a model is asked, not before; what
# such a variant, and the questions that it is asked, are called.
SHARPER, SHARPER_NAME = (1.1, 1.2, 1.35), "{} x{:g}"


def asked_as(asked: str) -> tuple[str, float]:
    """Return which set of questions a run is asked, and by which factor its attention is sharper.

    "main x1.2" is the set "main" by 1.2, and "main" by 1.
    """
    name, _, factor = asked.partition(" x")
    return name, float(factor or 1)


def condition_name(condition: str) -> str:
    """Return what a reader calls the training data of a condition."""
    return NAMES.get(condition, condition)
