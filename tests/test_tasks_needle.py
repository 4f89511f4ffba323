"""A hidden sentence: lengths, depths, scoring."""

from dataclasses import replace

import pytest

from cream.tasks.needle import examples, score


def test_prompts_fill_the_length_with_the_haystack(haystack, tiny_tokenizer):
    for example in examples(tiny_tokenizer, haystack, [512, 1500], 8):
        num_tokens = len(tiny_tokenizer(example.prompt + example.target)["input_ids"])
        assert 0.95 * example.token_length < num_tokens <= example.token_length
        *text, question = example.prompt.split("\n")
        place = question.split("to do in ")[1].split("?")[0]
        hidden = f"The best thing to do in {place} is to{example.target}"
        assert sum(hidden in line for line in text) == 1


def test_the_sentence_stands_at_its_depth(haystack, tiny_tokenizer):
    built = examples(tiny_tokenizer, haystack, [1000], 2, depths=[0, 50, 100])
    assert [e.depth_percent for e in built] == [0, 0, 50, 50, 100, 100]
    for example in built:
        place = example.prompt.index("The best thing") / example.prompt.index("\nWhat is the best")
        assert place == pytest.approx(example.depth_percent / 100, abs=0.12)


def test_without_depths_they_are_spread(haystack, tiny_tokenizer):
    built = examples(tiny_tokenizer, haystack, [512], 10)
    assert [e.depth_percent // 25 for e in sorted(built, key=lambda e: e.depth_percent)][::3] == [
        0, 1, 2, 3,
    ]  # fmt: skip
    assert built[:4] == examples(tiny_tokenizer, haystack, [512], 4)


@pytest.mark.parametrize(
    ("prediction", "exact", "contained"),
    [
        (" lamok a dotel in tizam.", 1, 1),
        (" lamok a dotel in tizam", 1, 1),
        (" lamok a dotel in tizam and more.", 0, 1),
        (" lamok a dotel in.", 0, 0),
        ("", 0, 0),
    ],
)
def test_exact_and_contained(prediction, exact, contained, haystack, tiny_tokenizer):
    example = examples(tiny_tokenizer, haystack, [512], 1)[0]
    example = replace(example, target=" lamok a dotel in tizam.")
    assert score(prediction, example) == {"score": exact, "contained": contained}


def test_a_haystack_too_short_is_refused(tiny_tokenizer):
    with pytest.raises(ValueError, match="fewer than a prompt of 512: join more texts"):
        examples(tiny_tokenizer, "A short text.", [512], 1)
