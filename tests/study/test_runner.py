"""The grid from plan to Parquet on a model of one layer: resumed, sharded, cut, merged."""

from __future__ import annotations

import dataclasses
import json
import lzma
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import LlamaConfig

from cream import models
from cream.data import mixture
from cream.data.mixture import RECIPES
from cream.study import design, fast_training, records, runner, scoring, worker
from cream.study.design import Recipe
from cream.verify import study

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def quick_workers(monkeypatch):
    """Workers forked off a process that has imported their module, and whose batches are `home`'s.

    It knows of no patches, so it imports `small_batch`.
    """
    support = str(ROOT / "tests" / "support")
    monkeypatch.setenv("PYTHONPATH", support + os.pathsep + os.environ.get("PYTHONPATH", ""))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["small_batch", "transformers.models.llama.modeling_llama"])
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: context)


@pytest.fixture
def forked_workers(monkeypatch):
    """Workers forked off this process, which import nothing: the slow tests have new ones."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # a fork cannot use the threads of its parent
    context = multiprocessing.get_context("fork")
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: context)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Two bases of one tiny layer with the miniature's tokenizer, and two small corpora."""
    home = tmp_path_factory.mktemp("grid")
    tokenizer = models.load_tokenizer(ROOT / "data" / "miniature")
    # Of so large weights that attention, and with it the losses, depend on the rotation.
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16,
                         num_hidden_layers=1, num_attention_heads=1, max_position_embeddings=512,
                         tie_word_embeddings=True, bos_token_id=0, eos_token_id=1,
                         initializer_range=0.5)  # fmt: skip
    for seed in (0, 1):
        models.save(models.create(config, seed), tokenizer, home / f"base{seed}")
    patch = pytest.MonkeyPatch()
    small = {"source": "standard-library", "text_tokens": 30_000}
    for name in ("grid-text", "grid-mixed"):
        changed = {**vars(RECIPES[name]), **small}
        patch.setitem(mixture.RECIPES, name, mixture.Recipe(**changed))
    patch.setattr(design, "SCALE", 2)
    patch.setattr(design, "BATCH", 8)
    runner.prepare(home / "out", str(home / "base0"))
    yield home
    patch.undo()


@pytest.fixture(scope="module")
def known(home):
    """What the workers are given."""
    bases = [str(home / "base0"), str(home / "base1")]
    return runner.setting(home / "out", bases, ["tiny"], "runs/sources")


@pytest.fixture(scope="module")
def listed(home):
    """A plan of two bases and one seed; `home` made the scale 2."""
    return design.plan("tiny", ["base0", "base1"], [0])


@pytest.fixture(scope="module")
def measured(known, listed):
    """Records of all its runs."""
    torch.set_num_threads(1)
    here = worker.Worker(known)
    return [here.measure(run) for run in listed]


def test_every_run_is_measured_and_its_record_is_json(listed, measured):
    """No two models are alike; untuned ones are not trained; full reads as many tokens."""
    assert len(measured) == len(listed) == 12
    assert all(json.loads(json.dumps(each)) for each in measured)
    for run, record in zip(listed, measured, strict=True):
        assert record["step"] == ("eager" if run.steps else "none")
        assert record["tokens_trained"] == run.steps * 2 * 512
        if run.steps:
            assert len(record["losses"]) == 10 and np.isfinite(record["losses"]).all()
    assert len({json.dumps(each["nll"]) for each in measured}) == len(measured)


def test_a_run_does_not_depend_on_those_before_it(known, listed, measured):
    """The last one alone gives the same answers and losses."""
    again = worker.Worker(known).measure(listed[-1])
    for name in ("losses", "right", "wrong", "nll"):
        assert again[name] == measured[-1][name]


def test_a_model_that_is_asked_otherwise_is_not_tuned_again(known, listed, measured, monkeypatch):
    """By sharper attention: other answers of the same losses; the next run is as it was."""
    tuned = listed[-1]
    sharper = dataclasses.replace(tuned, variant="cream x2", asked="tiny x2")
    given = dataclasses.replace(
        known, questions={**known.questions, sharper.asked: known.questions["tiny"]},
        question_hashes={**known.question_hashes, sharper.asked: known.question_hashes["tiny"]},
    )  # fmt: skip
    here, tune, calls = worker.Worker(given), worker.Worker._tune, []
    monkeypatch.setattr(worker.Worker, "_tune", lambda *of: calls.append(of) or tune(*of))
    one, two, again = (here.measure(run) for run in (tuned, sharper, tuned))
    assert len(calls) == 1
    assert one["losses"] == two["losses"] == measured[-1]["losses"]
    assert one["nll"] == again["nll"] == measured[-1]["nll"] != two["nll"]
    assert one["key"] != two["key"] and two["asked"] == "tiny x2"
    other = listed[-2]
    assert here.measure(other)["nll"] == measured[-2]["nll"] and len(calls) == 2


def test_sets_of_questions_are_built_once_for_all_factors(home, monkeypatch):
    found = runner._questions(home / "out", ["tiny", "tiny x1.2"], str(home / "base0"))
    assert found["tiny"] is found["tiny x1.2"]


@pytest.mark.slow
@pytest.mark.usefixtures("quick_workers")
def test_compiled_steps_give_the_same_records(known, listed, measured, tmp_path):
    """In a spawned worker, both shapes, both bases: the answers of steps not compiled, here."""
    tuned = [r for r in listed if r.steps and r.scaling == "yarn"]
    with records.RunLog(tmp_path / "rows.jsonl", {}) as rows:
        given = dataclasses.replace(known, compiled=True)
        assert runner.run([tuned], given, rows, 1, minutes=5)["done"] == 4
    assert len({(r.base, r.batch) for r in tuned}) == len(tuned) == 4
    for run, one in zip(tuned, records.records(tmp_path / "rows.jsonl"), strict=True):
        wanted = measured[listed.index(run)]
        assert (one["key"], one["step"], wanted["step"]) == (wanted["key"], "compiled", "eager")
        assert one["losses"] == pytest.approx(wanted["losses"], abs=2e-4)
        np.testing.assert_allclose(one["nll"], wanted["nll"], rtol=1e-6)


def test_a_step_that_cannot_be_compiled_is_computed_as_it_is(
    known, listed, measured, monkeypatch, caplog
):
    """Said aloud, and recorded; what the failed attempt left in the model is gone."""

    def fail(model):
        model.requires_grad_(False)
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(fast_training, "_compile", fail)
    run = next(r for r in listed if r.steps)
    record = worker.Worker(dataclasses.replace(known, compiled=True)).measure(run)
    assert "no compiler here" in caplog.text and "no compiled code" in caplog.text
    assert record["step"] == "eager" and record["losses"] == measured[listed.index(run)]["losses"]


@pytest.mark.slow
@pytest.mark.usefixtures("quick_workers")
def test_processes_write_what_one_bench_measures(known, listed, measured, tmp_path):
    """Through spawned workers and a file; a second call finds nothing to do; a torn line goes."""
    path = tmp_path / "rows.jsonl"
    few = [r for r in listed if not r.steps][:2]
    with records.RunLog(path, {"card": "test"}) as rows:
        counted = runner.run([few], known, rows, processes=1, minutes=5)
        assert counted["done"] == 2 and not counted["failed"]
    with path.open("ab") as file:
        file.write(b'{"schema": "cream-gr')
    with records.RunLog(path, {}) as rows:
        assert rows.keys == {known.key(r) for r in few}
        rows.append({"key": known.key(few[0]), "plan": "another"})
    found = records.records(path)
    assert len(path.read_text().splitlines()) == 2
    assert [each["nll"] for each in found] == [measured[listed.index(r)]["nll"] for r in few]
    assert all(each["card"] == "test" and each["plan"] == "tiny" for each in found)


@pytest.mark.usefixtures("forked_workers")
def test_no_run_begins_after_the_deadline(known, listed, tmp_path):
    """Nothing done, nothing failed, nothing hangs."""
    with records.RunLog(tmp_path / "rows.jsonl", {}) as rows:
        assert runner.run([listed], known, rows, processes=1, minutes=0.0)["done"] == 0


@pytest.mark.usefixtures("forked_workers")
def test_a_failed_run_does_not_lose_the_others(known, listed, tmp_path):
    """A corpus that is not there: reported, and the untuned model still has its row."""
    broken = dataclasses.replace(known, corpora={"mixed": "nowhere", "text": "nowhere"})
    tuned = next(r for r in listed if r.steps)
    with records.RunLog(tmp_path / "rows.jsonl", {}) as rows:
        counted = runner.run([[tuned, listed[0]]], broken, rows, processes=1, minutes=5)
    assert counted["failed"] == 1 and counted["done"] == 1


def test_merged_rows_say_everything(home, known, measured, tmp_path):
    """A row a question and run, scored as the tasks score; read back the same; order is nothing."""
    for name, part in (("a", measured[:5]), ("b", measured[3:])):
        with records.RunLog(tmp_path / f"{name}.jsonl", {"card": "test"}) as rows:
            for each in part:
                rows.append(each)
    files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    one, two = tmp_path / "one.parquet", tmp_path / "two.parquet"
    runner.merge(files, home / "out", one, str(home / "base0"), "runs/sources")
    runner.merge(files[::-1], home / "out", two, str(home / "base0"), "runs/sources")
    frame = records.read(one)
    pd.testing.assert_frame_equal(frame, records.read(two))
    asked = known.questions["tiny"]
    assert len(frame) == len(measured) * (len(asked.items) + 2)
    assert frame["key"].nunique() == len(measured)
    asked = frame[frame["task"] != "perplexity"]
    wrong = asked[asked["score"] == 0]
    assert (wrong["prediction"] != wrong["target"]).all()
    assert (wrong["right"] < wrong["answer_tokens"]).all()
    first = frame[(frame["key"] == measured[0]["key"]) & (frame["task"] == "perplexity")]
    np.testing.assert_allclose(sorted(first["nll"]), sorted(measured[0]["nll"][0]))
    assert frame["score"].dtype == "float32" or str(frame["score"].dtype) == "Float32"


def test_questions_come_back_as_they_were_built(home, known):
    """Every field of every item; a file that holds another token is refused, not repaired."""
    path, (name,) = next((home / "out").glob("questions-tiny-*.json.xz")), ["tiny"]
    base = models.load_tokenizer(home / "base0")
    built = scoring.build(name, base, 512, home / "out" / "corpora" / "text")
    found = known.questions[name]
    assert found.hash == built.hash and len(found.items) == len(built.items) > 0
    assert (found.name, found.window, found.lengths) == (name, 512, built.lengths)
    for one, wanted in zip(found.items, built.items, strict=True):
        assert one.example == wanted.example
        np.testing.assert_array_equal(one.prompt, wanted.prompt, strict=True)
        np.testing.assert_array_equal(one.target, wanted.target, strict=True)
    for (title, ids), (wanted_title, wanted_ids) in zip(
        found.documents, built.documents, strict=True
    ):
        assert title == wanted_title
        np.testing.assert_array_equal(ids, wanted_ids, strict=True)
    held = json.loads(lzma.decompress(path.read_bytes()))
    held["questions"]["items"][0]["prompt"][5] += 1
    other = path.with_name("other.json.xz")
    other.write_bytes(lzma.compress(json.dumps(held).encode()))
    with pytest.raises(ValueError, match=r"other\.json\.xz does not hold.*delete it"):
        scoring.stored(other)
    other.write_bytes(b"torn")
    with pytest.raises(ValueError, match="delete it"):
        scoring.stored(other)


@pytest.mark.slow
def test_a_run_is_trained_again_from_its_row(home, known, listed, measured):
    """Its losses and endpoints come back; those of another seed are found, and another key."""
    (home / "runs").mkdir(exist_ok=True)
    if not (home / "runs" / "bases").exists():
        (home / "runs" / "bases").symlink_to(home)
    tokenizer = models.load_tokenizer(home / "base0")
    frame = records.unfold(measured, known.questions, tokenizer)
    one = frame[frame["key"] == measured[listed.index(listed[-1])]["key"]]
    found = study.train_again(one, home, out="out")
    assert len(found.rows) == 1 and found.differing.empty and not found.unchecked
    losses = json.dumps([each + 0.05 for each in json.loads(one["losses"].iloc[0])])
    odd = one.assign(losses=losses, nll=one["nll"] * 1.2)
    found = study.train_again(odd, home, out="out")
    assert list(found.differing["value"]) == ["losses", "log_ppl_near", "log_ppl_far"]
    found = study.train_again(one.assign(seed=99), home, out="out")
    assert list(found.differing["value"]) == ["key"]
    found = study.train_again(one.assign(base="base9"), home, out="out")
    assert found.rows.empty and found.unchecked[0].rows == 1


def test_records_of_other_questions_are_refused(known, measured):
    """Their answers would be taken for those of other questions."""
    odd = {**measured[0], "questions_hash": "0" * 16}
    with pytest.raises(ValueError, match="answered questions 0000"):
        records.unfold([odd], known.questions, models.load_tokenizer(ROOT / "data" / "miniature"))


def test_files_of_others_are_refused(tmp_path):
    """By name and line."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"schema": "cream-rows-1"}\n')
    with pytest.raises(ValueError, match="line 1, is no record of a grid"):
        records.RunLog(path, {})
    with pytest.raises(FileNotFoundError, match="start the grid"):
        records.records(tmp_path / "none.jsonl")
    with pytest.raises(FileNotFoundError, match=r"python -m cream\.study"):
        records.read(tmp_path / "none.parquet")


def test_bases_of_other_tokenizers_are_refused(home, tmp_path):
    """Before anything is trained."""
    import tiny_models

    model = models.create(tiny_models.config("llama"), 0)
    models.save(model, tiny_models.tokenizer(), tmp_path / "odd")
    with pytest.raises(ValueError, match="another tokenizer"):
        runner.setting(home / "out", [str(home / "base0"), str(tmp_path / "odd")], ["tiny"], "x")


def test_recipes_come_back_as_they_were_written(home, known, measured, tmp_path, monkeypatch):
    """And a grid without them says what to run first."""
    path, chosen = tmp_path / "recipe.json", {("text", "yarn"): Recipe(100, 3e-4)}
    with records.RunLog(tmp_path / "rows.jsonl", {}) as rows:
        rows.append({**measured[0], "plan": "recipe"})
    monkeypatch.setattr(runner, "choose", lambda *_: (chosen, pd.DataFrame({"score": [1.0]})))
    runner.write_recipes([tmp_path / "rows.jsonl"], known, path)
    assert runner.read_recipes(path) == chosen
    with pytest.raises(FileNotFoundError, match="cream.study recipe"):
        runner.read_recipes(tmp_path / "none.json")


@pytest.mark.parametrize(
    "words",
    [
        ["primary", "--shard", "4/4"],
        ["primary", "--seeds", "x"],
        ["primary", "--rows", "x", "--recipe", "none.json"],
        ["choose"],
        ["merge", "--out", "x.parquet"],
        ["merge", "none.jsonl", "--out", "x.parquet"],
    ],
)
def test_the_command_refuses_what_it_cannot_do(words, monkeypatch):
    """With a sentence, before anything is computed."""
    monkeypatch.setattr(runner, "prepare", lambda *_: pytest.fail("corpora were made"))
    with pytest.raises(SystemExit) as stopped:
        runner.main(words)
    assert stopped.value.code not in (0, None)


def test_a_time_that_preparing_used_up_is_an_error(home, tmp_path):
    """Not "0 done": the reader would look for what failed."""
    words = ["tiny", "--out", str(home / "out"), "--bases", str(home / "base0")]
    with pytest.raises(SystemExit, match="--minutes 0 was over before a run could begin"):
        runner.main([*words, "--rows", str(tmp_path / "rows.jsonl"), "--minutes", "0"])


def test_merge_needs_a_parquet_file_to_write(tmp_path, measured, monkeypatch):
    """The default of --out is the corpora's folder."""
    monkeypatch.setattr(runner, "prepare", lambda *_: pytest.fail("corpora were made"))
    with records.RunLog(tmp_path / "rows.jsonl", {}) as rows:
        rows.append(measured[0])
    with pytest.raises(SystemExit, match="NAME.parquet"):
        runner.main(["merge", str(tmp_path / "rows.jsonl")])
