"""LongBench's data: JSON lines in a folder, in the official data.zip, or that file on the hub.

What belongs here: from a place and a task to checked rows, each a dict of the official fields.
lm_eval's own path, Xnhyacinth/LongBench, is a copy in which `context` already holds the instruction
and `question` has lost its last word ("Type:", "Answer:", "Summary:"), so that lm_eval's prompts
say the instruction twice; such rows are refused here.
"""

import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from transformers.utils import cached_file

from cream.utils.jsonl import rows_of

__all__ = ["FIELDS", "HUB", "REVISION", "locate", "read"]

HUB = "zai-org/LongBench"  # THUDM/LongBench until it moved
REVISION = "5e628be450b7e67fb7ae6e201bd6d8f7056f7672"
FIELDS = {
    "context": str,
    "input": str,
    "answers": list,
    "length": int,
    "all_classes": (list, type(None)),
}
_PARAGRAPH = re.compile(r"Paragraph \d+")


def locate(data: str | Path, revision: str | None = None) -> Path:
    """Return a folder or data.zip on this machine; a hub id is fetched, at `revision`.

    Without a revision, LongBench's own is taken at `REVISION` and others at "main".
    FileNotFoundError says what was looked for; ValueError for a revision of a path here.
    """
    path = Path(data).expanduser()
    if path.is_dir() or path.is_file():
        if revision is not None:
            raise ValueError(
                f"revision is {revision!r}, but data {data} is a path here, which has none: leave "
                "revision out, or name a hub id"
            )
        return path
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(data)):
        raise FileNotFoundError(
            f"data {data}: there is no such folder or data.zip; give one, or a hub id as {HUB}"
        )
    revision = revision or (REVISION if str(data) == HUB else "main")
    try:
        return Path(cached_file(data, "data.zip", repo_type="dataset", revision=revision))
    except OSError as error:
        raise FileNotFoundError(
            f"data {data}: there is no such folder, and the hub gave no data.zip of revision "
            f"{revision} ({error}). Fetch it elsewhere and give its path"
        ) from error


def read(place: Path, task: str) -> list[dict[str, Any]]:
    """Return a task's rows from a folder or archive that `locate` gave, in their order.

    Raises FileNotFoundError for a task that has no file, and ValueError with the file and line for
    one that is damaged, empty, of another task or of other fields.
    """
    try:
        with _opened(place, task) as (name, file):
            found = rows_of(file, name, (*FIELDS, "_id", "dataset"))
            return [_checked(row, task, where) for where, row in found]
    except (zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{place} is damaged at {task}: fetch it again ({error})") from error


@contextmanager
def _opened(place: Path, task: str) -> Iterator[tuple[str, BinaryIO]]:
    """The task's lines; in a folder and in the archive they may lie under data/."""
    names = (f"{task}.jsonl", f"data/{task}.jsonl")
    if place.is_dir():
        found = [place / name for name in names if (place / name).is_file()]
        if not found:
            raise FileNotFoundError(f"{place} has no {names[0]}: leave {task} out, or add it")
        with found[0].open("rb") as file:
            yield str(found[0]), file
        return
    with zipfile.ZipFile(place) as archive:
        inside = [name for name in names if name in archive.namelist()]
        if not inside:
            raise FileNotFoundError(f"{place} has no {names[1]}: is it LongBench's data.zip?")
        with archive.open(inside[0]) as file:
            yield f"{place}, {inside[0]}", file


def _checked(row: dict[str, Any], task: str, where: str) -> dict[str, Any]:
    if absent := [name for name in FIELDS if name not in row]:
        copied = ": it is a reformatted copy, its prompts would not be LongBench's"
        hint = copied if "question" in row else f": use the data of {HUB}"
        raise ValueError(f"{where}, has no {', '.join(absent)}{hint}")
    for name, kind in FIELDS.items():
        if not isinstance(row[name], kind) or isinstance(row[name], bool):
            raise ValueError(f"{where}: {name} is a {type(row[name]).__name__}, which it never is")
    _check_content(row, task, where)
    return row


def _check_content(row: dict[str, Any], task: str, where: str) -> None:
    """Refuse what a metric could not score, and rows of another task."""
    if row.get("dataset", task) != task:
        raise ValueError(f"{where}, is of {row['dataset']}, not of {task}: was the file renamed?")
    strings = [*row["answers"], *(row["all_classes"] or [])]
    if not row["answers"] or not all(isinstance(one, str) for one in strings):
        raise ValueError(
            f"{where}: answers and all_classes must be texts, with at least one answer"
        )
    if task == "trec" and not row["all_classes"]:
        raise ValueError(f"{where}: a row of trec needs all_classes")
    if task == "passage_retrieval_en" and not all(map(_PARAGRAPH.search, row["answers"])):
        raise ValueError(f"{where}: an answer names no paragraph, as 'Paragraph 3' does")
