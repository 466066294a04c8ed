"""Where the holder of a file can be spoken to: `~/.lmx/holders/<name>.sock`, mode 0600.

The name is made from the path of the file alone. It must be found while the file is broken, while no
appliance runs, and whatever its `state.path` says now. Beside the socket lie a lock, so that a file has one
holder, and what was chosen last.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = "~/.lmx/holders"

_chdir = threading.Lock()


class Taken(Exception):
    """This file has a holder already."""


class Place:
    def __init__(self, file: Path) -> None:
        self.folder = Path(FOLDER).expanduser()
        self._name = hashlib.sha256(os.fsencode(file.absolute())).hexdigest()[:24]
        self._lock: int | None = None

    @property
    def note(self) -> Path:
        return self.folder / f"{self._name}.json"

    def listen(self) -> socket.socket:
        """The socket, after the lock. Raises Taken, OSError."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = os.open(self.folder / f"{self._name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            held = os.read(self._lock, 32).decode("ascii", "replace").strip()
            os.close(self._lock)
            raise Taken(f"process {held or '?'} holds this file already; stop it first") from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, str(os.getpid()).encode(), 0)
        with contextlib.suppress(FileNotFoundError):
            (self.folder / f"{self._name}.sock").unlink()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            with self._inside() as name:
                sock.bind(name)
        finally:
            os.umask(before)
        sock.listen(16)
        sock.setblocking(False)
        return sock

    def connect(self, timeout: float) -> socket.socket:
        """Raises OSError where no holder answers."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(timeout)
        try:
            with self._inside() as name:
                sock.connect(name)
        except BaseException:
            sock.close()
            raise
        return sock

    @contextlib.contextmanager
    def _inside(self) -> Iterator[str]:
        """A path for bind and connect: those take about a hundred bytes, and folders may be long."""
        name = f"{self._name}.sock"
        whole = str(self.folder / name)
        if len(os.fsencode(whole)) < 100:
            yield whole
            return
        with _chdir:
            before = os.open(".", os.O_RDONLY)
            try:
                os.chdir(self.folder)
                yield name
            finally:
                os.fchdir(before)
                os.close(before)

    def remember(self, what: dict[str, Any]) -> None:
        """Write the note whole. Raises OSError."""
        new = self.note.with_suffix(".new")
        new.write_text(json.dumps(what), encoding="utf-8")
        os.replace(new, self.note)

    def recall(self) -> dict[str, Any]:
        """Empty where there is no note, or one that cannot be read."""
        try:
            found = json.loads(self.note.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def close(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            (self.folder / f"{self._name}.sock").unlink()
        if self._lock is not None:
            os.close(self._lock)
