"""The small multiple-choice task: what it asks, and that it is the same for everyone."""

import json

import pytest

from cream.data import corpus
from cream.evaluation.harness_task import from_corpus, make_task


@pytest.fixture(scope="module")
def texts(haystack):
    return [haystack[i : i + 4000] for i in range(0, 40_000, 4000)]


def test_the_task_asks_for_the_passage_that_follows(tmp_path, texts):
    task = make_task(tmp_path, texts, samples=6)
    lines = (task.parent / "test.jsonl").read_text().splitlines()
    flat = [" ".join(text.split()) for text in texts]
    rows = [json.loads(line) for line in lines]
    for row in rows:
        right = [e for e in row["endings"] if any(f"{row['context']} {e}" in t for t in flat)]
        assert right == [row["endings"][row["answer"]]] and len(row["endings"]) == 4
    assert len(rows) == 6 and len({row["answer"] for row in rows}) > 1


def test_the_task_is_the_same_for_a_seed(tmp_path, texts):
    one, same, other = (
        make_task(tmp_path / str(i), texts, 6, seed).parent / "test.jsonl"
        for i, seed in enumerate((1, 1, 2))
    )
    assert one.read_bytes() == same.read_bytes() != other.read_bytes()
    with pytest.raises(ValueError, match="3 texts have 200 words"):
        make_task(tmp_path / "few", [" ".join(texts[0].split()[:390])] * 3 + ["short"])
    long = " ".join(text for text in texts for _ in range(3))
    assert make_task(tmp_path / "one", [long], 6).is_file()
    with pytest.raises(ValueError, match="few passages of 520 characters"):
        make_task(tmp_path / "long", ["antidisestablishmentarianism " * 300] * 4)


def test_a_corpus_gives_its_held_out_texts(tmp_path, tiny_tokenizer, texts):
    """Not its training texts, and no generated records."""
    documents = [
        {"split": split, "source": "tests", "name": f"d{i}", "kind": kind,
         "input_ids": tiny_tokenizer(texts[i])["input_ids"]}
        for i, (split, kind) in enumerate([("test", "text"), ("train", "text"), ("test", "lines")])
    ]  # fmt: skip
    corpus.build(tmp_path / "c", documents, tiny_tokenizer, 64, {"of": "tests"}, progress=False)
    assert from_corpus(corpus.open_corpus(tmp_path / "c"), tiny_tokenizer) == [texts[0]]
