"""The part of a causal language model below its head, whatever a family calls it."""

from transformers import PreTrainedModel

__all__ = ["backbone"]


def backbone(model: PreTrainedModel) -> PreTrainedModel:
    """Return the module that gives hidden states and not logits.

    `base_model` is the whole model in families (Llama 4's text model) that name it by an attribute
    they do not have. ValueError where there is no such module.
    """
    if model.base_model is not model:
        return model.base_model
    inner = [child for child in model.children() if isinstance(child, PreTrainedModel)]
    if len(inner) != 1:
        raise ValueError(
            f"a {model.config.model_type} has no one module that gives hidden states without "
            "logits: choose another model"
        )
    return inner[0]
