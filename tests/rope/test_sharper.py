"""Sharper attention in a config: which numbers it writes, and which configs it refuses."""

from __future__ import annotations

import math

import pytest
import tiny_models
from tiny_models import WINDOW

from cream import rope
from cream.rope.config import describe, extend
from cream.rope.sharper import factor_on_cos, sharpen

YARN = 0.1 * math.log(8) + 1  # of YaRN's paper, at s = 8


def _extended(name: str, family: str = "llama"):
    return extend(tiny_models.config(family), rope.scaling(name, 8))


@pytest.mark.parametrize(("name", "own"), [("yarn", YARN), ("yarn-original", YARN), ("cope", 1.0)])
def test_the_attention_factor_grows_by_the_root(name, own):
    """Also where the config leaves it to YaRN's default; the config given stays as it is."""
    before = _extended(name)
    assert ("attention_factor" in before.rope_parameters) == (name != "yarn-original")
    told = before.to_dict()
    after = sharpen(before, 1.2)
    assert after.rope_parameters["attention_factor"] == pytest.approx(own * 1.2**0.5, rel=1e-12)
    assert factor_on_cos(after) ** 2 == pytest.approx(1.2 * factor_on_cos(before) ** 2, rel=1e-12)
    assert before.to_dict() == told and describe(after) == {**describe(before), "sharper": 1.2}
    same = set(before.rope_parameters) - {"attention_factor"}
    assert all(after.rope_parameters[key] == before.rope_parameters[key] for key in same)


def test_twice_multiplies_and_the_inverse_undoes():
    twice = sharpen(sharpen(_extended("yarn-original"), 1.2), 1.5)
    assert factor_on_cos(twice) == pytest.approx(YARN * 1.8**0.5, rel=1e-12)
    assert describe(twice)["sharper"] == pytest.approx(1.8)
    back = sharpen(twice, 1 / 1.8)
    assert factor_on_cos(back) == pytest.approx(YARN, rel=1e-12)


def test_a_scaling_by_others_is_sharpened_from_what_it_says():
    """Stock yarn with a factor of its own, and what exports repeat for vLLM and SGLang."""
    own = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "attention_factor": 2.0,
           "original_max_position_embeddings": WINDOW}  # fmt: skip
    after = sharpen(tiny_models.config("llama", rope_parameters=own), 4)
    assert after.rope_parameters["attention_factor"] == 4.0 and not hasattr(after, "cream")
    exported = _extended("yarn")
    exported.rope_parameters |= {"short_mscale": YARN, "long_mscale": YARN}
    after = sharpen(exported, 1.2).rope_parameters
    assert after["short_mscale"] == after["long_mscale"] == after["attention_factor"] > YARN


def test_of_a_rope_a_layer_type_the_layers_of_full_attention_are_sharpened():
    base = tiny_models.alternating()
    base.rope_parameters = {
        "full_attention": {"rope_type": "yarn", "factor": 8.0, "rope_theta": 1e6,
                           "original_max_position_embeddings": WINDOW},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }  # fmt: skip
    after = sharpen(base, 1.2).rope_parameters
    assert after["full_attention"]["attention_factor"] == pytest.approx(YARN * 1.2**0.5)
    assert after["sliding_attention"] == base.rope_parameters["sliding_attention"]


@pytest.mark.parametrize(
    ("name", "words"),
    [("none", "'default' .cream's none., which has no.*tuned with scaling yarn or yarn-original"),
     ("linear", "'linear', which has no attention factor"),
     ("ntk", "'default' .cream's ntk., which has no attention factor"),
     ("drope", "'linear' .cream's drope., which"),
     ("clex", "'clex', which.*--factor T --sharper FACTOR writes a CLEX run at one t")],
)  # fmt: skip
def test_a_rope_without_an_attention_factor_is_refused(name, words):
    """By its type and cream's name for it, with what to do."""
    with pytest.raises(ValueError, match=words):
        sharpen(_extended(name), 1.2)


@pytest.mark.parametrize("factor", [0, -1.2, math.nan, math.inf, "1.2", True])
def test_a_factor_that_is_no_finite_number_above_0_is_refused(factor):
    with pytest.raises(ValueError, match="factor is .* must be a finite number, larger than 0"):
        sharpen(_extended("yarn"), factor)


def test_heads_of_which_a_part_is_turned_are_refused():
    """A part of each logit would stay as it is."""
    with pytest.raises(ValueError, match="RoPE turns a part of each head of this gpt_neox model"):
        sharpen(_extended("yarn", "gpt_neox"), 1.2)
    config = _extended("yarn")
    config.qk_nope_head_dim = 16
    with pytest.raises(ValueError, match="16 dimensions of a head are not turned"):
        sharpen(config, 1.2)
