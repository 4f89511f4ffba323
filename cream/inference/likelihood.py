"""The log-likelihood of long documents, in one forward and without their full logits.

What belongs here: a model's window check and its loss on tokens. Use it through `inference`. The
largest tensors grow with T, never with T x T or T x vocabulary; what can be computed in parts, is
(`tiling`), where a document is longer than one part.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast

from cream.inference.tiling import Tiling, tiled
from cream.models.backbone import backbone
from cream.rope import clex
from cream.rope.config import describe

__all__ = ["cached_log_likelihood", "check_window", "log_likelihood"]

TILING = Tiling()
_SELF_CHECK = 8  # tokens on which the chunked head is compared with the model's own logits


def check_window(model: PreTrainedModel, num_tokens: int, new_tokens: int = 0) -> None:
    """Refuse (ValueError) what is longer than the model's config says that it reads."""
    window = describe(model.config)["target_length"]
    if window is not None and num_tokens + new_tokens > window:
        parts = f"{num_tokens} tokens" + (f" and {new_tokens} new ones" if new_tokens else "")
        raise ValueError(
            f"{parts} exceed the model's window of {window} (by its config): shorten them, extend "
            "the model, or pass allow_beyond=True to question it there all the same"
        )


@torch.inference_mode()
def log_likelihood(
    model: PreTrainedModel,
    input_ids: Sequence[int] | np.ndarray | torch.Tensor,
    chunk: int = 4096,
    first_scored: int = 1,
    allow_beyond: bool = False,
    tiling: Tiling | None = TILING,
) -> np.ndarray:
    """Negative log-likelihood (nats, float64) of tokens `first_scored` to the last, each alone.

    One true forward over the whole sequence without a key-value cache; the head and the loss run
    over `chunk` tokens at a time, so the full logits never exist; where there are more tokens than
    a tile of `tiling` holds, the layers read in tiles (None: never). Shape (T - first_scored,).
    Raises ValueError for a sequence too short or beyond the window (unless `allow_beyond`), for ids
    that the model has no embedding for, and for a model whose logits are not its head applied to
    its last hidden state, or that sees the tokens it is to predict.
    """
    ids = _ids(model, input_ids)
    if not 1 <= first_scored < len(ids):
        raise ValueError(
            f"first_scored {first_scored} must be from 1 to {len(ids) - 1} for {len(ids)} tokens"
        )
    if chunk < 1:
        raise ValueError(f"chunk {chunk} must be at least 1 token")
    if not allow_beyond:
        check_window(model, len(ids))
    long = tiling is not None and len(ids) > tiling.tokens
    with clex.chosen(model, len(ids)):
        head = _head(model, ids[:_SELF_CHECK])
        with tiled(model, len(ids), tiling) if long else contextlib.nullcontext():
            hidden = _hidden(model, ids)
    parts = []
    for start in range(first_scored, len(ids), chunk):
        end = min(start + chunk, len(ids))
        parts.append(_losses(head, hidden[start - 1 : end - 1], ids[start:end]))
    return _finite(model, torch.cat(parts))


@torch.inference_mode()
def cached_log_likelihood(
    model: PreTrainedModel,
    input_ids: Sequence[int] | np.ndarray | torch.Tensor,
    chunk: int,
    allow_beyond: bool = False,
) -> Iterator[np.ndarray]:
    """Yield the losses inside each run of `chunk` tokens, read after the cache of those before.

    Each has one loss less than tokens: a run's first token is not scored, its logits were thrown
    away with the run before. For what CLEX computed (protocols 4.3); else use `log_likelihood`. A
    CLEX model reads all runs at the t of the whole document, where its authors raised t with each,
    as it does under `rope.clex_growing`.
    """
    ids = _ids(model, input_ids)
    if chunk < 1:
        raise ValueError(f"chunk {chunk} must be at least 1 token")
    if not allow_beyond:
        check_window(model, len(ids))
    with clex.chosen(model, len(ids)):
        head = _head(model, ids[:_SELF_CHECK])
    cache = None
    for part in ids.split(chunk):
        with clex.chosen(model, len(ids)):
            out = backbone(model)(input_ids=part[None], past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        if len(part) == 1:
            yield np.zeros(0)
            continue
        yield _finite(model, _losses(head, out.last_hidden_state[0, :-1], part[1:]))


def _ids(
    model: PreTrainedModel, input_ids: Sequence[int] | np.ndarray | torch.Tensor
) -> torch.Tensor:
    ids = torch.as_tensor(np.asarray(input_ids, dtype=np.int64), device=model.device).reshape(-1)
    known = model.get_input_embeddings().num_embeddings
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < known:
        raise ValueError(
            f"token ids run from {int(ids.min())} to {int(ids.max())} and the model has {known} "
            "embeddings: the document was cut by another tokenizer"
        )
    return ids


def _finite(model: PreTrainedModel, found: torch.Tensor) -> np.ndarray:
    losses = found.cpu().numpy().astype(np.float64)
    if not np.isfinite(losses).all():
        raise ValueError(
            f"{(~np.isfinite(losses)).sum()} of {len(losses)} log-likelihoods are not finite: "
            f"load the model in another dtype than {model.dtype}, or check its weights"
        )
    return losses


def _hidden(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    return backbone(model)(input_ids=ids[None], use_cache=False).last_hidden_state[0]


_Head = Callable[[torch.Tensor], torch.Tensor]  # hidden states (n, size) to logits (n, words)


def _plain_head(model: PreTrainedModel, hidden: torch.Tensor) -> torch.Tensor:
    logits = model.get_output_embeddings()(hidden)
    cap = getattr(model.config, "final_logit_softcapping", None)
    return logits if cap is None else cap * torch.tanh(logits / cap)


def _own_head(model: PreTrainedModel, hidden: torch.Tensor) -> torch.Tensor:
    """The model's own way to its logits (scaled, transformed), over given hidden states."""
    below = backbone(model)
    kept = below.__dict__.get("forward")
    given = BaseModelOutputWithPast(last_hidden_state=hidden[None])
    below.forward = lambda *args, **kwargs: given
    try:
        ids = torch.zeros((1, len(hidden)), dtype=torch.long, device=hidden.device)
        return model(input_ids=ids, use_cache=False).logits[0]
    finally:
        below.__dict__.pop("forward")
        if kept is not None:
            below.forward = kept


def _losses(head: _Head, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy in double precision; 1,024 rows at a time, whose doubles are small."""
    precise = torch.float32 if hidden.device.type == "mps" else torch.float64
    parts = []
    for rows, wanted in zip(hidden.split(1024), targets.split(1024), strict=True):
        logits = head(rows).to(precise)
        parts.append(torch.nn.functional.cross_entropy(logits, wanted, reduction="none"))
    return torch.cat(parts)


def _head(model: PreTrainedModel, ids: torch.Tensor) -> _Head:
    """Return what turns hidden states into this model's logits, checked against the whole model.

    That is its output embeddings; else what the model itself does with hidden states. ValueError
    for a model that does more, and for one whose tokens see those behind them.
    """
    own = model(input_ids=ids[None], use_cache=False).logits[0].float()
    hidden = _hidden(model, ids)
    near = 1e-4 if model.dtype == torch.float32 else 5e-2
    if len(ids) > 2:
        changed = torch.cat([ids[:-1], ids[:1]])
        if not torch.allclose(
            _hidden(model, changed)[:-1], hidden[:-1], atol=near, rtol=near, equal_nan=True
        ):
            raise ValueError(
                f"in this {model.config.model_type} a token sees the tokens behind it: it has no "
                "log-likelihood of a text (is_decoder in its config?), choose a causal model"
            )
    for head in (_plain_head, _own_head):
        found = functools.partial(head, model)
        with contextlib.suppress(Exception):  # whatever a family's own head does not take
            if torch.allclose(own, found(hidden).float(), atol=near, rtol=near, equal_nan=True):
                return found
    raise ValueError(
        f"the logits of a {model.config.model_type} are not its head applied to its last "
        "hidden state: log_likelihood cannot score it in chunks"
    )
