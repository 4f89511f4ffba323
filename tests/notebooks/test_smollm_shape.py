"""A base of SmolLM2's shape goes through 01, 02, 03, 05 and 07."""

import json
from pathlib import Path

import papermill
import pytest
import smollm_shape

from cream import results

ROOT = Path(__file__).resolve().parents[2]


def run(name: str, here: Path, **parameters: object) -> str:
    """Execute a notebook with the tiny preset; return what it printed."""
    book = papermill.execute_notebook(
        ROOT / "notebooks" / f"{name}.ipynb", here / f"{name}.ipynb",
        {"preset": "tiny", **parameters}, progress_bar=False, kernel_name="python3", cwd=here,
    )  # fmt: skip
    streams = [o for c in book.cells for o in c.get("outputs", []) if o.output_type == "stream"]
    return "".join(o.text for o in streams if o.name == "stdout")


@pytest.mark.slow
def test_a_base_that_never_adds_bos_goes_through_the_notebooks(tmp_path):
    """Corpus without BOS, run, and rows of every task; nothing in them has a BOS either."""
    base = str(smollm_shape.save(tmp_path / "base"))
    corpus, tuned = tmp_path / "corpus", tmp_path / "tuned"
    said = run("01_data", tmp_path, tokenizer=base, window=256, piece_tokens=2048, share=0.0,
               out=str(corpus))  # fmt: skip
    assert "none prepended, as the tokenizer does" in said
    run("02_train", tmp_path, base=base, corpus=str(corpus), out=str(tuned))
    asked = {"base": base, "models": f"original,{tuned}"}
    run("03_longchat_lines", tmp_path, **asked, style="miniature", lengths="1,2", samples=1,
        rows=str(tmp_path / "rows/lines.jsonl"))  # fmt: skip
    run("05_needle", tmp_path, **asked, corpus=str(corpus), kind="text", style="sentences",
        lengths="2,4", depths="0,50,100", hidden=3, passkeys=1,
        rows=str(tmp_path / "rows/needle.jsonl"))  # fmt: skip
    run("07_perplexity", tmp_path, **asked, corpus=str(corpus), lengths="1,2", documents=2,
        historical=0, rows=str(tmp_path / "rows/ppl.jsonl"))  # fmt: skip
    frame = results.read(tmp_path / "rows")
    counts = frame.groupby(["task", "method"]).size()
    assert set(frame["method"]) == {"original", "cream"}
    assert counts["needle"].tolist() == [6, 6] and counts["perplexity"].tolist() == [4, 4]
    hows = {task: list(map(json.loads, part["settings"])) for task, part in frame.groupby("task")}
    how = hows["needle"][0]
    assert how["style"] == "sentences" and how["mode"] == "3 together"
    assert how["haystack"] == "text"
    assert {one["bos"] for one in hows["perplexity"]} == {"none"}
