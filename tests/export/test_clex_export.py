"""A CLEX run at a chosen t as a stock checkpoint: what stock transformers makes of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import training_runs
from transformers import AutoModelForCausalLM

from cream import models
from cream.export import checkpoint
from cream.models.sharper import sharper as write_sharper
from cream.rope import clex


@pytest.fixture(scope="module")
def run(tmp_path_factory, training_place, tiny_tokenizer) -> Path:
    """A finished CLEX run, but for the training: its matrices are drawn large."""
    place = tmp_path_factory.mktemp("clex") / "run"
    model = models.load(training_place / "base", scaling="clex", scale=8, device="cpu")
    torch.manual_seed(0)
    with torch.no_grad():
        for one in clex.trained_matrices(model):
            one.normal_(0, 0.3 / one.shape[1] ** 0.5)
    models.save(model, tiny_tokenizer, place / "model")
    config = training_runs.config(
        base=str(training_place / "base"), method="clex", scaling="clex", micro_batch=2
    )
    (place / "config.json").write_text(config.to_json())
    return place


@torch.no_grad()
def logits(model: torch.nn.Module, tokens: int) -> np.ndarray:
    ids = torch.from_numpy(np.random.default_rng(0).integers(2, 600, tokens))[None]
    return model(ids, use_cache=False).logits[0].numpy()


@pytest.mark.parametrize("t", [2, 2.5, 8])
def test_a_chosen_t_is_a_stock_checkpoint_with_equal_logits(run, tmp_path, t):
    """Both key styles hold the same factors; the stock model knows nothing of CLEX."""
    words = [str(run), str(tmp_path / "out"), "--factor", str(t)]
    checkpoint.main(words)
    ours = models.load(run / "model", device="cpu")
    clex.choose(ours, 0, t)
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    wanted, length = logits(ours, 150), int(64 * t)
    assert np.abs(logits(stock, 150) - wanted).max() <= 1e-4 * wanted.std()
    clex.choose(ours, 0, 1)
    assert np.abs(logits(stock, 150) - logits(ours, 150)).max() > 0.05 * wanted.std()
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    new, old = config["rope_parameters"], config["rope_scaling"]
    assert new["rope_type"] == old["rope_type"] == "longrope"
    assert new["long_factor"] == old["short_factor"] == new["short_factor"]
    assert config["rope_theta"] == 10000.0 and config["max_position_embeddings"] == length
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"at t = {t:g}" in card and f"--max-model-len {length}" in card
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_the_folder_is_named_by_t(run):
    assert checkpoint.export(run, factor=4) == (run / "export-t4").resolve()


def test_what_cannot_be_exported_says_so_before_anything_is_written(run, tmp_path):
    for factor, said in ((None, "give factor, from 1 to 8"), (9, "t from 1 to 8"), (0.5, "t from")):
        with pytest.raises(ValueError, match=said):
            checkpoint.export(run, tmp_path / "out", factor=factor)
    config = json.loads((run / "config.json").read_text())
    for changes, said in (
        ({"method": "cream", "scaling": "yarn"}, "factor is the t of a CLEX run"),
        ({"scaling_options": {"log_scale": True}}, r"ln\(tokens\)"),
    ):
        other = tmp_path / "other"
        other.mkdir(exist_ok=True)
        (other / "config.json").write_text(json.dumps({**config, **changes}))
        if not (other / "model").exists():
            (other / "model").symlink_to(run / "model")
        with pytest.raises(ValueError, match=said):
            checkpoint.export(other, tmp_path / "out", factor=2)
    assert not (tmp_path / "out").exists()


def test_a_chosen_t_is_exported_sharper(run, tmp_path):
    """The stock model of that t with its logits of attention times 1.2; the checkpoint has none."""
    out = checkpoint.export(run, tmp_path / "out", factor=2.5, sharper=1.2)
    stock = checkpoint.export(run, tmp_path / "stock", factor=2.5)
    plain, found = (AutoModelForCausalLM.from_pretrained(one).eval() for one in (stock, out))
    for layer in plain.model.layers:
        layer.self_attn.scaling *= 1.2
    wanted = logits(plain, 150)
    assert np.abs(logits(found, 150) - wanted).max() <= 1e-4 * wanted.std()
    again = models.load(out, device="cpu")
    np.testing.assert_allclose(logits(again, 150), logits(found, 150), atol=1e-5)
    with pytest.raises(ValueError, match="is of type 'clex'.*--factor T --sharper FACTOR"):
        write_sharper(run, tmp_path / "other", 1.2)
