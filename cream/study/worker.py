"""A bench that tunes and questions one small model after another, in one process.

What belongs here: from a `design.Run` to what is known of it afterwards, a flat record. Models,
graphs, corpora and questions stay in memory from run to run; only weights are copied. One model is
trained whatever the run, for which its step is compiled once a shape; another is asked.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from cream import models
from cream.study import fast_training
from cream.study.design import Run
from cream.study.scoring import Questions, answer

__all__ = ["Setting", "Worker"]

log = logging.getLogger(__name__)

LOSSES = 10  # of a run's losses that are kept: means of as many equal parts


@dataclass(frozen=True)
class Setting:
    """What all runs share: where bases and corpora are, the questions, and the device."""

    bases: Mapping[str, str]  # folder of each base by its name
    base_hashes: Mapping[str, str]
    corpora: Mapping[str, str]  # folder of each condition's corpus
    corpus_hashes: Mapping[str, str]
    questions: Mapping[str, Questions]
    question_hashes: Mapping[str, str]
    device: str = "cpu"
    graphs: bool = True  # on CUDA
    compiled: bool | None = None  # None: where there are graphs

    def key(self, run: Run) -> str:
        """Return the identity of a run on these files."""
        corpus = self.corpus_hashes.get(run.condition)
        return run.key(self.base_hashes[run.base], corpus, self.question_hashes[run.asked])


class Worker:
    """Measures runs one after another; see `Setting` for what it is given."""

    def __init__(self, setting: Setting):
        self.setting = setting
        self._models: dict[tuple[str, int], PreTrainedModel] = {}
        self._weights: dict[str, list[torch.Tensor]] = {}
        self._trainee: PreTrainedModel | None = None
        self._captured_steps: dict[tuple[int, int], fast_training.CapturedStep] = {}
        graphs = setting.graphs and setting.device != "cpu"
        compiled = graphs if setting.compiled is None else setting.compiled
        # Ways of computing a step, (compiled, graph): the first that works is kept.
        self._ways = list(dict.fromkeys([(compiled, graphs), (False, graphs), (False, False)]))
        self._batches: tuple[tuple, fast_training.Batches] | None = None
        self._tuned: tuple[Run, PreTrainedModel, np.ndarray] | None = None
        self._pool = None
        self.step = "eager"

    def measure(self, run: Run) -> dict[str, object]:
        """Tune (if it is to be tuned) and ask; return the record, ready for JSON.

        What is tuned as the run before it was is not tuned again, but asked: `train_seconds` is 0.
        """
        began = time.perf_counter()
        model, losses = self._tuned_model(run)
        self._synchronize()
        tuned = time.perf_counter()
        found = answer(model, self.setting.questions[run.asked], run.sharper)
        window = self.setting.questions[run.asked].window
        return {
            "key": self.setting.key(run), **vars(run), "window": window, "batch": run.batch,
            "base_hash": self.setting.base_hashes[run.base],
            "corpus_hash": self.setting.corpus_hashes.get(run.condition),
            "questions_hash": self.setting.question_hashes[run.asked],
            "tokens_trained": run.tokens_trained(window),
            "losses": [round(float(part.mean()), 4) for part in np.array_split(losses, LOSSES)
                       if len(part)],
            "step": self.step if run.steps else "none",
            "train_seconds": round(tuned - began, 2),
            "ask_seconds": round(time.perf_counter() - tuned, 2),
            "right": found.right, "wrong": found.wrong, "nll": found.nll,
        }  # fmt: skip

    def _synchronize(self) -> None:
        if self.setting.device != "cpu":
            torch.cuda.synchronize(self.setting.device)

    def _tuned_model(self, run: Run) -> tuple[PreTrainedModel, np.ndarray]:
        """The run's model and its losses, of the run before where that differs in name alone."""
        tuned = dataclasses.replace(run, variant="", asked="")
        if self._tuned is None or self._tuned[0] != tuned:
            self._tuned = None  # its weights are overwritten, also where tuning fails
            model = self._model(run)
            losses = self._tune(run, model) if run.steps else np.zeros(0)
            self._tuned = (tuned, model, losses)
        return self._tuned[1:]

    def _model(self, run: Run) -> PreTrainedModel:
        """The model object of a scaling, with the weights of the run's base."""
        place = (run.scaling, run.scale)
        if place not in self._models:
            self._models[place] = models.load(
                self.setting.bases[run.base], scaling=run.rope, dtype=torch.float32,
                device=self.setting.device,
            )  # fmt: skip
        self._restore(run, self._models[place])
        return self._models[place]

    def _restore(self, run: Run, model: PreTrainedModel) -> None:
        """Copy a base's weights in, where the model's are: a graph knows them by their place."""
        if run.base not in self._weights:
            base = models.load(self.setting.bases[run.base], dtype=torch.float32,
                               device=self.setting.device)  # fmt: skip
            self._weights[run.base] = [each.detach().clone() for each in base.parameters()]
        _copy(self._weights[run.base], model)

    def _tune(self, run: Run, model: PreTrainedModel) -> np.ndarray:
        window = self.setting.questions[run.asked].window
        shape = (run.batch, run.sampler(window).example_length)
        data = self._data(run, window)
        captured = self._captured_step(shape, model)
        self.step = captured.kind
        fast_training.copy_rope(captured.model, model)
        self._restore(run, captured.model)
        losses = captured.train(data, run.learning_rate)
        _copy(captured.model.parameters(), model)
        return losses

    def _captured_step(
        self, shape: tuple[int, int], like: PreTrainedModel
    ) -> fast_training.CapturedStep:
        """The step of a shape, in the best of the ways that works."""
        while shape not in self._captured_steps:
            try:
                self._captured_steps[shape] = self._new_captured_step(shape, like)
            except Exception as error:
                if len(self._ways) == 1 or isinstance(error, torch.cuda.OutOfMemoryError):
                    raise
                (compiled, _), *self._ways = self._ways
                # The same numbers, later; the records say which it was ("step").
                missing = "compiled code" if compiled else "CUDA graph"
                log.warning("no %s, steps will take longer: %r", missing, error)
                self._trainee, self._captured_steps = None, {}
        return self._captured_steps[shape]

    def _new_captured_step(
        self, shape: tuple[int, int], like: PreTrainedModel
    ) -> fast_training.CapturedStep:
        compiled, graphs = self._ways[0]
        if graphs and self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        if self._trainee is None:
            base = next(iter(self.setting.bases.values()))
            self._trainee = models.load(base, dtype=torch.float32, device=self.setting.device)
        fast_training.copy_rope(self._trainee, like)
        return fast_training.CapturedStep(self._trainee, shape, graphs, self._pool, compiled)

    def _data(self, run: Run, window: int) -> fast_training.Batches:
        """The run's examples, those of the last run where they are the same."""
        corpus = Path(self.setting.corpora[run.condition])
        name = (str(corpus), run.method, run.options, run.scale, run.seed, run.batch)
        if self._batches is None or self._batches[0] != name:
            self._batches = None
        if self._batches is None or len(self._batches[1].input_ids) < run.steps:
            drawn = fast_training.load_batches(
                corpus, run.sampler(window), run.seed, run.steps, run.batch
            )
            self._batches = (name, drawn)
        return self._batches[1].first(run.steps)


@torch.no_grad()
def _copy(weights: Iterable[torch.Tensor], model: PreTrainedModel) -> None:
    for mine, given in zip(model.parameters(), weights, strict=True):
        mine.copy_(given)
