"""Columns that came later: files without them are read as before."""

import pandas as pd

from cream import results
from cream.results import COLUMNS, Rows
from cream.results.schema import SCHEMA

LATER = ["rouge_l", "judged"]
HEADER = {"model_hash": "0" * 16, "settings": {}}
ROW = {"task": "needle", "prompt_hash": "a", "sample": 0, "score": 1.0}


def test_files_without_the_later_columns_are_read(tmp_path):
    """JSON lines and Parquet of before, and the same key for the same row."""
    with Rows(tmp_path / "old.jsonl", HEADER) as rows:
        key = rows.append(ROW)
        old = rows.frame().drop(columns=LATER)
    path = results.to_parquet(old, tmp_path / "full.parquet")
    import pyarrow.parquet as parquet

    table = parquet.read_table(path)
    parquet.write_table(table.drop_columns(LATER), tmp_path / "old.parquet")
    path.unlink()
    assert not set(LATER) & set(pd.read_parquet(tmp_path / "old.parquet"))
    for name in ("old.jsonl", "old.parquet"):
        found = results.read(tmp_path / name)
        assert list(found) == list(COLUMNS) and found["key"].tolist() == [key]
        assert found[LATER].isna().all().all() and found["score"].tolist() == [1]
    assert SCHEMA == "cream-rows-1"


def test_the_later_columns_are_written_and_read_as_numbers(tmp_path):
    with Rows(tmp_path / "rows.jsonl", HEADER) as rows:
        rows.append({**ROW, "rouge_l": 2 / 3, "judged": 7})
        found = rows.frame()
    assert found["rouge_l"].tolist() == [2 / 3] and found["judged"].tolist() == [7.0]
    assert {str(found[name].dtype) for name in LATER} == {"Float64"}
