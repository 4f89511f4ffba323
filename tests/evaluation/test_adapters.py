"""`adapter:FOLDER`: what it resolves to, what its rows say, and what it is not taken for."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import training_runs

from cream import models
from cream.evaluation.models import evaluate_models, find
from cream.tasks import longchat_lines
from cream.training import lora


@pytest.fixture(scope="module")
def place(training_place, tmp_path_factory):
    """A project folder with a base and a finished LoRA run."""
    root = tmp_path_factory.mktemp("project")
    training_runs.share(training_place, root)
    training_runs.train(root, root / "runs/lora", lora_rank=4, scaling="yarn", learning_rate=1e-2)
    packed = root / "runs/rank4"
    shutil.copytree(root / "runs/lora/adapter", packed)
    shutil.copy(root / "runs/lora/config.json", packed / lora.TRAINING)
    return root


def test_its_rows_are_of_the_merged_model(place, tmp_path, tiny_tokenizer):
    """Run and method are the folder's, so that no mean mixes it with the run it was made of."""
    asked = longchat_lines.examples(tiny_tokenizer, [256], 2)
    wanted = find("original,adapter:runs/rank4", "base", place, "tiny")
    rows = evaluate_models(wanted[1:], longchat_lines, asked, tmp_path / "rows", progress=False)
    mine = rows.iloc[0]
    assert mine[["run", "method", "base", "preset"]].to_list() == [
        "adapter:runs/rank4", "rank4", "base", "tiny",
    ]  # fmt: skip
    assert (mine["scaling"], mine["scale"], mine["window"]) == ("yarn", 8, 64) and mine["seed"] == 0
    merged = lora.load(place / "runs/rank4", place / "base", device="cpu")
    assert mine["model_hash"] == models.weights_hash(merged)
    assert mine["model_hash"] == find("runs/lora", "base", place)[0].weights_hash()
    narrow = wanted[1].load(torch.bfloat16)
    assert {one.dtype for one in narrow.model.parameters()} == {torch.bfloat16}
    assert narrow.header["model_hash"] == mine["model_hash"]
    assert narrow.header["settings"]["dtype"] == "bfloat16"


def test_a_runs_adapter_is_called_by_the_run(place):
    (one,) = find("adapter:runs/lora/adapter", "base", place)
    assert (one.name, one.method) == ("adapter:runs/lora/adapter", "lora")
    assert one.config().max_position_embeddings == 512


def test_an_adapter_that_is_no_runs_is_called_by_the_place_it_lies_in(place):
    shutil.copytree(place / "runs/rank4", place / "data/shipped/adapter")
    (one,) = find("adapter:data/shipped/adapter", "base", place)
    assert one.method == "shipped-adapter"


def test_an_adapter_and_its_base_are_two_models(place, tmp_path, tiny_tokenizer):
    find("original,scaled:yarn:8,adapter:runs/rank4", "base", place)
    with pytest.raises(ValueError, match="are one model"):
        find("adapter:runs/rank4,adapter:runs/../runs/rank4", "base", place)
    asked = longchat_lines.examples(tiny_tokenizer, [256], 1)
    for two in ("adapter:runs/rank4,adapter:runs/lora/adapter", "runs/lora,adapter:runs/rank4"):
        with pytest.raises(ValueError, match="equal weights and RoPE"):
            evaluate_models(find(two, "base", place), longchat_lines, asked, tmp_path / "rows",
                            progress=False)  # fmt: skip


def test_what_is_no_adapter_is_refused(place, tmp_path):
    for name in ("adapter:runs/absent", "adapter:runs/lora", "adapter:"):
        with pytest.raises(FileNotFoundError, match=r"holds no adapter_config\.json"):
            find(name, "base", place)
    (place / "other").symlink_to(place / "base")
    with pytest.raises(ValueError, match="made for the base base, and the base here is other"):
        find("adapter:runs/rank4", "other", place)
    known = json.loads((place / "runs/rank4" / lora.TRAINING).read_text())
    shutil.copytree(place / "runs/rank4", place / "runs/nameless")
    del known["base"]
    (place / "runs/nameless" / lora.TRAINING).write_text(json.dumps(known))
    assert find("adapter:runs/nameless", "other", place)[0].base == "other"
