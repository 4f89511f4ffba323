"""The loss by parts against the model's own, gradients too."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config

from cream.training.loss import _loss_and_gradient, check_head, chunked_loss, mean_loss


def inputs(rows: int = 2, length: int = 23, in_loss: float = 0.6) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(2, 600, (rows, length), generator=generator)
    masked = torch.rand(tokens.shape, generator=generator) > in_loss
    return {
        "input_ids": tokens,
        "attention_mask": torch.ones_like(tokens),
        "position_ids": 3 * torch.arange(length).expand(rows, -1),
        "labels": tokens.masked_fill(masked, -100),
    }


def gradients(model, loss: torch.Tensor) -> list[torch.Tensor]:
    return torch.autograd.grad(loss * 0.25, list(model.parameters()))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("rows", [1, 7, 46, 1000])
@pytest.mark.parametrize("in_loss", [0.0, 0.5, 1.0])
def test_parts_make_up_the_models_own_loss(tiny_model, rows, tied, in_loss):
    """Parts that divide the rows and that do not, labels everywhere, uneven and nowhere."""
    model = tiny_model(tie_word_embeddings=tied).train()
    batch = inputs(in_loss=in_loss)
    ours = chunked_loss(model, batch, chunk=rows * 600)
    if in_loss == 0.0:
        assert ours.item() == 0 and all(not g.any() for g in gradients(model, ours))
        return
    own = mean_loss(model, batch)
    assert ours.item() == pytest.approx(own.item(), rel=1e-6)
    for a, b in zip(gradients(model, ours), gradients(model, own), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


def test_in_bfloat16_it_is_as_exact_as_the_models_own(tiny_model):
    """Against the float32 model of the same weights; the head's gradient is a sum of 46 parts."""
    model = tiny_model().bfloat16().train()
    exact = tiny_model()
    exact.load_state_dict(model.state_dict())
    wanted = gradients(exact, mean_loss(exact.train(), inputs()))
    off, head = {}, None
    losses = {"own": mean_loss(model, inputs()), "ours": chunked_loss(model, inputs(), chunk=600)}
    for name, loss in losses.items():
        found = gradients(model, loss)
        pairs = zip(found, wanted, strict=True)
        off[name] = sum((a.float() - b).norm() / b.norm() for a, b in pairs)
        head = head - found[-1].float() if name == "ours" else found[-1].float()
    assert off["ours"] < 1.05 * off["own"]
    assert head.norm() / wanted[-1].norm() < 4e-3


def test_all_logits_are_never_there(tiny_model, monkeypatch):
    """The largest tensor that a part's arithmetic sees."""
    seen = []

    def watched(logits, labels):
        seen.append(tuple(logits.shape))
        return _loss_and_gradient(logits, labels)

    monkeypatch.setattr("cream.training.loss._loss_and_gradient", watched)
    chunked_loss(tiny_model().train(), inputs(), chunk=10 * 600).backward()
    assert seen == [(10, 600)] * 4 + [(6, 600)]


@pytest.mark.usefixtures("traced")
def test_compiled_parts_are_equal(tiny_model):
    model = tiny_model().train()
    plain, compiled = (chunked_loss(model, inputs(), 20 * 600, each) for each in (False, True))
    assert compiled.item() == pytest.approx(plain.item(), rel=1e-6)
    for a, b in zip(gradients(model, compiled), gradients(model, plain), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


def test_a_model_that_does_more_to_its_logits_is_refused(tiny_model):
    check_head(tiny_model())
    small = Gemma2Config(
        vocab_size=600, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=16, final_logit_softcapping=2.0,
        initializer_range=0.5,
    )  # fmt: skip
    with pytest.raises(ValueError, match="the loss of a gemma2 is not its head .* 'bfloat16'"):
        check_head(AutoModelForCausalLM.from_config(small))
