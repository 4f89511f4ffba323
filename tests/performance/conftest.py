"""Fixtures of the measuring commands' tests."""

from speed_rows import write  # noqa: F401
