"""The tasks that there are: each module has what a task must have, and none is missing."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

from cream import notebook, tasks
from cream.tasks import registry
from cream.tasks.base import Answered, Measured


@pytest.mark.parametrize("name", registry.TASKS)
def test_a_task_has_examples_and_a_score_or_a_measure(name):
    entry = registry.TASKS[name]
    assert callable(entry.module.examples)
    assert isinstance(entry.module, Answered) != isinstance(entry.module, Measured)
    assert getattr(entry.module, "TASK", name) == name
    if entry.notebook:
        assert (notebook.find_root() / "notebooks" / f"{entry.notebook}.ipynb").is_file()


def test_no_task_is_missing():
    """Every module with examples and a score or a measure is registered."""
    modules = [
        importlib.import_module(f"cream.tasks.{one.name}")
        for one in pkgutil.iter_modules(tasks.__path__)
    ]
    found = {
        one.__name__ for one in modules
        if hasattr(one, "examples") and isinstance(one, Answered | Measured)
    }  # fmt: skip
    assert found == {entry.module.__name__ for entry in registry.TASKS.values()}


def test_a_rows_task_is_found_by_its_name_or_its_beginning():
    assert registry.find("needle") is registry.TASKS["needle"]
    assert registry.find("longbench-hotpotqa") is registry.TASKS["longbench"]
    assert registry.find("ruler-niah_single_1") is registry.TASKS["ruler"]
    assert registry.find("infinitebench-passkey") is registry.TASKS["infinitebench"]
    assert registry.find("speed_long") is None
    assert set(registry.reported()) < set(registry.TASKS)
