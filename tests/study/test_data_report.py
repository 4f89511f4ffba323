"""What windows can answer and what text has leaked, against loops written out."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from cream import models
from cream.data import corpus
from cream.data.retrieval import documents as retrieval_documents
from cream.data.retrieval.documents import Document, Query, Record
from cream.positions import Indices, sampler
from cream.positions.coverage import answerable
from cream.study import data_report
from cream.study.data_report import check_words, overlap, queries, spans_of

BASE = Path(__file__).resolve().parents[2] / "data" / "miniature"


@pytest.fixture(scope="module")
def tokenizer():
    """The miniature's."""
    return models.load_tokenizer(BASE)


def grams(texts: list[str], n: int) -> set[tuple[str, ...]]:
    """All runs of n words, as sets."""
    found = set()
    for text in texts:
        words = re.findall(r"\w+", text.lower())
        found |= {tuple(words[k : k + n]) for k in range(len(words) - n + 1)}
    return found


@pytest.mark.parametrize("n", [1, 3, 13])
def test_overlap_is_that_of_the_sets(n):
    """Of random texts from few words, so that many runs are shared."""
    rng = np.random.default_rng(n)
    words = ["The", "cat", "sat", "on", "a", "mat", "dog", "ran"] if n < 13 else ["x", "y"]
    texts = [" ".join(rng.choice(words, 300)) for _ in range(8)]
    training, evaluation = texts[:4], [*texts[4:], "unseen words " * 20]
    wanted = grams(training, n) & grams(evaluation, n)
    found = overlap(training, evaluation, n)
    assert (found["shared"], found["of"]) == (len(wanted), len(grams(evaluation, n)))
    assert n == 13 or wanted


def test_order_is_part_of_a_gram():
    """The same words the other way round are not shared."""
    assert overlap(["a b c d"], ["d c b a"], 4)["shared"] == 0
    assert overlap(["a b c d"], ["A, B; c-d"], 4)["shared"] == 1


def test_spans_are_the_tokens_of_the_characters(tokenizer):
    """Decoded, they are what was asked, answered and told."""
    made = retrieval_documents.training_document(
        "pairs", np.random.default_rng(0), 300, wording="other"
    )
    stored = np.array([0, *tokenizer(made.text, add_special_tokens=False)["input_ids"]])
    found = spans_of(made, tokenizer, stored)
    for query, (start, answer, end), (first, last) in zip(
        made.queries, found.questions, found.records, strict=True
    ):
        record = made.records[query.record]
        assert record.value in tokenizer.decode(stored[answer:end])
        assert record.key in tokenizer.decode(stored[start:answer])
        told = tokenizer.decode(stored[first:last])
        assert record.key in told and record.value in told
    with pytest.raises(ValueError, match="other tokens than the corpus"):
        spans_of(made, tokenizer, stored[:-1])


@pytest.mark.parametrize("method", ["cream", "pose", "randpos", "plain"])
def test_answerable_queries_by_a_loop(method):
    """Token by token, over many windows of a made-up layout."""
    rng = np.random.default_rng(0)
    starts = np.arange(0, 900, 30)
    asked = np.stack([starts + 15, starts + 20, starts + 25], axis=1)[1:]
    of = np.array([(s, s + 10) for s in (rng.integers(0, k + 1) * 30 for k in range(len(asked)))])
    draw = sampler(method, 256, 4)
    for index in range(40):
        indices = draw.draw(900, 0, 0, index)
        told = dict(zip(indices.tokens.tolist(), indices.positions.tolist(), strict=True))
        wanted = [
            told[answer] - told[last - 1]
            for (start, answer, end), (first, last) in zip(asked.tolist(), of.tolist(), strict=True)
            if all(t in told for t in [*range(start, end), *range(first, last)])
        ]
        assert answerable(indices, asked, of, 900).tolist() == wanted


def test_a_window_without_the_record_answers_nothing():
    """Though it holds the question."""
    window = Indices(np.arange(10, 20), np.arange(10, 20))
    asked, inside, outside = np.array([[15, 16, 18]]), np.array([[11, 13]]), np.array([[8, 11]])
    assert answerable(window, asked, inside, 30).tolist() == [4]
    assert answerable(window, asked, outside, 30).tolist() == []


def test_queries_a_window_count_full_windows_as_many(tokenizer, tmp_path, monkeypatch):
    """One document whose every query is near: full sees s times as many and counts them so."""
    monkeypatch.setattr(data_report, "WINDOWS", 20)
    made = [
        retrieval_documents.training_document("lines", np.random.default_rng(k), 700)
        for k in range(3)
    ]
    documents = [{"split": "train", "source": "generated", "name": f"lines {k}", "kind": "lines",
                  "text": each.text} for k, each in enumerate(made)]  # fmt: skip
    built = corpus.build(tmp_path / "c", documents, tokenizer, 128, {}, progress=False)
    stored = built.split("train")
    spans = {f"lines {k}": spans_of(d, tokenizer, stored.tokens(k)) for k, d in enumerate(made)}
    plain = queries(built, spans, "plain", 4, {}, 128)
    full = queries(built, spans, "full", 4, {}, 128)
    assert 0 < plain["queries_a_window"] < 1.5 * full["queries_a_window"]
    assert full["queries_a_window"] < 4 * plain["queries_a_window"]
    assert plain["far_queries_a_window"] == 0 < full["far_queries_a_window"]
    assert queries(built, {}, "plain", 4, {}, 128)["queries_a_window"] == 0


def test_what_is_read_again_counts_once(tokenizer, tmp_path):
    """Plain reads the first window of each document for ever; free content all of it in time."""
    texts = [retrieval_documents.training_document("lines", np.random.default_rng(k), 700).text
             for k in range(3)]  # fmt: skip
    documents = [{"split": "train", "source": "generated", "name": f"lines {k}", "kind": "lines",
                  "text": text} for k, text in enumerate(texts)]  # fmt: skip
    built = corpus.build(tmp_path / "c", documents, tokenizer, 128, {}, progress=False)
    total = int(np.sum(built.split("train").num_tokens))

    def read(method: str, windows: int, **options: str) -> float:
        return data_report.text_read(built, method, 4, options, 128, windows)

    assert read("plain", 2) == pytest.approx(2 * 128 / total, abs=1e-4)
    assert read("plain", 3) == read("plain", 30) == pytest.approx(3 * 128 / total, abs=1e-4)
    assert read("full", 4) == pytest.approx(512 / total, abs=1e-4)
    assert read("cream", 400) < read("cream", 400, content="free") > 0.99


def test_variants_a_fifth_off_are_flagged():
    """More or fewer; none where nobody can answer anything."""
    rows = {"cream": 2.0, "pose": 2.3, "plain": 2.5, "full": 1.5, "cream, scale 64": 1.0,
            "pose, scale 64": 1.1}  # fmt: skip
    table = {name: {"queries_a_window": each} for name, each in rows.items()}
    assert data_report.flagged(table) == ["plain", "full"]
    assert data_report.flagged({name: {"queries_a_window": 0.0} for name in rows}) == []


def test_words_of_the_evaluation_in_training_are_refused(tokenizer, tmp_path):
    """A value of its split, wherever it stands."""
    good = retrieval_documents.training_document("lines", np.random.default_rng(0), 200)
    assert check_words([good], [])["training"] > 10
    odd = Document("", (Record(0, 0, good.records[0].key, "10003"),), (Query(0, 0, 0, 0),))
    with pytest.raises(ValueError, match=r"evaluation's split, \['10003'\]"):
        check_words([good, odd], [])


def test_corpora_that_are_not_there_are_named_with_the_command_that_makes_them(
    tmp_path, monkeypatch, capsys
):
    """Before a tokenizer is read, and nothing is written."""
    words = ["x", "--corpora", str(tmp_path / "no"), "--out", str(tmp_path / "out.json")]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit):
        data_report.main()
    said = capsys.readouterr().err
    assert str(tmp_path / "no/text") in said and "cream.study prepare" in said
    assert not (tmp_path / "out.json").exists()
