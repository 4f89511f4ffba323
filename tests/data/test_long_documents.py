"""Long documents of made packages: which files, in which order, joined how, kept."""

import hashlib
import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import smollm_shape
from hypothesis import given
from hypothesis import strategies as st

from cream.data import long_documents, mixture
from cream.data.corpus import open_corpus
from cream.data.long_documents import Package, cut_points, documents, read_files
from cream.data.tokenization import adds_bos
from cream.utils.downloads import Pinned

FILES = {
    "b/two.py": "second = 2\n" * 30,
    "a/one.py": "first = 1\n" * 30,
    "a/tests/test_one.py": "assert True\n",
    "doc/guide.rst": "A guide.\n" * 200,
    "doc/changelog.rst": "Changed.\n" * 40,
    "requirements.txt": "numpy\n",
    "a/bad.py": b"\xff\xfe",
}


def archive(folder: Path, name: str, files: dict[str, str | bytes], split: str) -> Package:
    """A source archive in the cache, pinned."""
    folder.mkdir(exist_ok=True)
    place = folder / f"{name}-1.tar.gz"
    with tarfile.open(place, "w:gz") as tar:
        for path, text in files.items():
            data = text.encode() if isinstance(text, str) else text
            member = tarfile.TarInfo(f"{name}-1/{path}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    digest = hashlib.sha256(place.read_bytes()).hexdigest()
    return Package(Pinned(name, "1", place.name, digest), "MIT", split)


def test_files_are_read_by_path_without_tests_changes_and_metadata(tmp_path):
    package = archive(tmp_path, "made", FILES, "train")
    place = tmp_path / package.pinned.file
    assert [path for path, _ in read_files(place, "code")] == ["a/one.py", "b/two.py"]
    assert [path for path, _ in read_files(place, "manual")] == ["doc/guide.rst"]
    assert read_files(place, "code", ("a",))[0] == ("b/two.py", FILES["b/two.py"] + "\n")


def test_a_wheel_is_read_like_an_archive(tmp_path):
    place = tmp_path / "made-1-py3-none-any.whl"
    with zipfile.ZipFile(place, "w") as wheel:
        wheel.writestr("made/x.py", "x = 1")
        wheel.writestr("made-1.dist-info/y.py", "y = 1")
    assert read_files(place, "code") == [("made/x.py", "x = 1\n\n")]


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 60), st.integers(0, 200))
def test_documents_are_all_files_in_order_and_long_enough(sizes, long, more):
    """Or there is none, for want of one document's tokens."""
    ends = np.cumsum(sizes).tolist()
    found = cut_points(ends, long, long + more)
    if sum(sizes) < long:
        assert found == []
        return
    assert [place for one in found for place in range(*one)] == list(range(len(sizes)))
    assert all(sum(sizes[start:stop]) >= long for start, stop in found)


def test_one_in_eight_is_longer():
    found = cut_points(list(range(1, 1001)), 10, 50)
    lengths = [stop - start for start, stop in found]
    assert lengths[:10] == [50] + [10] * 7 + [50, 10] and sum(lengths) == 1000


@pytest.mark.parametrize("bos", [False, True])
def test_tokens_are_those_of_the_joined_files(tmp_path, bos):
    words, packages = smollm_shape.tokenizer(), [archive(tmp_path, "made", FILES, "test")]
    first, second = documents(tmp_path, words, bos, packages, (400, 5000), progress=False)
    text = FILES["a/one.py"] + "\n" + FILES["b/two.py"] + "\n"
    expected = [1] * bos + words(text)["input_ids"]
    assert words.decode(first["input_ids"]) == words.decode(expected)
    assert (first["kind"], second["kind"]) == ("code", "manual")
    assert first["split"] == "test" and first["source"] == "made 1"


def test_what_was_tokenised_is_kept_and_a_torn_file_made_again(tmp_path, monkeypatch):
    words, packages = smollm_shape.tokenizer(), [archive(tmp_path, "made", FILES, "train")]

    def names() -> list[str]:
        found = documents(tmp_path, words, False, packages, (400, 5000), progress=False)
        return [each["name"] for each in found]

    before = names()
    monkeypatch.setattr(long_documents, "read_files", lambda *_: pytest.fail("read again"))
    assert names() == before == ["a/one.py +1", "doc/guide.rst"]
    next(tmp_path.glob("*.npz")).write_bytes(b"torn")
    monkeypatch.undo()
    assert names() == before


def test_the_corpus_follows_the_tokenizer_in_bos_and_says_what_is_shared(tmp_path, monkeypatch):
    """SmolLM2's tokenizer adds none (F26); asked for, it is there, and the manifest says which."""
    cache = tmp_path / "cache"
    packages = (archive(cache, "mine", FILES, "train"), archive(cache, "other", FILES, "test"))
    monkeypatch.setattr(long_documents, "documents", _with(packages))
    words = smollm_shape.tokenizer()
    assert not adds_bos(words)
    for bos, first, said in ((None, False, "none prepended, as"), (True, True, "once a document")):
        recipe = mixture.get("long-text", window=64, bos=bos)
        out = tmp_path / f"corpus-{bos}"
        made = mixture.prepare(recipe, words, out, cache, progress=False)
        assert (made.split("train").tokens(0)[0] == 1) == first
        assert said in made.manifest["bos_policy"]
        assert {each["share"] for each in made.manifest["overlap"]} == {1.0}  # a copied package
    assert open_corpus(out, words).split("test").column("kind") == ["code", "manual"]
    sources = json.loads((out / "manifest.json").read_text())["sources"]
    licences = {each["licence"] for each in sources}
    assert "" not in licences and len(licences) > 2


def _with(packages):
    original = documents

    def made(cache, tokenizer, bos, progress=True):
        return original(cache, tokenizer, bos, packages, (400, 5000), progress=False)

    return made


def test_no_distribution_is_in_two_splits_and_every_one_is_pinned():
    names = [one.pinned.package for one in long_documents.PACKAGES]
    assert len(set(names)) == len(names)
    assert all(len(one.pinned.sha256) == 64 and one.licence for one in long_documents.PACKAGES)
    assert {one.split for one in long_documents.PACKAGES} == {"train", "validation", "test"}
