"""The lean loop against `training.train`, on the same examples: the same losses and weights."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_models
import torch
import training_runs
from safetensors.torch import load_file

from cream import lean, models


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A base and a corpus."""
    model = models.create(tiny_models.config("llama", vocab_size=605), seed=0)
    return training_runs.lay_out(tmp_path_factory.mktemp("lean"), model, tiny_models.tokenizer(600))


def lean_run(root, method: str, steps: int, seed: int, **options):
    """Train without a Trainer; return the model and its losses."""
    model = models.load(root / "base", scaling="yarn", scale=training_runs.SCALE)
    data = lean.material(
        root / "corpus", method, training_runs.WINDOW, training_runs.SCALE, options, seed, steps, 4
    )
    stepper = lean.Stepper(model, data.input_ids.shape[1:])
    return model, stepper.train(data, 1e-3), stepper, data


@pytest.mark.parametrize("method", ["cream", "pose", "full"])
def test_the_same_as_training(root, tmp_path, method):
    """Losses and weights of both loops, to the noise of float32."""
    steps = 14
    run = tmp_path / method
    training_runs.train(root, run, method=method, steps=steps, warmup_steps=lean.WARMUP,
                        scaling="yarn", seed=3)  # fmt: skip
    model, losses, *_ = lean_run(root, method, steps, 3)
    theirs = training_runs.losses(run)
    np.testing.assert_allclose(losses, [theirs[k + 1] for k in range(steps)], rtol=2e-5)
    assert losses[-1] < losses[0]
    trained = load_file(run / "model" / "model.safetensors")
    ours = dict(model.named_parameters())
    for name, weight in trained.items():
        torch.testing.assert_close(ours[name].detach(), weight, rtol=1e-3, atol=2e-5)


def test_a_second_run_on_the_same_model_is_the_first_again(root):
    """Nothing is left of a run once the base's weights are copied back."""
    model, first, stepper, data = lean_run(root, "cream", 4, 0)
    base = models.load(root / "base", scaling="yarn", scale=training_runs.SCALE)
    once = [each.detach().clone() for each in model.parameters()]
    with torch.no_grad():
        for mine, fresh in zip(model.parameters(), base.parameters(), strict=True):
            mine.copy_(fresh)
    second = stepper.train(data, 1e-3)
    assert (first == second).all()
    assert all((a == b).all() for a, b in zip(once, model.parameters(), strict=True))


def test_the_attention_of_the_graph_is_that_of_training(root):
    """The kernel without a mask gives what SDPA gives with a mask of ones, skipped positions too.

    And a token at the end depends on the first, over every seam.
    """
    model = models.load(root / "base", scaling="yarn", scale=training_runs.SCALE)
    data = lean.material(root / "corpus", "cream", 64, 8, {}, 0, 1, 4)
    inputs = {name: each[0].long() for name, each in zip(data._fields, data, strict=True)}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    with torch.inference_mode():
        wanted = model(**inputs).logits
        model.set_attn_implementation(lean.CAUSAL)
        found = model(**inputs).logits
        inputs["input_ids"][:, 0] += 1
        moved = model(**inputs).logits
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert ((moved - found)[:, -1].abs().amax(-1) > 1e-6).all()


def test_fewer_steps_begin_alike(root):
    """So that runs of several lengths share their examples."""
    long = lean.material(root / "corpus", "pose", 64, 8, {}, 1, 5, 4)
    short = lean.material(root / "corpus", "pose", 64, 8, {}, 1, 2, 4)
    assert all((a == b).all() for a, b in zip(long.first(2), short, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
def test_a_graph_trains_as_steps_do(root):
    """Replayed and computed step by step: the same losses."""
    found = []
    for graphs in (True, False):
        model = models.load(root / "base", scaling="yarn", scale=8, dtype=torch.float32)
        data = lean.material(root / "corpus", "cream", 64, 8, {}, 0, 14, 4)
        fresh = [each.detach().clone() for each in model.parameters()]
        stepper = lean.Stepper(model, data.input_ids.shape[1:], graphs=graphs)
        assert (stepper.graph is not None) == graphs
        with torch.no_grad():
            for mine, kept in zip(model.parameters(), fresh, strict=True):
                mine.copy_(kept)
        found.append(stepper.train(data, 1e-3))
    np.testing.assert_allclose(*found, rtol=2e-3)
