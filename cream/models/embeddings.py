"""Whether a model has an embedding for every id that its tokenizer gives text.

What belongs here: which tokens text never gives, and the refusal of those that it may and the
model lacks.
"""

from transformers import PreTrainedTokenizerBase

__all__ = ["check_embedded", "never_in_text"]

SHOWN = 3


def never_in_text(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return special tokens that no text is cut into: not BOS, EOS, UNK, and in no chat template.

    Such as padding that was added, whose ids are masked wherever they stand.
    """
    ends = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token}
    template = str(tokenizer.chat_template or "")
    return sorted(
        token.content
        for token in tokenizer.added_tokens_decoder.values()
        if token.special and token.content not in ends and token.content not in template
    )


def check_embedded(tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
    """Refuse (ValueError) a tokenizer that may give text an id that `rows` embeddings lack.

    Ids that text never gives are harmless. The message names the tokens and the cure.
    """
    beyond = {token: id for token, id in tokenizer.get_vocab().items() if id >= rows}
    lacking = sorted(set(beyond) - set(never_in_text(tokenizer)), key=beyond.__getitem__)
    if lacking:
        named = ", ".join(f"{token!r} (id {beyond[token]})" for token in lacking[:SHOWN])
        more = f" and {len(lacking) - SHOWN} more" if len(lacking) > SHOWN else ""
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} tokens and the model {rows} embeddings: text may "
            f"give {named}{more}, which the model lacks. Load both from the same place, or give "
            f"the model the rows first (model.resize_token_embeddings({len(tokenizer)}), save it)"
        )
