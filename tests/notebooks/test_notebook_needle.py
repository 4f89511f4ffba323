"""05_needle under papermill: a folder for a haystack, a judge on this machine, and a rerun."""

from pathlib import Path

import papermill
import pytest
from judge_server import judging_server

from cream import presets, results
from cream.tasks import needle

ROOT = Path(__file__).resolve().parents[2]


def run(here: Path, name: str, **parameters: object) -> str:
    """Execute the notebook with the tiny preset, from `here`; return all that it printed."""
    book = papermill.execute_notebook(
        ROOT / "notebooks" / "05_needle.ipynb", here / name,
        {"preset": "tiny", "models": "original,scaled:yarn:8", "rows": str(here / "needle.jsonl"),
         "haystack": str(here / "texts"), "passkeys": 1, **parameters},
        progress_bar=False, kernel_name="python3", cwd=here,
    )  # fmt: skip
    streams = [o for c in book.cells for o in c.get("outputs", []) if o.output_type == "stream"]
    return "".join(o.text for o in streams if o.name == "stdout")


@pytest.mark.slow
def test_05_asks_scores_is_judged_and_asks_nothing_twice(tmp_path, haystack):
    """Two models, each cell of the grid; the judge's ratings beside, as many as answers."""
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text(haystack)
    with judging_server() as server:
        judge = {"judge_url": server.url, "judge_model": "judge-1"}
        said = run(tmp_path, "first.ipynb", **judge)
        rows = (tmp_path / "needle.jsonl").read_bytes()
        asked = len(server.bodies)
        run(tmp_path, "again.ipynb", **judge)
    lengths = presets.get("tiny").evaluation.lines_lengths
    answers = len(lengths) * len(needle.DEPTHS_RELEASE) * 2
    frame = results.read(tmp_path / "needle.jsonl")
    assert frame.groupby("task").size().to_dict() == {
        "needle": answers, "passkey": 2 * len(lengths)}  # fmt: skip
    assert frame[frame["task"] == "needle"]["rouge_l"].notna().all()
    assert asked == len(server.bodies) == answers
    assert f"{answers} of {answers} answers rated by the judge." in said
    assert "original, none: the needle" in said and "n = 6." in said
    assert (tmp_path / "needle.jsonl").read_bytes() == rows
    judged = results.read(tmp_path / "needle.judged.jsonl")
    assert judged["judged"].eq(10).all() and len(judged) == answers


@pytest.mark.slow
def test_a_judge_that_cannot_be_asked_stops_it_before_a_model_is(tmp_path, haystack):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text(haystack)
    with pytest.raises(papermill.PapermillExecutionError, match="must be an address"):
        run(tmp_path, "bad.ipynb", judge_url="localhost", judge_model="j")
    assert not (tmp_path / "needle.jsonl").exists()


@pytest.mark.slow
def test_lengths_up_to_n_alone_are_said_to_be_no_test_of_extension(tmp_path, haystack):
    """One number for `lengths` and a list for `depths`; the preset's own scaling by `scaled`."""
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text(haystack)
    said = run(tmp_path, "short.ipynb", models="original,scaled", lengths=0.5, depths=[0, 100])
    assert "No length lies beyond N = 512: ask longer ones, as in -p lengths 1,2,4" in said
    rows = results.read(tmp_path / "needle.jsonl")
    assert sorted(rows["run"].unique()) == ["original", "scaled:yarn:8"]
    assert set(rows["token_length"]) == {256}
    assert set(rows["depth_percent"].dropna()) >= {0.0, 100.0}
