"""The chat in a terminal of its own: a pseudo-terminal, a random model, keys as a person types."""

import os
import signal
from pathlib import Path

import pexpect
import pytest
import warm_python

from cream.chat.__main__ import main
from cream.chat.conversation import Chat
from cream.chat.models import open_model
from cream.chat.terminal import introduction, shown

ROOT = Path(__file__).resolve().parents[2]


def _hear_ctrl_c():
    """A suite that runs in the background hands down that SIGINT is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def started(command, folder):
    """Start Python in a pseudo-terminal; wait for its first prompt."""
    path = {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "TERM": "dumb"}
    child = pexpect.spawn(
        warm_python.executable(), command, cwd=folder, env={**os.environ, **path}, encoding="utf-8",
        timeout=240, dimensions=(40, 500), codec_errors="replace", preexec_fn=_hear_ctrl_c,
    )  # fmt: skip
    child.delaybeforesend = None
    child.expect("\r\n> ")
    child.timeout = 180
    return child


@pytest.fixture(scope="module")
def typed(chat_place):
    """A running chat; its first prompt has been read."""
    child = started(["-m", "cream.chat", "runs/done", "--answer-tokens", "300"], chat_place)
    child.opening = child.before
    yield child
    child.close(force=True)


def say(child, line):
    """Type a line; return what is printed until the next prompt."""
    child.sendline(line)
    child.expect_exact("\r\n> ")
    return child.before


def test_a_conversation(typed, chat_place):
    """Opening, help, a file, a question, its tokens, Ctrl-C, refusals, a new one, the end."""
    assert "runs/done: L = 1,024 tokens, at most 300 of them an answer" in typed.opening
    assert "/file report.txt" in say(typed, "/help")
    assert "there is no command '/fiel x'" in say(typed, "/fiel x")
    assert "Not done" in say(typed, "/file absent.txt")
    (chat_place / "report.txt").write_text("alpha beta gamma " * 30)
    assert "report.txt goes with the next question" in say(typed, "/file report.txt")
    answer = say(typed, "Which?")
    assert "of 1,024 tokens used" in answer and "Not done" not in answer
    assert "not found in the text" in answer or "of the text" in answer
    typed.sendintr()  # at the prompt, it ends nothing
    typed.expect_exact("(/quit ends)")
    typed.expect_exact("> ")
    refused = say(typed, "word " * 700)
    assert "does not fit" in refused and "L is 1,024" in refused
    assert "A new conversation: 0 of 1,024 tokens used" in say(typed, "/new")
    typed.sendline("/quit")
    typed.expect(pexpect.EOF)
    typed.close()
    assert typed.exitstatus == 0


STOPPED = """
import sys, time
from cream.chat import conversation, models, terminal
chat = conversation.Chat(models.open_model("runs/done"), 900)
chat.answers._config.eos_token_id = None
step = chat.model.model.forward
def slow(*args, **kwargs):
    time.sleep(0.05)
    return step(*args, **kwargs)
chat.model.model.forward = slow
terminal.talk(chat)
"""


@pytest.mark.slow
def test_ctrl_c_stops_an_answer_and_only_that(chat_place):
    """A model that would answer for a minute; the conversation goes on after it."""
    child = started(["-c", STOPPED], chat_place)
    child.timeout = 120
    child.sendline("Which?")
    child.expect("reading [0-9]+ of [0-9]+ tokens\r *\r.")
    child.sendintr()
    child.expect_exact("(stopped)")
    child.expect("[0-9]+ of 1,024 tokens used")
    child.expect("> ")
    assert "0 of 1,024" in say(child, "/new")
    child.sendeof()
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_a_models_text_does_not_steer_the_terminal():
    assert shown("a\x1b[2J\x9b\rb\n\tc\x07") == "a\ufffd[2J\ufffd\ufffdb\n\tc\ufffd"


def test_a_base_without_template_is_said_to_be_one(tmp_path, tiny_model, tiny_tokenizer):
    from cream import models

    models.save(tiny_model(64), tiny_tokenizer, tmp_path / "plain")
    assert "no chat template" in introduction(Chat(open_model("plain", root=tmp_path)))


@pytest.mark.parametrize("given", [["--port", "7"], ["--host", "0.0.0.0"], ["--no-original"]])
def test_options_of_the_page_are_refused_without_it(given):
    """They were read by nothing, and a conversation in the terminal began."""
    with pytest.raises(SystemExit, match=f"chat: {given[0]} is of the page, and --web"):
        main(["no-such-model", *given])
