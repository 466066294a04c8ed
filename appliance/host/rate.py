"""How fast a counter of the system grows. The clock is the caller's."""

from __future__ import annotations

from collections import deque

WINDOW = 2.0  # seconds it looks back on: a burst of a quarter of a second is not a state
SHORTEST = 0.2  # seconds below which two readings say nothing


class Rate:
    def __init__(self, window: float = WINDOW) -> None:
        self._window = window
        self._seen: deque[tuple[float, int]] = deque()

    def add(self, at: float, counter: int | None) -> float | None:
        """Units a second over the window that ends `at`; None where that cannot be told yet.

        counter None: it could not be read, and what was seen before is forgotten. One that went back
        (another system booted, a recording changed) starts anew.
        """
        if counter is None or (self._seen and (counter < self._seen[-1][1] or at < self._seen[-1][0])):
            self._seen.clear()
        if counter is None:
            return None
        self._seen.append((at, counter))
        while len(self._seen) > 2 and self._seen[1][0] <= at - self._window:
            self._seen.popleft()
        first, before = self._seen[0]
        return (counter - before) / (at - first) if at - first >= SHORTEST else None
