"""MasterAdamW against AdamW on float32 weights by hand: halves, sums, clipping, states."""

from __future__ import annotations

import contextlib
import gc
import threading
import weakref

import numpy as np
import pytest
import torch
import training_runs

from cream import models
from cream.training import callbacks
from cream.training import optimizer as optimizer_module
from cream.training import run as training_run
from cream.training.optimizer import MasterAdamW, join, split

SETTINGS = {"lr": 3e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}


def rounded(weight: torch.Tensor) -> torch.Tensor:
    """The nearest number of 8 significant bits, ties away from zero, in doubles."""
    mantissa, exponent = np.frexp(weight.double().numpy())
    scaled = np.floor(np.abs(mantissa) * 2**8 + 0.5) / 2**8
    return torch.from_numpy(np.copysign(np.ldexp(scaled, exponent), mantissa)).bfloat16()


def awkward() -> torch.Tensor:
    """Numbers of all sizes and signs, ties up and down, zeros and infinities."""
    torch.manual_seed(0)
    drawn = torch.randn(20_000) * 10 ** (6 * torch.randn(20_000)).clamp(-30, 30)
    ties = (torch.randint(0x3F00, 0x4100, (500,)) << 16 | 0x8000).int().view(torch.float32)
    ends = torch.tensor([0.0, -0.0, float("inf"), -float("inf"), 1e-38, -3e38])
    return torch.cat([drawn, ties, -ties, ends])


def test_a_weight_is_its_rounding_and_its_other_bits():
    weight = awkward()
    high, low = split(weight)
    assert (high.dtype, low.dtype) == (torch.bfloat16, torch.int16)
    assert torch.equal(join(high, low).view(torch.int32), weight.view(torch.int32))
    normal = weight.abs() > 1.2e-38
    assert torch.equal(high[normal], rounded(weight[normal]))
    differs = high != weight.bfloat16()
    assert 0 < differs.sum() <= 1000  # ties alone


def test_no_weight_that_is_not_a_number_looks_like_one():
    """Every NaN: CUDA's has all bits set, which rounding carries over into -0."""
    bits = torch.tensor([0x7FFFFFFF, 0x7FC00000, 0x7F800001, 0x7FFF8000, -1], dtype=torch.int32)
    high, low = split(bits.view(torch.float32))
    assert high.isnan().all() and join(high, low).isnan().all()


def tiny(tiny_model, **changes):
    return tiny_model(num_hidden_layers=2, initializer_range=0.1, **changes).train()


def batches(steps: int, micro: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(2, 600, (steps, micro, 2, 24), generator=generator)


def loss_of(model, tokens):
    logits = model(tokens).logits.float()
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def by_hand(model, steps: torch.Tensor, max_norm: float) -> tuple[list, list]:
    """AdamW on float32 masters; the model's weights are their roundings. Masters and norms."""
    masters = [torch.nn.Parameter(p.detach().clone()) for p in model.parameters()]
    stock, norms = torch.optim.AdamW(masters, fused=True, **SETTINGS), []
    for step in steps:
        total = [torch.zeros_like(master) for master in masters]
        for p, master in zip(model.parameters(), masters, strict=True):
            p.data = rounded(master.detach())
        for tokens in step:
            grads = torch.autograd.grad(loss_of(model, tokens), list(model.parameters()))
            total = [a + g.float() for a, g in zip(total, grads, strict=True)]
        for master, grad in zip(masters, total, strict=True):
            master.grad = grad
        norms.append(torch.nn.utils.clip_grad_norm_(masters, max_norm).item())
        stock.step()
    return [master.detach() for master in masters], norms


@pytest.mark.parametrize("tied", [False, True])
def test_steps_are_those_of_adamw_on_float32_weights(tiny_model, tied):
    """Bit for bit: sums over micro-batches, clipping (all norms are beyond it) and updates."""
    steps = batches(6, 3)
    wanted, norms = by_hand(tiny(tiny_model, tie_word_embeddings=tied), steps, max_norm=0.5)
    model, found = tiny(tiny_model, tie_word_embeddings=tied), []
    optimizer = MasterAdamW(model.parameters(), **SETTINGS, max_norm=0.5)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    for step in steps:
        for tokens in step:
            loss_of(model, tokens).backward()
            assert all(p.grad is None for p in model.parameters())
        optimizer.step()
        found.append(optimizer.norm.item())
    assert found == norms and min(norms) > 0.5
    for p, master in zip(model.parameters(), wanted, strict=True):
        assert torch.equal(optimizer.master(p), master)
        assert torch.equal(p.data, rounded(master))
    optimizer.restore()
    for p, master in zip(model.parameters(), wanted, strict=True):
        assert torch.equal(p.data, master)


def test_small_gradients_are_not_lost_in_the_sum():
    """1 + 64 x 0.01: in bfloat16 the small ones round away."""
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = MasterAdamW([parameter], lr=0.1)
    (parameter.float() * 1.0).sum().backward()
    for _ in range(64):
        (parameter.float() * 0.01).sum().backward()
    small = torch.tensor(0.01).bfloat16().float()
    torch.testing.assert_close(optimizer.gradient(parameter), (1 + 64 * small).expand(3))


def test_what_a_step_left_or_nobody_touched_counts_nothing():
    """A parameter without a gradient, and sums after a step and after `zero_grad`."""
    used, unused = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = MasterAdamW([used, unused], lr=0.1)
    for _ in range(2):
        (used.float() * 3).sum().backward()
        assert optimizer.gradient(used).tolist() == [3, 3]
        optimizer.step()
        assert optimizer.norm.item() == pytest.approx(18**0.5)
    assert optimizer.gradient(used).tolist() == [0, 0]
    assert optimizer.master(unused).tolist() == [1, 1] and optimizer.master(used).max() < 1
    (used.float() * 3).sum().backward()
    optimizer.zero_grad()
    assert optimizer.gradient(used).tolist() == [0, 0]


def test_steps_smaller_than_the_models_precision_add_up():
    """bfloat16 weights alone would stand still: 1 - 1e-4 rounds to 1."""
    parameter = torch.nn.Parameter(torch.ones(4))
    optimizer = MasterAdamW([parameter], lr=1e-4)
    for _ in range(50):
        parameter.float().sum().backward()
        optimizer.step()
    assert optimizer.master(parameter) == pytest.approx([1 - 50e-4] * 4, rel=1e-5)
    assert parameter[0].item() < 1


def test_parameters_that_are_updated_together_change_no_bit(tiny_model, monkeypatch):
    """One at a time, a few at a time, all at once; in two groups."""
    found, calls, kernel = [], [], optimizer_module.adamw
    monkeypatch.setattr(
        optimizer_module, "adamw", lambda *a, **k: calls.append(a) or kernel(*a, **k)
    )
    for together in (0, 5000, 2**25):
        monkeypatch.setattr(optimizer_module, "TOGETHER", together)
        model = tiny(tiny_model)
        calls.clear()
        listed = list(model.parameters())
        groups = [{"params": listed[:7], "weight_decay": 0.1}, {"params": listed[7:]}]
        optimizer = MasterAdamW(groups, **{**SETTINGS, "weight_decay": 0.0})
        for (tokens,) in batches(2, 1):
            loss_of(model, tokens).backward()
            optimizer.step()
        assert sum(len(call[0]) for call in calls) == 2 * len(listed)
        found.append((len(calls), [optimizer.master(each) for each in listed]))
    counts, weights = zip(*found, strict=True)
    assert counts[0] == 2 * len(listed) > counts[1] > counts[2] == 4
    for each in zip(*weights, strict=True):
        assert torch.equal(each[0], each[1]) and torch.equal(each[0], each[2])


@pytest.mark.parametrize("offload", [False, True])
def test_a_state_that_was_saved_goes_on_bit_for_bit(tiny_model, tmp_path, offload):
    """Through torch.save, into an optimizer of other weights; moments stay float32."""
    steps = batches(4, 1)

    def run(model, optimizer, part):
        for (tokens,) in part:
            loss_of(model, tokens).backward()
            optimizer.step()
        return [optimizer.master(p) for p in model.parameters()]

    model = tiny(tiny_model)
    optimizer = MasterAdamW(model.parameters(), **SETTINGS, offload=offload)
    run(model, optimizer, steps[:2])
    torch.save(optimizer.state_dict(), tmp_path / "state")
    wanted = run(model, optimizer, steps[2:])
    other = tiny(tiny_model, seed=9)
    again = MasterAdamW(other.parameters(), **{**SETTINGS, "lr": 1.0}, offload=not offload)
    again.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    assert again.param_groups[0]["lr"] == SETTINGS["lr"]
    found = run(other, again, steps[2:])
    assert all(torch.equal(a, b) for a, b in zip(wanted, found, strict=True))
    state = next(iter(again.state.values()))
    assert (state["exp_avg"].dtype, state["low"].dtype) == (torch.float32, torch.int16)


def test_the_state_of_another_optimizer_is_refused(tiny_model):
    model = tiny(tiny_model)
    stock = torch.optim.AdamW(model.parameters()).state_dict()
    with pytest.raises(ValueError, match="resumes only runs of precision 'master'"):
        MasterAdamW(model.parameters(), lr=1e-3).load_state_dict(stock)
    with pytest.raises(ValueError, match="a parameter is torch.bfloat16"):
        MasterAdamW(model.parameters(), lr=1e-3)


def test_an_optimizer_that_is_dropped_is_freed(tiny_model):
    model = tiny(tiny_model)
    optimizer = MasterAdamW(model.parameters(), **SETTINGS)
    gone = weakref.ref(optimizer)
    del optimizer, model
    gc.collect()
    assert gone() is None


@pytest.mark.gpu
def test_moments_in_ram_change_no_bit_on_a_card(tiny_model):
    """Locked to their pages while they are held, and no longer."""
    found = []
    for offload, resident in ((False, 0), (True, 400_000), (True, 0)):
        model = tiny(tiny_model).cuda()
        optimizer = MasterAdamW(model.parameters(), **SETTINGS, offload=offload, resident=resident)
        for (tokens,) in batches(3, 1):
            loss_of(model, tokens.cuda()).backward()
            optimizer.step()
        held = [optimizer.state[each]["exp_avg"] for each in model.parameters()]
        assert all(each.is_pinned() for each in held if not each.is_cuda)
        places = {each.device.type for each in held}
        assert places == ({"cpu", "cuda"} if resident else {"cpu" if offload else "cuda"})
        found.append([optimizer.master(each) for each in model.parameters()])
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))
    address = held[0].data_ptr()
    del held, optimizer, model
    gc.collect()
    assert torch.cuda.cudart().cudaHostUnregister(address) != torch.cuda.cudart().cudaError.success
    with contextlib.suppress(RuntimeError):  # the runtime keeps this error for the next call
        torch.ones(1, device="cuda").add_(1)


@pytest.mark.slow
def test_compiled_passes_give_the_same_bits(tiny_model):
    """Also called from another thread, as autograd calls its hooks on a card."""
    found = []
    for compiled in (False, True):
        model = tiny(tiny_model)
        optimizer = MasterAdamW(model.parameters(), **SETTINGS, compiled=compiled)
        for first, second in batches(2, 2):
            loss_of(model, first).backward()
            thread = threading.Thread(target=lambda m=model, t=second: loss_of(m, t).backward())
            thread.start()
            thread.join()
            optimizer.step()
        found.append([optimizer.master(p) for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    weight = awkward()
    halves = torch.compile(split, dynamic=True)(weight)
    assert all(torch.equal(a, b) for a, b in zip(halves, split(weight), strict=True))


RUN = {"steps": 6, "batch_size": 4, "micro_batch": 2, "save_steps": 2, "seed": 3}


@pytest.mark.slow
def test_a_run_that_is_stopped_goes_on_bit_for_bit(training_place, tmp_path, monkeypatch):
    """Through the Trainer, its checkpoints and the files it leaves; saved from the masters."""
    settings = {**RUN, "precision": "master", "recompute": 1, "weight_decay": 0.1}
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    training_runs.train(training_place, whole, **settings)
    with monkeypatch.context() as patched:
        compute, calls = training_run.CreamTrainer.compute_loss, iter(range(1, 99))

        def dying(*given, **more):
            if next(calls) == 8:
                raise KeyboardInterrupt
            return compute(*given, **more)

        patched.setattr(training_run.CreamTrainer, "compute_loss", dying)
        with pytest.raises(KeyboardInterrupt):
            training_runs.train(training_place, stopped, **settings)
    assert (stopped / "checkpoints" / "checkpoint-2").is_dir()
    training_runs.train(training_place, stopped, **settings)
    assert training_runs.weights(stopped) == training_runs.weights(whole)
    assert training_runs.losses(stopped) == training_runs.losses(whole)
    state = models.load(whole / "model").state_dict()
    finer = [name for name, one in state.items() if not torch.equal(one, one.bfloat16().float())]
    assert len(finer) == len(state)  # float32 weights, not roundings


def test_a_run_learns_as_in_float32(training_place, tmp_path):
    """The same losses within bfloat16's noise, norms too; the model it saves rounds the masters."""
    found = {}
    for precision in ("float32", "master"):
        run = tmp_path / precision
        settings = {"steps": 8, "precision": precision, "micro_batch": 2, "save_dtype": "bfloat16"}
        training_runs.train(training_place, run, **settings)
        found[precision] = callbacks.read_metrics(run / "metrics.jsonl")
    for plain, ours in zip(found["float32"], found["master"], strict=True):
        assert ours["loss"] == pytest.approx(plain["loss"], rel=5e-3)
        assert ours["grad_norm"] == pytest.approx(plain["grad_norm"], rel=5e-2)
    assert found["master"] != found["float32"]
