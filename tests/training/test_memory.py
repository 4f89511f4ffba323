"""What training holds: known numbers, a compiled layer counted, what "auto" decides."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import psutil
import pytest
import torch
import training_runs
from transformers import LlamaConfig, LlamaForCausalLM

from cream import models
from cream.training import memory, trainer
from cream.training.memory import GIB, needs, plan_memory

SEVEN = LlamaConfig(max_position_embeddings=4096)
H200, H100 = int(139.8 * GIB), int(79.2 * GIB)
MASTER = training_runs.config(
    precision="master", compile="layers", micro_batch=2, batch_size=32, recompute=0, offload="none"
)


def changed(**changes):
    return dataclasses.replace(MASTER, **changes)


@pytest.fixture(autouse=True)
def much_ram(monkeypatch) -> None:
    there = SimpleNamespace(available=120 * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: there)


def test_known_numbers_of_llama2_7b():
    """6.738 B parameters: 16 bytes each are 100.4 GiB, 8 of them in RAM leave 50.2."""
    whole = needs(SEVEN, MASTER, 4096)
    assert whole.states / GIB == pytest.approx(100.4, abs=0.05)
    layer = 8 * 4096 + 3 * 11008  # numbers a token that a compiled layer keeps
    at_work = 4 * 4096 + 2 * 11008
    assert whole.activations == 2 * 8192 * (32 * layer + at_work)
    assert needs(SEVEN, changed(offload="moments"), 4096).states / GIB == pytest.approx(50.2, 1e-3)
    half = needs(SEVEN, changed(micro_batch=1), 4096)
    assert 2 * half.activations == whole.activations
    cheap = needs(SEVEN, changed(recompute="cheap"), 4096).activations
    assert (whole.activations - cheap) / GIB == pytest.approx(2 * (2 * 4096 + 11008) / 4096, 1e-3)
    some, all_of_it = (needs(SEVEN, changed(recompute=n), 4096).activations for n in (4, 32))
    assert cheap > some > all_of_it and all_of_it / GIB < 4
    autocast = training_runs.config(precision="bfloat16", micro_batch=1, batch_size=32)
    assert needs(SEVEN, autocast, 4096).states / GIB == pytest.approx(113, abs=0.05)


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("cheap", [False, True])
def test_a_compiled_layer_keeps_what_is_counted(cheap):
    """Saved for its backward pass, by torch's own hooks, but for weights, cosines and sines."""
    config = LlamaConfig(
        vocab_size=64, hidden_size=128, intermediate_size=352, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1,
    )  # fmt: skip
    model = LlamaForCausalLM(config).bfloat16().train()
    tokens = torch.zeros((1, 96), dtype=torch.long)
    turns = model.model.rotary_emb(torch.zeros(1, 96, 128).bfloat16(), torch.arange(96)[None])
    entry = torch.randn(1, 96, 128, dtype=torch.bfloat16, requires_grad=True)
    shared = {one.data_ptr() for one in (*model.parameters(), *turns)}
    kept = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in shared and tensor.shape[-1] != 64 // 2:
            kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    torch.compiler.reset()
    trainer.recompute_layers(model, 0, compiled=True)
    with (
        trainer.recomputing_cheaply(cheap),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda one: one),
    ):
        model.model.layers[1](entry, attention_mask=None, position_embeddings=turns)
    settings = changed(recompute="cheap" if cheap else 0)
    counted = 2 * tokens.numel() * memory._kept(config, settings)
    assert counted <= sum(kept.values()) <= 1.15 * counted


def test_the_least_recomputation_that_fits_is_chosen():
    auto = changed(recompute="auto", offload="auto")
    chosen = {}
    for name, card in {"h200": H200, "h100": H100, "b200": 180 * GIB}.items():
        settled, needed = plan_memory(auto, SEVEN, 4096, card, name)
        assert needed.total <= 0.97 * card
        chosen[name] = (settled.recompute, settled.offload)
    assert chosen["b200"] == (0, "none")
    assert chosen["h200"] == ("cheap", "none")
    assert chosen["h100"][1] == "moments" and 1 <= chosen["h100"][0] <= 2
    settled, _ = plan_memory(auto, SEVEN, 4096, H200 - 10 * GIB)
    again = settled.recompute
    assert again == "cheap" or 1 <= again < 16
    assert plan_memory(auto, SEVEN, 4096, None)[0].recompute == 0


def test_what_does_not_fit_is_said_with_its_arithmetic_and_a_way_out():
    with pytest.raises(MemoryError) as caught:
        plan_memory(changed(recompute="auto"), SEVEN, 4096, H100, "NVIDIA H100")
    said = str(caught.value)
    for part in ("6,738,415,616 parameters", "states 100.4", "NVIDIA H100 has 79.2 GiB",
                 "offload='moments', micro_batch=2, which fits"):  # fmt: skip
        assert part in said, said
    with pytest.raises(MemoryError, match="Take a card with more memory, or several"):
        plan_memory(changed(recompute="auto", offload="auto"), SEVEN, 4096, 24 * GIB)
    autocast = training_runs.config(precision="bfloat16", micro_batch=1, batch_size=32)
    with pytest.raises(MemoryError, match="states 113.0 .* Set precision='master'"):
        memory.check_states(autocast, SEVEN, 4096, H100)
    memory.check_states(autocast, SEVEN, 4096, H200)


def test_ram_is_counted_where_moments_lie_there(monkeypatch):
    there = SimpleNamespace(available=32 * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: there)
    with pytest.raises(MemoryError, match="of RAM 32.0 GiB are free"):
        plan_memory(changed(recompute="auto", offload="auto"), SEVEN, 4096, H100)


def test_a_card_too_small_is_refused_before_anything_is_loaded(
    training_place, tmp_path, monkeypatch
):
    """Through `train`: no model is loaded, no run directory is left."""
    monkeypatch.setattr(models, "load", None)
    card = SimpleNamespace(total_memory=GIB, name="a small card")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    with pytest.raises(MemoryError, match="a small card has 1.0 GiB"):
        training_runs.train(training_place, tmp_path / "run", precision="master")
    assert not (tmp_path / "run").exists()
