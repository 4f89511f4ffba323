"""Key-value retrieval of Lost in the Middle: the value of one key in a JSON object (protocols 5.2).

The official examples are random UUIDs with the gold record moved to five positions. The miniature's
have the same prompt with one pseudo-word for a key and one for a value, so that enough fit.
"""

import gzip
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from cream.retrieval import answer_text, draw_records, pair_prompt
from cream.tasks import Example
from cream.tasks.building import checked_lengths, counter, depth, largest_that_fits, sample_rng

__all__ = [
    "GOLD_OFFICIAL",
    "LENGTHS_PAPER",
    "build_prompt",
    "examples",
    "gold_indices",
    "load_official",
    "move",
    "score",
]

TASK = "kv_retrieval"
LENGTHS_PAPER = (1.2, 2.4)  # 75 and 140 official pairs, in multiples of N = 4,096
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
) -> list[Example]:
    """Build `samples` examples a gold position and length (tokens), short keys and values.

    All objects of a length have the same number of keys, the most that fit with the answer; each is
    asked at every one of `positions`, by default `gold_indices`. The key asked for is the one that
    stands there: the official data move one record instead, which random records cannot tell apart,
    but so `inference` reads an object once for all its questions. `document` names the object.
    `spread` asks each object once, at every depth alike. Deterministic in (seed, length, sample,
    position).
    """
    count = counter(tokenizer)
    found = []
    for length in checked_lengths(lengths, samples):
        num_keys = _num_keys(count, length, seed)
        five = () if spread else positions or gold_indices(num_keys)
        for sample in range(samples):
            asked = five or [int(depth(TASK, seed, length, sample) * num_keys)]
            records = _records(count, length, num_keys, seed, sample, asked)
            found += [_example(records, gold, length, sample) for gold in asked]
    return found


def _text(records: Sequence[tuple[str, str]], gold: int) -> str:
    return "".join(pair_prompt(records, gold))


def _num_keys(count: Callable[[str], int], length: int, seed: int) -> int:
    """The number of keys with which eight trial prompts all fit."""
    trials = []
    for trial in range(8):
        rng = sample_rng(f"{TASK} trial", seed, length, trial)
        records = draw_records("pairs", rng, 1 + length // 4)  # a pair takes more tokens than 4
        trials.append(
            largest_that_fits(
                lambda n, records=records: count(_text(records[:n], 0)),
                length,
                len(records),
                guess=length // 12,
                what="pairs",
            )
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


def _example(records: Sequence[tuple[str, str]], gold: int, length: int, sample: int) -> Example:
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
        how={"style": "miniature"},
    )


def load_official(
    path: str | Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    positions: Sequence[int] | None = None,
    samples: int | None = None,
    max_new_tokens: int = 50,
) -> list[Example]:
    """Examples of an official kv-retrieval-*_keys.jsonl.gz at its gold positions.

    `token_length` is the prompt's number of tokens, or of characters without a tokenizer.
    """
    with gzip.open(path, "rt") as file:
        rows = [json.loads(line) for line in file]
    found = []
    for sample, row in enumerate(rows[:samples]):
        if absent := {"ordered_kv_records", "key", "value"} - set(row):
            raise ValueError(f"row {sample} of {path} has no {', '.join(sorted(absent))}")
        records = [tuple(record) for record in row["ordered_kv_records"]]
        for gold in positions or gold_indices(len(records)):
            prompt = build_prompt(move(records, row["key"], gold), row["key"])
            length = len(prompt) if tokenizer is None else counter(tokenizer)(prompt)
            found.append(
                Example(
                    TASK,
                    sample,
                    prompt,
                    answer_text("pairs", row["value"]),
                    token_length=length,
                    max_new_tokens=max_new_tokens,
                    gold_index=gold,
                    depth_percent=100 * gold / (len(records) - 1),
                    num_keys=len(records),
                    document=f"{Path(path).name} row {sample}",
                    how={"style": "official"},
                )
            )
    return found


def score(prediction: str, example: Example) -> dict[str, float]:
    """Score an answer: `contained` officially (the value is anywhere in it), `score` exactly.

    Exact: up to the first empty line the answer is the value, quoted or not, and nothing else, and
    no other value follows; so an answer that lists values does not score, wherever the right one
    stands in the list.
    """
    value = example.target.strip().strip('"')
    contained = value.lower() in prediction.lower()
    first, *more = re.split(r"\n\s*\n", prediction.strip(), maxsplit=1)
    listed = bool(more) and more[0].lstrip().startswith('"')
    exact = first.rstrip(".} ").strip('"') == value and not listed
    return {"score": float(exact), "contained": float(contained)}
