"""Where a number comes from: the commit, the library versions, and hashes of what went in.

Everything that is written down (rows, run directories, figures) says by this module what made it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path

from cream import __version__

__all__ = ["commit", "hash_of", "versions"]


def hash_of(*parts: object) -> str:
    """Return 16 hex digits that stand for `parts` (anything JSON can write)."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def versions() -> dict[str, str]:
    """Return the versions of Python and of every library a number may depend on."""
    found = {"python": platform.python_version(), "cream": __version__}
    for name in ("torch", "transformers", "tokenizers", "numpy"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit(root: str | Path | None = None) -> str:
    """Return the project's commit, `+` after it where tracked files differ; "unknown" outside git.

    CREAM_COMMIT, when set, is taken instead: a copy sent to another machine has no history.
    """
    if given := os.environ.get("CREAM_COMMIT"):
        return given
    git = ["git", "-C", str(root or Path(__file__).resolve().parents[2])]
    try:
        head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True,
                              text=True, check=True, timeout=20).stdout.strip()  # fmt: skip
        # Notebooks are left out: running one changes it, and the code lives in the package.
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no", "--", "cream", "data"],
            capture_output=True, text=True, check=True, timeout=20).stdout.strip()  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return head + ("+" if changed else "")
