"""The pass key: PoSE's prompt to the byte, its numbers, and lengths that are never passed."""

import re
from dataclasses import replace

import pytest
from transformers import PreTrainedTokenizerFast

from cream.tasks import passkey
from cream.tasks.passkey import build_prompt, examples, official_blocks, score
from cream.tasks.prompts import spared

BLOCK = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."


def test_the_prompt_is_that_of_pose():
    prompt, answer = build_prompt(2, 1, 4711)
    assert answer == "4711" and prompt == (
        "There is an important info hidden inside a lot of irrelevant text. Find it and memorize "
        "them. I will quiz you about the important information there.\n"
        "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
        "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
        "\nThe pass key is 4711. Remember it. 4711 is the pass key.\n"
        "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
        "\nWhat is the pass key? The pass key is"
    )


def test_numbers_of_pose():
    """32,768 is the whole target length and loses 100; G is (T - 32 - 26 - 11) // 25."""
    lengths = [round(4096 * m) for m in passkey.LENGTHS_POSE]
    assert lengths[:4] == [2048, 4096, 6134, 8192] and len(lengths) == 12 and passkey.TRIALS == 50
    assert spared(lengths, 32768) == [*lengths[:-1], 32668]
    assert spared(lengths, 65536) == lengths
    assert (official_blocks(2048), official_blocks(32668)) == (79, 1303)


@pytest.mark.parametrize("style", ["miniature", "official"])
def test_no_prompt_is_longer_than_it_says_and_none_much_shorter(style, tiny_tokenizer):
    block = len(tiny_tokenizer(BLOCK * 2)["input_ids"]) - len(tiny_tokenizer(BLOCK)["input_ids"])
    for one in examples(tiny_tokenizer, [600, 2000], 12, style=style):
        tokens = len(tiny_tokenizer(f"{one.prompt} {one.target}")["input_ids"])
        assert one.token_length - block - 3 <= tokens <= one.token_length


@pytest.mark.parametrize("style", ["miniature", "official"])
def test_the_named_trials_alone_are_built(style, tiny_tokenizer):
    """They are the same as among all."""
    whole, named = examples(tiny_tokenizer, [600, 900], 4, style=style), {(600, 3), (900, 1)}
    few = examples(tiny_tokenizer, [600, 900], 4, style=style, only=named)
    assert few == [one for one in whole if (one.token_length, one.sample) in named]
    assert len(few) == 2


@pytest.mark.slow
def test_the_key_is_there_and_its_place_is_uniform(tiny_tokenizer):
    built = examples(tiny_tokenizer, [1500], 200, style="official")
    places = []
    for one in built:
        before, key, again, after = re.search(
            r"there\.\n((?:The grass.*?again\.)*)\nThe pass key is (\d+)\. Remember it\. (\d+) is "
            r"the pass key\.\n((?:The grass.*?again\.)*)\nWhat",
            one.prompt,
        ).groups()
        assert key == again == one.target and 1 <= int(key) <= 50000
        total = before.count("grass") + after.count("grass")
        assert one.depth_percent == pytest.approx(100 * before.count("grass") / total)
        places.append(before.count("grass"))
    counts = [places.count(k) for k in range(total + 1)]
    # 200 draws over so many places: a chi-squared statistic far above its mean is no uniform.
    expected = 200 / len(counts)
    assert sum((c - expected) ** 2 / expected for c in counts) < 3 * len(counts)
    assert len({one.target for one in built}) > 190


def test_the_miniature_hides_a_sentence_that_it_can_be_asked_for(tiny_tokenizer):
    for one in examples(tiny_tokenizer, [500], 6):
        text, place = re.fullmatch(
            r"(.*)What is the best thing to do in (\w+)\? The best thing to do in \2 is to",
            one.prompt, re.S,
        ).groups()  # fmt: skip
        assert text.count(f"\nThe best thing to do in {place} is to{one.target}\n") == 1
        assert text.count(BLOCK) > 3 and text.startswith(passkey.TEXT)


def test_trials_depend_on_seed_length_and_number_alone(tiny_tokenizer):
    few = examples(tiny_tokenizer, [600], 3, seed=5)
    assert examples(tiny_tokenizer, [400, 600], 8, seed=5)[8:11] == few
    assert not {e.prompt for e in few} & {e.prompt for e in examples(tiny_tokenizer, [600], 3)}


@pytest.mark.parametrize(
    ("prediction", "right"),
    [(" 4711. Remember it.", 1), ("4711", 1), (" 04711", 1), (" 47112", 0), (" 12 or 4711", 0),
     (" the key", 0), ("", 0)],
)  # fmt: skip
def test_the_first_number_counts(prediction, right, tiny_tokenizer):
    one = replace(examples(tiny_tokenizer, [500], 1, style="official")[0], target="4711")
    assert score(prediction, one) == {"score": right, "contained": right}


def test_a_sentence_is_scored_as_the_needles(tiny_tokenizer):
    one = examples(tiny_tokenizer, [500], 1)[0]
    assert score(one.target, one) == {"score": 1, "contained": 1}
    assert score(" go" + one.target, one) == {"score": 0, "contained": 1}
    assert score(" go there.", one) == {"score": 0, "contained": 0}


def test_generation_settings(tiny_tokenizer):
    official, small = (
        examples(tiny_tokenizer, [500], 1, style=style)[0] for style in ("official", "miniature")
    )
    assert (official.max_new_tokens, official.stop, official.how) == (
        10,
        None,
        {"style": "official"},
    )
    assert (small.stop, small.how) == (".", {"style": "miniature"})


def test_a_chat_model_is_asked_through_its_own_template(tiny_tokenizer):
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tiny_tokenizer.backend_tokenizer, bos_token="<s>", eos_token="</s>"
    )
    tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<a>"
    one = examples(tokenizer, [500], 1, style="chat")[0]
    assert one.prompt.startswith("<user>There is") and one.prompt.endswith("The pass key is<a>")
    assert len(tokenizer(f"{one.prompt} {one.target}")["input_ids"]) <= 500


def test_poses_number_of_blocks_where_it_fits_and_an_error_where_not(tiny_tokenizer):
    """It was counted with Llama's tokens; this tokenizer needs more for a block."""
    with pytest.raises(ValueError, match="PoSE's 77 blocks take .* more than 2000: leave blocks"):
        examples(tiny_tokenizer, [2000], 1, style="official", blocks="official")

    class Words:
        """A tokenizer with 25 tokens or fewer a block."""

        def __call__(self, text: str | list[str], **_: object) -> dict:
            one = isinstance(text, str)
            return {"input_ids": text.split() if one else [part.split() for part in text]}

    one = examples(Words(), [2048], 1, style="official", blocks="official")[0]
    assert one.prompt.count("grass") == 79


def test_bad_input_is_named(tiny_tokenizer):
    for given, message in (
        ({"style": "long"}, "unknown style 'long'"),
        ({"blocks": "many"}, "unknown blocks 'many'"),
        ({"lengths": [40]}, "a prompt of 40 tokens holds no blocks"),
        ({"samples": 0}, "samples 0"),
    ):
        with pytest.raises(ValueError, match=message):
            examples(tiny_tokenizer, **{"lengths": [500], "samples": 1, **given})
