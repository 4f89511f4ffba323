"""What a run leaves behind while it goes: metrics, sealed checkpoints, a probe, a progress bar."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from cream.models.hardware import utilisation
from cream.utils.files import atomic_write
from cream.utils.jsonl import whole_objects

__all__ = [
    "COMPUTED",
    "CheckpointNotes",
    "CheckpointSeal",
    "MetricsLog",
    "ProbeCallback",
    "ProgressBar",
    "check_corpus",
    "check_settings",
    "last_complete_checkpoint",
    "read_metrics",
]

log = logging.getLogger(__name__)

SEAL = "complete.json"
CORPUS = "corpus.json"  # of a checkpoint: the corpus that it was trained on
SETTINGS = "settings.json"  # of a checkpoint: the fields of the run that decide its weights
COMPUTED = "computed in"  # of these settings: what precision "auto" was on the machine
GIB = 2**30


def last_complete_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint whose seal matches its files; remove newer, unsealed ones.

    A process killed while it wrote leaves a folder without a seal, which must not be resumed.
    """
    found = sorted(folder.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
    for checkpoint in reversed(found):
        if _sealed(checkpoint):
            return checkpoint
        log.warning("%s is incomplete (the run died while writing it) and removed", checkpoint)
        shutil.rmtree(checkpoint)
    return None


def _sealed(checkpoint: Path) -> bool:
    try:
        sizes = json.loads((checkpoint / SEAL).read_text())
    except (OSError, ValueError):
        return False
    return all((checkpoint / name).is_file() for name in sizes) and sizes == _sizes(checkpoint)


def _sizes(checkpoint: Path) -> dict[str, int]:
    files = (p for p in checkpoint.rglob("*") if p.is_file() and p.name != SEAL)
    return {str(p.relative_to(checkpoint)): p.stat().st_size for p in sorted(files)}


class CheckpointNotes(TrainerCallback):
    """Writes into a checkpoint what it was trained on and how; to be added before the seal."""

    def __init__(self, corpus: dict[str, str], settings: dict[str, Any]):
        self.notes = {CORPUS: corpus, SETTINGS: settings}

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Write the notes, once, by the first process."""
        if state.is_world_process_zero:
            checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            for name, content in self.notes.items():
                atomic_write(checkpoint / name, json.dumps(content))


def check_corpus(run_dir: Path, corpus: dict[str, str], name: str) -> None:
    """Raise ValueError if a run's checkpoints were trained on another corpus than `name` holds now.

    A folder keeps its name when 01_data replaces what is in it. Checkpoints without a note pass.
    """
    for was in _notes(run_dir, CORPUS):
        if was != corpus:
            raise ValueError(
                f"{run_dir} was begun on another corpus than {name} holds now (recipe "
                f"{was.get('recipe_hash')}, now {corpus['recipe_hash']}; tokens "
                f"{str(was.get('tokens_sha256'))[:8]}, now {corpus['tokens_sha256'][:8]}): make "
                "that corpus again, or choose another run directory or remove this one"
            )


def check_settings(run_dir: Path, settings: dict[str, Any]) -> None:
    """Raise ValueError if a run's checkpoints were trained by other settings than it has now.

    Its config.json may have been written anew, or precision "auto" be another on this machine.
    Checkpoints without a note pass, and fields that only one of the two has.
    """
    for was in _notes(run_dir, SETTINGS):
        here, there = settings.get(COMPUTED), was.get(COMPUTED)
        if here and there and here != there:
            raise ValueError(
                f"the checkpoints of {run_dir} were trained in {there} and this machine would go "
                f"on in {here}, because precision is 'auto': resume where the run was begun, or "
                "choose another run directory"
            )
        differs = [
            f"{name} {was[name]!r} -> {value!r}"
            for name, value in settings.items()
            if name in was and was[name] != value
        ]
        if differs:
            raise ValueError(
                f"{run_dir / 'config.json'} was changed since the run's checkpoints were written "
                f"({'; '.join(differs)}), and the weights would be of neither run: change it back, "
                "or choose another run directory"
            )


def _notes(run_dir: Path, name: str) -> list[dict[str, Any]]:
    """The notes of that name in a run's checkpoints."""
    found = sorted((run_dir / "checkpoints").glob(f"checkpoint-*/{name}"))
    return [json.loads(note.read_text(encoding="utf-8")) for note in found]


class CheckpointSeal(TrainerCallback):
    """Seals a checkpoint once all its files are written."""

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Write the seal beside and rename it, so that it is there as a whole or not at all."""
        PartialState().wait_for_everyone()  # each process has written its own random state
        if not state.is_world_process_zero:
            return
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        atomic_write(checkpoint / SEAL, json.dumps(_sizes(checkpoint)))


class MetricsLog(TrainerCallback):
    """Appends every log to metrics.jsonl: step, tokens, loss, learning rate, tokens a second.

    On CUDA also the share of the cards' peak that `flops` a token make (mfu), and what was held at
    most: allocated (peak_gib) and with what the allocator keeps (reserved_gib).
    """

    def __init__(self, path: Path, tokens_a_step: int, flops: float = 0.0):
        self.path, self.tokens_a_step, self.flops = path, tokens_a_step, flops
        self.clock, self.clock_step = time.perf_counter(), 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Drop lines past the step that the run goes on from."""
        self.clock, self.clock_step = time.perf_counter(), state.global_step
        if state.is_world_process_zero and self.path.exists():
            kept = [m for m in read_metrics(self.path) if 0 < state.global_step >= m["step"]]
            atomic_write(self.path, "".join(json.dumps(m) + "\n" for m in kept))

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Log where a checkpoint is written and at the end.

        A checkpoint does not hold the losses since the last log: a resumed run would lose them.
        """
        if control.should_save or state.global_step == state.max_steps:
            control.should_log = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: object,
    ) -> None:
        """Append one line; the speed is that since the last line."""
        # The summary at the end counts from where the run was resumed: it would be wrong.
        if not state.is_world_process_zero or not logs or "loss" not in logs:
            return
        now, steps = time.perf_counter(), state.global_step - self.clock_step
        row = {"step": state.global_step, "tokens": state.global_step * self.tokens_a_step, **logs}
        row.pop("epoch", None)  # share of the run
        if steps:
            row["tokens_per_second"] = steps * self.tokens_a_step / (now - self.clock)
            self.clock, self.clock_step = now, state.global_step
            row |= self._on_cuda(row["tokens_per_second"], args.world_size)
        logs.update(row)  # for those who show it
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def _on_cuda(self, tokens_per_second: float, cards: int) -> dict[str, float]:
        if not torch.cuda.is_available():
            return {}
        found = {"peak_gib": torch.cuda.max_memory_allocated() / GIB,
                 "reserved_gib": torch.cuda.max_memory_reserved() / GIB}  # fmt: skip
        card = torch.cuda.get_device_name()
        share = utilisation(tokens_per_second, self.flops, card, cards) if self.flops else None
        return found if share is None else {"mfu": share, **found}


def read_metrics(path: str | Path) -> list[dict[str, float]]:
    """Read metrics.jsonl; a last line that a killed run left torn is left out."""
    return [row for _, row in whole_objects(path)]


class ProbeCallback(TrainerCallback):
    """Asks the model questions during training: perplexity does not see retrieval die."""

    def __init__(
        self,
        probe: Callable[..., dict[str, float]],
        tokenizer: object,
        every: int,
        run_dir: Path,
    ):
        self.probe, self.tokenizer, self.every, self.run_dir = probe, tokenizer, every, run_dir

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: object
    ) -> None:
        """Probe the model before its first step."""
        if state.global_step == 0:
            self._probe(state, more["model"])

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: object
    ) -> None:
        """Probe every so many steps and after the last."""
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
            self._probe(state, more["model"])

    def _probe(self, state: TrainerState, model: torch.nn.Module) -> None:
        if not state.is_world_process_zero:
            return
        training, use_cache = model.training, model.config.use_cache
        model.eval()
        model.config.use_cache = True
        try:
            # Prompts of many lengths through compiled layers would compile for minutes.
            with torch.no_grad(), torch.compiler.set_stance("force_eager"):
                numbers = self.probe(model, self.tokenizer)
        finally:
            model.train(training)
            model.config.use_cache = use_cache
        row = {"step": state.global_step, **{f"probe_{k}": v for k, v in numbers.items()}}
        with (self.run_dir / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")


class ProgressBar(TrainerCallback):
    """A plain bar on stderr with the latest loss, tokens a second and, where known, MFU."""

    bar: tqdm | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Open the bar where the run stands."""
        if state.is_world_process_zero:
            run = Path(args.output_dir).parent.name  # its checkpoints lie there
            self.bar = tqdm(
                total=state.max_steps, initial=state.global_step, desc=f"train {run}", mininterval=1
            )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Advance the bar."""
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: object,
    ) -> None:
        """Show the loss and the speed."""
        if self.bar is None or not logs or "loss" not in logs:
            return
        shown = {"loss": f"{float(logs['loss']):.3f}"}
        if "tokens_per_second" in logs:
            shown["tokens/s"] = f"{logs['tokens_per_second']:,.0f}"
        if "mfu" in logs:
            shown["MFU"] = f"{logs['mfu']:.1%}"
        self.bar.set_postfix(shown)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()
