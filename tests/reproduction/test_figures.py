"""09_figures draws what rows exist, says what is missing, and never writes elsewhere.

Every file says what it was drawn from, and that can be read back.
"""

import json
import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from made_campaign import campaign
from made_rows import frame, metrics
from PIL import Image
from ruler_rows import ruler_rows

from cream import results
from cream.reproduction import figures as reproduction_figures
from cream.study import records
from cream.study.analysis import tables
from cream.tasks.registry import reported
from cream.utils import forks

ROOT = Path(__file__).resolve().parents[2]
PAPER = ROOT / "data" / "paper"


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return frame(tmp_path_factory.mktemp("rows"))


def keep_metrics(path: Path, method: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(m) + "\n" for m in metrics(method)))
    return path


@pytest.mark.slow
def test_all_rows_give_all_figures(rows):
    """One a task and one for the training."""
    curves = {"pose": pd.DataFrame(metrics("pose"))}
    found = reproduction_figures.draw(rows, PAPER, curves)
    assert list(found) == ["longchat_lines", "lost_in_the_middle", "needle", "passkey",
                           "perplexity", "training_curves"]  # fmt: skip
    assert reproduction_figures.missing(rows, curves) == []


def test_some_rows_give_some_figures_and_name_the_notebook(rows):
    """What is missing is said, with where it comes from."""
    some = rows[rows["task"] == "perplexity"]
    assert list(reproduction_figures.draw(some, PAPER)) == ["perplexity"]
    lines = reproduction_figures.missing(some)
    assert len(lines) == 5 and "notebooks/03_longchat_lines.ipynb" in lines[0]
    assert reproduction_figures.draw(rows.iloc[:0], PAPER) == {}


def test_variants_and_scales_have_figures_of_their_own(rows):
    """Two styles of lines, and key-value places at two scales."""
    lines = rows[rows["task"] == "longchat_lines"]
    official = lines.assign(settings='{"style": "official"}')
    tuned = rows[(rows["task"] == "kv_retrieval") & (rows["scaling"] == "yarn")]
    both = [lines, official, tuned, tuned.assign(scale=64)]
    found = reproduction_figures.draw(pd.concat(both), PAPER)
    assert set(found) == {"longchat_lines-miniature", "longchat_lines-official",
                          "lost_in_the_middle-yarn-x8", "lost_in_the_middle-yarn-x64"}  # fmt: skip


def test_metrics_are_found_with_the_run_or_beside_the_rows(rows, tmp_path):
    """The run's own folder first; committed rows keep theirs beside them."""
    keep_metrics(tmp_path / "root" / "pose-s8-0" / "metrics.jsonl", "pose")
    keep_metrics(tmp_path / "rows" / "metrics" / "cream.jsonl", "cream")
    found = reproduction_figures.find_metrics(rows, tmp_path / "root", tmp_path / "rows")
    assert set(found) == {"pose", "cream"} and len(found["cream"]) == len(metrics("cream"))


@pytest.fixture(scope="module")
def grid(tmp_path_factory) -> Path:
    """A made grid of every plan, as `cream.study merge` writes its file."""
    table = pa.Table.from_pandas(campaign(samples=4), preserve_index=False)
    path = tmp_path_factory.mktemp("grid") / "grid.parquet"
    schema = {"cream": "cream-grid-1", **(table.schema.metadata or {})}
    parquet.write_table(table.replace_schema_metadata(schema), path)
    return path


def test_a_grid_beside_rows_is_found_and_not_read_as_rows(rows, grid, tmp_path):
    """By its schema, in a folder and by name; a folder without one has none."""
    results.to_parquet(rows, tmp_path / "both" / "rows.parquet")
    (tmp_path / "both" / "grid.parquet").write_bytes(grid.read_bytes())
    found = records.find_grid(tmp_path / "both")
    assert found == tmp_path / "both" / "grid.parquet" and records.find_grid(grid) == grid
    assert len(results.read(tmp_path / "both")) == len(rows)
    found.unlink()
    assert records.find_grid(tmp_path / "both") is None


@pytest.mark.slow
def test_a_grid_gives_its_figures_each_with_the_files_hash(grid, tmp_path):
    """All plans give all; one plan gives its own, and what was not run is left out."""
    answers, runs = tables.load(grid)
    drawn = reproduction_figures.grid_source(grid, answers)
    found = reproduction_figures.from_grid(answers, runs, PAPER, drawn)
    assert list(found) == list(reproduction_figures.GRID)
    reproduction_figures.write({"summary": found["summary"]}, tmp_path)
    text = Image.open(tmp_path / "summary.png").text
    assert text == {"Rows": reproduction_figures.file_hash(grid), "Commit": "0123abc"}
    assert reproduction_figures.file_hash(grid).encode() in (tmp_path / "summary.pdf").read_bytes()
    of_plan = (part[part["plan"] == "scale64"] for part in (answers, runs))
    some = reproduction_figures.from_grid(*of_plan, PAPER, drawn)
    assert set(some) == {"scale64", "scale64_lines", "scale64_perplexity"}
    assert list(reproduction_figures.from_grid(answers, runs, PAPER, drawn, names=["claims"])) == [
        "claims"
    ]
    with pytest.raises(ValueError, match="there is no figure sumary"):
        reproduction_figures.from_grid(answers, runs, PAPER, drawn, names=["sumary"])
    assert reproduction_figures.from_grid(answers.iloc[:0], runs.iloc[:0], PAPER, drawn) == {}


@pytest.mark.slow
def test_the_papers_figures_name_the_published_file_and_our_rows(rows):
    """The hash is that of data/README.md; rows of ours stand beside it."""
    found = reproduction_figures.from_paper(rows, PAPER)
    listed = (ROOT / "data" / "README.md").read_text()
    lines = found["paper_longchat_lines"].drawn
    assert f"| {lines['paper']}" in listed and lines["commit"] == "0123abc"
    ours = rows[rows["task"] == "longchat_lines"]
    assert lines["rows"] == results.drawn_from(ours)["rows"]
    assert f"| {found['paper_perplexity'].drawn['rows']}" in listed


def test_the_grids_text_stands_beside_the_papers_figures(rows, grid):
    """Where there is a grid: every scaling of its primary plan, marked with its file's hash."""
    answers, _ = tables.load(grid)
    drawn = reproduction_figures.grid_source(grid, answers)
    found = reproduction_figures.from_paper(rows, PAPER, answers, drawn)
    lines, pairs = (found[f"paper_{name}"] for name in ("longchat_lines", "lost_in_the_middle"))
    assert lines.drawn["rows"] == pairs.drawn["rows"] == reproduction_figures.file_hash(grid)
    titles = [axes.get_title(loc="left") for axes in (*lines.axes, *pairs.axes)]
    for scaling in ("linear", "ntk", "yarn"):
        assert f"ours, N = 512, {scaling} x8" in titles
        assert f"ours: {scaling} x8, 81 keys" in titles
    floor = answers.assign(score=answers["score"].where(answers["scaling"] != "linear", 0.0))
    found = reproduction_figures.from_paper(rows, PAPER, floor, drawn)
    titles = [axes.get_title(loc="left") for axes in found["paper_longchat_lines"].axes]
    assert "ours, N = 512, linear x8" not in titles and "ours, N = 512, ntk x8" in titles
    (panel,) = [axes for axes in found["paper_lost_in_the_middle"].axes
                if "ours: linear" in axes.get_title(loc="left")]  # fmt: skip
    assert panel.texts[0].get_text() == "every tuned model\nat 0" and not panel.lines


def test_a_figure_that_is_not_there_is_said_to_be_not_run(capsys):
    """In a notebook, beside those that are."""
    reproduction_figures.show({}, "scale64")
    assert capsys.readouterr().out == "scale64: not run\n"


@pytest.fixture(scope="module")
def committed() -> set[str]:
    """The hashes of each task's committed rows."""
    rows = results.current(results.read(ROOT / "data" / "results"))
    return {results.drawn_from(part)["rows"] for _, part in rows.groupby("task")}


@pytest.mark.parametrize("path", sorted((ROOT / "figures").glob("*.png")), ids=lambda p: p.stem)
def test_every_committed_figure_says_what_it_was_drawn_from(path, committed):
    """The hash of its rows and a commit; those of committed rows are what the rows have now."""
    text = Image.open(path).text
    assert set(text) >= {"Rows", "Commit"} and text["Commit"] not in ("", "unknown")
    assert b"CreationDate" not in path.with_suffix(".pdf").read_bytes()
    if path.stem in reported():
        assert text["Rows"] in committed, "draw it again: make figures"


def test_costs_by_target_are_drawn_where_they_were_measured():
    frame = results.read(ROOT / "data" / "results")
    drawn = reproduction_figures.from_speed(frame)
    assert list(drawn) == ["efficiency"]
    assert drawn["efficiency"].drawn["rows"]
    assert reproduction_figures.from_speed(frame[frame["task"] == "longchat_lines"]) == {}


def test_costs_by_target_need_every_row_of_both_methods():
    """What `results.current` keeps of speed rows has no CREAM in it: no figure of half a story."""
    frame = results.read(ROOT / "data" / "results")
    with pytest.raises(ValueError, match="lack CREAM or full length; give all rows"):
        reproduction_figures.from_speed(results.current(frame))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="figures are written at a time on Linux alone")
def test_figures_written_at_a_time_are_those_written_one_by_one(rows, tmp_path, monkeypatch):
    """Byte by byte; and what cannot be written is said."""
    figures = reproduction_figures.from_paper(rows, PAPER)
    monkeypatch.setattr(forks, "cores", lambda: 2)
    many = reproduction_figures.write(figures, tmp_path / "many")
    monkeypatch.setattr(forks, "cores", lambda: 1)
    assert reproduction_figures.write(figures, tmp_path / "one") == many and len(many) > 2
    written = [
        sorted((path.name, path.read_bytes()) for path in (tmp_path / name).iterdir())
        for name in ("many", "one")
    ]
    assert written[0] == written[1]
    monkeypatch.setattr(forks, "cores", lambda: 2)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        reproduction_figures.write(figures, tmp_path / "file")


@pytest.mark.slow
def test_rulers_rows_give_a_heat_map_a_form_and_none_is_missed(rows):
    """Drawn where there are rows; without any, nothing is said."""
    made = ruler_rows(lambda *_: 0.5)
    found = reproduction_figures.draw(pd.concat([rows, made]), PAPER)
    assert list(found)[-1] == "ruler" and found["ruler"].drawn["commit"] == "0123abc"
    chat = ruler_rows(lambda *_: 1, style="chat")
    both = reproduction_figures.draw(pd.concat([made, chat]), PAPER)
    assert set(both) == {"ruler-official-512", "ruler-chat-512"}
    assert not any("uler" in line for line in reproduction_figures.missing(rows.iloc[:0]))
