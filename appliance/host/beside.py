"""The last result of something slow, refreshed in a thread: asking never waits for it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

log = logging.getLogger("lmx.host")

T = TypeVar("T")


class Refreshed(Generic[T]):
    """produce: gives None when it failed, and does not raise. every: seconds between two runs. keep: seconds
    that a result is good for when later runs fail."""

    def __init__(
        self,
        produce: Callable[[], T | None],
        every: float,
        keep: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._produce, self._every, self._keep, self._clock = produce, every, keep, clock
        self._begun: float | None = None
        self._running: threading.Thread | None = None
        self._last: tuple[float, T] | None = None

    def latest(self) -> tuple[float, T] | None:
        """(when that run began, what it gave), or None: none has ended well within `keep`."""
        now = self._clock()
        idle = self._running is None or not self._running.is_alive()
        if idle and (self._begun is None or now - self._begun >= self._every):
            self._begun = now
            thread = threading.Thread(target=self._refresh, args=(now,), name="host", daemon=True)
            try:
                thread.start()
                self._running = thread
            except RuntimeError:  # the system gives no more threads: tried again when it is due again
                log.debug("no thread for %r", self._produce)
        last = self._last
        return last if last is not None and now - last[0] < self._keep else None

    def wait(self) -> None:
        """Until the run under way has ended, if there is one."""
        if self._running is not None:
            self._running.join()

    def _refresh(self, begun: float) -> None:
        result = self._produce()
        if result is not None:
            self._last = (begun, result)
