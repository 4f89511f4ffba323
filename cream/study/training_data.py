"""What the study's training data hold: data/results/grid_data.json, read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from cream.study.conditions import CONDITIONS, DENSE

__all__ = ["NAME", "flagged", "read"]


SCALE, BINS, NAME = 8, 16, "grid_data.json"


def read(grid: str | Path) -> dict:
    """Return the counts beside a grid's file (grid_data.json); empty where there are none."""
    path = Path(grid)
    if not path.name:  # no grid
        return {}
    path = path.with_name(NAME)
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def flagged(query_counts: Mapping) -> dict[str, list[str]]:
    """Return the flagged variants of each condition, as `contrasts` takes them."""
    return {
        name: query_counts[name]["flagged"]
        for name in (*CONDITIONS, *DENSE)
        if name in query_counts
    }
