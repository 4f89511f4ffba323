"""Corpora: stored tokens are the tokenizer's; nothing short, foreign or half-written stays."""

import errno
import json
import os
import pickle
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cream.data.corpus import Corpus, build, open_corpus, tokenizer_hash

WINDOW = 64


def documents(haystack: str, number: int = 12) -> list[dict[str, Any]]:
    splits = ["train"] * (number - 2) + ["validation", "test"]
    return [
        {"split": split, "source": f"source {place % 3}", "name": f"text {place}", "kind": "text",
         "text": haystack[place * 3000 : place * 3000 + 200 + 400 * place]}
        for place, split in enumerate(splits)
    ]  # fmt: skip


def make(out: Path, haystack: str, tokenizer: Any, **changes: Any) -> Corpus:
    settings = {"window": WINDOW, "recipe": {"from": "test"}, "progress": False} | changes
    return build(out, documents(haystack), tokenizer, **settings)


def test_stored_tokens_are_the_tokenizers(tmp_path, haystack, tiny_tokenizer) -> None:
    corpus = make(tmp_path / "corpus", haystack, tiny_tokenizer)
    expected = {
        each["name"]: tiny_tokenizer(each["text"])["input_ids"] for each in documents(haystack)
    }
    seen = {}
    for split in corpus.splits:
        opened = corpus.split(split)
        for place, name in enumerate(opened.column("name")):
            tokens = opened.tokens(place)
            seen[name] = tokens.tolist()
            assert tokens.dtype == np.uint16 and len(tokens) == opened.num_tokens[place]
    assert seen == {name: ids for name, ids in expected.items() if len(ids) >= WINDOW}


def test_manifest_counts_kept_and_dropped(tmp_path, haystack, tiny_tokenizer) -> None:
    corpus = make(tmp_path / "corpus", haystack, tiny_tokenizer, window=512)
    lengths = [len(tiny_tokenizer(each["text"])["input_ids"]) for each in documents(haystack)]
    kept = sum(length >= 512 for length in lengths)
    assert 0 < kept < len(lengths)
    counts = corpus.counts().to_dict("records")
    assert sum(row["documents"] for row in counts) == kept == len(corpus.table())
    assert (
        sum(row["dropped"] for row in counts) == len(lengths) - kept == corpus.manifest["dropped"]
    )
    assert sum(row["tokens"] for row in counts) == sum(x for x in lengths if x >= 512)
    assert sum(row["dropped_tokens"] for row in counts) == sum(x for x in lengths if x < 512)
    assert all(len(corpus.split(s)) == n["documents"] for s, n in corpus.manifest["splits"].items())
    assert "once a document" in corpus.manifest["bos_policy"]


@pytest.mark.parametrize("bos", [True, False])
def test_bos_stands_once_at_the_start_or_nowhere(tmp_path, tiny_tokenizer, bos) -> None:
    spelt = "Strike it out with <s> and </s>, the tags say. " * 40
    given = [{"split": "train", "source": "x", "name": "x", "kind": "text", "text": spelt}]
    corpus = build(tmp_path / "c", given, tiny_tokenizer, WINDOW, {}, bos=bos, progress=False)
    tokens = corpus.split("train").tokens(0)
    assert (tokens == tiny_tokenizer.bos_token_id).nonzero()[0].tolist() == ([0] if bos else [])
    assert tiny_tokenizer.eos_token_id not in tokens
    assert tiny_tokenizer.decode(tokens[bos:]) == spelt


def test_pieces_cover_the_text_in_order_and_reach_their_length(
    tmp_path, haystack, tiny_tokenizer
) -> None:
    text = haystack[:30_000]
    given = [
        {"split": split, "source": split, "name": "long", "kind": kind, "text": text}
        for split, kind in (("train", "text"), ("train", "lines"), ("test", "text"))
    ]
    corpus = build(
        tmp_path / "c", given, tiny_tokenizer, WINDOW, {}, piece_tokens=200, progress=False
    )
    train, whole = corpus.split("train"), tiny_tokenizer(text)["input_ids"]
    cut = [train.tokens(i) for i, kind in enumerate(train.column("kind")) if kind == "text"]
    assert all(200 <= len(each) < 400 and each[0] == tiny_tokenizer.bos_token_id for each in cut)
    assert np.concatenate([each[1:] for each in cut]).tolist() == whole[1:]
    assert train.tokens(len(train) - 1).tolist() == whole == corpus.split("test").tokens(0).tolist()


def test_given_ids_are_kept_and_foreign_ones_refused(tmp_path, tiny_tokenizer) -> None:
    ids = np.arange(100) + 5
    given = {"split": "train", "source": "x", "name": "row 0", "kind": "text", "input_ids": ids}
    corpus = build(tmp_path / "c", [given], tiny_tokenizer, WINDOW, {}, progress=False)
    assert corpus.split("train").tokens(0).tolist() == ids.tolist()
    foreign = [{**given, "input_ids": ids + 560}]
    with pytest.raises(ValueError, match="token id 664 .* 600 entries.*another tokenizer"):
        build(tmp_path / "d", foreign, tiny_tokenizer, WINDOW, {}, progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_reading_a_long_document_is_a_view_and_takes_microseconds(tmp_path, tiny_tokenizer) -> None:
    given = (
        {"split": "train", "source": "x", "name": str(i), "kind": "text",
         "input_ids": np.full(30_000, 7 + i % 500)}
        for i in range(300)
    )  # fmt: skip
    train = build(tmp_path / "c", given, tiny_tokenizer, 512, {}, progress=False).split("train")
    assert not train.tokens(3).flags.owndata and not train.tokens(3).flags.writeable
    assert [int(train.tokens(i)[-1]) for i in (0, 131, 299)] == [7, 138, 306]
    began = time.perf_counter()
    for index in range(300):
        train.tokens(index)
    assert (time.perf_counter() - began) / 300 < 50e-6
    again = pickle.loads(pickle.dumps(train))
    assert np.array_equal(again.tokens(299), train.tokens(299))
    with pytest.raises(IndexError, match="300"):
        train.tokens(300)


def test_the_same_recipe_is_not_built_twice(tmp_path, haystack, tiny_tokenizer) -> None:
    make(tmp_path / "c", haystack, tiny_tokenizer)

    def unread() -> Iterator[dict[str, Any]]:
        raise AssertionError("documents were read again")
        yield {}

    build(tmp_path / "c", unread(), tiny_tokenizer, WINDOW, {"from": "test"}, progress=False)
    with pytest.raises(ValueError, match="another recipe.*overwrite"):
        make(tmp_path / "c", haystack, tiny_tokenizer, recipe={"from": "elsewhere"})
    changed = make(tmp_path / "c", haystack, tiny_tokenizer, window=512, overwrite=True)
    assert changed.manifest["window"] == 512


def test_the_same_documents_give_the_same_tokens(tmp_path, haystack, tiny_tokenizer) -> None:
    one, two = (make(tmp_path / n, haystack, tiny_tokenizer).manifest for n in ("a", "b"))
    assert one["splits"] == two["splits"] and one["recipe_hash"] == two["recipe_hash"]


def test_nothing_is_left_when_no_document_is_long_enough(
    tmp_path, haystack, tiny_tokenizer
) -> None:
    with pytest.raises(ValueError, match=r"12 were read.*window of 50000"):
        make(tmp_path / "c", haystack, tiny_tokenizer, window=50_000)
    with pytest.raises(ValueError, match="no document is left: 0 were read"):
        build(tmp_path / "c", [], tiny_tokenizer, WINDOW, {}, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_a_file_size_limit_is_not_a_full_disk(tmp_path, haystack, tiny_tokenizer) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OSError, match=r"\(4,096 bytes by ulimit -f\): .*c could not be"):
            make(tmp_path / "c", haystack, tiny_tokenizer)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "says"), [(errno.ENOSPC, "the disk is full: "), (errno.EDQUOT, "your quota")]
)
def test_a_full_disk_leaves_nothing_and_says_so(
    tmp_path, haystack, tiny_tokenizer, monkeypatch, number, says
) -> None:
    def full(*_: object) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr("cream.data.writer._Split.flush", full)
    with pytest.raises(OSError, match=says + r".*c could not be written") as found:
        make(tmp_path / "c", haystack, tiny_tokenizer)
    assert found.value.errno == number and list(tmp_path.iterdir()) == []


def test_leftovers_of_a_killed_build_are_swept(tmp_path, haystack, tiny_tokenizer) -> None:
    dead, alive = tmp_path / ".c.building-999999999", tmp_path / f".c.building-{os.getppid()}"
    dead.mkdir()
    alive.mkdir()
    make(tmp_path / "c", haystack, tiny_tokenizer)
    assert alive.exists() and not dead.exists()


def test_foreign_folders_and_settings_are_refused(tmp_path, haystack, tiny_tokenizer) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("precious")
    with pytest.raises(ValueError, match="holds files that are no corpus"):
        make(tmp_path / "thesis", haystack, tiny_tokenizer, overwrite=True)
    with pytest.raises(ValueError, match="piece_tokens 10 is below the window 64"):
        make(tmp_path / "c", haystack, tiny_tokenizer, piece_tokens=10)
    with pytest.raises(FileNotFoundError, match="01_data"):
        open_corpus(tmp_path / "thesis")
    bad = [{**documents(haystack)[0], "split": "dev"}]
    with pytest.raises(ValueError, match="split 'dev' is unknown"):
        build(tmp_path / "c", bad, tiny_tokenizer, WINDOW, {}, progress=False)


def test_opening_notices_damage_and_another_tokenizer(tmp_path, haystack, tiny_tokenizer) -> None:
    path = make(tmp_path / "c", haystack, tiny_tokenizer).path
    open_corpus(path, tiny_tokenizer)
    other = pickle.loads(pickle.dumps(tiny_tokenizer))
    other.add_tokens(["unheard-of"])
    with pytest.raises(ValueError, match=r"600 entries.*601 entries"):
        open_corpus(path, other)
    manifest = json.loads((path / "manifest.json").read_text())
    for damage, error in (
        ({"format": 99}, "format 99"),
        ({"splits": {"train": {"documents": 3}}}, "manifest says 3"),
    ):
        (path / "manifest.json").write_text(json.dumps(manifest | damage))
        with pytest.raises(ValueError, match=error):
            open_corpus(path)
    (path / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        open_corpus(path)
    with pytest.raises(ValueError, match="no split 'dev'"):
        Corpus(path, manifest).split("dev")


def test_large_vocabularies_are_stored_wide(tmp_path, haystack, tiny_tokenizer) -> None:
    wide = pickle.loads(pickle.dumps(tiny_tokenizer))
    wide.add_tokens([f"word{i}x" for i in range(65_000)])
    assert len(wide) >= 65_536 and tokenizer_hash(wide) != tokenizer_hash(tiny_tokenizer)
    ids = np.arange(65_500, 65_600)
    given = {"split": "train", "source": "x", "name": "x", "kind": "text", "input_ids": ids}
    tokens = build(tmp_path / "c", [given], wide, WINDOW, {}, progress=False).split("train").tokens
    assert tokens(0).dtype == np.int32 and tokens(0).tolist() == ids.tolist()
