"""From text to token ids: batches cut in parallel, BOS by one policy, long texts in pieces.

What belongs here: everything between a document's text and the array that is stored.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from transformers import BatchEncoding, PreTrainedTokenizerBase

__all__ = ["adds_bos", "count_tokens", "encoded", "pieces"]

BATCH_CHARACTERS = 2_000_000  # of text cut in one parallel call


def adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer itself puts BOS before a text, as the model was then trained."""
    ids = tokenizer("a", add_special_tokens=True)["input_ids"]
    return tokenizer.bos_token_id is not None and list(ids[:1]) == [tokenizer.bos_token_id]


def encoded(
    documents: Iterable[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase, bos: bool
) -> Iterator[dict[str, Any]]:
    """Yield the documents with ``tokens`` (int64) in place of text, in the same order.

    Special tokens spelt out in text are cut as text, so that a document about ``</s>`` does not
    end there; in documents of kind "chat" they are the template's and stay special. With ``bos``,
    BOS comes first once, unless a chat's template has put it there. ``input_ids`` are kept as
    they are, and marked ``given``. ValueError names a document whose answer has no token.
    """
    for batch in _batches(documents):
        cut = _cut(batch, tokenizer, bos)
        for document, (tokens, answers) in zip(batch, cut, strict=True):
            rest = {k: v for k, v in document.items() if k not in ("text", "input_ids")}
            found = {"tokens": np.asarray(tokens, dtype=np.int64), "answers": answers}
            yield {**rest, "given": "input_ids" in document, **found}


def _batches(documents: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    batch: list[Mapping[str, Any]] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document["input_ids" if "input_ids" in document else "text"])
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _cut(
    batch: Sequence[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase, bos: bool
) -> list[tuple[Sequence[int], list[tuple[int, int]]]]:
    """Cut a batch: ids of each document, and its answers from characters to token places."""
    done: list[tuple[Sequence[int], list]] = [(each.get("input_ids", ()), []) for each in batch]
    for chat in (False, True):
        chosen = [
            place
            for place, each in enumerate(batch)
            if "input_ids" not in each and (each["kind"] == "chat") == chat
        ]
        if not chosen:
            continue
        found = tokenizer(
            [batch[place]["text"] for place in chosen],
            add_special_tokens=False, split_special_tokens=not chat,
            return_attention_mask=False, verbose=False,
        )  # fmt: skip
        for row, (place, tokens) in enumerate(zip(chosen, found["input_ids"], strict=True)):
            full = _with_bos(tokens, tokenizer.bos_token_id) if bos else tokens
            shift = len(full) - len(tokens)
            answers, name = batch[place].get("answers", ()), batch[place].get("name")
            spans = [_span(found, row, *each, f"document {name}") for each in answers]
            done[place] = full, [(first + shift, end + shift) for first, end in spans]
    return done


def _span(found: BatchEncoding, row: int, start: int, end: int, place: str) -> tuple[int, int]:
    """The tokens from the first to the last that hold a character of the answer.

    A tokenizer that trims offsets says of a space that no token holds it.
    """
    tokens = (found.char_to_token(row, character) for character in range(start, end))
    held = [token for token in tokens if token is not None]
    if not held:
        raise ValueError(
            f"{place}: the tokenizer gives its answer (characters {start} to {end}) no token, so "
            "it cannot be learned alone: choose another tokenizer, or set answers_only to 0"
        )
    return held[0], held[-1] + 1


def _with_bos(tokens: list[int], bos: int) -> list[int]:
    return tokens if tokens[:1] == [bos] else [bos, *tokens]


def pieces(
    documents: Iterable[dict[str, Any]], piece_tokens: int | None, prefix: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """Cut long training texts into equal pieces of at least ``piece_tokens`` tokens.

    Each piece begins with ``prefix`` (BOS), counted in its length. Other splits, generated
    documents, chats and given ids stay whole.
    """
    for document in documents:
        tokens = document["tokens"]
        whole = document["given"] or document["split"] != "train" or document["kind"] != "text"
        if piece_tokens is None or whole or len(tokens) < 2 * piece_tokens:
            yield document
            continue
        body = tokens[len(prefix) :]
        parts = np.array_split(body, len(body) // (piece_tokens - len(prefix)))
        for number, part in enumerate(parts):
            start = np.asarray(prefix, dtype=np.int64)
            name = f"{document['name']} #{number}"
            yield {**document, "name": name, "tokens": np.concatenate([start, part])}


def count_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    """Return the tokens of a text without BOS, special tokens in it cut as text."""
    cut = tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)
    return len(cut["input_ids"])
