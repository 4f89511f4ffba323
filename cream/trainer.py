"""The optimizer loop: stock Trainer with our schedule, our loss and our choice of compilation."""

from __future__ import annotations

import contextlib

import torch
from transformers import PreTrainedModel, Trainer, TrainingArguments

from cream.training_config import TrainConfig

__all__ = ["CreamTrainer", "compile_layers", "learning_rate_factor"]

WORTH_COMPILING = 500  # steps; compiling a small model takes as long as a few hundred of its steps


def learning_rate_factor(step: int, steps: int, warmup: int) -> float:
    """Return the share of the peak rate used by optimizer step `step` (from 0).

    Linear warm-up that starts above 0 and linear decay that ends above 0: no step is wasted. The
    official run's first steps were 1, 0, 0.3, ... of the peak (protocols 4.1).
    """
    if step < warmup:
        return (step + 1) / warmup
    return max(0.0, (steps - step) / (steps - warmup))


class CreamTrainer(Trainer):
    """Stock Trainer, but for a schedule that wastes no step and a loss that can be compiled whole.

    Autocast stands around our own loss rather than in accelerate's wrapper, which would copy all
    logits to float32. Where every example has the same number of labels, means of micro-batches
    and processes average to that of the batch; else (`uneven`) each is weighted by its labels.
    """

    def __init__(self, config: TrainConfig, uneven: bool = False, **kwargs: object):
        super().__init__(**kwargs)
        self.warmup, self.precision = config.warmup_steps, config.precision
        parts = self.args.gradient_accumulation_steps * self.args.world_size
        self.model_accepts_loss_kwargs = uneven and parts > 1  # Trainer then counts the labels
        self.compiled = _compile_choice(config, self.args)
        self.loss = mean_loss
        if self.compiled == "model":
            mode = "reduce-overhead" if self.args.device.type == "cuda" else "default"
            self.loss = torch.compile(mean_loss, mode=mode, dynamic=False)

    def compute_loss_context_manager(self) -> contextlib.AbstractContextManager:
        """Compute in bfloat16 on float32 weights where the configuration says so."""
        device = self.args.device.type
        bfloat16 = device == "cuda" if self.precision == "auto" else self.precision == "bfloat16"
        return torch.autocast(device, torch.bfloat16, enabled=bfloat16)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Return the mean loss over the micro-batch, or its share in that over all labels."""
        if self.compiled == "model":
            torch.compiler.cudagraph_mark_step_begin()
        loss = self.loss(model, inputs)
        if num_items_in_batch is None:
            return loss
        labels = (inputs["labels"] != -100).sum()
        loss = torch.where(labels > 0, loss, 0.0)  # the mean over no label is not a number
        return loss * labels * self.args.world_size / num_items_in_batch

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Build `learning_rate_factor` as a scheduler."""
        if self.lr_scheduler is None:
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                optimizer or self.optimizer,
                lambda step: learning_rate_factor(step, num_training_steps, self.warmup),
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler


def mean_loss(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the model's own loss; compiled as a whole, its logits need never be stored."""
    return model(**inputs, use_cache=False).loss


def _compile_choice(config: TrainConfig, arguments: TrainingArguments) -> str:
    if config.compile != "auto":
        return config.compile
    if arguments.device.type != "cuda" or config.steps < WORTH_COMPILING:
        return "none"
    # CUDA graphs own the memory of their gradients, which accumulation would keep between replays.
    whole = arguments.gradient_accumulation_steps == 1 and arguments.world_size == 1
    return "model" if whole and not config.gradient_checkpointing else "layers"


def compile_layers(model: PreTrainedModel) -> None:
    """Compile each decoder layer and the loss: one graph serves all layers, in seconds.

    The mask is made outside of the compiled parts, so a mask of ones still takes the causal kernel.
    """
    count = model.config.get_text_config().num_hidden_layers
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            for layer in module:
                layer.compile()
            model.loss_function = torch.compile(model.loss_function)
            return
    raise ValueError(f"{type(model).__name__} has no list of {count} layers; compile='none'")
