"""RoPE scalings against formulas written a second time, published numbers, and transformers."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_models import STOCK_KINDS, reference_rotation
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from cream import rope
from cream.rope import scalings

SHAPES = [(10000.0, 128, 4096), (10000.0, 128, 2048), (520.0, 32, 512), (1e6, 64, 32768)]
THETAS = {  # protocols.md 3, d = 128, theta = 10000
    2: 20221.2617,
    4: 40889.9424,
    8: 82684.62264056221,
    16: 167198.7392,
    32: 338096.9460,
    64: 683674.6821212173,
}
MSCALES = {2: 1.0693, 4: 1.1386, 8: 1.20794, 16: 1.27726, 32: 1.34657, 64: 1.41589}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [2, 3, 8, 64])
@pytest.mark.parametrize("name", rope.KINDS)
def test_frequencies_and_factor_follow_the_formulas(name, scale, shape):
    theta, dim, window = shape
    kind = rope.scaling(name, scale)
    frequencies, factor = reference_rotation(name, scale, theta, dim, window)
    got = kind.inv_freq(theta, dim, window)
    assert got.dtype == np.float64 and got.shape == (dim // 2,)
    np.testing.assert_allclose(got, frequencies, rtol=1e-12)
    assert kind.attention_factor(window) == pytest.approx(factor, rel=1e-12)


@pytest.mark.parametrize("scale", THETAS)
def test_published_ntk_bases_and_attention_factors(scale):
    assert rope.Ntk(scale).theta(10000, 128) == pytest.approx(THETAS[scale], rel=1e-8)
    assert rope.Yarn(scale).attention_factor(4096) == pytest.approx(MSCALES[scale], abs=5e-5)
    assert rope.YarnOriginal(scale).attention_factor(4096) == pytest.approx(
        MSCALES[scale], abs=5e-5
    )


@pytest.mark.parametrize(("window", "ramp"), [(2048, (16, 41)), (4096, (20, 46)), (8192, (25, 50))])
def test_published_ramps(window, ramp):
    """Pairs up to the ramp's start keep their frequency, pairs from its end on are interpolated."""
    stretch = rope.Yarn(8).stretch(10000, 128, window)
    assert (np.flatnonzero(stretch == 1).max(), np.flatnonzero(stretch == 8).min()) == ramp


@pytest.mark.parametrize(("scale", "peak"), [(8, 2.53), (64, 16.5)])
def test_revised_and_original_yarn_differ_as_measured(scale, peak):
    ratio = rope.YarnOriginal(scale).inv_freq(1e4, 128, 4096)
    ratio = ratio / rope.Yarn(scale).inv_freq(1e4, 128, 4096)
    assert ratio.argmax() == 33 and ratio.max() == pytest.approx(peak, rel=5e-3)
    assert (ratio != 1).sum() == 25


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", STOCK_KINDS)
def test_transformers_builds_the_same_rotation(name, shape):
    """One float32 rounding or two apart, before and beyond the pre-training length."""
    theta, dim, window = shape
    kind = rope.scaling(name, 8)
    config = LlamaConfig(
        hidden_size=dim,
        num_attention_heads=1,
        max_position_embeddings=8 * window,
        rope_parameters=kind.hf_parameters(theta, dim, window),
    )
    config.standardize_rope_params()
    config.validate_rope()
    for length in (window, window + 1, 8 * window):
        got, factor = _stock_rotation(config, length)
        np.testing.assert_allclose(got, kind.inv_freq(theta, dim, window), rtol=1e-6)
        assert factor == pytest.approx(kind.attention_factor(window), rel=1e-12)


def _stock_rotation(config: LlamaConfig, length: int) -> tuple[np.ndarray, float]:
    kind = config.rope_parameters["rope_type"]
    if kind == "default":
        module = LlamaRotaryEmbedding(config)
        return module.inv_freq.numpy(), module.attention_scaling
    frequencies, factor = ROPE_INIT_FUNCTIONS[kind](config, "cpu", seq_len=length)
    return frequencies.numpy(), factor


@pytest.mark.parametrize("name", STOCK_KINDS)
def test_a_4x_reader_of_the_legacy_keys_finds_the_same_rotation(name):
    theta, dim, window = 10000.0, 128, 4096
    kind = rope.scaling(name, 8)
    keys = scalings.to_legacy(kind.hf_parameters(theta, dim, window))
    got, factor = _as_4x_reads(keys, dim)
    np.testing.assert_allclose(got, kind.inv_freq(theta, dim, window), rtol=1e-12)
    assert factor == pytest.approx(kind.attention_factor(window))


def _as_4x_reads(keys: dict, dim: int) -> tuple[np.ndarray, float]:
    """Read `rope_theta` and `rope_scaling` as transformers 4.57 does."""
    theta, scaling = keys["rope_theta"], keys["rope_scaling"]
    plain = 1 / theta ** (np.arange(0, dim, 2) / dim)
    if scaling is None:
        return plain, 1.0
    if scaling["rope_type"] == "linear":
        return plain / scaling["factor"], 1.0
    if scaling["rope_type"] == "longrope":
        return plain / np.array(scaling["short_factor"]), scaling["attention_factor"]
    assert scaling["rope_type"] == "yarn" and isinstance(scaling["factor"], float)
    window = scaling["original_max_position_embeddings"]
    return reference_rotation("yarn-original", int(scaling["factor"]), theta, dim, window)


def test_none_keeps_its_scale_and_changes_no_frequency():
    far, usual = rope.scaling("none", 8), rope.NoScaling()
    assert (far.scale, usual.scale) == (8, 1)
    assert (far.inv_freq(1e4, 32, 64) == usual.inv_freq(1e4, 32, 64)).all()
    assert far.hf_parameters(1e4, 32, 64) == usual.hf_parameters(1e4, 32, 64)
    with pytest.raises(ValueError, match="scale is 0: none scaling needs a whole number of at"):
        rope.scaling("none", 0)


def test_scalings_are_values():
    assert rope.scaling("yarn", 8) == rope.Yarn(8) and hash(rope.Yarn(8)) == hash(rope.Yarn(8.0))
    assert rope.scaling("linear", np.int64(4)).scale == 4
    with pytest.raises(AttributeError):
        rope.Yarn(8).scale = 4


@pytest.mark.parametrize("name", ["Linear", "dynamic", ""])
def test_unknown_kinds_are_refused_with_the_valid_ones(name):
    with pytest.raises(ValueError, match="none, linear, ntk, yarn, yarn-original"):
        rope.scaling(name, 8)


@pytest.mark.parametrize("scale", [1, 0, -8, 2.5, True, "8", float("inf"), float("nan"), None])
def test_bad_scales_are_refused(scale):
    with pytest.raises(ValueError, match="whole number of at least 2"):
        rope.scaling("linear", scale)


@pytest.mark.parametrize(
    ("theta", "dim", "window", "named"),
    [(1e4, 2, 64, "dim"), (1e4, 31, 64, "dim"), (1, 32, 64, "theta"), (1e4, 32, 4, "window")],
)
def test_impossible_shapes_are_refused(theta, dim, window, named):
    with pytest.raises(ValueError, match=f"^{named} is"):
        rope.Yarn(8).inv_freq(theta, dim, window)
