"""Bases of many families extended: frequencies by formulas written here, stock logits, gaps."""

from __future__ import annotations

import functools
import math
import os
import subprocess
from pathlib import Path

import families
import numpy as np
import pytest
import tiny_models
import torch
import transformers
from transformers import AutoModelForCausalLM

from cream import models, rope
from cream.rope import base as rope_base

SCALE = 8
SCALINGS = ["linear", "ntk", "yarn", "yarn-original"]
OLD = os.environ.get("CREAM_TRANSFORMERS_4_PYTHON")
TABLE = Path(__file__).resolve().parents[2] / "notebooks" / "families.md"
each_family = pytest.mark.parametrize("family", families.FAMILIES, ids=families.NAMES)


def _plain(theta: float, dim: int) -> np.ndarray:
    return np.array([theta ** (-2 * i / dim) for i in range(dim // 2)])


def _llama3(p: dict, w: np.ndarray, window: int) -> tuple[np.ndarray, float]:
    """Llama 3.1: long wavelengths are divided by the factor, those between are mixed."""
    found = []
    for one in w:
        rotations = p["original_max_position_embeddings"] * one / (2 * math.pi)
        low, high = p["low_freq_factor"], p["high_freq_factor"]
        share = min(max((rotations - low) / (high - low), 0), 1)
        found.append((1 - share) * one / p["factor"] + share * one)
    return np.array(found), 1.0


def _yarn(p: dict, w: np.ndarray, window: int) -> tuple[np.ndarray, float]:
    """YaRN (arXiv 2309.00071), whose ramp gpt-oss does not round to whole pairs."""
    dim, original = 2 * len(w), p["original_max_position_embeddings"]
    ends = []
    for rotations in (p.get("beta_fast", 32), p.get("beta_slow", 1)):
        turns = original / (rotations * 2 * math.pi)
        ends.append(dim * math.log(turns) / (2 * math.log(p["rope_theta"])))
    low, high = (math.floor(ends[0]), math.ceil(ends[1])) if p.get("truncate", True) else ends
    low, high = max(low, 0), min(high, dim - 1)
    keep = 1 - np.clip((np.arange(dim // 2) - low) / (high - low), 0, 1)
    factor = p.get("attention_factor", 0.1 * math.log(p["factor"]) + 1)
    return w * keep + (1 - keep) * w / p["factor"], factor


def _longrope(p: dict, w: np.ndarray, window: int) -> tuple[np.ndarray, float]:
    """Phi-3 at its own window: the long list, and the factor of window over original."""
    original = p["original_max_position_embeddings"]
    factor = math.sqrt(1 + math.log(window / original) / math.log(original))
    return w / np.array(p["long_factor"]), factor


FORMULAS = {
    "default": lambda p, w, window: (w, 1.0),
    "dynamic": lambda p, w, window: (w, 1.0),
    "linear": lambda p, w, window: (w / p["factor"], 1.0),
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
}


def _reference_base(config) -> tuple[np.ndarray, float, int]:
    """Return a base's frequencies, attention factor and window, from its config alone."""
    p = config.rope_parameters
    p = p.get("full_attention", p)
    p = {key: value for key, value in p.items() if value is not None}
    window = config.max_position_embeddings
    if p["rope_type"] == "yarn":
        window = max(window, int(p["original_max_position_embeddings"] * p["factor"]))
    window = max(window, getattr(config, "max_sequence_length", 0))
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    w = _plain(p["rope_theta"], int(head * p.get("partial_rotary_factor", 1)))
    return *FORMULAS[p["rope_type"]](p, w, window), window


def _reference_stretched(name: str, w: np.ndarray, window: int) -> tuple[np.ndarray, float]:
    """Stretch any frequencies; the ramp's ends are found by interpolating logarithms."""
    pairs = np.arange(len(w))
    if name == "linear":
        return w / SCALE, 1.0
    if name == "ntk":
        return w * SCALE ** (-pairs / (len(w) - 1.0)), 1.0
    turns = window * w / (2 * math.pi)
    low, high = (np.interp(-math.log(r), -np.log(turns), pairs) for r in (32, 1))
    keep = 1 - np.clip((pairs - math.floor(low)) / (math.ceil(high) - math.floor(low)), 0, 1)
    if name == "yarn":
        return w / ((1 - keep) * SCALE + keep), 0.1 * math.log(SCALE) + 1
    return w * (keep + (1 - keep) / SCALE), 0.1 * math.log(SCALE) + 1


def _tables(model, layer_type: str = "full_attention") -> tuple[np.ndarray, float]:
    """Return what a stock model's rotary module turns by (the last one that has it)."""
    found = None
    for module in model.modules():
        for prefix in ("", f"{layer_type}_"):
            if hasattr(module, f"{prefix}inv_freq"):
                table = getattr(module, f"{prefix}inv_freq").numpy().copy()
                found = table, getattr(module, f"{prefix}attention_scaling", 1.0)
    return found


def _attention(family) -> str:
    """Sinks and capped logits are not in sdpa."""
    return "eager" if family.config in ("GptOssConfig", "Gemma2Config") else "sdpa"


def _inputs(positions: torch.Tensor) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(2, tiny_models.VOCABULARY, (1, len(positions)), generator=generator)
    mask = torch.ones_like(tokens)
    return {"input_ids": tokens, "attention_mask": mask, "position_ids": positions[None]}


@torch.no_grad()
def _logits(model, positions: torch.Tensor, moved: bool = False) -> torch.Tensor:
    given = _inputs(positions)
    given["input_ids"][0, 0] += moved
    return model(**given, use_cache=False).logits


def _gaps(length: int) -> torch.Tensor:
    """A head, a middle and a tail of 32 positions each, up to the last one of `length`."""
    starts = (0, length // 2 - 16, length - 32)
    return torch.cat([torch.arange(start, start + 32) for start in starts])


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """One saved base a family: {name: directory}."""
    root = tmp_path_factory.mktemp("families")
    return {
        one.name: models.save(
            models.create(one.make(), 0, _attention(one)), tiny_models.tokenizer(),
            root / str(place),
        )
        for place, one in enumerate(families.FAMILIES)
    }  # fmt: skip


@each_family
def test_what_a_base_turns_by_today(family, bases):
    """The formulas, `base_rope` and the stock rotary module agree at the base's own window."""
    config = family.make()
    wanted, factor, window = _reference_base(config)
    base = rope_base.read(config)
    start, got_factor = rope_base.turning(base)
    got = rope.NoScaling().inv_freq(start, base.dim, base.window)
    np.testing.assert_allclose(got, wanted, rtol=3e-6)
    assert base.window == window and got_factor == pytest.approx(factor, rel=1e-6)
    stock = AutoModelForCausalLM.from_pretrained(bases[family.name], attn_implementation="eager")
    _logits(stock, _gaps(window))  # after which longrope turns by what its length asks for
    table, scaling = _tables(stock)
    np.testing.assert_allclose(table, wanted, rtol=3e-6)
    assert scaling == pytest.approx(factor, rel=1e-6)


@pytest.mark.thinned
@pytest.mark.parametrize("name", SCALINGS)
@each_family
def test_a_base_is_stretched_from_there(family, name, bases):
    """Tables by formulas, sliding ones as they were, and the same logits in stock transformers."""
    config = family.make()
    base, base_factor, window = _reference_base(config)
    wanted, factor = _reference_stretched(name, base, window)
    model = models.load(bases[family.name], name, SCALE, attention=_attention(family), device="cpu")
    table, scaling = _tables(model)
    np.testing.assert_allclose(table, wanted, rtol=5e-6)
    assert scaling == pytest.approx(factor * base_factor, rel=1e-6)
    if "sliding_attention" in config.rope_parameters:
        theta = config.rope_parameters["sliding_attention"]["rope_theta"]
        kept, one = _tables(model, "sliding_attention")
        np.testing.assert_allclose(kept, _plain(theta, len(kept) * 2), rtol=1e-6)
        assert one == 1.0
    assert model.config.max_position_embeddings == SCALE * window
    assert getattr(model.config, "max_sequence_length", SCALE * window) == SCALE * window
    about = models.describe(model.config)
    assert (about["scaling"], about["scale"], about["window"]) == (name, SCALE, window)


@pytest.fixture(scope="module")
def untouched(bases):
    """What a base says of 96 tokens, by stock transformers: read once a family."""

    @functools.cache
    def read(name: str) -> torch.Tensor:
        stock = AutoModelForCausalLM.from_pretrained(bases[name]).eval()
        return _logits(stock, torch.arange(96))

    return read


@pytest.mark.thinned
@pytest.mark.parametrize("name", ["linear", "yarn"])
@each_family
def test_stock_transformers_reads_a_saved_one_alike(family, name, bases, untouched, tmp_path):
    """Equal to the last bit, from position 0 to the last, and after loading by us again."""
    how = _attention(family)
    model = models.load(bases[family.name], name, SCALE, attention=how, device="cpu")
    folder = models.save(model, tiny_models.tokenizer(), tmp_path / "extended")
    stock = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=how).eval()
    again = models.load(folder, attention=how, device="cpu")
    for positions in (_gaps(model.config.max_position_embeddings), torch.arange(96)):
        ours = _logits(model, positions)
        torch.testing.assert_close(_logits(stock, positions), ours, rtol=0, atol=0)
        torch.testing.assert_close(_logits(again, positions), ours, rtol=0, atol=0)
    assert (untouched(family.name) - ours).abs().max() > 1e-3
    with pytest.raises(ValueError, match="as cream extended it"):
        models.extend(model.config, rope.Linear(2))


OLD_READER = """
import sys, torch
from transformers import AutoModelForCausalLM
for folder in sys.argv[1:]:
    given = torch.load(folder + "/given.pt")
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    except ValueError as error:
        torch.save(str(error), folder + "/old.pt")
        continue
    with torch.no_grad():
        found = [model(**one, use_cache=False).logits for one in given]
    torch.save(found, folder + "/old.pt")
"""


@pytest.mark.skipif(not OLD, reason="CREAM_TRANSFORMERS_4_PYTHON names no transformers 4.57")
@pytest.mark.parametrize("name", ["linear", "ntk", "yarn"])
def test_transformers_4_reads_a_saved_one_alike(name, bases, tmp_path):
    """Logits of 4.57 against ours at short and long positions; Phi-3 says that it cannot."""
    wanted = {}
    for place, family in enumerate(families.FAMILIES):
        model = models.load(bases[family.name], name, SCALE, attention="eager", device="cpu")
        folder = models.save(model, tiny_models.tokenizer(), tmp_path / str(place))
        ends = (torch.arange(96), _gaps(4096))
        torch.save([_inputs(one) for one in ends], folder / "given.pt")
        wanted[family.name] = folder, [_logits(model, one) for one in ends]
    folders = [str(folder) for folder, _ in wanted.values()]
    subprocess.run([OLD, "-c", OLD_READER, *folders], check=True)
    for family in families.FAMILIES:
        folder, ours = wanted[family.name]
        theirs = torch.load(folder / "old.pt")
        if families.refused_by_4(family, name):
            assert "must be a dictionary with three fields" in theirs, family.name
            continue
        assert not isinstance(theirs, str), (family.name, theirs)
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=2e-3, msg=family.name)


@pytest.mark.thinned
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@each_family
def test_the_tail_sees_the_head_across_gaps(family, attention, bases):
    """With a mask of ones; 96 tokens are more than the sliding layers' 32."""
    if attention == "sdpa" and _attention(family) != "sdpa":
        pytest.skip(f"transformers has no sdpa for {family.config}")
    model = models.load(bases[family.name], "yarn", SCALE, attention=attention, device="cpu")
    places = _gaps(model.config.max_position_embeddings)
    effect = (_logits(model, places) - _logits(model, places, moved=True))[0, -1].abs().max()
    assert effect > 1e-5


def test_a_factor_of_one_is_no_scaling():
    """A llama3 base of factor 1 is stretched as theta's own frequencies are, by every kind."""
    theta, dim, window = 5e5, 128, 8192
    plain = _plain(theta, dim)
    for name in rope.KINDS:
        kind = rope.scaling(name, SCALE)
        got = kind.inv_freq(plain, dim, window)
        np.testing.assert_allclose(got, kind.inv_freq(theta, dim, window), rtol=1e-12)


@pytest.mark.parametrize(
    ("theta", "dim", "window"),
    [(1e4, 24, 64), (1e4, 128, 4096), (1e6, 64, 131072), (520.0, 32, 512)],
)
def test_the_ramp_of_frequencies_is_that_of_theta(theta, dim, window):
    """Also where the ramp begins before the first pair or ends after the last one."""
    for name in ("yarn", "yarn-original"):
        kind = rope.scaling(name, 4)
        got = kind.inv_freq(_plain(theta, dim), dim, window)
        np.testing.assert_allclose(got, kind.inv_freq(theta, dim, window), rtol=1e-12)


def test_frequencies_that_are_none_are_refused():
    for bad in (np.ones(3), np.array([1.0, 0.0]), np.array([1.0, np.nan])):
        with pytest.raises(ValueError, match="frequencies above 0"):
            rope.Linear(2).inv_freq(bad, 4, 64)


REASONS = {
    "GPT-J": "rotates by a fixed table",
    "CodeGen": "rotates by a fixed table",
    "GPT-2": "only a decoder whose RoPE is set in its config",
    "Mistral 0.1": "every layer slides over 4096 tokens",
    "Phi-3 4K": "every layer slides over 2047 tokens",
    "Gemma 3, with vision": "that of the text model inside",
    "Command R7B": "no layer of full_attention of this cohere2 base has RoPE",
    "EXAONE 4": "no layer of full_attention of this exaone4 base has RoPE",
    "DeepSeek-V3": "mscale_all_dim",
}


@pytest.mark.parametrize("family", families.REFUSED, ids=[one.name for one in families.REFUSED])
def test_what_cannot_be_extended_is_refused_with_the_reason(family):
    assert REASONS[family.name] in families.refusal(family)


@pytest.mark.parametrize(("family", "theta"), [("GPTJConfig", 10000), ("CodeGenConfig", 10000)])
def test_fixed_tables_are_what_the_reason_says(family, theta):
    """The stock table is sin and cos of theta's frequencies, whatever the config asks for."""
    import transformers

    asked = {"rope_parameters": {"rope_type": "linear", "rope_theta": 5e5, "factor": 8.0}}
    config = getattr(transformers, family)(
        n_embd=64, n_layer=1, n_head=4, rotary_dim=16, n_positions=32, vocab_size=64,
        n_ctx=64, bos_token_id=0, eos_token_id=1, **asked,
    )  # fmt: skip
    table = next(
        module.embed_positions
        for module in AutoModelForCausalLM.from_config(config).modules()
        if hasattr(module, "embed_positions")
    )
    angles = np.arange(32)[:, None] * _plain(theta, 16)
    wanted = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    np.testing.assert_allclose(table.numpy(), wanted, atol=1e-5)


def test_other_layer_types_are_refused():
    config = next(one for one in families.FAMILIES if one.name == "OLMo 3").make()
    config.rope_parameters["chunked_attention"] = dict(config.rope_parameters["full_attention"])
    with pytest.raises(ValueError, match="each layer type its own RoPE"):
        models.extend(config, rope.Linear(2))
    config = next(one for one in families.FAMILIES if one.name == "Gemma 3 1B").make()
    config.layer_types = ["sliding_attention"] * 2
    with pytest.raises(ValueError, match="none sees far"):
        models.extend(config, rope.Linear(2))


def test_some_full_layers_without_rope_do_not_matter():
    """SmolLM3 rotates in three of four; layers that are no attention rotate nothing."""
    shape = {**tiny_models.SHAPE, "num_hidden_layers": 4, "num_key_value_heads": 1}
    smollm3 = transformers.SmolLM3Config(
        **shape, no_rope_layers=[1, 1, 1, 0], use_sliding_window=True, sliding_window=32,
        layer_types=["full_attention", "sliding_attention"] * 2,
    )  # fmt: skip
    assert models.extend(smollm3, rope.Linear(2)).cream["scale"] == 2
    smollm3.no_rope_layers = [0, 1, 0, 1]
    with pytest.raises(ValueError, match="those of sliding_attention alone do"):
        models.extend(smollm3, rope.Linear(2))
    convolving = transformers.Lfm2Config(
        **shape, layer_types=["conv", "conv", "conv", "full_attention"]
    )
    assert models.extend(convolving, rope.Linear(2)).cream["scale"] == 2


def test_a_base_without_rope_in_far_layers_is_loaded_as_it_is(tmp_path):
    """What it answers today can be asked; only stretching it is refused."""
    family = next(one for one in families.REFUSED if one.name == "Command R7B")
    folder = models.save(models.create(family.make(), 0), tiny_models.tokenizer(), tmp_path / "b")
    assert models.load(folder, device="cpu").config.max_position_embeddings == 8192
    with pytest.raises(ValueError, match="has RoPE"):
        models.load(folder, "yarn", 8, device="cpu")


def test_the_table_is_that_of_the_families():
    """Written by `python tests/support/families.py notebooks/families.md`."""
    assert TABLE.read_text(encoding="utf-8") == families.table()
