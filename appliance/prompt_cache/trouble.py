"""What is wrong with the disk, in a sentence that says which path and what to do."""

from __future__ import annotations

import errno
import os
from pathlib import Path

_ADVICE = {
    errno.ENOSPC: "the disk is full: free some of it, lower cache.disk, or set cache.path to another disk",
    errno.EDQUOT: "the user's disk quota is used up: free some, lower cache.disk, or move cache.path",
    errno.EROFS: "the file system is read-only: remount it, or set cache.path to another",
    errno.EACCES: "no permission: give the folder to the user that runs LMX, or set cache.path to another",
    errno.EPERM: "no permission: give the folder to the user that runs LMX, or set cache.path to another",
    errno.EIO: "the disk reports errors: check it, or set cache.path to another",
    errno.EMFILE: "too many open files: raise the limit (`ulimit -n`)",
    errno.ENFILE: "the system has too many open files",
    errno.EFBIG: "the file is over the limit of this process or file system: raise it (`ulimit -f`)",
}


def sentence(error: OSError, root: Path) -> str:
    """Never the contents of a file, and never a key: paths and system errors only."""
    what = _ADVICE.get(error.errno or 0) or os.strerror(error.errno or 0)
    where = error.filename
    return f"prompt cache at {where if isinstance(where, str) else root}: {what}"
