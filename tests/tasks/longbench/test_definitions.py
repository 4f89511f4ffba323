"""LongBench's definitions: lm_eval's, and LongBench's own words where lm_eval lost some."""

import importlib.resources
import importlib.util

import pytest

from cream.tasks.longbench import definitions
from cream.tasks.longbench.definitions import CATEGORIES, TASKS, checked_tasks, definition

needs_lm_eval = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None,
    reason="lm_eval is not installed (the extra 'evaluation')",
)
# Protocol 5.4, in its order: task, longest answer, metric, whether chat models get their template.
PROTOCOL = (
    ("narrativeqa", 128, "qa_f1", True),
    ("qasper", 128, "qa_f1", True),
    ("multifieldqa_en", 64, "qa_f1", True),
    ("hotpotqa", 32, "qa_f1", True),
    ("2wikimqa", 32, "qa_f1", True),
    ("musique", 32, "qa_f1", True),
    ("gov_report", 512, "rouge", True),
    ("qmsum", 512, "rouge", True),
    ("multi_news", 512, "rouge", True),
    ("trec", 64, "classification", False),
    ("triviaqa", 32, "qa_f1", False),
    ("samsum", 128, "rouge", False),
    ("passage_count", 32, "count", True),
    ("passage_retrieval_en", 32, "retrieval", True),
    ("lcc", 64, "code_sim", False),
    ("repobench-p", 64, "code_sim", False),
)
REPAIRED = {
    "triviaqa": "The following are some examples.\n\n{context}\n\n{input}",
    "samsum": "The following are some examples.\n\n{context}\n\n{input}",
    "passage_count": "such as 1, 2, 3, and so on.\n\nThe final answer is: ",
    "passage_retrieval_en": '"Paragraph 1", "Paragraph 2", etc.\n\nThe answer is: ',
    "lcc": "Please complete the code given below. \n{context}Next line of code:\n",
    "repobench-p": "Please complete the code given below. \n{context}{input}Next line of code:\n",
}


@needs_lm_eval
def test_tasks_limits_metrics_and_templates_are_the_protocols():
    found = [definition(task) for task in TASKS]
    assert PROTOCOL == tuple((d.task, d.max_new_tokens, d.metric, d.chat) for d in found)
    assert [len(tasks) for tasks in CATEGORIES.values()] == [3, 3, 3, 3, 2, 2]


@needs_lm_eval
@pytest.mark.parametrize("task", REPAIRED)
def test_the_prompts_that_lm_eval_cut_short_are_whole(task):
    assert definition(task).prompt.endswith(REPAIRED[task])


@needs_lm_eval
@pytest.mark.parametrize("task", sorted(set(TASKS) - set(REPAIRED)))
def test_the_other_ten_prompts_are_lm_evals_own(task):
    own = definitions._lm_eval(task)["doc_to_text"]
    ours = definition(task).prompt.replace("{context}", "{{context}}")
    assert ours.replace("{input}", "{{question}}") == own


@needs_lm_eval
def test_samsum_alone_stops_at_a_newline_and_has_a_least_length():
    ends = {task: (definition(task).stop, definition(task).min_new_tokens) for task in TASKS}
    assert ends.pop("samsum") == ("\n", 40)
    assert set(ends.values()) == {(None, 0)}
    assert [t for t in TASKS if definition(t).first_line] == ["trec", "triviaqa", "samsum"]


@needs_lm_eval
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("doc_to_text", "Read the text.\n\n{{context}}\n\nQuestion: {{question}}\nAnswer:"),
        ("generation_kwargs", {"max_gen_toks": 100}),
        ("process_results", "metrics.other"),
    ],
)
def test_an_lm_eval_that_asks_otherwise_is_refused(field, value, monkeypatch):
    changed = {**definitions._lm_eval("qasper"), field: value}
    monkeypatch.setattr(definitions, "_lm_eval", lambda task: changed)
    with pytest.raises(ValueError, match="asks qasper otherwise than LongBench"):
        definition.__wrapped__("qasper")


def test_without_lm_eval_it_says_what_to_install(monkeypatch):
    def absent(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib.resources, "files", absent)
    with pytest.raises(ModuleNotFoundError, match=r"lm_eval, .* pip install .*\[evaluation\]"):
        definition.__wrapped__("qasper")


def test_unknown_tasks_are_named():
    with pytest.raises(ValueError, match="no task 'quasper'; did you mean 'qasper'"):
        checked_tasks(["trec", "quasper"])
    with pytest.raises(ValueError, match="each once"):
        checked_tasks(["trec", "trec"])
    with pytest.raises(ValueError, match="at least one"):
        checked_tasks([])
