"""Files that grow a line at a time: one writer, whole lines, an end that was torn."""

from __future__ import annotations

import pandas as pd
import pytest

from cream.results.store import LineFile, stored_schema, write_parquet


def test_a_torn_end_is_cut_off_only_when_it_is_said(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b"one\ntwo\nthr")
    file = LineFile(path)
    assert file.lines == [b"one", b"two"]
    with pytest.raises(BlockingIOError, match="another process is writing"):
        LineFile(path)
    file.close()
    assert path.read_bytes() == b"one\ntwo\nthr", "opened, and not yet known to be ours"
    file = LineFile(path)
    file.cut()
    file.write(b"three\n", 2)
    file.close()
    assert path.read_bytes() == b"one\ntwo\nthree\n"
    with pytest.raises(ValueError, match="is closed"):
        file.write(b"four\n", 3)


def test_a_foreign_file_is_refused_and_free_for_others(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b"somebody's")

    def read(path):
        raise ValueError("foreign")

    with pytest.raises(ValueError, match="foreign"):
        LineFile(path, read)
    assert path.read_bytes() == b"somebody's"
    LineFile(path).close()


def test_equal_tables_give_equal_bytes_with_their_schema(tmp_path):
    frame = pd.DataFrame({"key": ["b", "a"], "value": [2, 1]})
    one = write_parquet(frame, tmp_path / "new" / "one.parquet", "cream-x-1", ["key"])
    two = write_parquet(frame.iloc[::-1], tmp_path / "two.parquet", "cream-x-1", ["key"])
    assert one.read_bytes() == two.read_bytes() and stored_schema(one) == "cream-x-1"
    assert pd.read_parquet(one)["key"].tolist() == ["a", "b"]
    frame.to_parquet(tmp_path / "bare.parquet")
    assert stored_schema(tmp_path / "bare.parquet") is None
