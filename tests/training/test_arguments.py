"""What a run's config is in the words of the Trainer."""

import pytest
import torch
import training_runs
import transformers

from cream.training import arguments


def test_one_process_takes_one_card(tmp_path, monkeypatch):
    """Where several are in sight, Trainer would spread each micro-batch and multiply the batch."""

    class TwoCards(transformers.TrainingArguments):
        def __post_init__(self):
            super().__post_init__()
            self._n_gpu = 2

    assert (
        TwoCards(str(tmp_path), per_device_train_batch_size=4, use_cpu=True).train_batch_size == 8
    )
    monkeypatch.setattr(arguments, "TrainingArguments", TwoCards)
    assert arguments.trainer_arguments(training_runs.config(), tmp_path).train_batch_size == 4


def test_graphs_do_not_accumulate(tmp_path, monkeypatch):
    """On a card, whole-model compilation and several forward passes a step exclude each other."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    config = training_runs.config(compile="model", batch_size=8, micro_batch=4)
    with pytest.raises(ValueError, match="batch_size 8 takes 2 forward passes; choose 'layers'"):
        arguments.trainer_arguments(config, tmp_path)
