"""Texts for perplexity: the paper's sets through the hub's door, files, and who is too short."""

import json
from types import SimpleNamespace

import datasets
import numpy as np
import pytest

from cream.data import corpus, readers
from cream.data.tokenizer import train_tokenizer
from cream.tasks import perplexity_texts
from cream.tasks.perplexity_texts import PAPER, choose, of_corpus, of_source

SIZES = (300, 12_000, 5_000, 14_000, 20_000)


@pytest.fixture(scope="module")
def texts(haystack) -> list[str]:
    return [haystack[:size] for size in SIZES]


@pytest.fixture
def hub(tmp_path, texts, monkeypatch):
    """The paper's three sets, of our text in their schema: what the hub would be asked for."""
    asked = []
    for name, known in PAPER.items():
        rows = datasets.Dataset.from_dict(
            {"id": [f"{name} {k}" for k in range(len(texts))], known.field: texts}
        )
        datasets.DatasetDict({"test": rows}).save_to_disk(str(tmp_path / known.hub))

    def builder(place: str, revision: str | None = None) -> SimpleNamespace:
        asked.append((place, revision))
        found = datasets.load_from_disk(str(tmp_path / place))
        done = {"download_and_prepare": lambda: None, "as_dataset": lambda: found}
        return SimpleNamespace(hash="0" * 40, **done)

    monkeypatch.setattr(readers.datasets, "load_dataset_builder", builder)
    return asked


def test_the_papers_sets_are_those_of_the_protocol():
    """5.5: 50 documents of 32,768 tokens; 5.6: 20 of 262,144, to the longest length in each."""
    assert {name: (each.field, each.documents) for name, each in PAPER.items()} == {
        "gov_report": ("text", 50), "proof-pile": ("input", 50), "pg19": ("text", 20),
    }  # fmt: skip
    assert PAPER["pg19"].lengths == (65536, 98304, 131072, 196608, 262144)
    for each in PAPER.values():
        assert each.hub.startswith("victor-wu/") and each.min_tokens == max(each.lengths)


@pytest.mark.parametrize("name", PAPER)
def test_a_set_of_the_paper_comes_by_its_name(name, hub, texts, tiny_tokenizer):
    found = of_source(name, tiny_tokenizer, revision="abc")
    assert hub == [(PAPER[name].hub, "abc")]
    assert found[1:] == (name, PAPER[name].min_tokens, PAPER[name].documents)
    read = list(found.documents)
    assert [called for called, _ in read] == [f"{name}: row {k}" for k in range(len(texts))]
    for (_, ids), text in zip(read, texts, strict=True):
        assert ids.tolist() == tiny_tokenizer(text, add_special_tokens=False)["input_ids"]


def test_the_field_can_be_named(hub, tiny_tokenizer):
    with pytest.raises(ValueError, match="columns id, input: no 'text'; name the right"):
        list(of_source("proof-pile", tiny_tokenizer, field="text").documents)


def test_a_file_of_ones_own_and_one_split_of_it(tmp_path, texts, tiny_tokenizer):
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps({"body": text}) + "\n" for text in texts))
    found = of_source("mine.jsonl", tiny_tokenizer, field="body", root=tmp_path)
    assert (found.corpus, found.min_tokens, found.many) == ("mine.jsonl", 0, None)
    assert [name for name, _ in found.documents][:2] == ["mine.jsonl: line 1", "mine.jsonl: line 2"]
    with pytest.raises(ValueError, match="revision is 'abc', but .*mine.jsonl is a path here"):
        of_source("mine.jsonl", tiny_tokenizer, revision="abc", root=tmp_path)
    with pytest.raises(FileNotFoundError, match="mine.jsonl does not exist"):
        of_source("mine.jsonl", tiny_tokenizer)
    saved = datasets.DatasetDict(
        {split: datasets.Dataset.from_dict({"text": [split * 20]}) for split in ("train", "test")}
    )
    saved.save_to_disk(str(tmp_path / "saved"))
    for split, count in ((None, 2), ("test", 1), ("validation", 0)):
        assert (
            len(list(of_source(str(tmp_path / "saved"), tiny_tokenizer, split=split)[0])) == count
        )


def test_ids_of_an_unnamed_tokenizer_are_refused(tmp_path, tiny_tokenizer):
    datasets.Dataset.from_dict({"input_ids": [[1, 2, 3]]}).save_to_disk(str(tmp_path / "ids"))
    with pytest.raises(ValueError, match="ids holds input_ids of an unnamed tokenizer"):
        list(of_source(str(tmp_path / "ids"), tiny_tokenizer).documents)


def test_a_corpus_of_another_tokenizer_is_refused(tmp_path, texts, tiny_tokenizer):
    made = [{"split": "test", "source": "s", "name": "n", "kind": "text", "text": texts[1]}]
    corpus.build(tmp_path / "made", made, tiny_tokenizer, 64, {}, progress=False)
    assert [name for name, _ in of_corpus(tmp_path / "made", tiny_tokenizer).documents] == ["n"]
    other = train_tokenizer(texts, 300)
    with pytest.raises(ValueError, match="not by the tokenizer given .300 entries."):
        of_corpus(tmp_path / "made", other)


def test_another_split_than_test_is_named_in_its_rows(tmp_path, texts, tiny_tokenizer):
    """Training and test documents are two evaluations."""
    made = [{"split": split, "source": "s", "name": split, "kind": "text", "text": texts[1]}
            for split in ("train", "test")]  # fmt: skip
    corpus.build(tmp_path / "made", made, tiny_tokenizer, 64, {}, progress=False)
    name = corpus.open_corpus(tmp_path / "made", tiny_tokenizer).label
    for split, label in (("test", name), ("train", f"{name}, train split")):
        found = of_corpus(tmp_path / "made", tiny_tokenizer, split)
        assert [name for name, _ in found.documents] == [split] and found.corpus == label
    with pytest.raises(ValueError, match="has no split 'validation'; it has"):
        of_corpus(tmp_path / "made", tiny_tokenizer, "validation")


def test_code_and_manuals_are_texts_and_are_read_in_turn(tmp_path, texts, tiny_tokenizer):
    """As recipe long-text holds them; conversations are read where there is nothing else."""
    made = [{"split": "test", "source": "s", "name": f"{kind}{n}", "kind": kind, "text": texts[n]}
            for kind in ("code", "manual") for n in (0, 1)]  # fmt: skip
    corpus.build(tmp_path / "made", made, tiny_tokenizer, 64, {}, progress=False)
    found = [name for name, _ in of_corpus(tmp_path / "made", tiny_tokenizer).documents]
    assert found == ["code0", "manual0", "code1", "manual1"]


# ------------------------------------------------------------------ who is read


def sized(*sizes: int) -> list[tuple[str, np.ndarray]]:
    return [(f"d{size}", np.arange(size)) for size in sizes]


def test_the_first_that_are_long_enough_are_read_and_no_more():
    stream = iter(sized(99, 100, 5, 101, 3000, 7))
    chosen = choose(stream, 100, 2)
    assert [name for name, _ in chosen.documents] == ["d100", "d101"]
    assert chosen.short == [("d99", 99), ("d5", 5)]
    assert str(chosen) == "2 documents of 100 tokens or more; 2 (d99 (99), d5 (5)) passed over " \
        "as too short"  # fmt: skip
    assert next(stream)[0] == "d3000"


def test_fewer_than_asked_for_are_read_and_said():
    chosen = choose(sized(100, 1, 2, 3, 4, 5), 50, 20)
    assert len(chosen.documents) == 1
    assert "1 documents of 50 tokens or more (there are no more; 20 were asked for)" in str(chosen)
    assert "5 (d1 (1), d2 (2), d3 (3) and 2 more) passed over as too short" in str(chosen)
    assert str(choose(sized(9), 9, 1)).endswith("none passed over as too short")


@pytest.mark.parametrize("sizes", [(), (5, 99)])
def test_none_left_is_an_error(sizes):
    message = f"no document has 100 tokens .the longest has {max(sizes, default=0)}.*shorter"
    with pytest.raises(ValueError, match=message):
        choose(sized(*sizes), 100, 2)


def test_names_are_exported():
    assert all(hasattr(perplexity_texts, name) for name in perplexity_texts.__all__)
