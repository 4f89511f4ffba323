"""What RUN may be, and what is refused with its reason."""

import json
import shutil

import pytest
import torch

from cream import models
from cream.chat.models import open_model, open_original, original_of
from cream.training import lora
from cream.training.config import TrainConfig


def test_runs_bases_and_scaled_bases_are_models(chat_place):
    found = {
        name: open_model(name, base, chat_place).limit
        for name, base in [("runs/done", None), ("runs/done/model", None), ("base", None),
                           ("original", "base"), ("scaled:yarn:2", "base")]
    }  # fmt: skip
    assert found == {"runs/done": 1024, "runs/done/model": 1024, "base": 256, "original": 256,
                     "scaled:yarn:2": 512}  # fmt: skip


def test_the_original_of_a_run_is_its_base(chat_place):
    original = open_original("runs/done", root=chat_place)
    assert (original.name, original.limit, original.beyond) == ("base", 256, True)
    assert original_of("runs/done/model", None, chat_place) == ("base", None)
    assert original_of("scaled:yarn:2", "base", chat_place) == ("base", None)
    assert open_original("base", root=chat_place) is None
    assert open_original("original", "base", chat_place) is None


def test_an_adapter_is_merged_into_its_runs_base(chat_place, tiny_model, tiny_tokenizer):
    model = models.load(chat_place / "base", scaling="yarn", scale=4)
    config = TrainConfig(base="base", corpus="none", scaling="yarn", scale=4, lora_rank=2)
    tuned = lora.add(model, config)
    with torch.no_grad():
        for name, each in tuned.named_parameters():
            if "lora_B" in name:
                each.normal_(std=0.1)
    run = chat_place / "runs/lora"
    lora.save(tuned, config, run / "adapter")
    models.load_tokenizer(chat_place / "base").save_pretrained(run / "adapter")
    (run / "config.json").write_text(json.dumps({"base": "base"}))
    merged = open_model("runs/lora/adapter", root=chat_place)
    again = lora.load(run / "adapter", chat_place / "base")
    assert merged.limit == 1024
    assert models.weights_hash(merged.model) == models.weights_hash(again)
    alone = chat_place / "alone"
    shutil.copytree(run / "adapter", alone, dirs_exist_ok=True)
    with pytest.raises(ValueError, match="no run tells its base: give --base"):
        open_model("alone", root=chat_place)
    assert open_model("alone", "base", chat_place).limit == 1024
    (alone / lora.TRAINING).write_text(json.dumps({"base": "base", "steps": 3}))
    assert original_of("alone", None, chat_place) == ("base", None)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("original", ValueError, "give --base"),
        ("scaled:yarn:8", ValueError, "give --base"),
        ("http://localhost:1/v1#x", ValueError, "a server, which has a chat of its own"),
        ("runs/absent/x", FileNotFoundError, "no such checkpoint"),
        ("runs", FileNotFoundError, "no finished model"),
    ],
)
def test_what_is_no_model_is_refused(chat_place, name, error, message):
    with pytest.raises(error, match=message):
        open_model(name, root=chat_place)
