"""Why a file could not be written: a full disk, a quota, or a limit on the size of files.

What belongs here: from an OSError to what a person can do about it. What is left behind is the
writer's to remove.
"""

import errno
import shutil
from pathlib import Path

try:
    import resource
except ImportError:  # Windows has no such limits
    resource = None

__all__ = ["no_room"]


def no_room(error: OSError, path: str | Path) -> str | None:
    """Return why `path` has no room, the limit and what to change; None for any other error."""
    if error.errno == errno.EFBIG:
        return (
            f"the limit on the size of a file is reached{_limit()}: {path} could not be written; "
            "raise it (ulimit -f unlimited) or choose a place on another file system"
        )
    if error.errno == errno.EDQUOT:
        return (
            f"your quota on this disk is used up: {path} could not be written; free space of your "
            "own or choose another place"
        )
    if error.errno == errno.ENOSPC:
        free = shutil.disk_usage(Path(path).parent).free / 1e6
        return (
            f"the disk is full: {path} could not be written ({free:.0f} MB free now that the "
            "unfinished files are removed): free space or choose another place"
        )
    return None


def _limit() -> str:
    if resource is None:
        return ""
    soft = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return "" if soft == resource.RLIM_INFINITY else f" ({soft:,} bytes by ulimit -f)"
