"""LongBench's data: one path for folders, the archive and the hub; what is wrong is named."""

import json
import zipfile

import pytest

from cream.tasks.longbench import data, synthetic
from cream.tasks.longbench.data import FIELDS, HUB, REVISION, locate, read
from cream.tasks.longbench.definitions import TASKS

ROW = {"context": "c", "input": "i", "answers": ["a"], "length": 3, "all_classes": None}


def written(folder, *rows, task="qasper"):
    text = "".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows)
    (folder / f"{task}.jsonl").write_text(text, encoding="utf-8")
    return folder


def test_made_up_samples_have_the_official_fields(tmp_path):
    synthetic.write(tmp_path, samples=3)
    for task in TASKS:
        rows = read(locate(tmp_path), task)
        assert len(rows) == 3 and all(set(FIELDS) < set(row) for row in rows)
        assert {row["dataset"] for row in rows} == {task}
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(f"{t}.jsonl" for t in TASKS)


def test_a_folder_has_no_revision(tmp_path):
    with pytest.raises(ValueError, match="revision is 'abc', but data .* is a path here"):
        locate(tmp_path, "abc")


def test_made_up_samples_can_be_answered_from_their_text(tmp_path):
    synthetic.write(tmp_path, samples=5)
    for task in set(TASKS) - {"passage_count", "passage_retrieval_en", "lcc", "repobench-p"}:
        for row in read(tmp_path, task):
            known = row["context"] + row["input"] + str(row["all_classes"])
            words = row["answers"][0].replace(".", "").split()
            assert all(word in known or word in ("The", "house", "of") for word in words), task
    for row in read(tmp_path, "passage_count"):
        texts = {text.partition(": ")[2] for text in row["context"].split("\n\n")}
        assert row["answers"] == [str(len(texts))]
    for row in read(tmp_path, "passage_retrieval_en"):
        place = row["input"].removeprefix("A house in ").rstrip(".")
        (asked,) = [p for p in row["context"].split("\n\n") if p.endswith(f" is in {place}.")]
        assert asked.startswith(f"{row['answers'][0]}: ")


def test_made_up_samples_are_the_same_for_the_same_numbers(tmp_path):
    one, two = (synthetic.write(tmp_path / str(i), samples=2, seed=7) for i in range(2))
    other = synthetic.write(tmp_path / "other", samples=2, seed=8)
    for task in TASKS:
        name = f"{task}.jsonl"
        assert (one / name).read_bytes() == (two / name).read_bytes()
        assert (one / name).read_bytes() != (other / name).read_bytes()
    with pytest.raises(ValueError, match="samples 0"):
        synthetic.write(tmp_path / "none", samples=0)


def test_a_folder_its_data_folder_and_the_archive_read_alike(tmp_path):
    flat = synthetic.write(tmp_path / "flat")
    synthetic.write(tmp_path / "nested" / "data")
    archive = tmp_path / "data.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for task in TASKS:
            file.write(flat / f"{task}.jsonl", f"data/{task}.jsonl")
    for task in TASKS:
        rows = read(locate(flat), task)
        assert read(locate(tmp_path / "nested"), task) == rows == read(locate(archive), task)


@pytest.mark.parametrize(
    ("given", "asked"), [(None, REVISION), ("refs/pr/3", "refs/pr/3")], ids=["pinned", "own"]
)
def test_the_hub_is_asked_for_the_archive_of_one_revision(given, asked, tmp_path, monkeypatch):
    seen = {}

    def fetched(name, filename, **how):
        seen.update(name=name, filename=filename, **how)
        return str(tmp_path / "fetched.zip")

    monkeypatch.setattr(data, "cached_file", fetched)
    assert locate(HUB, given) == tmp_path / "fetched.zip"
    assert seen == {
        "name": "zai-org/LongBench",
        "filename": "data.zip",
        "repo_type": "dataset",
        "revision": asked,
    }


def test_a_place_that_is_nowhere_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder or data.zip; give one, or a hub"):
        locate(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="the hub gave no data.zip of revision 5e628be"):
        locate(HUB)  # tests are offline
    with pytest.raises(FileNotFoundError, match=r"has no qasper.jsonl: leave qasper out"):
        read(tmp_path, "qasper")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as file:
        file.writestr("readme.txt", "x")
    with pytest.raises(FileNotFoundError, match="is it LongBench's data.zip"):
        read(tmp_path / "other.zip", "qasper")


@pytest.mark.parametrize(
    ("task", "change", "says"),
    [
        ("qasper", {"answers": []}, "at least one answer"),
        ("qasper", {"answers": [3]}, "must be texts"),
        ("qasper", {"answers": "a"}, "answers is a str"),
        ("qasper", {"context": None}, "context is a NoneType"),
        ("qasper", {"length": "long"}, "length is a str"),
        ("qasper", {"length": True}, "length is a bool"),
        ("qasper", {"dataset": "musique"}, "is of musique, not of qasper"),
        ("trec", {"all_classes": None}, "needs all_classes"),
        ("passage_retrieval_en", {"answers": ["7"]}, "names no paragraph"),
    ],
)
def test_a_row_that_cannot_be_scored_is_named_with_its_line(task, change, says, tmp_path):
    good = {**ROW, "answers": ["Paragraph 1"], "all_classes": ["x"]}
    written(tmp_path, good, {**good, **change}, task=task)
    with pytest.raises(ValueError, match=f"{task}.jsonl, line 2.*{says}"):
        read(tmp_path, task)


@pytest.mark.parametrize("field", FIELDS)
def test_a_missing_field_is_named(field, tmp_path):
    written(tmp_path, {name: value for name, value in ROW.items() if name != field})
    with pytest.raises(ValueError, match=f"line 1, has no {field}: use the data of zai-org"):
        read(tmp_path, "qasper")


def test_the_copy_that_lm_eval_points_to_is_refused(tmp_path):
    copied = {**ROW, "question": "Question: i\n", "answer_prefix": "Answer:", "task": "qasper"}
    written(tmp_path, {name: value for name, value in copied.items() if name != "input"})
    with pytest.raises(ValueError, match="has no input: it is a reformatted copy"):
        read(tmp_path, "qasper")


def test_damage_is_named_with_its_line(tmp_path):
    written(tmp_path, ROW, json.dumps(ROW)[:-9])
    with pytest.raises(ValueError, match="qasper.jsonl, line 2, is not JSON"):
        read(tmp_path, "qasper")
    with pytest.raises(ValueError, match="line 1, is no object"):
        read(written(tmp_path, "[1]\n"), "qasper")
    with pytest.raises(ValueError, match="holds no rows"):
        read(written(tmp_path, "\n"), "qasper")
    (tmp_path / "qasper.jsonl").write_bytes(b'{"context": "\xff"}\n')
    with pytest.raises(ValueError, match="qasper.jsonl is not UTF-8: line 1, column 14"):
        read(tmp_path, "qasper")
    (tmp_path / "cut.zip").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ValueError, match="cut.zip is damaged at qasper"):
        read(tmp_path / "cut.zip", "qasper")
