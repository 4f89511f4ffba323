"""A file is there as a whole or as it was."""

from __future__ import annotations

import pytest

from cream.utils.files import atomic_path, atomic_write


@pytest.mark.parametrize("content", ["one\ntwo \u00e9\n", b"\x00\xff"])
def test_a_file_is_written_whole_into_a_new_folder(tmp_path, content):
    atomic_write(tmp_path / "new" / "file", content)
    found = (tmp_path / "new" / "file").read_bytes()
    assert found == (content.encode() if isinstance(content, str) else content)
    assert [one.name for one in (tmp_path / "new").iterdir()] == ["file"]


def test_after_an_error_the_file_is_as_it_was_and_nothing_is_left(tmp_path):
    atomic_write(tmp_path / "file", "before")
    with pytest.raises(RuntimeError, match="no such luck"), atomic_path(tmp_path / "file") as part:
        part.write_text("half")
        raise RuntimeError("no such luck")
    assert (tmp_path / "file").read_text() == "before"
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]
