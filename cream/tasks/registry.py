"""The tasks that there are: their modules, notebooks, and how their rows are averaged.

What belongs here: one entry a task, whose name is that of its rows. What a task module must have is
in `base`. A new task is one module in this package and one entry here.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a report of rows needs neither torch nor transformers
    from cream.tasks.base import Task

__all__ = ["TASKS", "Entry", "find", "reported"]


@dataclass(frozen=True)
class Entry:
    """One task: `column` is what a report averages (`score`, or `perplexity` of nll), by `across`.

    `across` is "multiple" (lengths in windows) or a column of rows. `title` heads its table in a
    report; None: it has tables of its own elsewhere. `corpus` says whether questions are built from
    a corpus.
    """

    name: str  # of the module in this package
    notebook: str | None
    title: str | None = None
    across: str = "multiple"
    column: str = "score"
    corpus: bool = False

    @property
    def module(self) -> Task:
        """The task's module, imported when it is needed."""
        return importlib.import_module(f"cream.tasks.{self.name}")


TASKS: dict[str, Entry] = {
    "longchat_lines": Entry(
        "longchat_lines", "03_longchat_lines", "LongChat-Lines, exact answers in %"
    ),
    "kv_retrieval": Entry(
        "kv_retrieval", "04_lost_in_the_middle",
        "Key-value retrieval over all places, exact answers in %", across="num_keys",
    ),
    "needle": Entry("needle", "05_needle", "Needle at all depths, exact answers in %", corpus=True),
    "passkey": Entry("passkey", "05_needle", "Pass key in repeated text, exact answers in %"),
    "perplexity": Entry(
        "perplexity", "07_perplexity", "Perplexity", column="perplexity", corpus=True
    ),
    "historical_perplexity": Entry(
        "perplexity_variants", "07_perplexity", column="perplexity", corpus=True
    ),
    "longbench": Entry("longbench", "06_longbench"),  # rows: longbench-hotpotqa and others
    "ruler": Entry("ruler", "12_ruler"),  # rows: ruler-niah_single_1 and others
    "infinitebench": Entry("infinitebench", "12_ruler"),  # rows: infinitebench-passkey and others
}  # fmt: skip


def find(task: str) -> Entry | None:
    """Return the entry of a row's task; None for one that is not registered."""
    return TASKS.get(task) or TASKS.get(task.partition("-")[0])


def reported() -> dict[str, Entry]:
    """Return the entries that have a table in a report and a figure."""
    return {name: entry for name, entry in TASKS.items() if entry.title}
