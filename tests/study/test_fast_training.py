"""The lean loop against `training.train`, on the same examples: the same losses and weights."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_models
import torch
import tracing
import training_runs
from safetensors.torch import load_file
from torch._dynamo.utils import counters

from cream import models
from cream.positions import sampler
from cream.study import fast_training


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A base and a corpus."""
    model = models.create(tiny_models.config("llama", vocab_size=605), seed=0)
    return training_runs.lay_out(tmp_path_factory.mktemp("lean"), model, tiny_models.tokenizer(600))


def fast_run(root, method: str, steps: int, seed: int, **options):
    """Train without a Trainer; return the model and its losses."""
    model = models.load(root / "base", scaling="yarn", scale=training_runs.SCALE)
    data = fast_training.load_batches(
        root / "corpus", sampler(method, training_runs.WINDOW, training_runs.SCALE, **options),
        seed, steps, 4,
    )  # fmt: skip
    step = fast_training.CapturedStep(model, data.input_ids.shape[1:])
    return model, step.train(data, 1e-3), step, data


@pytest.mark.slow
@pytest.mark.parametrize("method", ["cream", "pose", "full"])
def test_the_same_as_training(root, tmp_path, method):
    """Losses and weights of both loops, to the noise of float32."""
    steps = 14
    run = tmp_path / method
    training_runs.train(root, run, method=method, steps=steps, warmup_steps=fast_training.WARMUP,
                        scaling="yarn", seed=3)  # fmt: skip
    model, losses, *_ = fast_run(root, method, steps, 3)
    theirs = training_runs.losses(run)
    np.testing.assert_allclose(losses, [theirs[k + 1] for k in range(steps)], rtol=2e-5)
    assert losses[-1] < losses[0]
    trained = load_file(run / "model" / "model.safetensors")
    ours = dict(model.named_parameters())
    for name, weight in trained.items():
        torch.testing.assert_close(ours[name].detach(), weight, rtol=1e-3, atol=2e-5)


def test_a_second_run_on_the_same_model_is_the_first_again(root):
    """Nothing is left of a run once the base's weights are copied back."""
    model, first, step, data = fast_run(root, "cream", 4, 0)
    base = models.load(root / "base", scaling="yarn", scale=training_runs.SCALE)
    once = [each.detach().clone() for each in model.parameters()]
    with torch.no_grad():
        for mine, fresh in zip(model.parameters(), base.parameters(), strict=True):
            mine.copy_(fresh)
    second = step.train(data, 1e-3)
    assert (first == second).all()
    assert all((a == b).all() for a, b in zip(once, model.parameters(), strict=True))


def test_the_attention_of_the_graph_is_that_of_training(root):
    """The kernel without a mask gives what SDPA gives with a mask of ones, skipped positions too.

    And a token at the end depends on the first, over every seam.
    """
    model = models.load(root / "base", scaling="yarn", scale=training_runs.SCALE)
    data = fast_training.load_batches(root / "corpus", sampler("cream", 64, 8), 0, 1, 4)
    inputs = {name: each[0].long() for name, each in zip(data._fields, data, strict=True)}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    with torch.inference_mode():
        wanted = model(**inputs).logits
        model.set_attn_implementation(fast_training.CAUSAL)
        found = model(**inputs).logits
        inputs["input_ids"][:, 0] += 1
        moved = model(**inputs).logits
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert ((moved - found)[:, -1].abs().amax(-1) > 1e-6).all()


def test_fewer_steps_begin_alike(root):
    """So that runs of several lengths share their examples."""
    long = fast_training.load_batches(root / "corpus", sampler("pose", 64, 8), 1, 5, 4)
    short = fast_training.load_batches(root / "corpus", sampler("pose", 64, 8), 1, 2, 4)
    assert all((a == b).all() for a, b in zip(long.first(2), short, strict=True))


@pytest.fixture(scope="module", autouse=True)
def _traced():
    with tracing.traced():
        yield


@pytest.fixture(scope="module")
def compiled(root):
    """A model whose layers and loss are compiled, after a run on the first base."""
    model = models.load(root / "base", dtype=torch.float32)
    return model, fast_losses(model, root / "base", root, compiled=True, **FIRST)


COUNTED = counters["stats"]
FIRST = {"method": "cream", "scaling": "linear", "seed": 0}
OTHERS = [
    {"method": "pose", "scaling": "yarn", "seed": 5},
    {"method": "full", "scaling": "ntk", "seed": 1},
    {"method": "cream", "scaling": "linear", "seed": 0},
]


def fast_losses(model, base, root, method, scaling, seed, compiled=False):
    """Tune a model as a bench does, turned and filled in place; None: a fresh one. 8 losses."""
    scaled = models.load(base, scaling=scaling, scale=8, dtype=torch.float32)
    data = fast_training.load_batches(root / "corpus", sampler(method, 64, 8), seed, 8, 4)
    if model is None:
        model = scaled
    else:
        fast_training.copy_rope(model, scaled)
    step = fast_training.CapturedStep(model, data.input_ids.shape[1:], compiled=compiled)
    assert step.kind == ("compiled" if compiled else "eager")
    with torch.no_grad():
        for mine, fresh in zip(model.parameters(), scaled.parameters(), strict=True):
            mine.copy_(fresh)
    return step.train(data, 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("other", OTHERS, ids=lambda one: one["scaling"])
def test_compiled_code_keeps_nothing_of_the_run_it_was_made_in(root, compiled, other, tmp_path):
    """Another base, scaling, method, shape and seed: the losses of a fresh uncompiled model.

    And layers are compiled once a shape, not once a layer or run.
    """
    model, first = compiled
    base = tmp_path / "other"
    fresh = models.create(tiny_models.config("llama", vocab_size=605), seed=1)
    models.save(fresh, tiny_models.tokenizer(600), base)
    before = COUNTED["unique_graphs"]
    found = fast_losses(model, base, root, compiled=True, **other)
    assert COUNTED["unique_graphs"] - before == 2 * (other["method"] == "full")  # layer, loss
    wanted = fast_losses(None, base, root, **other)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert abs(found - first).max() > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("compile_it", [True, False])
@pytest.mark.parametrize("method", ["cream", "randpos"])
def test_the_tail_learns_from_the_head(root, compile_it, method):
    """Trap 1: each row's last label alone depends on its first token, compiled or not."""
    effects = _effects(root, method, compile_it)
    assert len(effects) == 4 and min(effects) > 1e-5


def test_without_mask_and_guard_the_tail_is_blind(root):
    """The trap itself: what the test above would see."""

    def spoil(step):
        tiny_models.unguarded(step.model)
        del step.inputs["attention_mask"]

    assert _effects(root, "cream", False, spoil) == [0.0] * 4


def _effects(root, method, compiled, spoil=lambda step: None) -> list[float]:
    """How far a step's loss on the last label of each row moves when that row's token 0 changes."""
    model = models.load(root / "base", scaling="yarn", scale=8, dtype=torch.float32)
    one = fast_training.load_batches(root / "corpus", sampler(method, 64, 8), 1, 1, 4)
    one.labels[..., :-1] = -100
    assert ((one.position_ids.diff() > 1).any(-1)).all(), "this draw skips nothing"
    five = fast_training.Batches(*(each.repeat(5, 1, 1) for each in one))
    for row in range(4):
        five.input_ids[row + 1, row, 0] = (five.input_ids[row + 1, row, 0] + 7) % 600
    step = fast_training.CapturedStep(model, one.input_ids.shape[1:], compiled=compiled)
    spoil(step)
    losses = step.train(five, 0.0)  # weights stay
    return abs(losses[1:] - losses[0]).tolist()


BFLOAT16 = 2e-3  # of a loss: what the order of sums in bfloat16 makes of it in a few steps


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [True, False])
def test_a_graph_trains_as_steps_and_the_trainer_do(root, tmp_path, compiled):
    """Replayed, computed step by step, and by `training.train`: the same losses.

    Another seed's are farther away.
    """
    run = tmp_path / "run"
    training_runs.train(root, run, method="cream", steps=14, warmup_steps=fast_training.WARMUP,
                        scaling="yarn", compile="none")  # fmt: skip
    wanted = list(training_runs.losses(run).values())
    graph = graph_losses(root, 0, "cuda", graphs=True, compiled=compiled)
    steps = graph_losses(root, 0, "cuda", graphs=False)
    for other in (steps, wanted):
        np.testing.assert_allclose(graph, other, rtol=BFLOAT16)
    seed = graph_losses(root, 1, "cuda", graphs=False)
    assert (abs(seed - graph) / graph).max() > 3 * BFLOAT16


def graph_losses(root, seed: int, device: str, **how) -> np.ndarray:
    """The losses of 14 steps on the base, whose weights are put back once a graph is made."""
    model = models.load(root / "base", scaling="yarn", scale=8, dtype=torch.float32, device=device)
    data = fast_training.load_batches(root / "corpus", sampler("cream", 64, 8), seed, 14, 4)
    fresh = [each.detach().clone() for each in model.parameters()]
    step = fast_training.CapturedStep(model, data.input_ids.shape[1:], **how)
    assert ("graph" in step.kind) == (how["graphs"] and device == "cuda")
    with torch.no_grad():
        for mine, kept in zip(model.parameters(), fresh, strict=True):
            mine.copy_(kept)
    return step.train(data, 1e-3)
