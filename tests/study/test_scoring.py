"""Questions by one forward against generating and scoring, on the shipped model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_models
import torch

from cream import models
from cream.data import corpus
from cream.data.retrieval import records as retrieval_records
from cream.inference.generation import greedy
from cream.inference.likelihood import log_likelihood
from cream.study import scoring
from cream.study.scoring import QuestionSpec, answer, build, right_tokens
from cream.tasks import kv_retrieval, longchat_lines, needle

BASE = Path(__file__).resolve().parents[2] / "data" / "miniature"
TASKS = {"longchat_lines": longchat_lines, "kv_retrieval": kv_retrieval, "needle": needle}


@pytest.fixture(scope="module")
def model():
    """Scaled but not tuned: right at some lengths, wrong at others."""
    return models.load(BASE, scaling="yarn", scale=8, dtype=torch.float32)


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A small set, its text generated words."""
    tokenizer, rng = models.load_tokenizer(BASE), np.random.default_rng(0)
    drawn = retrieval_records.draw_records("pairs", rng, 1000)
    text = " ".join(value for _, value in drawn) + "."
    documents = [{"split": split, "source": "test", "name": f"{split} {k}", "kind": "text",
                  "text": text} for split in ("train", "test") for k in range(2)]  # fmt: skip
    folder = tmp_path_factory.mktemp("questions") / "corpus"
    corpus.build(folder, documents, tokenizer, 512, {}, progress=False)
    small = QuestionSpec(((0.6, 1), (2, 1)), ((0.8, 1), (1.4, 1)), ((1.2, 1),), (1, 2), 2, seed=5)
    patch = pytest.MonkeyPatch()
    patch.setitem(scoring.SETS, "small", small)
    yield build("small", tokenizer, 512, folder)
    patch.undo()


@pytest.mark.slow
def test_one_forward_scores_as_generating_does(model, asked):
    """Every question: an answer is exact in one way if and only if it is in the other."""
    tokenizer = models.load_tokenizer(BASE)
    right, wrong = right_tokens(model, asked.items)
    for task, module in TASKS.items():
        chosen = [k for k, item in enumerate(asked.items) if item.example.task == task]
        examples = [asked.items[k].example for k in chosen]
        said = greedy(model, tokenizer, [e.prompt for e in examples], examples[0].max_new_tokens,
                      stop=examples[0].stop)  # fmt: skip
        theirs = {c.index: module.score(c.text, examples[c.index])["score"] for c in said}
        ours = {k: float(wrong[place] == -1) for k, place in enumerate(chosen)}
        assert ours == theirs
    assert 3 < sum(w == -1 for w in wrong) < len(wrong) - 3
    complete = [len(item.target) == r for item, r in zip(asked.items, right, strict=True)]
    assert complete == [w == -1 for w in wrong]


@pytest.mark.slow
def test_the_first_error_is_what_the_model_says_there(model, asked):
    """Against the logits of the plain model on prompt and right beginning."""
    right, wrong = right_tokens(model, asked.items)
    missed = [k for k, w in enumerate(wrong) if w >= 0][:3]
    for k in missed:
        item = asked.items[k]
        read = torch.tensor([[*item.prompt, *item.target[: right[k]]]])
        with torch.inference_mode():
            assert int(model(input_ids=read).logits[0, -1].argmax()) == wrong[k]
        assert item.target[right[k]] != wrong[k]


@pytest.mark.slow
def test_what_is_asked_together_changes_nothing(model, asked):
    """Sharing a beginning and filling up rows: each question alone has the same answer."""
    together = right_tokens(model, asked.items)
    for k in (0, 7, 12, len(asked.items) - 1):
        alone = right_tokens(model, asked.items[k : k + 1])
        assert (alone[0][0], alone[1][0]) == (together[0][k], together[1][k])


@pytest.mark.slow
def test_losses_are_those_of_the_documents(model, asked):
    """Beginnings of one reading."""
    found = answer(model, asked).nll
    for (_, ids), row in zip(asked.documents, found, strict=True):
        for length, nll in zip(asked.lengths, row, strict=True):
            assert nll == pytest.approx(log_likelihood(model, ids[:length]).sum(), abs=2e-2)


@pytest.mark.slow
def test_sharper_attention_is_larger_logits(model, asked):
    """Against each layer's own scale of its logits, which the rotation has nothing to do with."""
    ids = torch.from_numpy(asked.items[0].prompt)[None]
    with torch.inference_mode():
        plain = model(ids).logits
        with scoring.sharpened(model, 1.3):
            found = model(ids).logits
        layers = [one.self_attn for one in model.model.layers]
        for one in layers:
            one.scaling *= 1.3
        wanted = model(ids).logits
        for one in layers:
            one.scaling /= 1.3
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
        assert (found - plain).abs().max() > 0.1
        assert torch.equal(model(ids).logits, plain)
    right = answer(model, asked).right
    assert answer(model, asked, 1.0).right == right != answer(model, asked, 2.0).right


def test_attention_is_as_it_was_after_an_error(model, asked):
    before = model.model.rotary_emb.attention_scaling
    with pytest.raises(KeyError), scoring.sharpened(model, 2.0):
        raise KeyError
    assert model.model.rotary_emb.attention_scaling == before
    with (pytest.raises(ValueError, match="Linear has no factor: its attention cannot"),
          scoring.sharpened(torch.nn.Linear(1, 1), 2.0)):  # fmt: skip
        pass


def test_what_the_factor_would_not_reach_is_refused():
    """CLEX, whose rotation does not read it, and heads that are turned in part."""
    clex = models.load(BASE, "clex", 8, dtype=torch.float32)
    part = models.create(tiny_models.config("gpt_neox"), 0)
    for model, said in ((clex, "has no factor"), (part, "turns a part of each head")):
        with pytest.raises(ValueError, match=said), scoring.sharpened(model, 1.2):
            pass
        with scoring.sharpened(model, 1.0):
            pass


def test_a_table_has_a_row_a_question(asked):
    """In the order of the answers, then those of the documents."""
    table = asked.table(models.load_tokenizer(BASE))
    assert len(table) == len(asked.items) + 4
    assert table["target"].head(len(asked.items)).tolist() == [
        item.example.target for item in asked.items
    ]
    assert table["scored_tokens"].tail(4).tolist() == [511, 1023, 511, 1023]
    lines = table[table["task"] == "longchat_lines"]
    assert (lines.groupby("document").size() == scoring.EACH).all()


def test_the_hash_is_of_every_token(asked):
    """Another token, another set."""
    item = asked.items[3]
    changed = item._replace(prompt=np.concatenate([item.prompt[:-1], item.prompt[:1]]))
    items = (*asked.items[:3], changed, *asked.items[4:])
    other = scoring.Questions("x", 512, items, asked.documents, asked.lengths)
    assert other.hash != asked.hash


@pytest.mark.slow
def test_a_model_that_diverged_still_has_its_answers(asked):
    """Its losses are not numbers: none are given, and nothing is right."""
    broken = models.load(BASE, scaling="yarn", scale=8, dtype=torch.float32)
    with torch.no_grad():
        broken.get_input_embeddings().weight.fill_(float("nan"))
    found = answer(broken, asked)
    assert found.nll is None and max(found.right) == 0


def test_unknown_sets_and_too_little_text_are_refused(asked, tmp_path, monkeypatch):
    """By name, and with what there is."""
    tokenizer = models.load_tokenizer(BASE)
    with pytest.raises(ValueError, match="no set of questions 'x'"):
        build("x", tokenizer, 512, tmp_path)
