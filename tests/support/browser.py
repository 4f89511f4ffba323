"""A headless Chromium to look at pages with, where this machine has one."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@contextlib.contextmanager
def opened() -> Iterator[Any]:
    """Start the browser; skips, with the reason, where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is on the PATH")
    root = {"chromium_sandbox": False} if os.geteuid() == 0 else {}
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, **root)
        try:
            yield browser
        finally:
            browser.close()
