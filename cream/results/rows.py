"""Rows on disk: one writer, one key, resume, read as tables.

A row is one answer of one model to one sample, a flat dict with the columns of `COLUMNS`. While an
evaluation runs, rows are appended to a JSON Lines file, each flushed to the disk before the next is
computed; a killed evaluation, started again, asks `missing` and computes only what is not there:

    with Rows("runs/x/rows.jsonl", header) as rows:
        wanted = {rows.key(task, prompt_hash, sample): ... for ...}
        for key in rows.missing(wanted):
            rows.append({"task": task, "prompt_hash": prompt_hash, "sample": sample, "score": 1.0})

Several processes each write a part (`rows.part1.jsonl`) beside the file; whoever opens the file
next takes in what they left. Finished rows are published as Parquet (`to_parquet`); `read` takes
either, and folders of them.
What the rows mean together (means, intervals) belongs in `statistics` and `reproduction.report`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from cream.results.schema import COLUMNS, SCHEMA, checked, foreign, parse, row_key, whole_lines
from cream.results.store import LineFile, stored_schema, write_parquet
from cream.utils.provenance import commit, hash_of, versions
from cream.utils.text_files import folder_of

__all__ = [
    "Rows",
    "current",
    "drawn_from",
    "needs",
    "read",
    "to_parquet",
    "variant",
]

_ORDER = ["run", "task", "token_length", "gold_index", "depth_percent", "num_keys", "document",
          "sample"]  # fmt: skip
# What of a row says which of a task's questions it answers. Of other columns (the place of the line
# that is asked for, the lines of a record) a question has what its seed gave it.
_QUESTION = ("token_length", "sample")
_QUESTIONS = {
    "needle": ("token_length", "depth_percent", "sample"),
    "kv_retrieval": ("num_keys", "gold_index", "sample"),
    "perplexity": ("token_length", "document"),
    "historical_perplexity": ("token_length", "document"),
}
# What of a row's settings makes another evaluation of its task, and the words for it.
_FORMS = {
    "style": "{}",
    "mode": "{}",
    "corpus": "{}",
    "haystack": "{}",
    "clex_t": "{}",
    "sharper": "{}",
    "chat": "chat {}",
    "stride": "stride {}",
    "document_tokens": "read to {}",
    "blocks": "{} blocks",
    "digits": "{} digits",
    "questions_a_record": "{} a record",
    "seed": "seed {}",
}


class Rows:
    """The writer of one JSON Lines file of rows; a context manager.

    `header` holds the columns that are constant for this evaluation; `model_hash` and `settings`
    must be among them because every key needs them, and dicts in it are written as JSON. `versions`
    and `commit` are filled in. A last line torn by a killed writer is dropped: its key is missing
    again. With `part` (1 or more) it writes that part of the file and does not repeat the rows of
    the file itself, which takes in all parts when it is next opened. ValueError for unknown columns
    and for a file that holds something else; BlockingIOError while another process writes the file.
    """

    def __init__(self, path: str | Path, header: Mapping[str, object], part: int = 0) -> None:
        self.path = _part(Path(path), part) if part else Path(path)
        self.header = checked({"versions": versions(), "commit": commit(), **header})
        for name in ("model_hash", "settings"):
            if self.header.get(name) is None:
                raise ValueError(f"the header of {self.path} has no {name}; every key needs it")
        self._file = LineFile(self.path, whole_lines)
        try:
            self._keys = {row["key"] for row in parse(self.path, self._file.lines)}
            self._file.cut()
            if part and Path(path).exists():
                self._keys |= {row["key"] for row in parse(path, whole_lines(Path(path))[0])}
            if not part:
                self.absorb()
        except BaseException:
            self.close()
            raise

    def absorb(self) -> None:
        """Take in the rows of the parts beside the file, and remove the parts."""
        for part in sorted(self.path.parent.iterdir()):
            if not _is_part(part, self.path):
                continue
            left = LineFile(part, whole_lines)
            try:
                rows = {
                    row["key"]: line
                    for row, line in zip(parse(part, left.lines), left.lines, strict=True)
                }
                found = self.missing(rows)
                self._write(b"".join(rows[key] + b"\n" for key in found))
                self._keys.update(found)
                part.unlink()
            finally:
                left.close()

    def key(
        self, task: str, prompt_hash: str, sample: int, settings: str | Mapping | None = None
    ) -> str:
        """Return the key that a row of this model and these settings has, or would have."""
        settings = self.header["settings"] if settings is None else settings
        return row_key(self.header["model_hash"], task, prompt_hash, sample, settings)

    def missing(self, keys: Iterable[str]) -> list[str]:
        """Return those of `keys` that have no row yet, in their order."""
        return [key for key in keys if key not in self._keys]

    def append(self, row: Mapping[str, object]) -> str:
        """Write one row and return its key; a row that is there already is not written again.

        `task`, `prompt_hash` and `sample` are needed. ValueError for unknown columns and values
        that are not finite; OSError (a full disk) leaves the file as it was.
        """
        row = {**self.header, "schema": SCHEMA, **checked(row)}
        for name in ("task", "prompt_hash", "sample"):
            if row.get(name) is None:
                raise ValueError(f"a row for {self.path} has no {name}; its key needs it")
        row["key"] = row_key(*(row[n] for n in ("model_hash", "task", "prompt_hash", "sample")),
                             row["settings"])  # fmt: skip
        if row["key"] in self._keys:
            return row["key"]
        row.setdefault("date", datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
        ordered = {name: row[name] for name in COLUMNS if row.get(name) is not None}
        self._write((json.dumps(ordered, ensure_ascii=False, allow_nan=False) + "\n").encode())
        self._keys.add(row["key"])
        return row["key"]

    def _write(self, line: bytes) -> None:
        self._file.write(line, len(self._keys))

    def frame(self) -> pd.DataFrame:
        """Return all rows of the file as a table."""
        return read(self.path)

    def close(self) -> None:
        """Close the file and let others write it."""
        self._file.close()

    def __enter__(self) -> Rows:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _part(path: Path, number: int) -> Path:
    """Name a part of a file of rows; a folder that is read has its rows, too."""
    return path.with_name(f"{path.stem}.part{number}{path.suffix}")


def _is_part(candidate: Path, path: Path) -> bool:
    pattern = rf"{re.escape(path.stem)}\.part[1-9]\d*{re.escape(path.suffix)}"
    return re.fullmatch(pattern, candidate.name) is not None


def read(*paths: str | Path) -> pd.DataFrame:
    """Read rows of JSON Lines files, Parquet files and folders of them into one table.

    Every column of `COLUMNS` is there; of rows with one key the last is kept. In a folder, files
    that hold no rows (a training's metrics, a grid's answers) and hidden ones (an editor's copies)
    are passed over. FileNotFoundError for a missing path, ValueError for a file of another schema.
    """
    frames = []
    for path in map(Path, paths):
        if not path.exists():
            raise FileNotFoundError(f"there are no rows at {path}; evaluate a model first")
        if path.is_dir():
            files = folder_of(path, ".jsonl", ".parquet").files
            frames += [_read_file(file) for file in files if _holds_rows(file)]
        else:
            frames.append(_read_file(path))
    some = [frame for frame in frames if len(frame)] or [_empty()]
    return pd.concat(some, ignore_index=True).drop_duplicates("key", keep="last", ignore_index=True)


def _empty() -> pd.DataFrame:
    return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in COLUMNS.items()})


def _schema(path: Path) -> object:
    """The schema a file says it has, None if it says nothing."""
    if path.suffix == ".parquet":
        return stored_schema(path)
    with path.open("rb") as file:
        try:
            first = json.loads(file.readline())
        except ValueError:
            return None
    return first.get("schema") if isinstance(first, dict) else None


def _holds_rows(path: Path) -> bool:
    """Whether a file says that it holds rows, of whatever version."""
    return str(_schema(path)).startswith(SCHEMA.rpartition("-")[0])


def _read_file(path: Path) -> pd.DataFrame:
    if path.suffix == ".parquet":
        if (schema := _schema(path)) != SCHEMA:
            raise ValueError(foreign(path, schema))
        frame = pd.read_parquet(path)
    else:
        frame = pd.DataFrame(parse(path, whole_lines(path)[0]))
    return frame.reindex(columns=list(COLUMNS)).astype(COLUMNS)


def to_parquet(frame: pd.DataFrame, path: str | Path) -> Path:
    """Write rows as Parquet, sorted, so that the same rows give the same bytes in any order."""
    if unknown := [name for name in frame if name not in COLUMNS]:
        raise ValueError(f"rows have no column {unknown[0]!r}; there are: {', '.join(COLUMNS)}")
    ordered = frame.reindex(columns=list(COLUMNS)).astype(COLUMNS)
    return write_parquet(ordered, path, SCHEMA, [*_ORDER, "settings", "key"])


def current(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that speak for each run now.

    A run trained again, or a question whose prompt or settings changed, leaves older rows behind:
    of each run, base and task the model evaluated last counts, of each question (in each `variant`)
    its last row.
    """
    frame, model = frame.reset_index(drop=True), ["run", "base", "task"]
    known = frame.assign(base=frame["base"].fillna(""), variant=variant(frame))
    ordered = known.sort_values("date", kind="stable", na_position="first")
    last = ordered.groupby(model, dropna=False)["model_hash"].transform("last")
    ordered = ordered[(ordered["model_hash"] == last).fillna(True)]
    asked = pd.concat([ordered[[*model, "variant"]], _questions(ordered)], axis=1)
    kept = asked.index[~asked.duplicated(keep="last")]
    return frame.loc[kept.sort_values()].reset_index(drop=True)


def _questions(frame: pd.DataFrame) -> pd.DataFrame:
    """Which question each row answers: the columns that say so, the others empty."""
    found = frame[sorted({name for names in _QUESTIONS.values() for name in names} | {*_QUESTION})]
    found = found.assign(document=found["document"].fillna(found["sample"].astype("string")))
    names = frame["task"].map(lambda task: _QUESTIONS.get(task, _QUESTION))
    return found.apply(lambda column: column.where([column.name in each for each in names]))


def variant(frame: pd.DataFrame) -> pd.Series:
    """Return which form of its task each row answers, by its settings.

    That is `style`, `mode`, `corpus`, `haystack` (the kind of text that a sentence is hidden in),
    `clex_t` (the rule of a CLEX model's t, where it is not the usual one), `sharper` (a factor
    on the logits of attention), a chat template, a stride that is not half the window, and how the
    questions were drawn where it is not the usual way (their seed, the questions a record).
    Rows of two variants are never averaged: they are two evaluations.
    """
    names = {text: _form(json.loads(text)) for text in frame["settings"].dropna().unique()}
    return frame["settings"].map(names).fillna("").astype("string")


def _form(how: Mapping[str, object]) -> str:
    usual = {"chat": how.get("chat") if isinstance(how.get("chat"), bool) else "none"}
    if "window" in how and "stride" in how and how["stride"] == max(1, how["window"] // 2):
        usual["stride"] = how["stride"]
    said = {name: how[name] for name in _FORMS if name in how and how[name] != usual.get(name)}
    return " ".join(_FORMS[name].format(value) for name, value in said.items())


def drawn_from(frame: pd.DataFrame) -> dict[str, str]:
    """Return what a figure drawn from `frame` must carry: the hash of its rows, their commits."""
    shown = ["key", "score", "contained", "nll", "tokens_per_second", "peak_gib"]
    keys = sorted(map(str, frame[shown].itertuples(index=False, name=None)))
    commits = sorted(set(frame["commit"].dropna()))
    return {"rows": hash_of(*keys), "commit": ", ".join(commits) or "unknown"}


def needs(rows: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Return the rows; ValueError when there are none, or one lacks what a figure needs."""
    if rows.empty:
        raise ValueError("there are no rows to draw; evaluate a model first")
    for name in columns:
        if rows[name].isna().any():
            raise ValueError(f"{rows[name].isna().sum()} rows have no {name}; the figure needs it")
    return rows
