"""Tokens of a text, paragraph by paragraph: as of the whole text, and each read once."""

import random

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from cream.inference.prompt_tokens import num_prompt_tokens
from cream.tasks.paragraphs import Paragraphs, may_cut

# Of GPT-2's pattern and Llama 3's: what may join characters, or look at what follows.
PIECES = [
    "word", "don't", "'s", "'", "1", "2024", "é", "日本", "e\u0301", "😀", "=" * 90, ".", " .",
    ";\n\n", "}\n\n  x", " ", "  ", "\t", "\n", "\n\n", "\n\n\n", "\r\n\r\n", "\u00a0", "\u3000",
    "\x1c", "\x85", "\u2028", "\u180e", "\u200b", "<s>", "</s>", "<hidden>",
]  # fmt: skip
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)
CUTTERS = {  # what stands before the BPE, and whether a text may be cut
    "gpt-2": (BYTES, True),
    "digits": (pre_tokenizers.Sequence([pre_tokenizers.Digits(True), BYTES]), True),
    "numbers": (pre_tokenizers.Sequence([pre_tokenizers.Digits(False), BYTES]), False),
    "prefix": (pre_tokenizers.ByteLevel(add_prefix_space=True), False),
    "whole": (pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False), False),
    "llama 3": (
        pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(LLAMA_3), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        ),
        False,
    ),
}


def odd_text(seed: int, pieces: int = 300) -> str:
    return "".join(random.Random(seed).choices(PIECES, k=pieces))


def copy(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """One whose parts a test may change."""
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


def check(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    """Compare with the tokens of the whole text, read a second time too."""
    whole = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    paragraphs = Paragraphs(tokenizer)
    for _ in range(2):
        assert list(paragraphs.ends(text)) == [end for _, end in whole["offset_mapping"]]
        assert paragraphs.count(text) == num_prompt_tokens(tokenizer, text)


@pytest.mark.parametrize("name", CUTTERS)
def test_the_tokens_are_those_of_the_whole_text(name, tiny_tokenizer, haystack):
    tokenizer, (cutter, cuts) = copy(tiny_tokenizer), CUTTERS[name]
    tokenizer.backend_tokenizer.pre_tokenizer = cutter
    assert may_cut(tokenizer) == cuts
    for seed in range(30):
        check(tokenizer, odd_text(seed))
    check(tokenizer, haystack[:20_000])


@pytest.mark.parametrize("text", ["", "\n\n", "\n\nx", "x\n\n", "<s>x\n\ny", "<s>\n\n<s>"])
def test_edges_and_a_bos_of_the_text(text, tiny_tokenizer):
    check(tiny_tokenizer, text)


TAKING = [AddedToken("<hidden>", lstrip=True), AddedToken("<hidden>", rstrip=True),
          AddedToken("<hidden>", single_word=True), AddedToken(".\n\nword")]  # fmt: skip


@pytest.mark.parametrize("token", TAKING, ids=str)
def test_tokens_that_take_spaces_forbid_a_cut(token, tiny_tokenizer):
    tokenizer = copy(tiny_tokenizer)
    tokenizer.add_tokens([AddedToken("<plain>")])
    assert may_cut(tokenizer)
    tokenizer.add_tokens([token])
    assert not may_cut(tokenizer)
    for seed in range(10):
        check(tokenizer, odd_text(seed) + ".\n\nword <hidden>\n\n")


@pytest.mark.parametrize(
    ("part", "value"),
    [("normalizer", normalizers.NFC()), ("pre_tokenizer", None),
     ("post_processor", processors.ByteLevel(trim_offsets=True))],
)  # fmt: skip
def test_parts_of_which_nothing_is_known_forbid_a_cut(part, value, tiny_tokenizer):
    tokenizer = copy(tiny_tokenizer)
    setattr(tokenizer.backend_tokenizer, part, value)
    assert not may_cut(tokenizer)
    check(tokenizer, odd_text(0))


class Counted:
    """A tokenizer that notes what it is asked for, without the probes for its BOS and ending."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer, self.seen = tokenizer, []

    def __getattr__(self, name: str):
        return getattr(self.tokenizer, name)

    def __call__(self, texts: str | list[str], **how):
        self.seen += texts if isinstance(texts, list) else []
        return self.tokenizer(texts, **how)


def test_a_paragraph_is_read_once_and_none_that_is_not_asked_for(tiny_tokenizer):
    tokenizer = Counted(tiny_tokenizer)
    text = "".join(f"paragraph {k}\n\n" for k in range(1000))
    paragraphs = Paragraphs(tokenizer)
    next(paragraphs.ends(text))
    assert 1 <= len(tokenizer.seen) < 100
    tokens = len(list(paragraphs.ends(text)))
    assert len(tokenizer.seen) == len(set(tokenizer.seen)) == 1001
    assert paragraphs.count(text) == tokens + 1
    assert tokenizer.seen[1001:] == ["paragraph 0"]  # by which special tokens are counted


def test_a_slow_tokenizer_is_refused():
    class Slow:
        is_fast = False

    with pytest.raises(ValueError, match="a slow one, which cannot place"):
        Paragraphs(Slow())
