"""The loop from examples to rows: resumable, and the same for every task."""

import dataclasses
import os
import subprocess
import textwrap
import time

import pytest
import warm_python

from cream import results
from cream.evaluation.runner import evaluate, share
from cream.results import Rows
from cream.tasks import longchat_lines, perplexity, prompts
from cream.tasks.base import Example, check_lengths

HEADER = {"model_hash": "0" * 16, "settings": {}, "run": "test"}
IGNORED = ["date", "commit"]


def asked(tiny_tokenizer, samples: int = 6) -> list[Example]:
    return longchat_lines.examples(tiny_tokenizer, [120, 200], samples)


def compared(frame):
    return frame.sort_values("key", ignore_index=True).drop(columns=IGNORED)


def test_every_example_gets_a_row(tmp_path, tiny_model, tiny_tokenizer):
    examples = asked(tiny_tokenizer)
    with Rows(tmp_path / "rows.jsonl", HEADER) as rows:
        frame = evaluate(
            tiny_model(256), tiny_tokenizer, longchat_lines, examples, rows, progress=False
        )
    assert len(frame) == len(examples) == 12
    assert set(frame["token_length"]) == {120, 200} and frame["run"].eq("test").all()
    for _, row in frame.iterrows():
        example = next(e for e in examples if e.prompt_hash == row["prompt_hash"])
        assert row["target"] == example.target and row["gold_index"] == example.gold_index
        assert 0.8 * example.token_length < row["num_tokens"] <= example.token_length
        assert row["score"] == 0 and isinstance(row["prediction"], str)
        assert '"max_new_tokens": 10' in row["settings"] and '"stop": ">"' in row["settings"]


def test_only_missing_examples_are_run(tmp_path, tiny_model, tiny_tokenizer):
    model, examples, calls = tiny_model(256), asked(tiny_tokenizer), []
    generate = model.generate
    model.generate = lambda ids, **k: calls.extend([1] * len(ids)) or generate(ids, **k)
    run = dict(model=model, tokenizer=tiny_tokenizer, task=longchat_lines, progress=False)
    with Rows(tmp_path / "rows.jsonl", HEADER) as rows:
        evaluate(**run, examples=examples[:5], rows=rows)
        assert len(calls) == 5
        frame = evaluate(**run, examples=examples, rows=rows)
        assert len(calls) == 12 and len(frame) == 12
        assert len(evaluate(**run, examples=examples[:2], rows=rows)) == 2 and len(calls) == 12
        evaluate(**run, examples=examples[:2], rows=rows, settings={"engine": "other"})
        assert len(calls) == 14


def test_a_prompt_beyond_the_window_is_refused_unless_asked_for(
    tmp_path, tiny_model, tiny_tokenizer
):
    run = dict(tokenizer=tiny_tokenizer, task=longchat_lines, progress=False)
    examples = asked(tiny_tokenizer, 1)
    with Rows(tmp_path / "rows.jsonl", HEADER) as rows:
        with pytest.raises(ValueError, match="exceed the model's window of 128"):
            evaluate(tiny_model(128), examples=examples, rows=rows, **run)
        assert len(rows.frame()) == 0
        frame = evaluate(tiny_model(128), examples=examples, rows=rows, allow_beyond=True, **run)
        assert len(frame) == 2


def test_the_longest_of_many_is_named_wherever_it_is(tiny_tokenizer, monkeypatch):
    """Prompts are tokenized some at a time, between examples that are tokens already."""
    monkeypatch.setattr("cream.tasks.base._AT_ONCE", 3)
    examples = [Example("mixed", n, "word " * (3 * n), "", 50, max_new_tokens=2, tokens=(5,) * 40
                        if n % 3 == 1 else None) for n in range(8)]  # fmt: skip
    sizes = {one.sample: len(tiny_tokenizer(one.prompt)["input_ids"]) + 2 for one in examples}
    sizes |= dict.fromkeys((1, 4, 7), 40)
    most = max(sizes, key=sizes.get)
    check_lengths(examples, tiny_tokenizer, sizes[most])
    said = f"1 of 8 samples exceed .* mixed sample {most} with {sizes[most]} tokens"
    with pytest.raises(ValueError, match=said):
        check_lengths(examples, tiny_tokenizer, sizes[most] - 1)


KILLED = """
import sys, time
from transformers import AutoModelForCausalLM, AutoTokenizer
from cream.results import Rows
from cream.evaluation.runner import evaluate
from cream.tasks import longchat_lines
folder, pause = sys.argv[1], float(sys.argv[2])
model = AutoModelForCausalLM.from_pretrained(folder).eval()
tokenizer = AutoTokenizer.from_pretrained(folder)
score = longchat_lines.score
def slow(prediction, example):
    time.sleep(pause)
    return score(prediction, example)
longchat_lines.score = slow
examples = longchat_lines.examples(tokenizer, [120, 200], 6)
with Rows(sys.argv[3], {"model_hash": "0" * 16, "settings": {}, "run": "test"}) as rows:
    evaluate(model, tokenizer, longchat_lines, examples, rows, progress=False)
"""


@pytest.mark.slow
def test_a_killed_evaluation_started_again_ends_with_the_same_rows(
    tmp_path, tiny_model, tiny_tokenizer
):
    model = tiny_model(256)
    model.save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    path, script = tmp_path / "killed.jsonl", textwrap.dedent(KILLED)
    command = [warm_python.executable(), "-c", script, str(tmp_path / "model")]
    child = subprocess.Popen(
        [*command, "0.3", str(path)], env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    deadline = time.monotonic() + 60
    while not path.exists() or path.read_bytes().count(b"\n") < 3:
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    warm_python.kill(child)
    torn = path.read_bytes()
    assert 3 <= torn.count(b"\n") < 12
    path.write_bytes(torn + torn.split(b"\n")[0][:40])
    subprocess.run([*command, "0", str(path)], check=True)
    with Rows(tmp_path / "whole.jsonl", HEADER) as rows:
        whole = evaluate(
            model, tiny_tokenizer, longchat_lines, asked(tiny_tokenizer), rows, progress=False
        )
    again = results.read(path)
    assert len(again) == 12
    assert compared(again).equals(compared(whole))


def test_tasks_that_measure_leave_rows_too(tmp_path, tiny_model, tiny_tokenizer):
    documents = [("a", list(range(2, 200))), ("short", [3, 4]), ("b", list(range(300, 560)))]
    examples = perplexity.examples(documents, [32, 64], samples=5, bos_token_id=0)
    with Rows(tmp_path / "rows.jsonl", HEADER) as rows:
        frame = evaluate(tiny_model(64), tiny_tokenizer, perplexity, examples, rows, progress=False)
    assert sorted(frame["document"]) == ["a", "a", "b", "b"]
    assert (frame["scored_tokens"] == frame["token_length"] - 1).all()
    assert frame["score"].isna().all() and frame["nll"].gt(0).all()
    assert '"bos": "prepended"' in frame["settings"][0]


@pytest.mark.parametrize(("per_unit", "overhead"), [(7, 0), (7, 100), (1, 3)])
@pytest.mark.parametrize("guess", [1, 20, 10**6])
def test_the_largest_that_fits_is_found_in_few_steps(per_unit, overhead, guess):
    calls = []

    def tokens(n: int) -> int:
        calls.append(n)
        return overhead + per_unit * n

    found = prompts.largest_that_fits(tokens, 5000, 10**4, guess)
    assert tokens(found) <= 5000 < tokens(found + 1)
    assert len(calls) < 12


def test_depths_are_even_for_any_number_of_samples():
    for samples in (5, 50, 500):
        depths = sorted(prompts.depth("x", 3, 512, k) for k in range(samples))
        gaps = [b - a for a, b in zip([0, *depths], [*depths, 1], strict=True)]
        assert max(gaps) < 2.7 / samples


@pytest.mark.parametrize(
    ("lengths", "samples", "message"),
    [([], 1, "lengths"), ([0], 1, r"lengths \[0\]"), ([100], 0, "samples 0"), ([9], 1, "holds no")],
)
def test_impossible_examples_are_refused(lengths, samples, message, tiny_tokenizer):
    with pytest.raises(ValueError, match=message):
        longchat_lines.examples(tiny_tokenizer, lengths, samples)


def test_samples_that_are_too_long_are_counted_before_any_is_computed(
    tmp_path, tiny_model, tiny_tokenizer
):
    """Also where only the second group of settings has them: how many, of which length, one."""
    model, examples = tiny_model(150), asked(tiny_tokenizer, 3)
    long = dataclasses.replace(examples[0], sample=9, max_new_tokens=100)
    model.generate = lambda *_, **__: pytest.fail("computed")
    run = dict(model=model, tokenizer=tiny_tokenizer, task=longchat_lines, progress=False)
    with Rows(tmp_path / "rows.jsonl", HEADER) as rows:
        with pytest.raises(ValueError, match="3 of 6 samples exceed .* 150 .*: 3 of 200 tokens"):
            evaluate(**run, examples=examples, rows=rows)
        with pytest.raises(ValueError, match="1 of 4 .*longchat_lines sample 9 with 2.. tokens"):
            evaluate(**run, examples=[*examples[:3], long], rows=rows, label="runs/x")
        assert len(rows.frame()) == 0


def test_documents_that_are_too_long_are_counted_too(tmp_path, tiny_model, tiny_tokenizer):
    examples = perplexity.examples([("a", list(range(2, 200)))], [32, 128], 1, bos_token_id=0)
    with Rows(tmp_path / "rows.jsonl", HEADER) as rows:
        run = dict(task=perplexity, examples=examples, rows=rows, progress=False)
        with pytest.raises(ValueError, match="1 of 2 samples exceed .*: 1 of 128 tokens"):
            evaluate(tiny_model(64), tiny_tokenizer, **run)
        assert len(rows.frame()) == 0


@pytest.mark.parametrize("of", [1, 2, 3, 8, 50])
def test_shares_are_the_whole_once_each_and_even(tiny_tokenizer, of):
    """Questions about one document stay in one share where that leaves the shares even."""
    examples = longchat_lines.examples(tiny_tokenizer, [120, 200, 400], 20, questions=5)
    pairs = [(example, {}) for example in examples]
    shares = [share(pairs, number, of) for number in range(of)]
    whole = sorted((e.token_length, e.sample) for part in shares for e, _ in part)
    assert whole == sorted((e.token_length, e.sample) for e in examples)
    loads = [sum(e.token_length for e, _ in part) for part in shares]
    assert max(loads) - min(loads) <= 5 * 400
    if of == 2:
        owners = [{e.document for e, _ in part} for part in shares]
        assert not owners[0] & owners[1]


def test_one_document_for_all_is_shared_all_the_same(tiny_tokenizer):
    examples = [dataclasses.replace(e, document="the haystack") for e in asked(tiny_tokenizer)]
    sizes = [len(share([(e, {}) for e in examples], number, 4)) for number in range(4)]
    assert sizes == [3, 3, 3, 3]
