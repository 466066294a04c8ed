"""Whether the disk can be written, and if not, why: a sentence that says which path and what to do."""

from __future__ import annotations

import errno
import logging
import os
import threading
from pathlib import Path

from appliance.prompt_cache.folder import Foreign

log = logging.getLogger(__name__)

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


class Health:
    """The disk's state. Safe from any thread.

    needs: free bytes without which trying again is vain. notice: what to know of a disk that works.
    """

    def __init__(self, root: Path) -> None:
        self.needs = 0
        self.notice: str | None = None
        self._root = root
        self._failed: str | None = None
        self._lock = threading.Lock()

    @property
    def failed(self) -> bool:
        return self._failed is not None

    @property
    def why(self) -> str | None:
        return self._failed or self.notice

    def fail(self, error: OSError | Foreign) -> None:
        """Nothing is written from now on."""
        why = sentence(error, self._root) if isinstance(error, OSError) else f"prompt cache: {error}"
        with self._lock:
            first, self._failed = self._failed is None, why
        if first:
            log.warning("%s. Trying again every minute", why)

    def break_down(self) -> None:
        """Nothing is written any more, by a fault of ours."""
        self._failed = f"prompt cache at {self._root}: its writer stopped by a fault of LMX, see the log"

    def recover(self) -> None:
        self._failed = None
        log.info("prompt cache at %s: writing again", self._root)

    def check_room(self, folder: Path) -> None:
        """Raises OSError where there is less room than `needs`."""
        status = os.statvfs(folder)
        if status.f_bavail * status.f_frsize < self.needs:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._root))
