"""How a large model computes: which layers again, how exactly, and that it changes nothing."""

from __future__ import annotations

import importlib.util
import subprocess

import pytest
import torch
import training_runs
import warm_python
from torch._dynamo.utils import counters
from torch.utils import checkpoint

from cream import rope
from cream.training import callbacks, trainer
from cream.training import run as training_run
from cream.training.loss import chunked_loss


@pytest.mark.parametrize("again", [0, 1, 2])
def test_layers_computed_again_change_no_bit(training_place, tmp_path, monkeypatch, again):
    """Two layers, of which none, one and both are; each is, once a forward pass."""
    calls, run = [], checkpoint.checkpoint
    monkeypatch.setattr(trainer, "checkpoint", lambda *a, **k: calls.append(1) or run(*a, **k))
    settings = {"steps": 2, "micro_batch": 2, "precision": "master"}
    training_runs.train(training_place, tmp_path / "plain", **settings)
    assert calls == []
    training_runs.train(training_place, tmp_path / "again", **settings, recompute=again)
    assert len(calls) == again * 4
    weights = {training_runs.weights(tmp_path / name) for name in ("plain", "again")}
    assert len(weights) == 1


def test_positions_stay_exact_in_a_model_of_bfloat16(training_place, tmp_path):
    """Trap: `model.to(bfloat16)` rounds RoPE's frequencies."""
    seen = []

    def probe(model, tokenizer) -> dict[str, float]:
        rotary = model.model.rotary_emb
        cosines, _ = rotary(torch.zeros(1), torch.arange(500)[None])
        seen.append((model.dtype, rotary.inv_freq.clone(), cosines))
        return {}

    settings = {"precision": "master", "probe_steps": 3}
    training_runs.train(training_place, tmp_path / "run", ask=probe, **settings)
    kind = rope.scaling("linear", training_runs.SCALE)
    wanted = torch.from_numpy(kind.inv_freq(10_000.0, 16, training_runs.WINDOW))
    for dtype, frequencies, cosines in seen:
        assert (dtype, frequencies.dtype) == (torch.bfloat16, torch.float32)
        torch.testing.assert_close(frequencies.double(), wanted, rtol=1e-6, atol=0)
        exact = (torch.arange(500)[:, None] * wanted).cos()
        torch.testing.assert_close(cosines[0, :, :8].double(), exact, rtol=0, atol=1e-4)
    rounded = (torch.arange(500)[:, None] * wanted.bfloat16().double()).cos()
    assert (rounded - exact).abs().max() > 1e-3


def test_uneven_labels_weigh_as_in_float32(training_place, tmp_path, monkeypatch):
    """Micro-batches with few labels and with many, accumulated: the loss over all labels."""
    monkeypatch.setattr("cream.data.dataset.ExampleDataset.uneven", True)
    whole, rows = training_run.collate, {}

    def some(examples):
        batch = whole(examples)
        batch["labels"][:, : int(batch["input_ids"][0, 0]) % 60] = -100
        return batch

    monkeypatch.setattr(training_run, "collate", some)
    for precision in ("float32", "master"):
        run = tmp_path / precision
        training_runs.train(training_place, run, micro_batch=1, precision=precision)
        rows[precision] = callbacks.read_metrics(run / "metrics.jsonl")
    for plain, ours in zip(rows["float32"], rows["master"], strict=True):
        assert ours["loss"] == pytest.approx(plain["loss"], rel=5e-3)
        assert ours["grad_norm"] == pytest.approx(plain["grad_norm"], rel=5e-2)


@pytest.mark.slow
@pytest.mark.usefixtures("traced")
def test_compiled_layers_are_one_graph_recomputed_or_not(tiny_model):
    """Ten layers, three of them computed again: compiled once, the same gradients."""
    found = {}
    tokens = torch.randint(2, 600, (2, 40), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": tokens}
    for name, count in (("plain", None), ("compiled", 0), ("again", 3)):
        model = tiny_model(num_hidden_layers=10).bfloat16().train()
        torch.compiler.reset()
        counters.clear()
        if count is not None:
            trainer.recompute_layers(model, count, compiled=True)
        with trainer.recomputing_cheaply(count is not None):
            chunked_loss(model, inputs).backward()
            assert counters["stats"]["unique_graphs"] == (count is not None)
        found[name] = [p.grad.float() for p in model.parameters()]
    for a, b in zip(found["compiled"], found["again"], strict=True):
        assert torch.equal(a, b)
    off = [(a - b).norm() / b.norm() for a, b in zip(found["again"], found["plain"], strict=True)]
    assert max(off) < 0.1


@pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed"
)
@pytest.mark.slow
def test_a_launcher_that_takes_deepspeed_away_is_refused(training_place, tmp_path):
    """`accelerate launch --cpu`: else bfloat16 weights would be trained without masters."""
    training_runs.job(tmp_path / "run", precision="master", zero=1)
    command = [warm_python.executable(), "-m", "cream.training", str(tmp_path / "run"), "--root"]
    env = {**training_runs.environment(), "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run([*command, str(training_place)], env=env, capture_output=True, text=True)
    assert done.returncode and "zero is 1 and accelerate takes MULTI_CPU" in done.stderr
