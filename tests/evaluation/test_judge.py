"""ROUGE-L as the release counts it; a judge that answers, refuses, hangs, or says no rating."""

import json
import time
from collections.abc import Iterator

import pandas as pd
import pytest
from judge_server import Server, judging_server

from cream import results
from cream.evaluation import judge as evaluation_judge
from cream.evaluation.judge import Judge, rate
from cream.inference import http
from cream.results import Rows
from cream.tasks.needle import NEEDLE
from cream.tasks.rouge import rouge_l
from cream.utils.provenance import hash_of

HEADER = {"model_hash": "0" * 16, "run": "cream", "method": "cream", "settings": {"style": "x"}}


# The values of the package rouge 1.0.1, which leaves 1e-8 to its denominators; on 300 random pairs
# of texts, with repeated words and several sentences, ours were the same.
@pytest.mark.parametrize(
    ("answer", "value"),
    [
        (NEEDLE, 0.999999995),
        ("Eat a sandwich and sit in Dolores Park on a sunny day.", 0.6666666620222222),
        ("sit in Dolores Park", 0.34782608408317583),
        ("The best thing is a day in the park, a walk, and a sandwich.", 0.3870967694484912),
        ("day sunny a on Park", 0.1666666633680556),
        ("Go. Eat a sandwich. Sit in Dolores Park. on a sunny day", 0.5333333286888889),
        ("EAT A SANDWICH", 0.0),
        ("", 0.0),
        (" . ", 0.0),
    ],
)
def test_rouge_l_is_the_releases(answer, value):
    assert rouge_l(answer, NEEDLE) == pytest.approx(value, abs=1e-8)


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    """A judge on this machine; requests are not tried again, so that tests do not wait."""
    monkeypatch.setattr(http, "TRIES", 1)
    with judging_server() as found:
        yield found


@pytest.fixture
def answers(tmp_path) -> pd.DataFrame:
    """Six answers of one model, as rows."""
    with Rows(tmp_path / "rows.jsonl", HEADER) as rows:
        for sample in range(6):
            rows.append(
                {"task": "needle", "prompt_hash": hash_of(sample), "sample": sample, "score": 0.0,
                 "depth_percent": 50.0, "token_length": 512, "target": " eat.",
                 "prediction": f" answer {sample} {{reference}}"}
            )  # fmt: skip
        return rows.frame()


QUESTIONS = {hash_of(sample): f"Question {sample}?" for sample in range(6)}


def test_a_judge_is_asked_at_temperature_0_with_question_reference_and_answer(
    server, answers, tmp_path
):
    server.reply = lambda body: (200, "[[7]]" if "answer 2" in str(body) else "Rating: [[10]]")
    judge = Judge(server.url, "judge-1")
    found = rate(answers, QUESTIONS, judge, tmp_path / "judged.jsonl", progress=False)
    assert found.frame["judged"].tolist() == [10, 10, 7, 10, 10, 10]
    assert str(found) == "6 of 6 answers rated by the judge."
    one = server.bodies[0]
    assert one["path"] == "/v1/chat/completions" and one["model"] == "judge-1"
    assert one["temperature"] == 0 and one["max_tokens"] == 256
    (message,) = one["messages"]
    for part in ("Question: Question 0?", "Reference: eat.", "Answer: answer 0 {reference}"):
        assert part in message["content"]
    kept = results.read(tmp_path / "judged.jsonl")
    assert len(kept) == 6 and set(kept["run"]) == {"cream"} and set(kept["score"]) == {0.0}
    how = json.loads(kept["settings"][0])
    assert how == {"style": "x", "judge": "judge-1", "judge_temperature": 0,
                   "judge_prompt": hash_of(evaluation_judge.PROMPT)}  # fmt: skip


def test_a_rerun_asks_only_what_has_no_rating(server, answers, tmp_path):
    path = tmp_path / "judged.jsonl"
    first = rate(answers[:4], QUESTIONS, Judge(server.url, "j"), path, progress=False)
    assert len(server.bodies) == 4 and first.frame["judged"].notna().all()
    again = rate(answers, QUESTIONS, Judge(server.url, "j"), path, progress=False)
    assert len(server.bodies) == 6 and again.frame["judged"].tolist() == [10] * 6
    rate(answers, QUESTIONS, Judge(server.url, "other"), path, progress=False)
    assert len(server.bodies) == 12
    changed = evaluation_judge.PROMPT.replace("Compare", "Please compare")
    rate(answers, QUESTIONS, Judge(server.url, "j", changed), path, progress=False)
    assert len(server.bodies) == 18


def test_figures_take_one_of_an_answer_and_its_rating(server, answers, tmp_path):
    rate(answers, QUESTIONS, Judge(server.url, "j"), tmp_path / "rows.judged.jsonl", progress=False)
    both = results.read(tmp_path)
    assert len(both) == 12
    now = results.current(both)
    assert len(now) == 6 and now["judged"].tolist() == [10] * 6


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ("I cannot rate this.", "no rating in the reply: I cannot rate this."),
        ("", "no rating in the reply"),
        (None, "no rating in the reply"),
        ("[[11]]", "no rating"),
        ("[[0]]", "no rating"),
        ("[[3]] or rather [[7]]", "no rating"),
        ("One of 10 people would like it.", "no rating"),
    ],
)
def test_a_reply_without_a_rating_is_named_and_not_wrong(server, answers, tmp_path, said, named):
    server.reply = lambda body: (200, said if "answer 3" in str(body) else "[[9]]")
    judge = Judge(server.url, "j")
    with pytest.warns(UserWarning, match="gave no rating to 1 answers"):
        found = rate(answers, QUESTIONS, judge, tmp_path / "j.jsonl", progress=False)
    assert found.frame["judged"].isna().tolist() == [k == 3 for k in range(6)]
    assert found.frame["judged"].mean() == 9
    assert found.failures.total() == 1 and named in str(found)
    assert "5 of 6 answers rated" in str(found) and "neither as right nor as wrong" in str(found)
    server.reply = lambda body: (200, "[[1]]")
    again = rate(answers, QUESTIONS, judge, tmp_path / "j.jsonl", progress=False)
    assert again.frame["judged"].tolist() == [9, 9, 9, 1, 9, 9]


@pytest.mark.parametrize(
    ("said", "rating"),
    [("[[7]]", 7), ("The answer fits. Rating: [[10]]", 10), ("8", 8), ("Score: 5", 5),
     ("10/10", 10), ("[[ 3 ]]", 3), ("[[4]] because ... [[4]]", 4), (" 9. ", 9)],
)  # fmt: skip
def test_ratings_are_read(server, said, rating):
    server.reply = lambda body: (200, said)
    assert Judge(server.url, "j").rating("q", "r", "a") == rating


def test_a_judge_that_refuses_is_named_and_left_alone(server, answers, tmp_path):
    """After three refusals in a row the rest is counted, not asked."""
    server.reply = lambda body: (401, "")
    server.raw = b'{"error": {"message": "no such key"}}'
    with pytest.warns(UserWarning, match="gave no rating to 6 answers"):
        found = rate(
            answers, QUESTIONS, Judge(server.url, "j"), tmp_path / "j.jsonl", progress=False
        )
    assert len(server.bodies) == evaluation_judge.IN_A_ROW == 3
    assert found.failures == {"HTTP 401": 3, evaluation_judge.LEFT_ALONE: 3}
    assert "no such key" in str(found) and "0 of 6 answers rated" in str(found)
    assert found.frame["judged"].isna().all() and found.frame["score"].eq(0).all()
    assert results.read(tmp_path / "j.jsonl").empty


def test_a_judge_that_hangs_is_named(server, answers, tmp_path):
    server.reply = lambda body: (time.sleep(1.5), (200, "[[10]]"))[1]
    judge, begun = Judge(server.url, "j", timeout=0.2), time.monotonic()
    with pytest.warns(UserWarning):
        found = rate(answers[:4], QUESTIONS, judge, tmp_path / "j.jsonl", progress=False)
    assert time.monotonic() - begun < 2
    assert found.failures == {"no answer": 3, evaluation_judge.LEFT_ALONE: 1}
    assert "within 0.2 s" in str(found)


@pytest.mark.parametrize("raw", [b"<html>", b"{}", b'{"choices": []}', b'{"choices": [{}]}'])
def test_an_answer_of_another_form_is_named(server, raw):
    server.raw = raw
    with pytest.raises(http.RequestFailed, match="no JSON object|no reply in the answer"):
        Judge(server.url, "j").rating("q", "r", "a")


def test_what_may_pass_is_tried_again_until_the_judge_seems_gone(
    server, answers, tmp_path, monkeypatch
):
    """Once overloaded it is asked again; after an answer it did not reach, tries are single."""
    monkeypatch.setattr(http, "TRIES", 2)
    replies = iter([(500, ""), (200, "[[8]]"), (500, ""), (500, ""), (500, ""), (200, "[[6]]")])
    server.reply = lambda body: next(replies)
    judge = Judge(server.url, "j")
    monkeypatch.setattr(judge._endpoint._given_up, "wait", lambda seconds: None)
    with pytest.warns(UserWarning, match="to 2 answers"):
        found = rate(answers[:4], QUESTIONS, judge, tmp_path / "j.jsonl", progress=False)
    assert found.frame["judged"].fillna(0).tolist() == [8, 0, 0, 6]
    assert found.failures == {"HTTP 500": 2} and len(server.bodies) == 6


def test_nobody_there_is_named(answers, tmp_path, monkeypatch):
    monkeypatch.setattr(http, "TRIES", 1)
    judge = Judge("http://127.0.0.1:9/v1", "j", timeout=2)
    with pytest.warns(UserWarning):
        found = rate(answers, QUESTIONS, judge, tmp_path / "j.jsonl", progress=False)
    assert found.failures["no connection"] == 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("localhost:8000/v1", "j"), "judge_url 'localhost:8000/v1'.* must be an address"),
        (("http://localhost/v1", ""), "judge_model ''"),
        (("http://localhost/v1", "j", "Rate {answer} to {question}"), "has no {reference}"),
    ],
)
def test_a_judge_that_could_not_work_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        Judge(*given)
