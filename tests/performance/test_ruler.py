"""RULER timed from texts to scores: the questions of 12_ruler, on a tiny base."""

from __future__ import annotations

import dataclasses
import json

import pytest

from cream import models, presets, results
from cream.evaluation import models as evaluation_models
from cream.performance import ruler
from cream.tasks import ruler as task

LENGTHS = (1126, 1300)


@pytest.fixture
def base(tmp_path, tiny_model, monkeypatch) -> str:
    """A tiny model that has the miniature's tokenizer, as the preset's base."""
    tokenizer = models.load_tokenizer("data/miniature")
    made = tiny_model(window=512, vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id)
    models.save(made, tokenizer, tmp_path / "base")
    preset = presets.get("tiny", base=str(tmp_path / "base"))
    monkeypatch.setattr(ruler.presets, "get", lambda name: preset)
    return str(tmp_path / "base")


def test_every_question_is_asked_once_and_timed(base, tmp_path, monkeypatch, capsys):
    """Rows of answers are the task's own; a row a length, and one of all with its parts."""
    few = ("niah_single_1", "fwe")
    whole = task.examples
    monkeypatch.setattr(ruler.ruler, "examples", lambda *given: whole(*given, tasks=few))
    answers, rows = tmp_path / "answers.jsonl", tmp_path / "rows.jsonl"
    ruler.main(["--preset", "tiny", "--lengths", "1126,1300", "--samples", "2",
                "--answers", str(answers), "--rows", str(rows)])  # fmt: skip
    found = results.read(answers)
    assert found.groupby(["task", "token_length"]).size().tolist() == [2] * 4
    asked = whole(models.load_tokenizer(base), LENGTHS, 2, tasks=few)
    assert set(found["prompt_hash"]) == {one.prompt_hash for one in asked}
    frame = results.read(rows)
    how = [json.loads(one) for one in frame["settings"]]
    assert list(frame["token_length"])[:2] == list(LENGTHS)
    assert [one["questions"] for one in how] == [4, 4, 8]
    assert [one["of"] for one in how] == ["answers", "answers", "all"]
    parts = how[-1]
    total = frame["score"][:2].sum() + parts["building_seconds"] + parts["loading_seconds"]
    assert frame["score"].iloc[-1] == pytest.approx(total)
    assert "8 questions built in" in capsys.readouterr().out
    assert all("--answers" not in one["command"] for one in how)


def test_answers_that_are_there_are_refused(base, tmp_path, capsys):
    (tmp_path / "answers.jsonl").write_text("")
    with pytest.raises(SystemExit):
        ruler.main(["--answers", str(tmp_path / "answers.jsonl")])
    assert "its questions would cost nothing; name another file" in capsys.readouterr().err


def test_a_model_that_is_not_there_is_said_before_anything_is_built(base, tmp_path, capsys):
    with pytest.raises(SystemExit):
        ruler.main(["--preset", "tiny", "--model", str(tmp_path / "absent"), "--answers",
                    str(tmp_path / "answers.jsonl")])  # fmt: skip
    said = capsys.readouterr()
    assert "absent" in said.err and "questions built" not in said.out
    assert not (tmp_path / "answers.jsonl").exists()


def test_scores_are_means_of_tasks(base, tmp_path):
    """Tasks weigh alike, whatever their number of questions."""
    (spec,) = evaluation_models.find("scaled:yarn:8", base)
    asked = task.examples(models.load_tokenizer(base), [1126], 2, tasks=["niah_single_1"])
    asked = [dataclasses.replace(one, max_new_tokens=2) for one in asked]
    (line,) = ruler.answered(spec.load(), asked, str(tmp_path / "a.jsonl"), 1)
    assert line["questions"] == 2 and 0 <= line["ruler6"] <= 1
    assert line["prompt_tokens"] == results.read(tmp_path / "a.jsonl")["num_tokens"].sum()


def test_a_length_that_was_measured_is_kept_where_the_next_fails(base, tmp_path, monkeypatch):
    """A lent machine's time may end before the longest prompts are answered."""
    whole, asked = task.examples, []
    monkeypatch.setattr(ruler.ruler, "examples", lambda *given: whole(*given, tasks=["fwe"]))
    ask = ruler.evaluate

    def cut(*given, **named):
        asked.append(named["examples"][0].token_length)
        if len(asked) > 1:
            raise KeyboardInterrupt
        return ask(*given, **named)

    monkeypatch.setattr(ruler, "evaluate", cut)
    with pytest.raises(KeyboardInterrupt):
        ruler.main(["--preset", "tiny", "--lengths", "1126,1300", "--samples", "1", "--answers",
                    str(tmp_path / "a.jsonl"), "--rows", str(tmp_path / "rows.jsonl")])  # fmt: skip
    assert results.read(tmp_path / "rows.jsonl")["token_length"].tolist() == [1126]
