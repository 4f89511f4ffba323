"""torch.compile without the C++: graphs traced, differentiated and divided as ever, then run.

Generating a layer's C++ and building it takes 10 to 40 s, and no GPU runs it. What these tests ask
(is it one graph, does the tail see the head, what is kept for the backward pass) is decided before
that. Built code is run where its arithmetic is in question: by tests/training/test_optimizer.py,
and on a GPU by tests/training/test_gpu.py.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

import torch

from cream.training import loss

# With the decompositions and the division between forward and backward pass that inductor has.
BACKEND = "aot_eager_decomp_partition"


@contextlib.contextmanager
def traced() -> Iterator[None]:
    """Let everything that is compiled meanwhile be traced alone."""
    built = torch.compile
    _forget()
    torch.compile = functools.partial(built, backend=BACKEND)
    try:
        yield
    finally:
        torch.compile = built
        _forget()


def _forget() -> None:
    """Drop what was compiled by the other way."""
    loss._compiled.cache_clear()
    torch.compiler.reset()
