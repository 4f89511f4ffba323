"""A campaign's questions: how many, as the preset has them, built once."""

from __future__ import annotations

from pathlib import Path

import pytest

from cream import presets
from cream.evaluation.models import base_of
from cream.study.campaign_questions import Questions, kept, per_length
from cream.tasks import prompts
from cream.tasks.base import Example, check_lengths

ROOT = Path(__file__).resolve().parents[2]


def test_lines_are_asked_as_the_notebook_asks_them():
    asked = Questions("miniature", lines=2)
    examples = asked.build("longchat_lines", ROOT)
    assert len(examples) == 2 * len(presets.get("miniature").evaluation.lines_lengths)
    assert max(each.token_length for each in examples) <= 8 * 512


def test_lines_of_the_whole_target_length_leave_the_answer_room():
    """Else the longest prompts with their answers exceed a model of that target."""
    examples = Questions("miniature", lines=1, lengths=(8,)).build("longchat_lines", ROOT)
    base = base_of(presets.get("miniature").train.base, ROOT)
    check_lengths(examples, base.tokenizer, 8 * 512)
    assert [each.token_length for each in examples] == [8 * 512 - prompts.SPARED]


def test_pairs_are_asked_at_five_places_and_the_presets_lengths():
    lengths = presets.get("miniature").evaluation.pairs_lengths
    examples = Questions("miniature", pairs=1).build("kv_retrieval", ROOT)
    assert len(examples) == 5 * len(lengths)
    assert [each.token_length for each in examples[::5]] == [614, 1229]  # 1.2 and 2.4 windows
    assert {each.how["style"] for each in examples} == {"miniature"}


def test_another_style_is_asked_uuids():
    asked = Questions("miniature", pairs=1, pair_keys=(7, 9), style="official")
    examples = asked.build("kv_retrieval", ROOT)
    assert [each.num_keys for each in examples] == [7] * 5 + [9] * 5
    assert {each.how["style"] for each in examples} == {"official"}


def test_ruler_is_asked_as_the_preset_asks_it():
    """A base without a chat template is asked in the benchmark's own words."""
    asked = Questions("miniature", ruler=1, ruler_lengths=(1126,))
    examples = asked.build("ruler", ROOT)
    assert len(examples) == 6 and max(each.token_length for each in examples) <= 1126


def test_lengths_of_a_campaign_leave_room_within_the_target_of_its_models():
    """Tuned for 16 N, a prompt of 16 N is shorter; one of 8 N, the preset's target, is whole."""
    asked = Questions("miniature", lines=1, lengths=(8, 16), scale=16)
    examples = asked.build("longchat_lines", ROOT)
    assert [each.token_length for each in examples] == [8 * 512, 16 * 512 - prompts.SPARED]


def test_one_count_stands_for_all_lengths():
    assert per_length((5,), [1, 2, 3]) == [5, 5, 5]
    assert per_length((5, 4, 3), [1, 2, 3]) == [5, 4, 3]
    with pytest.raises(ValueError, match="2 counts for 3 lengths"):
        per_length((5, 4), [1, 2, 3])
    with pytest.raises(ValueError, match="at least 1"):
        per_length((0,), [1])


def test_questions_are_built_once(tmp_path):
    built = []
    question = Example("perplexity", 0, "", "", 3, tokens=(1, 2, 3), how={"bos": 1})

    def build():
        built.append(1)
        return [question]

    for _ in range(2):
        assert kept(tmp_path / "x" / "needle.json", build) == [question]
    assert built == [1]
