"""A task's prompt as a user's turn: the tokenizer's own template, with exactly one BOS."""

import copy
import datetime

import pytest
from transformers import LlamaTokenizer
from transformers.utils import chat_template_utils

from cream.data import chat
from cream.inference.generation import tokenize
from cream.tasks import passkey, prompts

LLAMA2 = (
    "{% for m in messages %}{{ bos_token + '[INST] ' + m.content.strip() + ' [/INST]' }}"
    "{% endfor %}"
)
CHATML = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

DATED = (  # the forms in which Llama 3.2, gpt-oss, SmolLM3 and a Japanese model ask for the day
    "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    '{%- set date_string = strftime_now("%d %b %Y") %}{%- else %}'
    '{%- set date_string = "26 Jul 2024" %}{%- endif %}{%- endif %}Today: {{ date_string }}\n',
    "{%- macro opening() %}{{ 'Current date: ' + strftime_now('%Y-%m-%d') }}{% endmacro %}"
    "{{ opening() }}\n",
    "{# strftime_now #}{%- set today = strftime_now(format = '%d %B %Y') -%}{{ today }} it's\n",
    '{{ strftime_now ("%Y年%m月%d日") }}\n',
)


@pytest.fixture
def on(monkeypatch):
    """What sets the day that transformers tells a template."""

    def set_to(day):
        class Day(datetime.datetime):
            @classmethod
            def now(cls, tz=None):
                return day

        monkeypatch.setattr(chat_template_utils, "datetime", Day)

    return set_to


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


@pytest.mark.parametrize("dated", DATED)
def test_today_is_one_date_whenever_a_text_is_made(dated, tiny_tokenizer, on):
    """Prompts and corpora are what transformers makes on that date, today and tomorrow."""
    tokenizer = with_template(tiny_tokenizer, dated + CHATML)
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    on(chat.DATE)
    own = tokenizer.apply_chat_template(messages, tokenize=False)
    assert "26" in own
    for day in (1, 2):
        on(datetime.datetime(2026, 11, day))
        assert tokenizer.apply_chat_template(messages, tokenize=False) != own
        assert chat.ChatTemplate("tokenizer", tokenizer).render(messages, "x") == own
        assert chat.UserTurn(tokenizer)("a") == own.removesuffix("<|assistant|>b\n") + (
            "<|assistant|>"
        )


def test_a_dated_prompt_is_the_same_question_on_every_day(tiny_tokenizer, on):
    """Rows of an evaluation that went on after midnight are those of one that did not."""
    tokenizer = with_template(tiny_tokenizer, DATED[0] + CHATML)
    asked = []
    for day in (1, 2):
        on(datetime.datetime(2026, 11, day))
        asked.append(passkey.examples(tokenizer, [400], 2, style="chat"))
    assert [one.prompt_hash for one in asked[0]] == [one.prompt_hash for one in asked[1]]
    assert asked[0][0].settings["chat_date"] == "2024-07-26"


def test_the_date_is_told_where_a_template_asks_for_one_and_nowhere_else(tiny_tokenizer):
    """Keys of rows and hashes of corpora that have no date stay what they were."""
    dated = with_template(tiny_tokenizer, DATED[1] + CHATML)
    facts = chat.ChatTemplate("tokenizer", dated).facts()
    assert facts["date"] == "2024-07-26"
    assert set(chat.UserTurn(dated).settings) == {"chat_template", "chat_date"}
    assert "date" not in chat.ChatTemplate("plain", dated).facts()
    plain = chat.ChatTemplate("tokenizer", with_template(tiny_tokenizer, CHATML)).facts()
    assert set(plain) == {"name", "sha256"}


@pytest.mark.parametrize(
    "asks", ["{% set f = '%Y' %}{{ strftime_now(f) }}", "{% set t = strftime_now %}{{ t('%Y') }}"]
)
def test_a_date_that_cannot_be_fixed_is_refused(asks, tiny_tokenizer):
    tokenizer = with_template(tiny_tokenizer, asks + CHATML)
    tokenizer.name_or_path = "some/model"
    turn, template = chat.UserTurn(tokenizer), chat.ChatTemplate("tokenizer", tokenizer)
    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    for ask in (lambda: turn("a"), lambda: turn.settings, lambda: template.render(turns, "x")):
        with pytest.raises(ValueError, match="template of some/model asks for today's date"):
            ask()


def test_the_style_of_a_presets_prompts():
    assert prompts.default_style("llama2-7b", 4096) == "official"
    assert prompts.default_style("llama2-7b-chat", 4096) == "chat"
    assert prompts.default_style("miniature", 512) == "miniature"
    assert prompts.default_style("llama2-7b", 512) == "miniature"
