"""Full fine-tuning as an adapter: whole at full rank, the best at a lower one, and who reads it."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
import training_runs
from safetensors.torch import load_file

from cream import models
from cream.study import real_model
from cream.training import lora, low_rank

TOKENS = torch.arange(2, 98)[None] % 600
KINDS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
FULL = 32  # the smaller side of every linear layer of the tiny model


@pytest.fixture(scope="module")
def run(training_place, tmp_path_factory):
    """A finished run of full fine-tuning whose embeddings and head are the base's again."""
    folder = tmp_path_factory.mktemp("full") / "cream-yarn"
    training_runs.train(training_place, folder, scaling="yarn", learning_rate=1e-2)
    tuned, base = models.load(folder / "model"), models.load(training_place / "base")
    with torch.no_grad():
        tuned.get_input_embeddings().weight.copy_(base.get_input_embeddings().weight)
        tuned.get_output_embeddings().weight.copy_(base.get_output_embeddings().weight)
    models.save(tuned, models.load_tokenizer(folder / "model"), folder / "model")
    return folder


@pytest.fixture(scope="module")
def changes(training_place, run):
    """What training changed, by the weight's name, as numpy has it."""
    tuned, base = (models.load(one, device="cpu").state_dict()
                   for one in (run / "model", training_place / "base"))  # fmt: skip
    return {name: (tuned[name] - base[name]).double().numpy() for name in base}


@torch.no_grad()
def _logits(model) -> torch.Tensor:
    return model(TOKENS, use_cache=False).logits


def test_at_full_rank_with_norms_it_is_the_tuned_model(training_place, run, tmp_path):
    parts = low_rank.extract(run, tmp_path / "whole", FULL, norms=True, root=training_place)
    ours = lora.load(tmp_path / "whole", training_place / "base", device="cpu")
    wanted = _logits(models.load(run / "model", device="cpu"))
    torch.testing.assert_close(_logits(ours), wanted, rtol=1e-4, atol=1e-4)
    base = models.load(training_place / "base", scaling="yarn", scale=8, device="cpu")
    assert (_logits(base) - wanted).abs().max() > 1e-2, "nothing was trained"
    np.testing.assert_allclose(parts["kept"], parts["squared"], rtol=1e-9)
    assert ours.config.cream["scaling"] == "yarn"


@pytest.mark.parametrize("rank", [1, 5])
def test_what_is_kept_are_the_first_singular_values(training_place, run, tmp_path, changes, rank):
    """Its error is the tail of numpy's singular values, the least of any matrix of that rank."""
    parts = low_rank.extract(run, tmp_path / "out", rank, root=training_place).set_index("kind")
    base = models.load(training_place / "base", device="cpu").state_dict()
    ours = lora.load(tmp_path / "out", training_place / "base", device="cpu").state_dict()
    for kind in KINDS:
        mine = {name: one for name, one in changes.items() if f"{kind}.weight" in name}
        values = {n: np.linalg.svd(one, compute_uv=False) ** 2 for n, one in mine.items()}
        for name, one in mine.items():
            rest = np.square((ours[name] - base[name]).double().numpy() - one).sum()
            assert rest == pytest.approx(values[name][rank:].sum(), rel=1e-3), name
        assert parts.loc[kind, "layers"] == len(mine) == 2
        assert parts.loc[kind, "squared"] == pytest.approx(sum(v.sum() for v in values.values()))
        kept = sum(v[:rank].sum() for v in values.values())
        assert parts.loc[kind, "kept"] == pytest.approx(kept, rel=1e-5)
    norms = sum(np.square(one).sum() for name, one in changes.items() if "norm" in name)
    assert parts.loc["norms", "squared"] == pytest.approx(norms) and parts.loc["norms", "kept"] == 0
    assert parts.loc["embeddings", "squared"] == 0
    assert all(torch.equal(ours[name], base[name]) for name in base if "norm" in name)


def test_factors_of_matrices_of_any_shape():
    """Tall, wide, of less rank than asked for, and nothing at all."""
    rng = torch.Generator().manual_seed(0)
    for shape in ((7, 4), (4, 7)):
        whole = torch.randn(shape, generator=rng)
        b, a = low_rank.factors(whole, 3)
        assert b.shape == (shape[0], 3) and a.shape == (3, shape[1])
        u, s, v = np.linalg.svd(whole.double().numpy(), full_matrices=False)
        np.testing.assert_allclose(b @ a, u[:, :3] * s[:3] @ v[:3], atol=1e-9)
        np.testing.assert_allclose(b.square().sum(0), s[:3], rtol=1e-9)  # halves of one size
        np.testing.assert_allclose(a.square().sum(1), s[:3], rtol=1e-9)
        single = whole[:, :1] @ whole[:1]
        b, a = low_rank.factors(single, 3)
        np.testing.assert_allclose(b @ a, single, atol=1e-6)
        b, a = low_rank.factors(torch.zeros(shape), 2)
        assert not (b @ a).any() and b.isfinite().all() and a.isfinite().all()


def test_a_change_that_no_adapter_holds_is_said(training_place, run, tmp_path, capsys):
    """Embeddings, the head and norms are counted beside what is kept."""
    other = tmp_path / "other"
    shutil.copytree(run, other)
    tuned = models.load(other / "model", device="cpu")
    with torch.no_grad():
        tuned.get_input_embeddings().weight.add_(0.5)
        tuned.get_output_embeddings().weight.add_(0.25)
    models.save(tuned, models.load_tokenizer(run / "model"), other / "model")
    low_rank.main([str(other), str(tmp_path / "out"), "--rank", str(FULL),
                   "--root", str(training_place)])  # fmt: skip
    said = capsys.readouterr().out
    lines = {line.split()[0]: line.split() for line in said.splitlines()[1:]}
    assert float(lines["embeddings"][2]) == pytest.approx(0.5 * (600 * 32) ** 0.5, rel=1e-3)
    assert float(lines["head"][2]) == pytest.approx(0.25 * (600 * 32) ** 0.5, rel=1e-3)
    assert lines["embeddings"][-1] == lines["head"][-1] == lines["norms"][-1] == "0.0%"
    assert lines["q_proj"][-1] == "100.0%" and lines["q_proj"][1] == "2"
    state = load_file(tmp_path / "out" / lora.WEIGHTS)
    assert f"{2 * sum(one.numel() for one in state.values()) / 1e6:.2f} MB in bfloat16" in said


def test_it_is_packed_and_loaded_like_a_trained_one(training_place, run, tmp_path):
    low_rank.extract(run, tmp_path / "out", 4, norms=True, root=training_place)
    about = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert about["r"] == about["lora_alpha"] == 4 and about["base_model_name_or_path"] is None
    real_model.pack(tmp_path / "out", tmp_path / "packed")
    known = json.loads((tmp_path / "packed" / lora.TRAINING).read_text())
    assert known["method"] == "cream" and known["steps"] == 3 and known["low_rank"]["rank"] == 4
    assert "Not trained as an adapter" in (tmp_path / "packed" / "README.md").read_text()
    whole, narrow = (lora.load(tmp_path / one, training_place / "base", device="cpu").state_dict()
                     for one in ("out", "packed"))  # fmt: skip
    for name, one in whole.items():
        torch.testing.assert_close(narrow[name], one, rtol=1e-2, atol=2e-3, msg=name)
    norms = models.load(run / "model", device="cpu").state_dict()["model.norm.weight"]
    assert torch.equal(whole["model.norm.weight"], norms)


def _changed(run, place, **fields):
    shutil.copytree(run, place)
    config = json.loads((run / "config.json").read_text()) | fields
    (place / "config.json").write_text(json.dumps(config))
    return place


def test_what_is_refused(training_place, run, tmp_path):
    """Before anything is read or written."""
    out = tmp_path / "out"
    cases = [
        (run, FULL + 1, ValueError, "rank is 33: give 1 to 32, the smaller side of"),
        (run, 0, ValueError, "rank is 0: give 1 to 32"),
        (_changed(run, tmp_path / "lora", lora_rank=2), 2, ValueError, "trained LoRA of rank 2"),
        (_changed(run, tmp_path / "clex", scaling="clex", method="clex"), 2, ValueError,
         "has the scaling clex"),
        (tmp_path / "nowhere", 2, FileNotFoundError, "does not exist"),
    ]  # fmt: skip
    unfinished = _changed(run, tmp_path / "unfinished")
    shutil.rmtree(unfinished / "model")
    cases.append((unfinished, 2, FileNotFoundError, "has no finished model"))
    for folder, rank, error, said in cases:
        with pytest.raises(error, match=said):
            low_rank.extract(folder, out, rank, root=training_place)
        assert not out.exists()
    out.mkdir()
    with pytest.raises(FileExistsError, match="is there already"):
        low_rank.extract(run, out, 2, root=training_place)
    with pytest.raises(SystemExit) as ended:
        low_rank.main([str(run), str(out), "--rank", "2"])
    assert ended.value.code == 1


def test_nothing_half_written_is_left(training_place, run, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(lora.checkpoints, "save_config", fail)
    with pytest.raises(OSError, match="disk full"):
        low_rank.extract(run, tmp_path / "a" / "out", 2, root=training_place)
    assert not list((tmp_path / "a").glob("*")) and not list((tmp_path / "a").glob(".*"))
