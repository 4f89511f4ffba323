"""What every notebook does first: check its parameters, say what runs, find the project.

The first code cell after the parameters cell of a notebook is

    from cream import notebook

    run = notebook.begin("02_train", globals())

It works in JupyterLab, under papermill from any folder, and under nbval. Import modules above it,
or nothing: a literal in the notebook's names that its parameters cell does not declare is taken for
a misspelt parameter, because papermill runs on with the default and only warns.
"""

from __future__ import annotations

import ast
import difflib
import json
import math
import os
import tomllib
import warnings
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from cream.utils.provenance import commit, versions

__all__ = ["Cell", "Parameter", "Run", "begin", "cells", "declared", "find_root"]

_LITERALS = (bool, int, float, complex, str, bytes, list, tuple, dict, set, type(None))
_IPYTHON = {"In", "Out", "exit", "quit", "open", "get_ipython"}
_BEGUN = "_cream_begun"
_NUMBERS = "numbers"  # of a parameter that holds one or several: a number, a list, text with commas
# Whole numbers are at least 1, but for these; None alone means the preset's or the default.
_LEAST = {"seed": 0, "piece_tokens": 0, "historical": 0, "lora_rank": 0}
_FROM_ZERO = ("share", "held_out", "depths")  # other numbers are above 0
_SIMPLE = {"int": int, "str": str, "bool": bool, "list": list, "tuple": tuple, "dict": dict}


class Cell(NamedTuple):
    """One cell as it stands in a notebook's file: "code" or "markdown", its text and its tags."""

    kind: str
    source: str
    tags: tuple[str, ...]


class Parameter(NamedTuple):
    """One declared parameter; `kind` is its annotation or, without one, its default's type."""

    name: str
    kind: ast.expr | None
    default: object

    def __str__(self) -> str:
        kind = f": {ast.unparse(self.kind)}" if self.kind else ""
        return f"{self.name}{kind} = {self.default!r}"


@dataclass(frozen=True)
class Run:
    """One execution of a notebook: its checked parameters and where its project lies."""

    name: str
    root: Path
    parameters: dict[str, object]
    changed: dict[str, object] = field(default_factory=dict)

    def path(self, where: str | Path) -> Path:
        """Return `where` as an absolute path; a relative one starts at the project's root."""
        return self.root / Path(where).expanduser()

    def refuse_unread(self, *names: str, why: str, instead: str = "") -> None:
        """Refuse (ValueError) the parameters `names`, which are not read, if they are set.

        `why` says what was chosen that does not read them, `instead` what to do besides leaving
        them out. One at its default is not set.
        """
        found = [name for name in names if name in self.changed]
        if found:
            given = " and ".join(f"{name} is {self.changed[name]!r}" for name in found)
            other = f", or {instead}" if instead else ""
            raise ValueError(
                f"{self.name}: {given}, but {why}: leave out {' and '.join(found)}{other}"
            )

    def header(self) -> str:
        """Return what a reader needs to run this again: parameters, commit and versions."""
        changed = ", ".join(f"{name}={value!r}" for name, value in self.changed.items())
        found = ", ".join(f"{name} {version}" for name, version in versions().items())
        return (
            f"run       {self.name}, {changed or 'parameters as declared'}\n"
            f"commit    {commit(self.root)}\n"
            f"versions  {found}"
        )


def begin(name: str, namespace: MutableMapping[str, object], root: str | Path | None = None) -> Run:
    """Check the parameters of notebook `name` in `namespace` (its globals()) and print the header.

    One number or a list for a parameter of `numbers` becomes text with commas. A whole number given
    for a float becomes that float in `namespace`, true and false given as text for a bool that
    bool. None alone stands for a preset's value: 0 where 1 is the least, an empty text and numbers
    that are not finite are refused. Names that were not declared are refused by the first call in a
    kernel only: later ones are the reader's own. ValueError says which parameter, what was given
    and what is declared.
    """
    # Bars of a tenth of a second each would fill a notebook; read when transformers is imported.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", message="IProgress not found")
    root = find_root() if root is None else Path(root).resolve()
    parameters = declared(root / "notebooks" / f"{name}.ipynb")
    if _BEGUN not in namespace:
        _refuse_unknown(name, namespace, parameters)
    values = {known.name: _value(name, namespace, known) for known in parameters.values()}
    for known in parameters.values():
        if (wrong := _out_of_range(known, values[known.name])) and known.default is not None:
            raise ValueError(f"{name}: {wrong}; its default is {known.default!r}")
        if wrong:
            raise ValueError(f"{name}: {wrong}; leave it out for what None stands for")
    namespace.update(values)
    namespace[_BEGUN] = name
    changed = {key: value for key, value in values.items() if value != parameters[key].default}
    run = Run(name, root, values, changed)
    print(run.header())
    return run


def find_root(start: str | Path | None = None) -> Path:
    """Return the project's folder: above `start` (the working directory), or where cream lies."""
    here = Path.cwd() if start is None else Path(start).resolve()
    for folder in (here, *here.parents, Path(__file__).resolve().parents[1]):
        if _is_ours(folder / "pyproject.toml"):
            return folder
    raise FileNotFoundError(
        f"no project called cream-positions at or above {here}; start from inside a clone of it"
    )


def _is_ours(file: Path) -> bool:
    try:
        name = tomllib.loads(file.read_text(encoding="utf-8"))["project"]["name"]
    except (OSError, ValueError, KeyError):
        return False
    return name == "cream-positions"


def cells(path: str | Path) -> list[Cell]:
    """Return the cells of a notebook of format 4; ValueError if the file is none.

    Read as JSON, since nbformat takes 3 s to import (its schemas' checks of addresses).
    """
    try:
        book = json.loads(Path(path).read_text(encoding="utf-8"))
        if book["nbformat"] != 4:
            raise ValueError(f"its format is {book['nbformat']}")
        return [_cell(one) for one in book["cells"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no notebook of format 4 ({error}); save it again") from error


def _cell(written: dict) -> Cell:
    tags = written["metadata"].get("tags", [])
    return Cell(written["cell_type"], "".join(written["source"]), tuple(tags))


def declared(path: str | Path) -> dict[str, Parameter]:
    """Return what the cell tagged `parameters` of the notebook at `path` declares, in its order."""
    path = Path(path)
    if not path.is_file():
        there = sorted(file.stem for file in path.parent.glob("*.ipynb"))
        near = difflib.get_close_matches(path.stem, there, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(there) or 'none'}"
        raise FileNotFoundError(f"there is no notebook {path.name} in {path.parent.name}/; {hint}")
    tagged = [cell for cell in cells(path) if "parameters" in cell.tags]
    if len(tagged) != 1:
        raise ValueError(f"{path.name} has {len(tagged)} cells tagged `parameters`; it must have 1")
    statements = ast.parse(tagged[0].source).body
    return {found.name: found for found in (_parameter(path, each) for each in statements)}


def _parameter(path: Path, statement: ast.stmt) -> Parameter:
    match statement:
        case ast.AnnAssign(target=ast.Name(id=name), annotation=kind, value=value) if value:
            pass
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            kind = None
        case _:
            raise ValueError(
                f"{path.name}: `{ast.unparse(statement)}` stands in the parameters cell, which "
                "holds only lines like `scale: int = 8`"
            )
    try:
        default = ast.literal_eval(value)
    except ValueError:
        raise ValueError(f"{path.name}: the default of {name} must be a plain literal") from None
    if kind is None and default is not None:
        kind = ast.Name(type(default).__name__)
    return Parameter(name, kind and _plain_annotation(kind), default)


def _plain_annotation(kind: ast.expr) -> ast.expr:
    """Read "Optional[int]", in quotes: the form of `int | None` that papermill understands."""
    if isinstance(kind, ast.Constant) and isinstance(kind.value, str):
        kind = ast.parse(kind.value, mode="eval").body
    match kind:
        case ast.Subscript(value=ast.Name(id="Optional"), slice=inner):
            return ast.BinOp(inner, ast.BitOr(), ast.Constant(None))
    return kind


def _refuse_unknown(
    name: str, namespace: Mapping[str, object], parameters: Mapping[str, Parameter]
) -> None:
    for given, value in namespace.items():
        ours = given in parameters or given.startswith("_") or given in _IPYTHON
        if ours or not isinstance(value, _LITERALS):
            continue
        near = difflib.get_close_matches(given, parameters, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(
            f"{name} has no parameter {given!r}; {hint}It has: {', '.join(parameters) or 'none'}"
        )


def _value(name: str, namespace: Mapping[str, object], known: Parameter) -> object:
    if known.name not in namespace:
        raise ValueError(f"{name}: {known.name} is not set; run the parameters cell first")
    value = namespace[known.name]
    if value in ("true", "false") and ast.unparse(known.kind or ast.Constant(None)) == "bool":
        value = value == "true"  # papermill reads True and False alone
    if known.kind is not None and _several(known.kind) and _is_numbers(value):
        each = value if isinstance(value, list | tuple) else [value]
        return ",".join(one if isinstance(one, str) else repr(one) for one in each)
    if known.kind is None or _fits(value, known.kind):
        whole = isinstance(value, int) and not isinstance(value, bool)
        return float(value) if whole and _only_float(known.kind) else value
    # papermill reads the value of -p as Python would; -r hands it over as text.
    text = " (papermill: `-r` instead of `-p` passes text as it is)"
    hint = text if _fits("", known.kind) else _unquoted(value, known.kind)
    raise ValueError(
        f"{name} declares `{known}` and was given {value!r}, a {type(value).__name__}{hint}"
    )


def _unquoted(value: object, kind: ast.expr) -> str:
    """How to write a number that came as text, as YAML reads 1e-4, or whole but with a point."""
    if isinstance(value, float) and value.is_integer() and _fits(0, kind):
        return f": write {int(value)}, without a point"
    try:
        number = float(value if isinstance(value, str) else "")
    except ValueError:
        return ""
    plain = int(number) if math.isfinite(number) and number == int(number) else number
    return f": write {plain!r} without quotes (YAML 1.1 takes 1e-4 for text, 1.0e-4 for a number)"


def _out_of_range(known: Parameter, value: object) -> str | None:
    """Say what is wrong with a number or a text that is of the declared kind, if anything is."""
    if known.kind is not None and _several(known.kind) and isinstance(value, str):
        return _wrong_numbers(known.name, value)
    if isinstance(value, str):
        return None if value.strip(" \t\n,") else f"{known.name} is an empty text"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float):
        return _wrong_number(known.name, value)
    least = _LEAST.get(known.name, 1)
    return f"{known.name} is {value}; it must be at least {least}" if value < least else None


def _wrong_numbers(name: str, text: str) -> str | None:
    """Say what is wrong with numbers with commas between."""
    for part in text.split(","):
        try:
            number = float("" if "_" in part else part)
        except ValueError:
            return f"{name} is {text!r}; it must be numbers with commas between, as in '1,2,4'"
        if wrong := _wrong_number(name, number):
            return wrong
    return None


def _wrong_number(name: str, number: float) -> str | None:
    zero = name in _FROM_ZERO
    if math.isfinite(number) and (number > 0 or (zero and number == 0)):
        return None
    return f"{name} is {number}; it must be finite and {'at least' if zero else 'above'} 0"


def _several(kind: ast.expr) -> bool:
    return _NUMBERS in ast.unparse(kind).split(" | ")


def _is_numbers(value: object) -> bool:
    """Whether a value is a number or a list of them, by themselves or as text."""
    if isinstance(value, list | tuple):
        return (
            bool(value)
            and not any(isinstance(each, list | tuple) for each in value)
            and all(_is_numbers(each) or isinstance(each, str) for each in value)
        )
    return isinstance(value, int | float) and not isinstance(value, bool)


def _only_float(kind: ast.expr | None) -> bool:
    return kind is not None and _fits(1.0, kind) and "int" not in ast.unparse(kind).split(" | ")


def _fits(value: object, kind: ast.expr) -> bool:
    match kind:
        case ast.Constant(value=None):
            return value is None
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _fits(value, left) or _fits(value, right)
        case ast.Name(id="numbers"):
            return isinstance(value, str)
        case ast.Name(id="float"):
            return isinstance(value, int | float) and not isinstance(value, bool)
        case ast.Name(id="int"):
            return isinstance(value, int) and not isinstance(value, bool)
        case ast.Name(id=name) if name in _SIMPLE:
            return isinstance(value, _SIMPLE[name])
        case ast.Subscript(value=ast.Name(id="list" | "tuple"), slice=inner):
            inner = inner.elts[0] if isinstance(inner, ast.Tuple) else inner
            return isinstance(value, list | tuple) and all(_fits(each, inner) for each in value)
        case ast.Subscript(value=ast.Name(id="dict"), slice=ast.Tuple(elts=[key, inner])):
            return isinstance(value, dict) and all(
                _fits(k, key) and _fits(v, inner) for k, v in value.items()
            )
    raise ValueError(
        f"the annotation `{ast.unparse(kind)}` is not one of int, float, str, bool, list, tuple, "
        "dict, None and unions of them"
    )
