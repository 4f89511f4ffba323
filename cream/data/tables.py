"""Parquet and Arrow files, alone or as the shards of a folder, as the data set that they hold.

What belongs here: which files are one data set, and which split each belongs to. What their rows
and columns mean is `columns`'.
"""

import re
from pathlib import Path

import datasets
import pyarrow as pa
from datasets.exceptions import DatasetsError

from cream.data.columns import split_of
from cream.utils.text_files import folder_of, printable

__all__ = ["SUFFIXES", "files_of", "load"]

SUFFIXES = (".parquet", ".arrow")
_FIRST = re.compile(r"[A-Za-z]+")  # of train-00000-of-00002.parquet: its split


def files_of(path: Path) -> list[Path]:
    """Return a table file, or those of a folder that holds no other data; [] for anything else.

    ValueError for a folder whose tables are of both kinds or lie in several folders: what of them
    is one data set is not known.
    """
    if path.is_file():
        return [path] if path.name.lower().endswith(SUFFIXES) else []
    if not path.is_dir() or not (found := folder_of(path, *SUFFIXES).files):
        return []
    places = sorted({printable(file.parent.relative_to(path).as_posix()) for file in found})
    kinds = {file.suffix.lower() for file in found}
    if len(places) > 1 or len(kinds) > 1:
        what = f"tables in {', '.join(places)}" if len(places) > 1 else "both .parquet and .arrow"
        raise ValueError(f"{path} holds {what}: give one folder with the files of one data set")
    return found


def load(files: list[Path]) -> datasets.Dataset | datasets.DatasetDict:
    """Return table files as datasets reads them, by split where the names of several say one.

    Parquet is copied into the cache of datasets, as a hub data set is. ValueError for files of
    which only some name a split, for torn ones, and for shards of other columns.
    """
    splits = _by_split(files)
    _check_named(files, splits)
    try:
        parts = {name: _joined(some) for name, some in splits.items()}
    except (OSError, ValueError, LookupError, pa.ArrowException, DatasetsError) as error:
        said = " ".join(str(error.__cause__ or error).split()) or type(error).__name__
        raise ValueError(
            f"{files[0].parent if files[1:] else files[0]} is no table that datasets reads "
            f"({said}): fetch or write it again, every file with rows and with the same columns"
        ) from error
    return parts[""] if "" in parts else datasets.DatasetDict(parts)


def _by_split(files: list[Path]) -> dict[str, list[Path]]:
    """The files of each split by its name; all of them under "" where no name says one."""
    found: dict[str, list[Path]] = {}
    for file in files:
        first = _FIRST.match(file.stem)
        name = first[0] if first and len(files) > 1 and split_of(first[0]) else ""
        found.setdefault(name, []).append(file)
    return found


def _check_named(files: list[Path], found: dict[str, list[Path]]) -> None:
    if "" in found and len(found) > 1:
        odd, splits = printable(found[""][0].name), ", ".join(name for name in found if name)
        raise ValueError(
            f"{files[0].parent} holds files named after the splits {splits}, and {odd}, which "
            "names none: rename it, or take it out"
        )


def _joined(files: list[Path]) -> datasets.Dataset:
    if files[0].suffix.lower() == ".parquet":
        return datasets.Dataset.from_parquet([str(file) for file in files])
    return datasets.concatenate_datasets([datasets.Dataset.from_file(str(file)) for file in files])
