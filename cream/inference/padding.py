"""Whether a model reads a padded prompt as it reads the prompt alone.

Some recurrent families take an attention mask and do not use it: padding on the left is text to
them. Found by trying, once a model: no family is named.
"""

import weakref

import torch
from transformers import GenerationConfig, PreTrainedModel

__all__ = ["heeds_padding"]

_TRIED: "weakref.WeakKeyDictionary[PreTrainedModel, bool]" = weakref.WeakKeyDictionary()


def heeds_padding(model: PreTrainedModel) -> bool:
    """Return whether padding on the left, masked, leaves the next token's logits as they are."""
    if model not in _TRIED:
        alone, padded = _logits(model, 0), _logits(model, 3)
        near = 1e-3 if model.dtype == torch.float32 else 5e-2
        _TRIED[model] = bool(torch.allclose(alone, padded, atol=near, rtol=near))
    return _TRIED[model]


@torch.inference_mode()
def _logits(model: PreTrainedModel, padding: int) -> torch.Tensor:
    """Logits after a few tokens, with so many tokens of padding before them."""
    known = model.get_input_embeddings().num_embeddings
    tokens = [1 % known] * padding + [(2 + step) % known for step in range(6)]
    mask = [0] * padding + [1] * 6
    out = model.generate(
        torch.tensor([tokens], device=model.device),
        attention_mask=torch.tensor([mask], device=model.device),
        generation_config=GenerationConfig(
            max_new_tokens=1, do_sample=False, pad_token_id=0, use_cache=True,
            output_logits=True, return_dict_in_generate=True,
        ),
    )  # fmt: skip
    return out.logits[0].float()
