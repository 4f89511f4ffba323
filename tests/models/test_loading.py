"""Loading, extending, checking and describing models; checkpoints are in test_checkpoints."""

from __future__ import annotations

import copy
import functools
import json
import logging
import shutil

import numpy as np
import pytest
import tiny_models
import torch
from tiny_models import WINDOW
from transformers import AutoModelForCausalLM, GPT2Config

from cream import models, rope
from cream.models import loading
from cream.performance import random_models
from cream.rope import clex

FAMILIES = sorted(tiny_models.FAMILIES)
SCALINGS = [kind for kind in rope.KINDS if kind != "none"]


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """One saved base a family: {family: directory}."""
    root = tmp_path_factory.mktemp("bases")
    return {
        family: models.save(
            loading.create(tiny_models.config(family), 0), tiny_models.tokenizer(), root / family
        )
        for family in FAMILIES
    }


def _tokens(length: int = 5 * WINDOW) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(2, tiny_models.VOCABULARY, (1, length), generator=generator)


@torch.no_grad()
def _logits(model) -> torch.Tensor:
    if clex.layer_of(model):
        clex.choose(model, model.config.max_position_embeddings)
    return model(_tokens(), use_cache=False).logits


@pytest.fixture(scope="module")
def plain(bases):
    """A base as stock transformers reads it, and the logits of the base as we do: once a family."""

    @functools.cache
    def read(family: str) -> tuple[torch.nn.Module, torch.Tensor]:
        stock = AutoModelForCausalLM.from_pretrained(bases[family]).eval()
        return stock, _logits(loading.load(bases[family], device="cpu"))

    return read


@pytest.mark.thinned
@pytest.mark.parametrize("name", SCALINGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_loaded_model_turns_by_the_formulas(bases, plain, family, name):
    """Against a stock base whose rotary tables were overwritten with the reference's."""
    model = loading.load(bases[family], name, 8, device="cpu")
    stock, base = copy.deepcopy(plain(family))
    if getattr(stock.config, "sliding_window", None):
        stock.config.sliding_window = None
    theta, dim = stock.config.rope_parameters["rope_theta"], models.rotary_dim(stock.config)
    frequencies, factor = tiny_models.reference_rotation(name, 8, theta, dim, WINDOW)
    for module in stock.modules():
        if hasattr(module, "inv_freq"):
            module.inv_freq.copy_(torch.tensor(frequencies))
            module.attention_scaling = factor
    found = _logits(model)
    torch.testing.assert_close(found, _logits(stock), rtol=0, atol=1e-4)
    assert (found - base).abs().max() > 0.1


@pytest.mark.parametrize("name", rope.KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_an_extended_config_says_so(family, name):
    base = tiny_models.config(family)
    theta = base.rope_parameters["rope_theta"]
    config = models.extend(base, rope.scaling(name, 8))
    scale = 8
    assert config.max_position_embeddings == scale * WINDOW
    about = models.describe(config)
    assert about.pop("options", {}) == rope.scaling(name, 8).options
    assert about == {
        "window": WINDOW,
        "scaling": name,
        "scale": scale,
        "theta": theta,
        "target_length": scale * WINDOW,
    }
    assert models.describe(base)["scaling"] == "none", "the base's config was changed"
    part = base.rope_parameters.get("partial_rotary_factor")
    assert config.rope_parameters.get("partial_rotary_factor") == part


def test_describe_names_a_scaling_of_others():
    rope_parameters = {
        "rope_type": "llama3",
        "rope_theta": 5e5,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }
    config = tiny_models.config("llama", rope_parameters=rope_parameters)
    about = models.describe(config)
    assert about["scaling"] == "llama3" and about["target_length"] == WINDOW
    assert models.extend(config, rope.NoScaling()).to_dict() == config.to_dict()


def test_scaling_twice_is_refused_by_name(bases, tmp_path):
    once = loading.load(bases["llama"], "yarn", 4, device="cpu")
    models.save(once, tiny_models.tokenizer(), tmp_path / "once")
    assert models.describe(loading.load(tmp_path / "once", device="cpu").config)["scale"] == 4
    for again in rope.KINDS:
        with pytest.raises(ValueError, match=r"already scales its RoPE \(yarn\)"):
            loading.load(tmp_path / "once", again, 4)


def test_bases_that_cannot_be_extended_are_refused_with_the_reason():
    with pytest.raises(ValueError, match="gpt2 config has no rope_parameters"):
        models.extend(GPT2Config(), rope.Linear(8))
    with pytest.raises(ValueError, match="ALiBi"):
        models.extend(tiny_models.config("llama", alibi=True), rope.Linear(8))


def test_a_family_that_ignores_its_config_is_refused():
    """The built model is measured, so no family can pass by quietly not following."""
    model = loading.create(tiny_models.config("llama"), 0)
    model.config = models.extend(model.config, rope.Yarn(8))
    with pytest.raises(ValueError, match="does not turn by the yarn frequencies"):
        models.check_rotation(model)


def test_a_tampered_checkpoint_is_refused(bases, tmp_path):
    model = loading.load(bases["llama"], "ntk", 8, device="cpu")
    folder = models.save(model, tiny_models.tokenizer(), tmp_path / "ntk")
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"scale": 8', '"scale": 4'))
    with pytest.raises(ValueError, match="does not turn by the ntk frequencies"):
        loading.load(folder, device="cpu")


@pytest.mark.parametrize("sliding", [WINDOW, 4 * WINDOW])
def test_a_sliding_window_that_never_acted_is_lifted(sliding, caplog):
    config = models.extend(tiny_models.config("mistral", sliding_window=sliding), rope.Linear(4))
    assert config.sliding_window is None and "lifted" in caplog.text
    kinds = ["sliding_attention"] * 2
    config = tiny_models.config(
        "qwen2", use_sliding_window=True, sliding_window=sliding, layer_types=kinds
    )
    assert models.extend(config, rope.Linear(4)).layer_types == ["full_attention"] * 2


def test_sliding_windows_that_act_are_refused_or_kept():
    with pytest.raises(ValueError, match="every layer slides over 32 tokens"):
        models.extend(tiny_models.config("mistral", sliding_window=32), rope.Linear(4))
    config = models.extend(tiny_models.alternating(), rope.Linear(4))
    assert config.sliding_window == 32 and "sliding_attention" in config.layer_types
    idle = tiny_models.config("qwen2", use_sliding_window=False, sliding_window=8)
    assert models.extend(idle, rope.Linear(4)).layer_types == ["full_attention"] * 2


def test_extending_reaches_tokens_beyond_a_lifted_window(bases):
    """A Mistral of window N extended: token 0 still moves logits 5 N later."""
    model = loading.load(bases["mistral"], "linear", 8, device="cpu")
    tokens = _tokens()
    moved = tokens.clone()
    moved[0, 0] += 1
    with torch.no_grad():
        effect = (model(tokens).logits - model(moved).logits)[0, -1].abs().max()
    assert effect > 0


def test_create_is_the_same_for_a_seed_and_leaves_the_generator_alone():
    config = tiny_models.config("llama")
    state = torch.get_rng_state()
    one, two, other = (loading.create(config, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(_logits(one), _logits(two))
    assert not torch.equal(_logits(one), _logits(other))
    assert one.dtype == torch.float32 and not one.training


def test_load_defaults_and_choices(bases, caplog):
    caplog.set_level(logging.INFO, logger="cream.models")
    model = loading.load(bases["llama"], device="cpu")
    assert model.dtype == torch.float32 and not model.training
    assert "attention: sdpa on cpu" in caplog.text
    model = loading.load(bases["llama"], dtype=torch.bfloat16, attention="eager", device="cpu")
    assert model.dtype == torch.bfloat16 and model.config._attn_implementation == "eager"


@pytest.mark.parametrize("more", [{"scale": 4}, {"scaling_options": {"x": 1}}])
def test_a_scaling_with_its_own_scale_and_options_takes_no_others(bases, more):
    """They would be dropped in silence."""
    given = rope.scaling("yarn", 8)
    assert models.describe(loading.load(bases["llama"], given, device="cpu").config)["scale"] == 8
    with pytest.raises(ValueError, match="has its own scale and options"):
        loading.load(bases["llama"], given, device="cpu", **more)


def test_rotary_tables_stay_float32_in_bfloat16_models(bases):
    model = loading.load(bases["llama"], "yarn", 8, dtype=torch.bfloat16, device="cpu")
    tables = [module.inv_freq for module in model.modules() if hasattr(module, "inv_freq")]
    assert tables and all(table.dtype == torch.float32 for table in tables)


@pytest.mark.parametrize(
    ("capability", "installed", "picked"),
    [((9, 0), True, None), ((8, 0), True, "flash_attention_2"), ((8, 0), False, None)],
)
def test_attention_is_picked_by_card_and_by_what_is_installed(
    monkeypatch, capability, installed, picked
):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: installed or None)
    assert loading._attention("auto", torch.device("cuda", 0)) == picked
    assert loading._attention("eager", torch.device("cuda", 0)) == "eager"


@pytest.mark.parametrize(
    ("place", "attention", "small", "usual"),
    [
        ("cpu", "auto", 1, torch.float32),
        ("cuda", "auto", 10**9, torch.float32),
        ("cuda", "auto", 1, torch.bfloat16),
        ("cuda", "flash_attention_2", 10**9, torch.bfloat16),
    ],
)
def test_small_models_compute_in_float32_on_a_card(
    monkeypatch, bases, place, attention, small, usual
):
    monkeypatch.setattr(loading, "SMALL", small)
    config = loading.load_config(bases["llama"])
    assert loading._usual_dtype(config, torch.device(place), attention) == usual


def test_the_real_model_computes_in_bfloat16_and_the_miniature_in_float32():
    """On a card: the first is asked 64K tokens, the second is compared answer by answer."""
    place = torch.device("cuda")
    real = random_models.shape("smollm2-135m")
    assert loading._usual_dtype(real, place, "auto") == torch.bfloat16
    miniature = loading.load_config("data/miniature")
    assert loading._usual_dtype(miniature, place, "auto") == torch.float32


def test_scale_without_scaling_is_refused(bases):
    with pytest.raises(ValueError, match="scale is 8 but scaling is not given"):
        loading.load(bases["llama"], scale=8)
    with pytest.raises(ValueError, match="whole number of at least 2"):
        loading.load(bases["llama"], scaling="yarn")


def test_pairs_are_checked(bases, caplog):
    model = loading.load(bases["llama"], device="cpu")
    loading.check_pair(model, loading.load_tokenizer(bases["llama"]))
    assert not caplog.text
    with pytest.raises(ValueError, match="65 tokens and the model 64 embeddings"):
        loading.check_pair(model, tiny_models.tokenizer(extra=60))
    tokenizer = tiny_models.tokenizer()
    tokenizer.eos_token = "a"
    loading.check_pair(model, tokenizer)
    assert "ends texts with id 3" in caplog.text


@pytest.mark.parametrize("reader", [loading.load, loading.load_tokenizer])
def test_missing_places_are_named_without_asking_the_hub(reader, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for place in (tmp_path / "nowhere", "./nowhere", "runs/nowhere", "a/b/c"):
        with pytest.raises(FileNotFoundError, match="no such checkpoint directory"):
            reader(place)


def test_a_directory_without_tokenizer_is_named(bases, tmp_path):
    shutil.copytree(bases["llama"], tmp_path / "m")
    for file in (tmp_path / "m").glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ValueError, match="gives no tokenizer"):
        loading.load_tokenizer(tmp_path / "m")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rope_scaling": {"type": "longrope", "factor": 4.0}}, "KeyError: .*long_factor"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "high_freq_factor"),
        ({"rope_scaling": "linear"}, "Field 'rope_parameters' with value 'linear'"),
        ({"hidden_size": "48"}, "Field 'hidden_size' expected int"),
    ],
)
def test_a_config_that_transformers_refuses_is_named(tmp_path, changes, said):
    """Its own errors are of many kinds, name no file, and ended commands with a traceback."""
    content = {**tiny_models.SHAPE, "model_type": "llama", "rope_theta": 1e4, **changes}
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"{tmp_path} gives no config: .*{said}"):
        models.load_config(tmp_path)


@pytest.mark.parametrize("changes", [{"rope_theta": "1e4"}, {"factor": "4", "rope_type": "linear"}])
def test_numbers_of_rope_that_are_text_are_refused(changes):
    config = tiny_models.config("llama")
    config.rope_parameters = {"rope_type": "default", "rope_theta": 1e4, **changes}
    with pytest.raises(ValueError, match=f"have {next(iter(changes))} '.*', which is no number"):
        models.extend(config, rope.Linear(2))


def test_extended_positions_are_finite_far_out(bases):
    """Positions up to sN - 1, through every scaling, give finite logits."""
    ends = torch.tensor(np.r_[0:8, 4000:4008, 64 * WINDOW - 8 : 64 * WINDOW])[None]
    for name in SCALINGS:
        model = loading.load(bases["llama"], name, 64, device="cpu")
        if name == "clex":
            clex.choose(model, 64 * WINDOW)
        with torch.no_grad():
            logits = model(_tokens(24), position_ids=ends, use_cache=False).logits
        assert torch.isfinite(logits).all()


def test_an_unscaled_model_keeps_the_scale_it_was_trained_at(bases, tmp_path):
    """Positions went to 8 N; the saved model said scale 1, and the run's scale was lost."""
    plain, far = (loading.load(bases["llama"], "none", scale, device="cpu") for scale in (1, 8))
    folder = models.save(far, tiny_models.tokenizer(), tmp_path / "far")
    about = models.describe(loading.load(folder, device="cpu").config)
    assert (about["scaling"], about["scale"]) == ("none", 8)
    assert about["target_length"] == 8 * WINDOW and about["window"] == WINDOW
    ids = torch.arange(5)[None]
    assert torch.equal(plain(ids).logits, loading.load(folder, device="cpu")(ids).logits)
    assert models.describe(plain.config)["scale"] == 1 and not hasattr(plain.config, "cream")
