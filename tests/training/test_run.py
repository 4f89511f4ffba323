"""One optimizer step and a whole short run: what the model sees, the schedule, what is written."""

from __future__ import annotations

import contextlib
import json

import pytest
import tiny_models
import torch
import training_runs
from transformers import AutoModelForCausalLM, TrainerCallback

from cream import models
from cream.data import corpus
from cream.data.dataset import ExampleDataset, collate
from cream.positions import METHODS, sampler
from cream.training import callbacks
from cream.training import run as training_run
from cream.training.trainer import learning_rate_factor

SKIPPING = [method for method in METHODS if method not in ("plain", "full")]


class Watched(training_run.CreamTrainer):
    """Takes one Trainer step on the last label alone, again with another first token, and stops."""

    class Enough(Exception):
        pass

    guarded = True
    effects: list[float]
    positions: torch.Tensor

    def training_step(self, model, inputs, *rest):
        if not self.guarded:
            tiny_models.unguarded(model)
        inputs["labels"][:, :-1] = -100
        still = super().training_step(model, inputs, *rest)
        Watched.effects, Watched.positions = [], inputs["position_ids"]
        for row in range(len(inputs["input_ids"])):
            moved = {n: v.clone() if torch.is_tensor(v) else v for n, v in inputs.items()}
            moved["input_ids"][row, 0] = (moved["input_ids"][row, 0] + 7) % 600
            Watched.effects.append(abs(super().training_step(model, moved, *rest) - still).item())
        raise self.Enough


def _effects(monkeypatch, training_place, tmp_path, mask=True, guard=True, **changes) -> list:
    """Return how far the loss on each row's last label moves when that row's token 0 changes."""
    monkeypatch.setattr(training_run, "CreamTrainer", Watched)
    monkeypatch.setattr(Watched, "guarded", guard)
    if not mask:
        monkeypatch.setattr(training_run, "collate", _maskless)
    batch = {"batch_size": changes.get("micro_batch", 1)}
    if changes["method"] == "clex":
        batch["sampler_options"] = {"least": 2}  # t = 1 skips nothing
    with contextlib.suppress(Watched.Enough):
        training_runs.train(training_place, tmp_path / "run", **{**batch, **changes})
    if changes["method"] in SKIPPING:
        assert ((Watched.positions.diff() > 1).any(-1)).all(), "this draw skips nothing"
    return Watched.effects


def _maskless(examples: list) -> dict[str, torch.Tensor]:
    batch = collate(examples)
    return {name: value for name, value in batch.items() if name != "attention_mask"}


@pytest.mark.thinned
@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("method", METHODS)
def test_the_tail_learns_from_the_head(
    monkeypatch, training_place, tmp_path, method, batch, checkpointing
):
    """Trap 1 through our collator, loader and a Trainer step, for every method."""
    settings = {
        "method": method, "micro_batch": batch, "gradient_checkpointing": checkpointing, "seed": 1,
    }  # fmt: skip
    effects = _effects(monkeypatch, training_place, tmp_path, **settings)
    assert len(effects) == batch and min(effects) > 1e-5


@pytest.mark.thinned
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("method", SKIPPING)
def test_without_mask_and_guard_the_tail_is_blind(
    monkeypatch, training_place, tmp_path, method, batch
):
    """The trap itself, and that mask and guard each close it alone."""
    settings = {
        "method": method, "micro_batch": batch, "gradient_checkpointing": True, "seed": 1,
    }  # fmt: skip
    given = monkeypatch, training_place, tmp_path
    assert _effects(*given, mask=False, guard=False, **settings) == [0.0] * batch
    assert min(_effects(*given, mask=False, **settings)) > 1e-5
    monkeypatch.undo()
    assert min(_effects(*given, guard=False, **settings)) > 1e-5


@pytest.mark.slow
@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("compiled", ["layers", "model"])
def test_a_compiled_tail_learns_from_the_head(monkeypatch, training_place, tmp_path, compiled):
    """Trap 1 through torch's compiler, and the same numbers as without it."""
    # In bfloat16 so small an effect would be rounding's, which compiling changes.
    settings = {"method": "cream", "micro_batch": 2, "seed": 1, "precision": "float32"}
    plain = _effects(monkeypatch, training_place, tmp_path / "plain", **settings)
    effects = _effects(monkeypatch, training_place, tmp_path, compile=compiled, **settings)
    assert effects == pytest.approx(plain, rel=1e-2) and min(effects) > 1e-5


def test_the_schedule_wastes_no_step():
    """Llama-2-7B's base run (1,000 steps, warm-up 10) and chat run (100, none)."""
    factor = learning_rate_factor
    base = [factor(step, 1000, 10) for step in range(1000)]
    assert base[:10] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    assert (base[10], base[505], base[999]) == (1.0, 0.5, 1 / 990)
    chat = [factor(step, 100, 0) for step in range(100)]
    assert chat == pytest.approx([1 - step / 100 for step in range(100)])
    for trace in (base, chat):
        assert min(trace) > 0 and max(trace) == 1.0


class Rates(TrainerCallback):
    """Notes the rate that the optimizer has in each of its steps."""

    used: list[float]

    def on_pre_optimizer_step(self, args, state, control, **more):
        self.used.append(more["optimizer"].param_groups[0]["lr"])


@pytest.mark.parametrize("warmup", [0, 3])
def test_the_logged_rates_are_those_used(monkeypatch, training_place, tmp_path, warmup):
    """In a real run, optimizer step by step, against the schedule."""
    rates = Rates()
    rates.used = []
    monkeypatch.setattr(training_run, "CheckpointSeal", lambda: rates)
    training_runs.train(training_place, tmp_path / "run", steps=8, warmup_steps=warmup)
    rows = callbacks.read_metrics(tmp_path / "run" / "metrics.jsonl")
    expected = [1e-3 * learning_rate_factor(step, 8, warmup) for step in range(8)]
    assert rates.used == pytest.approx(expected, rel=1e-9)
    assert [row["learning_rate"] for row in rows] == pytest.approx(expected, rel=1e-9)


@pytest.fixture(scope="module")
def answers_place(training_place, tmp_path_factory, tiny_tokenizer, haystack):
    """A corpus of documents learnt whole, in answers of two lengths, or not at all in a window."""
    root = tmp_path_factory.mktemp("answers")
    (root / "base").symlink_to(training_place / "base")
    about = {"split": "train", "source": "tests", "kind": "lines"}
    spans = [(), [(10, 12), (30, 40)], [(5, 60)], [(2900, 2950)]]
    documents = [
        {**about, "name": str(i), "text": haystack[3000 * i :][:3000], "answers": each}
        for i, each in enumerate(spans)
    ]
    corpus.build(root / "corpus", documents, tiny_tokenizer, 64, {"of": "tests"}, progress=False)
    return root


def test_only_answers_are_learnt_where_a_document_says_so(answers_place):
    """Span by span, at whatever positions the tokens are assigned."""
    draw = sampler("cream", training_runs.WINDOW, training_runs.SCALE)
    dataset = ExampleDataset(answers_place / "corpus", draw, seed=0, num_examples=40)
    assert dataset.uneven
    for item in range(40):
        epoch, document = dataset.document(item)
        answers = dataset.documents.answers(document)
        place = draw.draw(dataset.documents.num_tokens[document], 0, epoch, document).tokens
        learnt = [not len(answers) or any(a <= t < b for a, b in answers) for t in place]
        labels = collate([dataset[item]])["labels"][0]
        assert (labels != -100).tolist() == [False, *learnt[1:]]


@pytest.mark.parametrize("answers", [False, True])
def test_accumulation_changes_nothing(training_place, answers_place, tmp_path, answers):
    """Batch 4 in one, two or four forward passes: the same loss and the same weights.

    Also where only answers are learnt, of which a window may hold none.
    """
    place, found = answers_place if answers else training_place, {}
    for micro in (4, 2, 1):
        run, settings = tmp_path / str(micro), {"method": "plain", "steps": 2}
        made = models.load(training_runs.train(place, run, micro_batch=micro, **settings))
        found[micro] = (training_runs.losses(run), made.state_dict())
    for micro in (2, 1):
        assert found[micro][0] == pytest.approx(found[4][0], rel=1e-6)
        torch.testing.assert_close(found[micro][1], found[4][1], rtol=1e-4, atol=2e-5)
    start = models.load(place / "base").state_dict()
    moved = max((found[4][1][name] - start[name]).abs().max() for name in start)
    assert moved > 5e-4  # two steps at 1e-3: what is compared is a trained model


def test_a_run_leaves_a_stock_model(training_place, tmp_path):
    """Read by stock transformers: the scaling is there, the cache is on, the tokenizer fits."""
    made = training_runs.train(training_place, tmp_path / "run", save_dtype="bfloat16")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "checkpoints", "config.json", "metrics.jsonl", "model"
    ]  # fmt: skip
    stock = AutoModelForCausalLM.from_pretrained(made, dtype="auto")
    assert stock.dtype == torch.bfloat16 and stock.config.use_cache
    assert json.loads((made / "config.json").read_text())["use_cache"] is True
    assert stock.config.rope_parameters["factor"] == training_runs.SCALE
    assert stock.config.max_position_embeddings == training_runs.WINDOW * training_runs.SCALE
    models.check_pair(stock, models.load_tokenizer(made))


def test_the_model_is_probed_from_first_to_last(training_place, tmp_path):
    """At 0, every so many steps and at the end, able to decode, and left in training mode."""
    asked = []

    def probe(model, tokenizer) -> dict[str, float]:
        made = model.generate(torch.tensor([[2, 3, 4]]), max_new_tokens=2, do_sample=False)
        asked.append((model.training, model.config.use_cache, len(tokenizer), made.shape[1]))
        return {"skill": len(asked) / 10}

    settings = {"steps": 5, "probe_steps": 2, "gradient_checkpointing": True}
    made = training_runs.train(training_place, tmp_path / "run", ask=probe, **settings)
    assert asked == [(False, True, 600, 5)] * 4
    rows = callbacks.read_metrics(tmp_path / "run" / "metrics.jsonl")
    probed = {row["step"]: row["probe_skill"] for row in rows if "probe_skill" in row}
    assert probed == {0: 0.1, 2: 0.2, 4: 0.3, 5: 0.4}
    unprobed = training_runs.train(training_place, tmp_path / "other", **settings)
    assert models.weights_hash(made) == models.weights_hash(unprobed)


def test_every_line_of_the_log_says_where_it_stands(training_place, tmp_path):
    """Steps and tokens count up; the last step is logged though it is no multiple."""
    training_runs.train(training_place, tmp_path / "run", steps=5, log_steps=2)
    rows = callbacks.read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [2, 4, 5]
    assert [row["tokens"] for row in rows] == [step * 4 * 64 for step in (2, 4, 5)]
    assert all(row["tokens_per_second"] > 0 and row["grad_norm"] > 0 for row in rows)
