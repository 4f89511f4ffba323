"""The tables that are typed in data/smollm2-linear/README.md say what its rows say."""

from pathlib import Path

import numpy as np
import pandas as pd

from cream import results

DATA = Path(__file__).parents[3] / "data"
TEXT = (DATA / "smollm2-linear" / "README.md").read_text(encoding="utf-8")


def typed(label: str) -> list[float]:
    """The numbers of the table's line that begins so."""
    (line,) = [each for each in TEXT.splitlines() if each.startswith(f"| {label}")]
    return [float(cell) for cell in line.strip("|").split("|")[1:]]


def perplexity(file: str, method: str, scaling: str) -> list[float]:
    """By length, over all documents of a run."""
    rows = results.read(DATA / file)
    its = (rows["method"] == method) & (rows["scaling"] == scaling)
    lengths = rows[(rows["task"] == "perplexity") & its].groupby("token_length")
    summed = lengths[["nll", "scored_tokens"]].sum().astype(float)
    return np.exp(summed["nll"] / summed["scored_tokens"]).round(2).tolist()


def test_perplexities_are_those_of_the_rows():
    for name, method in (("CREAM", "cream"), ("PoSE", "pose")):
        ours = perplexity("smollm2-linear/linear.parquet", method, "linear")
        assert typed(f"{name} by linear") == ours and len(ours) == 6
        yarn = perplexity("smollm2/seed2.parquet", method, "yarn")
        assert typed(f"{name} by YaRN") == yarn
        apart = np.subtract(ours, yarn).round(1)
        assert apart.min() == 0.4 and apart.max() <= 0.9


def test_no_sentence_is_found_and_what_is_said_instead():
    rows = results.read(DATA / "smollm2-linear" / "linear.parquet")
    found = rows[rows["task"] == "needle"]
    assert len(found) == 720 and not found[["score", "contained"]].to_numpy().any()
    said = found["prediction"].str.strip().value_counts()
    assert f"{said['user']} of 720 answers" in TEXT and f"{said['assistant']} the word" in TEXT


def test_the_speed_is_that_of_the_metrics():
    assert "215,000 and 218,000 tokens/s (median), 47.9 GiB" in TEXT
    for method, thousands in (("cream", 215), ("pose", 218)):
        path = DATA / "smollm2-linear" / "metrics" / "linear" / f"{method}-linear-8-seed0.jsonl"
        log = pd.read_json(path, lines=True)
        assert round(log["tokens_per_second"].median() / 1000) == thousands
        assert round(log["peak_gib"].max(), 1) == 47.9
