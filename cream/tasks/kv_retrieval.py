"""Key-value retrieval of Lost in the Middle: the value of one key in a JSON object (protocols 5.2).

The official examples are random UUIDs with the gold record moved to five positions; they are read
from the official files, or generated in their form with any number and size of keys. In the style
"chat" the same prompt is the user's turn of the tokenizer's own chat template. The miniature's
have the same prompt with one pseudo-word for a key and one for a value, so that enough fit.
"""

import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from uuid import UUID

import numpy as np
from transformers import PreTrainedTokenizerBase

from cream.data.chat import UserTurn
from cream.data.retrieval.records import answer_text, draw_records, pair_prompt
from cream.tasks.base import Example
from cream.tasks.prompts import (
    checked_lengths,
    counter,
    depth,
    largest_that_fits,
    sample_rng,
    seeded,
)
from cream.utils.jsonl import json_lines

__all__ = [
    "GOLD_OFFICIAL",
    "KEYS_PAPER",
    "LENGTHS_PAPER",
    "STYLES",
    "build_prompt",
    "examples",
    "generate",
    "gold_indices",
    "load_official",
    "move",
    "score",
]

TASK = "kv_retrieval"
LENGTHS_PAPER = (1.2, 2.4)  # 75 and 140 official pairs, in multiples of N = 4,096
KEYS_PAPER = (75, 140)
STYLES = ("official", "chat")  # of the official records; the miniature has its own
# The release generates 50; the benchmark's own code 100, which a sentence around a UUID needs.
NEW_TOKENS = {"official": 50, "chat": 100}
MOST_WORDS = 1_225  # different keys of short words, see retrieval.records
GOLD_OFFICIAL = {75: (0, 18, 37, 54, 74), 140: (0, 34, 69, 104, 139)}


def build_prompt(records: Sequence[tuple[str, str]], key: str) -> str:
    """The official prompt over (key, value) records in their order, asking for `key`."""
    keys = [one for one, _ in records]
    if keys.count(key) != 1:
        raise ValueError(
            f"the key {key!r} must be in the records once, not {keys.count(key)} times"
        )
    return pair_prompt(records, keys.index(key)).prompt


def gold_indices(num_keys: int) -> tuple[int, ...]:
    """Five gold positions: the official ones for 75 and 140 keys, else at every quarter."""
    if num_keys in GOLD_OFFICIAL:
        return GOLD_OFFICIAL[num_keys]
    if num_keys < 5:
        raise ValueError(f"num_keys {num_keys} leaves no five gold positions: use at least 5")
    return tuple(quarter * (num_keys - 1) // 4 for quarter in range(5))


def move(records: Sequence[tuple[str, str]], key: str, gold_index: int) -> list[tuple[str, str]]:
    """Put the record of `key` at `gold_index`; the others keep their order."""
    if not 0 <= gold_index < len(records):
        raise ValueError(f"gold_index {gold_index} must be from 0 to {len(records) - 1}")
    rest = [(one, value) for one, value in records if one != key]
    gold = [(one, value) for one, value in records if one == key]
    return rest[:gold_index] + gold + rest[gold_index:]


def examples(
    tokenizer: PreTrainedTokenizerBase,
    lengths: Sequence[int],
    samples: int,
    seed: int = 0,
    positions: Sequence[int] | None = None,
    spread: bool = False,
    only: Collection[tuple[int, int, int]] | None = None,
) -> list[Example]:
    """Build `samples` examples a gold position and length (tokens), short keys and values.

    All objects of a length have the same number of keys, the most that fit with the answer; each is
    asked at every one of `positions`, by default `gold_indices`. The key asked for is the one that
    stands there: the official data move one record instead, which random records cannot tell apart,
    but so `inference` reads an object once for all its questions. `document` names the object.
    `spread` asks each object once, at every depth alike. `only` names by (length, position, sample)
    which are built, the same as among all (None: all). Deterministic in (seed, length, sample,
    position).
    """
    count = counter(tokenizer)
    found = []
    for length in checked_lengths(lengths, samples):
        num_keys = _num_keys(count, length, seed)
        five = () if spread else positions or gold_indices(num_keys)
        for sample in range(samples):
            asked = five or [int(depth(TASK, seed, length, sample) * num_keys)]
            named = [gold for gold in asked if only is None or (length, gold, sample) in only]
            if named:
                records = _records(count, length, num_keys, seed, sample, asked)
                found += [_example(records, gold, length, sample, seed) for gold in named]
    return found


def _text(records: Sequence[tuple[str, str]], gold: int) -> str:
    return "".join(pair_prompt(records, gold))


def _num_keys(count: Callable[[str], int], length: int, seed: int) -> int:
    """The number of keys with which eight trial prompts all fit; ValueError above `MOST_WORDS`."""
    most = min(1 + length // 4, MOST_WORDS)  # a pair takes more tokens than 4
    trials = []
    for trial in range(8):
        rng = sample_rng(f"{TASK} trial", seed, length, trial)
        records = draw_records("pairs", rng, most)
        trials.append(
            largest_that_fits(
                lambda n, records=records: count(_text(records[:n], 0)),
                length,
                most,
                guess=min(most, length // 12),
                what="pairs",
            )
        )
    if min(trials) == MOST_WORDS:
        raise ValueError(
            f"an object of {length} tokens holds more pairs of short words than the {MOST_WORDS:,} "
            "that can be drawn: ask for shorter ones, or for a number of keys, which are UUIDs"
        )
    return min(trials)


def _records(
    count: Callable[[str], int],
    length: int,
    num_keys: int,
    seed: int,
    sample: int,
    asked: Sequence[int],
) -> list[tuple[str, str]]:
    """Draw an object's records; again, should one of its questions not fit the length."""
    rng = sample_rng(TASK, seed, length, sample)
    while True:
        records = draw_records("pairs", rng, num_keys)
        if max(count(_text(records, gold)) for gold in asked) <= length:
            return records


def _example(
    records: Sequence[tuple[str, str]], gold: int, length: int, sample: int, seed: int
) -> Example:
    prompt, target = pair_prompt(records, gold)
    return Example(
        TASK,
        sample,
        prompt,
        target,
        token_length=length,
        max_new_tokens=16,
        stop="\n\n",
        gold_index=gold,
        depth_percent=100 * gold / max(1, len(records) - 1),
        num_keys=len(records),
        document=f"{length} tokens, object {sample}",
        how={"style": "miniature", **seeded(seed)},
    )


def load_official(
    path: str | Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    positions: Sequence[int] | None = None,
    samples: int | None = None,
    style: str = "official",
) -> list[Example]:
    """Examples of an official kv-retrieval-*_keys.jsonl.gz at its gold positions.

    `token_length` is the prompt's number of tokens, or of characters without a tokenizer. The whole
    file is checked: ValueError with the line for what is damaged or of another kind.
    """
    form, found, name = _PromptStyle(style, tokenizer), [], Path(path).name
    form.how["corpus"] = name
    fields = ("ordered_kv_records", "key", "value")
    for sample, (place, row) in enumerate(json_lines(path, fields)):
        records = _checked(place, row)
        if samples is None or sample < samples:
            document = f"{name} row {sample}"
            found += form.examples(records, row["key"], sample, document, positions)
    return found


def generate(
    num_keys: int | str | Sequence[int],
    samples: int,
    seed: int = 0,
    tokenizer: PreTrainedTokenizerBase | None = None,
    positions: Sequence[int] | None = None,
    digits: int | None = None,
    style: str = "official",
) -> list[Example]:
    """Examples in the form of the official ones over generated objects of `num_keys` records.

    Keys and values are random UUIDs, as the official generator makes them, or so many hexadecimal
    `digits`. The key asked for is random, its record moved to every gold position. Deterministic in
    (seed, number of keys, sample). Several sizes are a sequence, or text as in "75,140".
    """
    form, found = _PromptStyle(style, tokenizer), []
    form.how.update(seeded(seed) | ({} if digits is None else {"digits": digits}))
    for size in checked_lengths(_sizes(num_keys), samples):
        for sample in range(samples):
            rng = sample_rng(f"{TASK} official", seed, size, sample)
            records = _random_records(rng, size, digits)
            key, _ = records[int(rng.integers(size))]
            document = f"{size} generated keys, object {sample}"
            found += form.examples(records, key, sample, document, positions)
    return found


def _sizes(num_keys: int | str | Sequence[int]) -> Sequence[int]:
    if not isinstance(num_keys, str):
        return [num_keys] if isinstance(num_keys, int) else num_keys
    try:
        return [int(part) for part in num_keys.split(",")]
    except ValueError:
        raise ValueError(
            f"num_keys {num_keys!r} must be whole numbers with commas between, as in '75,140'"
        ) from None


class _PromptStyle:
    """How examples of official records are written: the style's wrapper, settings and tokens."""

    def __init__(self, style: str, tokenizer: PreTrainedTokenizerBase | None) -> None:
        if style not in STYLES:
            raise ValueError(f"unknown style {style!r}: use one of {', '.join(STYLES)}")
        if style == "chat" and tokenizer is None:
            raise ValueError("style 'chat' needs the tokenizer, whose chat template it uses")
        turn = UserTurn(tokenizer) if style == "chat" else None
        self.wrap: Callable[[str], str] = turn or str
        self.count: Callable[[str], int] = counter(tokenizer) if tokenizer else len
        self.how = {"style": style, **(turn.settings if turn else {})}
        self.max_new_tokens = NEW_TOKENS[style]

    def examples(
        self,
        records: Sequence[tuple[str, str]],
        key: str,
        sample: int,
        document: str,
        positions: Sequence[int] | None,
    ) -> list[Example]:
        """One example a gold position, the record of `key` moved there."""
        found, value = [], dict(records)[key]
        for gold in positions or gold_indices(len(records)):
            prompt = self.wrap(build_prompt(move(records, key, gold), key))
            one = Example(
                TASK,
                sample,
                prompt,
                answer_text("pairs", value),
                token_length=self.count(prompt),
                max_new_tokens=self.max_new_tokens,
                gold_index=gold,
                depth_percent=100 * gold / max(1, len(records) - 1),
                num_keys=len(records),
                document=document,
                how=self.how,
            )
            found.append(one)
        return found


def _checked(place: str, row: dict[str, object]) -> list[tuple[str, str]]:
    """The records of an official row; ValueError with its place for what cannot be asked."""
    listed, key = row["ordered_kv_records"], row["key"]
    pairs = isinstance(listed, list) and all(
        isinstance(one, list) and [type(each) for each in one] == [str, str] for one in listed
    )
    if not pairs or not listed:
        raise ValueError(f"{place}, has records that are no list of [key, value] strings")
    records = [(one, value) for one, value in listed]
    values = dict(records)
    if len(values) < len(records):
        raise ValueError(f"{place}, has {len(records) - len(values)} keys twice: ask unique keys")
    if key not in values:
        raise ValueError(f"{place}, asks for the key {key!r}, which is not among its records")
    if values[key] != row["value"]:
        raise ValueError(f"{place}, has the value {row['value']!r} for a key that has another")
    return records


def _random_records(
    rng: np.random.Generator, count: int, digits: int | None
) -> list[tuple[str, str]]:
    """Records of different random strings; ValueError where so few digits give too few."""
    if digits is not None and (digits < 1 or 16**digits < 4 * count):
        raise ValueError(
            f"digits {digits} give too few keys and values for {count} records: use more digits"
        )
    drawn: dict[str, None] = {}
    while len(drawn) < 2 * count:
        text = str(UUID(bytes=rng.bytes(16), version=4)) if digits is None else ""
        drawn[text or rng.bytes(digits // 2 + 1).hex()[:digits]] = None
    texts = list(drawn)
    return list(zip(texts[::2], texts[1::2], strict=True))


def score(prediction: str, example: Example) -> dict[str, float]:
    """Score an answer: `contained` officially (the value is anywhere in it), `score` exactly.

    Exact: up to the first empty line the answer is the value, quoted or not, and nothing else, and
    no other value follows; so an answer that lists values does not score, wherever the right one
    stands in the list. A chat model may say it in a sentence: exact is then that the answer names
    the value and no other string of the object but the key asked for.
    """
    value = example.target.strip().strip('"')
    contained = value.lower() in prediction.lower()
    if example.how.get("style") == "chat":
        exact = _alone(prediction, example, value)
        return {"score": float(exact), "contained": float(contained)}
    first, *more = re.split(r"\n\s*\n", prediction.strip(), maxsplit=1)
    listed = bool(more) and more[0].lstrip().startswith('"')
    exact = first.rstrip(".} ").strip('"') == value and not listed
    return {"score": float(exact), "contained": float(contained)}


def _alone(prediction: str, example: Example, value: str) -> bool:
    """Whether the prediction has the value, and no other key or value but the key asked for."""
    said = set(re.findall(r"[\w-]+", prediction.lower()))
    records = re.findall(r'"([^"\n]+)": "([^"\n]+)"', example.prompt)
    others = {one.lower() for record in records for one in record}
    asked = re.findall(r'Key: "(.+)"', example.prompt)[-1]
    return value.lower() in said and not said & (others - {asked.lower(), value.lower()})
