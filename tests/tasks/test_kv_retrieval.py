"""Key-value retrieval: the official prompts by their hash, gold positions, exact and contained."""

import copy
import gzip
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from cream.tasks import kv_retrieval
from cream.tasks.kv_retrieval import build_prompt, examples, generate, load_official, move, score

DATA = Path(__file__).parents[3] / "shared/data"
# sha1 of row 0's prompt with its record first, and every prompt's characters (protocols 5.2).
OFFICIAL = {
    75: ("8e1e1a025915bb77f27f1f1441ac40a35b90cb04", 6231),
    140: ("60a00d65fa546ba9afe9ad4ee33dea3d988e10eb", 11496),
}
UUID4 = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"


@pytest.fixture(params=OFFICIAL)
def official(request) -> tuple[int, Path]:
    """A number of keys and its official file, which is not ours to commit."""
    path = DATA / f"kv-retrieval-{request.param}_keys.jsonl.gz"
    if not path.exists():
        pytest.skip(f"the official {path.name} is not in {path.parent.parent.name}/data")
    return request.param, path


def test_the_official_prompt_to_the_byte():
    prompt = build_prompt([("k1", "v1"), ("k2", "v2"), ("k3", "v3")], "k2")
    assert prompt == (
        "Extract the value corresponding to the specified key in the JSON object below.\n\n"
        'JSON data:\n{"k1": "v1",\n "k2": "v2",\n "k3": "v3"}\n\nKey: "k2"\nCorresponding value:'
    )


def test_the_official_prompts_have_their_published_hash(official):
    num_keys, path = official
    sha1, characters = OFFICIAL[num_keys]
    built = load_official(path)
    assert len(built) == 500 * 5
    assert hashlib.sha1(built[0].prompt.encode()).hexdigest() == sha1
    assert {len(example.prompt) for example in built} == {characters}
    for example in built[:10]:
        record, key = parsed(example)
        assert list(record).index(key) == example.gold_index and len(record) == num_keys
        assert example.target == f' "{record[key]}"' and example.max_new_tokens == 50


def test_official_examples_stand_at_the_official_positions(official):
    num_keys, path = official
    built = load_official(path, samples=2)
    assert [example.gold_index for example in built] == [*kv_retrieval.gold_indices(num_keys)] * 2
    assert [example.sample for example in built] == [0] * 5 + [1] * 5


@pytest.mark.parametrize("num_keys", OFFICIAL)
def test_generated_prompts_have_the_official_form_and_length(num_keys):
    built = generate(num_keys, 3)
    assert {len(example.prompt) for example in built} == {OFFICIAL[num_keys][1]}
    assert [e.gold_index for e in built] == [*kv_retrieval.GOLD_OFFICIAL[num_keys]] * 3
    for example in built:
        record, key = parsed(example)
        assert len(record) == num_keys and list(record).index(key) == example.gold_index
        assert example.target == f' "{record[key]}"'
        for text in [*record, *record.values()]:
            assert re.fullmatch(UUID4, text)


def test_a_generated_record_moves_and_nothing_else_does():
    built = generate(40, 2, seed=3)
    for sample in (0, 1):
        objects = [parsed(e) for e in built if e.sample == sample]
        assert len({key for _, key in objects}) == 1
        rests = [[k for k in record if k != key] for record, key in objects]
        assert rests[1:] == rests[:-1]
    assert len({parsed(e)[1] for e in built}) == 2
    assert generate([9, 40], 2, seed=3)[10:] == generate("9, 40", 2, seed=3)[10:] == built
    assert {e.prompt for e in generate(40, 2, seed=4)}.isdisjoint(e.prompt for e in built)


def test_keys_of_any_size():
    for digits in (3, 12):
        record, _ = parsed(generate(30, 1, digits=digits)[0])
        assert {len(text) for pair in record.items() for text in pair} == {digits}
    assert [e.gold_index for e in generate(12, 1, positions=[0, 7])] == [0, 7]
    with pytest.raises(ValueError, match="digits 1 give too few keys and values for 30 records"):
        generate(30, 1, digits=1)
    with pytest.raises(ValueError, match="num_keys 3 leaves no five"):
        generate(3, 1)
    with pytest.raises(ValueError, match="num_keys '75;140' must be whole numbers with commas"):
        generate("75;140", 1)


def parsed(example) -> tuple[dict[str, str], str]:
    """The object of a prompt, and the key it asks for."""
    record = json.loads(re.search(r"\{.*\}", example.prompt, re.S)[0])
    return record, re.search(r'Key: "(.*)"', example.prompt)[1]


@pytest.mark.parametrize("spread", [False, True])
def test_the_named_questions_alone_are_built(spread, tiny_tokenizer):
    """They are the same as among all, the others of their objects are left out."""
    whole = examples(tiny_tokenizer, [200, 400], 3, spread=spread)
    wanted = [whole[0], whole[-2]]
    named = {(one.token_length, one.gold_index, one.sample) for one in wanted}
    assert examples(tiny_tokenizer, [200, 400], 3, spread=spread, only=named) == wanted


def test_gold_positions():
    assert kv_retrieval.gold_indices(140) == (0, 34, 69, 104, 139)
    assert kv_retrieval.gold_indices(101) == (0, 25, 50, 75, 100)
    with pytest.raises(ValueError, match="num_keys 4"):
        kv_retrieval.gold_indices(4)


@pytest.mark.parametrize("gold", [0, 1, 2, 3])
def test_only_the_gold_record_moves(gold):
    records = [("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")]
    moved = move(records, "b", gold)
    assert moved[gold] == ("b", "2")
    assert [r for r in moved if r[0] != "b"] == [r for r in records if r[0] != "b"]


def test_miniature_examples_fill_the_length_at_five_positions(tiny_tokenizer):
    built = examples(tiny_tokenizer, [614, 1229], 4)
    assert len(built) == 2 * 4 * 5
    for example in built:
        num_tokens = len(tiny_tokenizer(example.prompt + example.target)["input_ids"])
        assert 0.95 * example.token_length < num_tokens <= example.token_length
        record = json.loads(re.search(r"\{.*\}", example.prompt, re.S)[0])
        assert len(record) == example.num_keys
        key = re.search(r'Key: "(.*)"', example.prompt)[1]
        assert list(record).index(key) == example.gold_index
        assert example.target == f' "{record[key]}"'
    for length in (614, 1229):
        same = [e for e in built if e.token_length == length]
        assert len({e.num_keys for e in same}) == 1
        assert {e.gold_index for e in same} == set(kv_retrieval.gold_indices(same[0].num_keys))


def test_objects_of_short_words_are_as_long_as_their_keys_allow(tiny_tokenizer):
    """Long ones are built while keys are left; then lengths are named, and what to ask instead."""
    (example,) = kv_retrieval.examples(tiny_tokenizer, [8192], 1, positions=[3])
    assert 512 < example.num_keys < kv_retrieval.MOST_WORDS
    with pytest.raises(ValueError, match="an object of 60000 tokens holds more .* than the 1,225"):
        kv_retrieval.examples(tiny_tokenizer, [60_000], 1)


def test_an_object_is_asked_at_every_position(tiny_tokenizer):
    built = [e for e in examples(tiny_tokenizer, [400], 3) if e.sample == 1]
    assert len(built) == 5 and len({e.target for e in built}) == 5
    assert len({e.prompt.split("Key: ")[0] for e in built}) == 1
    assert len({e.document for e in built}) == 1


def test_a_sample_depends_on_seed_length_and_number_alone(tiny_tokenizer):
    few = examples(tiny_tokenizer, [300], 2, seed=5)
    assert examples(tiny_tokenizer, [500, 300], 4, seed=5)[20:30] == few
    spread = examples(tiny_tokenizer, [300], 20, spread=True)
    assert len(spread) == 20 and len({e.gold_index for e in spread}) > 8


@pytest.mark.parametrize(
    ("prediction", "exact", "contained"),
    [
        (' "merufa"', 1, 1),
        (' "merufa"\n\nKey: "other"', 1, 1),
        ('merufa"', 1, 1),
        (' "merufa".', 1, 1),
        (' "Merufa"', 0, 1),
        (' "merufa", "bodika"', 0, 1),
        (' "merufa"\n "bodika"', 0, 1),
        (' "bodika", "merufa"', 0, 1),
        (' "bodika"', 0, 0),
        (' "merufabo"', 0, 1),
        ("", 0, 0),
    ],
)
def test_exact_and_contained(prediction, exact, contained, tiny_tokenizer):
    example = replace(examples(tiny_tokenizer, [300], 1)[0], target=' "merufa"')
    assert score(prediction, example) == {"score": exact, "contained": contained}


@pytest.mark.parametrize("separator", [", ", "\n", ",\n ", " ", "\n\n"])
def test_an_answer_that_lists_every_value_does_not_score(separator, tiny_tokenizer):
    for example in examples(tiny_tokenizer, [400], 2):
        record = json.loads(re.search(r"\{.*\}", example.prompt, re.S)[0])
        listed = separator.join(f'"{value}"' for value in record.values())
        found = score(" " + listed, example)
        assert found["contained"] == 1
        assert found["score"] == 0


def test_bad_input_is_named(tmp_path, tiny_tokenizer):
    with pytest.raises(ValueError, match="the key 'x' must be in the records once, not 0 times"):
        build_prompt([("a", "b")], "x")
    with pytest.raises(ValueError, match="gold_index 2 must be from 0 to 1"):
        move([("a", "1"), ("b", "2")], "a", 2)
    with pytest.raises(ValueError, match="holds no pairs"):
        examples(tiny_tokenizer, [20], 1)


GOOD = {"ordered_kv_records": [[f"k{i}", f"v{i}"] for i in range(5)], "key": "k1", "value": "v1"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"key": "a"}', "line 3, has no ordered_kv_records, value: is it another data set"),
        ("{torn", "line 3, is not JSON"),
        ("[1]", "line 3, is no object with ordered_kv_records"),
        (json.dumps(GOOD | {"key": "k9"}), "line 3, asks for the key 'k9', which is not among"),
        (json.dumps(GOOD | {"value": "v2"}), "line 3, has the value 'v2' for a key that has anot"),
        (
            json.dumps(GOOD | {"ordered_kv_records": GOOD["ordered_kv_records"] + [["k1", "v1"]]}),
            "line 3, has 1 keys twice",
        ),
        (json.dumps(GOOD | {"ordered_kv_records": [["k1", 1]]}), "line 3, has records that are no"),
        (json.dumps(GOOD | {"ordered_kv_records": {}}), "line 3, has records that are no list"),
    ],
)
def test_a_damaged_or_foreign_line_is_named(line, message, tmp_path):
    """Also beyond the samples asked for: nothing of such a file is to be trusted."""
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(f"{json.dumps(GOOD)}\n{json.dumps(GOOD)}\n{line}\n".encode()))
    with pytest.raises(ValueError, match=message):
        load_official(path, samples=1)
    path.write_bytes(gzip.compress(f"{json.dumps(GOOD)}\n".encode()))
    assert [e.target for e in load_official(path)] == [' "v1"'] * 5


def test_a_file_that_is_no_gzip_or_torn_is_named(tmp_path):
    path = tmp_path / "rows.jsonl.gz"
    with pytest.raises(FileNotFoundError, match="there is no data file"):
        load_official(path)
    whole = "".join(json.dumps(GOOD) + "\n" for _ in range(5000)).encode()
    for content, message in (
        (whole, "after line 0, is not gzip"),
        (gzip.compress(whole)[:-2000], r"is damaged after line \d{3}"),
        (gzip.compress(b""), "holds no rows"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            load_official(path)


@pytest.fixture
def chat_tokenizer(tiny_tokenizer):
    """The tiny tokenizer with a template in the form of Llama-2's."""
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}[INST] {{ m.content }} [/INST]{% endfor %}"
    )
    return tokenizer


def test_a_chat_model_is_asked_in_the_users_turn(chat_tokenizer, tiny_tokenizer):
    plain, chat = generate(10, 1)[0], generate(10, 1, tokenizer=chat_tokenizer, style="chat")[0]
    assert chat.prompt == f"[INST] {plain.prompt} [/INST]" and chat.target == plain.target
    assert chat.how["style"] == "chat" and len(chat.how["chat_template"]) == 16
    assert (plain.how, plain.max_new_tokens, chat.max_new_tokens) == (
        {"style": "official"},
        50,
        100,
    )
    with pytest.raises(ValueError, match="has no chat template"):
        generate(10, 1, tokenizer=tiny_tokenizer, style="chat")
    with pytest.raises(ValueError, match="unknown style 'vicuna'"):
        generate(10, 1, style="vicuna")


def test_a_chat_answer_may_be_a_sentence_but_no_list(chat_tokenizer):
    example = generate(10, 1, tokenizer=chat_tokenizer, style="chat")[0]
    record, key = parsed(example)
    value, other = record[key], next(v for k, v in record.items() if k != key)
    for answer, exact, contained in (
        (f' The value of "{key}" is "{value}".', 1, 1),
        (f" {value.upper()}", 1, 1),
        (f" {value} or {other}", 0, 1),
        (" ".join(record.values()), 0, 1),
        (f" {other}", 0, 0),
        (f" {value[:-4]}", 0, 0),
        ("", 0, 0),
    ):
        assert score(answer, example) == {"score": exact, "contained": contained}, answer
