"""Every prompt is made into ids at one place, which no tokenizer's own ending gets past."""

from pathlib import Path

import numpy as np
import pytest
from tokenizers import processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from cream import models
from cream.evaluation import harness
from cream.evaluation import models as evaluation_models
from cream.inference.generation import greedy, tokenize
from cream.inference.prompt_tokens import appended, num_prompt_tokens, prompt_ids, prompts_ids
from cream.study import scoring
from cream.tasks import longchat_lines
from cream.tasks import prompts as tasks_prompts
from cream.tasks.longbench import task

BASE = Path(__file__).resolve().parents[2] / "data" / "miniature"


def ending(folder: Path, template: str = "<s> $A </s>") -> PreTrainedTokenizerFast:
    """The miniature's tokenizer with another post-processor, as others' tokenizers have it."""
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    used = [(name, tokenizer.convert_tokens_to_ids(name)) for name in ("<s>", "</s>")]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[each for each in used if each[0] in template]
    )
    tokenizer.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def usual():
    return models.load_tokenizer(BASE)


@pytest.mark.parametrize("template", ["<s> $A", "<s> $A </s>", "<s> <s> $A"])
def test_a_prompt_that_begins_with_bos_has_no_more_than_others(tmp_path, template):
    """As conversations do that a template has written out; inside a text BOS stays."""
    words = ending(tmp_path, template)
    plain = prompt_ids(words, "line a")
    assert prompt_ids(words, "<s>line a") == plain
    assert prompts_ids(words, ["<s>line a", "line a"]) == [plain, plain]
    assert prompt_ids(words, "line a<s>")[: len(plain)] == plain
    assert prompt_ids(words, "line a<s>")[-1] == words.bos_token_id


@pytest.mark.parametrize("template", ["<s> $A </s>", "<s> $A </s> </s>", "<s> <s> $A </s>"])
def test_what_a_tokenizer_appends_is_no_part_of_a_prompt(tmp_path, usual, template):
    odd = ending(tmp_path / "t", template)
    texts = ["line a-b: 12", "", "one </s> two", "ends in </s>", "ünïcode\n"]
    start = [0] * (template.count("<s>") - 1)
    wanted = [[*start, *usual(text)["input_ids"]] for text in texts]
    assert odd(texts[0])["input_ids"][-1] == odd.eos_token_id
    assert prompts_ids(odd, texts) == wanted
    assert [prompt_ids(odd, text) for text in texts] == wanted
    assert [tokenize(odd, text) for text in texts] == wanted
    assert [num_prompt_tokens(odd, text) for text in texts] == [len(ids) for ids in wanted]
    assert [tasks_prompts.counter(odd)(text) for text in texts] == [len(ids) for ids in wanted]
    assert appended(usual) == [] and set(appended(odd)) == {odd.eos_token_id}


def test_only_an_ending_is_dropped_not_a_beginning(tmp_path, usual):
    odd = ending(tmp_path / "t", "$A </s>")
    assert prompt_ids(odd, "some words") == usual("some words")["input_ids"][1:]


def test_the_miniature_answers_the_same_with_such_a_tokenizer(tmp_path, usual):
    odd, model = ending(tmp_path / "t"), models.load(BASE, device="cpu")
    asked = {}
    for tokenizer in (usual, odd):
        made = longchat_lines.examples(tokenizer, [256], 4, seed=0)
        prompts = [one.prompt for one in made]
        found = greedy(model, tokenizer, prompts, made[0].max_new_tokens, made[0].stop)
        by_place = sorted(found)
        scores = [longchat_lines.score(one.text, made[one.index])["score"] for one in by_place]
        asked[tokenizer.name_or_path] = prompts, [one.num_prompt_tokens for one in by_place], scores
    first, second = asked.values()
    assert first == second
    assert np.mean(second[2]) == 1.0


def test_answers_that_are_scored_without_generating_have_no_ending_either(tmp_path, usual):
    odd = ending(tmp_path / "t")
    for example in longchat_lines.examples(usual, [256], 2, seed=0):
        one, other = scoring.as_question(usual, example), scoring.as_question(odd, example)
        assert one.prompt.tolist() == other.prompt.tolist()
        assert one.target.tolist() == other.target.tolist()


def test_a_prompt_is_cut_in_the_middle_by_its_own_tokens(tmp_path, usual):
    odd, text = ending(tmp_path / "t"), "one two three four five six seven eight " * 20
    assert task.truncate(odd, text, 40) == task.truncate(usual, text, 40)
    exact = len(usual(text)["input_ids"])
    assert task.truncate(odd, text, exact) == text


def test_the_harness_is_not_given_such_a_tokenizer_with_bos(tmp_path):
    model = models.load(BASE, device="cpu")
    models.save(model, ending(tmp_path / "t"), tmp_path / "m")
    asked = evaluation_models.find("m", BASE, tmp_path)
    with pytest.raises(ValueError, match="bos is true and the tokenizer of m also appends </s>"):
        harness.evaluate_models(asked, ["piqa"], tmp_path / "rows.jsonl", harness.Policy(bos=True))
    assert not (tmp_path / "rows.jsonl").exists()


def test_a_tokenizer_that_alters_the_text_itself_is_refused_by_name():
    class Odd:
        name_or_path = "odd/tokenizer"

        def __call__(self, text, add_special_tokens=True, **_):
            ids = [7] if add_special_tokens else [5, 6]
            return {"input_ids": ids if isinstance(text, str) else [ids for _ in text]}

    with pytest.raises(ValueError, match="odd/tokenizer .* add_eos_token"):
        prompt_ids(Odd(), "a")
