"""Checkpoints that do not fit their config, or hold what is not read: refused by name."""

import json

import pytest
import tiny_models

from cream import models
from cream.models import checkpoints


@pytest.fixture
def folder(tmp_path):
    model = models.create(tiny_models.config("llama"), 0)
    return models.save(model, tiny_models.tokenizer(), tmp_path / "m")


def change(folder, **fields):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def test_weights_without_a_place_are_refused(folder):
    """A 2-layer file with a 1-layer config answered as a 1-layer model."""
    change(folder, num_hidden_layers=1)
    wanted = r"no place for: model.layers.1.* and \d+ more.*num_hidden"
    with pytest.raises(ValueError, match=wanted):
        models.load(folder, device="cpu")


def test_an_adapter_is_not_passed_over(folder):
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="LoRA adapter .* beside a model, .*: merge"):
        models.load(folder, device="cpu")
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match="LoRA adapter .* and no model"):
        models.load(folder, device="cpu")


@pytest.mark.parametrize("kind", ["gptq", "awq", "bitsandbytes", "aqlm"])
def test_quantized_weights_are_refused_by_name(folder, kind):
    change(folder, quantization_config={"quant_method": kind, "bits": 4})
    with pytest.raises(ValueError, match=rf"config.json says .* quantized \({kind}\)"):
        models.load(folder, device="cpu")


TORN = ('{"weight_map": {"a": "b', "[]", "{}", '{"weight_map": {"a": 1}}')


@pytest.mark.parametrize("text", TORN)
def test_a_torn_index_is_named(folder, text):
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ValueError, match="safetensors.index.json .*download or save it again"):
        models.load(folder, device="cpu")


def test_a_torn_config_is_named(folder):
    (folder / "config.json").write_text('{"model_type": "lla')
    with pytest.raises(ValueError, match="config.json is no whole JSON file"):
        models.load(folder, device="cpu")


def test_other_senses_are_said_not_refused(caplog):
    checkpoints.check_unexpected("x", ["vision_tower.layers.0.weight", "model.visual.patch.bias"])
    assert "x: not read are model.visual.patch.bias, vision_tower" in caplog.text


@pytest.mark.parametrize("field", ["hidden_size", "intermediate_size", "vocab_size"])
def test_weights_of_other_shapes_are_refused_by_name(folder, field):
    """Stock transformers raises a RuntimeError that speaks of a report above."""
    config = json.loads((folder / "config.json").read_text())
    change(folder, **{field: 2 * config[field]})
    with pytest.raises(ValueError, match=r"do not fit its config.json: .* is \d+.* and should be"):
        models.load(folder, device="cpu")
