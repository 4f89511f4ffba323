"""What a row is: its columns and types, its key, and the lines of a file that holds rows.

`results` writes and reads by this; nothing else should need it but through `results`.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping
from pathlib import Path

from cream.utils import jsonl
from cream.utils.provenance import hash_of

__all__ = ["COLUMNS", "SCHEMA", "checked", "foreign", "parse", "row_key", "whole_lines"]

SCHEMA = "cream-rows-1"
OPENING = json.dumps({"schema": SCHEMA})[:-1].encode()

COLUMNS = {
    # What was asked of whom. `run` is one training, `base` the model it started from.
    "schema": "string",
    "key": "string",
    "run": "string",
    "model_hash": "string",
    "base": "string",
    "preset": "string",
    "method": "string",
    "scaling": "string",
    "scale": "Int64",
    "window": "Int64",
    "seed": "Int64",
    "task": "string",
    "token_length": "Int64",
    "num_tokens": "Int64",
    "gold_index": "Int64",
    "depth_percent": "Float64",
    "num_keys": "Int64",
    "sample": "Int64",
    "document": "string",
    "prompt_hash": "string",
    "settings": "string",
    # What came of it. `nll` is a sum over `scored_tokens`, in nats; a judge says 1 to 10.
    "prediction": "string",
    "target": "string",
    "score": "Float64",
    "contained": "Float64",
    "rouge_l": "Float64",
    "judged": "Float64",
    "nll": "Float64",
    "scored_tokens": "Int64",
    "tokens_trained": "Int64",
    # Where and when.
    "tokens_per_second": "Float64",
    "peak_gib": "Float64",
    "card": "string",
    "versions": "string",
    "commit": "string",
    "date": "string",
}


def row_key(
    model_hash: str, task: str, prompt_hash: str, sample: int, settings: str | Mapping
) -> str:
    """Return a row's key: it changes with the weights, the prompt, the sample and the settings."""
    return hash_of(model_hash, task, prompt_hash, int(sample), _text(settings))


def checked(row: Mapping[str, object]) -> dict[str, object]:
    """The row with every value of its column's type; ValueError names what does not fit."""
    if unknown := [name for name in row if name not in COLUMNS]:
        near = difflib.get_close_matches(unknown[0], COLUMNS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(COLUMNS)}"
        raise ValueError(f"rows have no column {unknown[0]!r}; {hint}")
    return {name: _cell(name, value) for name, value in row.items()}


def _cell(name: str, value: object) -> object:
    kind = COLUMNS[name]
    if value is None:
        return None
    if kind == "string":
        return _text(value)
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} is {value!r}; it must be a number") from None
    if not math.isfinite(number):
        raise ValueError(f"{name} is {number}; rows hold finite numbers. Look at the model's dtype")
    if kind == "Float64":
        return number
    if number != int(number):
        raise ValueError(f"{name} is {value!r}; it must be a whole number")
    return int(number)


def _text(value: object) -> str:
    """A dict as JSON with sorted keys, so that equal settings have equal keys."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text.encode("utf-8", "replace").decode()


def whole_lines(path: Path) -> tuple[list[bytes], bytes]:
    """The whole lines of a file of rows and what is torn behind them; ValueError for a foreign one.

    Only the beginning of a row may be dropped: this could be somebody's file without a newline.
    """
    lines, torn = jsonl.whole_lines(path)
    if not (torn.startswith(OPENING) or OPENING.startswith(torn)):
        raise ValueError(foreign(path, None))
    return lines, torn


def parse(path: Path, lines: list[bytes]) -> list[dict]:
    """The rows in `lines`; ValueError names the first line that is not a row of this schema."""
    rows = []
    for number, row in jsonl.objects_of(lines, path, "delete that line to have it evaluated again"):
        schema = row.get("schema") if isinstance(row, dict) else None
        if schema != SCHEMA:
            raise ValueError(foreign(path, schema, f"line {number} "))
        rows.append(row)
    return rows


def foreign(path: Path, schema: object, where: str = "") -> str:
    """What to say about a file that holds something else."""
    has = f"has schema {schema!r}" if schema else "holds no rows (no schema)"
    return f"{path}: {where}{has} and this code reads {SCHEMA!r}; move it away or name another file"
