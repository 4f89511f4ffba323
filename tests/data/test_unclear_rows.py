"""Rows that say two things or none: keys twice, instructions without a conversation, odd places."""

import copy
import gzip
import json
import os
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cream.data.mixture import get, prepare
from cream.data.readers import open_source
from cream.utils.jsonl import json_lines

ALPACA = {"instruction": "Say hi.", "input": "", "output": "hi"}


def read(source: Path, **options: Any) -> list[dict[str, Any]]:
    return list(open_source(str(source), **options).documents)


@pytest.mark.parametrize(
    "line", ['{"text": "a", "text": "b"}', '{"text": "a", "m": {"k": 1, "k": 2}}']
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.jsonl.gz"])
def test_a_key_that_one_object_has_twice_is_refused(tmp_path, line, name):
    """Python's reader keeps the last: half of the text would be lost."""
    text = f"[{line}]" if name.endswith(".json") else f'{{"text": "x"}}\n{line}\n'
    content = text.encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    with pytest.raises(ValueError, match=rf"{name}.* the key '(text|k)' twice in one object"):
        read(tmp_path / name)


@pytest.mark.parametrize(
    "row",
    [ALPACA, {"question": "q", "answer": "a"}, {"prompt": "p", "completion": "c"},
     {"prompt": "p", "chosen": "c", "rejected": "r"}, {"query": "q", "response": "r"}],
)  # fmt: skip
def test_instructions_are_refused_with_the_form_that_is_read(tmp_path, row, tiny_tokenizer):
    """The message's own form, filled in, is read."""
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(ValueError, match='write each row as {"messages"') as error:
        read(tmp_path / "a.jsonl")
    asked, answered = [name for name in row if name in str(error.value).split("halves")[0]][-2:]
    datasets.Dataset.from_list([row]).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(ValueError, match='write each row as {"messages"'):
        read(tmp_path / "saved")
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    (tmp_path / "b.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    from cream.data.chat import ChatTemplate

    chat = ChatTemplate.choose("plain", tiny_tokenizer)
    assert read(tmp_path / "b.jsonl", chat=chat)[0]["text"] == "User: q\nAssistant: a\n"
    assert asked in row and answered in row


def test_other_rows_are_told_to_name_the_field(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"title": "t", "body": "b"}) + "\n")
    with pytest.raises(ValueError, match="fields are title, body: name the right one with field"):
        read(tmp_path / "a.jsonl")
    assert read(tmp_path / "a.jsonl", field="body")[0]["text"] == "b"


def test_a_bos_that_the_tokenizer_does_not_have_is_not_promised(tmp_path, tiny_tokenizer):
    """`bos` true had "none prepended" in its manifest."""
    words = copy.deepcopy(tiny_tokenizer)
    words.bos_token = None
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "word " * 900}) + "\n")
    asked = {"source": str(tmp_path / "a.jsonl"), "window": 64, "share": 0.0}
    with pytest.raises(ValueError, match="bos is true and the tokenizer has no BOS token"):
        prepare(get("miniature", tmp_path, bos=True, **asked), words, tmp_path / "c", tmp_path)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.txt", "a.jsonl.gz", "data.csv"])
def test_a_folder_with_the_name_of_a_file_and_a_link_in_a_circle(tmp_path, name):
    """Neither is a file; both are said with what is accepted."""
    (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match="holds nothing that is read here; accepted are"):
        read(tmp_path / name)
    os.symlink(tmp_path / f"l{name}", tmp_path / f"l{name}")
    with pytest.raises(FileNotFoundError, match="does not exist; accepted are"):
        read(tmp_path / f"l{name}")


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf", b" \r\n"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json"])
def test_files_without_rows_are_named(tmp_path, content, name):
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    with pytest.raises(ValueError, match=rf"{name}.*(holds no rows|is not JSON)"):
        read(tmp_path / name)


@pytest.mark.parametrize("cut", [1, 5, 12, 20])
def test_an_archive_cut_off_anywhere_is_named(tmp_path, cut):
    whole = gzip.compress(b"".join(b'{"text": "%d"}\n' % n for n in range(3000)))
    (tmp_path / "a.jsonl.gz").write_bytes(whole[:-cut])
    with pytest.raises(ValueError, match="a.jsonl.gz is damaged after line"):
        read(tmp_path / "a.jsonl.gz")


@given(st.binary(max_size=200))
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_rows_or_a_value_error(tmp_path_factory, content):
    """Never a raw error, whatever lies in a file of rows."""
    file = tmp_path_factory.mktemp("x") / "a.jsonl"
    file.write_bytes(content)
    try:
        assert all(isinstance(row, dict) for _, row in json_lines(file, []))
    except ValueError as error:
        assert str(file) in str(error)
