"""LoRA: what is trained and what is not, peft's format, merging, resuming, and what fits."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import signal

import pytest
import tiny_models
import torch
import training_runs
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, TrainerCallback

from cream import models, rope
from cream.models import bases
from cream.performance import random_models
from cream.training import lora, memory
from cream.training import run as training_run
from cream.training.config import TrainConfig

RUN = {"steps": 6, "batch_size": 4, "micro_batch": 2, "save_steps": 2, "seed": 3, "lora_rank": 4}
TOKENS = torch.arange(2, 98)[None] % 600


class Kept(TrainerCallback):
    """Keeps the logits of the model as it was trained, before anything is saved."""

    @torch.no_grad()
    def on_train_end(self, args, state, control, model=None, **kwargs):
        self.logits = model(TOKENS.to(model.device), use_cache=False).logits.float()
        self.frozen = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
        self.trained = [n for n, p in model.named_parameters() if p.requires_grad]


def _train(place, run, **changes) -> Kept:
    kept = Kept()
    config = training_runs.config(**{**RUN, **changes})
    training_run.train(config, run, root=place, progress=False, callbacks=[kept])
    return kept


@torch.no_grad()
def _logits(model) -> torch.Tensor:
    return model(TOKENS, use_cache=False).logits


@pytest.mark.parametrize("also", ["none", "norms", "embeddings", "embeddings+norms"])
def test_a_run_leaves_an_adapter_and_a_merged_stock_model(training_place, tmp_path, also):
    """model/ equals what was trained, and the adapter's card loads it with transformers and peft.

    The frozen weights are the base's, bit for bit.
    """
    kept = _train(training_place, tmp_path / "run", lora_train=also)
    base = models.load(training_place / "base", "linear", training_runs.SCALE, device="cpu")
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model").eval()
    torch.testing.assert_close(_logits(stock), kept.logits, rtol=1e-4, atol=1e-4)
    assert (_logits(base) - kept.logits).abs().max() > 1e-2, "nothing was trained"
    weights = dict(base.named_parameters())
    for name, one in kept.frozen.items():
        assert torch.equal(one, weights[name.replace(".base_layer", "")]), name
    adapter = tmp_path / "run" / "adapter"
    modes = {file.stat().st_mode for each in (adapter, tmp_path / "run/model")
             for file in each.iterdir()}  # fmt: skip
    assert len(modes) == 1, "some files are their owner's alone"
    again = AutoModelForCausalLM.from_pretrained(
        training_place / "base", config=AutoConfig.from_pretrained(adapter)
    )
    with_peft = PeftModel.from_pretrained(again, adapter).eval()
    torch.testing.assert_close(_logits(with_peft), kept.logits, rtol=1e-4, atol=1e-4)
    ours = lora.load(adapter, training_place / "base", device="cpu")
    torch.testing.assert_close(_logits(ours), _logits(stock), rtol=0, atol=0)
    extra = [name for name in kept.trained if "lora_" not in name]
    assert any("norm" in name for name in extra) == ("norms" in also)
    assert any("embed" in name for name in extra) == ("embeddings" in also)


def test_the_card_of_a_named_base_names_the_folder_that_is_made():
    """Its name here is no hub id: stock transformers reads the folder."""
    about = models.extend(bases.config_of("smollm2-135m"), rope.scaling("yarn", 8))
    card = lora._card(_config(base="smollm2-135m", scaling="yarn", lora_rank=16), about)
    assert 'from_pretrained("runs/bases/smollm2-135m", config=config)' in card
    assert "bases.place('smollm2-135m')" in card and "65,536 tokens" in card
    assert 'from_pretrained("some/base", config' in lora._card(_config(base="some/base"), about)


def test_tied_embeddings_stay_tied(tmp_path):
    """Trained, saved and merged, the head still is the embedding."""
    config = tiny_models.config("llama")
    model = lora.add(models.create(config, 0), _config(lora_rank=2, lora_train="embeddings"))
    with torch.no_grad():
        for one in lora.trained(model).values():
            one.add_(torch.randn(one.shape, generator=torch.Generator().manual_seed(0)) / 10)
    lora.save(model, _config(lora_rank=2, lora_train="embeddings"), tmp_path / "adapter")
    merged = lora.merge(models.create(config, 0), tmp_path / "adapter")
    assert merged.lm_head.weight is merged.get_input_embeddings().weight
    assert merged.config.tie_word_embeddings
    with_peft = PeftModel.from_pretrained(models.create(config, 0), tmp_path / "adapter").eval()
    tokens = TOKENS % 64
    with torch.no_grad():
        wanted, got, theirs = (
            each(input_ids=tokens, use_cache=False).logits for each in (model, merged, with_peft)
        )
    torch.testing.assert_close(theirs, wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def _config(**changes) -> TrainConfig:
    return training_runs.config(**changes)


def test_master_weights_train_on_a_bfloat16_base(training_place, tmp_path):
    """Precision "master": the base in bfloat16, adapters with float32 masters."""
    kept = _train(training_place, tmp_path / "run", precision="master", lora_train="norms")
    assert {one.dtype for one in kept.frozen.values()} == {torch.bfloat16}
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model").eval()
    apart = (_logits(stock) - kept.logits).abs().mean()
    assert apart < 0.05 * kept.logits.std(), "more than bfloat16 rounds away"
    assert training_runs.losses(tmp_path / "run").keys() == set(range(1, 7))


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"precision": "master", "lora_train": "embeddings+norms"}])
def test_killed_runs_end_as_if_they_had_not_been(training_place, tmp_path, changes):
    """The merged model and the adapter bit for bit, the same losses, small checkpoints."""
    training_runs.share(training_place, tmp_path)
    settings = {**RUN, **changes}
    kills = {"a forward": ("forward", 8), "while saving": ("torch.save", 5), "at the end":
             ("model", 1)}  # fmt: skip
    jobs = [training_runs.job(tmp_path / "whole", **settings)]
    for name, kill in kills.items():
        jobs += [training_runs.job(tmp_path / name, each, **settings) for each in (kill, None)]
    ended = training_runs.run_jobs(tmp_path, jobs)
    assert ended == [-signal.SIGKILL if job["kill"] else 0 for job in jobs]
    for name in kills:
        run, whole = tmp_path / name, tmp_path / "whole"
        assert training_runs.weights(run) == training_runs.weights(whole), name
        assert _adapter(run) == _adapter(whole), name
        assert training_runs.losses(run) == training_runs.losses(whole), name
        assert not list(run.glob(".model.*"))


def _adapter(run) -> str:
    return hashlib.sha256((run / "adapter" / lora.WEIGHTS).read_bytes()).hexdigest()


def test_checkpoints_hold_what_is_trained_alone(training_place, tmp_path):
    _train(training_place, tmp_path / "run", steps=2)
    files = {one.name for one in (tmp_path / "run/checkpoints/checkpoint-2").iterdir()}
    assert lora.STATE in files and "model.safetensors" not in files
    model = lora.add(models.load(training_place / "base", device="cpu"), _config(lora_rank=8))
    with pytest.raises(ValueError, match="holds other adapters"):
        lora.restore(model, tmp_path / "run/checkpoints/checkpoint-2")


def test_an_adapter_is_not_loaded_on_an_unscaled_base(training_place, tmp_path):
    """By its folder alone transformers would take the base as it is: it must fail aloud."""
    _train(training_place, tmp_path / "run", steps=2, save_steps=0)
    adapter = tmp_path / "run" / "adapter"
    about = json.loads((adapter / "adapter_config.json").read_text())
    assert about["base_model_name_or_path"] is None and about["r"] == 4 and about["lora_alpha"] == 8
    with pytest.raises((OSError, TypeError, ValueError, AttributeError)):
        AutoModelForCausalLM.from_pretrained(adapter)
    config = json.loads((adapter / "config.json").read_text())
    assert config["rope_scaling"]["factor"] == config["rope_parameters"]["factor"] == 8.0
    assert config["cream"]["target_length"] == training_runs.SCALE * training_runs.WINDOW


def test_adapters_depend_on_the_seed_alone():
    state = torch.get_rng_state()
    made = [
        lora.trained(lora.add(models.create(tiny_models.config("llama"), 0),
                              _config(lora_rank=4, seed=seed)))
        for seed in (1, 1, 2)
    ]  # fmt: skip
    assert torch.equal(state, torch.get_rng_state())
    one, two, other = ({n: p.detach() for n, p in each.items()} for each in made)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_targets_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match="lora_targets is 'nowhere'"):
        lora.add(models.create(tiny_models.config("llama"), 0),
                 _config(lora_rank=4, lora_targets="nowhere"))  # fmt: skip
    model = lora.add(models.create(tiny_models.config("llama"), 0),
                     _config(lora_rank=4, lora_targets="q_proj, v_proj"))  # fmt: skip
    assert all(".q_proj." in name or ".v_proj." in name for name in lora.trained(model))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lora_train": "norms"}, "set lora_rank"),
        ({"base_bits": 4}, "set lora_rank"),
        ({"lora_rank": -1}, "at least 0"),
        ({"lora_rank": 8, "lora_train": "heads"}, "choose one of none, norms"),
        ({"lora_rank": 8, "base_bits": 8}, "choose one of 16, 4"),
        ({"lora_rank": 8, "zero": 2, "precision": "master"}, "is not sharded"),
        ({"lora_rank": 8, "base_bits": 4, "precision": "float32"}, "choose 'master'"),
        ({"lora_rank": 8, "lora_targets": " "}, "lora_targets is empty"),
    ],
)
def test_what_does_not_go_together_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        _config(**changes)


@pytest.mark.slow
def test_counts_are_those_of_the_model():
    """Of Llama-2-7B, rank 16 trains 39,976,960: 16 (in + out) of seven matrices a layer."""
    about = random_models.shape("llama2-7b")
    whole, linear, trained = lora.frozen_and_trained(about, _config(lora_rank=16))
    layer = 4 * (4096 + 4096) + 3 * (4096 + 11008)
    assert trained == 32 * 16 * layer == 39_976_960
    assert whole == 6_738_415_616 and linear == 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    norms = lora.frozen_and_trained(about, _config(lora_rank=16, lora_train="norms"))[2]
    assert norms == trained + 65 * 4096


def test_what_fits_on_which_card():
    """7B at 4K: bytes of states by hand, and the answers that issue 17 asks for."""
    about = random_models.shape("llama2-7b")
    config = _config(lora_rank=16, precision="master", recompute=32, compile="layers",
                     micro_batch=1)  # fmt: skip
    held = memory.needs(about, config, 4096)
    assert held.states == 2 * 6_738_415_616 + 16 * 39_976_960
    assert "39,976,960 trained by LoRA on a frozen 16-bit base" in str(held)
    lines = dict(line.split(": ", 1) for line in memory.fitting(about, config, 4096))
    assert lines["full fine-tuning"].startswith("16 GB no, 24 GB no, 48 GB no, 80 GB no")
    assert "24 GB fits" in lines["LoRA of rank 16"] and "16 GB no" in lines["LoRA of rank 16"]
    assert "16 GB fits" in lines["LoRA of rank 16, 4-bit base"]


def test_four_bits_are_refused_where_nothing_computes_with_them(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="takes a CUDA device"):
        lora.check_bits(4)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ModuleNotFoundError, match="not installed"):
        lora.check_bits(4, find=lambda name: None)
    lora.check_bits(16)


@pytest.mark.gpu
@pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="a 4-bit base needs bitsandbytes"
)
def test_a_four_bit_base_is_trained(training_place, tmp_path):
    _train(training_place, tmp_path / "run", base_bits=4, precision="master", compile="none")
    found = training_runs.losses(tmp_path / "run")
    assert len(found) == 6 and (tmp_path / "run" / "model").is_dir()
