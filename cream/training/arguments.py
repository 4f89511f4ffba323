"""A run's config in the words of transformers' Trainer.

What belongs here: which setting of ours is which of `TrainingArguments`, and how many forward
passes make a step. The optimizer loop is `trainer`'s.
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import TrainingArguments

from cream.training import parallel
from cream.training.config import TrainConfig
from cream.utils.launcher import whole

__all__ = ["accumulation", "trainer_arguments"]


def trainer_arguments(config: TrainConfig, run_dir: Path, room: int = 2) -> TrainingArguments:
    """Return the Trainer's settings; `room` is how many checkpoints are kept."""
    cuda, master = torch.cuda.is_available(), config.precision == "master"
    passes = accumulation(config, whole("WORLD_SIZE", 1))
    arguments = TrainingArguments(
        output_dir=str(run_dir / "checkpoints"),
        max_steps=config.steps,
        per_device_train_batch_size=config.micro_batch,
        gradient_accumulation_steps=passes,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        adam_beta1=config.adam_betas[0],
        adam_beta2=config.adam_betas[1],
        # Our own optimizer clips by itself.
        max_grad_norm=0.0 if master and not config.sharded else config.max_grad_norm,
        seed=config.seed,
        use_cpu=not cuda,
        bf16=master and config.sharded,
        deepspeed=parallel.deepspeed_config(config) if config.sharded else None,
        optim="adamw_torch_fused",
        save_strategy="steps" if config.save_steps else "no",
        save_steps=config.save_steps or config.steps,
        save_total_limit=max(room, 1),
        logging_steps=config.log_steps,
        logging_nan_inf_filter=False,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        dataloader_num_workers=config.workers,
        dataloader_persistent_workers=config.workers > 0,
        dataloader_pin_memory=cuda,
        accelerator_config={"non_blocking": cuda},
        disable_tqdm=True,
        report_to=[],
    )
    # One process drives one GPU: nn.DataParallel would multiply the batch by the cards it sees.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def accumulation(config: TrainConfig, processes: int) -> int:
    """Return how many forward passes of every process make a step."""
    passes = config.accumulation(processes)
    if torch.cuda.is_available() and config.compile == "model" and passes > 1:
        raise ValueError(
            f"compile is 'model', whose CUDA graphs cannot accumulate gradients, and batch_size "
            f"{config.batch_size} takes {passes} forward passes; choose 'layers' or a larger "
            "micro_batch"
        )
    return passes
