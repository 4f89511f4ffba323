"""Rows: one answer of one model a row, appended as it comes, found again by its key.

Belongs here: the schema of rows, their files, and the paper's published numbers. Does not: means
and intervals (`statistics`). Read first: `schema`, then `rows`.
"""

from cream.results.published import PAPER_WINDOW, read_published
from cream.results.rows import Rows, current, drawn_from, read, to_parquet, variant
from cream.results.schema import COLUMNS, SCHEMA, row_key

__all__ = [
    "COLUMNS",
    "PAPER_WINDOW",
    "Rows",
    "SCHEMA",
    "current",
    "drawn_from",
    "read",
    "read_published",
    "row_key",
    "to_parquet",
    "variant",
]
