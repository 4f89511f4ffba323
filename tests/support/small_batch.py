"""What workers of the grid import in tests: their module, and `test_runner.home`'s batch of 8.

They are forked off a process that knows of no patches. What they compile is traced (`tracing`).
"""

import functools

import torch
from tracing import BACKEND

from cream.study import design, worker

__all__ = ["design", "worker"]

design.BATCH = 8
torch.compile = functools.partial(torch.compile, backend=BACKEND)
