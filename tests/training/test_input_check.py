"""A trainer of one's own: the same step as ours, and an error where it loses positions or mask."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import training_runs
from peft import LoraConfig, get_peft_model
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from cream import models
from cream.data import ExampleDataset, collate
from cream.positions import sampler
from cream.training import check_inputs

WINDOW, SCALE, RATE = training_runs.WINDOW, training_runs.SCALE, 1e-3
ONE = {"steps": 1, "warmup_steps": 0, "learning_rate": RATE, "precision": "float32", "seed": 5}


@pytest.fixture(scope="module")
def examples(training_place) -> ExampleDataset:
    """The four examples of one step of the tests' run."""
    tokenizer = models.load_tokenizer(training_place / "base")
    draw = sampler("cream", WINDOW, SCALE)
    return ExampleDataset(training_place / "corpus", draw, ONE["seed"], 4, tokenizer)


@pytest.fixture(scope="module")
def ours(training_place, tmp_path_factory):
    """The loss of cream.training's one step, and the weights after it."""
    run = tmp_path_factory.mktemp("ours") / "run"
    folder = training_runs.train(training_place, run, **ONE)
    return training_runs.losses(run)[1], models.load(folder, device="cpu").state_dict()


def _base(place):
    return check_inputs(models.load(place / "base", "linear", SCALE, device="cpu"))


def _settings(place) -> dict:
    return dict(
        output_dir=str(place), max_steps=1, per_device_train_batch_size=4, learning_rate=RATE,
        lr_scheduler_type="constant", logging_steps=1, train_sampling_strategy="sequential",
        remove_unused_columns=False, save_strategy="no", report_to=[], disable_tqdm=True,
        use_cpu=True,
    )  # fmt: skip


def _same(ours, loss: float, model) -> None:
    """Losses to 1e-5, weights to a hundredth of what AdamW's first step moves them by."""
    assert loss == pytest.approx(ours[0], abs=1e-5)
    for name, each in model.state_dict().items():
        torch.testing.assert_close(each, ours[1][name], rtol=0, atol=RATE / 100, msg=name)


def test_transformers_trainer_takes_the_same_step(training_place, examples, ours, tmp_path):
    model = _base(training_place)
    trainer = Trainer(
        model=model, args=TrainingArguments(**_settings(tmp_path)), train_dataset=examples,
        data_collator=collate,
    )  # fmt: skip
    _same(ours, trainer.train().training_loss, model)


def test_trl_takes_the_same_step(training_place, examples, ours, tmp_path):
    trl = pytest.importorskip("trl", reason="TRL is not installed: pip install trl")
    model = _base(training_place)
    how = {"dataset_kwargs": {"skip_prepare_dataset": True}, "max_length": None, "bf16": False}
    trainer = trl.SFTTrainer(
        model=model, args=trl.SFTConfig(**_settings(tmp_path), **how), data_collator=collate,
        train_dataset=examples.as_datasets(),
        processing_class=models.load_tokenizer(training_place / "base"),
    )  # fmt: skip
    _same(ours, trainer.train().training_loss, model)


def test_a_plain_loop_takes_the_same_step(training_place, examples, ours):
    model = _base(training_place).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
    (batch,) = DataLoader(examples, 4, collate_fn=collate)
    loss = model(**batch).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    _same(ours, loss.item(), model)


def test_collate_always_gives_a_mask_of_ones(examples):
    batch = collate([examples[0], examples[1]])
    assert batch["attention_mask"].shape == (2, WINDOW) and (batch["attention_mask"] == 1).all()
    assert (batch["position_ids"].diff() > 1).any()


def test_the_same_examples_as_a_dataset_of_datasets(examples):
    """One by one and by the batch, with the loss mask of those that have one."""
    other = examples.as_datasets()
    assert len(other) == len(examples)
    for batch in ([other[k] for k in range(4)], other.__getitems__([0, 1, 2, 3])):
        ours = collate([examples[k] for k in range(4)])
        for name, one in collate(batch).items():
            assert torch.equal(one, ours[name]), name
    marked = {"input_ids": np.arange(3), "position_ids": np.arange(3)}
    asked = {"item": [0, 1]}
    rows = [{**marked, "loss_mask": np.array([True, False, True])}, dict(marked)]
    found = ExampleDataset._rows(rows, asked)["loss_mask"]
    assert [one.tolist() for one in found] == [[True, False, True], [True, True, True]]


class Lost:
    """Batches without one of their keys, as a trainer that drops it hands them on."""

    def __init__(self, name: str):
        self.dropped = name

    def __call__(self, examples):
        return {k: v for k, v in collate(examples).items() if k != self.dropped}


@pytest.mark.parametrize("name", ["position_ids", "attention_mask"])
def test_a_trainer_that_drops_something_is_stopped(training_place, examples, tmp_path, name):
    """A stock model, in transformers' own Trainer: before an optimizer step."""
    model = check_inputs(AutoModelForCausalLM.from_pretrained(training_place / "base"))
    before = {key: one.clone() for key, one in model.state_dict().items()}
    trainer = Trainer(
        model=model, args=TrainingArguments(**_settings(tmp_path)), train_dataset=examples,
        data_collator=Lost(name),
    )  # fmt: skip
    with pytest.raises(ValueError, match=f"was given no {name}, so every"):
        trainer.train()
    assert all(torch.equal(one, before[key]) for key, one in model.state_dict().items())


@torch.no_grad()
def test_what_the_check_prevents_is_real(training_place, examples):
    """Without the mask, a stock model's last token does not see the first one."""
    model = AutoModelForCausalLM.from_pretrained(training_place / "base").eval()
    batch = collate([examples[0]])
    del batch["labels"]
    moved = {**batch, "input_ids": batch["input_ids"].clone()}
    moved["input_ids"][0, 0] += 1
    seen = {}
    for name, dropped in (("whole", ""), ("lost", "attention_mask")):
        one, other = ({k: v for k, v in each.items() if k != dropped} for each in (batch, moved))
        difference = model(**one, use_cache=False).logits - model(**other, use_cache=False).logits
        seen[name] = difference[0, -1].abs().max()
    assert seen["whole"] > 1e-5 and seen["lost"] == 0


def test_a_loaded_model_gives_itself_the_mask(training_place, examples):
    """`models.load` guards it: the loss without the mask is the loss with it."""
    model = _base(training_place).train()
    batch = collate([examples[0]])
    whole = model(**batch).loss
    del batch["attention_mask"]
    torch.testing.assert_close(model(**batch).loss, whole, rtol=0, atol=0)
    del batch["position_ids"]
    with pytest.raises(ValueError, match="at its plain position"):
        model(**batch)


def test_peft_and_packing_are_checked_and_evaluation_is_not(training_place, examples):
    """The backbone inside peft's wrapper; seams of packed documents; eval mode is free."""
    stock = AutoModelForCausalLM.from_pretrained(training_place / "base")
    model = check_inputs(get_peft_model(stock, LoraConfig(target_modules="all-linear"))).train()
    batch = collate([examples[0]])
    assert torch.isfinite(model(**batch).loss)
    with pytest.raises(ValueError, match="cu_seq_lens_q.*switch packing"):
        model(**batch, cu_seq_lens_q=torch.tensor([0, 32, 64]))
    lost = {k: v for k, v in batch.items() if k != "position_ids"}
    with pytest.raises(ValueError, match="no position_ids"):
        model(**lost)
    model.eval()(**lost)
