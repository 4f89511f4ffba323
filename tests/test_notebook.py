"""A notebook refuses what its parameters cell does not declare, wherever its kernel started."""

import os
from pathlib import Path

import nbformat
import papermill
import pytest

from cream import notebook

PARAMETERS = """\
scale: int = 8  # s, the factor the window grows by
lr: float = 1e-4  # learning rate
method: str = "cream"  # one of positions.METHODS
steps: int | None = None  # None: the preset's
lengths: list[int] = [1, 2, 4]  # in multiples of N
resume: bool = True
name = "x"
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder that looks like the project, with one tiny notebook."""
    root = tmp_path / "clone"
    (root / "notebooks").mkdir(parents=True)
    (root / "pyproject.toml").write_text('[project]\nname = "cream-positions"\n')
    write(root, PARAMETERS)
    return root


def write(root: Path, parameters: str, tags: tuple[str, ...] = ("parameters",)) -> Path:
    first = nbformat.v4.new_code_cell(parameters, metadata={"tags": list(tags)})
    begin = (
        f"from cream import notebook\nrun = notebook.begin('tiny', globals(), root={str(root)!r})\n"
    )
    last = "run.path('runs/seen.txt').parent.mkdir(exist_ok=True)\n" \
           "_ = run.path('runs/seen.txt').write_text(f'{scale} {lr} {steps}')"  # fmt: skip
    cells = [first, nbformat.v4.new_code_cell(begin), nbformat.v4.new_code_cell(last)]
    book = nbformat.v4.new_notebook(cells=cells)
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    book.metadata["language_info"] = {"name": "python"}
    path = root / "notebooks" / "tiny.ipynb"
    nbformat.write(book, path)
    return path


def given(**changes: object) -> dict:
    space: dict = {"In": [""], "Out": {}, "_hidden": 1, "path_class": Path, "os": os}
    exec(PARAMETERS, space)
    return {**space, **changes}


def test_declared_values_pass_and_are_said(project, capsys):
    """The header names what differs from the declaration, the commit and the versions."""
    space = given(scale=64, lr=1, steps=20)
    run = notebook.begin("tiny", space, root=project)
    said = capsys.readouterr().out
    assert run.changed == {"scale": 64, "lr": 1.0, "steps": 20}
    assert "scale=64, lr=1.0, steps=20" in said and "commit" in said and "torch" in said
    assert str(project) not in said and len(said.splitlines()) == 3
    assert os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] == "1"  # before transformers is imported
    assert isinstance(space["lr"], float) and run.parameters["method"] == "cream"
    assert run.path("runs/x") == project / "runs/x" and run.path("/tmp/x") == Path("/tmp/x")


@pytest.mark.parametrize(
    ("misspelt", "near"), [("scael", "scale"), ("step", "steps"), ("Method", "method")]
)
def test_a_misspelt_parameter_names_the_closest(project, misspelt, near):
    """papermill only warns and runs on with the default."""
    with pytest.raises(ValueError, match=f"no parameter '{misspelt}'; did you mean '{near}'"):
        notebook.begin("tiny", given(**{misspelt: 64}), root=project)


def test_an_unknown_parameter_like_no_other_lists_them(project):
    """Nothing is close, so all are named."""
    with pytest.raises(ValueError, match="no parameter 'zzz'; It has: scale, lr, method"):
        notebook.begin("tiny", given(zzz=None), root=project)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("scale", "abc", "`scale: int = 8` and was given 'abc', a str"),
        ("scale", 8.0, "a float: write 8, without a point"),
        ("scale", 8.5, "8.5, a float"),
        ("scale", True, "a bool"),
        ("scale", None, "a NoneType"),
        ("lr", "1e-4x", "`lr: float = 0.0001`"),
        ("lr", False, "a bool"),
        ("steps", "none", "int | None"),
        ("lengths", [1, "2"], "list"),
        ("lengths", 3, "list"),
        ("resume", 1, "bool"),
        ("name", 64, "papermill: `-r`"),
    ],
)
def test_a_mistyped_parameter_is_refused(project, name, value, says):
    """The message shows the declaration, the value and its type."""
    with pytest.raises(ValueError) as error:
        notebook.begin("tiny", given(**{name: value}), root=project)
    assert says in str(error.value) and name in str(error.value)


def test_true_and_false_are_read_as_a_shell_writes_them(project):
    """papermill takes True and False alone for what they are, and hands `true` over as text."""
    space = given(resume="false", method="true")
    run = notebook.begin("tiny", space, root=project)
    assert space["resume"] is False and run.parameters["resume"] is False
    assert space["method"] == "true"
    with pytest.raises(ValueError, match="given 'yes', a str"):
        notebook.begin("tiny", given(resume="yes"), root=project)


def test_a_parameter_that_is_not_read_is_refused_if_it_is_set(project):
    """At its default it is not, also where that was given."""
    run = notebook.begin("tiny", given(scale=4, method="pose", lr=1e-4), root=project)
    run.refuse_unread("lr", "steps", "resume", why="so it is")
    with pytest.raises(ValueError, match="^tiny: scale is 4, but steps say it: leave out scale$"):
        run.refuse_unread("steps", "scale", why="steps say it")
    says = "scale is 4 and method is 'pose', but so it is: leave out scale and method, or go$"
    with pytest.raises(ValueError, match=says):
        run.refuse_unread("scale", "method", why="so it is", instead="go")


def test_later_calls_in_a_kernel_check_types_only(project):
    """In JupyterLab the reader has names of their own by the time a cell is run again."""
    space = given()
    notebook.begin("tiny", space, root=project)
    space["mine"] = 3
    notebook.begin("tiny", space, root=project)
    space["scale"] = "8"
    with pytest.raises(ValueError, match="scale"):
        notebook.begin("tiny", space, root=project)


def test_the_parameters_cell_must_have_run(project):
    """A kernel restarted in the middle says what to do."""
    space = given()
    del space["lr"]
    with pytest.raises(ValueError, match="lr is not set; run the parameters cell first"):
        notebook.begin("tiny", space, root=project)


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ("import os", "import os"),
        ("x: int = len('ab')", "plain literal"),
        ("x: Path = '.'", "annotation `Path`"),
        ("x: int", "x: int"),
    ],
)
def test_a_parameters_cell_that_cannot_be_read_is_named(project, cell, says):
    """Only literals stand there, of types that can be checked."""
    write(project, cell)
    with pytest.raises(ValueError, match=says):
        notebook.begin("tiny", {"x": "."}, root=project)


def test_a_notebook_without_parameters_or_that_is_not_there(project):
    """Both name the notebook; a near name is offered."""
    write(project, PARAMETERS, tags=())
    with pytest.raises(ValueError, match="tiny.ipynb has 0 cells tagged"):
        notebook.begin("tiny", given(), root=project)
    with pytest.raises(FileNotFoundError, match="did you mean 'tiny'"):
        notebook.begin("tny", given(), root=project)


def test_none_defaults_without_annotation_take_anything(project):
    """There is nothing to check them against."""
    write(project, "x = None")
    assert notebook.begin("tiny", {"x": 3}, root=project).changed == {"x": 3}


def test_the_root_is_found_from_inside_and_from_anywhere(project, tmp_path, monkeypatch):
    """Above the working directory, else where the package lies; another project is passed over."""
    other = project / "notebooks" / "other"
    other.mkdir()
    (other / "pyproject.toml").write_text('[project]\nname = "other"\n')
    assert notebook.find_root(other) == project
    monkeypatch.chdir(project / "notebooks")
    assert notebook.find_root() == project
    monkeypatch.chdir(tmp_path)
    assert notebook.find_root() == Path(notebook.__file__).resolve().parents[1]


def execute(project: Path, out: Path, **parameters: object) -> None:
    papermill.execute_notebook(
        project / "notebooks" / "tiny.ipynb", out, parameters, progress_bar=False
    )


@pytest.mark.slow
def test_papermill_end_to_end_from_another_folder(project, tmp_path, monkeypatch):
    """Good parameters run and paths start at the root; a misspelt one stops the notebook."""
    monkeypatch.chdir(tmp_path)
    execute(project, tmp_path / "out.ipynb", scale=64, lr=1)
    assert (project / "runs" / "seen.txt").read_text() == "64 1.0 None"
    (project / "runs" / "seen.txt").unlink()
    with pytest.raises(papermill.PapermillExecutionError, match="did you mean 'scale'"):
        execute(project, tmp_path / "out.ipynb", scael=64)
    assert not (project / "runs" / "seen.txt").exists()


def test_the_form_of_optional_that_papermill_understands(project):
    """`int | None` stops papermill's parser; in quotes, Optional[int] does not."""
    write(project, 'scale: "Optional[int]" = None  # in windows\n')
    for scale in (None, 64):
        assert notebook.begin("tiny", {"scale": scale}, root=project).parameters == {"scale": scale}
    with pytest.raises(ValueError, match=r"scale: int \| None = None.*'64x'"):
        notebook.begin("tiny", {"scale": "64x"}, root=project)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [(8, "8"), (7.8, "7.8"), ([0.6, 1, 2], "0.6,1,2"), ("0.6,1", "0.6,1"), (["1", 2], "1,2"),
     ((75, 140), "75,140"), (None, None)],
)  # fmt: skip
def test_one_number_a_list_and_text_with_commas_are_all_taken(given, wanted):
    known = notebook.Parameter("lengths", notebook.ast.parse("numbers | None").body[0].value, None)
    assert notebook._value("x", {"lengths": given}, known) == wanted


@pytest.mark.parametrize("given", [True, [], {}, [[1]], [True], {"a": 1}])
def test_what_is_no_number_is_still_refused(given):
    known = notebook.Parameter("lengths", notebook.ast.parse("numbers | None").body[0].value, None)
    with pytest.raises(ValueError, match="x declares `lengths: numbers"):
        notebook._value("x", {"lengths": given}, known)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("03_longchat_lines", ["lengths"]), ("04_lost_in_the_middle", ["lengths", "num_keys"]),
     ("05_needle", ["lengths", "depths"]), ("07_perplexity", ["lengths"])],
)  # fmt: skip
def test_every_notebook_takes_them(name, parameters):
    known = notebook.declared(notebook.find_root() / "notebooks" / f"{name}.ipynb")
    for each in parameters:
        assert notebook._value(name, {each: 8}, known[each]) == "8"


@pytest.mark.parametrize(
    "path", sorted(notebook.find_root().glob("notebooks/*.ipynb")), ids=lambda path: path.stem
)
def test_cells_are_those_that_nbformat_reads(path):
    wanted = nbformat.read(path, as_version=4).cells
    found = notebook.cells(path)
    assert [(c.kind, c.source, list(c.tags)) for c in found] == [
        (c.cell_type, c.source, c.metadata.get("tags", [])) for c in wanted
    ]


@pytest.mark.parametrize(
    ("content", "says"),
    [('{"nbformat": 3, "worksheets": []}', "its format is 3"), ("[]", "indices"),
     ('{"nbformat": 4}', "cells"), ("{", "is no notebook of format 4")],
)  # fmt: skip
def test_a_file_that_is_no_notebook_of_today_is_refused(tmp_path, content, says):
    (tmp_path / "old.ipynb").write_text(content)
    with pytest.raises(ValueError, match=f"old.ipynb.*{says}|{says}"):
        notebook.cells(tmp_path / "old.ipynb")
