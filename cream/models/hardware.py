"""How much of a card's arithmetic a training uses: floating-point operations, and cards' peaks.

What belongs here: counting by formula. What was measured is in rows.
"""

from __future__ import annotations

from transformers import PreTrainedConfig

__all__ = ["forward_flops", "peak_flops", "training_flops", "utilisation"]

# Dense bfloat16 operations a second, from NVIDIA's data sheets (A100, H100 SXM, H200: without
# sparsity). The first name that a card's own name contains is taken.
PEAKS = {
    "H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12, "H200": 989e12, "GH200": 989e12,
    "A100": 312e12,
}  # fmt: skip


def training_flops(
    config: PreTrainedConfig, parameters: int, window: int, trained: int | None = None
) -> float:
    """Return the operations that training one token of a window takes, forward and backward.

    6 P for the weights and 6 x layers x hidden x window for causal attention; what is computed
    twice to save memory does not count. Of P only `trained` take a gradient (2 P of the 6).
    """
    text = config.get_text_config(decoder=True)
    frozen = 0 if trained is None else parameters - trained
    weights = 6.0 * parameters - 2.0 * frozen
    return weights + 6.0 * text.num_hidden_layers * text.hidden_size * window


def forward_flops(config: PreTrainedConfig, parameters: int, tokens: int) -> float:
    """Return the operations a token of one causal forward over `tokens` tokens: a third of those.

    2 P for the weights and 2 x layers x hidden x tokens for attention, as training_flops counts.
    """
    return training_flops(config, parameters, tokens) / 3


def peak_flops(card: str) -> float | None:
    """Return a card's dense bfloat16 operations a second; None for one that is not known."""
    return next((peak for name, peak in PEAKS.items() if name in card), None)


def utilisation(tokens_per_second: float, flops: float, card: str, cards: int = 1) -> float | None:
    """Return the share of the cards' peak (MFU); None where the peak is not known."""
    peak = peak_flops(card)
    return None if peak is None else tokens_per_second * flops / (peak * cards)
