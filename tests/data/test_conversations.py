"""Conversations: roles, cells and forms read in one place; what cannot be said is counted."""

import json
from pathlib import Path

import datasets
import pytest

from cream.data.chat import ChatTemplate, Dropped
from cream.data.mixture import Recipe, prepare
from cream.data.readers import open_source


@pytest.fixture
def plain(tiny_tokenizer) -> ChatTemplate:
    return ChatTemplate.choose("plain", tiny_tokenizer)


def written(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def turns(*said: tuple[object, object], form: tuple[str, str] = ("from", "value")) -> list[dict]:
    return [dict(zip(form, each, strict=True)) for each in said]


SAID = "User: Hi\nAssistant: Ho\n"


@pytest.mark.parametrize("form", [("from", "value"), ("role", "content")])
@pytest.mark.parametrize(
    "roles", [("Human", "GPT"), (" user ", "ASSISTANT"), ("human", "ChatGPT"), ("User", "model")]
)
def test_roles_are_read_without_case_in_both_forms(plain, form, roles) -> None:
    said = turns(*zip(roles, ("Hi", "Ho"), strict=True), form=form)
    assert plain.render(said, "here") == SAID


@pytest.mark.parametrize("column", ["conversations", "messages", "conversation", "dialogue"])
def test_every_container_is_read(tmp_path, plain, column) -> None:
    said = turns(("user", "Hi"), ("assistant", "Ho"), form=("role", "content"))
    field = "dialogue" if column == "dialogue" else None
    lines = written(tmp_path / "a.jsonl", {column: said})
    (tmp_path / "a.json").write_text(json.dumps([{"text": None, column: said}]))
    datasets.Dataset.from_dict({column: [said]}).save_to_disk(str(tmp_path / "saved"))
    for source in (lines, tmp_path / "a.json", tmp_path / "saved"):
        ((found),) = open_source(str(source), field, plain).documents
        assert (found["kind"], found["text"]) == ("chat", SAID), source


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ([{"type": "text", "text": "Hi "}, {"type": "text", "text": "you"}], "Hi you"),
        (["Hi ", "you"], "Hi you"),
        ([{"text": "Hi"}, {"type": "input_text", "text": " you"}], "Hi you"),
        ([], ""),
        ("", ""),
    ],
)
def test_text_parts_are_joined(plain, cell, text) -> None:
    said = turns(("human", cell), ("gpt", "Ho"))
    assert plain.render(said, "here") == f"User: {text}\nAssistant: Ho\n"


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ([{"type": "image_url", "image_url": "x"}], "part 1: holds {'type': 'image_url'"),
        ([{"type": "text", "text": None}], "part 1: holds None"),
        (["a", 3], "part 2: holds 3"),
        (3, ": holds 3"),
        (True, ": holds True"),
        ({"text": "a"}, ": holds {'text': 'a'}"),
    ],
)
def test_cells_without_text_are_refused_with_their_place(tmp_path, plain, cell, says) -> None:
    path = written(tmp_path / "a.jsonl", {"conversations": turns(("human", "a"), ("gpt", cell))})
    where = "a.jsonl, line 1, column 'conversations', turn 2, value"
    with pytest.raises(ValueError) as found:
        list(open_source(str(path), chat=plain).documents)
    assert where in str(found.value) and says in str(found.value)


@pytest.mark.parametrize(
    "turn", [{"from": None, "value": "a"}, {"from": 3, "value": "a"}, {"role": "user"}, "a", None,
             {"value": "a"}, {"content": "a"}]
)  # fmt: skip
def test_turns_without_a_role_are_refused_with_their_place(plain, turn) -> None:
    with pytest.raises(ValueError, match="here, turn 2: "):
        plain.render([*turns(("human", "a")), turn], "here")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (turns(("human", None), ("gpt", "a")), "no text"),
        (turns(("human", "a"), ("tool", "b"), ("gpt", "c")), "the role 'tool'"),
        (turns(("human", "a"), ("function_call", "{}"), ("gpt", "c")), "role 'function_call'"),
        ([*turns(("user", "a"), form=("role", "content")),
          {"role": "assistant", "content": None, "tool_calls": [{"id": 1}]}], "calls a tool"),
        (turns(("human", "a")), "no assistant"),
        ([], "no assistant"),
    ],
)  # fmt: skip
def test_what_cannot_be_said_is_dropped_with_its_reason(plain, said, reason) -> None:
    with pytest.raises(Dropped, match=reason):
        plain.render(said, "here")


@pytest.mark.parametrize("key", ["system", "system_prompt"])
def test_a_system_message_beside_the_turns_comes_first(tmp_path, plain, key) -> None:
    said = turns(("human", "Hi"), ("gpt", "Ho"))
    rows = [{key: text, "conversations": said} for text in ("Be kind.", None, "")]
    found = open_source(str(written(tmp_path / "a.jsonl", *rows)), chat=plain).documents
    assert [each["text"] for each in found] == ["Be kind.\n" + SAID, SAID, SAID]
    path = written(tmp_path / "b.jsonl", {key: 3, "conversations": said})
    with pytest.raises(ValueError, match="line 1, column 'conversations', system: holds 3"):
        list(open_source(str(path), chat=plain).documents)


def test_dropped_conversations_are_counted_by_reason(tmp_path, tiny_tokenizer) -> None:
    long, short = "word " * 100, "x"
    answers = (("gpt", long), ("tool", long), ("tool", long), ("gpt", None))
    rows = [{"conversations": turns(("human", long), answer)} for answer in answers]
    rows.append({"conversations": turns(("human", short), ("gpt", short))})
    path = written(tmp_path / "a.jsonl", *rows)
    recipe = Recipe(source=str(path), window=64, piece_tokens=None, share=0)
    corpus = prepare(recipe, tiny_tokenizer, tmp_path / "c", progress=False)
    assert corpus.manifest["dropped"] == 4
    assert corpus.manifest["reasons"] == {
        "a turn has the role 'tool'": 2,
        "a turn has no text (null)": 1,
        "shorter than the window": 1,
    }
    assert "2 documents dropped: a turn has the role 'tool'" in corpus.left_out()
    only = written(tmp_path / "b.jsonl", *rows[1:4])
    recipe = Recipe(source=str(only), window=64, piece_tokens=None, share=0)
    with pytest.raises(ValueError, match=r"3 were read, .*2 dropped \(a turn has the role 'tool'"):
        prepare(recipe, tiny_tokenizer, tmp_path / "d", progress=False)
    assert not (tmp_path / "d").exists()


def test_a_named_field_wins_over_conversations(tmp_path, plain) -> None:
    row = {"body": "b", "conversations": turns(("human", "a"), ("gpt", "b"))}
    path = written(tmp_path / "a.jsonl", row)
    assert [each["text"] for each in open_source(str(path), "body", plain).documents] == ["b"]
    with pytest.raises(ValueError, match="no text in field 'other'; its fields are body, conv"):
        list(open_source(str(path), "other", plain).documents)
