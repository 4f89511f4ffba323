"""The READMEs' lines can be copied: notebooks, parameters, modules and files are there."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
import yaml

from cream import notebook, presets

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "README.md").read_text()
TEXTS = {name: (ROOT / name).read_text() for name in ("README.md", "notebooks/README.md")}
BLOCKS = [
    block
    for text in TEXTS.values()
    for block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.M | re.S)
]
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
PACKAGES = {path.parent.name for path in (ROOT / "cream").glob("*/__init__.py")}


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
    written = "\n".join(TEXTS.values())
    targets = {words[1] for words in commands("make")} | set(re.findall(r"`make ([\w-]+)", written))
    assert targets >= {"reproduce", "test"}
    assert all(re.search(rf"^{target}:", makefile, re.M) for target in targets)


def test_python_commands_name_modules():
    """Those started by `python -m` or a launcher's `-m`; the paths of files, too."""
    written = "\n".join(TEXTS.values())
    names = set(re.findall(r"(?:-m|--module) (cream[\w.]*\w)", written))
    assert len(names) >= 8
    assert not [name for name in names if importlib.util.find_spec(name) is None]
    paths = set(re.findall(r"\b((?:cream|tests)/[\w/]+\.py)\b", written))
    assert paths and not [path for path in paths if not (ROOT / path).is_file()]


def test_every_notebook_has_a_row_with_its_cost_and_a_command():
    """And no other."""
    assert re.findall(r"^\| (\w+_\w+) \|", TEXT, re.M) == NOTEBOOKS
    assert {Path(words[1]).stem for words in commands("papermill")} == set(NOTEBOOKS)


def test_every_package_has_a_line():
    """And no other; what order they stand in is test_environment's."""
    listed = re.findall(r"^- `cream\.(\w+)`: ", TEXT, re.M)
    assert len(listed) == len(set(listed)) and set(listed) == PACKAGES


def test_the_readme_is_two_screens():
    """At most 10,000 characters: what is longer goes to notebooks/README.md."""
    assert len(TEXT) <= 10_000


def test_python_lines_run(monkeypatch):
    """As they stand, from the root of a clone."""
    monkeypatch.chdir(ROOT)
    blocks = [text for kind, text in BLOCKS if kind == "python"]
    assert blocks
    for text in blocks:
        exec(compile(text, "README.md", "exec"), {})


@pytest.mark.parametrize("name", TEXTS)
def test_links_and_pictures_are_there(name):
    """Those that point into the repository."""
    places = re.findall(r"\]\(([^)#]+)\)|src=\"([^\"]+)\"", TEXTS[name])
    assert places
    for place in (one or other for one, other in places):
        assert place.startswith("http") or (ROOT / name).parent.joinpath(place).exists(), place
