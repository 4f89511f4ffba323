"""Models behind a server: the answers of a model here, and nothing written for what is none."""

import json
import threading

import pytest
import torch
from serving import TinyServer, completion, hang, refusal, serving, serving_model

from cream import models, results
from cream.evaluation import models as evaluation_models
from cream.inference import http
from cream.inference.generation import greedy
from cream.inference.server import Address, Failed, Request, Server, parse
from cream.tasks import kv_retrieval, longchat_lines, perplexity

SERVER_ONLY = ["key", "settings", "card", "date"]


@pytest.fixture(autouse=True)
def _hurry(monkeypatch):
    monkeypatch.setattr(http, "LONGEST_PAUSE", 0.02)
    monkeypatch.setattr(http, "PATIENCE", 0.5)


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_model, tiny_tokenizer):
    """A project folder with a base and the same, scaled."""
    root = tmp_path_factory.mktemp("served")
    models.save(tiny_model(128), tiny_tokenizer, root / "base")
    models.save(models.load(root / "base", scaling="yarn", scale=4), tiny_tokenizer, root / "long")
    return root


@pytest.fixture
def tiny(place, tiny_tokenizer):
    return TinyServer(models.load(place / "long"), tiny_tokenizer)


def examples(tiny_tokenizer, samples: int = 4):
    return longchat_lines.examples(tiny_tokenizer, [120, 300], samples)


def ask(names: str, place, examples, rows, task=longchat_lines):
    return evaluation_models.evaluate_models(
        evaluation_models.find(names, "base", place), task, examples, rows, progress=False
    )


def compared(frame):
    return frame.sort_values(["token_length", "sample"], ignore_index=True)


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("http://h:8000/v1#m", Address("http://h:8000/v1", "m")),
        ("https://h/v1/#a/b@main", Address("https://h/v1", "a/b@main")),
        ("http://h/v1#my%20model=runs/x%20y", Address("http://h/v1", "my model", "runs/x y")),
        ("http://h/v1#m=runs/x", Address("http://h/v1", "m", "runs/x")),
        ("http://h/v1?timeout=9.5&requests=2#m", Address("http://h/v1", "m", None, 9.5, 2)),
        ("runs/x", None),
    ],
)
def test_names_are_addresses(name, address):
    assert parse(name) == address


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("http://localhost:8000/v1", "names no model: write URL#NAME"),
        ("http:///v1#m", "names no model"),
        ("http://h/v1?tries=2#m", "sets 'tries'; a server has timeout"),
        ("http://h/v1?requests=2.5#m", "sets requests to '2.5'"),
        ("http://h/v1?timeout=soon#m", "sets timeout to 'soon'"),
        ("http://h/v1?timeout=nan#m", "sets timeout to 'nan'"),
        ("http://h/v1#m=runs/none", "there is no folder"),
        ("long,http://h/v1#m=long", "names long twice, by itself and behind a server"),
    ],
)
def test_addresses_that_cannot_be_are_refused(name, says, place):
    with pytest.raises((ValueError, FileNotFoundError), match=says):
        evaluation_models.find(name, "base", place)


@pytest.mark.parametrize("strict", [False, True])
def test_a_server_gives_the_rows_of_a_model_here(tmp_path, place, tiny, tiny_tokenizer, strict):
    """Beyond N, with token ids or text, as the server takes them: the same answers, same scores."""
    tiny.strict = strict
    asked = examples(tiny_tokenizer)
    here = compared(ask("long", place, asked, tmp_path / "here.jsonl"))
    with serving_model(tiny) as url:
        served = compared(ask(f"{url}#tiny=long", place, asked, tmp_path / "there.jsonl"))
    assert len(here) == 8 and here["prediction"].str.len().gt(0).all()
    assert served.drop(columns=SERVER_ONLY).equals(here.drop(columns=SERVER_ONLY))
    how = json.loads(served["settings"][0])
    assert how["prompts"] == ("text" if strict else "token ids") and how["weights"] == "named"
    assert how["min_tokens"] == ("checked" if strict else "sent")
    assert set(served["key"]).isdisjoint(here["key"])
    sent = [type(body["prompt"]) for body in tiny.bodies[-8:]]
    assert set(sent) == {str if strict else list}


@pytest.mark.slow
def test_a_model_known_by_name_only_says_so(tmp_path, place, tiny, tiny_tokenizer):
    """The run is the server's name for it, whatever the URL; other weights are another model."""
    asked = examples(tiny_tokenizer, 1)
    with serving_model(tiny) as first, serving_model(tiny) as second:
        frame = ask(f"{first}#tiny", place, asked, tmp_path / "rows.jsonl")
        before = len(tiny.bodies)
        again = ask(f"{second}#tiny", place, asked, tmp_path / "rows.jsonl")
        assert again.equals(frame)
        prompts = [body["prompt"] for body in tiny.bodies[before:]]
        assert not any(len(prompt) > 100 for prompt in prompts)
        assert set(frame["run"]) == set(frame["method"]) == {"tiny"}
        assert set(frame["scaling"]) == {"server"} and set(frame["window"]) == {128}
        for parameter in tiny.model.parameters():
            parameter.data = parameter.data.flip(0)
        other = ask(f"{first}#tiny", place, asked, tmp_path / "rows.jsonl")
    assert set(other["key"]).isdisjoint(frame["key"]) and len(other) == 2


def test_requests_go_out_several_at_a_time(place, tiny, tiny_tokenizer):
    together, meet = [], threading.Barrier(3, timeout=5)

    def wrong(body: dict):
        if body["max_tokens"] == 7:
            together.append(meet.wait())
        return None

    tiny.wrong = wrong
    with serving_model(tiny) as url:
        server = Server(parse(f"{url}?requests=3#tiny"), tiny_tokenizer)
        found = list(server.complete([Request(f"question {i}", 7) for i in range(6)]))
    assert sorted(one.index for one in found) == list(range(6)) and len(together) == 6


def test_failed_requests_are_counted_and_have_no_row(tmp_path, place, tiny, tiny_tokenizer):
    """Two of eight fail: six rows, an error that counts; healed, only the two are asked again."""
    asked, rows = examples(tiny_tokenizer), tmp_path / "rows.jsonl"
    long = [one for one in asked if one.token_length == 300]
    texts = {
        long[0].prompt: refusal(500, "CUDA error"),
        long[2].prompt: completion("line", 100, 4),
    }

    def wrong(body: dict):
        return texts.get(tiny_tokenizer.decode(body["prompt"][1:]))

    tiny.wrong = wrong
    with serving_model(tiny) as url:
        name = f"{url}?requests=8#tiny=long"
        with pytest.raises(Failed) as failure:
            ask(name, place, asked, rows)
        message = str(failure.value)
        assert f"2 of 8 requests to {url} have no answer" in message
        assert "1 x HTTP 500: " in message and "CUDA error" in message
        assert "1 x prompt misread: 100 tokens read, not its" in message
        assert len(results.read(rows)) == 6
        texts.clear()
        before = len(tiny.bodies)
        frame = ask(name, place, asked, rows)
    assert len([body for body in tiny.bodies[before:] if body["max_tokens"] == 10]) == 2
    here = compared(ask("long", place, asked, tmp_path / "here.jsonl"))
    assert compared(frame)["prediction"].equals(here["prediction"])


def test_other_models_are_asked_before_a_failure_is_raised(tmp_path, place, tiny, tiny_tokenizer):
    asked = examples(tiny_tokenizer, 1)
    tiny.wrong = lambda body: refusal(500, "no") if body["max_tokens"] == 10 else None
    with serving_model(tiny) as url, pytest.raises(Failed, match="2 of 2 requests"):
        ask(f"{url}#tiny=long,original", place, asked, tmp_path / "rows.jsonl")
    assert results.read(tmp_path / "rows.jsonl").groupby("run").size().to_dict() == {"original": 2}


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda body: refusal(500, "down"), "HTTP 500"),
        (lambda body: hang(1.0), "no answer: within 0.2 s"),
        (lambda body: (200, b"<html>"), "no JSON object: <html>"),
        (lambda body: (200, b'{"choices": []}'), "no completion: "),
        (lambda body: completion("x", 10**6, 4), "prompt misread: 1000000 tokens read"),
        (lambda body: completion("x", 1, 99), "prompt misread|too long"),
        (lambda body: completion("x", 300, 4, "abort"), "finish_reason is 'abort'"),
    ],
)
def test_a_dead_server_is_left_alone_soon(place, tiny, tiny_tokenizer, wrong, says):
    """As many failures in a row as requests are sent at a time: the rest is not sent."""
    with serving_model(tiny) as url:
        server = Server(parse(f"{url}?requests=3&timeout=0.2#tiny"), tiny_tokenizer)
        before, tiny.wrong = len(tiny.bodies), wrong
        with pytest.raises(Failed, match=says) as failure:
            list(server.complete([Request(f"question {i}", 4) for i in range(300)]))
        assert "3 of 300 requests" in str(failure.value)
        assert "and 297 were not waited for" in str(failure.value)
        assert len(tiny.bodies) - before < 30


def test_a_server_that_never_answers_is_named_before_any_model_is_asked(
    tmp_path, place, tiny, tiny_tokenizer
):
    rows, asked = tmp_path / "rows.jsonl", examples(tiny_tokenizer, 1)
    with serving_model(tiny) as url:
        with pytest.raises(ConnectionError, match="'tinny': HTTP 404.*It serves: tiny"):
            ask(f"long,{url}#tinny", place, asked, rows)
    with pytest.raises(ConnectionError, match="no connection"):
        ask(f"long,{url}#tiny", place, asked, rows)
    assert not rows.exists()


def test_a_server_that_reads_with_another_tokenizer_is_refused(place, tiny, tiny_tokenizer):
    with serving(lambda path, body: completion("x", 5, 4)) as url:
        with pytest.raises(ConnectionError, match="prompt misread: 5 tokens read, not its"):
            Server(parse(f"{url}#tiny"), tiny_tokenizer)


def test_samples_beyond_the_servers_context_are_counted_before_any_is_sent(
    tmp_path, place, tiny, tiny_tokenizer
):
    tiny.context = 200
    with serving_model(tiny) as url:
        with pytest.raises(ValueError, match="4 of 8 samples.* the context of 200 that http"):
            ask(f"{url}#tiny=long", place, examples(tiny_tokenizer), tmp_path / "rows.jsonl")
    assert all(body["max_tokens"] in (4, 16) for body in tiny.bodies)


def test_an_answer_shorter_than_asked_is_none(tiny, tiny_tokenizer):
    """A server that leaves min_tokens out may end at once; its end token may be counted."""
    request = Request("hello", 9, min_new_tokens=5)
    read = len(tiny_tokenizer("hello")["input_ids"])
    with serving_model(tiny) as url:
        server = Server(parse(f"{url}#tiny"), tiny_tokenizer)
        tiny.strict = True
        careful = Server(parse(f"{url}#tiny"), tiny_tokenizer)
        tiny.strict = False
        for new, end, fine in [(4, "stop", 0), (5, "stop", 1), (6, "stop", 2), (9, "length", 2)]:
            tiny.wrong = lambda body, n=new, e=end: completion("x", read, n, e)
            for one, least in ((server, 1), (careful, 2)):
                if fine >= least:
                    assert len(list(one.complete([request]))) == 1
                else:
                    with pytest.raises(Failed, match="too short: .* tokens, 5 asked"):
                        list(one.complete([request]))


def test_a_stop_string_cuts_as_it_does_here(place, tiny, tiny_tokenizer):
    (free,) = greedy(tiny.model, tiny_tokenizer, ["hello"], 12, allow_beyond=True)
    stop = free.text[3:5]
    (cut,) = greedy(tiny.model, tiny_tokenizer, ["hello"], 12, stop=stop, allow_beyond=True)
    with serving_model(tiny) as url:
        server = Server(parse(f"{url}#tiny"), tiny_tokenizer)
        (found,) = server.complete([Request("hello", 12, stop)])
    assert found.text == cut.text and found.text.endswith(stop)
    assert len(found.text) < len(free.text)


def test_a_task_that_needs_likelihoods_is_refused(tmp_path, place, tiny):
    asked = perplexity.examples([("a", list(range(2, 200)))], [64], 1, 0)
    with serving_model(tiny) as url, pytest.raises(ValueError, match="perplexity needs the likeli"):
        ask(f"{url}#tiny", place, asked, tmp_path / "rows.jsonl", perplexity)


def test_any_task_of_answers_can_be_served(tmp_path, place, tiny, tiny_tokenizer):
    asked = kv_retrieval.examples(tiny_tokenizer, [300], 1)
    with serving_model(tiny) as url:
        frame = ask(f"{url}#tiny", place, asked, tmp_path / "rows.jsonl", kv_retrieval)
    assert len(frame) == 5 and frame["num_tokens"].le(300).all()


def test_an_interrupted_evaluation_waits_for_nobody(tiny, tiny_tokenizer):
    """The first answer is taken and the rest left: no thread goes on asking."""
    with serving_model(tiny) as url:
        server = Server(parse(f"{url}?requests=2#tiny"), tiny_tokenizer)
        tiny.bodies.clear()
        answers = server.complete([Request(f"question {i}", 2) for i in range(200)])
        next(answers)
        answers.close()
        assert len(tiny.bodies) < 100


def test_the_fingerprint_is_of_name_and_answers(tiny, tiny_tokenizer):
    with serving_model(tiny) as url:
        one = Server(parse(f"{url}#tiny"), tiny_tokenizer)
        first = one.fingerprint()
        assert first == Server(parse(f"{url}?requests=2#tiny"), tiny_tokenizer).fingerprint()
        with torch.no_grad():
            tiny.model.get_output_embeddings().weight.mul_(-1)
        assert one.fingerprint() != first
