"""Two answers part by rounding where one forward pass has both of their tokens near its best."""

from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from cream import models
from cream.verify import near_ties
from cream.verify import rows as verify_rows

BASE = Path(__file__).resolve().parents[2] / "data" / "miniature"
PROMPT = "line 1: REGISTER_CONTENT is <"


@pytest.fixture(scope="module")
def asked() -> tuple:
    return models.load(BASE), models.load_tokenizer(BASE)


@torch.inference_mode()
def ranked(model, tokenizer, prompt: str) -> tuple[list[str], torch.Tensor]:
    """The next tokens that are digits, the likeliest first, and all logits."""
    logits = model(**tokenizer(prompt, return_tensors="pt")).logits[0, -1]
    order = [tokenizer.decode([token]) for token in logits.argsort(descending=True).tolist()]
    return [text for text in order if len(text) == 1 and text in "123456789"], logits


def test_an_answer_misses_the_best_token_by_so_many_roundings(asked):
    """By the logits of one forward pass, wherever behind the prompt the answers part."""
    model, tokenizer = asked
    (best, *_, worst), logits = ranked(model, tokenizer, PROMPT + "7")
    wrong = tokenizer.convert_tokens_to_ids(worst)
    rounding = torch.finfo(torch.float32).eps * logits.abs().max()
    expected = ((logits.max() - logits[wrong]) / rounding).item()
    for first, second in ((best, worst), (worst, best)):
        found = near_ties.roundings(model, tokenizer, PROMPT, f"7{first}4", f"7{second}1")
        assert found == pytest.approx(expected, rel=1e-3)
    assert near_ties.roundings(model, tokenizer, PROMPT, "77", "77") == 0


def test_an_answer_that_ends_parts_at_the_end_token(asked):
    model, tokenizer = asked
    (best, *_), logits = ranked(model, tokenizer, PROMPT + "7")
    miss = logits.max() - logits[[tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(best)]]
    found = near_ties.roundings(model, tokenizer, PROMPT, "7", f"7{best}")
    rounding = torch.finfo(torch.float32).eps * logits.abs().max()
    assert found == pytest.approx((miss.max() / rounding).item(), rel=1e-3)


@pytest.mark.parametrize(
    ("dtype", "limit", "values", "tie"),
    [
        (torch.bfloat16, 1e9, ["prediction", "score"], True),
        (torch.bfloat16, 0.0, ["prediction", "score"], False),  # no rounding: another word
        (torch.float32, 1e9, ["prediction", "score"], False),  # which is compared exactly
        (torch.bfloat16, 1e9, ["prediction", "prompt_hash"], False),
        (torch.bfloat16, 1e9, ["score"], False),  # the words are the same
    ],
)
def test_only_another_word_in_less_than_float32_is_a_near_tie(
    asked, monkeypatch, dtype, limit, values, tie
):
    monkeypatch.setattr(verify_rows, "ROUNDINGS", limit)
    model, tokenizer = asked
    loaded = SimpleNamespace(model=model.to(dtype), tokenizer=tokenizer)
    differing = pd.DataFrame([("row", one, "71", "74") for one in values],
                             columns=["row", "value", "committed", "computed"])  # fmt: skip
    try:
        found = verify_rows._is_near_tie(loaded, SimpleNamespace(prompt=PROMPT), differing)
    finally:
        model.to(torch.float32)
    assert found is tie
