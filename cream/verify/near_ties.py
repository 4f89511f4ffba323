"""Answers that part where rounding decides between two tokens.

In bfloat16 a model answers otherwise in another batch or by another kernel: where two tokens are
nearly as likely, rounding takes the one or the other, and all behind it differs. What belongs here:
how near is near, in both rules (rows: in roundings of the dtype they were computed in; the study's
answers, computed again in float32: in nats), and how far two answers' first different tokens are
from the likeliest one, by one forward pass.
"""

from __future__ import annotations

import itertools

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cream.inference.generation import tokenize

__all__ = ["NEAR_TIE", "ROUNDINGS", "roundings"]

# Chosen, not fitted: of 160 answers of SmolLM2-135M in bfloat16 18 parted from those given one by
# one on an H200, at logits at most 0.25 apart, as `cream.performance generation` prints.
ROUNDINGS = 4.0
# Nats between two tokens that another processor may rank the other way. Of 1,032 answers of the
# miniature, a CPU gave none otherwise than the H200.
NEAR_TIE = 1e-3


@torch.inference_mode()
def roundings(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    first: str,
    second: str,
) -> float:
    """Return by how much the worse of two answers' first different tokens misses the best logit.

    In roundings of the model's dtype: its eps times the largest logit. 0 for equal answers. An
    answer that ends where the other goes on ends with the tokenizer's end token.
    """
    answers = [tokenize(tokenizer, prompt + text) for text in (first, second)]
    end = tokenizer.eos_token_id
    pairs = enumerate(itertools.zip_longest(*answers, fillvalue=end))
    place, tokens = next(((n, pair) for n, pair in pairs if pair[0] != pair[1]), (0, None))
    if tokens is None:
        return 0.0
    ids = torch.tensor([answers[0][:place]], device=model.device)
    logits = model(input_ids=ids, logits_to_keep=1, use_cache=False).logits[0, -1].float()
    misses = logits.max() - logits[list(tokens)].min()
    return (misses / (torch.finfo(model.dtype).eps * logits.abs().max())).item()
