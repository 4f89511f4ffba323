"""Answers as they are generated: greedy, one at a time, the key-value cache kept between turns.

What belongs here: reading a prompt in parts, generating in a thread so that an answer can be shown
and stopped, and knowing what of the next prompt has been read already. What is asked, and whether
it fits L, is `conversation`'s.
"""

import copy
import dataclasses
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from transformers import (
    DynamicCache,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
    TextIteratorStreamer,
)

from cream.inference import generation, memory
from cream.inference.kv_cache import keeps_all
from cream.rope import clex

__all__ = ["Answers", "Reading", "keeps_positions"]

# Tokens of a prompt read in one forward: at 256K a mask for 2,048 takes half a GiB; a CPU is to
# say every few seconds how far it is.
AT_ONCE = {"cpu": 256, "cuda": 2_048}
# Rotations that are the same at every length: keys that were cached stay right.
_FIXED = {"default", "linear", "yarn", "llama3"}


class Reading(NamedTuple):
    """How far a prompt has been read: tokens of the prompt, and how many it has."""

    done: int
    tokens: int


class _Either(NamedTuple):
    """Set when one of two events is."""

    first: threading.Event
    second: threading.Event

    def is_set(self) -> bool:
        return self.first.is_set() or self.second.is_set()


class _Stopped(StoppingCriteria):
    def __init__(self, stop: _Either) -> None:
        self.stop = stop

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return torch.full((len(input_ids),), self.stop.is_set(), device=input_ids.device)


class _Interrupted(Exception):
    """The answer was stopped while its prompt was read."""


def keeps_positions(model: PreTrainedModel) -> bool:
    """Whether a cached key stays right as the text grows: all kept, and rotated by fixed angles.

    Not so for sliding windows, and for RoPE that changes with the length (dynamic, longrope whose
    factors differ): there every turn is read anew.
    """
    kinds: set[str] = set()
    for module in model.modules():
        kind = getattr(module, "rope_type", None)
        if kind is not None:
            kinds |= set(kind.values()) if isinstance(kind, dict) else {kind}
    return bool(kinds) and kinds <= _FIXED and keeps_all(model)


class Answers:
    """Generates a model's answers; one at a time, whoever asks."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.keeps = keeps_positions(model)
        self.at_once = AT_ONCE.get(model.device.type, AT_ONCE["cpu"])
        self._config = generation.settings(model, tokenizer, 1, 0)
        self._config.eos_token_id = self._ends()
        # transformers would merge the model's own settings (sampling, for one) into ours.
        self.model.generation_config = GenerationConfig()
        self._cache: DynamicCache | None = None
        self._read: list[int] = []  # the tokens whose keys and values the cache holds
        self._one = threading.Lock()

    def _ends(self) -> list[int] | None:
        """End tokens: the model's, and what the tokenizer's chat template ends a turn with."""
        known = self._config.eos_token_id
        known = known if isinstance(known, list) else [known]
        ends = {one for one in (*known, self.tokenizer.eos_token_id) if one is not None}
        return sorted(ends) or None

    def check_memory(self, tokens: int) -> None:
        """Raise MemoryError, with the arithmetic, if `tokens` tokens do not fit into memory."""
        room = memory.footprint(self.model)
        needs = room.needs(1, tokens)
        if self.keeps:  # it is read in parts, and only a part's activations are held
            part = room.needs(1, min(tokens, self.at_once)).activations
            mask = self.at_once * tokens * (1 + room.size)
            needs = dataclasses.replace(needs, activations=part + mask)
        if self._cache is not None and needs.available is not None:
            held = sum(_bytes(layer) for layer in self._cache.layers)
            needs = dataclasses.replace(needs, available=needs.available + held)
        if not needs.fits:
            raise MemoryError(f"this does not fit: {needs}; ask a shorter text")

    def stream(
        self, ids: Sequence[int], max_new_tokens: int, stop: threading.Event | None = None
    ) -> Iterator[str | Reading]:
        """Yield how far the prompt is read, then the answer's text, piece by piece.

        Setting `stop`, or closing the iterator, ends the answer at its next token.
        """
        closed = threading.Event()  # ours: whoever gave `stop` may still want to know who set it
        ended = _Either(stop or closed, closed)
        pieces = TextIteratorStreamer(
            self.tokenizer,
            skip_prompt=True,
            skip_special_tokens=True,
            clean_up_tokenization_spaces=False,
        )
        failed: list[BaseException] = []
        work = (list(ids), max_new_tokens, pieces, ended, failed)
        thread = threading.Thread(target=self._work, args=work, daemon=True)
        thread.start()
        try:
            yield Reading(0, len(ids))
            yield from (piece for piece in pieces if piece)
        finally:
            closed.set()
            thread.join()
        if failed:
            raise failed[0]

    def forget(self) -> None:
        """Give back what the cache holds."""
        self._cache, self._read = None, []

    def _work(
        self,
        ids: list[int],
        max_new_tokens: int,
        pieces: TextIteratorStreamer,
        stop: _Either,
        failed: list[BaseException],
    ) -> None:
        """Generate one answer into `pieces`; what goes wrong, into `failed`."""
        tokens = len(ids) + max_new_tokens  # a CLEX model is read at the t of all of them
        with self._one, torch.inference_mode(), clex.chosen(self.model, tokens):
            try:
                self._generate(ids, max_new_tokens, pieces, stop)
            except _Interrupted:
                pass
            except BaseException as error:  # raised again where the answer is waited for
                self.forget()
                failed.append(error)
            finally:
                pieces.text_queue.put(pieces.stop_signal)

    def _generate(
        self,
        ids: list[int],
        max_new_tokens: int,
        pieces: TextIteratorStreamer,
        stop: _Either,
    ) -> None:
        config = copy.copy(self._config)
        config.max_new_tokens = max_new_tokens
        tokens = torch.tensor([ids], device=self.model.device)
        kept = {"past_key_values": self._prefilled(ids, tokens, pieces, stop)} if self.keeps else {}
        out = self.model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            generation_config=config,
            streamer=pieces,
            stopping_criteria=StoppingCriteriaList([_Stopped(stop)]),
            **kept,
        )
        if self._cache is not None:
            self._read = out[0].tolist()[: self._cache.get_seq_length()]

    def _prefilled(
        self,
        ids: list[int],
        tokens: torch.Tensor,
        pieces: TextIteratorStreamer,
        stop: _Either,
    ) -> DynamicCache:
        """Read all tokens but the last into the cache, from where they differ from the last turn's.

        Positions and the causal mask follow from what the cache holds; nothing is padded.
        """
        done = _common(self._read, ids[:-1])
        if self._cache is None or not done:
            self._cache = DynamicCache(config=self.model.config)
        elif surplus := self._cache.get_seq_length() - done:
            self._cache.crop(-surplus)
        self._read = ids[:done]
        while done < len(ids) - 1:
            part = tokens[:, done : min(done + self.at_once, len(ids) - 1)]
            self.model.base_model(input_ids=part, past_key_values=self._cache, use_cache=True)
            done += part.shape[1]
            self._read = ids[:done]
            pieces.text_queue.put(Reading(done, len(ids)))
            if stop.is_set():
                raise _Interrupted
        return self._cache


def _common(read: Sequence[int], ids: Sequence[int]) -> int:
    """How many tokens two sequences begin with in common."""
    for place, (one, other) in enumerate(zip(read, ids, strict=False)):
        if one != other:
            return place
    return min(len(read), len(ids))


def _bytes(layer: Any) -> int:
    held = (getattr(layer, "keys", None), getattr(layer, "values", None))
    return sum(one.numel() * one.element_size() for one in held if one is not None)
