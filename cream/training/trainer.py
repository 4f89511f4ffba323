"""The optimizer loop: stock Trainer with our schedule, our loss and our choice of compilation."""

from __future__ import annotations

import contextlib
import functools
import shutil
from pathlib import Path

import torch
from accelerate import DistributedType
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel, Trainer, TrainingArguments

from cream.rope import clex
from cream.training import lora
from cream.training.config import TrainConfig
from cream.training.loss import check_head, chunked_loss, mean_loss
from cream.training.optimizer import MasterAdamW
from cream.training.zero import lose_in_forward, note_sharding

__all__ = [
    "CreamTrainer",
    "compile_layers",
    "decoder_layers",
    "learning_rate_factor",
    "recompute_layers",
    "recomputing_cheaply",
]

# Of what a compiled layer would keep: a little less than all, so that its element-wise results are
# computed again (they leave 0.73) but neither a product of matrices nor attention.
CHEAP_BUDGET = 0.8
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
    With precision "master" the optimizer holds the float32 weights, and clips (`MasterAdamW`), or
    DeepSpeed does both (`config.zero` of 1 to 3). `sparing`: the disk holds one checkpoint alone.
    """

    masters: MasterAdamW | None = None
    sparing = False
    room = 0  # bytes of the card that a step leaves free, for moments that would lie in RAM

    def __init__(self, config: TrainConfig, uneven: bool = False, **kwargs: object):
        super().__init__(**kwargs)
        self._check_launcher(config)
        self.warmup, self.precision = config.warmup_steps, config.precision
        parts = self.args.gradient_accumulation_steps * self.args.world_size
        self.model_accepts_loss_kwargs = uneven and parts > 1  # Trainer then counts the labels
        self.compiled = _compile_choice(config, self.args)
        self.loss, self.config = mean_loss, config
        if self.precision == "master":
            if clex.layer_of(self.model):
                clex.draw(self.model, (1,))
            with clex.chosen(self.model, 8):
                check_head(self.model)
            quick = self.compiled == "layers" and self.args.device.type == "cuda"
            if config.sharded:  # DeepSpeed's own forward must be called
                lose_in_forward(self.model, compiled=quick)
            else:
                self.loss = functools.partial(chunked_loss, compiled=quick)
        if self.compiled == "model":
            mode = "reduce-overhead" if self.args.device.type == "cuda" else "default"
            self.loss = torch.compile(mean_loss, mode=mode, dynamic=False)

    def _check_launcher(self, config: TrainConfig) -> None:
        """Refuse a launcher's settings under which another than the run's sharding would train."""
        kind = self.accelerator.distributed_type
        if config.sharded != (kind == DistributedType.DEEPSPEED):
            raise ValueError(
                f"zero is {config.zero!r} and accelerate takes {kind.value}: the launcher set "
                "ACCELERATE_USE_CPU or ACCELERATE_USE_DEEPSPEED; start it without --cpu and "
                "--use_deepspeed, zero alone says what is sharded"
            )

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
        clex.draw(self.model, inputs.pop("clex_t", None))
        loss = self.loss(model, inputs)
        if num_items_in_batch is None:
            return loss
        labels = (inputs["labels"] != -100).sum()
        loss = torch.where(labels > 0, loss, 0.0)  # the mean over no label is not a number
        return loss * labels * self.args.world_size / num_items_in_batch

    def training_step(self, *rest: object, **more: object) -> torch.Tensor:
        """Step as Trainer does, with CLEX's matrices clipped before all are clipped together."""
        loss = super().training_step(*rest, **more)
        own = self.config.clex_grad_norm
        if own and self.masters is None and self.accelerator.sync_gradients:
            torch.nn.utils.clip_grad_norm_(clex.trained_matrices(self.model), own)
        return loss

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """Build Trainer's optimizer, or the one that holds the float32 weights itself."""
        if self.precision != "master" or self.config.sharded or self.optimizer is not None:
            return super().create_optimizer(*([] if model is None else [model]))
        decayed = set(self.get_decay_parameter_names(self.model))
        named = [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]
        for _, parameter in named:  # beside a bfloat16 base, LoRA's are bfloat16 until now
            parameter.data = parameter.data.float()
        groups = [
            {"params": [p for n, p in named if (n in decayed) == decays], "weight_decay": amount}
            for decays, amount in ((True, self.args.weight_decay), (False, 0.0))
        ]
        self.optimizer = self.masters = MasterAdamW(
            groups,
            lr=self.args.learning_rate,
            betas=(self.args.adam_beta1, self.args.adam_beta2),
            eps=self.args.adam_epsilon,
            max_norm=self.config.max_grad_norm,
            offload=self.config.offload == "moments",
            resident=self.room,
            compiled=self.compiled == "layers" and self.args.device.type == "cuda",
            kept=clex.trained_matrices(self.model),
            kept_norm=self.config.clex_grad_norm,
        )
        return self.optimizer

    def log(self, logs: dict[str, float], *rest: object, **more: object) -> None:
        """Log as Trainer does; the norm of the gradients is what the optimizer found."""
        if self.masters is not None and "loss" in logs:
            logs["grad_norm"] = self.masters.norm.item()
        super().log(logs, *rest, **more)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save as Trainer does; of a checkpoint of DeepSpeed, its own files hold the weights."""
        if not (self.config.sharded and _internal_call):
            super().save_model(output_dir, _internal_call)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Save as Trainer does; of LoRA, what is trained alone."""
        if not self.config.lora_rank:
            super()._save(output_dir, state_dict)
        elif self.args.should_save:
            lora.store(self.model, Path(output_dir or self.args.output_dir))

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: torch.nn.Module | None = None
    ) -> None:
        """Load as Trainer does; of LoRA, what is trained alone."""
        if self.config.lora_rank:
            lora.restore(self.model, Path(resume_from_checkpoint))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _save_checkpoint(self, *rest: object, **more: object) -> None:
        """Remove the last checkpoint first, where the disk does not hold two."""
        if self.sparing:
            self.accelerator.wait_for_everyone()
            if self.is_world_process_zero():
                for old in Path(self.args.output_dir).glob("checkpoint-*"):
                    shutil.rmtree(old)
            self.accelerator.wait_for_everyone()
        super()._save_checkpoint(*rest, **more)
        if self.config.sharded and self.is_world_process_zero():
            folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            note_sharding(folder, self.config.zero, self.args.world_size)

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


def _compile_choice(config: TrainConfig, arguments: TrainingArguments) -> str:
    if config.compile != "auto":
        return config.compile
    if arguments.device.type != "cuda":
        return "none"
    if config.precision == "master" or config.float8 != "none":
        return "layers"
    if config.steps < WORTH_COMPILING:
        return "none"
    # CUDA graphs own the memory of their gradients, which accumulation would keep between replays.
    whole = arguments.gradient_accumulation_steps == 1 and arguments.world_size == 1
    whole = whole and config.scaling != "clex"  # whose t is another in every pass
    return "model" if whole and not config.gradient_checkpointing else "layers"


def compile_layers(model: PreTrainedModel) -> None:
    """Compile each decoder layer and the loss: one graph serves all layers, in seconds.

    The mask is made outside of the compiled parts, so a mask of ones still takes the causal kernel.
    """
    for layer in decoder_layers(model):
        layer.compile()
    model.loss_function = torch.compile(model.loss_function)


def recompute_layers(model: PreTrainedModel, count: int, compiled: bool) -> None:
    """Compute the first `count` decoder layers again in the backward pass, compiled or not.

    The first ones: theirs comes last, when what the others kept is gone. Checkpointing stands
    around the compiled layer, where transformers from 5.23 would put it inside.
    """
    for place, layer in enumerate(decoder_layers(model)):
        forward = torch.compile(layer.forward) if compiled else layer.forward
        if place < count:
            forward = functools.partial(checkpoint, forward, use_reentrant=False)
        layer.forward = forward


def recomputing_cheaply(wanted: bool) -> contextlib.AbstractContextManager:
    """Let layers that are compiled meanwhile recompute their element-wise results."""
    if not wanted:
        return contextlib.nullcontext()
    return torch._functorch.config.patch(activation_memory_budget=CHEAP_BUDGET)


def decoder_layers(model: PreTrainedModel) -> torch.nn.ModuleList:
    """Return the list of a model's decoder layers."""
    count = model.config.get_text_config().num_hidden_layers
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            return module
    raise ValueError(f"{type(model).__name__} has no list of {count} layers; compile='none'")
