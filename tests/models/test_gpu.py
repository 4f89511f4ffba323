"""Attention by every kernel that can be chosen, over skipped positions, against plain arithmetic.

In float16, which every kernel takes and which is finer than bfloat16, beside the same weights in
float32 by torch's math backend.
"""

from __future__ import annotations

import importlib.util

import pytest
import tiny_models
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from cream import models
from cream.models import loading
from cream.models.attention import FLASH4

# A head, a middle and a tail, as the samplers make them.
POSITIONS = torch.tensor([*range(32), *range(500, 532), *range(736, 768)])
HEADS = {"hidden_size": 128, "num_attention_heads": 2, "num_key_value_heads": 1}
LOGITS, GRADIENT, EFFECT = 0.02, 0.15, 0.05  # how far apart, as a share of the reference's norm
PACKAGES = {"flash_attention_2": ("flash_attn",), "causal-fa4": FLASH4}


def on_gpu(*names: str) -> list:
    return [pytest.param(name, "cuda", marks=pytest.mark.gpu) for name in names]


KERNELS = [
    ("eager", "cpu"), ("sdpa", "cpu"), ("causal-fa2", "cpu"),
    *on_gpu("eager", "sdpa", "causal-cudnn", "causal-fa2", "flash_attention_2", "causal-fa4"),
]  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A base whose weights are numbers of 16 bits, with two queries a key."""
    model = loading.create(tiny_models.config("llama", **HEADS), seed=0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(weight.half())
    folder = tmp_path_factory.mktemp("kernels") / "base"
    models.save(model, tiny_models.tokenizer(), folder)
    return folder


def loaded(base, attention: str, device: str, dtype: torch.dtype) -> torch.nn.Module:
    return loading.load(base, "yarn", 16, attention=attention, device=device, dtype=dtype)


def computed(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The logits, what token 0 does to those of the tail, and the gradient; all in float32."""
    tokens = torch.randint(2, 64, (2, 96), generator=torch.Generator().manual_seed(1))
    tokens = tokens.to(model.device)
    moved = tokens.clone()
    moved[:, 0] = (tokens[:, 0] + 7) % tiny_models.VOCABULARY
    given = {"position_ids": POSITIONS.to(model.device).expand(2, -1), "use_cache": False}
    out = model(input_ids=tokens, labels=tokens, **given)
    gradients = torch.autograd.grad(out.loss, list(model.parameters()))
    with torch.no_grad():
        other = model(input_ids=moved, **given).logits
    logits = out.logits.detach().float()
    return {"logits": logits, "effect": (other.float() - logits)[:, -32:],
            "gradient": torch.cat([one.float().flatten() for one in gradients])}  # fmt: skip


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return ((one - other).norm() / other.norm()).item()


@pytest.fixture(scope="module")
def exact(base):
    """The reference, once a device."""
    found = {}

    def compute(device: str) -> dict[str, torch.Tensor]:
        if device not in found:
            with sdpa_kernel(SDPBackend.MATH):
                found[device] = computed(loaded(base, "sdpa", device, torch.float32))
        return found[device]

    return compute


@pytest.mark.parametrize(("attention", "device"), KERNELS)
def test_a_kernel_reads_over_the_gaps_as_plain_arithmetic_does(base, exact, attention, device):
    """The tail sees the head, by as much; logits and gradients are those of float32."""
    for package in PACKAGES.get(attention, ()):
        if not _installed(package):
            pytest.skip(f"{attention} needs the package {package}")
    found, wanted = computed(loaded(base, attention, device, torch.float16)), exact(device)
    assert wanted["effect"].abs().mean() > 0.1
    off = {name: apart(found[name], wanted[name]) for name in wanted}
    assert off["logits"] < LOGITS and off["gradient"] < GRADIENT and off["effect"] < EFFECT, off


def _installed(package: str) -> bool:
    parts = package.split(".")
    return all(importlib.util.find_spec(".".join(parts[: n + 1])) for n in range(len(parts)))


def test_an_attention_cut_at_the_gaps_would_be_seen(base, exact):
    """The control: without the guard the head is unread, which no tolerance above lets pass."""
    cut = computed(tiny_models.unguarded(loaded(base, "sdpa", "cpu", torch.float32)))
    off = {name: apart(cut[name], one) for name, one in exact("cpu").items()}
    assert off["logits"] > 4 * LOGITS and off["gradient"] > 4 * GRADIENT
    assert off["effect"] == pytest.approx(1.0, abs=1e-3)
