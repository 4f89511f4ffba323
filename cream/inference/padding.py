"""Whether a model reads a padded prompt as it reads the prompt alone.

Some recurrent families take an attention mask and do not use it: padding is text to them. Others
take distances, or a window, from places in the cache, so that padding within a prompt moves what is
before it. Found by trying, once a model: no family is named.
"""

import weakref

import torch
from transformers import GenerationConfig, PreTrainedModel

__all__ = ["heeds_padding"]

_TRIED: "weakref.WeakKeyDictionary[PreTrainedModel, dict[int, bool]]" = weakref.WeakKeyDictionary()


def heeds_padding(model: PreTrainedModel, before: int = 0) -> bool:
    """Return whether padding, masked, leaves the next token's logits as they are.

    It is on the left, or behind the first `before` tokens.
    """
    tried = _TRIED.setdefault(model, {})
    if before not in tried:
        window = getattr(model.config, "window_size", None) or 0  # GPT-Neo's, of places
        alone, padded = _logits(model, 0, before), _logits(model, 3 + window, before)
        near = 1e-3 if model.dtype == torch.float32 else 5e-2
        tried[before] = bool(torch.allclose(alone, padded, atol=near, rtol=near))
    return tried[before]


@torch.inference_mode()
def _logits(model: PreTrainedModel, padding: int, before: int) -> torch.Tensor:
    """Logits after a few tokens, with so many tokens of padding behind the first `before`."""
    known = model.get_input_embeddings().num_embeddings
    tokens = [(2 + step) % known for step in range(6)]
    tokens[before:before] = [1 % known] * padding
    mask = [1] * before + [0] * padding + [1] * (6 - before)
    out = model.generate(
        torch.tensor([tokens], device=model.device),
        attention_mask=torch.tensor([mask], device=model.device),
        generation_config=GenerationConfig(
            max_new_tokens=1, do_sample=False, pad_token_id=0, use_cache=True,
            output_logits=True, return_dict_in_generate=True,
        ),
    )  # fmt: skip
    return out.logits[0].float()
