"""09_figures draws what rows exist, says what is missing, and never writes elsewhere."""

import json
from pathlib import Path

import papermill
import pytest
from made_rows import frame, metrics, write
from PIL import Image

from cream import gallery, results

ROOT = Path(__file__).resolve().parents[1]
PAPER = ROOT / "data" / "paper"


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return frame(tmp_path_factory.mktemp("rows"))


def keep_metrics(path: Path, method: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(m) + "\n" for m in metrics(method)))
    return path


def test_all_rows_give_all_figures(rows):
    """One a task and one for the training."""
    import pandas as pd

    curves = {"pose": pd.DataFrame(metrics("pose"))}
    found = gallery.draw(rows, PAPER, curves)
    assert list(found) == ["longchat_lines", "lost_in_the_middle", "needle", "passkey",
                           "perplexity", "training_curves"]  # fmt: skip
    assert gallery.missing(rows, curves) == []


def test_some_rows_give_some_figures_and_name_the_notebook(rows):
    """What is missing is said, with where it comes from."""
    some = rows[rows["task"] == "perplexity"]
    assert list(gallery.draw(some, PAPER)) == ["perplexity"]
    lines = gallery.missing(some)
    assert len(lines) == 5 and "notebooks/03_longchat_lines.ipynb" in lines[0]
    assert gallery.draw(rows.iloc[:0], PAPER) == {}


def test_variants_and_scales_have_figures_of_their_own(rows):
    """Two styles of lines, and key-value places at two scales."""
    lines = rows[rows["task"] == "longchat_lines"]
    official = lines.assign(settings='{"style": "official"}')
    tuned = rows[(rows["task"] == "kv_retrieval") & (rows["scaling"] == "yarn")]
    both = [lines, official, tuned, tuned.assign(scale=64)]
    found = gallery.draw(results.pd.concat(both), PAPER)
    assert set(found) == {"longchat_lines-miniature", "longchat_lines-official",
                          "lost_in_the_middle-yarn-x8", "lost_in_the_middle-yarn-x64"}  # fmt: skip


def test_metrics_are_found_with_the_run_or_beside_the_rows(rows, tmp_path):
    """The run's own folder first; committed rows keep theirs beside them."""
    keep_metrics(tmp_path / "root" / "pose-s8-0" / "metrics.jsonl", "pose")
    keep_metrics(tmp_path / "rows" / "metrics" / "cream.jsonl", "cream")
    found = gallery.find_metrics(rows, tmp_path / "root", tmp_path / "rows")
    assert set(found) == {"pose", "cream"} and len(found["cream"]) == len(metrics("cream"))


def test_the_notebook_draws_a_users_own_rows(tmp_path):
    """Through papermill, from another folder: figures go where `out` says, with their source."""
    write(tmp_path / "own", methods=("original", "cream"))
    keep_metrics(tmp_path / "own" / "metrics" / "cream.jsonl", "cream")
    committed = {path: path.stat().st_mtime_ns for path in (ROOT / "figures").iterdir()}
    papermill.execute_notebook(
        ROOT / "notebooks" / "09_figures.ipynb", tmp_path / "out.ipynb",
        {"rows": str(tmp_path / "own"), "out": str(tmp_path / "figures")},
        progress_bar=False, cwd=tmp_path,
    )  # fmt: skip
    written = {path.stem for path in (tmp_path / "figures").glob("*.png")}
    assert {"longchat_lines", "lost_in_the_middle", "perplexity", "training_curves"} <= written
    meta = results.drawn_from(results.read(tmp_path / "own"))
    assert Image.open(tmp_path / "figures" / "perplexity.png").text["Rows"] == meta["rows"]
    assert committed == {path: path.stat().st_mtime_ns for path in (ROOT / "figures").iterdir()}
