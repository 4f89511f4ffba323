"""Checkpoints with sharper attention: larger logits, stock readers, and what is refused."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import tiny_models
import torch
from tiny_models import WINDOW
from transformers import AutoModelForCausalLM, Gemma3TextConfig

from cream import models, rope
from cream.models import sharper as module
from cream.models.sharper import sharper
from cream.rope.base import FULL, SLIDING
from cream.study.scoring import sharpened

# Those that turn whole heads.
FAMILIES = ["gemma", "llama", "mistral", pytest.param("mixtral", marks=pytest.mark.slow), "qwen2",
            "qwen3"]  # fmt: skip


def _saved(family: str, name: str, folder: Path) -> Path:
    config = models.extend(tiny_models.config(family), rope.scaling(name, 8))
    return models.save(models.create(config, 0), tiny_models.tokenizer(), folder)


@torch.no_grad()
def _logits(model) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(2, tiny_models.VOCABULARY, (1, 5 * WINDOW), generator=generator)
    return model(tokens, use_cache=False).logits


@pytest.fixture
def plain(tmp_path) -> Path:
    """A tiny Llama by YaRN whose config writes no attention factor."""
    return _saved("llama", "yarn-original", tmp_path / "plain")


@pytest.mark.thinned
@pytest.mark.parametrize("name", ["yarn", "yarn-original"])
@pytest.mark.parametrize("family", FAMILIES)
def test_it_answers_as_the_study_asked(family, name, tmp_path):
    """Stock transformers and ours give the logits of `sharpened`, beyond N; the hash is new."""
    source = _saved(family, name, tmp_path / "source")
    target = sharper(source, tmp_path / "target", 1.2)
    model = models.load(source, device="cpu")
    with sharpened(model, 1.2):
        wanted = _logits(model)
    assert (wanted - _logits(model)).abs().max() > 1e-3
    stock = AutoModelForCausalLM.from_pretrained(target).eval()
    for found in (models.load(target, device="cpu"), stock):
        torch.testing.assert_close(_logits(found), wanted, atol=1e-5, rtol=1e-5)
    assert models.weights_hash(target) != models.weights_hash(source)


def test_of_a_rope_a_layer_type_only_full_attention_is_sharper(tmp_path):
    """Against each layer's own scale of its logits."""
    special = {"num_key_value_heads": 1, "head_dim": 24, "sliding_window": 32}
    config = Gemma3TextConfig(**{**tiny_models.SHAPE, **special}, layer_types=[SLIDING, FULL])
    model = models.create(models.extend(config, rope.scaling("yarn", 8)), 0)
    source = models.save(model, tiny_models.tokenizer(), tmp_path / "source")
    target = models.load(sharper(source, tmp_path / "target", 1.2), device="cpu")
    plain = _logits(model)
    model.model.layers[1].self_attn.scaling *= 1.2
    torch.testing.assert_close(_logits(target), _logits(model), atol=1e-5, rtol=1e-5)
    assert (_logits(model) - plain).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["yarn", "yarn-original"])
def test_attention_before_the_softmax_is_larger_by_the_factor(name, tmp_path):
    """Queries times keys, computed here from what the layers and the rotation give."""
    source = _saved("llama", name, tmp_path / "source")
    target = sharper(sharper(source, tmp_path / "once", 1.2), tmp_path / "twice", 1.5)
    one, other = (models.load(place, device="cpu") for place in (source, target))
    torch.testing.assert_close(_products(other), 1.8 * _products(one), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def _products(model) -> torch.Tensor:
    """q . k of the first layer's first head at 40 positions, turned by pairs of halves."""
    hidden = torch.randn(1, 40, model.config.hidden_size, generator=torch.manual_seed(0))
    cos, sin = model.model.rotary_emb(hidden, torch.arange(0, 400, 10)[None])
    layer, half = model.model.layers[0].self_attn, cos.shape[-1] // 2

    def turned(heads: torch.Tensor) -> torch.Tensor:
        first = heads[..., : 2 * half]
        other = torch.cat([-first[..., half:], first[..., :half]], -1)
        return first * cos + other * sin

    return turned(layer.q_proj(hidden)) @ turned(layer.k_proj(hidden)).transpose(1, 2)


@pytest.mark.parametrize("name", ["yarn", "yarn-original", "cope"])
def test_both_key_styles_carry_it(name, tmp_path):
    """transformers 4 reads rope_scaling, 5 rope_parameters; nothing else of the config changes."""
    source = _saved("llama", name, tmp_path / "source")
    target = sharper(source, tmp_path / "target", 1.2)
    before, after = (json.loads((place / "config.json").read_text()) for place in (source, target))
    own = rope.scaling(name, 8).attention_factor(WINDOW)
    for key in ("rope_parameters", "rope_scaling"):
        assert after[key].pop("attention_factor") == pytest.approx(own * 1.2**0.5, rel=1e-12)
        before[key].pop("attention_factor", None)
    assert after.pop("cream") == {**before.pop("cream"), "sharper": 1.2}
    assert after == before


def test_weights_are_linked_and_the_rest_is_there(plain, tmp_path, monkeypatch):
    """Or copied, where the disk has no links; the source is not touched."""
    (plain / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n")
    kept = {file.name: file.read_bytes() for file in plain.iterdir()}
    linked = sharper(plain, tmp_path / "linked", 1.2)
    weights = "model.safetensors"
    assert os.path.samefile(plain / weights, linked / weights)
    for file in plain.iterdir():  # what is edited in the copy leaves the source
        assert file.name == weights or not os.path.samefile(file, linked / file.name)

    def none(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", none)
    copied = sharper(plain, tmp_path / "copied", 1.2)
    assert not os.path.samefile(plain / weights, copied / weights)
    for place in (linked, copied):
        there = {file.name: file.read_bytes() for file in place.iterdir()}
        assert there.keys() == kept.keys()
        changed = {name for name in kept if there[name] != kept[name]}
        assert changed == {"config.json", "README.md"}
        text = there["README.md"].decode()
        assert text.startswith("---\nlicense: mit\n---\n# Mine\n") and "by 1.2: the" in text
    assert {file.name: file.read_bytes() for file in plain.iterdir()} == kept


def test_a_run_is_taken_by_its_name(plain, tmp_path):
    """Its model/ is copied; without one it is not finished."""
    run = tmp_path / "runs" / "pose"
    run.mkdir(parents=True)
    (run / "config.json").write_text('{"method": "pose"}')
    with pytest.raises(FileNotFoundError, match="has no model/: the run is not finished"):
        sharper(run, tmp_path / "out", 1.2)
    shutil.copytree(plain, run / "model")
    module.main([str(run), str(tmp_path / "out"), "--factor", "1.2"])
    assert models.describe(models.load_config(tmp_path / "out"))["sharper"] == 1.2
    assert "those of `pose`" in (tmp_path / "out" / "README.md").read_text()


def test_what_cannot_be_written_is_refused_before_anything_is(plain, tmp_path, capsys):
    """A folder that is there, none, an export, a wrong factor, a RoPE without a factor."""
    linear = _saved("llama", "linear", tmp_path / "linear")
    shutil.copytree(plain, tmp_path / "export")
    (tmp_path / "export" / "cream.json").write_text("{}")
    listed = sorted(tmp_path.iterdir())
    out = tmp_path / "out"
    with pytest.raises(FileExistsError, match="linear is there already: choose a new folder"):
        sharper(plain, linear, 1.2)
    with pytest.raises(FileNotFoundError, match="typo: there is no such folder"):
        sharper(tmp_path / "typo", out, 1.2)
    with pytest.raises(ValueError, match="is an export.*cream.export RUN OUT --sharper"):
        sharper(tmp_path / "export", out, 1.2)
    with pytest.raises(ValueError, match="factor is 0; it must be a finite number, larger than 0"):
        sharper(plain, out, 0)
    with pytest.raises(SystemExit) as stopped:
        module.main([str(linear), str(out), "--factor", "1.2"])
    assert stopped.value.code == 1 and "is of type 'linear'" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == listed


def test_a_failure_on_the_way_leaves_nothing(plain, tmp_path, monkeypatch):
    """A full disk; a config that would be read back otherwise."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module.checkpoints, "save_config", full)
        with pytest.raises(OSError, match="was not written, nothing is left behind: .*No space"):
            sharper(plain, tmp_path / "out", 1.2)
    with monkeypatch.context() as patch:
        patch.setattr(module.checkpoints, "save_config",
                      lambda config, place: shutil.copy(plain / "config.json", place))  # fmt: skip
        with pytest.raises(RuntimeError, match="reads back with another RoPE"):
            sharper(plain, tmp_path / "out", 1.2)
    assert list(tmp_path.iterdir()) == [plain]


def test_a_family_that_does_not_take_it_is_refused(plain, tmp_path, monkeypatch):
    """Seen in a model built without weights."""
    monkeypatch.setattr(module, "sharpen", lambda config, factor: _told(config))
    with pytest.raises(ValueError, match="llama model does not take the attention factor 9"):
        sharper(plain, tmp_path / "out", 1.2)
    monkeypatch.setattr(module.AutoModelForCausalLM, "from_config", lambda c: torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match="does not take the attention factor"):
        sharper(plain, tmp_path / "out", 1.2)
    assert list(tmp_path.iterdir()) == [plain]


def _told(config):
    """A config whose RoPE has a factor that its type does not read."""
    config.rope_parameters = {"rope_type": "default", "rope_theta": 1e4, "attention_factor": 9.0}
    return config
