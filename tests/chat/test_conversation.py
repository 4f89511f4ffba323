"""The count of tokens against L, what is refused before it is computed, and what is kept."""

import threading

import pytest
from chatting import LIMIT

from cream.chat.conversation import Chat, TextFile, TooLong
from cream.chat.models import open_model, open_original
from cream.chat.streaming import Reading
from cream.inference.generation import greedy


@pytest.fixture(scope="module")
def model(chat_place):
    return open_model("runs/done", root=chat_place)


@pytest.fixture
def chat(model):
    return Chat(model, answer_tokens=12)


def answered(pieces):
    return "".join(piece for piece in pieces if not isinstance(piece, Reading))


def test_used_is_what_the_template_makes_of_the_turns(chat, model):
    assert chat.used().used == 0
    chat.add(TextFile("a.txt", "one two three"))
    waiting = chat.used().used
    said = answered(chat.ask("Which?"))
    text = f"user: one two three\n\nWhich?\nassistant: {said}\nassistant:"
    assert chat.used().used == len(model.tokenizer(text)["input_ids"]) > waiting
    assert [turn.role for turn in chat.turns] == ["user", "assistant"] and not chat.files
    assert str(chat.used()).startswith(f"{chat.used().used:,} of 1,024 tokens used (")


def test_a_file_beyond_L_is_refused_with_the_numbers_and_not_added(chat, model):
    text = "word " * 600
    with pytest.raises(TooLong) as refused:
        chat.add(TextFile("big.txt", text))
    needs = len(model.tokenizer(f"user: {text}\n\n\nassistant:")["input_ids"]) + 12
    over = needs - LIMIT
    assert f"are {needs:,}, and L is {LIMIT:,}. Shorten it by {over:,}" in str(refused.value)
    assert not chat.files and not chat.turns


def test_a_question_beyond_L_is_refused_before_the_model_is_called(chat, monkeypatch):
    monkeypatch.setattr(chat.answers, "stream", lambda *a: pytest.fail("computed"))
    with pytest.raises(TooLong, match="this question does not fit: .* a new conversation"):
        chat.ask("word " * 600)
    assert not chat.turns


def test_the_last_that_fits_fits(chat, model):
    """At the border: as many tokens as L less the answer's, and one more."""
    sizes = {n: len(chat.model.tokenizer(f"user: {'7' * n}\nassistant:")["input_ids"]) for n in
             range(900, 1024)}  # fmt: skip
    fits = max(n for n, size in sizes.items() if size + 12 <= LIMIT)
    assert sizes[fits] + 12 == LIMIT
    chat.ask("7" * fits).close()
    with pytest.raises(TooLong):
        chat.ask("7" * (fits + 1))


def test_an_answer_is_what_greedy_decoding_gives(chat, model):
    chat.add(TextFile("a.txt", "alpha beta gamma " * 20))
    said = answered(chat.ask("Which?"))
    prompt = f"user: {'alpha beta gamma ' * 20}\n\nWhich?\nassistant:"
    (alone,) = greedy(model.model, model.tokenizer, [prompt], 12)
    assert said == alone.text


def test_an_answer_stopped_before_its_first_word_is_taken_back(chat):
    stop = threading.Event()
    stop.set()
    file = TextFile("a.txt", "one two three")
    chat.add(file)
    assert answered(chat.ask("Which?", stop)) == ""
    assert not chat.turns and chat.files == [file]


def test_a_closed_answer_keeps_what_was_said(chat):
    pieces = chat.ask("Which?")
    said = next(piece for piece in pieces if isinstance(piece, str))
    pieces.close()
    assert chat.turns[-1].role == "assistant" and chat.turns[-1].text == said


def test_new_begins_anew(chat):
    chat.add(TextFile("a.txt", "one"))
    answered(chat.ask("Which?"))
    chat.new()
    assert chat.used().used == 0 and not chat.has_files()


def test_the_original_is_asked_beyond_its_window(chat_place):
    original = open_original("runs/done", root=chat_place)
    chat = Chat(original, answer_tokens=4)
    budget = chat.add(TextFile("a.txt", "word " * 300))
    assert budget.used > budget.limit == 256
    assert chat.ask("Which?")


def test_an_answer_as_long_as_L_is_refused(model):
    with pytest.raises(ValueError, match="leaves nothing of L = 1,024"):
        Chat(model, answer_tokens=1024)


def test_a_base_without_template_continues_the_text(tmp_path, tiny_model, tiny_tokenizer):
    from cream import models

    models.save(tiny_model(256), tiny_tokenizer, tmp_path / "plain")
    plain = open_model("plain", root=tmp_path)
    chat = Chat(plain, answer_tokens=8)
    chat.add(TextFile("a.txt", "one two"))
    said = answered(chat.ask("three"))
    (alone,) = greedy(plain.model, plain.tokenizer, ["one two\n\nthree"], 8)
    assert said == alone.text and not plain.has_template


@pytest.mark.parametrize("content", [b"", b" \n", b"\xff\xfe\xfa", b"a\0b"])
def test_what_is_no_text_is_refused(tmp_path, content):
    (tmp_path / "f.txt").write_bytes(content)
    with pytest.raises(ValueError, match=r"f\.txt"):
        TextFile.read(tmp_path / "f.txt")
