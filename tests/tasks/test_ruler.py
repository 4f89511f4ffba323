"""RULER's generated tasks: NVIDIA's words and constants, answers to be found, exact budgets."""

import copy
import json
import re
import sys
from collections import Counter
from importlib.resources import files

import numpy as np
import pandas as pd
import pytest

from cream.evaluation.runner import evaluate
from cream.results import Rows
from cream.tasks import ruler, ruler_questions
from cream.tasks.ruler import NEW_TOKENS, TASKS, examples, match_all, match_part, score
from cream.tasks.ruler_questions import QUESTIONS, Budget, all_words, words
from cream.utils import forks

NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
LENGTHS = [2600, 6000]  # of the tiny tokenizer: cwe needs 5,261 from 4,096 on


@pytest.fixture(scope="module")
def asked(tiny_tokenizer):
    """Three questions of each task at a length below 4,096 and one above."""
    return examples(tiny_tokenizer, LENGTHS, 3)


@pytest.fixture
def chat_tokenizer(tiny_tokenizer):
    """The tiny tokenizer with a template in the form of Llama-2's."""
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}[INST] {{ m.content }} [/INST]{% endfor %}"
    )
    return tokenizer


def of(asked, task):
    return [one for one in asked if one.task == f"ruler-{task}"]


def draw(task, units, length=4096, seed=0):
    return QUESTIONS[task].draw(np.random.default_rng(seed), units, Budget(length, 6))


def test_words_and_constants_are_those_of_nvidia():
    """Counts of wonderwords 3.0.1, new tokens and samples of its configuration (field2.md B2)."""
    lists = {kind: files("wonderwords.assets").joinpath(f"{kind}list.txt").read_text()
             for kind in ("noun", "adjective", "verb")}  # fmt: skip
    assert [len(text.splitlines()) for text in lists.values()] == [6782, 912, 1042]
    assert [len(words(kind)) for kind in lists] == [6782, 910, 1041]  # without repetitions
    assert len(all_words()) == 8166
    assert list(NEW_TOKENS.items()) == [
        ("niah_single_1", 128), ("niah_multikey_2", 128), ("niah_multikey_3", 128), ("vt", 30),
        ("cwe", 120), ("fwe", 50),
    ]  # fmt: skip
    assert ruler.SAMPLES == 500 and ruler.SHOT_TOKENS == 500


def test_the_metrics_give_the_published_values():
    """One of three numbers named is not quite .33: "123, 456" names two of [123, 456, 789]."""
    assert match_all("values are 123, 456", ["123", "456", "789"]) == pytest.approx(2 / 3)
    france = ["France", "in France", "the country of France"]
    assert match_part("It is France.", france) == 1.0  # lm-eval 0.4.13 gives 1/3
    assert match_all("It is France.", france) == pytest.approx(1 / 3)
    assert match_part("Spain", france) == 0 and match_all("oUTDNMR", ["utdnmr"]) == 1


def test_prompt_and_answer_together_fill_the_length(asked, tiny_tokenizer):
    """Never above it, and no more than a tenth below: fwe's few words weigh most."""
    assert len(asked) == len(TASKS) * len(LENGTHS) * 3
    for one in asked:
        tokens = len(tiny_tokenizer(one.prompt)["input_ids"]) + one.max_new_tokens
        assert 0.9 * one.token_length < tokens <= one.token_length, one.task
        assert one.max_new_tokens == NEW_TOKENS[one.task.removeprefix("ruler-")]
        assert one.stop is None and one.min_new_tokens == 0


def test_a_sample_depends_on_its_seed_task_length_and_index_alone(asked, tiny_tokenizer):
    alone = examples(tiny_tokenizer, LENGTHS[1:], 2, tasks=["cwe"])
    assert alone == [one for one in of(asked, "cwe") if one.token_length == LENGTHS[1]][:2]
    prompts = {one.prompt for one in asked}
    assert len(prompts) == len(asked)
    assert not prompts & {one.prompt for one in examples(tiny_tokenizer, [2600], 1, seed=1)}


@pytest.mark.slow
def test_several_processes_build_the_same_questions(asked, tiny_tokenizer, tmp_path, monkeypatch):
    """In parts of a few samples; sizes are stored by the process that asked."""
    monkeypatch.setattr(ruler, "PARALLEL_TOKENS", 0)
    monkeypatch.setattr(ruler, "AT_ONCE", 2)
    monkeypatch.setattr(forks, "cores", lambda: 2)
    assert examples(tiny_tokenizer, LENGTHS, 3, sizes=tmp_path) == asked
    assert len(list(tmp_path.iterdir())) == len(LENGTHS) * len(TASKS)
    assert examples(tiny_tokenizer, LENGTHS, 3, sizes=tmp_path) == asked
    few = examples(tiny_tokenizer, LENGTHS, 3, only={(2600, 1), (6000, 0), (6000, 2)})
    assert few == [one for one in asked if (one.token_length, one.sample) != (2600, 0)
                   and (one.token_length, one.sample) not in ((2600, 2), (6000, 1))]  # fmt: skip
    with pytest.raises(ValueError, match="holds no words"):
        examples(tiny_tokenizer, [300, 2600], 3, tasks=["fwe"])


def test_stored_sizes_change_nothing_and_are_read(asked, tiny_tokenizer, tmp_path, monkeypatch):
    """The second time no prompt is tokenized; more samples than are stored are fitted anew."""
    first = examples(tiny_tokenizer, [2600], 2, tasks=["fwe"], sizes=tmp_path)
    assert first == [one for one in of(asked, "fwe") if one.token_length == 2600][:2]
    (file,) = tmp_path.iterdir()
    monkeypatch.setattr(ruler._Builder, "_tokens", None)
    assert examples(tiny_tokenizer, [2600], 2, tasks=["fwe"], sizes=tmp_path) == first
    monkeypatch.undo()
    assert len(examples(tiny_tokenizer, [2600], 3, tasks=["fwe"], sizes=tmp_path)) == 3
    assert len(json.loads(file.read_text())) == 3
    examples(tiny_tokenizer, [2600], 1, seed=9, tasks=["fwe"], sizes=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_the_named_samples_alone_are_built(asked, tiny_tokenizer):
    """Of every task, the same as among all; nothing is built at a length without any."""
    named = {(LENGTHS[1], 2), (LENGTHS[1], 0)}
    few = examples(tiny_tokenizer, [1, *LENGTHS], 3, only=named)
    assert few == [one for one in asked if (one.token_length, one.sample) in named]
    assert len(few) == 2 * len(TASKS)


def test_sizes_are_stored_from_the_first_sample_on(asked, tiny_tokenizer, tmp_path, monkeypatch):
    """Those of named samples only where none before them is missing; stored ones are read."""
    how = {"lengths": [2600], "samples": 3, "tasks": ["fwe"], "sizes": tmp_path}
    whole = [one for one in of(asked, "fwe") if one.token_length == 2600]
    assert examples(tiny_tokenizer, **how, only={(2600, 1)}) == whole[1:2]
    assert list(tmp_path.iterdir()) == []
    assert examples(tiny_tokenizer, **how, only={(2600, 0), (2600, 1)}) == whole[:2]
    assert examples(tiny_tokenizer, **how, only={(2600, 2)}) == whole[2:]
    monkeypatch.setattr(ruler._Builder, "_tokens", None)
    assert examples(tiny_tokenizer, **how, only={(2600, 1)}) == whole[1:2]


def test_single_1_hides_one_number_in_repeated_sentences(asked):
    for one in of(asked, "niah_single_1"):
        (value,) = json.loads(one.target)
        head, *lines, last = one.prompt.split("\n")
        assert head == (
            "A special magic number is hidden within the following text. Make sure to memorize it. "
            "I will quiz you about the number afterwards."
        )
        key = re.fullmatch(
            r"What is the special magic number for (.+) mentioned in the provided text\? The "
            r"special magic number for \1 mentioned in the provided text is", last
        )[1]  # fmt: skip
        needle = f"One of the special magic numbers for {key} is: {value}."
        assert lines[one.gold_index] == needle and re.fullmatch(r"[1-9]\d{6}", value)
        assert Counter(lines) == {NOISE: one.num_keys, needle: 1}
        cuts = [place for place, letter in enumerate(key) if letter == "-"]
        assert any(key[:k] in words("adjective") and key[k + 1 :] in words("noun") for k in cuts)


@pytest.mark.parametrize(
    ("task", "kind", "key", "value"),
    [
        ("niah_multikey_2", "number", r".+", r"\d{7}"),
        ("niah_multikey_3", "uuid", r"[0-9a-f-]{36}", r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"),
    ],
)
def test_multikey_asks_for_one_of_many_keys(asked, task, kind, key, value):
    for one in of(asked, task):
        _, *lines, last = one.prompt.split("\n")
        needle = rf"One of the special magic {kind}s for ({key}) is: ({value})\."
        found = [re.fullmatch(needle, line) for line in lines]
        assert all(found) and len({match[1] for match in found}) == len(lines)
        gold = found[one.gold_index]
        assert f"What is the special magic {kind} for {gold[1]} mentioned" in last
        assert json.loads(one.target) == [gold[2]]


def chains(text):
    """Each variable's value, by following assignments in the order of the text."""
    values = {}
    for name, copied, value in re.findall(r"VAR (\w+) = (?:VAR (\w+)|(\d+))", text):
        values[name] = value or values[copied]  # a KeyError: used before it was assigned
    return values


def test_vt_shows_a_solved_chain_and_asks_for_another(asked):
    for one in of(asked, "vt"):
        shot, text = one.prompt.split("\n\nMemorize and track", 1)
        solved, named = shot.rsplit("they are:  ", 1)
        assert list(chains(solved)) == named.split() and len(named.split()) == 5
        assert {len(name) for name in named.split()} == {3}
        values = chains(text)
        assert list(values) == json.loads(one.target) and len(values) == 5
        assert {len(name) for name in values} == {5} and len(set(values.values())) == 1
        (value,) = set(values.values())
        assert 10000 <= int(value) < 99999
        assert one.prompt.endswith(
            f"Question: Find all variables that are assigned the value {value} in the text above. "
            "Answer: According to the chain(s) of variable assignment in the text above, 5 "
            f"variables are assigned the value {value}, they are: "
        )


def test_the_example_of_vt_takes_at_most_500_tokens(tiny_tokenizer):
    for length, most in ((2600, 500), (1400, 350)):
        (one,) = examples(tiny_tokenizer, [length], 1, tasks=["vt"])
        shot = one.prompt.split("\n\nMemorize and track")[0].rsplit("they are: ", 1)[0]
        tokens = len(tiny_tokenizer(shot + "they are: ")["input_ids"])
        assert tokens <= most + 12 and tokens > most - 90 or shot.count(NOISE) == 5


def listed(text):
    return Counter(re.findall(r"\d+\. (.+?)(?= \d+\. |\n|$)", text))


@pytest.mark.parametrize(
    ("length", "shot", "often", "seldom"),
    [(2600, (20, 3, 1), 6, 1), (6000, (40, 10, 3), 30, 3)],
)
def test_cwe_repeats_ten_words_more_often(asked, length, shot, often, seldom):
    """By the counts of NVIDIA, which differ below 4,096 tokens; the example is in the prompt."""
    for one in of(asked, "cwe"):
        if one.token_length != length:
            continue
        _, first, second = one.prompt.split("Below is a numbered list of words.")
        solved, answer = first.split("in the list are:")
        counts, common = listed(solved.split("Question")[0]), listed(answer)
        assert len(counts) == shot[0] and len(common) == 10
        assert all(counts[w] == (shot[1] if w in common else shot[2]) for w in counts)
        counts, answers = listed(second.split("\nQuestion")[0]), json.loads(one.target)
        assert len(counts) == one.num_keys and len(answers) == 10
        assert all(counts[w] == (often if w in answers else seldom) for w in counts)
        assert second.endswith(
            "\nQuestion: What are the 10 most common words in the above list? Answer: The top 10 "
            "words that appear most often in the list are:"
        )


def test_cwe_goes_on_beyond_its_words():
    """Nothing is listed twice as two words, and the common ones are whole words."""
    question = draw("cwe", 9000, 2**18)
    second = question.body.split("numbered list of words.")[2].split("\nQuestion")[0]
    counts = listed(second)
    assert len(counts) == 9000 and sorted(Counter(counts.values()).items()) == [(3, 8990), (30, 10)]


@pytest.mark.parametrize("units", [75, 97, 400, 5000])
def test_fwe_counts_fall_with_the_square_of_the_rank(units):
    """n k^-2 / zeta(2), whole; ranks 2 to 4 are asked for and nothing else is as frequent."""
    question = draw("fwe", units, 4096)
    text = question.body.split("coded words. ")[1].split("\nQuestion")[0].split(" ")
    ranks = [int(units * 6 / np.pi**2 / k**2) for k in range(1, (4096 - 50) // 50 + 1)]
    counts = Counter(text)
    assert sorted(counts.values(), reverse=True) == [n for n in ranks if n]
    assert counts["..."] == ranks[0]
    assert [word for word, _ in counts.most_common(4)[1:]] == question.answers
    assert all(re.fullmatch("[a-z]{6}", word) for word in set(text) - {"..."})
    assert len(counts) <= 4 or counts.most_common(5)[4][1] < counts[question.answers[-1]]


def test_no_six_letter_word_is_drawn_from_a_short_vocabulary(tiny_tokenizer):
    with pytest.raises(ValueError, match="ask for 250 tokens or more"):
        draw("fwe", 100, 240)


def test_what_does_not_fit_is_refused_with_what_would(tiny_tokenizer):
    with pytest.raises(ValueError, match="300 tokens holds no words: the shortest takes"):
        examples(tiny_tokenizer, [300], 1, tasks=["cwe"])
    with pytest.raises(ValueError, match="unknown task 'qa_1'"):
        examples(tiny_tokenizer, [4096], 1, tasks=["qa_1"])
    with pytest.raises(ValueError, match="unknown style 'plain'"):
        examples(tiny_tokenizer, [4096], 1, style="plain")


def test_a_chat_model_gets_the_answers_first_words_after_its_turn(chat_tokenizer, tiny_tokenizer):
    """As NVIDIA writes it for Llama-2: [INST] the task [/INST] and the prefix."""
    (chat,) = examples(chat_tokenizer, [1200], 1, style="chat", tasks=["niah_single_1"])
    task, prefix = re.fullmatch(r"\[INST\] (.*) \[/INST\](.*)", chat.prompt, re.S).groups()
    assert task.startswith("A special magic number") and task.endswith("in the provided text?")
    assert prefix.startswith(" The special magic number for ") and prefix.endswith("text is")
    tokens = len(chat_tokenizer(chat.prompt)["input_ids"]) + chat.max_new_tokens
    assert tokens <= 1200 and chat.how["style"] == "chat" and len(chat.how["chat_template"]) == 16
    with pytest.raises(ValueError, match="has no chat template"):
        examples(tiny_tokenizer, [1200], 1, style="chat")


def test_score_is_the_share_that_is_named(asked):
    one = of(asked, "vt")[0]
    names = json.loads(one.target)
    assert score(" ".join(names).lower(), one) == {"score": 1.0, "contained": 1.0}
    assert score("\x00 " + "\t".join(names[:2]), one) == {"score": 0.4, "contained": 0.0}
    assert score("", one) == {"score": 0.0, "contained": 0.0}


def test_lengths_double_from_the_window():
    assert ruler.powers_of_two(4096, 8) == [4096, 8192, 16384, 32768]
    assert ruler.powers_of_two(512, 8) == [1024, 2048, 4096]
    assert ruler.powers_of_two(512, 1) == [1024]


def test_the_shared_loop_answers_it_in_one_process_or_two(tmp_path, tiny_model, tiny_tokenizer):
    """Two shares, each by its process, are the rows of one process."""
    few = examples(tiny_tokenizer, [1400], 2, tasks=["vt", "fwe"])
    run = dict(tokenizer=tiny_tokenizer, task=ruler, examples=few, progress=False)
    found = {}
    for part in ((0, 1), (0, 2), (1, 2)):
        path = tmp_path / f"{part}.jsonl"
        with Rows(path, {"model_hash": "0" * 16, "settings": {}}) as rows:
            frame = evaluate(tiny_model(2048), rows=rows, part=part, **run)
        found[part] = frame.set_index("key")[["task", "target", "prediction", "score"]]
    assert len(found[0, 1]) == 4 and found[0, 1]["score"].notna().all()
    both = pd.concat([found[0, 2], found[1, 2]])
    pd.testing.assert_frame_equal(both.sort_index(), found[0, 1].sort_index())


def test_that_fit_leaves_out_what_a_length_does_not_hold(tiny_tokenizer):
    """Each with its reason; what is asked are the same questions. A wrong name stays an error."""
    some = {"samples": 1, "tasks": ["cwe", "fwe"]}
    found, left_out = ruler.that_fit(tiny_tokenizer, [1000, 2600], **some)
    assert [(one.task, one.token_length) for one in found] == [
        ("ruler-fwe", 1000), ("ruler-cwe", 2600), ("ruler-fwe", 2600)]  # fmt: skip
    assert found[1:] == examples(tiny_tokenizer, [2600], **some)
    (reason,) = left_out
    assert reason.startswith("cwe at 1,000 tokens: ") and "the shortest takes" in reason
    with pytest.raises(ValueError, match="unknown task 'qa_1'"):
        ruler.that_fit(tiny_tokenizer, [4096], 1, tasks=["qa_1", "fwe"])
    with pytest.raises(ValueError, match="no length holds a task of RULER; cwe at 300 tokens"):
        ruler.that_fit(tiny_tokenizer, [300], 1, tasks=["cwe"])


def test_a_missing_package_is_said_before_anything_is_built(monkeypatch, tiny_tokenizer):
    """Which, what needs it, how to install it."""
    ruler_questions.words.cache_clear()
    ruler_questions.all_words.cache_clear()
    monkeypatch.setitem(sys.modules, "wonderwords.assets", None)
    monkeypatch.setattr(ruler, "_Builder", None)
    with pytest.raises(ModuleNotFoundError, match="RULER's prompts .* wonderwords.* pip install"):
        ruler.examples(tiny_tokenizer, [4096], 1)
