"""A task's prompt as a user's turn: the tokenizer's own template, with exactly one BOS."""

import copy

import pytest
from transformers import LlamaTokenizer

from cream.data import chat
from cream.inference.generation import tokenize
from cream.tasks import prompts

LLAMA2 = (
    "{% for m in messages %}{{ bos_token + '[INST] ' + m.content.strip() + ' [/INST]' }}"
    "{% endfor %}"
)
CHATML = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def with_template(tokenizer, template):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = template
    return tokenizer


def without_bos(tokenizer):
    """The same tokenizer, putting nothing before a text."""
    from tokenizers import processors

    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def test_the_users_turn_holds_the_prompt_and_ends_where_the_answer_begins(tiny_tokenizer):
    turn = chat.UserTurn(with_template(tiny_tokenizer, CHATML))
    assert turn("What is it?") == "<|user|>What is it?\n<|assistant|>"


@pytest.mark.parametrize("template", [LLAMA2, CHATML])
@pytest.mark.parametrize("adds", [True, False])
def test_there_is_one_bos_wherever_it_comes_from(template, adds, tiny_tokenizer):
    tokenizer = with_template(tiny_tokenizer if adds else without_bos(tiny_tokenizer), template)
    ids = tokenize(tokenizer, chat.UserTurn(tokenizer)("What is it?"))
    expected = int(adds or "bos_token" in template)
    assert ids.count(tokenizer.bos_token_id) == expected
    assert ids[:expected] == [tokenizer.bos_token_id] * expected
    if "bos_token" in template:
        own = tokenizer.apply_chat_template(
            [{"role": "user", "content": "What is it?"}], add_generation_prompt=True
        )
        assert ids == own["input_ids"]


def test_a_llama_tokenizer_gets_one_bos():
    """The class of Llama-2's: what follows the BOS begins with a space, as in Meta's own code."""
    words = ["<unk>", "<s>", "</s>", "▁", "[", "]", "I", "N", "S", "T", "/", "a"]
    tokenizer = LlamaTokenizer(vocab={word: i for i, word in enumerate(words)}, add_bos_token=True)
    tokenizer.chat_template = LLAMA2
    ids = tokenize(tokenizer, chat.UserTurn(tokenizer)("a"))
    assert ids[0] == tokenizer.bos_token_id == 1 and ids.count(1) == 1
    assert tokenizer.convert_ids_to_tokens(ids[:3]) == ["<s>", "▁", "["]
    assert tokenizer.decode(ids[1:]) == "[INST] a [/INST]"


def test_a_prompt_of_a_users_own_bos_stays_a_text(tiny_tokenizer):
    """What the task's prompt holds is not touched."""
    turn = chat.UserTurn(with_template(tiny_tokenizer, LLAMA2))
    assert turn("a <s> b") == "[INST] a <s> b [/INST]"


def test_a_tokenizer_without_a_template_is_refused_by_name(tiny_tokenizer):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.name_or_path = "some/base"
    with pytest.raises(ValueError, match="the tokenizer of some/base has no chat template"):
        chat.UserTurn(tokenizer)


def test_the_template_is_recorded(tiny_tokenizer):
    one, other = (chat.UserTurn(with_template(tiny_tokenizer, t)) for t in (LLAMA2, CHATML))
    assert set(one.settings) == {"chat_template"} and one.settings != other.settings
    facts = chat.ChatTemplate("tokenizer", one.tokenizer).facts()
    assert facts["sha256"].startswith(one.settings["chat_template"])


def test_the_style_of_a_presets_prompts():
    assert prompts.default_style("llama2-7b", 4096) == "official"
    assert prompts.default_style("llama2-7b-chat", 4096) == "chat"
    assert prompts.default_style("miniature", 512) == "miniature"
    assert prompts.default_style("llama2-7b", 512) == "miniature"
