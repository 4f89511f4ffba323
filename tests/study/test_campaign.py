"""A campaign: what is asked, what fails, what is published (models: test_campaign_models)."""

from __future__ import annotations

import json

import pandas as pd
import pytest
import torch
import training_runs

from cream import models, presets, results
from cream.study import campaign
from cream.study.campaign import complete
from cream.study.campaign_models import jobs
from cream.study.campaign_questions import KINDS, Questions
from cream.study.scoring import sharpened
from cream.tasks.base import Example
from cream.training import lora


def test_an_unknown_option_is_refused_before_anything_starts(tmp_path):
    with pytest.raises(ValueError, match="clex scaling has no option typo"):
        campaign.main([str(tmp_path), "--models", "clex:clex+typo:8:0", "--preset", "miniature"])


def _rows(file, run, lengths):
    header = {"run": run, "method": run, "model_hash": run, "settings": {}}
    with results.Rows(file, header) as rows:
        for length, count in lengths.items():
            for sample in range(count):
                rows.append({"task": "needle", "prompt_hash": f"{length}-{sample}", "score": 1.0,
                             "sample": sample, "token_length": length})  # fmt: skip


def test_lengths_half_asked_are_not_published(tmp_path):
    _rows(tmp_path / "out/rows/a.jsonl", "a", {10: 4, 20: 4})
    _rows(tmp_path / "out/rows/b.jsonl", "b", {10: 4, 20: 3})
    run = tmp_path / "out" / "b"
    run.mkdir()
    (run / "metrics.jsonl").write_text(json.dumps({"step": 1}) + "\n")
    (run / "config.json").write_text("{}\n")
    said = campaign.publish(tmp_path / "out", tmp_path / "made.parquet")
    counted = results.read(tmp_path / "made.parquet").groupby(["run", "token_length"]).size()
    assert counted.to_dict() == {("a", 10): 4, ("a", 20): 4, ("b", 10): 4}
    assert "3 of lengths half asked" in said
    assert (tmp_path / "metrics" / "made" / "b.jsonl").is_file()


def test_both_kinds_of_text_are_published(tmp_path):
    header = {"run": "a", "model_hash": "a", "settings": {}}
    with results.Rows(tmp_path / "rows/a.jsonl", header) as rows:
        for kind in KINDS:
            rows.append({"task": "needle", "prompt_hash": kind, "sample": 0, "token_length": 10,
                         "settings": {"style": "chat", "haystack": kind}})  # fmt: skip
    campaign.publish(tmp_path, tmp_path / "made.parquet")
    assert len(results.read(tmp_path / "made.parquet")) == 2


def test_complete_keeps_tasks_apart():
    frame = pd.DataFrame({"run": ["a", "a", "b"], "task": ["x", "x", "y"], "token_length": [1] * 3,
                          "key": list("123"), "settings": ["{}"] * 3})  # fmt: skip
    assert len(complete(frame)) == 3


def test_answers_by_sharper_attention_are_counted_apart():
    """Those of a length that ended half asked are left out, the others stay."""
    sharper = [json.dumps({"sharper": 1.2})] * 3
    frame = pd.DataFrame({"run": ["a"] * 4 + ["b"] * 3, "task": ["x"] * 7, "token_length": [1] * 7,
                          "key": list("1234567"),
                          "settings": ["{}", "{}", *sharper[:2], "{}", "{}", sharper[2]]})
    assert list(complete(frame)["key"]) == list("123456")


def test_the_largest_scale_above_the_presets_is_the_target_of_the_questions():
    assert campaign._scale(jobs("original,scaled:yarn:8,cream:yarn:32:0"), "smollm2-135m") == 32
    assert campaign._scale(jobs("original,cream:yarn:4:0"), "smollm2-135m") is None


def test_objects_half_asked_are_not_published_though_each_prompt_has_its_own_length():
    frame = pd.DataFrame({"run": ["a", "a", "b"], "task": ["kv_retrieval"] * 3,
                          "token_length": [70, 71, 70], "num_keys": [5] * 3, "key": list("123"),
                          "settings": ["{}"] * 3})  # fmt: skip
    assert list(complete(frame)["key"]) == ["1", "2"]


def test_what_fits_alike_is_read_together_the_longest_first(monkeypatch):
    """But a document's lengths of perplexity stay together, in their order."""
    lengths = (10, 33, 11, 30)
    asked = [Example("kv_retrieval", n, "", "", length) for n, length in enumerate(lengths)]
    one = campaign._campaign(campaign._parser().parse_args(["x", "--batch-tokens", "100"]))
    monkeypatch.setattr(campaign.Campaign, "examples", lambda self, task: asked)
    found = [(size, [each.token_length for each in group]) for size, group in one._batches("x")]
    assert found == [(3, [33, 30]), (9, [11]), (10, [10])]
    assert one._batches("perplexity") == [(3, asked)]


def test_an_unknown_task_is_refused_before_anything_starts(tmp_path):
    with pytest.raises(SystemExit, match="no task 'lines'"):
        campaign.main([str(tmp_path), "--tasks", "lines"])


def test_perplexity_is_over_all_tokens_and_scores_are_means():
    frame = pd.DataFrame({
        "token_length": [8, 8, 16], "score": [1.0, 0.0, 1.0],
        "nll": [2.0, 4.0, 3.0], "scored_tokens": [2, 1, 3],
    })  # fmt: skip
    assert campaign._means(frame, "needle") == {8: 0.5, 16: 1.0}
    assert campaign._means(frame, "perplexity") == {8: 7.389, 16: 2.718}


def test_a_model_that_fails_does_not_stop_the_others(tmp_path, monkeypatch, capsys):
    wanted = jobs("original,scaled:yarn:8")
    asked = Questions("tiny")
    run = campaign.Campaign("out", tuple(wanted), asked, (), {}, tmp_path, 1e12, 1)

    def ask(self, job):
        if job.method == "original":
            raise ValueError("no such model")
        return True

    monkeypatch.setattr(campaign.Campaign, "_evaluate_job", ask)
    assert not run.work()
    locks = tmp_path / "out" / "locks"
    assert [each.name for each in locks.glob("*.done")] == ["scaled-yarn-8.done"]
    assert "no such model" in capsys.readouterr().out


def test_a_length_that_no_model_finished_is_left_out_where_its_number_is_given():
    frame = pd.DataFrame({"run": ["a"] * 5, "task": ["needle"] * 4 + ["passkey"],
                          "token_length": [64, 64, 64, 32, 8], "key": list("12345"),
                          "settings": ["{}"] * 5})  # fmt: skip
    assert list(complete(frame, 3)["key"]) == ["1", "2", "3", "5"]
    assert len(complete(frame)) == 5


def test_an_adapter_is_a_model(tmp_path):
    """Its file of rows is called by its folder; two of one name would share one."""
    one, of_a_run = jobs("adapter:runs/x/rank19,adapter:runs/cream/adapter")
    assert (one.name, of_a_run.name) == ("adapter-rank19", "adapter-cream")
    assert one.evaluation_name("runs/y") == "adapter:runs/x/rank19" and not one.trained
    for listed, said in {"adapter:a/x,adapter:b/x": "adapter-x twice", "adapter:": "is no model",
                         "adapter:yarn:8:0": "is no model"}.items():  # fmt: skip
        with pytest.raises(ValueError, match=said):
            jobs(listed)
    with pytest.raises(SystemExit, match=r"nowhere holds no adapter_config\.json"):
        campaign.main(["out", "--models", "adapter:nowhere", "--root", str(tmp_path)])


def test_an_adapter_is_asked_as_it_is_merged(training_place, tmp_path, monkeypatch):
    """Through a whole campaign's job: the rows are of the adapter on the preset's base."""
    training_runs.share(training_place, tmp_path)
    training_runs.train(tmp_path, tmp_path / "runs/lora", lora_rank=2, scaling="yarn")
    asked = Example("perplexity", 0, "", "", 40, tokens=tuple(range(2, 42)), how={"bos": 1})
    preset = presets.get("tiny", base="base")
    monkeypatch.setattr(presets, "get", lambda *a, **k: preset)
    monkeypatch.setattr(Questions, "build", lambda *a: [asked])
    wanted = tuple(jobs("original,adapter:runs/lora/adapter"))
    run = campaign.Campaign("out", wanted, Questions("tiny"), ("perplexity",), {},
                            tmp_path, 1e12, 64)  # fmt: skip
    assert run.work()
    rows = results.read(tmp_path / "out/rows/adapter-lora.jsonl")
    assert set(rows["run"]) == {"adapter:runs/lora/adapter"} and set(rows["scale"]) == {8}
    merged = lora.load(tmp_path / "runs/lora/adapter", tmp_path / "base", device="cpu")
    assert set(rows["model_hash"]) == {models.weights_hash(merged)}
    assert (tmp_path / "out/locks/adapter-lora.done").exists()


def test_a_model_is_asked_again_with_sharper_attention(training_place, tmp_path, monkeypatch):
    """As its settings say, with the numbers of `sharpened`, and as before after that."""
    training_runs.share(training_place, tmp_path)
    asked = Example("perplexity", 0, "", "", 40, tokens=tuple(range(2, 42)), how={"bos": 1})
    preset = presets.get("tiny", base="base")
    monkeypatch.setattr(presets, "get", lambda *a, **k: preset)
    monkeypatch.setattr(Questions, "build", lambda *a: [asked])
    given = ("out", tuple(jobs("scaled:yarn:8")), Questions("tiny"), ("perplexity",), {}, tmp_path)
    assert campaign.Campaign(*given, 1e12, 64, "float32", (1.2, 1.5)).work()
    rows = results.read(tmp_path / "out/rows")
    factors = [json.loads(text).get("sharper") for text in rows["settings"]]
    assert factors == [None, 1.2, 1.5] and rows["key"].is_unique
    assert len(results.current(rows)) == 3 and rows["model_hash"].nunique() == 1
    model = models.load(tmp_path / "base", "yarn", 8, dtype=torch.float32, device="cpu")
    for factor, nll in zip((1, 1.2, 1.5), rows["nll"], strict=True):
        with sharpened(model, factor), torch.inference_mode():
            tokens = torch.tensor([asked.tokens])
            wanted = 39 * model(tokens, labels=tokens).loss.item()
        assert nll == pytest.approx(wanted, rel=1e-4)


def test_clex_is_not_asked_with_sharper_attention(tmp_path):
    """Its rotation has no factor: the answers would be those of before under another name."""
    given = ["out", "--root", str(tmp_path), "--preset", "tiny", "--sharper", "1.2", "--models"]
    with pytest.raises(SystemExit, match="CLEX has no factor that makes attention sharper"):
        campaign.main([*given, "clex:clex:8:0"])


@pytest.mark.parametrize("given", ["1", "0", "-1", "inf", "1.2,nan"])
def test_what_is_no_factor_is_refused(given, capsys):
    with pytest.raises(SystemExit):
        campaign.main(["out", "--sharper", given])
    assert "is no factor: above 0, and not 1" in capsys.readouterr().err


def test_cards_are_those_that_the_process_may_see(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert campaign._cards(None) == ["3", "5"]
    assert campaign._cards("1") == ["1"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert campaign._cards(None) == ["0", "1"]
