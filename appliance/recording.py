"""`lmx up --record TRACE`: what the loop reads, line by line, for `lmx simulate`.

A recording is a convenience: whatever goes wrong with it ends it with a line in the log, and nothing else.
It begins with the process, because a replay starts from a machine at rest. So an earlier recording is never
added to; a number is put into the name instead.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from reconciler.readings import Reading, Service
from reconciler.trace import record

log = logging.getLogger("lmx.recording")

MOST_BYTES = 64 * 2**20  # some 100,000 readings: hours under strain, days without


class RecordingError(Exception):
    """A recording that cannot begin. The message says where and why."""


class Recorder:
    """Call it with each reading. Not thread-safe: the loop owns it. Raises RecordingError when it is made."""

    def __init__(self, path: Path, most_bytes: int = MOST_BYTES) -> None:
        self._file: int | None
        self._most, self._written = most_bytes, 0
        self._last: tuple[Reading, Mapping[str, Service]] | None = None
        self.path, self._file = _new(path)
        log.info("recording what memory, heat and load do to %s, at most %d MiB", self.path, most_bytes >> 20)

    def __call__(self, reading: Reading, services: Mapping[str, Service]) -> None:
        """One more line, unless it would be the same as the last."""
        if self._file is None or self._last == (reading, services):
            return
        try:
            line = record(reading, services).encode() + b"\n"
            if self._written + len(line) > self._most:
                self._end(f"it has reached {self._most >> 20} MiB")
                return
            self._write(self._file, line)
        except (OSError, ValueError) as error:
            self._end(str(error))
            return
        self._written += len(line)
        self._last = (reading, dict(services))

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _write(self, file: int, line: bytes) -> None:
        """All of it or none: a disk that fills up may take a part only."""
        try:
            count = os.write(file, line)
            if count < len(line):
                os.write(file, line[count:])
        except OSError:
            os.ftruncate(file, self._written)
            raise

    def _end(self, why: str) -> None:
        log.warning("the recording in %s ends here: %s", self.path, why)
        try:
            self.close()
        except OSError as error:
            log.warning("%s did not close cleanly: %s", self.path, error)


def _new(path: Path) -> tuple[Path, int]:
    """TRACE, or the first of TRACE-2, TRACE-3 and so on (before its suffix) that is not there yet."""
    if path.is_dir():
        raise RecordingError(f"{path} is a folder; name a file to record to")
    numbered = (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in itertools.count(2))
    for name in itertools.chain([path], numbered):
        try:
            return name, os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            continue
        except OSError as error:
            raise RecordingError(f"{name} cannot be recorded to: {error.strerror}") from error
    raise AssertionError("numbers do not end")
