"""InfiniteBench's generated tasks: its texts and constants, its scores, budgets and places."""

import copy
import dataclasses
import json
import re

import numpy as np
import pytest

from cream.tasks import infinitebench
from cream.tasks.infinitebench import NEW_TOKENS, TASKS, digits, examples, score

NOISE = (
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.\n"
)


@pytest.fixture(scope="module")
def asked(tiny_tokenizer):
    return examples(tiny_tokenizer, [700, 1500], 4)


def test_the_named_questions_alone_are_built(asked, tiny_tokenizer):
    """Of every task, the same as among all."""
    named = {(700, 3), (1500, 0)}
    few = examples(tiny_tokenizer, [700, 1500], 4, only=named)
    assert few == [one for one in asked if (one.token_length, one.sample) in named]
    assert len(few) == 2 * len(TASKS)


def of(asked, task):
    return [one for one in asked if one.task == f"infinitebench-{task}"]


def test_constants_are_the_published_ones():
    """New tokens, sizes and numbers of samples (field2.md B4; 5,220 and 2,500 in its generator)."""
    assert NEW_TOKENS == {"passkey": 6, "number_string": 12, "kv_retrieval": 50}
    assert infinitebench.PUBLISHED == {
        "passkey": 5220, "number_string": 5220, "kv_retrieval": 2500}  # fmt: skip
    assert infinitebench.SAMPLES == {
        "passkey": 590, "number_string": 590, "kv_retrieval": 500}  # fmt: skip


@pytest.mark.parametrize(
    ("task", "find", "name", "key"),
    [("passkey", "Find it and memorize them.", "pass key", r"\d{5}"),
     ("number_string", "Find it.", "sequence of digits", r"\d{10}")],
)  # fmt: skip
def test_digits_are_hidden_and_asked_for_in_the_published_words(asked, task, find, name, key):
    """The whole prompt, written out here from the definition."""
    for one in of(asked, task):
        assert re.fullmatch(key, one.target)
        before, after = one.gold_index, one.num_keys - one.gold_index
        line = f"The {name} is {one.target}. Remember it. {one.target} is the {name}.\n"
        assert one.prompt == (
            f"There is an important info hidden inside a lot of irrelevant text. {find} I will "
            f"quiz you about the important information there.\n\n{NOISE * before}{line}"
            f"{NOISE * after}\n\nWhat is the {name}?\n\nThe {name} is"
        )


def test_pairs_are_uuids_in_an_object(asked):
    """A JSON object that a parser reads; the key asked for is at its place."""
    for one in of(asked, "kv_retrieval"):
        head, rest = one.prompt.split("JSON data:\n")
        text, question = rest.split("\n\n\nKey: ")
        assert head == (
            "Extract the value corresponding to the specified key in the JSON object below.\n\n"
        )
        pairs = json.loads(text)
        key = list(pairs)[one.gold_index]
        assert question == f'"{key}"\nThe value associated with the specified key is: '
        assert pairs[key] == one.target and len(pairs) == one.num_keys
        uuid = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
        assert all(re.fullmatch(uuid, code) for pair in pairs.items() for code in pair)


def test_a_number_string_repeats_five_of_its_digits():
    """Ten digits in at most five runs; a pass key has five, each as likely."""
    rng = np.random.default_rng(0)
    drawn = [digits(rng, repeated=True) for _ in range(300)]
    assert all(len(one) == 10 for one in drawn)
    assert all(len(list(re.finditer(r"(.)\1*", one))) <= 5 for one in drawn)
    keys = "".join(digits(rng, repeated=False) for _ in range(2000))
    assert len(keys) == 10_000 and all(800 < keys.count(str(k)) < 1200 for k in range(10))


def test_prompt_and_answer_fill_the_length(asked, tiny_tokenizer):
    """Never above it, and by less than one pair or sentence below, or a four-hundredth."""
    assert len(asked) == len(TASKS) * 2 * 4
    for one in asked:
        tokens = len(tiny_tokenizer(one.prompt)["input_ids"]) + one.max_new_tokens
        unit = (one.token_length - one.max_new_tokens) / one.num_keys
        assert one.token_length - unit - 4 < tokens <= one.token_length, one.task


def test_a_sample_depends_on_its_own_numbers_alone_and_places_are_spread(asked, tiny_tokenizer):
    again = examples(tiny_tokenizer, [1500], 2, tasks=["number_string"])
    assert again == [one for one in of(asked, "number_string") if one.token_length == 1500][:2]
    other = examples(tiny_tokenizer, [700], 1, seed=1, tasks=["passkey"])[0]
    assert other.prompt not in {one.prompt for one in asked}
    many = examples(tiny_tokenizer, [900], 12, tasks=["passkey"])
    depths = sorted(one.depth_percent for one in many)
    assert depths[0] < 20 and depths[-1] > 80 and max(np.diff(depths)) < 25


@pytest.mark.parametrize(
    ("task", "target", "said", "right"),
    [
        ("passkey", "71432", " 71432.", 1), ("passkey", "71432", "It is 7 1432", 0),
        ("passkey", "71432", "no", 0), ("passkey", "01432", "01432", 1),
        ("number_string", "0011223344", "1: 0011223344", 0),
        ("kv_retrieval", "a-b", ' "a-b", "c": "d"}', 1), ("kv_retrieval", "a-b", "xa-b", 0),
    ],
)  # fmt: skip
def test_scores_are_those_of_infinitebench(asked, task, target, said, right):
    """The first whole number; a word between marks."""
    one = dataclasses.replace(of(asked, task)[0], target=target)
    found = score(said, one)
    assert found["score"] == right and found["contained"] == float(target in said)


def test_what_cannot_be_asked_is_refused(tiny_tokenizer):
    with pytest.raises(ValueError, match="unknown task 'math_find': choose of passkey"):
        examples(tiny_tokenizer, [700], 1, tasks=["math_find"])
    with pytest.raises(ValueError, match="holds no pairs: the shortest takes"):
        examples(tiny_tokenizer, [100], 1, tasks=["kv_retrieval"])
    with pytest.raises(ValueError, match="unknown style 'plain'"):
        examples(tiny_tokenizer, [700], 1, style="plain")
    with pytest.raises(ValueError, match="has no chat template"):
        examples(tiny_tokenizer, [700], 1, style="chat")


def test_a_chat_model_is_not_begun_for(tiny_tokenizer):
    """InfiniteBench's GPT-4 template ends with the question."""
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = "{% for m in messages %}<u>{{ m.content }}<a>{% endfor %}"
    (one,) = examples(tokenizer, [700], 1, style="chat", tasks=["passkey"])
    assert one.prompt.endswith("What is the pass key?<a>") and one.how["style"] == "chat"
