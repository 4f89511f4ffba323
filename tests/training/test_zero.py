"""ZeRO on two CPU processes: losses, weights, resuming; the loss in a call of the head."""

from __future__ import annotations

import importlib.util

import pytest
import torch
import training_runs
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from cream import models
from cream.training import zero as training_zero
from cream.training.loss import chunked_loss, mean_loss

needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed"
)
RUN = {"steps": 4, "batch_size": 4, "micro_batch": 1, "save_steps": 2, "seed": 3}
SHARDED = [(1, "float32"), (1, "master"), (2, "master"), (3, "float32"), (3, "master")]


def inputs(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(2, 600, (2, 40), generator=generator)
    labels = tokens.clone()
    labels[0, :25] = -100
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": labels}


@pytest.mark.parametrize("tied", [False, True])
def test_the_loss_in_a_call_of_the_head_is_the_chunked_loss(tiny_model, tied):
    """With its gradients; hooks of the head see the call, which DeepSpeed gathers weights by."""
    model = tiny_model(tie_word_embeddings=tied).train()
    chunked_loss(model, inputs()).backward()
    wanted = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    seen = []
    model.get_output_embeddings().register_forward_pre_hook(lambda *_: seen.append("called"))
    training_zero.lose_in_forward(model)
    loss = mean_loss(model, inputs())
    loss.backward()
    assert seen == ["called"]
    assert torch.equal(loss, chunked_loss(model, inputs()))
    for parameter, gradient in zip(model.parameters(), wanted, strict=True):
        assert torch.equal(parameter.grad, gradient)


def test_without_labels_the_model_answers_as_ever(tiny_model):
    """Logits, and generation, which looks at the arguments of forward."""
    plain, changed = tiny_model(), tiny_model()
    training_zero.lose_in_forward(changed)
    tokens = inputs()["input_ids"]
    assert torch.equal(plain(tokens).logits, changed(tokens).logits)
    asked = {"max_new_tokens": 3, "do_sample": False, "attention_mask": torch.ones_like(tokens)}
    assert torch.equal(plain.generate(tokens, **asked), changed.generate(tokens, **asked))


def test_a_model_is_saved_from_a_shell_and_given_weights(tiny_model, tiny_tokenizer, tmp_path):
    """As if it had held them itself, also where they have another dtype than it computes with."""
    model = tiny_model()
    state = {name: one.bfloat16() for name, one in model.named_parameters()}
    made = training_zero.shell(model.half(), torch.bfloat16)
    assert all(one.is_meta for one in made.parameters())
    models.save(made, tiny_tokenizer, tmp_path / "made", state_dict=dict(state))
    read = AutoModelForCausalLM.from_pretrained(tmp_path / "made", dtype="auto")
    assert read.dtype == torch.bfloat16
    for name, one in read.named_parameters():
        assert torch.equal(one, state[name])


def test_a_checkpoint_of_other_processes_is_refused(tmp_path):
    """By what is known: of one without DeepSpeed not how many processes wrote it."""
    checkpoint = tmp_path / "run" / "checkpoints" / "checkpoint-3"
    checkpoint.mkdir(parents=True)
    for processes in (1, 2):
        training_zero.check_resumable(checkpoint, 0, processes)
    setting = 'start one process of precision .master., else write "zero": 0 into .*run/config.json'
    with pytest.raises(ValueError, match=f"written at zero 0, and this run has 2 at .*{setting}"):
        training_zero.check_resumable(checkpoint, 1, 2)
    training_zero.note_sharding(checkpoint, 2, 4)
    training_zero.check_resumable(checkpoint, 2, 4)
    for zero, processes, cure in ((1, 4, 'write "zero": 2'), (2, 2, "start 4 processes"),
                                  (0, 1, "start 4 processes")):  # fmt: skip
        with pytest.raises(ValueError, match=f"written by 4 processes at zero 2.*{cure}"):
            training_zero.check_resumable(checkpoint, zero, processes)


@needs_deepspeed
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_two_processes_at_every_stage_train_as_one(training_place, tmp_path):
    """Issue 4: losses and the saved model; stopped in between and resumed: the same bits."""
    training_runs.share(training_place, tmp_path)
    jobs = []
    for zero, precision in SHARDED:
        settings = {**RUN, "zero": zero, "precision": precision, "compile": "none"}
        jobs += [training_runs.job(tmp_path / f"{zero}-{precision}", **settings)]
        if precision == "master":  # in step 3, after the checkpoint of step 2
            kills, run = (("forward", 6), None), tmp_path / f"{zero}-stopped"
            jobs += [training_runs.job(run, kill, **settings) for kill in kills]
    training_runs.run_jobs(tmp_path, jobs, processes=2)
    for precision, close in (("float32", 1e-5), ("master", 2e-3)):
        plain = tmp_path / f"plain {precision}"
        training_runs.train(training_place, plain, **RUN, precision=precision)
        wanted = training_runs.losses(plain)
        held = load_file(plain / "model" / "model.safetensors")
        for zero in [zero for zero, kind in SHARDED if kind == precision]:
            run = tmp_path / f"{zero}-{precision}"
            assert training_runs.losses(run) == pytest.approx(wanted, rel=close), run.name
            found = load_file(run / "model" / "model.safetensors")
            assert found.keys() == held.keys()
            for name, one in found.items():
                assert one.dtype == torch.float32
                assert (one - held[name]).norm() <= close * held[name].norm(), (run.name, name)
                assert not torch.equal(one, one.bfloat16().float())  # masters, not their rounding
    for zero in (1, 2, 3):
        whole, stopped = tmp_path / f"{zero}-master", tmp_path / f"{zero}-stopped"
        assert training_runs.losses(stopped) == training_runs.losses(whole)
        assert training_runs.weights(stopped) == training_runs.weights(whole)
        assert training_runs.seen(stopped) == {
            step: one for step, one in training_runs.seen(whole).items() if step > 2
        }
