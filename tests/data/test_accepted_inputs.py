"""Files of others: encodings, marks, half characters, stray files, null cells, splits, names."""

import codecs
import gzip
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from cream.data.chat import ChatTemplate
from cream.data.columns import split_of, unpadded
from cream.data.mixture import Recipe, get, prepare
from cream.data.readers import open_source
from cream.results import read
from cream.tasks.haystack import from_folder
from cream.tasks.longbench import data
from cream.tasks.perplexity_texts import of_corpus, of_source
from cream.utils.jsonl import json_lines
from cream.utils.text_files import folder_of, read_text

LONG = "Some honest words. " * 40
ROW = {"context": "c", "input": "i", "answers": ["a"], "length": 3, "all_classes": None}
ENCODINGS = {
    "utf-8-sig": codecs.BOM_UTF8,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
}


def found(source: Path, **options: Any) -> list[dict[str, Any]]:
    return list(open_source(str(source), **options).documents)


def marked(text: str, encoding: str) -> bytes:
    return ENCODINGS[encoding] + text.encode(encoding.removesuffix("-sig"))


def written(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def saved(path: Path, **parts: dict[str, list]) -> Path:
    made = {name: datasets.Dataset.from_dict(columns) for name, columns in parts.items()}
    one = made.pop("alone", None)
    (one or datasets.DatasetDict(made)).save_to_disk(str(path))
    return path


# --------------------------------------------------------------------- encodings


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_byte_order_mark_is_no_text_in_any_reader(tmp_path, encoding) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "a.txt").write_bytes(marked("één", encoding))
    row = json.dumps({"text": "één"}, ensure_ascii=False)
    (tmp_path / "a.jsonl").write_bytes(marked(row, encoding))
    (tmp_path / "a.json").write_bytes(marked(f"[{row}]", encoding))
    for name in ("t", "t/a.txt", "a.jsonl", "a.json"):
        assert [each["text"] for each in found(tmp_path / name)] == ["één"], name
    assert from_folder(tmp_path / "t") == read_text(tmp_path / "t" / "a.txt") == "één"
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(marked(row, encoding)))
    assert [row for _, row in json_lines(tmp_path / "b.jsonl.gz", ["text"])] == [{"text": "één"}]
    rows = marked(json.dumps(ROW), encoding)
    (tmp_path / "qasper.jsonl").write_bytes(rows)
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr("data/qasper.jsonl", rows)
    for place in (tmp_path, tmp_path / "data.zip"):
        assert data.read(place, "qasper") == [ROW]


def test_marks_inside_joined_files_are_dropped_and_data_is_kept(tmp_path) -> None:
    line = json.dumps({"text": "\ufeffa"}).encode() + b"\n"
    (tmp_path / "a.jsonl").write_bytes(line + codecs.BOM_UTF8 + line)
    assert [each["text"] for each in found(tmp_path / "a.jsonl")] == ["\ufeffa"] * 2


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.txt"])
def test_other_encodings_are_named_with_their_place(tmp_path, name) -> None:
    texts = {"a.jsonl": '{"text": "x"}\n{"text": "café"}\n', "a.json": '[{"text":\n"café"}]',
             "a.txt": "one\ncafé"}  # fmt: skip
    (tmp_path / name).write_text(texts[name], encoding="latin-1")
    with pytest.raises(ValueError, match=rf"{name} is not UTF-8: line 2, column \d+, .*0xe9"):
        found(tmp_path / name)


def test_utf16_without_a_mark_and_binary_are_no_text(tmp_path) -> None:
    (tmp_path / "a.txt").write_bytes("plain words".encode("utf-16-le"))
    with pytest.raises(ValueError, match="a.txt is no text: line 1 holds NUL"):
        found(tmp_path / "a.txt")
    (tmp_path / "b.txt").write_bytes(codecs.BOM_UTF16_LE + b"a\0b")
    with pytest.raises(ValueError, match="b.txt is not UTF-16 after line 0"):
        found(tmp_path / "b.txt")


# --------------------------------------------------------------------- JSON


@pytest.mark.parametrize("half", ["\ud83d", "\ude00", "\ude00\ud83d"])
def test_half_of_a_surrogate_pair_is_refused_by_field(tmp_path, half, tiny_tokenizer) -> None:
    chat = ChatTemplate.choose("plain", tiny_tokenizer)
    turns = [{"from": "human", "value": half}, {"from": "gpt", "value": "b"}]
    for row, field in (
        ({"text": f"a{half}"}, "text"),
        ({"id": half, "text": "a"}, "id"),
        ({"conversations": turns}, "conversations"),
    ):
        path = written(tmp_path / "a.jsonl", {"text": "x"}, row)
        with pytest.raises(ValueError, match=rf"a.jsonl, line 2, field '{field}': holds"):
            found(path, chat=chat)
    (tmp_path / "a.json").write_text(json.dumps([{"text": half}]))
    with pytest.raises(ValueError, match="a.json, record 1, field 'text'"):
        found(tmp_path / "a.json")
    written(tmp_path / "qasper.jsonl", {**ROW, "answers": [half]})
    with pytest.raises(ValueError, match="qasper.jsonl, line 1, field 'answers'"):
        data.read(tmp_path, "qasper")
    official = written(tmp_path / "o.jsonl", {"prompt": half})
    with pytest.raises(ValueError, match="o.jsonl, line 1, field 'prompt'"):
        list(json_lines(official, ["prompt"]))


def test_whole_pairs_and_fields_that_nobody_reads_are_kept(tmp_path) -> None:
    path = written(tmp_path / "a.jsonl", {"text": "😀", "meta": "\ud83d"})
    assert "\\ud83d" in path.read_text() and found(path)[0]["text"] == "😀"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", '[{"text": "x"}]', "line 1, is no object .* a list; .* .json"),
        ("a.json", '{"text": "x"}\n{"text": "y"}', "is not JSON .*Extra data.* .jsonl"),
        ("a.jsonl", "[" * 100_000, "line 1, is not JSON that is read here: .* too deep"),
        ("a.jsonl", '{"text": ' + '{"a":' * 500 + "1" + "}" * 501, "column 'text' holds a dict"),
        ("a.jsonl", "", "holds no rows"),
        ("a.jsonl", "\n \n", "holds no rows"),
        ("a.json", "[]", "holds no rows"),
        ("a.jsonl", '{"text": null}', "line 1, column 'text' is null"),
        ("a.jsonl", '{"text": 3}', "line 1, column 'text' holds a int"),
        ("a.jsonl", '{"text": ["a", "b"]}', "line 1, column 'text' holds a list"),
    ],
)
def test_rows_that_hold_no_text_say_where(tmp_path, name, content, says) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=rf"{name}.*{says}"):
        found(tmp_path / name)


# --------------------------------------------------------------------- names


def test_null_and_repeated_ids_are_told_apart(tmp_path) -> None:
    rows = [{"id": one, "text": "a"} for one in (None, "", "x", "x", "line 6", None, 7, [1])]
    names = [each["name"] for each in found(written(tmp_path / "a.jsonl", *rows))]
    assert names == ["line 1", "line 2", "x", "x (line 4)", "line 6", "line 6 (line 6)", "7",
                     "line 8"]  # fmt: skip


@pytest.mark.parametrize("name", [None, "same"])
def test_held_out_does_not_hang_on_ids_that_repeat(tmp_path, name) -> None:
    path = written(tmp_path / "a.jsonl", *({"id": name, "text": f"a {i}"} for i in range(100)))
    splits = [each["split"] for each in found(path, held_out=0.2)]
    assert all(10 <= splits.count(part) <= 30 for part in ("validation", "test"))


# --------------------------------------------------------------------- folders


def test_stray_files_are_ignored_and_said(tmp_path, caplog) -> None:
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / "x.txt").mkdir()
    for name in ("b.txt", "x.txt/a.TXT", ".ipynb_checkpoints/b.txt", "._b.txt", "notes.md"):
        (tmp_path / name).write_text(name)
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.txt")  # reading it would never end
    opened = open_source(str(tmp_path))
    assert [each["name"] for each in opened.documents] == ["b.txt", "x.txt/a.TXT"]
    assert opened.facts["files"] == 2
    (note,) = opened.notes
    assert "2 hidden (._b.txt, .ipynb_checkpoints/b.txt)" in note and note in caplog.text
    assert "3 of other kinds (gone.txt, notes.md, pipe.txt)" in note
    assert from_folder(tmp_path) == "b.txt"
    with pytest.raises(ValueError, match="pipe.txt holds nothing that is read here"):
        open_source(str(tmp_path / "pipe.txt"))


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "x.parquet", "dump.json"])
def test_data_beside_texts_is_refused_by_name(tmp_path, name) -> None:
    (tmp_path / "README.txt").write_text("read me")
    (tmp_path / name).write_text('[{"text": "x"}]')
    with pytest.raises(ValueError, match=f"holds 1 .txt files and {name}: a folder is read for"):
        open_source(str(tmp_path))


def test_rows_of_an_editors_copies_are_not_read(tmp_path) -> None:
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / ".ipynb_checkpoints" / "a.jsonl").write_text(
        '{"schema": "cream-rows-1", "key": "old"}\n'
    )
    assert len(read(tmp_path)) == 0


def test_file_names_that_are_not_utf8_can_be_stored(tmp_path, tiny_tokenizer) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    folder.mkdir()
    (folder / os.fsdecode(b"\xe9.txt")).write_text(LONG)
    recipe = Recipe(source=str(folder), window=8, piece_tokens=None, share=0)
    corpus = prepare(recipe, tiny_tokenizer, tmp_path / "c", progress=False)
    assert corpus.split("train").column("name") == ["\ufffd.txt"]
    assert folder_of(folder, ".txt").note() == ""


# --------------------------------------------------------------------- saved data sets


def test_splits_are_mapped_or_refused(tmp_path, caplog) -> None:
    one = {"text": ["x"]}
    path = saved(tmp_path / "a", Train=one, val=one, dev=one, testing=one)
    names = [(each["split"], each["name"]) for each in found(path)]
    assert names == [("train", "Train row 0"), ("validation", "val row 0"),
                     ("validation", "dev row 0"), ("test", "testing row 0")]  # fmt: skip
    assert "dev is read as validation" in caplog.text and split_of("train_sft") is None
    with pytest.raises(ValueError, match="splits train, extra; .* rename or remove extra"):
        open_source(str(saved(tmp_path / "b", train=one, extra=one)))


def test_a_field_that_is_named_wins_over_ids(tmp_path, tiny_tokenizer) -> None:
    columns = {"input_ids": [[5, 6]], "text": ["t"], "body": ["b"]}
    path = saved(tmp_path / "a", alone=columns)
    assert found(path)[0]["input_ids"].tolist() == [5, 6]
    assert [found(path, field=name)[0]["text"] for name in ("text", "body")] == ["t", "b"]
    assert open_source(str(path)).facts != open_source(str(path), field="text").facts
    assert next(of_source(str(path), tiny_tokenizer, "body").documents)[0] == "a: row 0"


def test_padding_is_cut_by_its_mask(tmp_path, tiny_tokenizer) -> None:
    ids, mask = [[7, 8, 9, 1, 1], [1, 7, 8, 9, 7]], [[1, 1, 1, 0, 0], [0, 1, 1, 1, 1]]
    path = saved(tmp_path / "a", alone={"input_ids": ids, "attention_mask": mask})
    assert [each["input_ids"].tolist() for each in found(path)] == [[7, 8, 9], [7, 8, 9, 7]]
    recipe = Recipe(source=str(path), window=2, piece_tokens=None, share=0)
    corpus = prepare(recipe, tiny_tokenizer, tmp_path / "c", progress=False)
    assert corpus.manifest["padding"] == {"documents": 2, "tokens": 3}
    assert "3 tokens of padding cut from 2 documents" in corpus.left_out()


def test_padding_without_a_mask_is_cut_by_the_tokenizers(tiny_tokenizer) -> None:
    end = tiny_tokenizer.pad_token_id  # EOS, too: one of them is kept
    given = [{"input_ids": np.array(ids)} for ids in ([7, end, end, end], [7, end, 8], [end] * 3)]
    cut = [each["input_ids"].tolist() for each in unpadded(given, tiny_tokenizer)]
    assert cut == [[7, end], [7, end, 8], [end]]


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"text": [LONG, None]}, "a, row 1, column 'text' is null"),
        ({"input_ids": [[1, 2], None]}, "a, row 1, column 'input_ids' is null"),
        ({"input_ids": [[1, 2], [3, None]]}, "a, row 1, column 'input_ids' holds null"),
        ({"input_ids": [[1.5]]}, "column 'input_ids' is list<.*double>, no text"),
        ({"input_ids": [[1, 2]], "attention_mask": [[1]]}, "row 0, column 'attention_mask' has 1"),
        ({"input_ids": [[1, 2, 3]], "attention_mask": [[1, 0, 1]]}, "row 0, .* 0 inside the text"),
        ({"text": [3]}, "column 'text' is int64, no text"),
        ({"text": [None]}, "column 'text' is null, no text"),
        ({"messages": [None, None]}, "column 'messages' is null"),
        ({"other": ["x"]}, "columns other: neither input_ids nor 'text'"),
    ],
)
def test_odd_cells_and_columns_are_named(tmp_path, columns, says, tiny_tokenizer) -> None:
    with pytest.raises(ValueError, match=says):
        found(saved(tmp_path / "a", alone=columns))
    out = tmp_path / "c"
    with pytest.raises(ValueError, match=says):
        prepare(Recipe(source=str(tmp_path / "a"), window=2, share=0), tiny_tokenizer, out)
    assert [one.name for one in tmp_path.iterdir()] == ["a"]


def test_sets_without_rows_and_torn_ones_are_named(tmp_path) -> None:
    for name in ("none", "torn"):
        saved(tmp_path / name, alone={"text": [] if name == "none" else ["x"]})
    with pytest.raises(ValueError, match="none .*with at least one row|none holds no rows"):
        open_source(str(tmp_path / "none"))
    (tmp_path / "torn" / "state.json").write_text("{")
    with pytest.raises(ValueError, match="torn is no whole data set that datasets saved"):
        open_source(str(tmp_path / "torn"))


# --------------------------------------------------------------------- from 01_data to 07


def test_perplexity_names_the_way_of_conversations_and_it_leads_there(
    tmp_path, tiny_tokenizer
) -> None:
    turns = [{"role": "user", "content": LONG}, {"role": "assistant", "content": LONG}]
    path = written(tmp_path / "a.jsonl", {"messages": turns})
    with pytest.raises(ValueError, match="a.jsonl, line 1 holds conversations .* with 01_data"):
        list(of_source(str(path), tiny_tokenizer).documents)
    rows = saved(tmp_path / "rows", alone={"messages": [turns]})
    with pytest.raises(ValueError, match="rows holds conversations in 'messages'.* with 01_data"):
        of_source(str(rows), tiny_tokenizer)
    for number, source in enumerate((path, rows)):
        recipe = Recipe(source=str(source), window=8, piece_tokens=None, share=0, split="test")
        corpus = prepare(recipe, tiny_tokenizer, tmp_path / f"c{number}", progress=False)
        ((_, ids),) = of_corpus(corpus.path, tiny_tokenizer).documents
        assert tiny_tokenizer.decode(ids) == f"User: {LONG.strip()}\nAssistant: {LONG.strip()}\n"


def test_lengths_that_are_not_given_follow_the_window() -> None:
    recipe = get("miniature", window=8192)
    assert (recipe.piece_tokens, recipe.generated_tokens) == (8192, 8192)
    assert get("miniature", window=256).piece_tokens == get("miniature").piece_tokens == 4096
    assert get("llama2-7b", window=8192).piece_tokens is None
    assert get("miniature", window=8192, piece_tokens=0).piece_tokens is None
    assert get("miniature", window=8192, piece_tokens=9000).piece_tokens == 9000
