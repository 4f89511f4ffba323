"""Where the text of a row stands: the splits, columns and cells of others' data, mapped or refused.

What belongs here: from a row of JSON or of a saved data set to a document's text or ids. Whatever
is refused is refused before the first document is read, if its schema shows it, else by row.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import datasets
import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from cream.data.chat import ChatTemplate, Dropped
from cream.data.writer import SPLITS

__all__ = [
    "CONVERSATIONS",
    "SYSTEM",
    "Part",
    "check_template",
    "content",
    "fields_read",
    "ids_of",
    "parts_of",
    "split_of",
    "unpadded",
]

CONVERSATIONS = ("conversations", "messages", "conversation")
SYSTEM = ("system", "system_prompt")  # beside the turns
ALIASES = {
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "dev": "validation",
    "eval": "validation",
    "evaluation": "validation",
    "testing": "test",
}
MASK = "attention_mask"
# What instruction data (Alpaca, question and answer) call the two halves of a conversation.
ASKED = ("instruction", "prompt", "question", "query", "input")
ANSWERED = ("output", "completion", "response", "answer", "chosen")


def split_of(name: str) -> str | None:
    """Return the split that a name stands for ("dev" is validation), None for a foreign one."""
    lower = name.lower()
    return lower if lower in SPLITS else ALIASES.get(lower)


def fields_read(field: str | None) -> tuple[str, ...]:
    """Return the fields of a record that may be read when `field` is asked for (None: usual)."""
    return tuple(dict.fromkeys((field or "text", *CONVERSATIONS, *SYSTEM, "id")))


def content(
    row: Mapping[str, Any], place: str, field: str | None, chat: ChatTemplate | None
) -> dict[str, Any]:
    """Return a row's ``kind`` and ``text``; with ``dropped``, the reason, where it has none.

    `field` None is the first of "text" and `CONVERSATIONS` that is not null. ValueError names the
    place, the column and the value of what is no text and no conversation.
    """
    name = _field(row, place, field)
    value = row[name]
    if isinstance(value, str) and name not in CONVERSATIONS:
        return {"kind": "text", "text": value}
    turns = isinstance(value, list) and all(isinstance(each, Mapping) for each in value)
    if name not in CONVERSATIONS and not turns:
        what = "is null" if value is None else f"holds a {type(value).__name__}, which is no text"
        raise ValueError(f"{place}, column {name!r} {what}: mend or remove the row")
    check_template(place, name, chat)
    return {"kind": "chat", **_rendered(row, name, place, chat)}


def check_template(place: str, name: str, chat: ChatTemplate | None) -> None:
    """Refuse (ValueError) conversations where no template is given, naming the way that has one."""
    if chat is None:
        raise ValueError(
            f"{place} holds conversations in {name!r}, which need a chat template: make a corpus "
            "of them with 01_data (-p source, -p chat_template, -p split test, -p share 0.0, -p "
            "out) and give that folder as corpus instead of source"
        )


def _rendered(
    row: Mapping[str, Any], name: str, place: str, chat: ChatTemplate | None
) -> dict[str, str]:
    assert chat is not None
    system = next((row[key] for key in SYSTEM if row.get(key) is not None), None)
    try:
        return {"text": chat.render(row[name], f"{place}, column {name!r}", system)}
    except Dropped as why:
        return {"text": "", "dropped": str(why)}


def _field(row: Mapping[str, Any], place: str, field: str | None) -> str:
    if field is not None and field in row:
        return field
    usual = [name for name in ("text", *CONVERSATIONS) if name in row] if field is None else []
    if usual:
        return next((name for name in usual if row[name] is not None), usual[0])
    raise ValueError(
        f"{place} has no text in field {field or 'text'!r}; its fields are "
        f"{', '.join(map(str, row))}: {_advice(row)}"
    )


def _advice(names: Iterable[str]) -> str:
    """What to do about a row without text: name its field, or write its two halves as turns."""
    asked = next((name for name in ASKED if name in names), None)
    answered = next((name for name in ANSWERED if name in names), None)
    if not (asked and answered):
        return "name the right one with field"
    return (
        f"{asked} and {answered} are two halves of a conversation, so write each row as "
        f'{{"messages": [{{"role": "user", "content": {asked}}}, {{"role": "assistant", '
        f'"content": {answered}}}]}}, or name the field of one text with field'
    )


class Part(NamedTuple):
    """A split of a saved data set: its own name, ours, its rows, and the column that is read."""

    name: str
    split: str
    rows: datasets.Dataset
    column: str
    kind: str  # of the column: "ids", "text" or "turns"


def parts_of(
    name: str, saved: datasets.Dataset | datasets.DatasetDict, field: str | None, split: str
) -> list[Part]:
    """Return the splits of a data set with their columns; ValueError for what is not mapped.

    `field` None is input_ids where they are, else the usual text or conversations.
    """
    many = isinstance(saved, datasets.DatasetDict)
    if many and (foreign := [part for part in saved if split_of(part) is None]):
        raise ValueError(
            f"{name} has splits {', '.join(saved)}; expected are {', '.join(SPLITS)}, and "
            f"{', '.join(ALIASES)} in their places: rename or remove {', '.join(foreign)} (it is "
            "a dict of datasets) and save it again"
        )
    given = {part: (split_of(part), rows) for part, rows in saved.items()} if many else {
        split: (split, saved)
    }  # fmt: skip
    if not any(len(rows) for _, rows in given.values()):
        raise ValueError(f"{name} holds no rows: was it filtered to nothing before it was saved?")
    return [
        Part(part, target, rows, *_column(f"{name}, {part}" if many else name, rows, field))
        for part, (target, rows) in given.items() if len(rows)
    ]  # fmt: skip


def _column(place: str, rows: datasets.Dataset, field: str | None) -> tuple[str, str]:
    names = rows.column_names
    usual = ("input_ids", "text", *CONVERSATIONS)
    found = next((each for each in ((field,) if field else usual) if each in names), None)
    if found is None:
        missing = f"no {field!r}" if field else "neither input_ids nor 'text'"
        raise ValueError(f"{place} has columns {', '.join(names)}: {missing}; {_advice(names)}")
    stored = rows.data.schema.field(found).type
    if (kind := _kind(stored)) is None:
        raise ValueError(
            f"{place}, column {found!r} is {stored}, no text, token ids or list of turns: name "
            f"another with field, of {', '.join(names)}"
        )
    if found in CONVERSATIONS and kind == "ids":
        raise ValueError(f"{place}, column {found!r} is {stored}, no list of turns")
    return found, kind


def _kind(stored: pa.DataType) -> str | None:
    types = pa.types
    if types.is_string(stored) or types.is_large_string(stored):
        return "text"
    if not (types.is_list(stored) or types.is_large_list(stored)
            or types.is_fixed_size_list(stored)):  # fmt: skip
        return None
    inner = stored.value_type
    return "ids" if types.is_integer(inner) else "turns" if types.is_struct(inner) else None


def ids_of(name: str, part: Part) -> Iterator[tuple[np.ndarray, int]]:
    """Yield (token ids without padding, tokens of padding) of each row of a part of kind "ids".

    Padding is where `attention_mask` is 0. ValueError names the row and column of a null, of a mask
    that does not fit, and of one with a hole inside.
    """
    columns = [part.column, *([MASK] if MASK in part.rows.column_names else [])]
    for number, row in enumerate(part.rows.select_columns(columns).with_format("numpy")):
        place = f"{name}, row {number}"
        ids = _whole(row[part.column], f"{place}, column {part.column!r}")
        shown = ids
        if MASK in row:
            shown = ids[_kept(_whole(row[MASK], f"{place}, column {MASK!r}"), len(ids), place)]
        yield shown, len(ids) - len(shown)


def _whole(cell: Any, place: str) -> np.ndarray:
    if cell is None:
        raise ValueError(f"{place} is null: remove the row or give its ids")
    cell = np.asarray(cell)
    if cell.size and cell.dtype.kind not in "iu":
        raise ValueError(f"{place} holds null or what is no whole number: remove the row")
    return cell.astype(np.int64)


def _kept(mask: np.ndarray, length: int, place: str) -> slice:
    """The ids that a mask shows: one run of 1s."""
    shown = np.flatnonzero(mask)
    if len(mask) != length or not set(np.unique(mask)) <= {0, 1}:
        raise ValueError(
            f"{place}, column {MASK!r} has {len(mask)} entries for {length} ids, or others than 0 "
            "and 1: remove the column or make it fit"
        )
    start, end = (int(shown[0]), int(shown[-1]) + 1) if len(shown) else (0, 0)
    if end - start != len(shown):
        raise ValueError(
            f"{place}, column {MASK!r} is 0 inside the text, not only before or after it: such "
            "rows are no whole documents; remove the column to have all ids read"
        )
    return slice(start, end)


def unpadded(
    documents: Iterable[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase
) -> Iterator[dict[str, Any]]:
    """Yield documents, given ids without runs of the tokenizer's padding at either end.

    What is cut is counted in ``padding``. Of padding that is also EOS or BOS one is kept.
    """
    pad = tokenizer.pad_token_id
    kept = int(pad in (tokenizer.eos_token_id, tokenizer.bos_token_id))
    for document in documents:
        if pad is None or "input_ids" not in document:
            yield dict(document)
            continue
        ids = np.asarray(document["input_ids"], dtype=np.int64)
        other = np.flatnonzero(ids != pad)
        first, last = (int(other[0]), int(other[-1]) + 1) if len(other) else (0, 0)
        shown = ids[max(0, first - kept) : last + kept]
        cut = document.get("padding", 0) + len(ids) - len(shown)
        yield {**document, "input_ids": shown, "padding": cut}
