"""LongBench: prompts truncated and wrapped as in the release, rows that resume, averages."""

import importlib.util
import json

import numpy as np
import pandas as pd
import pytest

from cream.evaluation.runner import evaluate
from cream.notebook import find_root
from cream.results import Rows
from cream.tasks.longbench import metrics, synthetic
from cream.tasks.longbench import task as longbench_task
from cream.tasks.longbench.data import read
from cream.tasks.longbench.definitions import CATEGORIES, TASKS, definition
from cream.tasks.longbench.task import (
    TWELVE,
    averages,
    evaluations,
    examples,
    score,
    truncate,
)

absent = [n for n in ("lm_eval", "rouge", "jieba", "fuzzywuzzy") if not importlib.util.find_spec(n)]
needs_lm_eval = pytest.mark.skipif(
    bool(absent), reason=f"{', '.join(absent)} not installed (the extra 'evaluation')"
)
HEADER = {"model_hash": "0" * 16, "settings": {}, "run": "test"}
LONG = 100_000  # tokens, so that nothing is cut


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return synthetic.write(tmp_path_factory.mktemp("longbench"), samples=2, facts=6)


@needs_lm_eval
@pytest.mark.parametrize("task", TASKS)
def test_a_prompt_is_the_definition_filled_with_the_row(task, data, tiny_tokenizer):
    rows = read(data, task)
    built = examples(tiny_tokenizer, data, LONG, [task])
    assert [e.sample for e in built] == [0, 1]
    for row, example in zip(rows, built, strict=True):
        wanted = definition(task).prompt.replace("{input}", row["input"])
        assert example.prompt == wanted.replace("{context}", row["context"])
        assert example.task == f"longbench-{task}" and json.loads(example.target) == row["answers"]
        assert example.max_new_tokens == definition(task).max_new_tokens


@needs_lm_eval
def test_braces_in_a_text_are_left_alone(tmp_path, tiny_tokenizer):
    row = {"context": "{input} {0} {{x}}", "input": "{context}", "answers": ["a"], "length": 1,
           "all_classes": None}  # fmt: skip
    (tmp_path / "repobench-p.jsonl").write_text(json.dumps(row))
    prompt = examples(tiny_tokenizer, tmp_path, LONG, ["repobench-p"])[0].prompt
    assert prompt.endswith("below. \n{input} {0} {{x}}{context}Next line of code:\n")


def test_truncation_keeps_both_ends(tiny_tokenizer):
    text = "".join(f"word {i}, " for i in range(300))
    ids = tiny_tokenizer(text)["input_ids"]  # its BOS is the first of them
    for most in (50, 51):
        cut = truncate(tiny_tokenizer, text, most)
        first, last = tiny_tokenizer.decode(ids[1:25]), tiny_tokenizer.decode(ids[-25:])
        assert cut == first + last and cut.startswith("word 0, ") and cut.endswith("word 299, ")
    assert truncate(tiny_tokenizer, text, len(ids)) == text
    assert truncate(tiny_tokenizer, text, len(ids) - 1) != text


@needs_lm_eval
def test_no_prompt_is_longer_than_asked_and_short_ones_are_whole(tmp_path, tiny_tokenizer):
    folder = synthetic.write(tmp_path, samples=1, facts=60)
    long = {e.task: e for e in examples(tiny_tokenizer, folder, LONG)}
    short = {e.task: e for e in examples(tiny_tokenizer, folder, 400)}
    for task, example in short.items():
        count = len(tiny_tokenizer(example.prompt)["input_ids"])
        whole = len(tiny_tokenizer(long[task].prompt)["input_ids"]) <= 400
        assert (example.prompt == long[task].prompt) == whole
        assert count <= 402 and (whole or count > 390)
        assert example.token_length == 400


@needs_lm_eval
def test_chat_models_get_their_words_around_eleven_tasks(data, tiny_tokenizer):
    plain = examples(tiny_tokenizer, data, LONG)
    chat = examples(tiny_tokenizer, data, LONG, chat="llama2")
    changed = [(a, b) for a, b in zip(plain, chat, strict=True) if a.prompt != b.prompt]
    assert all(b.prompt == f"[INST]{a.prompt}[/INST]" for a, b in changed)
    untouched = {"trec", "triviaqa", "samsum", "lcc", "repobench-p"}
    assert {a.task.removeprefix("longbench-") for a, _ in changed} == set(TASKS) - untouched
    assert all(b.settings != a.settings for a, b in changed)
    same = [(a, b) for a, b in zip(plain, chat, strict=True) if a.prompt == b.prompt]
    assert len(same) == 10 and all(a.settings == b.settings for a, b in same)


@needs_lm_eval
def test_the_tokenizers_own_template_keeps_one_bos(data, tiny_tokenizer, monkeypatch):
    with pytest.raises(ValueError, match="has no chat template"):
        examples(tiny_tokenizer, data, LONG, ["qasper"], chat="tokenizer")
    template = "{{ bos_token }}U: {{ messages[0]['content'] }}\nA:"
    monkeypatch.setattr(tiny_tokenizer, "chat_template", template)
    built = examples(tiny_tokenizer, data, LONG, ["qasper", "lcc"], chat="tokenizer")
    assert built[0].prompt.startswith("U: You are given") and built[0].prompt.endswith("\nA:")
    assert tiny_tokenizer(built[0].prompt)["input_ids"].count(tiny_tokenizer.bos_token_id) == 1
    assert "chat_template" in built[0].settings and "chat_template" not in built[2].settings


@needs_lm_eval
def test_samples_take_the_first_and_other_answers_are_other_rows(data, tmp_path, tiny_tokenizer):
    few = examples(tiny_tokenizer, data, LONG, ["trec", "qasper"], samples=1)
    assert few == examples(tiny_tokenizer, data, LONG, ["trec", "qasper"])[::2]
    row = {**read(data, "qasper")[0], "answers": ["another"]}
    (tmp_path / "qasper.jsonl").write_text(json.dumps(row))
    other = examples(tiny_tokenizer, tmp_path, LONG, ["qasper"])[0]
    assert other.prompt == few[1].prompt and other.settings != few[1].settings


@needs_lm_eval
@pytest.mark.parametrize(
    ("task", "said", "value"),
    [
        ("triviaqa", "\n\nParis\nQuestion: more", 1),
        ("triviaqa", "It is\nParis", 0),
        ("trec", "\nPlace\nPerson", 1),
        ("trec", "Place Person", 0.5),
        ("samsum", "\nParis\nDialogue: more", 1),
        ("qasper", "Paris\nQuestion: more", 0.5),
        ("passage_count", " 3\n4", 0.5),
        ("lcc", "\nParis\n#", 1),
    ],
)
def test_answers_are_cut_and_scored_as_in_the_release(task, said, value):
    gold = {"trec": "Place", "passage_count": "3"}.get(task, "Paris")
    example = longbench_task.LongBenchExample(
        f"longbench-{task}", 0, "p", "t", 9, answers=(gold,), all_classes=("Person", "Place")
    )
    assert score(said, example) == {"score": pytest.approx(value, abs=1e-6)}


@needs_lm_eval
def test_a_killed_run_ends_with_the_rows_of_one_that_was_not(
    data, tmp_path, tiny_model, tiny_tokenizer, monkeypatch
):
    model = tiny_model(2048)
    built = examples(tiny_tokenizer, data, 500)
    short = {"qa_f1", "count", "retrieval", "classification"}
    built = [e for e in built if e.settings["metric"] in short and e.max_new_tokens < 65]

    def run(path):
        with Rows(tmp_path / path, HEADER) as rows:
            return evaluate(model, tiny_tokenizer, longbench_task, built, rows, progress=False)

    whole, own, left = run("whole.jsonl"), metrics.score, [5]

    def dies(*given):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return own(*given)

    monkeypatch.setattr(metrics, "score", dies)
    with pytest.raises(KeyboardInterrupt):
        run("killed.jsonl")
    left[0] = len(built) - 5  # the five that have a row are not asked again
    again = run("killed.jsonl")
    columns = ["key", "task", "sample", "prediction", "target", "score", "prompt_hash", "settings"]
    pd.testing.assert_frame_equal(
        again.sort_values("key", ignore_index=True)[columns],
        whole.sort_values("key", ignore_index=True)[columns],
    )
    assert left[0] == 0 and len(whole) == len(built) and whole["score"].between(0, 1).all()


def rows_of(scores: dict[str, list[float]]) -> pd.DataFrame:
    lines = [(f"longbench-{task}", one) for task, given in scores.items() for one in given]
    about = {"model_hash": "0", "token_length": 3500, "settings": "{}"}
    return pd.DataFrame(lines, columns=["task", "score"]).assign(**about)


def test_averages_are_unweighted_means_of_categories_and_of_the_twelve_tasks():
    rng = np.random.default_rng(0)
    scores = {task: rng.random(3 + 5 * i).tolist() for i, task in enumerate(TASKS)}
    table = averages(rows_of(scores))
    own = {task: round(100 * np.mean(given), 2) for task, given in scores.items()}
    means = [np.mean([own[task] for task in tasks]) for tasks in CATEGORIES.values()]
    assert table.loc[list(TASKS), "value"].tolist() == pytest.approx(list(own.values()))
    assert table.loc[list(CATEGORIES), "value"].tolist() == pytest.approx(means)
    assert table.loc["average", "value"] == pytest.approx(np.mean(means))
    assert table.loc["average_12", "value"] == pytest.approx(np.mean([own[t] for t in TWELVE]))
    assert table.loc["average", "n"] == sum(map(len, scores.values()))
    assert (table["low"] < table["value"]).all() and (table["value"] < table["high"]).all()


@pytest.mark.parametrize("name", ["longbench_categories", "longbench_tasks"])
def test_the_papers_averages_are_means_in_that_sense(name):
    """To the tenth that is printed; the columns are our names."""
    table = pd.read_csv(find_root() / "data" / "paper" / f"{name}.csv").set_index("model")
    parts = list(CATEGORIES) if name == "longbench_categories" else list(TWELVE)
    assert len(parts) == (6 if name == "longbench_categories" else 12)
    ours = table.loc[[one for one in table.index if "CREAM" in one]]
    assert (ours[parts].mean(axis=1) - ours["average"]).abs().max() <= 0.051


def test_intervals_stay_within_the_scale_and_say_what_few_samples_do_not():
    few = {task: [0.0] * 3 for task in TASKS} | {"trec": [1.0, 0.0, 0.5], "samsum": [0.4]}
    table = averages(rows_of(few))
    assert table.loc["qasper", "low"] == 0 and table.loc["qasper", "high"] > 50
    assert table.loc["trec", ["low", "high"]].tolist() == [0, 100]
    assert table.loc[["samsum", "few_shot", "average"], "high"].isna().all()
    assert table.loc["average", "value"] == pytest.approx((50 + 40 + 0) / 3 / 6)


def test_the_interval_of_an_average_is_that_of_independent_tasks():
    """Over redrawn benchmarks it holds the true mean about 95 times in 100."""
    rng, held = np.random.default_rng(1), 0
    for _ in range(40):
        scores = {task: rng.binomial(1, 0.5, 40).tolist() for task in TASKS}
        line = averages(rows_of(scores)).loc["average"]
        held += line["low"] <= 50 <= line["high"]
    print(held)
    assert 35 <= held <= 39


def test_what_lacks_a_task_has_no_mean():
    scores = {task: [0.0, 1.0] for task in TASKS if task != "lcc"}
    table = averages(rows_of(scores))
    assert table.loc[["lcc", "code", "average"], "value"].isna().all()
    assert table.loc[["few_shot", "average_12"], "value"].tolist() == [50, 50]
    with pytest.raises(ValueError, match="2 models in these rows"):
        averages(pd.concat([rows_of(scores), rows_of(scores).assign(model_hash="1")]))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"token_length": 200}, "LongBench, 200 tokens, chat none; LongBench, 3500 tokens"),
        ({"settings": '{"chat": "llama2"}'}, "chat llama2; .*chat none"),
        ({"settings": '{"corpus": "mine"}'}, "LongBench, 3500 tokens, chat none; mine, 3500"),
    ],
)
def test_ways_of_asking_are_never_averaged(change, says):
    """Shorter prompts, other words around them and other data are evaluations of their own."""
    scores = {task: [0.0, 1.0] for task in TASKS}
    one = rows_of(scores).assign(settings='{"chat": "none"}')
    both = pd.concat([one, rows_of(scores).assign(**{"settings": '{"chat": "none"}', **change})])
    with pytest.raises(ValueError, match=f"2 evaluations in these rows .*{says}"):
        averages(both)
    assert [len(part) for _, part in evaluations(both)] == [len(one)] * 2


def test_tasks_without_a_chat_wrapper_belong_to_every_chat(data, tiny_tokenizer):
    """trec is asked as it is, whatever stands around the others."""
    made = [
        {"task": each.task, "model_hash": "0", "token_length": 200, "score": 0.5,
         "settings": json.dumps(each.settings)}
        for chat in ("none", "llama2")
        for each in examples(tiny_tokenizer, data, 200, ["hotpotqa", "trec"], 1, chat)
    ]  # fmt: skip
    rows = pd.DataFrame(made).drop_duplicates()
    assert [len(part) for _, part in evaluations(rows)] == [2, 2] and len(rows) == 3


def test_the_releases_limits_and_those_of_other_windows():
    assert [longbench_task.max_prompt_tokens(w) for w in (4096, 32768)] == [3500, 31500]
    assert longbench_task.max_prompt_tokens(262144) == 262144 - 596
    for window in (1024, 2048, 8192, 65536):
        assert longbench_task.max_prompt_tokens(window) + 512 < window
    assert longbench_task.max_prompt_tokens(512) == 128
    with pytest.raises(ValueError, match="window 3"):
        longbench_task.max_prompt_tokens(3)


@needs_lm_eval
def test_bad_input_is_named_before_anything_is_asked(data, tmp_path, tiny_tokenizer):
    with pytest.raises(ValueError, match="no task 'qaspe'; did you mean 'qasper'"):
        examples(tiny_tokenizer, data, LONG, ["qaspe"])
    with pytest.raises(ValueError, match="chat is 'vicuna'; choose one of none, llama2"):
        examples(tiny_tokenizer, data, LONG, chat="vicuna")
    with pytest.raises(ValueError, match="samples 0"):
        examples(tiny_tokenizer, data, LONG, samples=0)
    with pytest.raises(ValueError, match="max_tokens 1"):
        examples(tiny_tokenizer, data, 1)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        examples(tiny_tokenizer, tmp_path / "nowhere", LONG)
    for task in TASKS[:-1]:
        (tmp_path / f"{task}.jsonl").write_bytes((data / f"{task}.jsonl").read_bytes())
    with pytest.raises(FileNotFoundError, match="has no repobench-p.jsonl"):
        examples(tiny_tokenizer, tmp_path, LONG)
