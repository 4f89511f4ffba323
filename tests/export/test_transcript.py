"""The transcripts of families: true configs, commands that exist, one family run end to end."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import families
import pytest

from cream import models, notebook, presets
from cream.export import transcript
from cream.rope.base import own_window, parameters_of

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "notebooks" / "families_transcripts.md"
each_family = pytest.mark.parametrize("family", transcript.FAMILIES, ids=lambda one: one.slug)


def _numbers_out(text: str) -> str:
    """Differences of logits are rounding, which machines have of their own."""
    return re.sub(r"\d\.\de[+-]\d+", "#", text)


@each_family
def test_a_stand_in_has_the_published_rope(family):
    """The same as in the table of families, where that has the base."""
    config = family.make()
    known = {one.stands_for: one for one in families.FAMILIES}
    if family.hub in known:
        other = known[family.hub].make()
        assert parameters_of(config) == parameters_of(other)
        assert own_window(config) == own_window(other)
    assert own_window(config) * transcript.SCALE % transcript.TOKENS == 0


def test_the_five_families_are_there():
    names = " ".join(one.hub.lower() for one in transcript.FAMILIES)
    assert all(one in names for one in ("llama-3", "qwen2.5", "qwen3", "mistral", "gemma-3", "phi"))


@each_family
def test_the_committed_file_has_the_commands_of_today(family):
    """Of the true weights and of the stand-in; what was not run is said."""
    section = FILE.read_text().split(f"## {family.name}: {family.hub}\n")[1].split("\n## ")[0]
    for command in transcript.on_stand_in(family, transcript.PLACE):
        assert f"\n$ {command}\n" in section
    true = "\n".join(transcript._true(family))
    assert f"(**not run**):\n\n```\n{true}\n```" in section
    assert "transformers 5.23.0 against cream, float32" in section


@each_family
def test_true_commands_can_be_read(family):
    """Notebook parameters and fields of a run that exist; the length served is s N."""
    data, write, *_, served = map(shlex.split, transcript._true(family))
    assert set(data[3::3]) == {"-p"}
    assert set(data[4::3]) <= set(notebook.declared(ROOT / data[1]))
    fields = dict(one.split("=") for one in write[5:] if "=" in one)
    config = presets.get("llama2-7b", base=fields["base"], train_window=int(fields["train_window"]))
    assert config.train.train_window == transcript.TOKENS and set(fields) <= set(vars(config.train))
    assert int(served[-1]) == transcript.SCALE * own_window(family.make())


@pytest.mark.slow
@pytest.mark.usefixtures("warm_children")
def test_one_family_run_gives_the_committed_section(tmp_path, monkeypatch):
    """From the stand-in to the check of its export; llama.cpp's lines are not asked here."""
    monkeypatch.chdir(ROOT)
    (family,) = [one for one in transcript.FAMILIES if one.name == "Llama 3.1"]
    text = transcript.transcript([family], str(tmp_path / "place"))
    title = f"## {family.name}: {family.hub}\n"
    ours, theirs = (
        _numbers_out(one.split(title)[1].split("\n## ")[0].split("\n# llama.cpp: ")[0]
                     .split("\n$ python -m cream.export gguf")[0].strip())
        for one in (text, FILE.read_text())
    )  # fmt: skip
    assert ours == theirs
    export = tmp_path / "place" / family.slug / "export"
    about = models.describe(models.load_config(export))
    assert (about["window"], about["target_length"]) == (131_072, 262_144)
    assert "| tokens an example | 8,192 |" in (export / "README.md").read_text()


def test_a_command_that_fails_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(RuntimeError, match="(?s)cream.training .*nowhere: .*config.json"):
        transcript._printed_by(f"python -m cream.training {tmp_path / 'nowhere'}")
    with pytest.raises(SystemExit):
        transcript.main(["x.md", "--llama-cpp", "tree", "--unknown"])
