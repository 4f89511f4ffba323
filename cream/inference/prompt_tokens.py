"""From a prompt's text to the ids that a model reads: the one place where this is done.

What a tokenizer puts before a text (BOS) is kept. What it appends (EOS, [SEP]) is dropped: a prompt
goes on, and behind an end token a model answers as if to nothing.
"""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

__all__ = ["appended", "num_prompt_tokens", "prompt_ids", "prompts_ids"]

_PROBES = ("a", "1 b")


def prompt_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the ids of one prompt; see `prompts_ids`."""
    return prompts_ids(tokenizer, [text])[0]


def prompts_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Return the ids of prompts, with what the tokenizer puts before a text and not after it.

    A prompt that begins with BOS itself has one BOS, not two. An end token that a prompt itself
    spells out stays. ValueError for a tokenizer whose ending changes with the text.
    """
    if not texts:
        return []
    rows = tokenizer(list(texts), add_special_tokens=True, verbose=False)["input_ids"]
    rows = [_own_bos(tokenizer, row) for row in rows]
    ending = appended(tokenizer)
    if not ending:
        return rows
    for row in rows:
        if row[-len(ending) :] != ending:
            raise _unclear(tokenizer)
    return [row[: -len(ending)] for row in rows]


def _own_bos(tokenizer: PreTrainedTokenizerBase, row: list[int]) -> list[int]:
    """Without BOS that the text spells out, where the tokenizer has put its own before them."""
    bos = getattr(tokenizer, "bos_token_id", None)
    if bos is None or row[:2] != [bos, bos]:
        return row
    own = _leading(tokenizer("a", add_special_tokens=True)["input_ids"], bos)
    return row[_leading(row, bos) - own :] if own else row


def _leading(row: Sequence[int], bos: int) -> int:
    return next((place for place, token in enumerate(row) if token != bos), len(row))


def num_prompt_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    """Return how many tokens a prompt has, special tokens before it included."""
    return len(prompt_ids(tokenizer, text))


def appended(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids that the tokenizer puts behind every text; usually none.

    ValueError for a tokenizer for which that is unknown: it changes text where it adds tokens.
    """
    endings = [_ending(tokenizer, probe) for probe in _PROBES]
    if endings[0] != endings[1]:
        raise _unclear(tokenizer)
    return endings[0]


def _ending(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    bare = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    whole = list(tokenizer(text, add_special_tokens=True)["input_ids"])
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return whole[start + len(bare) :]
    raise _unclear(tokenizer)


def _unclear(tokenizer: PreTrainedTokenizerBase) -> ValueError:
    name = tokenizer.name_or_path or type(tokenizer).__name__
    return ValueError(
        f"the tokenizer {name} changes a text's own tokens where it adds special tokens, so that "
        "the end of a prompt is unknown: remove the ending from its post-processor "
        "(tokenizer.json), or set add_eos_token to false"
    )
