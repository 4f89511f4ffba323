"""Parquet and Arrow files as sources: read, split by their names, or refused by name."""

from __future__ import annotations

from pathlib import Path

import datasets
import pyarrow as pa
import pytest
from pyarrow import parquet

from cream.data import readers


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Parquet is copied into the cache of datasets."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def write(path: Path, *texts: str, column: str = "text") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table({column: list(texts)}), path)
    return path


def read(path: Path, **more: object) -> list[tuple[str, str]]:
    return [(one["split"], one["text"]) for one in readers.open_source(str(path), **more).documents]


def test_a_parquet_file_is_read_as_a_saved_data_set_is(tmp_path):
    """Its rows in order, whatever its name says of splits; another column when it is asked for."""
    file = write(tmp_path / "validation.parquet", "a", "b")
    assert read(file) == [("train", "a"), ("train", "b")]
    assert read(file, split="test") == [("test", "a"), ("test", "b")]
    assert read(write(tmp_path / "c.PARQUET", "c", column="body"), field="body")[0][1] == "c"
    facts = readers.open_source(str(file)).facts
    assert facts["files"] == 1 and facts["bytes"] == file.stat().st_size
    with pytest.raises(ValueError, match="has columns body: neither input_ids nor 'text'"):
        read(tmp_path / "c.PARQUET")


def test_an_arrow_file_of_datasets_is_read(tmp_path):
    datasets.Dataset.from_dict({"text": ["a", "b"]}).save_to_disk(tmp_path / "saved")
    (file,) = (tmp_path / "saved").glob("*.arrow")
    assert read(file) == [("train", "a"), ("train", "b")]


def test_the_shards_of_a_folder_are_one_data_set(tmp_path):
    """As the hub lays them out, beside a page that says what they are; hidden files are not."""
    for shard, text in (("train-00001-of-00002", "b"), ("train-00000-of-00002", "a"),
                        ("validation-00000-of-00001", "v"), ("._train", "no")):  # fmt: skip
        write(tmp_path / "set" / "data" / f"{shard}.parquet", text)
    (tmp_path / "set" / "README.md").write_text("what it is")
    assert read(tmp_path / "set") == [("train", "a"), ("train", "b"), ("validation", "v")]
    for shard, text in (("0000", "a"), ("0001", "b")):
        write(tmp_path / "plain" / f"{shard}.parquet", text)
    assert read(tmp_path / "plain", split="test") == [("test", "a"), ("test", "b")]


def test_what_is_not_one_data_set_is_refused(tmp_path):
    """Mixed without a word, languages would be one corpus and a validation set trained on."""
    write(tmp_path / "two" / "en" / "train-0.parquet", "a")
    write(tmp_path / "two" / "fr" / "train-0.parquet", "b")
    with pytest.raises(ValueError, match="tables in en, fr: give one folder"):
        read(tmp_path / "two")
    write(tmp_path / "half" / "test-0.parquet", "a")
    write(tmp_path / "half" / "more.parquet", "b")
    with pytest.raises(ValueError, match=r"after the splits test, and more.parquet, which names"):
        read(tmp_path / "half")
    write(tmp_path / "lines" / "a.parquet", "a")
    (tmp_path / "lines" / "a.jsonl").write_text('{"text": "a"}')
    with pytest.raises(ValueError, match="give the data file itself, or a folder of one kind"):
        read(tmp_path / "lines")


@pytest.mark.parametrize("content", [b"", b"PAR1abc", b"no table"])
@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_a_torn_table_is_named(tmp_path, suffix, content):
    file = tmp_path / f"torn{suffix}"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f"torn{suffix} is no table that datasets reads"):
        read(file)


def test_shards_of_other_columns_and_empty_ones_are_refused(tmp_path):
    write(tmp_path / "odd" / "0.parquet", "a")
    write(tmp_path / "odd" / "1.parquet", "b", column="other")
    with pytest.raises(ValueError, match="odd is no table that datasets reads.*the same columns"):
        read(tmp_path / "odd")
    parquet.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "none.parquet")
    with pytest.raises(ValueError, match=r"none.parquet is no table .*every file with rows"):
        read(tmp_path / "none.parquet")
