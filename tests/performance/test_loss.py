"""The losses beside each other, on a head that a CPU multiplies at once."""

from __future__ import annotations

import json
import sys
import types

import pytest
import torch

from cream import results
from cream.performance import loss as performance_loss


def test_losses_are_measured_and_written(tmp_path, capsys):
    """Ours and the plain one agree; what cannot be run is said."""
    file = tmp_path / "rows.jsonl"
    performance_loss.main(["--shape", "tiny", "--repeats", "1", "--rows", str(file)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Liger-Kernel: not run (needs a card and the package liger-kernel)"
    assert lines[1].startswith("ours: ") and lines[2].startswith("all logits in float32: ")
    loss = [line.split("loss ")[1].split(",")[0] for line in lines[1:]]
    assert loss[0] == loss[1]
    rows = results.read(file)
    assert set(rows["task"]) == {"speed_loss"} and (rows["score"] > 0).all()
    errors = [json.loads(one)["head_gradient_error"] for one in rows["settings"]]
    assert len(errors) == 2 and all(0 < error < 0.01 for error in errors)


def test_the_librarys_loss_is_given_what_it_expects(monkeypatch):
    """Head first, then hidden states, as LigerFusedLinearCrossEntropyLoss reads them."""

    class Fused:
        def __init__(self, accum_dtype=None):
            self.kind = accum_dtype

        def __call__(self, weight, hidden, labels):
            return torch.nn.functional.cross_entropy((hidden @ weight.T).float(), labels)

    library = types.ModuleType("liger_kernel.transformers")
    library.LigerFusedLinearCrossEntropyLoss = Fused
    monkeypatch.setitem(sys.modules, "liger_kernel", types.ModuleType("liger_kernel"))
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", library)
    monkeypatch.setattr(performance_loss.importlib.util, "find_spec", lambda _: True)
    losses = performance_loss._losses(torch.device("cuda"))
    assert len(losses) == 4
    hidden, weight = torch.randn(6, 8), torch.randn(20, 8)
    labels = torch.tensor([3, -100, 5, 0, 19, 1])
    plain = losses.pop("all logits in float32")(hidden, weight, labels)
    for name, loss in losses.items():
        if name != "ours":  # compiled on a card
            torch.testing.assert_close(loss(hidden, weight, labels), plain)
    torch.testing.assert_close(
        performance_loss._losses(torch.device("cpu"))["ours"](hidden, weight, labels), plain
    )


def test_how_far_a_gradient_is_from_float32s():
    one, other = torch.ones(4), torch.tensor([1.0, 1.0, 1.0, 3.0])
    assert performance_loss._apart((None, one), (None, one)) == 0
    assert performance_loss._apart((None, other), (None, one)) == pytest.approx(1.0)
