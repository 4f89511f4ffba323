"""Text extraction: words survive, mark-up goes, chapters stand in the manual's order."""

import io
import tarfile
from pathlib import Path

import pytest

from cream.data import distributions, manuals
from cream.utils.downloads import fetch_file

RST = """\
.. Licensed under terms
   that nobody reads here.

.. _target:

=================
A Long\x00 Heading
=================
See :ref:`the guide <guide>`, :class:`~pkg.mod.Thing`, and `a link <https://x.y/z>`_.\r
Use ``code`` with care.

.. toctree::
   :maxdepth: 1

   hidden

.. note::

   Notes are prose.



After blank lines.
"""


def test_cleaning_keeps_words_and_drops_the_rest() -> None:
    text = manuals.clean(RST)
    for kept in ("A Long Heading\n====\n", "See the guide, Thing, and a link.", "Use `code` with",
                 "Notes are prose.", "After blank lines."):  # fmt: skip
        assert kept in text
    for gone in ("Licensed", "nobody", "target", "toctree", "hidden", "\x00", "\r", "\n\n\n"):
        assert gone not in text


def test_chapters_follow_the_tables_of_contents() -> None:
    files = {
        "doc/index.rst": ".. toctree::\n   :maxdepth: 2\n\n   Start <zebra>\n   part/index\n",
        "doc/zebra.rst": "",
        "doc/apple.rst": "",
        "doc/part/index.rst": ".. toctree::\n\n   two\n   /doc/part/one\n",
        "doc/part/one.rst": "",
        "doc/part/two.rst": "",
    }
    assert manuals.manual_order(files) == [
        "doc/index.rst", "doc/zebra.rst", "doc/part/index.rst", "doc/part/two.rst",
        "doc/part/one.rst", "doc/apple.rst",
    ]  # fmt: skip


def test_joining_loses_nothing_and_reaches_the_size() -> None:
    chapters = [(f"c{i}", f"<{i}>" + "x" * (i * 37 % 50)) for i in range(40)]
    joined = list(manuals.join(chapters, 100))
    assert "".join(t for _, t in joined).replace("\n", "") == "".join(t for _, t in chapters)
    assert all(len(text) >= 100 for _, text in joined)
    assert list(manuals.join([("only", "short")], 100)) == [("only", "short\n")]
    assert list(manuals.join([], 100)) == []


def test_docstrings_are_read_in_order_and_dedented() -> None:
    words = "Words that say what it does, at some length, so that it is kept as a paragraph here."
    source = f'"""{words}"""\nclass B:\n    """{words}\n\n    More.\n      Deeper.\n    """\n'
    source += (
        f'    def _no(self):\n        """{words}"""\n    def yes(self):\n        """{words}"""\n'
    )
    text = manuals.docstrings(source)
    assert text == f"{words}\n\nB\n\n{words}\n\nMore.\n  Deeper.\n\nyes\n\n{words}"
    assert manuals.docstrings("print 'python 2'") == ""


def _archive(path: Path, files: dict[str, str]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(f"pkg-1.0/{name}")
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return path


def test_a_manual_is_read_from_an_archive(tmp_path) -> None:
    body = "Some honest sentence that fills the page. " * 20
    files = {
        "docs/index.rst": "Top\n===\n" + body,
        "docs/guide.txt": "Guide " + body * 5,
        "docs/book/a.rst": "First " + body,
        "docs/book/b.rst": "Second " + body,
        "docs/releases/1.txt": "Old " + body * 9,
        "docs/releases/2.txt": "New " + body,
        "docs/notes/skip.rst": "Skipped " + body,
        "docs/data.bin": "binary",
        "src/m.py": '"""' + body + '"""',
        "src/tests/t.py": '"""Test ' + body + '"""',
    }
    archive = _archive(tmp_path / "pkg.tar.gz", files)
    read = manuals.read_manual(archive, ["docs"], ["src"], ["docs/book"], ["docs/notes"], 1000)
    names = [name for name, _ in read]
    assert names == ["docs/book/a.rst +1", "docs/index.rst +1", "src/m.py", "docs/releases/2.txt"]
    assert "First" in read[0][1] and "Second" in read[0][1]
    everything = "".join(text for _, text in read)
    assert not any(word in everything for word in ("Skipped", "Old", "Test ", "binary"))


def test_pins_are_well_formed_and_no_split_divides_a_distribution() -> None:
    names = [each.name for each in distributions.DISTRIBUTIONS]
    assert len(set(names)) == len(names)
    assert {each.split for each in distributions.distributions("reproduce")} == set(
        distributions.SPLITS
    )
    assert set(distributions.distributions("reproduce")) < set(
        distributions.distributions("pretrain")
    )
    for each in distributions.DISTRIBUTIONS:
        assert (
            len(each.sha256) == 64
            and each.licence
            and each.roots
            and each.split in distributions.SPLITS
        )
    with pytest.raises(ValueError, match="source tier 'big' is unknown"):
        distributions.distributions("big")


PIN = distributions.Distribution("pkg", "1.0", "0" * 64, "MIT", "train", "reproduce", ("docs",))


def test_an_archive_of_another_hash_is_refused(tmp_path) -> None:
    _archive(tmp_path / "pkg-1.0.tar.gz", {"docs/a.rst": "x"})
    with pytest.raises(ValueError, match=r"has sha256 .* the pin of pkg 1.0 is 0000"):
        fetch_file(PIN.pinned, tmp_path)


@pytest.mark.slow
def test_an_unreachable_registry_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(ConnectionError, match=r"could not fetch pkg==1.0 .*registry reachable"):
        fetch_file(PIN.pinned, tmp_path)
    with pytest.raises(ConnectionError, match=r"fetch celery==(.|\n)*run notebooks/01_data again"):
        list(distributions.documents(tmp_path, names=["celery"], progress=False))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_pinned_distribution_comes_and_reads_as_prose(tmp_path) -> None:
    try:
        found = list(distributions.documents(tmp_path, names=["celery"], progress=False))
    except ConnectionError as error:
        pytest.skip(f"no package registry: {error}")
    assert len(found) >= 15 and {each["split"] for each in found} == {"validation"}
    assert all(len(each["text"]) >= 13_000 for each in found)
