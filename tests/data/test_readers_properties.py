"""Whatever stands in a file, a reader gives text or says the place: never another error."""

import json
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from cream.data.chat import ROLES, ChatTemplate, Dropped
from cream.data.columns import unpadded
from cream.data.readers import open_source
from cream.utils.jsonl import json_lines
from cream.utils.text_files import read_text

QUICK = settings(max_examples=60, deadline=None, derandomize=True, database=None,
                 suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
CHARACTERS = st.characters() | st.sampled_from("\ud83d\ude00\ufeff\u2028\r\n\0")
TEXT = st.text(CHARACTERS, max_size=8)
CELLS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
ROLE = st.sampled_from([*ROLES, "Human", "tool", ""]) | CELLS
TURN = st.one_of(
    st.fixed_dictionaries({"from": ROLE, "value": CELLS}),
    st.fixed_dictionaries({"role": ROLE, "content": CELLS | st.just([{"text": "a"}])}),
    CELLS,
)
ROWS = st.dictionaries(
    st.sampled_from(["text", "id", "conversations", "messages", "system", "other"]),
    CELLS | st.lists(TURN, max_size=3),
)


def read(name: str, content: bytes, tokenizer: PreTrainedTokenizerBase) -> list[dict] | str:
    """The documents of a file, or what a ValueError said of it."""
    chat = ChatTemplate.choose("plain", tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        try:
            return list(open_source(str(path), chat=chat).documents)
        except ValueError as error:
            assert name in str(error)
            return str(error)


def sound(documents: list[dict]) -> None:
    """Texts and names can be stored, and names tell documents apart."""
    for each in documents:
        each["text"].encode()
        each["name"].encode()
    assert len({each["name"] for each in documents}) == len(documents)


@QUICK
@given(rows=st.lists(ROWS, max_size=3), ascii=st.booleans())
def test_rows_of_any_shape_are_read_or_refused_by_line(rows, ascii, tiny_tokenizer) -> None:
    lines = "".join(json.dumps(row, ensure_ascii=ascii) + "\n" for row in rows)
    found = read("a.jsonl", lines.encode("utf-8", "surrogatepass"), tiny_tokenizer)
    if isinstance(found, str):
        assert not rows or "line " in found
    else:
        sound(found)
        assert len(found) == len(rows)


@QUICK
@given(content=st.binary(max_size=40), name=st.sampled_from(["a.jsonl", "a.json", "a.txt"]))
def test_bytes_of_any_kind_are_read_or_refused(content, name, tiny_tokenizer) -> None:
    found = read(name, content, tiny_tokenizer)
    if not isinstance(found, str):
        sound(found)
        assert all("\0" not in each["text"] for each in found)


@QUICK
@given(text=st.text(st.characters(exclude_characters="\0\r", exclude_categories=["Cs"])),
       encoding=st.sampled_from(["utf-8-sig", "utf-16", "utf-32"]))  # fmt: skip
def test_marked_text_comes_back_whole(text, encoding) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.txt"
        path.write_bytes(text.encode(encoding))
        assert read_text(path) == text


@QUICK
@given(turns=st.lists(TURN, max_size=4) | CELLS, system=CELLS)
def test_turns_of_any_shape_are_said_dropped_or_refused(turns, system, tiny_tokenizer) -> None:
    chat = ChatTemplate.choose("plain", tiny_tokenizer)
    try:
        text = chat.render(turns, "here", system)
    except Dropped as why:
        assert str(why)
    except ValueError as error:
        assert str(error).startswith("here")
    else:
        assert "Assistant: " in text
        text.encode("utf-8", "surrogatepass")


@QUICK
@given(rows=st.lists(CELLS, min_size=1, max_size=3))
def test_official_rows_without_their_fields_are_refused_by_line(rows) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "o.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        try:
            list(json_lines(path, ["prompt"]))
        except ValueError as error:
            assert "o.jsonl, line 1" in str(error)
        else:
            raise AssertionError("rows without a prompt were read")


@QUICK
@given(ids=st.lists(st.integers(0, 3), max_size=12))
def test_cut_padding_never_takes_text(ids, tiny_tokenizer) -> None:
    pad = tiny_tokenizer.pad_token_id
    (cut,) = unpadded([{"input_ids": ids}], tiny_tokenizer)
    kept = cut["input_ids"].tolist()
    assert len(kept) + cut["padding"] == len(ids)
    assert [each for each in kept if each != pad] == [each for each in ids if each != pad]
    assert kept[:2] != [pad, pad] and kept[-2:] != [pad, pad]
