"""Names that notebooks take from the library are there, on lines no quick run reaches, too."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from types import ModuleType

import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))


def source_of(notebook: Path) -> str:
    """The code cells of a notebook, one after the other."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(one["source"]) for one in cells if one["cell_type"] == "code")


def imported(tree: ast.Module) -> dict[str, object]:
    """What `from cream... import name` binds; a name that is not there raises ImportError."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "cream":
            exec(ast.unparse(node), found)
    return found


def missing(source: str) -> list[str]:
    """The attributes of the library's modules that a source reads and that are not there."""
    tree = ast.parse(source)
    names = imported(tree)
    reads = [one for one in ast.walk(tree) if isinstance(one, ast.Attribute)]
    return [
        ast.unparse(one)
        for one in reads
        if isinstance(one.value, ast.Name)
        and isinstance(module := names.get(one.value.id), ModuleType)
        and not hasattr(module, one.attr)
    ]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_names_of_the_library_exist(notebook):
    assert missing(source_of(notebook)) == []


def test_a_missing_name_is_found():
    """06_longbench read TASKS of the room, which no longer exports it."""
    said = "from cream.tasks import longbench\nlongbench.TASKS, longbench.score"
    assert missing(said) == ["longbench.TASKS"]
