"""A campaign's run is trained again from what was kept of it, and every difference is named."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import training_runs

from cream import results
from cream.data import corpus
from cream.evaluation import models as evaluation_models
from cream.evaluation.runner import evaluate
from cream.results import Rows
from cream.study.campaign import publish
from cream.study.campaign_questions import KINDS
from cream.tasks import haystack as haystacks
from cream.tasks import needle
from cream.verify import __main__ as verify
from cream.verify import campaign, examples
from cream.verify import rows as verify_rows

ROOT = Path(__file__).resolve().parents[2]
RUN = "cream-yarn-8-seed3"
LENGTHS, DEPTHS, SAMPLES = [400, 500], (0.0, 50.0, 100.0), 2


@pytest.fixture(scope="module")
def place(training_place, tiny_tokenizer, haystack, tmp_path_factory) -> Path:
    """A project with a campaign of one run, its base asked beside it, published into data/."""
    root = tmp_path_factory.mktemp("campaign")
    (root / "base").symlink_to(training_place / "base")
    (root / "data").mkdir()
    (root / "data/base").symlink_to(training_place / "base")
    texts = [{"split": "test", "source": "tests", "name": kind, "kind": kind, "text": half}
             for kind, half in zip(KINDS, (haystack[:30_000], haystack[30_000:60_000]),
                                   strict=True)]  # fmt: skip
    corpus.build(root / "corpus", [*training_runs.documents(), *texts], tiny_tokenizer,
                 training_runs.WINDOW, {"of": "tests"}, progress=False)  # fmt: skip
    training_runs.train(root, root / "runs/c" / RUN, scaling="yarn", seed=3)
    for name, file in ((f"runs/c/{RUN}", RUN), ("original", "original")):
        _ask(root, name, file, tiny_tokenizer)
    publish(root / "runs/c", root / "data/c.parquet")
    return root


def _ask(root: Path, name: str, file: str, tokenizer) -> None:
    (spec,) = evaluation_models.find(name, "base", root, "tiny")
    loaded, opened = spec.load(torch.float32), corpus.open_corpus(root / "corpus", tokenizer)
    asked = []
    for kind in KINDS:
        text = haystacks.from_corpus(opened, tokenizer, kind=kind)
        asked += needle.grid(tokenizer, text, LENGTHS, DEPTHS, SAMPLES, 0, "official", kind=kind)
    with Rows(root / "runs/c/rows" / f"{file}.jsonl", loaded.header) as rows:
        evaluate(loaded.model, loaded.tokenizer, needle, asked, rows, loaded.settings,
                 allow_beyond=True, progress=False)  # fmt: skip


@pytest.fixture
def copied(place, tmp_path) -> Path:
    """The published folder, to be changed."""
    for file in ("c.parquet", f"metrics/c/{RUN}.json", f"metrics/c/{RUN}.jsonl"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes((place / "data" / file).read_bytes())
    return tmp_path


def test_a_run_trained_again_is_as_it_was(place, capsys):
    checked = campaign.train_again(place / "data", place)
    assert checked.differing.empty and checked.rows["run"].to_list() == [f"c/{RUN}"]
    said = capsys.readouterr().out
    assert "losses within 0.0000" in said and "found at 500 tokens" in said
    assert (place / campaign.OUT / "c" / RUN / "model").is_dir()


def test_another_loss_is_named(place, copied):
    file = copied / f"metrics/c/{RUN}.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[1]["loss"] += 0.02
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (value,) = campaign.train_again(copied, place).differing["value"]
    assert value == f"loss at step {rows[1]['step']}"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows[:2]))
    assert "logged steps" in set(campaign.train_again(copied, place).differing["value"])


def test_other_answers_are_named(place, copied):
    """Every committed answer is turned round: what was not found was found."""
    rows = pd.read_parquet(copied / "c.parquet")
    results.to_parquet(rows.assign(score=1 - rows["score"].astype(float)), copied / "c.parquet")
    found = campaign.train_again(copied, place).differing
    assert set(found["value"]) == {"found at 400 tokens", "found at 500 tokens"}
    assert np.allclose(found["committed"].astype(float) + found["computed"].astype(float), 100)


def test_a_run_without_settings_losses_or_rows_is_none(copied, tmp_path_factory):
    assert [one.name for one in campaign.kept_runs(copied)] == [f"c/{RUN}"]
    (copied / f"metrics/c/{RUN}.jsonl").unlink()
    assert campaign.kept_runs(copied) == []
    with pytest.raises(ValueError, match="there is nothing to train again"):
        campaign.train_again(copied, copied)


def test_runs_that_were_trained_twice_are_far_within_the_limit():
    """SmolLM2-135M on H200s of two sessions: seven runs, 30 logged steps each."""
    metrics, apart = ROOT / "data/smollm2/metrics", {}
    for file in metrics.glob("primary/*.jsonl"):
        for other in metrics.glob(f"seed*/{file.name}"):
            apart[file.stem] = (campaign._losses(file) - campaign._losses(other)).abs()
    assert len(apart) == 7 and all(len(each) == 30 for each in apart.values())
    assert max(each.max() for each in apart.values()) < 0.0012 < campaign.LIMITS["losses"]


def test_the_command_trains_a_campaigns_run_again(place, monkeypatch, capsys):
    monkeypatch.setattr(verify.notebook, "find_root", lambda: place)
    assert verify.main(["data", "--train", "1", "--seed", "4"]) == 0
    assert "All 1 are as committed: within losses 0.01" in capsys.readouterr().out


def test_sentences_in_both_kinds_of_text_are_asked_again(place):
    """The base's rows: in code and in manuals questions have one length, depth and sample."""
    rows = results.read(place / "data/c.parquet")
    base = rows[rows["method"] == "original"]
    named = {examples.identity(row) for _, row in base.iterrows()}
    assert len(named) == len(base) == len(KINDS) * len(LENGTHS) * len(DEPTHS) * SAMPLES
    found = verify_rows.verify(base, place, rows=24, corpus="corpus", progress=False)
    assert len(found.rows) == 24 and found.differing.empty and not found.unchecked


def test_a_named_base_that_is_not_here_is_said_and_not_fetched(place):
    rows = results.read(place / "data/c.parquet").assign(base="smollm2-135m")
    found = verify_rows.verify(rows, place, rows=2, corpus="corpus", progress=False)
    assert found.rows.empty and all("not here" in one.why for one in found.unchecked)
