"""Angles on a GPU: those of the CPU, to the last positions of 256K tokens."""

from __future__ import annotations

import copy

import pytest
import tiny_models
import torch

from cream import models, rope
from cream.rope import clex

POSITIONS = torch.tensor([[0, 1, 63, 64, 4095, 65_537, 200_003, 262_143]])
NEAR = {"rtol": 0, "atol": 1e-6}  # of a cosine: the same float32 angle on both
# Stock longrope computes its frequencies anew in each forward, on the card by the card's power.
ANEW, ROUNDED = ("yarn", "cope"), 1e-6  # relative difference of their angles


def made(kind: str, scale: int) -> torch.nn.Module:
    config = models.extend(tiny_models.config("llama"), rope.scaling(kind, scale))
    model = models.create(config, seed=0)
    if kind == "clex":
        torch.manual_seed(0)
        with torch.no_grad():
            for matrix in clex.trained_matrices(model):
                matrix.copy_(0.1 * torch.randn_like(matrix))
    return model


def angles(model: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    (rotary,) = [each for each in model.modules() if hasattr(each, "inv_freq")]
    states = torch.zeros(1, POSITIONS.shape[1], 48, device=model.device)
    return tuple(one.cpu() for one in rotary(states, POSITIONS.to(model.device)))


@pytest.mark.parametrize("kind", tiny_models.STOCK_KINDS)
def test_angles_of_every_scaling_are_those_of_the_cpu(device, kind):
    model = made(kind, 1 if kind == "none" else 16)
    wanted = angles(model)
    found = angles(copy.deepcopy(model).to(device))
    (rotary,) = [each for each in model.modules() if hasattr(each, "inv_freq")]
    turned = POSITIONS[0, :, None] * torch.cat([rotary.inv_freq.abs().cpu()] * 2)
    near = NEAR["atol"] + (ROUNDED * turned if kind in ANEW and device.type == "cuda" else 0)
    for one, other in zip(found, wanted, strict=True):
        assert ((one - other).abs() <= near).all(), (one - other).abs().max()


@pytest.mark.parametrize("tokens", [64, 200, 1024])
def test_clex_turns_as_on_the_cpu(device, tokens):
    """At t = 1, 4 and 16, by matrices that stay float32 in a bfloat16 model."""
    model = made("clex", 16)
    there = copy.deepcopy(model).to(device, torch.bfloat16)
    layer = clex.layer_of(there)
    assert {one.dtype for one in clex.trained_matrices(there)} == {torch.float32}
    states = torch.zeros(1, 1, 1)
    with clex.chosen(model, tokens), torch.no_grad():
        wanted = clex.layer_of(model).angles(states, POSITIONS)
    with clex.chosen(there, tokens), torch.no_grad():
        found = layer.angles(states.to(device), POSITIONS.to(device))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.cpu(), other, **NEAR)


def test_clex_learns_as_on_the_cpu(device):
    """The gradient of both matrices, through examples at two different t."""
    gradients = []
    for place in (torch.device("cpu"), device):
        model = made("clex", 16).to(place).train()
        clex.draw(model, (2, 16))
        layer = clex.layer_of(model)
        positions = POSITIONS[:, :4].to(place).expand(2, -1)
        cos, sin = layer.angles(torch.zeros(1, 1, 1, device=place), positions)
        (cos - 2 * sin).sum().backward()
        gradients.append([one.grad.cpu() for one in clex.trained_matrices(model)])
    for one, other in zip(*gradients, strict=True):
        assert one.abs().max() > 0
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * other.abs().max().item())
