"""Rows survive kills, torn lines and full disks, and their keys change with what they answer."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from answer_rows import HEADER, row

from cream import results
from cream.results import COLUMNS, Rows
from cream.utils.provenance import commit, hash_of, versions


def fill(path: Path, samples: range) -> None:
    with Rows(path, HEADER) as rows:
        for sample in samples:
            rows.append(row(sample))


def values(frame: pd.DataFrame) -> list[tuple]:
    return sorted(zip(frame["key"], frame["sample"], frame["score"], strict=True))


def test_rows_read_back_with_every_column_typed(tmp_path):
    """What is written is what is read, header included, in the types of COLUMNS."""
    with Rows(tmp_path / "rows.jsonl", HEADER) as rows:
        key = rows.append(row(3, nll=0.1 + 0.2, prediction="line\nbreak é \ud800", document=7))
        frame = rows.frame()
    assert list(frame) == list(COLUMNS) and dict(frame.dtypes.astype(str)) == COLUMNS
    only = frame.iloc[0]
    assert only["key"] == key and only["nll"] == 0.1 + 0.2 and only["document"] == "7"
    assert only["prediction"] == "line\nbreak é ?" and only["scale"] == 8
    assert json.loads(only["settings"]) == HEADER["settings"]
    assert json.loads(only["versions"]) == versions() and pd.isna(only["gold_index"])


def test_missing_keeps_order_and_a_row_is_written_once(tmp_path):
    """A second run of the same evaluation finds nothing to do and adds nothing."""
    path = tmp_path / "rows.jsonl"
    fill(path, range(3))
    with Rows(path, HEADER) as rows:
        keys = [rows.key("lines", hash_of("prompt", sample), sample) for sample in (4, 1, 3)]
        assert rows.missing(keys) == [keys[0], keys[2]]
        before = path.read_bytes()
        rows.append(row(1, score=0.5))
        assert path.read_bytes() == before


@pytest.mark.parametrize("cut", [1, 5, 25, 60])
def test_a_torn_last_line_is_dropped_and_written_again(tmp_path, cut):
    """A writer killed in the middle of a line costs that line and nothing else."""
    path, whole = tmp_path / "rows.jsonl", tmp_path / "whole.jsonl"
    fill(path, range(4))
    fill(whole, range(4))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3]) + lines[3][:cut])
    assert len(results.read(path)) == 3
    with Rows(path, HEADER) as rows:
        missing = rows.missing([json.loads(line)["key"] for line in lines])
        assert missing == [json.loads(lines[3])["key"]]
        rows.append(row(3))
    assert values(results.read(path)) == values(results.read(whole))


WRITER = """
import sys
sys.path.insert(0, {tests!r})
from answer_rows import HEADER, row
from cream.results import Rows
with Rows({path!r}, HEADER) as rows:
    for sample in range(100_000):
        rows.append(row(sample))
        print(sample, flush=True)
"""


def test_a_killed_writer_loses_no_row_it_reported(tmp_path):
    """SIGKILL, then a second writer: the same rows as a writer that nobody killed."""
    path, whole = tmp_path / "rows.jsonl", tmp_path / "whole.jsonl"
    code = WRITER.format(tests=str(SUPPORT), path=str(path))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        reported = [child.stdout.readline() for _ in range(25)]
        with pytest.raises(BlockingIOError, match="another process is writing"):
            Rows(path, HEADER)
        os.kill(child.pid, signal.SIGKILL)
    survived = results.read(path)
    assert set(range(25)) <= set(survived["sample"]) and reported[-1].strip() == "24"
    fill(path, range(len(survived) + 10))
    fill(whole, range(len(survived) + 10))
    assert values(results.read(path)) == values(results.read(whole))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"schema": "cream-rows-0", "key": "a"}\n', "cream-rows-0"),
        ('{"step": 1, "loss": 2.0}\n', "no schema"),
        ('{"window": 512}', "no schema"),
        ("a note of mine", "no schema"),
        ('{"schema": "cream-rows-1", "key": "a"}\n\x00\x00\n', "line 2, is not JSON"),
    ],
)
def test_a_foreign_file_is_refused_by_name_and_untouched(tmp_path, content, says):
    """Files of another schema, or of somebody else, are named and left alone."""
    path = tmp_path / "theirs.jsonl"
    path.write_text(content)
    for use in (lambda: Rows(path, HEADER), lambda: results.read(path)):
        with pytest.raises(ValueError, match=says) as error:
            use()
        assert "theirs.jsonl" in str(error.value)
    assert path.read_text() == content


def test_a_foreign_parquet_is_refused_by_name(tmp_path):
    """A table without our schema is no table of rows."""
    pd.DataFrame({"key": ["a"]}).to_parquet(tmp_path / "theirs.parquet")
    with pytest.raises(ValueError, match="theirs.parquet.*no schema"):
        results.read(tmp_path / "theirs.parquet")


def test_the_key_changes_with_what_is_answered(tmp_path):
    """Weights, prompt, sample, task and settings each change the key; dict order does not."""
    base = ("hash", "lines", "prompt", 0, {"a": 1, "b": 2})
    key = results.row_key(*base)
    assert key == results.row_key(*base[:4], {"b": 2, "a": 1})
    others = [("other", "pairs", "changed", 1, {"a": 1, "b": 3})[i] for i in range(5)]
    changed = {results.row_key(*base[:i], others[i], *base[i + 1 :]) for i in range(5)}
    assert len(changed) == 5 and key not in changed
    with Rows(tmp_path / "a.jsonl", HEADER) as first:
        written = first.append(row(0))
        assert written == first.key("lines", hash_of("prompt", 0), 0)
    with Rows(tmp_path / "a.jsonl", {**HEADER, "model_hash": "f" * 16}) as second:
        assert second.missing([second.key("lines", hash_of("prompt", 0), 0)])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"scor": 1}, "did you mean 'score'"),
        ({"score": float("nan")}, "finite"),
        ({"score": "high"}, "must be a number"),
        ({"num_tokens": 1.5}, "whole number"),
        ({"sample": None}, "no sample"),
    ],
)
def test_a_bad_row_is_refused_and_not_written(tmp_path, change, says):
    """The message names the column, and the file stays as it was."""
    path = tmp_path / "rows.jsonl"
    with Rows(path, HEADER) as rows:
        rows.append(row(0))
        before = path.read_bytes()
        with pytest.raises(ValueError, match=says):
            rows.append({**row(1), **change})
    assert path.read_bytes() == before


def test_a_header_without_what_keys_need_is_refused(tmp_path):
    """Before a file is made."""
    with pytest.raises(ValueError, match="no model_hash"):
        Rows(tmp_path / "rows.jsonl", {"settings": "{}"})
    assert not (tmp_path / "rows.jsonl").exists()


def test_a_disk_that_fills_up_in_the_middle_of_a_line(tmp_path, monkeypatch):
    """Half a line was written when the disk ran full: it is taken back, the message says so."""
    path = tmp_path / "rows.jsonl"
    with Rows(path, HEADER) as rows:
        rows.append(row(0))
        before, write, calls = path.read_bytes(), os.write, []

        def full(descriptor: int, data: bytes) -> int:
            calls.append(len(data))
            if len(calls) == 2:
                raise OSError(28, "No space left on device")
            return write(descriptor, data[:40])

        monkeypatch.setattr(os, "write", full)
        with pytest.raises(OSError, match="the 1 rows before it are safe"):
            rows.append(row(1))
        assert path.read_bytes() == before
        monkeypatch.undo()
        rows.append(row(1))
    assert len(results.read(path)) == 2


LIMITED = """
import resource, sys
sys.path.insert(0, {tests!r})
from answer_rows import HEADER, row
from cream.results import Rows
with Rows({path!r}, HEADER) as rows:
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
    for sample in range(100):
        rows.append(row(sample))
"""

SUPPORT = Path(__file__).resolve().parents[1] / "support"


def test_a_file_that_may_not_grow_ends_with_whole_lines(tmp_path):
    """The kernel itself refuses to write further: what is left are whole rows, safe to resume."""
    path = tmp_path / "rows.jsonl"
    code = LIMITED.format(tests=str(SUPPORT), path=str(path))
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 1 and "are safe" in ended.stderr
    content = path.read_bytes()
    assert content.endswith(b"\n") and 1500 < len(content) <= 3000
    fill(path, range(10))
    assert sorted(results.read(path)["sample"]) == list(range(10))


def test_parquet_holds_the_same_rows_whatever_their_order(tmp_path):
    """Equal rows give equal bytes, read back equal, and nothing is left beside them."""
    fill(tmp_path / "rows.jsonl", range(6))
    frame = results.read(tmp_path / "rows.jsonl")
    one = results.to_parquet(frame, tmp_path / "out" / "a.parquet")
    two = results.to_parquet(frame.iloc[::-1], tmp_path / "out" / "b.parquet")
    assert one.read_bytes() == two.read_bytes()
    pd.testing.assert_frame_equal(results.read(one), frame)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.parquet", "b.parquet"]


def test_parquet_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    """A failed write leaves the old file, and no part of a new one."""
    import pyarrow.parquet

    fill(tmp_path / "rows.jsonl", range(2))
    frame = results.read(tmp_path / "rows.jsonl")
    path = results.to_parquet(frame, tmp_path / "out" / "rows.parquet")
    before = path.read_bytes()

    def full(table: object, where: Path, **_: object) -> None:
        Path(where).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pyarrow.parquet, "write_table", full)
    with pytest.raises(OSError, match="No space"):
        results.to_parquet(frame.iloc[:1], path)
    assert path.read_bytes() == before and len(list(path.parent.iterdir())) == 1


def test_a_folder_is_read_past_its_metrics_and_duplicates(tmp_path):
    """Rows of all files count once; a training's metrics beside them are no rows."""
    fill(tmp_path / "a" / "rows.jsonl", range(4))
    results.to_parquet(results.read(tmp_path / "a"), tmp_path / "b.parquet")
    (tmp_path / "a" / "metrics.jsonl").write_text('{"step": 1}\n')
    assert len(results.read(tmp_path)) == 4
    assert len(results.read()) == 0 and list(results.read()) == list(COLUMNS)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        results.read(tmp_path / "nowhere")
    (tmp_path / "old.jsonl").write_text('{"schema": "cream-rows-0"}\n')
    with pytest.raises(ValueError, match="old.jsonl.*cream-rows-0"):
        results.read(tmp_path)


def test_current_rows_are_those_of_the_model_evaluated_last(tmp_path):
    """A run trained again leaves rows of its old weights; a changed prompt leaves an old row."""
    path = tmp_path / "rows.jsonl"
    for day, header in enumerate([HEADER, {**HEADER, "model_hash": "f" * 16}], 1):
        with Rows(path, {**header, "date": f"2026-01-0{day}"}) as rows:
            rows.append(row(0, token_length=512))
    with Rows(path, {**HEADER, "model_hash": "f" * 16, "date": "2026-01-03"}) as rows:
        rows.append(row(1, token_length=512))
        rows.append({**row(0, token_length=512), "prompt_hash": "changed"})
    with Rows(path, {**HEADER, "run": "pose-s8", "model_hash": "a" * 16}) as rows:
        rows.append(row(0, token_length=512))
    frame = results.current(results.read(path))
    ours = frame[frame["run"] == "cream-s8"]
    assert set(ours["model_hash"]) == {"f" * 16} and sorted(ours["sample"]) == [0, 1]
    assert ours[ours["sample"] == 0]["prompt_hash"].item() == "changed"
    assert len(frame) == 3


def test_variants_of_a_task_are_kept_apart(tmp_path):
    """Two styles are two evaluations; other settings that changed leave an old row behind."""
    path = tmp_path / "rows.jsonl"
    with Rows(path, HEADER) as rows:
        for style, budget in (("official", 8), ("miniature", 8), ("miniature", 10)):
            rows.append({**row(0), "settings": {"style": style, "max_new_tokens": budget}})
    frame = results.current(results.read(path))
    assert sorted(results.variant(frame)) == ["miniature", "official"]
    assert json.loads(frame["settings"].iloc[-1])["max_new_tokens"] == 10
    assert results.variant(frame.assign(settings='{"mode": "truncate"}')).unique() == ["truncate"]


def test_sentences_in_code_and_in_manuals_are_two_evaluations(tmp_path):
    """They share sample, depth and length; none may stand in for the other."""
    path = tmp_path / "rows.jsonl"
    with Rows(path, HEADER) as rows:
        for kind in ("code", "manual"):
            how = {"style": "chat", "haystack": kind}
            rows.append({**row(0), "prompt_hash": kind, "settings": how})
    frame = results.current(results.read(path))
    assert sorted(results.variant(frame)) == ["chat code", "chat manual"]


def test_what_a_figure_is_drawn_from_has_a_name(tmp_path):
    """The hash follows the scores, not the order; the commit is that of the rows."""
    with Rows(tmp_path / "rows.jsonl", {**HEADER, "commit": "abc"}) as rows:
        rows.append(row(0))
        rows.append(row(1))
        frame = rows.frame()
    source = results.drawn_from(frame)
    assert source["commit"] == "abc" and source == results.drawn_from(frame.iloc[::-1])
    assert source["rows"] != results.drawn_from(frame.assign(score=1.0))["rows"]


def test_commit_outside_git_and_given(tmp_path, monkeypatch):
    """A copy without history says so, or says what it was told."""
    monkeypatch.delenv("CREAM_COMMIT", raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit(tmp_path) == "unknown"
    monkeypatch.setenv("CREAM_COMMIT", "abc123")
    assert commit(tmp_path) == "abc123"


def test_parts_of_a_killed_evaluation_are_taken_in(tmp_path):
    """Rows that other processes left beside the file are in it once it is opened again."""
    path, whole = tmp_path / "rows.jsonl", tmp_path / "whole.jsonl"
    fill(path, range(3))
    for part in (1, 12):
        with Rows(path, HEADER, part=part) as rows:
            assert not rows.missing([rows.key("lines", hash_of("prompt", 2), 2)])
            for sample in (2, 10 * part, 5):
                rows.append(row(sample))
    with (tmp_path / "rows.part1.jsonl").open("ab") as file:
        file.write(b'{"schema": "cream-ro')
    assert len(results.read(path)) == 3 and len(results.read(tmp_path)) == 6
    other = tmp_path / "rows.part2.jsonl.note"
    other.write_text("mine")
    with Rows(path, HEADER) as rows:
        assert not rows.missing([rows.key("lines", hash_of("prompt", 120), 120)])
        rows.append(row(10))
    fill(whole, [0, 1, 2, 10, 5, 120])
    assert values(results.read(path)) == values(results.read(whole))
    assert path.read_bytes().count(b"\n") == 6
    assert {one.name for one in tmp_path.iterdir()} == {path.name, whole.name, other.name}


def test_a_part_that_is_still_written_is_left_alone(tmp_path):
    """An orphan of a killed launcher goes on writing: nobody else takes its file."""
    path = tmp_path / "rows.jsonl"
    fill(path, range(2))
    with Rows(path, HEADER, part=3) as orphan:
        orphan.append(row(7))
        with pytest.raises(BlockingIOError, match="writing .*rows.part3.jsonl"):
            Rows(path, HEADER)
        orphan.append(row(8))
    fill(path, range(2))
    assert sorted(results.read(path)["sample"]) == [0, 1, 7, 8]


def test_a_part_that_somebody_else_wrote_is_named(tmp_path):
    (tmp_path / "rows.part1.jsonl").write_text('{"loss": 1.0}\n')
    with pytest.raises(ValueError, match="rows.part1.jsonl.*no schema"):
        Rows(tmp_path / "rows.jsonl", HEADER)
    assert (tmp_path / "rows.part1.jsonl").read_text() == '{"loss": 1.0}\n'
