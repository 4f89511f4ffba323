"""Checkpoints: stock readers find the same model, failures leave nothing, hashes tell apart."""

from __future__ import annotations

import functools
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_models
import torch
from safetensors.torch import load_file, save_file
from tiny_models import WINDOW
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from cream import models, rope
from cream.models import checkpoints

FAMILIES = sorted(tiny_models.FAMILIES)
SHIPPED = Path(__file__).resolve().parents[2] / "data" / "miniature"


@torch.no_grad()
def _logits(model) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(2, tiny_models.VOCABULARY, (1, 5 * WINDOW), generator=generator)
    return model(tokens, use_cache=False).logits


def _save(model, directory: Path) -> Path:
    return models.save(model, tiny_models.tokenizer(), directory)


@pytest.fixture
def base(tmp_path) -> Path:
    """A saved tiny Llama with tied embeddings."""
    return _save(models.create(tiny_models.config("llama"), 0), tmp_path / "base")


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A tiny model of a family and scaling, and the folder it is saved in; neither is changed."""
    root = tmp_path_factory.mktemp("extended")

    @functools.cache
    def make(family: str, name: str) -> tuple[PreTrainedModel, Path]:
        config = models.extend(tiny_models.config(family), rope.scaling(name, 8))
        model = models.create(config, 0)
        return model, _save(model, root / f"{family}-{name}")

    return make


@pytest.mark.thinned
@pytest.mark.parametrize("name", tiny_models.STOCK_KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_stock_transformers_reads_the_same_model(family, name, extended, tmp_path):
    """No code of ours, positions beyond N, equal to the last bit; the hash survives too."""
    model, folder = extended(family, name)
    stock = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert torch.equal(_logits(stock), _logits(model))
    assert AutoTokenizer.from_pretrained(folder).model_max_length >= WINDOW
    assert stock.config.cream == models.describe(model.config) if name != "none" else True
    again = models.load(folder, device="cpu")
    assert models.weights_hash(again) == models.weights_hash(model) == models.weights_hash(folder)
    stock.save_pretrained(tmp_path / "again")
    assert models.weights_hash(tmp_path / "again") == models.weights_hash(model)


@pytest.mark.thinned
@pytest.mark.parametrize("name", tiny_models.STOCK_KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_both_key_styles_say_the_same(family, name, extended):
    """A reader of transformers 4, which knows no rope_parameters, finds the same rotation."""
    base = tiny_models.config(family)
    theta, dim = base.rope_parameters["rope_theta"], models.rotary_dim(base)
    kind = rope.scaling(name, 8)
    _, folder = extended(family, name)
    content = json.loads((folder / "config.json").read_text())
    assert content["torch_dtype"] == content["dtype"] == "float32"
    new = content.pop("rope_parameters")
    old = content["rope_scaling"] or {"rope_type": "default"}
    assert old["rope_type"] == new["rope_type"]
    got, factor = _as_4x_reads(content)
    np.testing.assert_allclose(got, kind.inv_freq(theta, dim, WINDOW), rtol=1e-12)
    assert factor == pytest.approx(kind.attention_factor(WINDOW))


def _as_4x_reads(content: dict) -> tuple[np.ndarray, float]:
    """Read a config.json as transformers 4.57 does; GPT-NeoX has names of its own there."""
    neox = content["model_type"] == "gpt_neox"
    theta = content["rotary_emb_base" if neox else "rope_theta"]
    part = content.get("rotary_pct" if neox else "partial_rotary_factor", 1.0)
    head = content.get("head_dim") or content["hidden_size"] // content["num_attention_heads"]
    dim = int(head * part)
    plain = 1 / theta ** (np.arange(0, dim, 2) / dim)
    scaling = content["rope_scaling"]
    if scaling is None:
        return plain, 1.0
    if scaling["rope_type"] == "linear":
        return plain / scaling["factor"], 1.0
    if scaling["rope_type"] == "longrope":
        return plain / np.array(scaling["short_factor"]), scaling["attention_factor"]
    window = scaling["original_max_position_embeddings"]
    factor = int(scaling["factor"])
    return tiny_models.reference_rotation("yarn-original", factor, theta, dim, window)


def test_without_the_4x_keys_the_scaling_would_be_lost(base, tmp_path):
    """Why both styles are written: transformers 5 itself writes rope_parameters alone."""
    model = models.load(base, "linear", 8, device="cpu")
    model.save_pretrained(tmp_path / "stock")
    assert "rope_scaling" not in json.loads((tmp_path / "stock" / "config.json").read_text())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_keep_their_dtype(base, tmp_path, dtype):
    model = models.load(base, "yarn", 8, dtype=dtype, device="cpu")
    folder = _save(model, tmp_path / "m")
    assert {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()} == {dtype}
    assert AutoConfig.from_pretrained(folder).dtype == dtype


def test_a_saved_model_decodes_with_a_cache_and_a_long_tokenizer(base, tmp_path):
    model = models.load(base, "yarn", 8, device="cpu")
    model.config.use_cache = False
    tokenizer = models.load_tokenizer(base)
    folder = models.save(model, tokenizer, tmp_path / "m")
    assert AutoConfig.from_pretrained(folder).use_cache
    assert models.load_tokenizer(folder).model_max_length == 8 * WINDOW
    assert tokenizer.model_max_length == WINDOW and not model.config.use_cache


def test_all_files_of_a_checkpoint_may_be_read_by_the_same_people(base, tmp_path):
    """safetensors alone keeps its file to the owner; a server under another name reads none."""
    folder = _save(models.load(base, "yarn", 8, device="cpu"), tmp_path / "m")
    modes = {file.name: file.stat().st_mode & 0o777 for file in folder.iterdir()}
    assert set(modes.values()) == {modes["config.json"]}


def test_weights_that_may_not_be_read_are_not_called_missing(base, tmp_path, monkeypatch):
    folder = _save(models.load(base, "yarn", 8, device="cpu"), tmp_path / "m")
    own = os.access  # for whom runs the tests may read all
    monkeypatch.setattr(os, "access", lambda path, mode: "safetensors" not in str(path)
                        and own(path, mode))  # fmt: skip
    with pytest.raises(PermissionError, match=r"model.safetensors may not be read"):
        models.load(folder)


def test_gathered_weights_can_be_handed_in(base, tmp_path):
    model = models.load(base, device="cpu")
    gathered = {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()}
    folder = models.save(model, tiny_models.tokenizer(), tmp_path / "m", state_dict=gathered)
    assert not load_file(folder / "model.safetensors")["model.embed_tokens.weight"].any()


def test_hashes_tell_weights_and_scalings_apart_but_not_dtypes(base):
    hashes = {
        models.weights_hash(models.load(base, "linear", scale, device="cpu")) for scale in (2, 4)
    }
    hashes |= {
        models.weights_hash(models.load(base, name, 4, device="cpu")) for name in ("ntk", "yarn")
    }
    hashes |= {models.weights_hash(models.create(tiny_models.config("llama"), 1))}
    assert len(hashes | {models.weights_hash(base)}) == 6
    half = models.load(base, dtype=torch.bfloat16, device="cpu")
    assert models.weights_hash(half) == models.weights_hash(half.float())
    assert all(len(value) == 16 and int(value, 16) >= 0 for value in hashes)


def test_a_swap_of_two_layers_changes_the_hash(base):
    model = models.load(base, device="cpu")
    before = models.weights_hash(model)
    first, second = model.model.layers
    model.model.layers[0], model.model.layers[1] = second, first
    assert models.weights_hash(model) != before


def test_a_checkpoint_is_replaced_but_nothing_else_is(base, tmp_path):
    changed = models.create(tiny_models.config("llama"), 1)
    (base / "stale.txt").write_text("from the former checkpoint")
    _save(changed, base)
    assert models.weights_hash(base) == models.weights_hash(changed)
    assert not (base / "stale.txt").exists()
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("precious")
    with pytest.raises(FileExistsError, match="no checkpoint"):
        _save(changed, tmp_path / "home")
    assert (tmp_path / "home" / "thesis.tex").read_text() == "precious"
    (tmp_path / "empty").mkdir()
    _save(changed, tmp_path / "empty")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base", "empty", "home"]


@pytest.mark.parametrize("broken", ["_save_tokenizer", "_write_both_styles", "_swap"])
def test_a_failed_save_leaves_what_was_there(base, monkeypatch, broken):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    before = models.weights_hash(base)
    monkeypatch.setattr(checkpoints, broken, full)
    for target in (base, base.parent / "new"):
        with pytest.raises(OSError, match="was not saved, nothing is left behind.*No space left"):
            _save(models.create(tiny_models.config("llama"), 1), target)
    assert [p.name for p in base.parent.iterdir()] == ["base"]
    assert models.weights_hash(base) == before


def test_a_failed_last_rename_puts_the_old_checkpoint_back(base, monkeypatch):
    rename = Path.rename

    def fail_on_the_new_one(self, target):
        if ".part-" in self.name:
            raise OSError("renaming failed")
        return rename(self, target)

    before = models.weights_hash(base)
    monkeypatch.setattr(Path, "rename", fail_on_the_new_one)
    with pytest.raises(OSError, match="renaming failed"):
        _save(models.create(tiny_models.config("llama"), 1), base)
    assert [p.name for p in base.parent.iterdir()] == ["base"]
    assert models.weights_hash(base) == before


def test_leftovers_of_a_killed_save_do_no_harm(base, tmp_path):
    part = tmp_path / f".next.part-{os.getpid()}"
    part.mkdir()
    (part / "model.safetensors").write_bytes(b"half")
    folder = _save(models.load(base, device="cpu"), tmp_path / "next")
    assert models.weights_hash(folder) == models.weights_hash(base) and not part.exists()


def test_broken_checkpoints_are_named(base, tmp_path):
    def copy(name: str) -> Path:
        return Path(shutil.copytree(base, tmp_path / name))

    truncated = copy("truncated")
    content = (truncated / "model.safetensors").read_bytes()
    (truncated / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="truncated or no safetensors file"):
        models.load(truncated)
    pickled = copy("pickled")
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="pytorch_model.bin but no model.safetensors"):
        models.load(pickled)
    (pickled / "pytorch_model.bin").unlink()
    with pytest.raises(FileNotFoundError, match="model.safetensors is missing"):
        models.load(pickled)
    (pickled / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match="holds no config.json"):
        models.load(pickled)
    garbled = copy("garbled")
    (garbled / "config.json").write_text('{"model_type": "lla')
    with pytest.raises(ValueError, match="is no whole JSON file"):
        models.load(garbled)


def test_a_checkpoint_that_lacks_weights_is_refused(base):
    """transformers would fill them at random."""
    tensors = load_file(base / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks weights: model.layers.1.mlp.up_proj.weight"):
        models.load(base)


def test_a_missing_shard_is_named(base, tmp_path):
    model = models.load(base, device="cpu")
    model.save_pretrained(tmp_path / "shards", max_shard_size="10KB")
    shards = sorted((tmp_path / "shards").glob("model-*.safetensors"))
    assert len(shards) > 1
    assert models.weights_hash(tmp_path / "shards") == models.weights_hash(base)
    shards[0].unlink()
    with pytest.raises(FileNotFoundError, match="model-00001.*is missing"):
        models.load(tmp_path / "shards")


def test_remote_code_is_never_run(base):
    """A config that names code of its own loads as the stock family, or not at all."""
    config = json.loads((base / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "evil.Evil", "AutoConfig": "evil.EvilConfig"}
    (base / "evil.py").write_text("raise SystemExit('remote code ran')")
    (base / "config.json").write_text(json.dumps(config))
    assert type(models.load(base, device="cpu")).__name__ == "LlamaForCausalLM"
    config["model_type"] = "evil"
    (base / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="gives no config"):
        models.load(base)


def test_a_saved_tokenizer_has_a_class_that_transformers_4_knows(tmp_path) -> None:
    """transformers 5 writes TokenizersBackend, which 4.x cannot resolve."""
    model, tokenizer = models.load(SHIPPED), models.load_tokenizer(SHIPPED)
    saved = models.save(model, tokenizer, tmp_path / "model")
    for folder in (saved, SHIPPED):
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
