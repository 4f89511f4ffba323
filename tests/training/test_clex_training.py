"""Training runs of CLEX and of the methods beside it: they learn, resume bit for bit and load."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import training_runs
from safetensors.torch import load_file

from cream import models, positions
from cream.data.dataset import ExampleDataset, collate
from cream.rope import clex, scalings
from cream.training import config
from cream.training import run as training_run
from cream.training.callbacks import read_metrics

NAMES = ("model.clex_layer.proj_func.ode_up_proj", "model.clex_layer.proj_func.ode_down_proj")
CLEX = {"method": "clex", "scaling": "clex", "micro_batch": 2}


def matrices(run):
    weights = load_file(run / "model" / "model.safetensors")
    return [weights[name] for name in NAMES]


@pytest.mark.parametrize("precision", ["float32", "master"])
def test_matrices_are_trained_and_resumed_bit_for_bit(
    training_place, tmp_path, monkeypatch, precision
):
    settings = {**CLEX, "precision": precision, "steps": 4, "save_steps": 2}
    training_runs.train(training_place, tmp_path / "whole", **settings)
    with monkeypatch.context() as patched:
        compute = training_run.CreamTrainer.compute_loss
        stop = training_runs._at(7, compute, training_runs._stop)
        patched.setattr(training_run.CreamTrainer, "compute_loss", stop)
        with pytest.raises(training_runs.Stopped):
            training_runs.train(training_place, tmp_path / "cut", **settings)
    training_runs.train(training_place, tmp_path / "cut", **settings)
    assert training_runs.weights(tmp_path / "cut") == training_runs.weights(tmp_path / "whole")
    up, down = matrices(tmp_path / "whole")
    assert down.abs().max() > 0 and not torch.equal(up, first_up())
    model = models.load(tmp_path / "whole" / "model")
    assert clex.choose(model, 200) == 4


def first_up() -> torch.Tensor:
    """Return W_up as a run of seed 0 begins, for 16 rotated dimensions."""
    layer = clex.ClexLayer(scalings.scaling("clex", training_runs.SCALE), 1e4, 16, 64)
    layer.initialise(0)
    return layer.proj_func.ode_up_proj.detach()


def test_masters_hold_the_matrices_in_float32_while_weights_are_bfloat16(training_place, tmp_path):
    """What the ODE is solved from is what is saved: no bit is rounded away in between."""
    seen = {}

    def ask(model, _):
        optimizer = seen["optimizer"]
        for one in clex.trained_matrices(model):
            assert one.dtype == torch.float32 and optimizer.master(one).data_ptr() == one.data_ptr()
            assert optimizer.state[one]["exp_avg"].dtype == torch.float32
        assert model.get_input_embeddings().weight.dtype == torch.bfloat16
        seen["last"] = [one.detach().clone() for one in clex.trained_matrices(model)]
        return {"asked": 1.0}

    made = training_run.CreamTrainer.create_optimizer

    def create(self, *rest):
        seen["optimizer"] = made(self, *rest)
        return seen["optimizer"]

    training_run.CreamTrainer.create_optimizer = create
    try:
        training_runs.train(training_place, tmp_path / "run", ask=ask, probe_steps=1,
                            precision="master", save_dtype="bfloat16", **CLEX)  # fmt: skip
    finally:
        training_run.CreamTrainer.create_optimizer = made
    for saved, last in zip(matrices(tmp_path / "run"), seen["last"], strict=True):
        assert saved.dtype == torch.float32 and torch.equal(saved, last)
        assert not torch.equal(saved, saved.bfloat16().float())


@pytest.mark.parametrize("precision", ["float32", "master"])
def test_matrices_clipped_by_themselves_leave_the_others_their_norm(
    training_place, tmp_path, monkeypatch, precision
):
    """The ODE's gradients are large; what is left of the others is what they have without them."""
    seen = []
    clip = torch.nn.utils.clip_grad_norm_

    def spy(parameters, *rest, **more):
        parameters = list(parameters)
        seen.append((len(parameters), clip(parameters, *rest, **more)))
        return seen[-1][1]

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", spy)
    norms = {}
    for own in (0.0, 1e-3):
        run = tmp_path / str(own)
        settings = {**CLEX, "precision": precision, "steps": 2, "clex_grad_norm": own}
        training_runs.train(training_place, run, **settings)
        lines = (run / "metrics.jsonl").read_text().splitlines()
        norms[own] = [json.loads(line)["grad_norm"] for line in lines if "grad_norm" in line]
    assert all(one < other for one, other in zip(norms[1e-3], norms[0.0], strict=True))
    if precision == "float32":
        assert [count for count, _ in seen].count(2) == 2  # two steps, two matrices, one run


def test_other_scalings_have_no_matrices_to_clip():
    with pytest.raises(ValueError, match="clex_grad_norm is 1.0 and scaling 'yarn'"):
        config.TrainConfig(base="b", corpus="c", scaling="yarn", clex_grad_norm=1.0)


@pytest.mark.slow
@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("precision", ["float32", "master"])
def test_compiled_layers_give_the_same_loss(training_place, tmp_path, precision):
    runs = {how: tmp_path / how for how in ("none", "layers")}
    for how, run in runs.items():
        training_runs.train(training_place, run, **CLEX, compile=how, precision=precision)
    lone, compiled = (list(training_runs.losses(run).values()) for run in runs.values())
    assert compiled == pytest.approx(lone, rel=1e-5 if precision == "float32" else 2e-3)
    for one, other in zip(*(matrices(run) for run in runs.values()), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-4)


def test_frozen_leaves_the_matrices_as_they_began(training_place, tmp_path):
    training_runs.train(training_place, tmp_path / "run", **CLEX, scaling_options={"frozen": True})
    assert matrices(tmp_path / "run")[1].abs().max() == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "endprompt", "scaling": "linear"},
        {"method": "cream", "scaling": "cope"},
        {"method": "plain", "scaling": "drope"},
        {"method": "clex", "scaling": "yarn"},
    ],
    ids=lambda c: f"{c['method']}-{c['scaling']}",
)
def test_methods_beside_it_train(training_place, tmp_path, changes):
    training_runs.train(training_place, tmp_path / "run", **changes)
    about = models.describe(models.load(tmp_path / "run" / "model").config)
    assert about["scaling"] == changes["scaling"]
    assert len(training_runs.losses(tmp_path / "run")) == 3


def test_clex_needs_its_sampler_and_no_graphs():
    with pytest.raises(ValueError, match="sampler 'clex'"):
        training_runs.config(scaling="clex", method="cream")
    with pytest.raises(ValueError, match="whose t varies"):
        training_runs.config(**CLEX, compile="model")
    with pytest.raises(ValueError, match="no adapter"):
        training_runs.config(**CLEX, lora_rank=8)
    with pytest.raises(ValueError, match="which DeepSpeed does not shard"):
        training_runs.config(**CLEX, zero=2, precision="master")
    with pytest.raises(ValueError, match="no option typo"):
        config.TrainConfig("b", "c", scaling="cope", scaling_options={"typo": 1})


@pytest.mark.parametrize("shared", [True, False])
def test_one_factor_a_forward_whatever_the_order(training_place, shared):
    draw = positions.sampler("clex", 64, 8, shared=shared)
    dataset = ExampleDataset(training_place / "corpus", draw, 3, 24, forward=4)
    items = {k: dataset[k] for k in reversed(range(24))}
    batches = [collate([items[k] for k in range(4 * j, 4 * j + 4)]) for j in range(6)]
    assert all((len(set(b["clex_t"])) == 1) for b in batches) or not shared
    assert len({t for b in batches for t in b["clex_t"]}) > 2
    for batch in batches:
        assert (batch["attention_mask"] == 1).all()
        for row, t in zip(batch["position_ids"], batch["clex_t"], strict=True):
            assert row[0] == 0 and row[-1] == 64 * t - 1 and (row.diff() > 0).all()


@pytest.mark.parametrize("tokens", [3, 12, 13, 14, 26, 58, 130])
def test_positions_reach_the_extent_of_their_t_whatever_an_example_has(tokens):
    """N t, of which the frequencies at t are: neither less with few tokens nor more with many."""
    draw = positions.sampler("clex", 13, 4, tokens=tokens)
    for index in range(50):
        drawn = draw.draw(tokens, 0, 0, index).positions
        t = draw.factor(drawn)
        assert len(drawn) == tokens and drawn[0] == 0 and (np.diff(drawn) > 0).all()
        assert 1 <= t <= 4 and 13 * t - 1 <= drawn[-1] < 13 * t


def test_a_run_on_short_examples_takes_every_t(training_place, tmp_path):
    """`tokens` below N: the t of a forward pass stays within the max_factor of the model."""
    options = {"least": training_runs.SCALE, "tokens": 32}
    run = tmp_path / "run"
    training_runs.train(training_place, run, **CLEX, sampler_options=options)
    assert read_metrics(run / "metrics.jsonl")[-1]["tokens"] == 3 * 4 * 32


@pytest.mark.parametrize("length", [64, 128, 256])
def test_mended_positions_rise_where_the_official_ones_do_not(length):
    mended = positions.sampler("clex", 64, 8, tokens=length)
    official = positions.sampler("clex", 64, 8, tokens=length, official=True)
    chosen = np.arange(length - 2)
    theirs, ours = official.positions_of(1, chosen), mended.positions_of(1, chosen)
    assert (np.diff(ours) > 0).all() and np.array_equal(theirs[:-1], ours[:-1])
    assert np.diff(theirs)[-1] == {64: 1, 128: 0, 256: -0.5}[length]
    for index in range(20):
        for draw in (mended, official):
            drawn = draw.draw(length, 0, 0, index).positions
            t = draw.factor(drawn)
            assert 1 <= t <= 8 and drawn.max() <= 64 * t - 1 / draw.compression
    batch = collate([{"input_ids": np.arange(length), "position_ids": ours, "clex_t": 1}])
    kept = batch["position_ids"].dtype
    assert kept == (torch.int64 if length == 64 else torch.float32)
