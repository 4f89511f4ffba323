"""The package as a thing to install and to read: one place of versions, one direction of imports.

Versions stand in constraints.txt, ranges in pyproject.toml; environment.yml and the Makefile use
them. Rooms import only from those before them.
"""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import json
import re
import shlex
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from cream import notebook, presets

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "cream").rglob("*.py"))
}
modules = pytest.mark.parametrize("module", MODULES)
Function = ast.FunctionDef | ast.AsyncFunctionDef


@functools.cache
def tree_of(module: str) -> ast.Module:
    """A module as it is parsed: by the worker that has these tests alone, and once."""
    return ast.parse(MODULES[module].read_text())


def pins() -> dict[str, Version]:
    """What constraints.txt says, every line of it an exact version."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    found = {}
    for line in lines:
        if line.strip() and not line.startswith("#"):
            one = Requirement(line)
            (specifier,) = one.specifier
            assert specifier.operator == "==", line
            assert canonicalize_name(one.name) not in found, f"{one.name} is pinned twice"
            found[canonicalize_name(one.name)] = Version(specifier.version)
    return found


def requirements(*extras: str) -> list[Requirement]:
    """The direct dependencies, and those of the extras named."""
    optional = PROJECT["optional-dependencies"]
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in optional[extra])]
    return [Requirement(line) for line in lines]


def test_every_direct_dependency_is_pinned_within_its_range():
    """What is installed by make is what pyproject promises to work."""
    pinned = pins()
    for one in requirements("test"):
        assert canonicalize_name(one.name) in pinned, f"{one.name} is not in constraints.txt"
        version = pinned[canonicalize_name(one.name)]
        assert one.specifier.contains(version), f"{one} excludes the pinned {version}"


def test_pyproject_gives_ranges_and_no_exact_version():
    """Exact ones stand in constraints.txt alone."""
    for one in requirements(*PROJECT["optional-dependencies"]):
        assert one.specifier and not any(s.operator in ("==", "===", "~=") for s in one.specifier)


def test_torch_is_pinned_without_a_local_suffix():
    """`+cpu` would keep every machine from its own build."""
    assert "torch==2.13.0" in (ROOT / "constraints.txt").read_text().splitlines()
    assert all(version.local is None for version in pins().values())


def test_environment_yml_takes_its_versions_from_constraints():
    """Nothing of its own but the Python, which pyproject allows."""
    given = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (pip,) = [one["pip"] for one in given if isinstance(one, dict)]
    assert pip == ["-c constraints.txt", "-e .[test,evaluation]"]
    conda = [one for one in given if isinstance(one, str)]
    versioned = [one for one in conda if re.search(r"[=<>]", one)]
    (python,) = versioned
    assert python.startswith("python=")
    allowed = Requirement(f"python {PROJECT['requires-python']}").specifier
    assert allowed.contains(python.removeprefix("python="))


def test_the_makefile_installs_with_constraints_and_nothing_else():
    """One `pip install`, held by constraints.txt."""
    installs = re.findall(r"pip install.*", (ROOT / "Makefile").read_text())
    assert [shlex.split(one.replace("--disable-pip-version-check ", "")) for one in installs] == [
        ["pip", "install", "-c", "constraints.txt", "-e", ".[test,evaluation]"]
    ]


@pytest.mark.slow
def test_what_is_imported_is_a_direct_dependency():
    """A package that another brings along may go when the other does."""
    found = {name.split(".")[0] for module in MODULES for name in _imported(tree_of(module))}
    known = importlib.metadata.packages_distributions()
    direct = {canonicalize_name(one.name) for one in requirements()}
    outside = {name for name in found if name in known and name != "cream"}
    # IPython comes with ipykernel; yaml and packaging with everything, and only tests use them.
    absent = {n for n in outside if not direct & {canonicalize_name(d) for d in known[n]}}
    # What only some runs take is looked for first, and asked for by name where it is missing.
    # gradio and starlette (extra `chat`) are only imported where the page is wanted.
    optional = {"IPython", "deepspeed", "gradio", "liger_kernel", "starlette", "torchao"}
    assert absent <= optional, absent


def make(*words: str) -> list[list[str]]:
    """The commands that make would run, as words, without running them."""
    told = ["make", "-n", "BIN=bin", *words]
    said = subprocess.run(told, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [shlex.split(line) for line in said.replace("\\\n", " ").splitlines()]


def test_make_reproduce_runs_each_notebook_with_parameters_it_has(tmp_path):
    """The lines of the Makefile, against the parameters cells."""
    lines = [line for line in make("reproduce", f"OUT={tmp_path}") if "papermill" in line]
    names = []
    for line in lines:
        source, out = [word for word in line if word.endswith(".ipynb")]
        declared = notebook.declared(ROOT / source)
        given = {line[i + 1] for i, word in enumerate(line) if word == "-p"}
        assert given <= set(declared), f"{source} has no {given - set(declared)}"
        assert out.startswith(str(tmp_path))
        names.append(Path(source).stem[:2])
    assert names[:3] == ["01", "02", "02"] and names[-1] == "09"
    assert sorted(names[3:-1]) == ["03", "04", "05", "07"]


def test_make_reproduce_asks_for_the_base_as_the_preset_scales_it(tmp_path):
    """The scaled, untuned model has the tuned ones' scaling and scale."""
    train = presets.get("miniature").train
    lines = make("reproduce", f"OUT={tmp_path}")
    asked = [line[line.index("models") + 1] for line in lines if "models" in line]
    assert len(asked) == 4 and len(set(asked)) == 1
    runs = [f"{tmp_path}/pose", f"{tmp_path}/cream"]
    assert asked[0].split(",") == ["original", f"scaled:{train.scaling}:{train.scale}", *runs]


def tracked() -> list[Path]:
    """Every file that git knows; skips where there is no git."""
    git = ["git", "-C", str(ROOT), "ls-files", "-z"]
    try:
        said = subprocess.run(git, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git clone")
    return [ROOT / name for name in said.split("\0") if name and (ROOT / name).is_file()]


def test_no_tracked_file_names_a_path_of_this_machine():
    """Nor the home or the clone of whoever runs the tests."""
    own = {str(ROOT), str(Path.home())} - {"/", "/root"}
    wrong = []
    for path in tracked():
        content = path.read_bytes()
        if path == Path(__file__) or b"\0" in content[:8000]:
            continue
        text = content.decode("utf-8", errors="replace")
        found = [place for place in own if re.search(rf"{re.escape(place)}(?![\w-])", text)]
        found += re.findall(r"(?<![\w.~$}])/(?:home|Users|root|work)/[\w.-]+/?", text)
        wrong += [f"{path.relative_to(ROOT)}: {place}" for place in found]
    assert not wrong, "\n".join(wrong)


def _imported(tree: ast.AST) -> set[str]:
    """Every module a file imports anywhere in it, and names that may be modules of a package."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


# Data flows down this list: each room imports only from those before it.
ROOMS = """
utils positions rope models data results statistics notebook inference tasks training presets
evaluation plots export chat study performance reproduction verify
""".split()


@modules
def test_a_room_imports_only_from_those_before_it(module):
    """One direction of imports between packages, so that each can be read without the later."""
    room = module.split(".")[1] if "." in module else None
    if room is None:
        return
    assert room in ROOMS, f"{room} is a new room: give it a place in ROOMS"
    taken = {n.split(".")[1] for n in _imported(tree_of(module)) if n.startswith("cream.")}
    later = {one for one in taken if one in ROOMS[ROOMS.index(room) + 1 :]}
    assert not later, f"{module} imports {', '.join(sorted(later))}, which come after {room}"


def test_the_pages_of_each_model_import_nothing_of_the_other():
    """What both need stands in `reproduction` itself, and imports of neither."""
    rooms = {"smollm2", "miniature"}
    for module in MODULES:
        if module.startswith("cream.reproduction."):
            imported = (name.split(".") for name in _imported(tree_of(module)))
            taken = {one[2] for one in imported if one[1:2] == ["reproduction"] and one[2:]}
            assert not taken & (rooms - {module.split(".")[2]}), module


def test_a_room_says_what_belongs_in_it():
    """Each package's docstring: what belongs here, what does not, which file to read first."""
    for name, path in MODULES.items():
        if path.name == "__init__.py" and name != "cream":
            said = " ".join(ast.get_docstring(tree_of(name)).split())
            assert all(one in said for one in ("Belongs here", "Does not", "Read first")), name


def test_the_samplers_need_neither_torch_nor_transformers():
    """00_method is a notebook of seconds: numbers alone."""
    code = "import sys, cream.positions; print({'torch', 'transformers'} & set(sys.modules))"
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert said.stdout.strip() == "set()", said.stderr


@modules
def test_a_module_imports_nothing_of_notebooks_and_tests(module):
    """Data flows one way."""
    roots = {name.split(".")[0] for name in _imported(tree_of(module))}
    assert not roots & {"notebooks", "tests", "conftest"}


@modules
def test_a_module_says_what_belongs_in_it_and_stays_a_room(module):
    """A docstring, `__all__`, functions of at most 60 lines."""
    tree = tree_of(module)
    assert ast.get_docstring(tree)
    if (lines := len(MODULES[module].read_text().splitlines())) > 400:
        warnings.warn(f"{module} has {lines} lines: does it hold two concepts?", stacklevel=1)
    long = {
        node.name: node.end_lineno - node.lineno + 1
        for node in ast.walk(tree)
        if isinstance(node, Function) and node.end_lineno - node.lineno >= 60
    }
    assert not long
    if MODULES[module].name != "__init__.py":
        assert _public(tree) is not None, "no __all__"


@modules
def test_functions_are_typed_and_public_ones_documented(module):
    """Every argument and result of every function; a docstring where others look."""
    tree = tree_of(module)
    untyped = [
        node.name
        for node in ast.walk(tree)
        if isinstance(node, Function) and not (_typed(node) and _returns(node))
    ]
    assert not untyped
    missing = [node.name for node in _documented(tree) if not ast.get_docstring(node)]
    assert not missing


def _public(tree: ast.Module) -> list[str] | None:
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    return None


def _typed(node: Function) -> bool:
    a = node.args
    given = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
    return all(one.annotation for one in given if one.arg not in ("self", "cls"))


def _returns(node: Function) -> bool:
    return node.returns is not None or node.name == "__init__"


def _documented(tree: ast.Module) -> list[Function | ast.ClassDef]:
    """Public functions and classes of a module, and public methods of its public classes."""
    top = [n for n in tree.body if isinstance(n, Function | ast.ClassDef) and n.name[0] != "_"]
    methods = [
        method
        for node in top
        if isinstance(node, ast.ClassDef)
        for method in node.body
        if isinstance(method, Function) and method.name[0] != "_"
    ]
    return top + methods


def test_numbers_of_the_citation_and_the_package_agree():
    """One version, one licence."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"] == importlib.metadata.version(PROJECT["name"])
    assert citation["license"] == PROJECT["license"]["text"] == "Apache-2.0"
    assert json.dumps(citation["preferred-citation"]["authors"])


@pytest.mark.parametrize(
    "module", [name for name, path in MODULES.items() if not path.name.startswith("__")]
)
def test_a_public_name_is_exported_where_it_is_defined(module):
    """And once more by the room's door, its __init__, at most."""
    brought = {
        alias.asname or alias.name
        for node in tree_of(module).body if isinstance(node, ast.ImportFrom)
        for alias in node.names if (node.module or "").startswith("cream")
    }  # fmt: skip
    assert not brought.intersection(_public(tree_of(module)) or ())
