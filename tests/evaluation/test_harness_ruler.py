"""RULER's seven other tasks: the harness's documents, NVIDIA's scores, refusals with a reason.

No essays and questions are here: made ones stand in for what the harness would download.
"""

import contextlib
import importlib
import json
import random
from pathlib import Path

import pytest

from cream import models, results
from cream.evaluation import harness, harness_ruler
from cream.evaluation import models as evaluation_models
from cream.evaluation.harness import Policy, evaluate_models, table
from cream.evaluation.harness_ruler import build, check, score

pytestmark = pytest.mark.slow  # lm_eval takes ten seconds to import
needs_harness = pytest.mark.skipif(
    not harness.installed(), reason="lm_eval is not installed (the extra `evaluation`)"
)
ESSAY = "Nothing of note was said on day number {}. "


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_model, tiny_tokenizer):
    """A folder with a base that reads 8,192 tokens."""
    root = tmp_path_factory.mktemp("ruler")
    models.save(tiny_model(8192), tiny_tokenizer, root / "base")
    return root


def _loaded(name):
    """A module of the harness's RULER, the very one that its YAML files call."""
    loader = importlib.import_module("lm_eval.tasks._yaml_loader")
    folder = Path(importlib.import_module("lm_eval.tasks").__file__).parent / "ruler"
    return loader._load_module_with_cache((folder / f"{name}.py").resolve())


@contextlib.contextmanager
def _few_words():
    """A tenth of the adjectives: on import the harness sorts their millions of pairs with nouns."""
    import wonderwords

    whole = wonderwords.RandomWord

    class Few(whole):
        def __init__(self, *given, **named):
            super().__init__(*given, **named)
            kinds = dict(self._categories)
            self._categories = kinds | {"adjectives": list(kinds["adjectives"])[::10]}

    wonderwords.RandomWord = Few
    try:
        yield
    finally:
        wonderwords.RandomWord = whole


@pytest.fixture
def made(monkeypatch):
    """Essays, a splitter of sentences and a question instead of downloads; few samples of each."""
    import nltk

    monkeypatch.setattr(nltk.data, "find", lambda *_: True)  # punkt_tab, wanted at import
    with _few_words():
        prepare = importlib.import_module("lm_eval.tasks.ruler.prepare_niah")
    niah, qa = _loaded("niah_utils"), _loaded("qa_utils")
    words = "".join(ESSAY.format(day) for day in range(2000)).split(" ")
    monkeypatch.setattr(niah, "get_haystack", lambda type_haystack: words)
    monkeypatch.setattr(prepare, "cached_sent_tokenize",
                        lambda text: [one + "." for one in text.split(".")])  # fmt: skip
    asked = {"query": "Which country?", "outputs": ["France", "the country of France"],
             "context": [0], "more_context": []}  # fmt: skip
    documents = [f"Document {k} is about France. " * 30 for k in range(200)]
    monkeypatch.setattr(qa, "read_squad", lambda: ([asked] * 3, documents))
    few, fewer = prepare.generate_samples, qa.generate_samples
    monkeypatch.setattr(niah, "generate_samples", lambda *a, **k: few(*a, **k | {"num_samples": 3}))
    monkeypatch.setattr(qa, "generate_samples", lambda **k: fewer(**k | {"num_samples": 3}))


@needs_harness
def test_a_task_depends_on_its_seed_and_length_alone(made, place):
    """Whatever was drawn before; the global generator goes on as if nothing had been drawn."""
    random.seed(7)
    first = build("niah_multiquery", 4096, place / "base", harness._harness)
    after = random.random()
    again = build("niah_multiquery", 4096, place / "base", harness._harness)
    random.seed(7)
    assert after == random.random()
    assert list(first.test_docs()) == list(again.test_docs())
    assert harness_ruler.length_of(first) == 4096
    for one in first.test_docs():
        assert len(one["outputs"]) == 4 and all(value in one["input"] for value in one["outputs"])
    other = build("niah_multiquery", 8192, place / "base", harness._harness)
    assert not set(first.test_docs()["input"]) & set(other.test_docs()["input"])


@needs_harness
def test_answers_are_rows_with_nvidias_score(made, place):
    """A row a document and length; the tiny model names nothing. Again, nothing is asked."""
    subjects = evaluation_models.find("original", "base", place)
    names, rows = ["niah_single_2", "ruler_qa_squad"], place / "rows.jsonl"
    frame = evaluate_models(subjects, names, rows, Policy(limit=2), lengths=[4096])
    assert frame.groupby("task").size().to_dict() == dict.fromkeys(names, 2)
    assert set(frame["token_length"]) == {4096} and frame["score"].between(0, 1).all()
    assert set(results.variant(frame)) == {"4096"} and table(frame)["main"].all()
    said = {row.task: json.loads(row.prediction) for row in frame.itertuples()}
    assert all(isinstance(one[0], str) for one in said.values())
    before = rows.read_bytes()
    assert len(evaluate_models(subjects, names, rows, Policy(limit=2), lengths=[4096])) == 4
    assert rows.read_bytes() == before


@needs_harness
def test_what_is_longer_than_the_window_with_its_answer_is_refused(made, place, tmp_path):
    subjects = evaluation_models.find("original", "base", place)
    with pytest.raises(ValueError, match=r"niah_single_2 has \d+ tokens and 128 to answer, more"):
        evaluate_models(subjects, ["niah_single_2"], tmp_path / "rows", lengths=[16384])
    assert not (tmp_path / "rows").exists() or not (tmp_path / "rows").read_text()


@needs_harness
def test_data_that_do_not_come_are_refused_with_what_is_needed(made, place, monkeypatch):
    """And with where the tasks are that need none."""
    niah = _loaded("niah_utils")

    def offline(**_):
        raise LookupError("\n  Resource punkt_tab not found.")

    monkeypatch.setattr(niah, "get_haystack", offline)
    with pytest.raises(ConnectionError, match="punkt_tab not found.*Paul Graham.*12_ruler"):
        build("niah_single_3", 4096, place / "base", harness._harness)


def test_a_qa_answer_takes_its_best_reference():
    """1, where the harness averages to 1/3 (field notes, B2); needles count what is named."""
    france = {"filtered_resps": ["\x00It is France.\n"],
              "doc": {"outputs": ["France", "in France", "the country of France"]}}  # fmt: skip
    assert score("ruler_qa_squad", france) == 1
    assert score("niah_multivalue", france) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("names", "lengths", "says"),
    [
        (["ruler_cwe"], [4096], "ruler_cwe is not taken from the harness.*12_ruler"),
        (["ruler"], [4096], "whose cwe, fwe and average are not NVIDIA's"),
        (["niah_single_2"], None, "tasks of RULER without lengths: .* at 4096, 8192"),
        (["ruler_qa_squad"], [4096, 5000], r"lengths \[5000\] tokens: the harness has RULER at"),
        (["boolq"], [4096], r"lengths \[4096\] tokens are of RULER's tasks, and no task is one"),
    ],
)
def test_what_cannot_be_asked_is_refused_at_once(names, lengths, says, tmp_path):
    with pytest.raises(ValueError, match=says):
        check(names, lengths, tmp_path)
    check(["boolq"], None, tmp_path)


def test_a_tokenizer_with_code_of_its_own_is_refused(tmp_path):
    """The harness would load it with remote code allowed."""
    config = '{"auto_map": {"AutoTokenizer": ["a.B", null]}}'
    (tmp_path / "tokenizer_config.json").write_text(config)
    with pytest.raises(ValueError, match="names code of its own, which is never run"):
        check(["niah_single_2"], [4096], tmp_path)
