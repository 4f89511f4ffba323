"""LongBench's metrics against the official ones' values (protocols 5.4)."""

import importlib.util
import sys

import pytest

from cream.tasks.longbench import metrics
from cream.tasks.longbench.metrics import METRICS, code_similarity, find, rouge_l, score


def _absent(*names: str) -> pytest.MarkDecorator:
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    reason = f"{', '.join(missing)} not installed (the extra 'evaluation')"
    return pytest.mark.skipif(bool(missing), reason=reason)


needs_lm_eval = _absent("lm_eval", "jieba", "fuzzywuzzy", "rouge")
needs_rouge = _absent("rouge")


@needs_lm_eval
@pytest.mark.parametrize(
    ("metric", "prediction", "answers", "value"),
    [
        ("qa_f1", "The Eiffel Tower, in Paris", ["eiffel tower"], 2 / 3),
        ("qa_f1", "The Eiffel Tower, in Paris", ["Rome", "eiffel tower"], 2 / 3),
        ("qa_f1", "", ["eiffel tower"], 0),
        ("rouge", "the cat sat on the mat", ["the cat is on the mat"], 0.799999995),
        ("rouge", "", ["the cat is on the mat"], 0),
        ("count", "There are 3 paragraphs, 3 of 10", ["3"], 2 / 3),
        ("count", "none", ["3"], 0),
        ("retrieval", "Paragraph 7 or 8", ["Paragraph 7"], 1 / 2),
        ("retrieval", "Paragraph 17", ["Paragraph 7"], 0),
        ("code_sim", "```python\n# c\nreturn x+1\nfoo", ["return x + 1"], 0.91),
        ("code_sim", "", ["return x + 1"], 0),
        ("code_sim", "x", ["return x + 1", "x"], 1),
        ("rouge", "the cat sat on the mat", ["a dog", "the cat is on the mat"], 0.799999995),
    ],
)
def test_golden_values(metric, prediction, answers, value):
    assert score(metric, prediction, answers) == pytest.approx(value, abs=1e-9)


@needs_lm_eval
@pytest.mark.parametrize(
    ("prediction", "gold", "classes", "value"),
    [
        ("abc", "abc", ["a", "ab", "abc"], 0.5),  # the list that is changed while it is walked
        ("abc", "abc", ["ab", "abc"], 1),
        ("Person or Place", "Place", ["Person", "Place"], 0.5),
        ("Person", "Place", ["Person", "Place"], 0),
    ],
)
def test_classes_are_found_as_the_official_metric_finds_them(prediction, gold, classes, value):
    assert score("classification", prediction, [gold], classes) == value


# Values of rouge 1.0.1's Rouge().get_scores(..., avg=True)["rouge-l"]["f"], as LongBench calls it.
@needs_rouge
@pytest.mark.parametrize(
    ("prediction", "answer", "value"),
    [
        ("One two three. Four five.", "Four five six. One two.", 0.7999999950000002),
        ("a b a b a b", "a b", 0.999999995),
        ("Paid by the state. It grew. It fell.", "It grew by the state. Nothing fell.",
         0.8571428521428571),
        (".", "a b", 0),
        ("a b", "...", 0),
    ],
)  # fmt: skip
def test_rouge_is_that_of_the_official_package(prediction, answer, value):
    assert rouge_l(prediction, answer) == pytest.approx(value, abs=1e-12)


@needs_rouge
def test_rouge_of_long_sentences_is_no_swallowed_error():
    """Where LongBench and lm_eval give 0: one word of 600 in common, far apart."""
    answer = " ".join(f"w{i}" for i in range(600))
    prediction = "w0 " + " ".join(f"v{i}" for i in range(599))
    limit = sys.getrecursionlimit()
    assert rouge_l(prediction, answer) == pytest.approx(1 / 600, rel=1e-4)
    assert sys.getrecursionlimit() == limit


# Values of fuzzywuzzy 0.18.0 without python-Levenshtein; with it, the fourth would be 1.0.
@pytest.mark.parametrize(
    ("code", "answer", "value"),
    [
        ("return x+1", "return x + 1", 0.91),
        ("self.value = other.value", "self.values = another.value", 0.94),
        ("for i in range(10):", "while i < 10:", 0.44),
        ("x" * 250 + "y", "y" + "x" * 250, 0),
        ("same", "same", 1),
    ],
)
def test_code_similarity_is_fuzzywuzzys_in_pure_python(code, answer, value):
    assert code_similarity(code, answer) == value


@pytest.mark.parametrize(
    ("prediction", "value"),
    [
        ("\n\nreturn x", 1),  # newlines in front are dropped
        ("\n  \nreturn x", 0.2),  # a line of spaces is the answer
        ("# why\nx // y\n`a`\nreturn x", 1),
        ("# why\nx // y", 0),
        ("return x\nreturn y", 1),
    ],
)
def test_the_first_line_that_is_code_counts(prediction, value):
    assert code_similarity(prediction, "return x") == value


def test_an_unknown_metric_is_named():
    with pytest.raises(ValueError, match="no metric 'bleu': use one of qa_f1, rouge"):
        score("bleu", "a", ["a"])


@pytest.mark.parametrize("metric", [m for m in METRICS if m != "code_sim"])
def test_a_missing_package_is_named_before_anything_is_scored(metric, monkeypatch):
    def absent(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(metrics.importlib, "import_module", absent)
    with pytest.raises(ModuleNotFoundError, match=r"metrics need .*\[evaluation\]"):
        find.__wrapped__(metric)
