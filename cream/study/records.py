"""The grid's records on disk: a JSON line a run while it goes, a Parquet row an answer afterwards.

A line is written when its run is done, at once and flushed; a torn last line, of a process that
was killed, is cut off. What belongs here: writing, reading and unfolding; what a run is is
`design`'s, what it means is `analysis.contrasts`'.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerBase

from cream.results.store import LineFile, stored_schema, write_parquet
from cream.study.scoring import Questions
from cream.utils.jsonl import objects_of, whole_lines

__all__ = ["SCHEMA", "RunLog", "find_grid", "read", "records", "unfold", "write"]

SCHEMA = "cream-grid-1"
RUN = ["plan", "condition", "variant", "method", "scaling", "scale", "options", "base", "seed",
       "steps", "learning_rate", "batch", "window", "tokens_trained", "step", "train_seconds",
       "ask_seconds", "losses", "asked", "key", "base_hash", "corpus_hash", "questions_hash",
       "card", "versions", "commit", "date"]  # fmt: skip
ANSWER = ["task", "token_length", "gold_index", "depth_percent", "num_keys", "sample", "document",
          "target", "prediction", "score", "contained", "right", "answer_tokens", "nll",
          "scored_tokens"]  # fmt: skip
NUMBERS = {"gold_index": "Int32", "depth_percent": "float32", "num_keys": "Int32",
           "sample": "Int32", "token_length": "int32", "score": "Float32", "contained": "Float32",
           "right": "Int16", "answer_tokens": "Int16", "nll": "float64",
           "scored_tokens": "Int32"}  # fmt: skip
CLOSING = 2  # tokens of the empty line behind a pair's value: without them it is only contained


class RunLog:
    """A file of records, opened for more; a context manager.

    ValueError for a foreign file, BlockingIOError while another process writes it.
    """

    def __init__(self, path: str | Path, header: Mapping[str, object]):
        self.path, self.header = Path(path), dict(header)
        self._file = LineFile(self.path)
        try:
            self.keys = {one["key"] for one in _parsed(self.path, self._file.lines)}
        except BaseException:
            self._file.close()
            raise
        self._file.cut()

    def append(self, record: Mapping[str, object]) -> None:
        """Write one run, once; on the disk when this returns."""
        if record["key"] in self.keys:
            return
        line = json.dumps({"schema": SCHEMA, **record, **self.header}) + "\n"
        self._file.write(line.encode(), len(self.keys), "run")
        self.keys.add(record["key"])

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _parsed(path: Path, lines: list[bytes]) -> list[dict]:
    """The records in lines of a file."""
    found = []
    for number, record in objects_of(lines, path, "delete that line"):
        if not isinstance(record, dict) or record.get("schema") != SCHEMA:
            raise ValueError(f"{path}, line {number}, is no record of a grid ({SCHEMA})")
        found.append(record)
    return found


def records(*paths: str | Path) -> list[dict]:
    """Read the records of files, each run once (the first); FileNotFoundError names a missing one.

    A last line without its end is passed over: its writer was killed.
    """
    found: dict[str, dict] = {}
    for path in map(Path, paths):
        if not path.is_file():
            raise FileNotFoundError(f"there are no runs at {path}: start the grid with --rows")
        for record in _parsed(path, whole_lines(path)[0]):
            found.setdefault(record["key"], record)
    return list(found.values())


def unfold(
    runs: Iterable[Mapping[str, object]],
    questions: Mapping[str, Questions],
    tokenizer: PreTrainedTokenizerBase,
) -> pd.DataFrame:
    """Return a row an answer, from records and the questions they answered.

    ValueError for a record of other questions than those given.
    """
    hashes = {name: each.hash for name, each in questions.items()}
    tables = {name: each.table(tokenizer) for name, each in questions.items()}
    frames = []
    for run in runs:
        name = run["asked"]
        if run["questions_hash"] != hashes.get(name):
            raise ValueError(
                f"run {run['key']} answered questions {run['questions_hash']} of the set {name!r}, "
                f"and here they are {hashes.get(name)}: use the corpora it was run with"
            )
        frames.append(_answers(run, questions[name], tables[name], tokenizer))
    if not frames:
        return pd.DataFrame(columns=[*RUN, *ANSWER])
    frame = pd.concat(frames, ignore_index=True).astype(NUMBERS)
    return frame[[*RUN, *ANSWER]]


def _answers(
    run: Mapping[str, object],
    questions: Questions,
    table: pd.DataFrame,
    tokenizer: PreTrainedTokenizerBase,
) -> pd.DataFrame:
    items, nll = questions.items, run["nll"]
    said = [
        item.example.target if wrong < 0 else tokenizer.decode([*item.target[:right], wrong])
        for item, right, wrong in zip(items, run["right"], run["wrong"], strict=True)
    ]
    rest = len(table) - len(items)
    right = np.array(run["right"], dtype=float)
    sizes = np.array([len(item.target) for item in items])
    closing = np.array([CLOSING * (item.example.task == "kv_retrieval") for item in items])
    losses = [None] * rest if nll is None else [each for row in nll for each in row]
    columns = {name: _text(run.get(name)) for name in RUN}
    return table.reindex(columns=ANSWER).assign(
        **columns,
        prediction=[*said, *[None] * rest],
        right=[*right, *[np.nan] * rest],
        score=[*(right == sizes).astype(float), *[np.nan] * rest],
        contained=[*(right >= sizes - closing).astype(float), *[np.nan] * rest],
        nll=np.array([*[None] * len(items), *losses], dtype=float),
    )


def _text(value: object) -> object:
    return json.dumps(value, sort_keys=True) if isinstance(value, dict | list) else value


def write(frame: pd.DataFrame, path: str | Path) -> Path:
    """Write answers as Parquet, sorted: the same rows give the same bytes in any order."""
    by = ["plan", "condition", "variant", "scaling", "base", "seed", "key"]
    return write_parquet(frame, path, SCHEMA, by, level=15)


def read(path: str | Path = "data/results/grid.parquet") -> pd.DataFrame:
    """Read answers that `write` wrote; FileNotFoundError or ValueError says what is there."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no grid at {path}: make one with python -m cream.study")
    if (stored := stored_schema(path)) != SCHEMA:
        raise ValueError(f"{path} has schema {stored or 'none'}, and a grid has {SCHEMA}")
    return pd.read_parquet(path)


def find_grid(*sources: Path) -> Path | None:
    """Return the grid's file among files and folders of rows, None where there is none.

    ValueError for a folder that holds several: which is meant, only its reader knows.
    """
    for source in sources:
        files = sorted(source.rglob("*.parquet")) if source.is_dir() else [source]
        found = [file for file in files if file.suffix == ".parquet" and file.is_file()
                 and stored_schema(file) == SCHEMA]  # fmt: skip
        if len(found) > 1:
            raise ValueError(f"{source} holds several grids ({', '.join(f.name for f in found)}): "
                             "name one of the files")  # fmt: skip
        if found:
            return found[0]
    return None
