"""The tokenizer: exact round trips, single digits, deterministic, read by transformers 4 and 5."""

import json

import pytest
from transformers import AutoTokenizer

from cream.data import tokenizer

ODD = [" Hi , there .\n\n  a\t é 漢字 12345 <x> don 't !", "\n\n", " ", "", "I 'm n't . , ?"]


@pytest.fixture(scope="module")
def trained(haystack):
    return tokenizer.train_tokenizer(tokenizer.sample([haystack], retrieval_documents=30), 700)


def test_text_comes_back_exactly(trained, tmp_path, haystack) -> None:
    loaded = AutoTokenizer.from_pretrained(tokenizer.save_tokenizer(trained, tmp_path / "t"))
    for text in [*ODD, haystack[:5000]]:
        ids = loaded(text, add_special_tokens=False)["input_ids"]
        assert loaded.decode(ids) == text
        assert loaded(text)["input_ids"] == [loaded.bos_token_id, *ids]
    assert len(loaded) == 700 and loaded.eos_token == loaded.pad_token == tokenizer.EOS


def test_saved_settings_are_read_by_transformers_4_too(trained, tmp_path) -> None:
    folder = tokenizer.save_tokenizer(trained, tmp_path / "t")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert settings["clean_up_tokenization_spaces"] is False
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t"]


def test_digits_stand_alone(trained) -> None:
    assert all(sum(c.isdigit() for c in piece) <= 1 for piece in trained.get_vocab())
    assert len(trained("94321", add_special_tokens=False)["input_ids"]) == 5


def test_training_is_deterministic(trained, haystack) -> None:
    again = tokenizer.train_tokenizer(tokenizer.sample([haystack], retrieval_documents=30), 700)
    assert again.backend_tokenizer.to_str() == trained.backend_tokenizer.to_str()


def test_bad_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="vocab_size 100 must be at least 258"):
        tokenizer.train_tokenizer(["x"], 100)
    with pytest.raises(ValueError, match=r"fill \d+ of 4096 entries"):
        tokenizer.train_tokenizer(["a few words"], 4096)
