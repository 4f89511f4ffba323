"""Ten hidden sentences on a tiny stand-in: base, scaled and an adapter, asked, resumed, drawn."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import training_runs
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from cream import models, plots, results
from cream.evaluation.adapters import adapter_training
from cream.plots.hidden_sentences import found_sentences
from cream.study import real_model
from cream.training import lora

LENGTH = 460  # of 512 in the extended window, 64 in the base's own


@pytest.fixture(scope="module")
def adapter(training_place, tmp_path_factory):
    """What a LoRA run leaves in its run directory."""
    run = tmp_path_factory.mktemp("real") / "cream-yarn"
    training_runs.train(training_place, run, lora_rank=4, scaling="yarn")
    return run / "adapter"


@pytest.fixture(scope="module")
def questions(haystack, tiny_tokenizer):
    texts = {"code": haystack, "manual": haystack[5000:]}
    return real_model.hidden(tiny_tokenizer, texts, LENGTH)


@pytest.fixture(scope="module")
def asked(training_place, adapter, questions, tmp_path_factory):
    """The folder and the rows of all three models."""
    out = tmp_path_factory.mktemp("asked")
    wanted = real_model.subjects(str(training_place / "base"), training_place, adapter, "yarn", 8)
    return out, wanted, real_model.show(wanted, questions, out, progress=False)


def test_ten_sentences_five_a_text(questions, tiny_tokenizer):
    """Each asked alone after a text that the five share, at the depths named."""
    assert len(questions) == 10
    for document in ("code, 460 tokens", "manual, 460 tokens"):
        mine = [one for one in questions if one.document == document]
        assert [one.depth_percent for one in mine] == list(real_model.DEPTHS)
        assert len({one.target for one in mine}) == 5
        half = min(len(one.prompt) for one in mine) // 2
        assert len({one.prompt[:half] for one in mine}) == 1, "the text is not shared"
        for one in mine:
            assert one.target in one.prompt and not one.prompt.endswith(one.target)
            assert one.prompt.count(one.target) == 1
            assert len(tiny_tokenizer(one.prompt + one.target)["input_ids"]) <= LENGTH


def test_where_a_sentence_stands(questions, tiny_tokenizer):
    """After its share of the text's tokens, to a few: sentences before it add theirs."""
    for one in questions:
        before = len(tiny_tokenizer(one.prompt[: one.prompt.index(one.target)])["input_ids"])
        whole = len(tiny_tokenizer(one.prompt)["input_ids"])
        assert abs(before / whole - one.depth_percent / 100) < 0.25


def test_ten_different_sentences():
    """No answer is part of another sentence, and each is a sentence of its own."""
    assert len(real_model.SENTENCES) == 2 * len(real_model.DEPTHS)
    for asked, begun, word in real_model.SENTENCES:
        others = " ".join(f"{a} {b} {w}" for a, b, w in real_model.SENTENCES if b != begun)
        assert word.lower() not in f"{asked} {begun} {others}".lower()


def test_every_model_answers_every_question(asked, adapter, training_place):
    """Rows say which model, and the adapter's is the merged one."""
    _, _, rows = asked
    assert rows.groupby("method").size().to_dict() == {"original": 10, "scaled": 10, "cream": 10}
    by = rows.groupby("method")[["scaling", "scale", "run", "model_hash"]].first()
    assert list(by.loc["original"][:2]) == ["none", 1]
    assert list(by.loc["cream"][:3]) == ["yarn", 8, "cream-yarn"]
    merged = lora.load(adapter, training_place / "base", device="cpu")
    assert by.loc["cream", "model_hash"] == models.weights_hash(merged)
    assert rows["model_hash"].nunique() == 3
    assert rows["window"].eq(64).all() and rows["num_tokens"].le(LENGTH).all()


def test_again_it_asks_nothing(asked, questions, monkeypatch):
    out, wanted, rows = asked
    monkeypatch.setattr(real_model, "evaluate", lambda *a, **k: pytest.fail("asked again"))
    again = real_model.show(wanted, questions, out, progress=False)
    assert list(again["key"]) == list(rows["key"])


def test_what_was_read_is_shown(tiny_model, capsys):
    """A bar that ends at 100 % when every layer has read every token; hooks are gone after."""
    model = tiny_model()
    with real_model._reading(model, 40, "tiny", True), torch.no_grad():
        model(torch.arange(2, 42)[None])
        assert "left" in (before := capsys.readouterr().err) and "answering" not in before
        model(torch.arange(1)[None])
    said = capsys.readouterr().err.replace("\r", "\n")
    assert "tiny: 100 % read" in said and "answering" in said
    assert not any(one._forward_hooks for one in model.model.layers)


def test_the_outcome_is_drawn_and_said(asked, tmp_path):
    """Filled marks are answers that contain the sentence's end, as many as the text says."""
    _, _, rows = asked
    rows = rows.copy()
    rows["contained"] = np.where(rows["method"] == "cream", 1.0, 0.0)
    said = real_model.reading(rows)
    assert "CREAM: 10 of 10 found (95 % interval 72% to 100%)" in said
    assert "original: 0 of 10 found (95 % interval 0% to 28%)" in said
    assert "do not measure how much" in said
    titles = {"code, 460 tokens": "code", "manual, 460 tokens": "manual"}
    figure = found_sentences(rows, titles)
    for axes in figure.axes:
        marks = {"filled": 0, "hollow": 0}
        for drawn in axes.collections:
            white = bool((drawn.get_facecolor()[:, :3] == 1).all())
            marks["hollow" if white else "filled"] += len(drawn.get_offsets())
        assert marks == {"filled": 5, "hollow": 10}
    files = plots.style.save(figure, tmp_path / "figure", results.drawn_from(rows))
    assert all(one.stat().st_size for one in files)


def test_an_adapter_is_packed_to_bfloat16(adapter, training_place, tmp_path):
    """Half the bytes, the same model to bfloat16's rounding, still without a base's name."""
    size = real_model.pack(adapter, tmp_path / "packed")
    state = load_file(tmp_path / "packed" / lora.WEIGHTS)
    assert {one.dtype for one in state.values()} == {torch.bfloat16}
    assert size == sum(one.stat().st_size for one in (tmp_path / "packed").iterdir())
    about = json.loads((tmp_path / "packed" / "adapter_config.json").read_text())
    assert about["base_model_name_or_path"] is None
    known = json.loads((tmp_path / "packed" / lora.TRAINING).read_text())
    assert known["method"] == "cream" and known["steps"] == 3 and "base" not in known
    assert adapter_training(tmp_path / "packed") == known
    assert adapter_training(tmp_path / "nowhere") == {}
    whole, narrow = (lora.load(one, training_place / "base", device="cpu")
                     for one in (adapter, tmp_path / "packed"))  # fmt: skip
    for name, one in whole.state_dict().items():
        torch.testing.assert_close(narrow.state_dict()[name], one, rtol=0, atol=2e-4, msg=name)
    with pytest.raises(FileExistsError, match="is there already"):
        real_model.pack(adapter, tmp_path / "packed")
    with pytest.raises(ValueError, match="has rank 4 .* train rank 1 or fewer"):
        weights = sum(2 * one.numel() for one in state.values())
        real_model.pack(adapter, tmp_path / "other", most=weights // 3)
    assert not (tmp_path / "other").exists()


def test_a_packed_adapter_names_its_base_where_it_has_a_name():
    """Chat finds it then; a folder of the machine that trained is left out."""
    for base in ("smollm2-135m", "/elsewhere/runs/bases/smollm2-135m"):
        assert real_model._named_base(base) == "smollm2-135m"
    for base in (None, "data/miniature", "/elsewhere/smollm2-135m"):
        assert real_model._named_base(base) is None


@pytest.mark.slow
def test_the_ranks_that_fit_in_twelve_megabytes():
    """SmolLM2-135M in bfloat16: rank 19 of all linear layers, 52 of attention's alone."""
    from cream.models import bases

    about = bases.config_of("smollm2-135m")
    for targets, rank in (("all-linear", 19), ("q_proj,k_proj,v_proj,o_proj", 52)):
        sizes = [
            2 * lora.frozen_and_trained(
                about, training_runs.config(lora_rank=one, lora_targets=targets)
            )[2]
            for one in (rank, rank + 1)
        ]  # fmt: skip
        assert sizes[0] <= real_model.MOST < sizes[1], (targets, sizes)


def test_without_the_shipped_adapter_it_says_so(tmp_path, capsys):
    assert real_model._adapter(None, tmp_path) is None
    assert "data/smollm2/adapter is not shipped: the original" in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match="it is no LoRA adapter"):
        real_model._adapter(tmp_path / "nowhere", tmp_path)


def test_an_adapter_that_names_no_scaling_is_refused(adapter, training_place):
    assert real_model._scaling(adapter)["scaling"] == "yarn"
    with pytest.raises(ValueError, match="names no scaling"):
        real_model._scaling(training_place / "base")


def test_the_command_from_texts_to_figure(
    training_place, adapter, haystack, tmp_path, capsys, monkeypatch
):
    """As `make real` types it, on the stand-in: no network, three models, a table, a figure."""
    texts = {"code": haystack, "manual": haystack[5000:]}
    monkeypatch.setattr(real_model, "held_out_texts", lambda cache, tokens: texts)
    words = ["--base", str(training_place / "base"), "--adapter", str(adapter), "--length",
             str(LENGTH), "--out", str(tmp_path / "out")]  # fmt: skip
    real_model.main(words)
    said = capsys.readouterr()
    assert said.out.count("of 10 found") == 3 and "hidden_sentences.png" in said.out
    assert "3 of 3, CREAM: 100 % read" in said.err and "of 10 found" in said.err
    assert (tmp_path / "out" / "hidden_sentences.png").is_file()
    with pytest.raises(SystemExit) as ended:
        real_model.main([*words[:2], "--adapter", "nowhere"])
    assert ended.value.code == 1 and "no LoRA adapter" in capsys.readouterr().err
    monkeypatch.setattr(real_model, "show", lambda *a, **k: pytest.fail("a model was read"))
    with pytest.raises(SystemExit) as ended:
        real_model.main([*words[:5], "600", *words[6:]])
    assert ended.value.code == 1 and "window of 512 tokens" in capsys.readouterr().err


def test_the_texts_are_held_out_of_every_training_recipe():
    from cream.data import long_documents

    pinned = {one.pinned.package: one for one in long_documents.PACKAGES}
    for kind, name in real_model.HELD_OUT.items():
        assert pinned[name].split == "test" and kind in pinned[name].kinds


def test_the_stand_in_is_a_stock_model(adapter, training_place):
    """The merged model is what stock transformers would load of the run's model/."""
    stock = AutoModelForCausalLM.from_pretrained(adapter.parent / "model").eval()
    ours = lora.load(adapter, training_place / "base", device="cpu")
    tokens = torch.arange(2, 98)[None]
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens).logits, stock(tokens).logits, rtol=0, atol=0)
