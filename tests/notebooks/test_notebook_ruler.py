"""12_ruler under papermill: the command's rows are the notebook's, and what it says of them."""

from pathlib import Path

import papermill
import pytest

from cream import evaluation, presets, results
from cream.evaluation.__main__ import main
from cream.tasks.ruler import TASKS

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_12_draws_the_rows_of_the_command_and_says_what_a_length_does_not_hold(
    tmp_path, monkeypatch
):
    """`python -m cream.evaluation ruler` asks all; the notebook then asks nothing."""
    given = {"preset": "tiny", "models": "original", "rows": str(tmp_path / "ruler.jsonl"),
             "sizes": str(tmp_path / "sizes")}  # fmt: skip
    monkeypatch.chdir(ROOT)
    main(["ruler", *(part for name, value in given.items() for part in (f"--{name}", value))])
    asked = (tmp_path / "ruler.jsonl").read_bytes()
    book = papermill.execute_notebook(
        ROOT / "notebooks" / "12_ruler.ipynb", tmp_path / "12.ipynb", given,
        progress_bar=False, kernel_name="python3", cwd=tmp_path,
    )  # fmt: skip
    assert (tmp_path / "ruler.jsonl").read_bytes() == asked
    frame = results.read(tmp_path / "ruler.jsonl")
    short, long = evaluation.token_lengths(presets.get("tiny").evaluation.ruler_lengths, 512)
    assert set(frame.loc[frame["token_length"] == long, "task"]) == {f"ruler-{t}" for t in TASKS}
    assert len(frame) == 6 + 4 and set(frame["token_length"]) == {short, long}
    streams = [o for c in book.cells for o in c.get("outputs", []) if o.output_type == "stream"]
    said = "".join(o.text for o in streams if o.name == "stdout")
    assert "Not asked: vt at 512 tokens" in said and "Not asked: cwe at 512 tokens" in said
    assert "original, none: RULER-6 " in said and "effective to " in said
    assert sum("image/png" in o.get("data", {}) for c in book.cells for o in c.get("outputs", []))
