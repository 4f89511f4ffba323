"""Models and tokenizers as folders or hub names: loaded, checked, saved.

Belongs here: what turns a path into a model and back, and what a card can hold. Does not: training
(`training`), answers (`inference`). Read first: `loading`, which guards every model against reading
gaps in the position ids as packed documents. `sharper` writes a copy that attends more sharply.
"""

from cream.models.checkpoints import save
from cream.models.loading import (
    check_pair,
    create,
    guard_positions,
    load,
    load_config,
    load_tokenizer,
    weights_hash,
)
from cream.rope.base import rotary_dim
from cream.rope.config import check_rotation, describe, extend

__all__ = [
    "check_pair",
    "check_rotation",
    "create",
    "describe",
    "extend",
    "guard_positions",
    "load",
    "load_config",
    "load_tokenizer",
    "rotary_dim",
    "save",
    "weights_hash",
]
