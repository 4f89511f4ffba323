"""LongBench: its data, definitions, metrics and the task itself.

Belongs here: what LongBench defines. Does not: other benchmarks (`evaluation.harness` runs those of
lm-evaluation-harness). Read first: `task`.
"""

from cream.tasks.longbench.task import *  # noqa: F403
from cream.tasks.longbench.task import __all__ as __all__
