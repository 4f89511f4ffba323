"""Models evaluated: which models, run over a task's examples, into rows.

Belongs here: finding models by name, the loop from examples to rows, several processes, judges and
lm-evaluation-harness. Does not: prompts and scores (`tasks`). Read first: `models`, then `runner`.
`python -m cream.evaluation NOTEBOOK` runs a notebook's evaluation without the notebook.
"""

from cream.evaluation.model_spec import ModelSpec
from cream.evaluation.models import (
    base_of,
    evaluate_models,
    find,
    prompt_lengths,
    token_lengths,
)

__all__ = [
    "ModelSpec",
    "base_of",
    "evaluate_models",
    "find",
    "prompt_lengths",
    "token_lengths",
]
