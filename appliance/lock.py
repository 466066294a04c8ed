"""One LMX per state folder. The lock dies with its process, so there is nothing stale to clean up."""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path


class Locked(Exception):
    """Another process holds the state folder; the message says which. pid: None where it is not known."""

    def __init__(self, message: str, pid: int | None = None) -> None:
        super().__init__(message)
        self.pid = pid


class StateLock:
    """An exclusive flock on `<state>/lock`, held until `release` or the end of the process."""

    def __init__(self, state: Path) -> None:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path = state / "lock"
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._fd, 4096).decode("utf-8", "replace")
            os.close(self._fd)
            raise _locked(holder, state) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, json.dumps({"pid": os.getpid(), "since": time.time()}).encode(), 0)

    def release(self) -> None:
        os.ftruncate(self._fd, 0)
        os.close(self._fd)


def _locked(holder: str, state: Path) -> Locked:
    pid = None
    try:
        known = json.loads(holder)
        pid = int(known["pid"])
        who = f"process {pid}, since {time.ctime(float(known['since']))}"
    except (ValueError, KeyError, TypeError):
        who = "another process"
    return Locked(
        f"another LMX ({who}) uses the state folder {state}; stop it, or give this one its own state.path",
        pid,
    )
