"""Evaluations from the command line: killed, restarted, over one process and over several."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import warm_python

from cream import models, results
from cream.evaluation import __main__ as evaluation
from cream.tasks import ruler_questions

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "CREAM_COMMIT": "tested"}
ALONE = ["-m"]
TWO = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d",
       "--rdzv-endpoint", "localhost:0", "-m"]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_model, tiny_tokenizer) -> Path:
    """A base of 128 tokens, and the same scaled to 512."""
    root = tmp_path_factory.mktemp("evaluated")
    models.save(tiny_model(128), tiny_tokenizer, root / "base")
    scaled = models.load(root / "base", scaling="yarn", scale=4)
    models.save(scaled, tiny_tokenizer, root / "run")
    return root


def asked(place: Path, rows: Path, samples: int = 40) -> list[str]:
    """The arguments of an evaluation of two models at two lengths."""
    told = {"preset": "tiny", "base": place / "base", "models": f"original,{place / 'run'}",
            "lengths": "1,2.5", "samples": samples, "rows": rows}  # fmt: skip
    options = [part for name, value in told.items() for part in (f"--{name}", str(value))]
    return ["longchat_lines", *options]


def answered(rows: Path) -> int:
    """Rows of a file and its parts, torn ones not counted."""
    return sum(path.read_bytes().count(b"\n") for path in rows.parent.glob("*.jsonl"))


def start(launcher: list[str], arguments: list[str], log: Path) -> subprocess.Popen:
    python = warm_python.executable()
    with log.open("ab") as file:
        return subprocess.Popen(
            [python, *launcher, "cream.evaluation", *arguments], cwd=ROOT, stdout=file,
            stderr=file, env={**os.environ, **ENVIRONMENT, "PYTHON_EXEC": python},
        )  # fmt: skip


def compared(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.drop(columns="date").sort_values("key", ignore_index=True)


@pytest.mark.slow
def test_killed_three_times_an_evaluation_ends_with_the_same_rows(tmp_path, place, monkeypatch):
    """SIGKILL at random samples, of two processes and of one; two end what is left."""
    rows, log = tmp_path / "killed" / "rows.jsonl", tmp_path / "log"
    rows.parent.mkdir()
    draw, total = random.Random(7), 160
    for launcher in (TWO, ALONE, ALONE):
        least = answered(rows) + draw.randint(3, 25)
        child = start(launcher, asked(place, rows), log)
        deadline = time.monotonic() + 240
        while answered(rows) < least:
            assert child.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.002)
        warm_python.kill(child)  # a launcher's workers, too, which would outlive it
        # Not `least` or more: rows on their way from a part into the file are there twice.
        assert 0 < answered(rows) < total
    with rows.open("ab") as file:
        file.write(rows.read_bytes().splitlines()[0][:50])  # torn, as a full page cache leaves it
    assert start(TWO, asked(place, rows), log).wait(300) == 0, log.read_text()
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    evaluation.main(asked(place, tmp_path / "whole.jsonl"))
    again, whole = results.read(rows), results.read(tmp_path / "whole.jsonl")
    assert compared(again).equals(compared(whole)) and len(again) == total
    assert rows.read_bytes().count(b"\n") == total
    assert [path.name for path in rows.parent.iterdir()] == ["rows.jsonl"]
    assert log.read_text().count(f"{total} answers in") == 1


def test_a_second_start_asks_nothing(tmp_path, place, capsys):
    """The command has the notebook's parameters and prints what its cells print."""
    arguments = asked(place, tmp_path / "rows.jsonl", samples=2)
    evaluation.main(arguments)
    before = (tmp_path / "rows.jsonl").read_bytes()
    evaluation.main(["03_longchat_lines", *arguments[1:]])
    assert (tmp_path / "rows.jsonl").read_bytes() == before
    said = capsys.readouterr().out
    assert said.count("run       03_longchat_lines, preset='tiny'") == 2
    assert said.count("8 answers in") == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["longchat"], "invalid choice: 'longchat'"),
        (["02_train"], "invalid choice: '02_train'"),
        (["longchat_lines", "--sample", "2"], "unrecognized arguments: --sample 2"),
        (["longchat_lines", "--samples", "two"], "declares `samples: int | None = None` and was"),
        (["longchat_lines", "--models", "runs/none"], "there is no folder"),
        (["longchat_lines", "--models", "http://localhost:1/v1"], "names no model"),
    ],
)
def test_what_cannot_be_asked_is_told_in_a_line(arguments, says, capsys):
    with pytest.raises(SystemExit) as ended:
        evaluation.main(arguments)
    assert says in capsys.readouterr().err + str(ended.value.code) and ended.value.code != 0


def test_a_missing_package_is_told_in_a_line(tmp_path, monkeypatch):
    """What needs it and how to install it, as every other error; no row is written."""
    ruler_questions.words.cache_clear()
    ruler_questions.all_words.cache_clear()
    monkeypatch.setitem(sys.modules, "wonderwords.assets", None)
    rows = tmp_path / "rows.jsonl"
    with pytest.raises(SystemExit, match="^ruler: RULER's .* wonderwords, .* pip install") as ended:
        evaluation.main(["ruler", "--samples", "1", "--rows", str(rows)])
    assert "\n" not in ended.value.code and not rows.exists()


def test_every_parameter_of_an_evaluation_is_an_option(capsys):
    """With its comment as help, of every notebook that asks models."""
    found = evaluation._evaluations(ROOT)
    assert {"longchat_lines", "lost_in_the_middle", "perplexity"} <= set(found)
    for short, stem in found.items():
        declared = evaluation.notebook.declared(ROOT / "notebooks" / f"{stem}.ipynb")
        with pytest.raises(SystemExit):
            evaluation.main([short, "--help"])
        said = capsys.readouterr().out
        assert all(f"--{name} VALUE" in said for name in declared)
        assert "# " not in said and "the base" in said


def test_parameters_are_read_as_they_are_declared(tmp_path):
    """Text stays text where text is declared; None, numbers and lists are what they say."""
    source = (
        'a: str = "x"  # text\nb: "Optional[str]" = None\nc: int = 1\nd: "Optional[int]" = None\n'
        "e: float = 0.5\nf: bool = False\ng: list = [1]"
    )
    cell = nbformat.v4.new_code_cell(source, metadata={"tags": ["parameters"]})
    book = tmp_path / "00_x.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), book)
    declared = evaluation.notebook.declared(book)
    given = {"a": "5", "b": "1,2", "c": "7", "d": "None", "e": "2", "f": "True", "g": "[1, 2]"}
    read = {name: evaluation._value(text, declared[name]) for name, text in given.items()}
    assert read == {"a": "5", "b": "1,2", "c": 7, "d": None, "e": 2, "f": True, "g": [1, 2]}
    assert evaluation._value("None", declared["b"]) is None
    assert evaluation._value("many", declared["c"]) == "many"


def test_cells_after_the_asking_are_left_to_the_notebook(tmp_path, capsys):
    """And those before it run in order, the parameters put between."""
    cells = [
        nbformat.v4.new_code_cell("n: int = 1", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_markdown_cell("words"),
        nbformat.v4.new_code_cell("done = [n]\ndisplay(done)"),
        nbformat.v4.new_code_cell("done.append(n + 1)", metadata={"tags": ["evaluation"]}),
        nbformat.v4.new_code_cell("done.append('drawn')"),
    ]
    (tmp_path / "notebooks").mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "notebooks" / "10_x.ipynb")
    assert evaluation.run("10_x", {"n": 5}, tmp_path)["done"] == [5, 6]
    assert capsys.readouterr().out == "[5]\n"
    assert evaluation._evaluations(tmp_path) == {"x": "10_x"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells[:3]), tmp_path / "notebooks/11_y.ipynb")
    with pytest.raises(ValueError, match="11_y.ipynb evaluates no models"):
        evaluation.run("11_y", {}, tmp_path)
