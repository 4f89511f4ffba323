"""The README's lines can be copied: notebooks, parameters, modules and files are there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from cream import notebook, presets

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", TEXT, re.M | re.S)
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))


def commands(program: str) -> list[list[str]]:
    """Every line of a code block that starts with `program`, as words, without its comment."""
    lines = "\n".join(text for kind, text in BLOCKS if kind == "").replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith(f"{program} ")]


@pytest.mark.parametrize("words", commands("papermill"), ids=lambda words: words[2])
def test_papermill_lines_name_notebooks_parameters_and_presets(words):
    """Each with an output path, which papermill wants on a terminal."""
    _, source, out, *rest = words
    assert out.startswith("runs/") and out.endswith(".ipynb")
    given = {}
    while rest:
        flag, name, *rest = rest
        assert flag in {"-p", "-r", "-y"}
        given |= yaml.safe_load(name) if flag == "-y" else {name: rest.pop(0)}
    assert set(given) <= set(notebook.declared(ROOT / source))
    assert given.get("preset", "tiny") in presets.names()


def test_make_lines_name_targets():
    """In blocks and in the text."""
    makefile = (ROOT / "Makefile").read_text()
    targets = {words[1] for words in commands("make")} | set(re.findall(r"`make (\w+)", TEXT))
    assert targets >= {"reproduce", "test"}
    assert all(re.search(rf"^{target}:", makefile, re.M) for target in targets)


def test_every_notebook_has_a_row_with_its_cost():
    """And no other."""
    assert re.findall(r"^\| (\w+_\w+) \|", TEXT, re.M) == NOTEBOOKS


def test_python_lines_run(monkeypatch):
    """As they stand, from the root of a clone."""
    monkeypatch.chdir(ROOT)
    blocks = [text for kind, text in BLOCKS if kind == "python"]
    assert blocks
    for text in blocks:
        exec(compile(text, "README.md", "exec"), {})


def test_links_and_pictures_are_there():
    """Those that point into the repository."""
    places = re.findall(r"\]\(([^)#]+)\)|src=\"([^\"]+)\"", TEXT)
    for place in (one or other for one, other in places):
        assert place.startswith("http") or (ROOT / place).exists(), place
