"""Retrieval documents: what they say is true, and training never sees evaluation's words."""

import json
import pickle
import re
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest

from cream.data.retrieval import documents as retrieval_documents
from cream.data.retrieval import records as retrieval_records
from cream.data.retrieval import vocabulary
from cream.data.retrieval.documents import training_document
from cream.data.retrieval.records import FAMILIES

PLACEMENTS = [{"evaluation_form": 0.0}, {"evaluation_form": 1.0}, {"query_placement": "end"}]


def make(family: str, seed: int, text: str, min_tokens: int = 400, **options: object):
    return training_document(family, np.random.default_rng(seed), min_tokens, text=text, **options)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("options", PLACEMENTS)
def test_every_answer_is_told_before_it_is_asked(family, options, haystack):
    for seed in range(20):
        document = make(family, seed, haystack, **options)
        assert document.queries
        for query in document.queries:
            record = document.records[query.record]
            assert record.end <= query.start < query.answer_start < query.end
            told = document.text[record.start : record.end]
            assert record.key in told and record.value in told
            assert record.key in document.text[query.start : query.answer_start]
            assert document.text[query.answer_start : query.end].strip(' ">.') == record.value


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("options", PLACEMENTS)
def test_keys_are_unique_in_a_document(family, options, haystack):
    keys = [record.key for record in make(family, 1, haystack, 4000, **options).records]
    assert len(keys) == len(set(keys))


def test_lines_can_be_read_back_by_a_pattern():
    document = make("lines", 3, "")
    told = dict(re.findall(r"^line (\S+): REGISTER_CONTENT is <(\d{5})>$", document.text, re.M))
    asked = re.findall(
        r"^What is the REGISTER_CONTENT in line (\S+)\? <(\d{5})>$", document.text, re.M
    )
    assert told == {record.key: record.value for record in document.records}
    assert len(asked) == len(document.queries)
    assert all(told[key] == value for key, value in asked)


@pytest.mark.parametrize("options", PLACEMENTS)
def test_pairs_are_valid_json_objects(options):
    document = make("pairs", 3, "", **options)
    assert document.text.startswith(retrieval_records.PAIRS_HEADER + "{")
    objects = [json.loads(found) for found in re.findall(r"\{.*?\}", document.text, re.S)]
    told = {key: value for one in objects for key, value in one.items()}
    assert told == {record.key: record.value for record in document.records}
    asked = re.findall(r'\n\nKey: "(\w+)"\nCorresponding value: "(\w+)"', document.text)
    assert len(asked) == len(document.queries) and all(told[k] == v for k, v in asked)


@pytest.mark.parametrize("placement", ["interleaved", "end"])
def test_the_text_around_needles_is_the_text_that_came_in(placement, haystack):
    document = make("needle", 5, haystack, query_placement=placement)
    spans = [(r.start, r.end) for r in document.records] + [q[::2] for q in document.queries]
    rest, position = [], 0
    for start, end in sorted((s[0], s[1]) for s in spans):
        rest.append(document.text[position:start])
        position = end
    lines = {line for piece in rest for line in piece.split("\n") if len(line) > 40}
    assert lines and all(line in haystack for line in lines)


@pytest.mark.parametrize("family", FAMILIES)
def test_training_and_evaluation_share_no_word_and_no_value(family, haystack):
    parts = {"training": set(), "evaluation": set()}
    for split, seen in parts.items():
        for seed in range(10):
            for record in make(family, seed, haystack, 2000, split=split).records:
                seen |= set(re.findall(r"[A-Za-z]{5,}|\d+", f"{record.key} {record.value}"))
    assert len(parts["training"]) > 200 and not parts["training"] & parts["evaluation"]
    for split, seen in parts.items():
        tell = [
            vocabulary.is_evaluation_value(one) if one.isdigit()
            else vocabulary.is_evaluation_word(one)
            for one in seen
        ]  # fmt: skip
        assert all(found == (split == "evaluation") for found in tell)


def test_the_splits_share_every_syllable_at_every_place():
    rng = np.random.default_rng(0)
    for syllables, coda in ((2, True), (3, False)):
        drawn = {
            split: vocabulary.words(rng, split, 5000, syllables, coda)
            for split in vocabulary.SPLITS
        }
        for place in range(0, 2 * syllables + coda, 2):
            seen = [{word[place : place + 2] for word in words} for words in drawn.values()]
            assert seen[0] == seen[1]


def test_distances_back_are_log_uniform_in_records():
    distances = []
    for seed in range(60):
        document = make("lines", seed, "", 6000, evaluation_form=0.0)
        for query in document.queries:
            known = sum(record.end <= query.start for record in document.records)
            if known >= 200:
                distances.append(known - query.record)
    share = np.histogram(distances, bins=[1, 5, 25, 125])[0] / len(distances)
    expected = np.log(5) / np.log(250)  # a factor of five each, of about 250 records
    assert share == pytest.approx([expected] * 3, abs=0.05)


def test_a_query_comes_every_two_to_three_records():
    documents = [make("lines", seed, "", 600, evaluation_form=0.0) for seed in range(50)]
    ratio = np.mean([len(d.records) / len(d.queries) for d in documents])
    assert 2 <= ratio <= 3


@pytest.mark.parametrize("family", FAMILIES)
def test_evaluation_form_begins_like_an_evaluation_prompt(family, haystack):
    document = make(family, 2, haystack, evaluation_form=1.0)
    query = document.queries[0]
    before = [r for r in document.records if r.end <= query.start]
    if family == "needle":
        assert len(before) == 1
        return
    build = (
        retrieval_records.line_prompt if family == "lines" else retrieval_records.pair_prompt
    )
    prompt = build([(r.key, r.value) for r in before], query.record)
    assert document.text.startswith(prompt.prompt + prompt.answer)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("options", PLACEMENTS)
def test_documents_have_the_tokens_asked_for(family, options, haystack, tiny_tokenizer):
    calls = []

    def count(text: str) -> int:
        calls.append(len(tiny_tokenizer(text)["input_ids"]))
        return calls[-1]

    for seed in range(8):
        document = make(family, seed, haystack, 600, count=count, **options)
        assert 600 <= count(document.text) < 2000
    assert len(calls) <= 40


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_seed_gives_the_same_document_in_any_process(family, haystack):
    here = make(family, 7, haystack)
    with ProcessPoolExecutor(1) as pool:
        there = pool.submit(make, family, 7, haystack).result()
    assert here == there == pickle.loads(pickle.dumps(here))
    assert here != make(family, 8, haystack)


def test_generation_is_fast_enough_for_pre_training(haystack):
    import time

    for family in FAMILIES:
        times = []
        for seed in range(20):
            start = time.perf_counter()
            make(family, seed, haystack, 600)
            times.append(time.perf_counter() - start)
        assert min(times) < 0.005


@pytest.mark.parametrize("depth", [0, 13, 50, 77, 100])
def test_a_needle_stands_at_its_depth(depth, haystack):
    text = haystack[:3000]
    prompt = retrieval_records.needle_prompt(text, ("Kavudo", "lamok a dotel in tizam"), depth)
    needle = "The best thing to do in Kavudo is to lamok a dotel in tizam."
    assert prompt.prompt.count(needle) == 1
    assert abs(prompt.prompt.index(needle) - 30 * depth) < 300
    assert prompt.prompt.endswith("The best thing to do in Kavudo is to")
    assert prompt.answer == " lamok a dotel in tizam."


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda rng: training_document("poems", rng, 100), "unknown family 'poems'"),
        (lambda rng: training_document("needle", rng, 100), "pass text="),
        (lambda rng: training_document("needle", rng, 100, text=" \n"), "pass text="),
        (lambda rng: training_document("lines", rng, 0), "min_tokens 0"),
        (lambda rng: training_document("lines", rng, 9, query_placement="x"), "query_placement"),
        (lambda rng: training_document("lines", rng, 9, split="test"), "unknown split 'test'"),
        (lambda rng: retrieval_records.line_prompt([("a", "b")], 1), "gold_index 1"),
        (
            lambda rng: retrieval_records.needle_prompt("text", ("a", "b"), 101),
            "depth_percent 101",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.random.default_rng(0))


def test_more_records_than_there_are_keys_are_refused():
    """Rather than looked for without end: 35 x 35 two-syllable words, a seventh in evaluation."""
    assert len(retrieval_records.draw_records("pairs", np.random.default_rng(0), 1225)) == 1225
    with pytest.raises(ValueError, match="pairs has only 1,225 different keys for evaluation"):
        retrieval_records.draw_records("pairs", np.random.default_rng(0), 1226)


def test_far_needles_ask_over_most_of_the_window_and_only_of_the_needle_family() -> None:
    def first(family: str, seed: int) -> tuple[float, int]:
        rng = np.random.default_rng(seed)
        made = retrieval_documents.training_document(
            family, rng, 500, text="Some text. " * 300, far=1.0, evaluation_form=0.0
        )
        query = made.queries[0]
        distance = query.start - made.records[query.record].start
        return distance / (500 * retrieval_documents.CHARACTERS_PER_TOKEN["needle"]), query.record

    drawn = [first("needle", seed) for seed in range(200)]
    distances = np.array([distance for distance, _ in drawn])
    assert 0.45 < np.median(distances) < 0.75 and distances.max() > 0.8
    rng = np.random.default_rng(0)
    same = retrieval_documents.training_document("lines", rng, 500, far=1.0)
    assert (
        same.text
        == retrieval_documents.training_document("lines", np.random.default_rng(0), 500).text
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("placement", ["interleaved", "end"])
def test_another_wording_is_as_true(family, placement, haystack):
    """Records before their queries, the answer the record's value and a closing mark."""
    for seed in range(10):
        document = make(family, seed, haystack, wording="other", query_placement=placement)
        for query in document.queries:
            record = document.records[query.record]
            assert record.end <= query.start < query.answer_start < query.end
            told = document.text[record.start : record.end]
            assert record.key in told and record.value in told
            assert record.key in document.text[query.start : query.answer_start]
            said = document.text[query.answer_start : query.end]
            assert said.strip()[:-1] == record.value and said[-1] in ".;!"


@pytest.mark.parametrize("family", FAMILIES)
def test_another_wording_has_no_words_of_the_evaluations(family):
    """No run of four words of any evaluation's record, question or header but names and values."""
    filler = "zz. " * 200
    document = make(family, 0, filler, wording="other", evaluation_form=0.0)
    names = {part for r in document.records for part in re.findall(r"\w+", f"{r.key} {r.value}")}
    spoken = [w for w in re.findall(r"\w+", document.text) if w not in names and w != "zz"]
    rng = np.random.default_rng(1)
    asked = ""
    for one, make_prompt in (
        ("lines", retrieval_records.line_prompt),
        ("pairs", retrieval_records.pair_prompt),
    ):
        asked += "".join(make_prompt(retrieval_records.draw_records(one, rng, 6), 2)) + "\n"
    asked += "".join(
        retrieval_records.needle_prompt(
            "", retrieval_records.draw_records("needle", rng, 1)[0], 0
        )
    )
    theirs = re.findall(r"\w+", asked)
    ours = {tuple(spoken[k : k + 4]) for k in range(len(spoken) - 3)}
    assert not ours & {tuple(theirs[k : k + 4]) for k in range(len(theirs) - 3)}
    assert not {"REGISTER_CONTENT", "Corresponding", "JSON"} & set(spoken)


def test_an_unknown_wording_is_refused():
    """By name."""
    with pytest.raises(ValueError, match="unknown wording 'plain'"):
        make("lines", 0, "", wording="plain")
