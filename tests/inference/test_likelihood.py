"""What is held in memory while a long document is scored, and losses after a cache.

The losses themselves are tested through `inference`.
"""

import numpy as np
import pytest
from transformers import LlamaConfig
from watched_tensors import Largest

from cream import models
from cream.inference.likelihood import cached_log_likelihood, log_likelihood

VOCABULARY, WIDE = 3000, 96


@pytest.fixture(scope="module")
def model():
    config = LlamaConfig(vocab_size=VOCABULARY, hidden_size=32, intermediate_size=WIDE,
                         num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
                         max_position_embeddings=8192)  # fmt: skip
    return models.create(config, seed=0)


def largest(model, tokens: int, chunk: int = 64) -> Largest:
    ids = np.random.default_rng(0).integers(0, VOCABULARY, tokens)
    with Largest() as seen:
        assert len(log_likelihood(model, ids, chunk)) == tokens - 1
    return seen


@pytest.mark.parametrize("tokens", [4096, 8192])
def test_no_mask_of_all_pairs_and_no_logits_of_all_tokens(model, tokens):
    """The largest tensors are the feed-forward's, `tokens` x its width: they grow with the tokens.

    64 tokens' logits are 64 x 3,000; all would be 4,096 x 3,000, a mask 4,096 x 4,096.
    """
    seen = largest(model, tokens)
    assert seen.elements == tokens * WIDE, seen.of


def test_logits_are_of_1024_tokens_at_most(model):
    """However large the chunk: they are held in double precision."""
    assert largest(model, 4096, chunk=4096).elements == 1024 * VOCABULARY


def test_the_watch_sees_a_mask_where_one_is_made(model):
    """A check of the check: eager attention does make one entry a pair."""
    eager = models.create(model.config, seed=0, attention="eager")
    assert largest(eager, 1024).elements >= 1024 * 1024


@pytest.mark.parametrize("chunk", [7, 64, 1000])
def test_losses_after_a_cache_are_those_of_one_forward(model, chunk):
    """But for the first token of each run, which is in none."""
    ids = np.random.default_rng(1).integers(0, VOCABULARY, 300)
    whole = np.r_[np.nan, log_likelihood(model, ids)]
    runs = list(cached_log_likelihood(model, ids, chunk))
    starts = range(0, 300, chunk)
    assert [len(run) for run in runs] == [min(chunk, 300 - start) - 1 for start in starts]
    for start, run in zip(starts, runs, strict=True):
        np.testing.assert_allclose(run, whole[start + 1 : start + len(run) + 1], atol=1e-5)


def test_a_last_run_of_one_token_has_no_loss(model):
    runs = list(cached_log_likelihood(model, np.arange(9), 4))
    assert [len(run) for run in runs] == [3, 3, 0]


@pytest.mark.parametrize("score", [log_likelihood, lambda *a: list(cached_log_likelihood(*a, 64))])
def test_ids_that_the_model_does_not_know_are_refused(model, score):
    for wrong in (VOCABULARY, -1):
        with pytest.raises(ValueError, match=f"{wrong} .*cut by another tokenizer"):
            score(model, [5, wrong, 5])


def test_the_cached_one_minds_the_window_and_the_chunk(model):
    with pytest.raises(ValueError, match="8193 tokens exceed the model's window of 8192"):
        next(cached_log_likelihood(model, np.zeros(8193), 64))
    with pytest.raises(ValueError, match="chunk 0 must be at least 1"):
        next(cached_log_likelihood(model, np.zeros(3), 0))


def test_a_yarn_base_whose_maximum_is_its_original_length_is_read_to_its_factor_times_that():
    """The config of Qwen2.5 with YaRN switched on: it is within its window up to there."""
    yarn = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4,
            "original_max_position_embeddings": 16}  # fmt: skip
    config = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=1,
                         num_attention_heads=2, max_position_embeddings=16,
                         rope_parameters=yarn)  # fmt: skip
    model = models.create(config, seed=0)
    assert len(log_likelihood(model, np.zeros(64))) == 63
    with pytest.raises(ValueError, match="65 tokens exceed the model's window of 64"):
        log_likelihood(model, np.zeros(65))
