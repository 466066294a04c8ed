"""Who writes a state folder: one LMX at a time, also while one takes over from another.

An owner has the lock and the database on disk. One that stands by has a copy of the database in memory, and
becomes the owner with `take`; an owner that steps back lets go of the lock and writes nothing more.
"""

from __future__ import annotations

import time
from pathlib import Path

from appliance.held import Link
from appliance.lock import Locked, StateLock
from reconciler.history import History

AGAIN_S = 0.05
LET_GO_S = 10.0  # for an appliance that has just been ended to be gone


class Custody:
    """Raises Locked, sqlite3.Error, OSError."""

    def __init__(self, folder: Path, predecessor: int | None = None, *, patience_s: float = 0.0) -> None:
        """predecessor: the process that may hold the folder now, and will let go of it."""
        self.folder = folder
        self._lock: StateLock | None = None
        try:
            self._lock = _locked(folder, patience_s)
        except Locked as error:
            if predecessor is None or error.pid != predecessor:
                raise
        path, self._copy = folder / "history.db", self._lock is None
        try:
            self.history = History(path) if self._lock is not None else History.copy(path)
        except BaseException:
            self.release()
            raise

    @classmethod
    def under(cls, link: Link, folder: Path) -> Custody:
        """Of an appliance that a holder started: the one before may still be there, or about to go."""
        if link.standby:
            return cls(folder, link.predecessor)
        return cls(folder, patience_s=LET_GO_S)

    @property
    def owner(self) -> bool:
        return self._lock is not None

    def take(self) -> None:
        """From now on this process writes. Raises Locked where another one has come in between."""
        if self._lock is None:
            self._lock = _locked(self.folder, LET_GO_S)
        if self._copy:
            self.history.settle()
            self._copy = False

    def release(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def close(self) -> None:
        self.history.close()
        self.release()


def _locked(folder: Path, patience_s: float) -> StateLock:
    until = time.monotonic() + patience_s
    while True:
        try:
            return StateLock(folder)
        except Locked:
            if time.monotonic() >= until:
                raise
            time.sleep(AGAIN_S)
