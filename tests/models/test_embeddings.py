"""Added tokens: harmless where text never gives them, named with the cure where it may."""

import copy

import pytest

from cream.data.corpus import build, open_corpus, tokenizer_hash
from cream.inference import generation
from cream.models import loading
from cream.models.embeddings import check_embedded, never_in_text

GIVEN = [{"split": "train", "source": "x", "name": "x", "kind": "text", "text": "word " * 200}]


@pytest.fixture
def padded(tiny_tokenizer):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.add_special_tokens({"pad_token": "<mypad>"})
    return tokenizer


def test_an_added_padding_token_is_harmless(padded, tiny_model) -> None:
    assert padded.pad_token_id == 600 and never_in_text(padded) == ["<mypad>"]
    model = tiny_model(window=64)
    loading.check_pair(model, padded)
    prompts = ["one", "one two three four"]
    alone, together = (
        sorted((one.index, one.text) for one in generation.greedy(
            model, padded, prompts, max_new_tokens=4, batch_size=size
        ))
        for size in (1, 2)
    )  # fmt: skip
    assert alone == together and len(alone) == 2


def test_a_corpus_serves_both_tokenizers(tmp_path, padded, tiny_tokenizer) -> None:
    for name, one, other in (("a", tiny_tokenizer, padded), ("b", padded, tiny_tokenizer)):
        open_corpus(build(tmp_path / name, GIVEN, one, 64, {}, progress=False).path, other)
    assert tokenizer_hash(padded) != tokenizer_hash(tiny_tokenizer)


def test_tokens_that_text_may_give_are_named_with_the_cure(tiny_tokenizer) -> None:
    added, templated, ended = (copy.deepcopy(tiny_tokenizer) for _ in range(3))
    added.add_tokens(["unheard-of"])
    templated.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    templated.chat_template = "<|im_start|>{{ messages[0].content }}"
    ended.add_special_tokens({"eos_token": "<end>"})
    for tokenizer, token in ((added, "unheard-of"), (templated, r"<\|im_start\|>"),
                             (ended, "<end>")):  # fmt: skip
        says = rf"may give '{token}' \(id 600\).*resize_token_embeddings\(601\)"
        with pytest.raises(ValueError, match=says):
            check_embedded(tokenizer, 600)
        check_embedded(tokenizer, 601)


def test_the_vocabulary_is_checked_before_a_corpus_is_cut(tmp_path, tiny_model, padded) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path / "m")
    loading.check_vocabulary(padded, tmp_path / "m")
    loading.check_vocabulary(padded, tmp_path)  # no config, nothing to say
    padded.add_tokens(["unheard-of"])
    with pytest.raises(ValueError, match="'unheard-of' .id 601"):
        loading.check_vocabulary(padded, tmp_path / "m")


@pytest.mark.parametrize("bos", [True, False])
def test_a_tokenizer_without_bos_makes_a_corpus(tmp_path, tiny_tokenizer, bos) -> None:
    from tokenizers import processors

    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.bos_token = None
    corpus = build(tmp_path / "c", GIVEN, tokenizer, 64, {}, bos=bos, piece_tokens=64,
                   progress=False)  # fmt: skip
    assert corpus.manifest["bos_policy"] == "none prepended: the tokenizer has no BOS token"
    train = corpus.split("train")
    ids = [token for place in range(len(train)) for token in train.tokens(place).tolist()]
    assert ids == tokenizer("word " * 200, add_special_tokens=False)["input_ids"]
