"""What an endpoint does to a request: refuse, hang, drip, answer nonsense; each has its name."""

import socket
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from serving import hang, refusal, serving

from cream.inference import http
from cream.inference.http import Endpoint, RequestFailed


@pytest.fixture(autouse=True)
def _hurry(monkeypatch):
    monkeypatch.setattr(http, "LONGEST_PAUSE", 0.02)
    monkeypatch.setattr(http, "PATIENCE", 0.5)


def asked(reply, timeout: float = 5.0):
    """Post to an endpoint that answers `reply`; the failure, and the bodies that arrived."""
    bodies = []

    def answer(path: str, body: dict):
        bodies.append(body)
        return reply(len(bodies)) if callable(reply) else reply

    with serving(answer) as url, pytest.raises(RequestFailed) as failure:
        Endpoint(url, timeout).post("completions", {"a": 1})
    return failure.value, bodies


@pytest.mark.parametrize(
    ("reply", "kind", "says", "tries"),
    [
        (refusal(500, "out of memory"), "HTTP 500", "out of memory", 3),
        (refusal(429, "busy"), "HTTP 429", "busy", 3),
        (refusal(529, "overloaded"), "HTTP 529", "overloaded", 3),
        (refusal(501, "no such thing"), "HTTP 501", "no such thing", 1),
        (refusal(400, "bad prompt"), "HTTP 400", "bad prompt", 1),
        (refusal(404, "no model"), "HTTP 404", "no model", 1),
        ((302, b""), "HTTP 302", "", 1),
        ((200, b"<html>Welcome to nginx</html>"), "no JSON object", "Welcome to nginx", 1),
        ((200, b"[1, 2]"), "no JSON object", "[1, 2]", 1),
        ((200, b"\xff\xfe\x00"), "no JSON object", "", 1),
        ((200, b""), "no JSON object", "", 1),
    ],
)
def test_what_is_no_answer_has_a_name(reply, kind, says, tries):
    failure, bodies = asked(reply)
    assert failure.kind == kind and says in str(failure) and len(bodies) == tries


def test_an_endless_answer_is_none(monkeypatch):
    monkeypatch.setattr(http, "_MOST_BYTES", 10_000)
    failure, _ = asked((200, b" " * 100_000))
    assert "more than 10000 bytes" in str(failure)


def test_an_endpoint_that_hangs_is_left_after_its_time():
    start = time.monotonic()
    failure, bodies = asked(lambda number: hang(1.0), timeout=0.1)
    assert failure.kind == "no answer" and "within 0.1 s" in str(failure)
    assert len(bodies) == 3 and time.monotonic() - start < 2.5


def test_an_endpoint_that_drips_is_left_after_its_time():
    """Every byte comes in time; the answer does not."""
    listening = socket.create_server(("127.0.0.1", 0))

    def drip() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            connection.recv(65536)
            try:
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
                for _ in range(60):
                    connection.sendall(b" ")
                    time.sleep(0.05)
            except OSError:
                pass

    threading.Thread(target=drip, daemon=True).start()
    start = time.monotonic()
    url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    with pytest.raises(RequestFailed, match="no answer: within 0.4 s"):
        Endpoint(url, 0.4).get("models")
    assert time.monotonic() - start < 1.5
    listening.close()


def test_nobody_there_is_no_connection():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(RequestFailed, match="no connection: ") as failure:
        Endpoint(f"http://127.0.0.1:{port}/v1", 1.0).post("completions", {})
    assert failure.value.kind == "no connection"


def test_what_passes_is_tried_again():
    replies = [refusal(503, "loading"), refusal(500, "hiccup"), (200, b'{"fine": true}')]
    with serving(lambda path, body: replies.pop(0)) as url:
        assert Endpoint(url).post("completions", {}) == {"fine": True}
    assert not replies


def test_a_pause_grows_and_follows_the_server(monkeypatch):
    monkeypatch.setattr(http, "LONGEST_PAUSE", 30.0)
    monkeypatch.setattr(http, "PATIENCE", 300.0)
    pauses = []
    with serving(lambda path, body: refusal(500, "hiccup")) as url:
        one = Endpoint(url)
        monkeypatch.setattr(one._given_up, "wait", pauses.append)
        with pytest.raises(RequestFailed):
            one.post("completions", {})
        assert pauses == [1.0, 2.0]
        exchange = one._exchange
        monkeypatch.setattr(one, "_exchange", lambda *a: (*exchange(*a)[:2], 7.0))
        with pytest.raises(RequestFailed):
            one.post("completions", {})
        assert pauses[2:] == [7.0, 7.0]


def test_giving_up_ends_the_tries():
    asked_at = []
    with serving(lambda path, body: asked_at.append(1) or refusal(503, "loading")) as url:
        one = Endpoint(url)
        one.give_up()
        with pytest.raises(RequestFailed):
            one.post("completions", {})
    assert len(asked_at) == 1


def test_a_key_is_sent_only_if_it_was_given(monkeypatch):
    headers = []

    def answer(path: str, body: dict):
        headers.append({name.lower(): value for name, value in body["_headers"].items()})
        return 200, b"{}"

    with serving(answer) as url:
        Endpoint(url).post("x", {})
        monkeypatch.setenv("CREAM_API_KEY", "secret")
        Endpoint(url).post("x", {})
    assert "authorization" not in headers[0] and headers[1]["authorization"] == "Bearer secret"


def test_a_server_that_loads_its_model_is_waited_for(monkeypatch):
    monkeypatch.setattr(http, "PATIENCE", 30.0)
    replies = [*[refusal(503, "Loading model")] * 9, (200, b'{"fine": true}')]
    with serving(lambda path, body: replies.pop(0)) as url:
        assert Endpoint(url).post("completions", {}) == {"fine": True}
    assert not replies


def test_a_server_that_never_is_ready_is_left_and_the_limit_said():
    failure, bodies = asked(refusal(503, "Loading model"))
    assert failure.kind == "HTTP 503" and len(bodies) > 3
    assert "Loading model" in str(failure) and "it is waited for 0.5 s" in str(failure)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "4.5"}, 4.5),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "nan"}, 0.0),
        ({"retry-after": "soon"}, 0.0),
        ({"retry-after": ""}, 0.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({}, 0.0),
    ],
)
def test_every_form_of_retry_after_is_read(headers, seconds):
    assert http.retry_after(headers) == seconds


def test_a_date_to_retry_after_is_read_as_seconds_from_now():
    then = datetime.now(UTC) + timedelta(seconds=20)
    assert 18 < http.retry_after({"retry-after": format_datetime(then, usegmt=True)}) <= 20


def test_a_wait_beyond_our_patience_fails_at_once(monkeypatch):
    with serving(lambda path, body: refusal(429, "quota")) as url:
        one = Endpoint(url)
        exchange = one._exchange
        monkeypatch.setattr(one, "_exchange", lambda *a: (*exchange(*a)[:2], 3600.0))
        with pytest.raises(RequestFailed, match="quota.*asks for 3600 s more; it is waited for"):
            one.post("completions", {})
