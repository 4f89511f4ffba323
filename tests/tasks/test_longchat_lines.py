"""LongChat-Lines: the official prompt to the byte, lengths, depths and the two rules of scoring."""

import copy
import json
import re
from dataclasses import replace

import pytest

from cream.data.retrieval import vocabulary
from cream.tasks import longchat_lines
from cream.tasks.longchat_lines import examples, official_prompt, score


def test_the_official_prompt_is_that_of_the_release():
    prompt, answer = official_prompt([("torpid-kid", "24169"), ("moaning-conversation", "9310")], 1)
    assert answer == "9310"
    assert prompt == (
        "A chat between a curious user and an artificial intelligence assistant. The assistant "
        "gives helpful, detailed, and polite answers to the user's questions. USER: Below is a "
        "record of lines I want you to remember. Each line begins with 'line <line index>' and "
        "contains a '<REGISTER_CONTENT>' at the end of the line as a numerical value. For each "
        "line index, memorize its corresponding <REGISTER_CONTENT>. At the end of the record, I "
        "will ask you to retrieve the corresponding <REGISTER_CONTENT> of a certain line index. "
        "Now the record start:\n\nline torpid-kid: REGISTER_CONTENT is <24169>\n"
        "line moaning-conversation: REGISTER_CONTENT is <9310>\n\nNow the record is over. Tell me "
        "what is the <REGISTER_CONTENT> in line moaning-conversation? I need the number. ASSISTANT:"
    )


@pytest.fixture(scope="module")
def chat_tokenizer(tiny_tokenizer):
    """The tiny tokenizer with a template in the form of Llama-2's."""
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}[INST] {{ m.content }} [/INST]{% endfor %}"
    )
    return tokenizer


@pytest.mark.parametrize("style", longchat_lines.STYLES)
def test_prompt_and_answer_fill_the_length_and_do_not_pass_it(style, chat_tokenizer):
    for example in examples(chat_tokenizer, [700, 2000], 10, style=style):
        num_tokens = len(chat_tokenizer(example.prompt + example.target)["input_ids"])
        assert 0.95 * example.token_length < num_tokens <= example.token_length


@pytest.mark.parametrize("style", longchat_lines.STYLES)
def test_the_answer_is_in_the_line_asked_for(style, chat_tokenizer):
    for example in examples(chat_tokenizer, [900], 20, style=style):
        lines = re.findall(r"^line (\S+): REGISTER_CONTENT is <(\d+)>$", example.prompt, re.M)
        assert len(lines) == example.num_keys == len(dict(lines))
        key, value = lines[example.gold_index]
        assert f"in line {key}?" in example.prompt and example.target.rstrip(">") == value
        assert example.depth_percent == pytest.approx(100 * example.gold_index / (len(lines) - 1))


def test_a_sample_depends_on_seed_length_and_number_alone(tiny_tokenizer):
    few = examples(tiny_tokenizer, [300], 3, seed=5)
    assert examples(tiny_tokenizer, [500, 300], 8, seed=5)[8:11] == few
    assert len({e.prompt for e in few + examples(tiny_tokenizer, [300], 3, seed=6)}) == 6


def test_a_record_serves_several_questions(tiny_tokenizer):
    built = examples(tiny_tokenizer, [500], 8, questions=3)
    records = [e.prompt.split("\nWhat is")[0] for e in built]
    assert [records.index(r) for r in records] == [0, 0, 0, 3, 3, 3, 6, 6]
    assert len({e.document for e in built}) == 3 and [e.sample for e in built] == list(range(8))
    assert len({e.gold_index for e in built}) > 5
    assert all(len(tiny_tokenizer(e.prompt + e.target)["input_ids"]) <= 500 for e in built)
    assert built[:5] == examples(tiny_tokenizer, [500], 5, questions=3)
    with pytest.raises(ValueError, match="questions 0"):
        examples(tiny_tokenizer, [500], 8, questions=0)


@pytest.mark.parametrize(("style", "length"), [("miniature", 300), ("official", 900)])
def test_the_named_questions_alone_are_built(style, length, tiny_tokenizer):
    """They are the same as among all, of a record with three questions and of the last with two."""
    how = {"lengths": [length, length + 100], "samples": 8, "style": style, "questions": 3}
    whole, named = examples(tiny_tokenizer, **how), {(length, 1), (length + 100, 7)}
    few = examples(tiny_tokenizer, **how, only=named)
    assert few == [one for one in whole if (one.token_length, one.sample) in named]
    assert len(few) == 2


def test_depths_are_spread_over_the_record(tiny_tokenizer):
    depths = [e.depth_percent for e in examples(tiny_tokenizer, [600], 20)]
    counts = [
        sum(low <= d < low + 25 or d == low + 25 == 100 for d in depths) for low in (0, 25, 50, 75)
    ]
    assert min(counts) >= 4


def test_miniature_prompts_hold_evaluation_words_only(tiny_tokenizer):
    for example in examples(tiny_tokenizer, [400], 5):
        for a, b, value in re.findall(
            r"line (\w+)-(\w+): REGISTER_CONTENT is <(\d+)>", example.prompt
        ):
            assert vocabulary.is_evaluation_word(a) and vocabulary.is_evaluation_word(b)
            assert vocabulary.is_evaluation_value(value)


@pytest.mark.parametrize(
    ("prediction", "exact", "contained"),
    [
        ("12345>", 1, 1),
        ("12345", 0, 1),
        ("12346>", 0, 0),
        ("1234512345>", 0, 0),
        ("12345> and <54321>", 0, 1),
        ("54321> and <12345>", 0, 0),
        ("", 0, 0),
    ],
)
def test_scores_of_the_miniatures_answers(prediction, exact, contained, tiny_tokenizer):
    example = replace(examples(tiny_tokenizer, [200], 1)[0], target="12345>")
    assert score(prediction, example) == {"score": exact, "contained": contained}


@pytest.mark.parametrize(
    ("prediction", "first", "last"),
    [
        (" The <REGISTER_CONTENT> is <12345>.", 1, 1),
        (" 12345 then 7", 1, 0),
        (" 7 then 12345", 0, 1),
        (" none", 0, 0),
        (" 012345", 1, 1),
    ],
)
def test_official_rules_take_the_first_or_the_last_number(prediction, first, last, tiny_tokenizer):
    example = replace(examples(tiny_tokenizer, [600], 1, style="official")[0], target="12345")
    assert score(prediction, example)["contained"] == first
    assert score(prediction, example, rule="last")["contained"] == last


def test_the_rule_goes_with_the_example(tiny_tokenizer):
    first, last = (
        replace(examples(tiny_tokenizer, [600], 1, style="official", rule=rule)[0], target="7")
        for rule in longchat_lines.RULES
    )
    assert first.prompt == last.prompt and first.how == {"style": "official"}
    assert last.how == {"style": "official", "mode": "last number"}
    assert score(" 12 then 7", first)["score"] == 0 and score(" 12 then 7", last)["score"] == 1


def test_a_chat_model_is_asked_in_the_users_turn(chat_tokenizer, tiny_tokenizer):
    plain = examples(tiny_tokenizer, [800], 3, style="official")
    chat = examples(chat_tokenizer, [800], 3, style="chat")
    for a, b in zip(plain, chat, strict=True):
        task = re.fullmatch(r"\[INST\] (.*) \[/INST\]", b.prompt, re.S)[1]
        assert task.startswith("Below is a record") and task.endswith("I need the number.")
        shared = a.prompt.split("USER: ")[1][:600]
        assert task.startswith(shared)
        assert b.how["style"] == "chat" and len(b.how["chat_template"]) == 16
        assert (b.min_new_tokens, b.max_new_tokens, b.stop) == (5, 35, None)
    with pytest.raises(ValueError, match="has no chat template"):
        examples(tiny_tokenizer, [800], 1, style="chat")


def test_an_answer_that_lists_every_value_does_not_score(tiny_tokenizer):
    for example in examples(tiny_tokenizer, [400], 10):
        listed = "> <".join(re.findall(r"<(\d+)>", example.prompt)) + ">"
        assert score(listed, example)["score"] == 0


def test_official_generation_settings(tiny_tokenizer):
    example = examples(tiny_tokenizer, [600], 1, style="official")[0]
    assert (example.min_new_tokens, example.max_new_tokens, example.stop) == (5, 35, None)


def published(expected: int = 7, num_lines: int = 2, **changes: object) -> dict[str, object]:
    """A row in the published form, whose first line is the one asked for."""
    prompt, _ = official_prompt([("old fox-hat", "7"), ("shy-map", "9")], 0)
    prompt = prompt.split("USER: ")[1].removesuffix(" ASSISTANT:")
    row = {"expected_number": expected, "num_lines": num_lines, "token_size": 250}
    return {**row, "prompt": prompt, **changes}


def test_published_data_are_read(tmp_path, chat_tokenizer):
    path = tmp_path / "lines.jsonl"
    path.write_text("".join(json.dumps(published(num_lines=n)) + "\n" for n in (2, 2, 3, 3, 2)))
    read = longchat_lines.load_official(path)
    assert [e.sample for e in read] == list(range(5)) and {e.gold_index for e in read} == {0}
    assert read[0].prompt == official_prompt([("old fox-hat", "7"), ("shy-map", "9")], 0).prompt
    assert read[0].target == "7" and read[0].token_length == 250
    few = longchat_lines.load_official(path, samples=1)
    assert [(e.sample, e.num_keys) for e in few] == [(0, 2), (2, 3)]
    (chat, *_) = longchat_lines.load_official(path, chat_tokenizer, style="chat")
    assert chat.prompt == f"[INST] {published()['prompt']} [/INST]"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "Below"}, "line 1, has no expected_number, num_lines, token_size"),
        (published(expected=8), "line 1, asks for a line that is not in its record with 8"),
        (published(prompt="Below"), "line 1, asks for a line that is not in its record"),
        (published(token_size="long"), "line 1, has numbers that are none"),
    ],
)
def test_damaged_and_foreign_data_are_named(row, message, tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(ValueError, match=message):
        longchat_lines.load_official(path)
    with pytest.raises(ValueError, match="published data have their own words"):
        longchat_lines.load_official(path, style="miniature")
    with pytest.raises(ValueError, match="style 'chat' needs the tokenizer"):
        longchat_lines.load_official(path, style="chat")


def test_the_papers_lengths():
    assert len(longchat_lines.LENGTHS_PAPER) == 17
    assert [round(4096 * m) for m in longchat_lines.LENGTHS_PAPER][::16] == [2500, 32000]


def test_bad_input_is_named(tiny_tokenizer):
    with pytest.raises(ValueError, match="unknown style 'long'"):
        examples(tiny_tokenizer, [600], 1, style="long")
    with pytest.raises(ValueError, match="unknown rule 'middle'"):
        score("7", examples(tiny_tokenizer, [600], 1)[0], rule="middle")
