"""The last output of a command, refreshed beside whoever asks: asking never waits for it."""

from __future__ import annotations

import logging
import subprocess
import threading
import time
from collections.abc import Callable, Sequence

log = logging.getLogger("lmx.host")

TIMEOUT_S = 3.0


def run(command: Sequence[str]) -> str | None:
    """Its standard output; None when it could not be run, failed, or took too long."""
    try:
        # close_fds=False: posix_spawn instead of a fork of this process. Python's own files do not leak:
        # they are closed on exec.
        done = subprocess.run(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=TIMEOUT_S,
            close_fds=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        log.debug("%s: %s", command[0], error)
        return None
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None


class Refreshed:
    """every: seconds between two runs. keep: seconds that an output is good for when later runs fail."""

    def __init__(
        self,
        command: Sequence[str],
        every: float,
        keep: float,
        clock: Callable[[], float] = time.monotonic,
        execute: Callable[[Sequence[str]], str | None] = run,
    ) -> None:
        self._command, self._every, self._keep = command, every, keep
        self._clock, self._execute = clock, execute
        self._begun: float | None = None
        self._running: threading.Thread | None = None
        self._last: tuple[float, str] | None = None

    def latest(self) -> tuple[float, str] | None:
        """(when that run began, what it printed), or None: none has ended well within `keep`."""
        now = self._clock()
        idle = self._running is None or not self._running.is_alive()
        if idle and (self._begun is None or now - self._begun >= self._every):
            self._begun = now
            self._running = threading.Thread(target=self._refresh, args=(now,), name="host", daemon=True)
            self._running.start()
        last = self._last
        return last if last is not None and now - last[0] < self._keep else None

    def wait(self) -> None:
        """Until the run under way has ended, if there is one."""
        if self._running is not None:
            self._running.join()

    def _refresh(self, begun: float) -> None:
        output = self._execute(self._command)
        if output is not None:
            self._last = (begun, output)
