"""Questioning a model: batched greedy decoding, and the log-likelihood of long documents.

What belongs here: turning prompts into continuations and tokens into negative log-likelihoods,
within a memory budget, and the refusal of what does not fit the window. Nothing here knows a task.
"""

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteriaList,
)

from cream.inference import memory, recorded
from cream.inference.batching import Batch, plan
from cream.inference.kv_cache import keeps_all, read_heads
from cream.inference.likelihood import check_window
from cream.inference.padding import heeds_padding
from cream.inference.prompt_tokens import prompt_ids, prompts_ids
from cream.inference.stopping import StopString, cut, decode, until_end
from cream.rope import clex
from cream.rope.clex_growing import is_growing
from cream.rope.length import depends_on_length

__all__ = [
    "BOS_POLICY",
    "Completion",
    "greedy",
    "settings",
    "tokenize",
]

logger = logging.getLogger(__name__)

BOS_POLICY = "add_special_tokens"  # prompts get whatever the tokenizer puts before a text
# What "auto" plans with. A GPU waits for Python rather than for tokens; a CPU gains from prompts
# that are read together only while they are short, and from what they share at any length.
_MOST_ROWS = {"cpu": 16, "cuda": 256}
_WASTE = {"cpu": 0.1, "cuda": 0.25}
_MOST_TOKENS = {"cpu": 4096, "cuda": None}
# `greedy` refuses what is beyond the window itself, and where it does not, that is the question.
logging.getLogger("transformers.generation.stopping_criteria").addFilter(
    lambda record: "friendly reminder" not in str(record.msg)
)


class Completion(NamedTuple):
    """The continuation of prompts[index], cut after its stop string; special tokens left out.

    `tokens` are those of the continuation up to the one that ended it.
    """

    index: int
    text: str
    num_prompt_tokens: int
    tokens: tuple[int, ...] = ()


def tokenize(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """Token ids of a prompt, with what the tokenizer puts before a text (`BOS_POLICY`)."""
    return prompt_ids(tokenizer, prompt)


def greedy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    max_new_tokens: int,
    stop: str | None = None,
    batch_size: int | str = "auto",
    min_new_tokens: int = 0,
    allow_beyond: bool = False,
) -> Iterator[Completion]:
    """Continue every prompt greedily; completions come as their batches finish, longest first.

    What many prompts have in common is read once, rows are padded where their lengths differ, and
    every prompt gets the tokens it would get alone, up to the rounding of the model's dtype. Models
    that answer otherwise in a batch (dynamic NTK; CLEX of a growing t; recurrent ones that read
    padding; MPT) get each alone. `batch_size` is the most prompts at once (1: each by itself,
    nothing shared); "auto" takes as many as fit by `memory.generation`. Running out of memory all
    the same halves it from there on.
    Before anything is computed, ValueError is raised for a prompt that with `max_new_tokens` is
    longer than the model's window, unless `allow_beyond` (a model questioned beyond its window),
    and MemoryError, with the arithmetic, for what does not fit. Settings of the model's own
    generation config (Llama-2 samples at temperature 0.6) do not apply, its end tokens do.
    """
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens {max_new_tokens} must be at least 1")
    if batch_size != "auto" and (not isinstance(batch_size, int) or batch_size < 1):
        raise ValueError(f"batch_size {batch_size!r} must be 'auto' or a whole number from 1")
    if not prompts:
        return iter(())
    ids = [np.asarray(row, dtype=np.int64) for row in prompts_ids(tokenizer, prompts)]
    for index, row in enumerate(ids):
        if not len(row):
            raise ValueError(f"prompt {index} has no tokens")
    if not allow_beyond:
        check_window(model, max(map(len, ids)), max_new_tokens)
    batches = _planned(model, ids, max_new_tokens, batch_size)
    config = settings(model, tokenizer, max_new_tokens, min_new_tokens, stop)
    return _run(model, tokenizer, ids, batches, config, stop)


def _planned(
    model: PreTrainedModel, ids: list[np.ndarray], new_tokens: int, batch_size: int | str
) -> list[Batch]:
    """Plan batches that fit, or raise MemoryError with the arithmetic of the first that does not.

    That is not even one prompt, or the number that was asked for.
    """
    room = memory.footprint(model)
    if len(ids) > 1 and not _together(model, room):
        batch_size = 1
    share = batch_size != 1 and room.stock_cache and keeps_all(model)
    auto = batch_size == "auto"
    limit = _limit(room, new_tokens, share, model.device.type) if auto else lambda *_: batch_size
    kind = "cpu" if auto and model.device.type == "cpu" else "cuda"
    batches = [
        Batch([group[i] for i in one.indices], one.shared)
        for group in _alike(model, ids, new_tokens)
        for one in plan([ids[i] for i in group], limit, share, _WASTE[kind], _MOST_TOKENS[kind])
    ]
    for indices, shared in batches:
        lengths = [len(ids[i]) for i in indices]
        tokens, tail = max(lengths) + new_tokens, _tail(lengths, shared)
        needs = room.needs(len(indices), tokens, share, tail)
        if not needs.fits:
            most = room.most_rows(tokens, share, tail)
            instead = f"set batch_size to {most} or 'auto'" if most else (
                "shorten the prompts, load the model in a narrower dtype or use a larger card"
            )  # fmt: skip
            raise MemoryError(f"this does not fit: {needs}; {instead}")
    return batches


def _tail(lengths: Sequence[int], shared: Sequence[int]) -> int:
    """How many tokens are read for all rows at once, behind what is read before."""
    return max(length - own for length, own in zip(lengths, shared, strict=True))


def _alike(model: PreTrainedModel, ids: list[np.ndarray], new_tokens: int) -> list[list[int]]:
    """Which prompts one model answers: all, but with CLEX those of the same t, the longest first.

    `new_tokens` must be those that `_generate` counts, or a prompt would be read at another t.
    """
    keys = [clex.plan_key(model, len(row) + new_tokens) for row in ids]
    found = sorted(set(keys), reverse=True)
    return [[i for i, key in enumerate(keys) if key == each] for each in found]


def _together(model: PreTrainedModel, room: memory.Footprint) -> bool:
    """Whether a prompt's answer in a batch is the one that it has alone."""
    if depends_on_length(model.config) or is_growing(model):
        return False
    turns = bool(getattr(model.config, "rope_parameters", None))  # positions come from the mask
    before = room.stock_cache and keeps_all(model)  # padding is then behind what is read before
    return (turns and before) or heeds_padding(model, 2 if before else 0)


def _limit(
    room: memory.Footprint, new_tokens: int, share: bool, device: str
) -> Callable[[int, int], int]:
    """How many rows of so many prompt tokens fit, at least 1 and at most what is of use."""
    most = _MOST_ROWS.get(device, 16)

    @functools.cache
    def limit(tokens: int, tail: int) -> int:
        rows = room.most_rows(tokens + new_tokens, share, tail)
        return most if rows is None else min(most, max(1, rows))

    return limit


def _run(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    ids: list[np.ndarray],
    batches: list[Batch],
    config: GenerationConfig,
    stop: str | None,
) -> Iterator[Completion]:
    """Decode batch by batch; where one does not fit, in halves, and no later one is larger."""
    most = max(len(batch.indices) for batch in batches)
    for indices, shared in batches:
        while indices:
            part, before = indices[:most], shared[:most]
            rows = [ids[i] for i in part]
            found = _tried(model, tokenizer, rows, before if len(part) > 1 else [0], config, stop)
            if found is None:
                most = len(part) // 2
                logger.warning("out of memory: from here on at most %d prompts at once", most)
                continue
            for index, (text, tokens) in zip(part, found, strict=True):
                yield Completion(index, text, len(ids[index]), tokens)
            indices, shared = indices[most:], shared[most:]


_Found = list[tuple[str, tuple[int, ...]]]


def _tried(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[np.ndarray],
    shared: list[int],
    config: GenerationConfig,
    stop: str | None,
) -> _Found | None:
    """Decode rows together; None if there is not enough memory and there are rows to leave out."""
    try:
        with contextlib.suppress(recorded.Apart):  # then nothing of this model is played again
            return _generate(model, tokenizer, rows, shared, config, stop)
        return _generate(model, tokenizer, rows, shared, config, stop)
    except RuntimeError as error:
        if not _out_of_memory(error):
            raise
        if len(rows) == 1:
            needs = memory.generation(model, 1, len(rows[0]) + config.max_new_tokens)
            error.add_note(f"Not even one prompt could be decoded. By our arithmetic {needs}")
            raise
    if torch.cuda.is_available():  # here, where the error no longer holds what was computed
        with contextlib.suppress(RuntimeError):  # of a recording that failed, in torch 2.11
            torch.cuda.empty_cache()
    return None


def _out_of_memory(error: RuntimeError) -> bool:
    """Whether an allocator failed: CUDA's by its type, those of CPUs and Macs by what they say."""
    said = ("DefaultCPUAllocator", "MPS backend out of memory")
    return isinstance(error, torch.cuda.OutOfMemoryError) or any(x in str(error) for x in said)


def settings(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    max_new_tokens: int,
    min_new_tokens: int,
    stop: str | None = None,
) -> GenerationConfig:
    """Return settings for `generate` that are greedy and the model's own in its end tokens only.

    With `min_new_tokens` the stop string's last token is an end token too: like those it is not
    said before there are so many (LongBench's samsum, protocols 5.4).
    """
    own = getattr(model, "generation_config", None)
    eos = getattr(own, "eos_token_id", None)
    eos = tokenizer.eos_token_id if eos is None else eos
    if stop and min_new_tokens:
        ends = [] if eos is None else eos if isinstance(eos, list) else [eos]
        eos = [*ends, tokenizer.encode(stop, add_special_tokens=False)[-1]]
    pad = tokenizer.pad_token_id
    # A padding token that was added has no embedding; what is masked may be any id that has one.
    if pad is None or pad >= model.get_input_embeddings().num_embeddings:
        pad = (eos[0] if isinstance(eos, list) else eos) or 0
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        min_new_tokens=min_new_tokens or None,
        eos_token_id=eos,
        pad_token_id=pad,
        do_sample=False,
        num_beams=1,
        use_cache=True,
    )


@contextlib.contextmanager
def _without_own_settings(model: PreTrainedModel) -> Iterator[None]:
    """Hide the model's generation config, which transformers would merge into ours."""
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


@torch.inference_mode()
def _generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[np.ndarray],
    shared: list[int],
    config: GenerationConfig,
    stop: str | None,
) -> _Found:
    input_ids, mask = _padded(rows, shared, config.pad_token_id)
    width = input_ids.shape[1]
    rule = StopString(tokenizer, width, stop, config.min_new_tokens or 0) if stop else None
    cache = {}
    whole = width + config.max_new_tokens
    with contextlib.ExitStack() as stack:
        stack.enter_context(clex.chosen(model, whole))
        stack.enter_context(_without_own_settings(model))
        if any(shared):
            room = -(-whole // 8) * 8  # what masked attention kernels read at once
            cache["past_key_values"] = read_heads(model, rows, shared, room)
            if recorded.wanted(model) and config.max_new_tokens >= recorded.LEAST:
                stack.enter_context(recorded.played(model, cache["past_key_values"]))
        out = model.generate(
            input_ids.to(model.device),
            attention_mask=mask.to(model.device),
            generation_config=config,
            stopping_criteria=StoppingCriteriaList([rule] if rule else []),
            **cache,
        )
    ended = rule.ended if rule else {}
    tokens = [
        until_end(row[: ended.get(place)], config.eos_token_id)
        for place, row in enumerate(out[:, width:].tolist())
    ]
    texts = decode(tokenizer, tokens)
    return [(cut(text, stop), tuple(row)) for text, row in zip(texts, tokens, strict=True)]


def _padded(
    rows: list[np.ndarray], shared: list[int], pad: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Fill rows up between what is read before and what is not; ids and mask, (rows, width)."""
    width = max(shared) + _tail([len(row) for row in rows], shared)
    ids = np.full((len(rows), width), pad, dtype=np.int64)
    mask = np.zeros((len(rows), width), dtype=np.int64)
    for place, (row, own) in enumerate(zip(rows, shared, strict=True)):
        start = width - (len(row) - own)
        ids[place, :own], ids[place, start:] = row[:own], row[own:]
        mask[place, :own] = mask[place, start:] = 1
    return torch.from_numpy(ids), torch.from_numpy(mask)
