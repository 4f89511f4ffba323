"""A run's examples and weights depend on nothing but its configuration: not on workers, processes,
kills or where it was resumed."""

from __future__ import annotations

import dataclasses
import json
import logging
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import training_runs
import transformers
import warm_python
from packaging.version import Version
from torch.utils.data import DataLoader

from cream.data.dataset import ExampleDataset, collate
from cream.positions import sampler
from cream.training import callbacks
from cream.training import run as training_run
from cream.training.config import TrainConfig

# 11 documents: an epoch ends within step 3, 6 and 9. Logs and checkpoints do not fall together.
RUN = {"steps": 10, "batch_size": 4, "micro_batch": 2, "save_steps": 3, "log_steps": 2, "seed": 3}
# Before, transformers could not resume two processes on CPUs (torch.load to "cpu:0" fails).
RESUMES = Version(transformers.__version__) >= Version("5.23")
# Two forward passes a step: one anywhere between the checkpoints of steps 3 and 9, and one between
# the two halves of step 8. Four files a checkpoint go through torch.save.
FORWARDS = [random.Random(0).randint(7, 18), 16]
KILLS = {
    **{f"forward {count}": [("forward", count)] for count in FORWARDS},
    "forward twice": [("forward", 10), ("forward", 9)],
    "before any checkpoint": [("forward", 4)],
    "torn optimizer": [("torch.save", 6)],
    "torn random state": [("torch.save", 8)],
    "not yet sealed": [("seal", 2)],
    "before the model was saved": [("model", 1)],
    "while the model was saved": [("weights", 5)],  # after four checkpoints
}


@pytest.mark.slow
def test_killed_runs_end_as_if_they_had_not_been(training_place, tmp_path):
    """Trap 5: bit-equal weights, each step logged once with the same loss.

    And trap 4 in the middle of a later epoch: each step saw the examples it sees in a whole run.
    """
    training_runs.share(training_place, tmp_path)
    jobs = [training_runs.job(tmp_path / "whole", **RUN)]
    jobs += [training_runs.job(tmp_path / "two workers", **{**RUN, "workers": 2})]
    for name, kills in KILLS.items():
        jobs += [training_runs.job(tmp_path / name, kill, **RUN) for kill in [*kills, None]]
    ended = training_runs.run_jobs(tmp_path, jobs)
    assert ended == [-signal.SIGKILL if job["kill"] else 0 for job in jobs]
    names = [*KILLS, "two workers"]
    whole = training_runs.weights(tmp_path / "whole")
    assert {name: training_runs.weights(tmp_path / name) for name in names} == dict.fromkeys(
        names, whole
    )
    losses = training_runs.losses(tmp_path / "whole")
    assert list(losses) == [2, 3, 4, 6, 8, 9, 10]
    seen = training_runs.seen(tmp_path / "whole")
    assert [len(examples) for examples in seen.values()] == [4] * 10
    for name in KILLS:
        assert training_runs.losses(tmp_path / name) == losses, name
        left = {path.name for path in (tmp_path / name).iterdir()} - {"0.seen"}
        assert left == {"checkpoints", "config.json", "metrics.jsonl", "model"}
        again = training_runs.seen(tmp_path / name)
        assert {step: sorted(set(each)) for step, each in again.items()} == seen, name


@pytest.mark.slow
def test_killed_from_outside_at_any_moment(training_place, tmp_path, one_thread):
    """`python -m cream.training RUN_DIR` as a user starts it; gone on with in another process."""
    run, whole = tmp_path / "killed", tmp_path / "whole"
    settings = {**RUN, "steps": 60, "save_steps": 9, "log_steps": 7}
    training_runs.job(run, **settings)
    python = warm_python.executable()
    command = [python, "-m", "cream.training", str(run), "--root", str(training_place)]
    child = subprocess.Popen(command, env=training_runs.environment())
    log = run / "metrics.jsonl"
    while child.poll() is None and not (log.exists() and log.read_text().count("\n") > 4):
        time.sleep(0.01)
    time.sleep(random.random() / 3)  # truly anywhere: no moment may matter
    warm_python.kill(child)
    assert child.returncode == -signal.SIGKILL and not (run / "model").exists()
    for each in (run, whole):
        training_runs.train(training_place, each, **settings)
    assert training_runs.weights(run) == training_runs.weights(whole)
    assert training_runs.losses(run) == training_runs.losses(whole)
    training_runs.train(training_place, tmp_path / "other", **{**settings, "seed": 4})
    assert training_runs.weights(tmp_path / "other") != training_runs.weights(whole)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Let torch add in the order in which processes of one thread do."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_torn_checkpoints_are_removed_and_said(tmp_path, caplog):
    """Without a seal, with one of other files, or with a file cut: never resumed."""
    for step in (2, 4, 6, 10):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "weights").write_bytes(bytes(100))
        args = type("Arguments", (), {"output_dir": str(tmp_path)})
        state = type("State", (), {"is_world_process_zero": True, "global_step": step})
        if step != 10:
            callbacks.CheckpointSeal().on_save(args, state, None)
    (tmp_path / "checkpoint-6" / "weights").write_bytes(bytes(50))
    (tmp_path / "checkpoint-4" / "weights").unlink()
    with caplog.at_level(logging.WARNING):
        found = callbacks.last_complete_checkpoint(tmp_path)
    assert found == tmp_path / "checkpoint-2"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-2"]
    assert sum("incomplete" in record.message for record in caplog.records) == 3
    assert callbacks.last_complete_checkpoint(tmp_path / "nowhere") is None


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [1, 4])
def test_workers_change_no_example(training_place, workers):
    """Trap 4: item by item, over several epochs, and read in any order."""
    draw = sampler("cream", training_runs.WINDOW, training_runs.SCALE)
    dataset = ExampleDataset(training_place / "corpus", draw, seed=5, num_examples=60)
    alone = [dataset[item] for item in range(60)]
    loader = DataLoader(dataset, batch_size=4, num_workers=workers, collate_fn=collate)
    batches = list(loader)
    for name in ("input_ids", "position_ids"):
        together = torch.cat([batch[name] for batch in batches]).numpy()
        np.testing.assert_array_equal(together, np.stack([each[name] for each in alone]))
    shuffled = np.random.default_rng(0).permutation(60)
    for item in shuffled:
        np.testing.assert_array_equal(dataset[item]["position_ids"], alone[item]["position_ids"])
        np.testing.assert_array_equal(dataset[item]["input_ids"], alone[item]["input_ids"])


def test_an_epoch_reads_each_document_once(training_place):
    """In another order and with other positions each time; short documents are left out."""
    draw = sampler("full", training_runs.WINDOW, training_runs.SCALE)
    dataset = ExampleDataset(training_place / "corpus", draw, seed=0, num_examples=50)
    usable = [i for i, length in enumerate(training_runs.LENGTHS) if length >= 512]
    orders = [[dataset.document(5 * e + i)[1] for i in range(5)] for e in range(10)]
    assert all(sorted(order) == usable for order in orders)
    assert len({tuple(order) for order in orders}) > 5
    assert [dataset.document(item)[0] for item in (0, 4, 5, 49)] == [0, 0, 1, 9]
    with pytest.raises(IndexError, match="item 50 of 50"):
        dataset[50]
    cream = sampler("cream", training_runs.WINDOW, training_runs.SCALE)
    dataset = ExampleDataset(training_place / "corpus", cream, seed=0, num_examples=50)
    place = {dataset.document(item): dataset[item]["position_ids"].tolist() for item in range(50)}
    first = [place[0, document] for document in range(11)]
    assert sum(place[1, document] != first[document] for document in range(11)) > 5


@pytest.mark.slow
def test_two_processes_train_as_one(monkeypatch, training_place, tmp_path, one_thread):
    """Under torchrun (gloo): each step's examples, the losses, and resumed after an error."""
    training_runs.share(training_place, tmp_path)
    settings = {**RUN, "micro_batch": 1}
    one, two, stopped = (tmp_path / name for name in ("one", "two", "stopped"))
    jobs = [training_runs.job(two, **settings)]
    if RESUMES:
        jobs += [training_runs.job(stopped, kill, **settings) for kill in (("forward", 16), None)]
    training_runs.run_jobs(tmp_path, jobs, processes=2)
    compute = training_run.CreamTrainer.compute_loss
    monkeypatch.setattr(training_run.CreamTrainer, "compute_loss", compute)  # as it was, afterwards
    training_runs.record()
    training_runs.train(training_place, one, **RUN)
    seen = training_runs.seen(one)
    assert training_runs.seen(two) == seen
    assert training_runs.losses(two) == pytest.approx(training_runs.losses(one), rel=1e-5)
    if not RESUMES:
        return
    assert training_runs.seen(stopped) == {step: seen[step] for step in range(7, 11)}
    assert training_runs.weights(stopped) == training_runs.weights(two)
    assert training_runs.losses(stopped) == training_runs.losses(two)


class Stop(transformers.TrainerCallback):
    """Ends a run after its fourth step, one after a checkpoint."""

    def on_step_end(self, args, state, control, **_):
        if state.global_step == 4:
            raise KeyboardInterrupt


def stopped(place, run) -> TrainConfig:
    """Train four steps of RUN and stop; return its config."""
    config = training_runs.config(**RUN)
    with pytest.raises(KeyboardInterrupt):
        training_run.train(config, run, root=place, progress=False, callbacks=[Stop()])
    return config


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"learning_rate": 0.01}, "learning_rate 0.001 -> 0.01"),  # the schedule kept the old one
        ({"method": "pose", "seed": 4}, "seed 3 -> 4; method 'cream' -> 'pose'"),
        ({"batch_size": 8}, "batch_size 4 -> 8"),
        ({"steps": 12}, "steps 10 -> 12"),
        ({"precision": "master"}, "precision 'auto' -> 'master'"),
    ],
)
def test_a_run_does_not_go_on_by_another_config(training_place, tmp_path, changes, said):
    """config.json alone was compared, and with itself where a launcher reads it: edited by hand,
    it said one method, and the weights were half of another."""
    run = tmp_path / "run"
    config = stopped(training_place, run)
    (run / "config.json").write_text(dataclasses.replace(config, **changes).to_json())
    left = sorted(run.rglob("*"))
    with pytest.raises(ValueError, match=f"config.json was changed since .*{said}.*change it back"):
        training_run.train(training_run.read_config(run), run, root=training_place)
    assert sorted(run.rglob("*")) == left


def test_a_run_begun_on_a_card_does_not_go_on_without_one(training_place, tmp_path):
    """Precision "auto" is bfloat16 on a card, and float32 on a machine without one."""
    run = tmp_path / "run"
    config = stopped(training_place, run)
    (note,) = run.glob(f"checkpoints/*/{callbacks.SETTINGS}")
    settings = json.loads(note.read_text())
    here = settings[callbacks.COMPUTED]
    there = {"float32": "bfloat16", "bfloat16": "float32"}[here]
    note.write_text(json.dumps({**settings, callbacks.COMPUTED: there}))
    said = f"trained in {there} and this machine would go on in {here}, because precision is 'auto'"
    with pytest.raises(ValueError, match=said):
        training_run.train(config, run, root=training_place, progress=False)


def test_what_does_not_decide_the_weights_may_change_on_the_way(training_place, tmp_path):
    """Smaller forward passes and other workers, after a card ran out of memory: the same losses."""
    run, whole = tmp_path / "run", tmp_path / "whole"
    config = stopped(training_place, run)
    changed = dataclasses.replace(config, micro_batch=1, workers=1)
    (run / "config.json").write_text(changed.to_json())
    training_run.train(changed, run, root=training_place, progress=False)
    training_runs.train(training_place, whole, **RUN)
    assert training_runs.losses(run) == pytest.approx(training_runs.losses(whole), rel=1e-5)


def test_a_run_does_not_go_on_over_a_corpus_that_was_replaced(training_place, tmp_path):
    """The folder's name is the same: half the steps would be of one text and half of another."""
    training_runs.share(training_place, tmp_path)
    held = json.loads((training_place / "corpus" / "manifest.json").read_text())
    config = stopped(tmp_path, tmp_path / "run")
    corpus = tmp_path / config.corpus
    corpus.unlink() if corpus.is_symlink() else shutil.rmtree(corpus)
    shutil.copytree(training_place / config.corpus, corpus)
    other = json.dumps({**held, "recipe_hash": "another"})
    (corpus / "manifest.json").write_text(other)
    left = sorted((tmp_path / "run").rglob("*"))
    with pytest.raises(ValueError, match=f"begun on another corpus than {config.corpus} holds now"):
        training_run.train(config, tmp_path / "run", root=tmp_path, progress=False)
    assert sorted((tmp_path / "run").rglob("*")) == left
    (corpus / "manifest.json").write_text(json.dumps(held))
    assert training_run.train(config, tmp_path / "run", root=tmp_path, progress=False).is_dir()
