"""The page in a real browser: what it shows, what it escapes, whom it asks, who may ask it."""

import socket
import urllib.request
from urllib.error import HTTPError

import browser
import pytest

from cream.chat import page_html
from cream.chat.conversation import Chat, TextFile
from cream.chat.models import open_model, open_original
from cream.chat.sources import find_source
from cream.chat.streaming import Answers

EVIL = '<img src=x onerror="document.title=1">${document.title=2}{{3}}<b>bold</b> **x** & the end'
REPORT = "Nothing of note happened here.\n" * 8 + "The key of the gate is marble.\n" + "More. " * 9


@pytest.fixture(scope="module", autouse=True)
def page():
    """The module: two seconds of imports, which only the worker that has these tests pays."""
    pytest.importorskip("gradio", reason="the page needs gradio (extra chat)")
    from cream.chat import page

    return page


@pytest.fixture(scope="module")
def chats(chat_place):
    chat = Chat(open_model("runs/done", root=chat_place), answer_tokens=24)
    original = open_original("runs/done", root=chat_place)
    return [chat, Chat(original, 24, Answers(original.model, original.tokenizer))]


@pytest.fixture(scope="module")
def address(page, chats):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    built = page.build(chats)
    yield page.launch(built, "127.0.0.1", port)
    built.close(verbose=False)


@pytest.fixture(scope="module")
def chromium():
    with browser.opened() as found:
        yield found


@pytest.fixture
def tab(chromium, address):
    """A fresh tab with the page; `asked` lists the hosts that it asked."""
    found = chromium.new_page(viewport={"width": 1280, "height": 800})
    found.set_default_timeout(60_000)
    found.asked = set()
    found.on("request", lambda one: found.asked.add(one.url.split("/")[2]))
    found.goto(address)
    found.wait_for_selector("#panel-1 .cc-head")
    yield found
    found.close()


def drop(tab, tmp_path, text=REPORT):
    (tmp_path / "report.txt").write_text(text)
    tab.set_input_files("#drop input[type=file]", tmp_path / "report.txt")


def ask(tab, words):
    tab.fill("#question textarea", words)
    tab.click("#ask")


def saying(monkeypatch, chats, words):
    """Let the models say given words, to see how these are shown."""
    for chat in chats:
        monkeypatch.setattr(chat.answers, "stream", lambda *a: iter(words))


def test_both_models_answer_and_nobody_else_is_asked(tab, tmp_path, address):
    assert "0 tokens used of L = 1,024" in tab.inner_text("#side")
    drop(tab, tmp_path)
    tab.wait_for_selector("#side .cc-chip >> text=report.txt")
    ask(tab, "Which key?")
    for place in (0, 1):
        tab.wait_for_selector(f"#panel-{place} .cc-source")
        said = tab.inner_text(f"#panel-{place}")
        assert "Which key?" in said and "report.txt" in said
    assert tab.input_value("#question textarea") == ""
    assert "\n0 tokens used" not in tab.inner_text("#side")
    assert tab.asked == {address.split("/")[2]}
    tab.click("#new")
    tab.wait_for_function("!document.querySelector('#panel-0 .cc-source')")
    assert "0 tokens used of L = 1,024" in tab.inner_text("#side")


def test_the_source_is_marked_at_its_depth(tab, tmp_path, chats, monkeypatch):
    saying(monkeypatch, chats, ["The key of the ", "gate is marble"])
    drop(tab, tmp_path)
    tab.wait_for_selector("#side .cc-chip")
    ask(tab, "Which key?")
    tab.wait_for_selector("#panel-1 mark")
    assert tab.inner_text("#panel-0 mark") == "The key of the gate is marble"
    depth = find_source("The key of the gate is marble", REPORT).depth_percent
    assert f"the whole answer at {depth:.0f} % of the text (line 9)" in tab.inner_text("#panel-0")
    assert f"left:{depth:.1f}%" in tab.inner_html("#panel-0 .cc-depth").replace(" ", "")


def test_what_a_model_says_is_text(tab, chats, monkeypatch):
    title = tab.title()
    saying(monkeypatch, chats, [EVIL])
    ask(tab, "Hello <i>there</i>")
    tab.wait_for_selector("#panel-1 .cc-text >> text=the end")
    assert tab.inner_text("#panel-0 .cc-text:not(.cc-user)") == EVIL
    assert tab.inner_text("#panel-0 .cc-user") == "Hello <i>there</i>"
    assert not tab.query_selector(".cc-text img, .cc-text b, .cc-text i")
    assert tab.title() == title


def test_more_than_L_is_refused_on_the_page_and_the_question_kept(tab, tmp_path):
    drop(tab, tmp_path, "word " * 700)
    tab.wait_for_selector(".cc-notice.refused")
    assert "L is 1,024" in tab.inner_text(".cc-notice") and "/tmp" not in tab.inner_text("#side")
    assert not tab.query_selector(".cc-chip")
    ask(tab, "word " * 700)
    tab.wait_for_selector(".cc-notice.refused >> text=this question does not fit")
    assert tab.input_value("#question textarea") == "word " * 700
    assert "word" not in tab.inner_text("#panel-0")


def test_stop_stops_the_answer_and_asks_no_other_model(tab, chats, monkeypatch):
    def endless(ids, tokens, stop):
        while not stop.wait(0.05):
            yield "word "

    monkeypatch.setattr(chats[0].answers, "stream", endless)
    monkeypatch.setattr(chats[1].answers, "stream", lambda *a: pytest.fail("asked"))
    ask(tab, "Hello")
    tab.wait_for_selector("#panel-0 >> text=word word")
    tab.click("#stop")
    tab.wait_for_selector("#panel-0 .cc-head >> text=stopped")
    assert "word word" in tab.inner_text("#panel-0")
    assert "You" not in tab.inner_text("#panel-1")


def test_tabs_have_conversations_of_their_own(tab, chromium, address, chats, monkeypatch):
    saying(monkeypatch, chats, ["one", " two"])
    ask(tab, "Hello")
    tab.wait_for_selector("#panel-1 >> text=one two")
    other = chromium.new_page()
    other.goto(address)
    other.wait_for_selector("#panel-1 .cc-head")
    assert "Hello" not in other.inner_text("#panel-0")
    other.close()


def test_other_names_and_other_hosts_are_shut_out(address):
    with urllib.request.urlopen(address) as answer:
        assert "default-src 'self'" in answer.headers["content-security-policy"]
    request = urllib.request.Request(address, headers={"Host": "evil.example"})
    with pytest.raises(HTTPError, match="400"):
        urllib.request.urlopen(request)


@pytest.mark.parametrize(("host", "own"), [("127.0.0.1", True), ("localhost", True),
                                           ("0.0.0.0", False), ("::1", True)])  # fmt: skip
def test_only_loopback_is_served_without_a_warning(host, own, page, capsys):
    assert page.is_loopback(host) == own
    if host != "::1":  # not every machine has IPv6
        page.check_address(host, 17_860)
        assert ("WARNING" in capsys.readouterr().out) != own


def test_a_port_that_is_taken_is_refused_before_a_model_is_loaded(page):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError, match="choose another with --port"):
            page.check_address("127.0.0.1", taken.getsockname()[1])


def test_the_original_of_a_small_window_leaves_room_for_the_question(page, chats):
    """An answer that a quarter of the extended L holds may fill the whole window of the base."""
    wide = Chat(chats[0].model, 2 * chats[1].model.limit, chats[0].answers)
    beside = page.beside(wide, chats[1].model)
    assert beside.answer_tokens == chats[1].model.limit // 2
    assert page.beside(chats[0], chats[1].model).answer_tokens == chats[0].answer_tokens


def test_names_of_files_are_escaped(chats):
    chat = Chat(chats[0].model, 24, chats[0].answers)
    chat.add(TextFile("<script>x</script>.txt", "one two"))
    assert "<script>" not in page_html.sidebar([chat], "<script>")
