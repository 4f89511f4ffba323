"""Key-value retrieval: the official prompts by their hash, gold positions, exact and contained."""

import gzip
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from cream.tasks import kv_retrieval
from cream.tasks.kv_retrieval import build_prompt, examples, load_official, move, score

OFFICIAL = Path(__file__).parents[2] / "shared/data/kv-retrieval-75_keys.jsonl.gz"
needs_official = pytest.mark.skipif(
    not OFFICIAL.exists(), reason=f"the official data are not committed and not at {OFFICIAL}"
)


def test_the_official_prompt_to_the_byte():
    prompt = build_prompt([("k1", "v1"), ("k2", "v2"), ("k3", "v3")], "k2")
    assert prompt == (
        "Extract the value corresponding to the specified key in the JSON object below.\n\n"
        'JSON data:\n{"k1": "v1",\n "k2": "v2",\n "k3": "v3"}\n\nKey: "k2"\nCorresponding value:'
    )


@needs_official
def test_the_official_prompt_has_its_published_hash():
    built = load_official(OFFICIAL, samples=500, positions=[0])
    assert len(built) == 500
    assert hashlib.sha1(built[0].prompt.encode()).hexdigest() == (
        "8e1e1a025915bb77f27f1f1441ac40a35b90cb04"
    )
    assert {len(example.prompt) for example in built} == {6231}


@needs_official
def test_official_examples_stand_at_the_official_positions():
    built = load_official(OFFICIAL, samples=2)
    assert [example.gold_index for example in built] == [0, 18, 37, 54, 74] * 2
    for example in built:
        record = json.loads(re.search(r"\{.*\}", example.prompt, re.S)[0])
        key = re.search(r'Key: "(.*)"', example.prompt)[1]
        assert list(record).index(key) == example.gold_index and len(record) == 75
        assert example.target == f' "{record[key]}"'


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
    path = tmp_path / "rows.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.write('{"key": "a"}\n')
    with pytest.raises(ValueError, match="row 0 of .* has no ordered_kv_records, value"):
        load_official(path)
