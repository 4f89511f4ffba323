"""Fine-tuning at length N on skipped positions: configuration, examples, Trainer, run directory.

A run directory holds `config.json` (every number of the run), `metrics.jsonl` (a line a log),
`checkpoints/` (for resuming) and `model/` (a stock Hugging Face checkpoint with its tokenizer).
A run is started, resumed after any interruption and skipped when done by the same call:

    train(config, run_dir)                         # from a notebook
    python -m cream.training RUN_DIR               # from any launcher; reads RUN_DIR/config.json
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from cream import models
from cream.corpus import open_corpus
from cream.positions import PERMUTATION_STREAM, Sampler, example_rng, sampler
from cream.training_log import (
    CheckpointSeal,
    MetricsLog,
    ProbeCallback,
    ProgressBar,
    last_complete_checkpoint,
)

__all__ = ["ExampleDataset", "TrainConfig", "collate", "learning_rate_factor", "train"]

log = logging.getLogger(__name__)

CHOICES = {
    "precision": ("auto", "float32", "bfloat16"),
    "save_dtype": ("float32", "bfloat16"),
    "compile": ("auto", "none", "layers", "model"),
}
WORTH_COMPILING = 500  # steps; compiling a small model takes as long as a few hundred of its steps

Probe = Callable[[PreTrainedModel, PreTrainedTokenizerBase], dict[str, float]]


@dataclass(frozen=True)
class TrainConfig:
    """Every number of one fine-tuning run; `cream.presets` has the named ones."""

    base: str  # the pre-trained model: a folder, or a hub id
    corpus: str  # a folder that cream.corpus made
    method: str = "cream"  # which tokens are read and the positions they are told
    scaling: str = "linear"  # RoPE scaling
    scale: int = 8  # s = L / N
    steps: int = 1000  # optimizer steps
    batch_size: int = 32  # examples a step, over all processes and accumulation
    micro_batch: int = 32  # examples a forward pass on one device
    learning_rate: float = 2e-5  # reached after the warm-up, then linearly to 0
    warmup_steps: int = 10
    seed: int = 0  # of the examples' order and positions
    sampler_options: dict = field(default_factory=dict)
    revision: str | None = None  # of the hub model
    weight_decay: float = 0.0
    adam_betas: tuple[float, float] = (0.9, 0.999)
    max_grad_norm: float = 1.0
    precision: str = "auto"  # "float32", "bfloat16" compute on float32 weights, "auto" by device
    save_dtype: str = "float32"  # of model/
    attention: str = "auto"
    gradient_checkpointing: bool = False
    compile: str = "auto"  # "none", "layers", "model" (CUDA graphs) or "auto" by device and steps
    save_steps: int = 0  # 0: no checkpoints
    log_steps: int = 10
    probe: str | None = None  # "module:function", called with the model and the tokenizer
    probe_steps: int = 0  # 0: never
    workers: int = 0  # data loader processes

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "micro_batch", "log_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 <= self.warmup_steps < self.steps:
            raise ValueError(
                f"warmup_steps is {self.warmup_steps}; it must lie in [0, steps = {self.steps})"
            )
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate is {self.learning_rate}; it must be larger than 0")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}; choose one of {', '.join(choices)}"
                )

    def to_json(self) -> str:
        """Return the configuration as JSON, one field a line."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> TrainConfig:
        """Read what `to_json` wrote; ValueError names a field that does not exist."""
        values = json.loads(text)
        if unknown := set(values) - {f.name for f in dataclasses.fields(cls)}:
            raise ValueError(f"config.json has unknown fields: {', '.join(sorted(unknown))}")
        if "adam_betas" in values:
            values["adam_betas"] = tuple(values["adam_betas"])
        return cls(**values)


def learning_rate_factor(step: int, steps: int, warmup: int) -> float:
    """Return the share of the peak rate used by optimizer step `step` (from 0).

    Linear warm-up that starts above 0 and linear decay that ends above 0: no step is wasted. The
    official run's first steps were 1, 0, 0.3, ... of the peak (protocols 4.1).
    """
    if step < warmup:
        return (step + 1) / warmup
    return max(0.0, (steps - step) / (steps - warmup))


class ExampleDataset(Dataset):
    """The examples of a whole run in order: item k names its epoch and document by itself.

    Nothing else decides what an example is, so workers, processes and resuming cannot change it
    (Trainer does not call `set_epoch` after a resume in the middle of an epoch).
    """

    def __init__(self, corpus_path: str | Path, draw: Sampler, seed: int, num_examples: int):
        self.corpus = open_corpus(corpus_path)
        self.documents = self.corpus.split("train")
        lengths = np.asarray(self.documents.num_tokens)
        self.usable = np.flatnonzero(lengths >= draw.min_tokens)
        if not len(self.usable):
            raise ValueError(
                f"no document of {corpus_path} has the {draw.min_tokens} tokens that "
                f"{draw.name} needs; the longest has {lengths.max(initial=0)}"
            )
        if dropped := len(lengths) - len(self.usable):
            log.info("%d of %d documents are too short and left out", dropped, len(lengths))
        self.draw, self.seed, self.num_examples = draw, seed, num_examples
        self._epoch, self._order = -1, self.usable

    def __len__(self) -> int:
        return self.num_examples

    def document(self, item: int) -> tuple[int, int]:
        """Return the epoch of item k and the document it is drawn from."""
        if not 0 <= item < self.num_examples:
            raise IndexError(f"item {item} of {self.num_examples} examples")
        epoch, place = divmod(item, len(self.usable))
        if epoch != self._epoch:
            shuffle = example_rng(self.seed, epoch, 0, PERMUTATION_STREAM).permutation
            self._epoch, self._order = epoch, shuffle(self.usable)
        return epoch, int(self._order[place])

    def __getitem__(self, item: int) -> dict[str, np.ndarray]:
        epoch, document = self.document(item)
        tokens = self.documents.tokens(document)
        indices = self.draw.draw(len(tokens), self.seed, epoch, document)
        return {"input_ids": tokens[indices.tokens], "position_ids": indices.positions}


def collate(examples: list[dict[str, np.ndarray]]) -> dict[str, torch.Tensor]:
    """Stack examples of equal length into int64 tensors `(batch, window)`.

    The all-ones mask is not decoration: without it transformers reads skipped positions as packed
    documents, and head, middle and tail no longer see each other. The first label is masked since
    no token predicts it, so that every transformers version divides by the same count.
    """
    tokens = torch.from_numpy(np.stack([e["input_ids"] for e in examples]).astype(np.int64))
    labels = tokens.clone()
    labels[:, 0] = -100
    return {
        "input_ids": tokens,
        "position_ids": torch.from_numpy(np.stack([e["position_ids"] for e in examples])),
        "attention_mask": torch.ones_like(tokens),
        "labels": labels,
    }


class CreamTrainer(Trainer):
    """Stock Trainer, but for a schedule that wastes no step and a loss that can be compiled whole.

    Autocast stands around our own loss rather than in accelerate's wrapper, which would copy all
    logits to float32. Every example has the same number of labels, so the mean over a micro-batch
    needs no count, and means of micro-batches and processes average to that of the batch.
    """

    def __init__(self, config: TrainConfig, **kwargs: object):
        super().__init__(**kwargs)
        self.warmup, self.precision = config.warmup_steps, config.precision
        self.model_accepts_loss_kwargs = False
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
        """Return the mean loss over the micro-batch."""
        if self.compiled == "model":
            torch.compiler.cudagraph_mark_step_begin()
        return self.loss(model, inputs)

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


def train(
    config: TrainConfig,
    run_dir: str | Path,
    probe: Probe | None = None,
    root: str | Path = ".",
    progress: bool = True,
) -> Path:
    """Train, or go on after an interruption, and return the folder of the finished model.

    `probe` (or the function that `config.probe` names) is given the model and the tokenizer every
    `probe_steps`, and its numbers are logged. The folders that `config` names start at `root`.
    ValueError when the directory holds another run.
    """
    run_dir = Path(run_dir)
    claim_directory(config, run_dir)
    if (run_dir / "model").exists():
        log.info("%s is finished; nothing to train", run_dir)
        return run_dir / "model"
    model, tokenizer, dataset = _load(config, Path(root))
    checkpoint = last_complete_checkpoint(run_dir / "checkpoints")
    trainer = _trainer(config, run_dir, model, dataset, tokenizer, probe, progress)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if trainer.is_world_process_zero():
        model.config.use_cache = True
        model.to(getattr(torch, config.save_dtype))
        models.save(model, tokenizer, run_dir / "model")
    return run_dir / "model"


def claim_directory(config: TrainConfig, run_dir: Path) -> None:
    """Write config.json, or make sure that the directory already holds this very run."""
    path = run_dir / "config.json"
    if not path.exists():
        run_dir.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(f".{os.getpid()}.partial")
        beside.write_text(config.to_json())
        os.replace(beside, path)
        return
    there = TrainConfig.from_json(path.read_text())
    differs = [
        f"{f.name} {getattr(there, f.name)!r} -> {getattr(config, f.name)!r}"
        for f in dataclasses.fields(config)
        if getattr(there, f.name) != getattr(config, f.name)
    ]
    if differs:
        raise ValueError(
            f"{run_dir} holds another run ({'; '.join(differs)}); choose another run directory "
            "or remove this one"
        )


def _load(
    config: TrainConfig, root: Path
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, ExampleDataset]:
    base = str(root / config.base) if (root / config.base).is_dir() else config.base  # a hub id
    model = models.load(
        base,
        scaling=config.scaling,
        scale=config.scale,
        attention=config.attention,
        dtype=torch.float32,
        revision=config.revision,
    )
    tokenizer = models.load_tokenizer(base, revision=config.revision)
    models.check_pair(model, tokenizer)
    window = models.describe(model.config)["window"]
    draw = sampler(config.method, window, config.scale, **config.sampler_options)
    examples = config.steps * config.batch_size
    return model, tokenizer, ExampleDataset(root / config.corpus, draw, config.seed, examples)


def _trainer(
    config: TrainConfig,
    run_dir: Path,
    model: PreTrainedModel,
    dataset: ExampleDataset,
    tokenizer: PreTrainedTokenizerBase,
    probe: Probe | None,
    progress: bool,
) -> CreamTrainer:
    arguments = _arguments(config, run_dir)
    model.config.use_cache = False
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    trainer = CreamTrainer(
        config,
        model=model,
        args=arguments,
        train_dataset=dataset,
        data_collator=collate,
    )
    if trainer.compiled == "layers":
        compile_layers(model)
    trainer.remove_callback(PrinterCallback)
    tokens_a_step = config.batch_size * len(dataset[0]["input_ids"])
    trainer.add_callback(MetricsLog(run_dir / "metrics.jsonl", tokens_a_step))
    if (probe := probe or _named_probe(config.probe)) and config.probe_steps:
        trainer.add_callback(ProbeCallback(probe, tokenizer, config.probe_steps, run_dir))
    trainer.add_callback(CheckpointSeal())
    if progress:
        trainer.add_callback(ProgressBar())
    return trainer


def _arguments(config: TrainConfig, run_dir: Path) -> TrainingArguments:
    cuda = torch.cuda.is_available()
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    accumulation, rest = divmod(config.batch_size, config.micro_batch * processes)
    if rest or not accumulation:
        raise ValueError(
            f"batch_size {config.batch_size} is not a multiple of micro_batch "
            f"{config.micro_batch} x {processes} processes; change one of them"
        )
    return TrainingArguments(
        output_dir=str(run_dir / "checkpoints"),
        max_steps=config.steps,
        per_device_train_batch_size=config.micro_batch,
        gradient_accumulation_steps=accumulation,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        adam_beta1=config.adam_betas[0],
        adam_beta2=config.adam_betas[1],
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
        use_cpu=not cuda,
        optim="adamw_torch_fused" if cuda else "adamw_torch",
        save_strategy="steps" if config.save_steps else "no",
        save_steps=config.save_steps or config.steps,
        save_total_limit=2,
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


def _named_probe(name: str | None) -> Probe | None:
    if name is None:
        return None
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


def main() -> None:
    """Train the run that a directory's config.json describes."""
    parser = argparse.ArgumentParser(prog="python -m cream.training", description=main.__doc__)
    parser.add_argument("run_dir", type=Path, help="the run directory; holds config.json")
    parser.add_argument("--local_rank", type=int, default=0, help="what `deepspeed` passes")
    arguments = parser.parse_args()
    path = arguments.run_dir / "config.json"
    if not path.is_file():
        parser.error(f"{path} does not exist; notebooks/02_train.ipynb writes one")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    print(train(TrainConfig.from_json(path.read_text()), arguments.run_dir))


if __name__ == "__main__":
    main()
