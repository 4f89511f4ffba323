"""The paper's published numbers, read from data/paper."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

__all__ = ["read_published"]


PAPER_WINDOW = 4096


def read_published(folder: str | Path, name: str) -> pd.DataFrame:
    """Read data/paper/`name`.csv; accuracies in it are in %."""
    path = Path(folder) / f"{name}.csv"
    if not path.is_file():
        there = ", ".join(sorted(file.stem for file in Path(folder).glob("*.csv")))
        raise FileNotFoundError(f"there are no published numbers {path.name}; there are: {there}")
    return pd.read_csv(path)
