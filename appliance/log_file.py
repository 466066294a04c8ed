"""A log of our own: kept within a size, and found again after somebody moved it.

launchd opens the files of a job once and holds them, so nothing can rotate those. This one is opened by LMX:
at `MOST` bytes it becomes `lmx.log.1`, the one before `lmx.log.2`, and so on, `KEPT` of them. Where another
program moved or deleted it, the next line goes to a new one. Mode 0600: who asked for what is nobody else's.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

MOST = 64 * 2**20  # bytes
KEPT = 5  # rotated ones


class LogFile:
    """Used by one thread. Lines are never cut by a rotation."""

    def __init__(self, path: Path, most: int = MOST, kept: int = KEPT) -> None:
        """Raises OSError where it cannot be opened."""
        self._path, self._most, self._kept = path.absolute(), most, kept
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = self._open()

    def write(self, lines: bytes) -> None:
        """Whole lines. Raises OSError, as on a full disk; the next call tries again."""
        if not self._there():
            self._reopen()
        if (size := os.fstat(self._file).st_size) and size + len(lines) > self._most:
            self._rotate()
        while lines:
            lines = lines[os.write(self._file, lines) :]

    def close(self) -> None:
        os.close(self._file)

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        file = os.open(self._path, flags, 0o600)
        os.fchmod(file, 0o600)
        return file

    def _reopen(self) -> None:
        file = self._open()  # first: if it fails, what is open stays in use
        os.close(self._file)
        self._file = file

    def _there(self) -> bool:
        """Whether the name still means the file we write to."""
        try:
            named = os.stat(self._path)
        except FileNotFoundError:
            return False
        return os.path.samestat(named, os.fstat(self._file))

    def _rotate(self) -> None:
        for number in range(self._kept, 0, -1):
            older = self._numbered(number)
            with contextlib.suppress(FileNotFoundError):
                os.replace(self._numbered(number - 1) if number > 1 else self._path, older)
        if self._kept == 0:
            os.unlink(self._path)
        self._reopen()

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")
