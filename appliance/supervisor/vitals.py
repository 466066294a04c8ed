"""What an engine's beats say of it: its memory, what waits in it, and how busy the device is for it."""

from __future__ import annotations

from collections import deque
from dataclasses import fields, replace

from appliance.wire import Beat
from reconciler.observed import CacheObs

WINDOW = 5.0  # seconds that the saturation looks back on
SHORTEST = 1.0  # seconds of beats below which there is nothing to tell from

_CACHE = [item.name for item in fields(CacheObs)]


class Vitals:
    """Times in seconds on the loop's clock, sizes in bytes."""

    def __init__(self) -> None:
        self.mlx_bytes = 0
        self.waiting = 0  # requests it holds and has not begun
        self.cache = CacheObs()
        self.tool_failures = 0  # since its start: tool calls that did not parse
        self._busy: deque[tuple[float, float]] = deque()  # (when a beat came, busy seconds it told of)

    def beat(self, beat: Beat, now: float) -> None:
        self.mlx_bytes = beat.active_bytes + beat.cache_bytes
        self.waiting = beat.waiting
        self.tool_failures = beat.tool_failures
        self.cache = CacheObs(**{name: getattr(beat.cache, name) for name in _CACHE})
        self._busy.append((now, beat.busy_s))
        while self._busy[0][0] < now - WINDOW:
            self._busy.popleft()

    def gone(self) -> None:
        """The process is no more."""
        self.mlx_bytes = self.waiting = 0
        self.cache = replace(
            self.cache, memory_bytes=0, disk_bytes=0
        )  # its counters stay: they are summed up
        self._busy.clear()

    @property
    def saturation(self) -> float | None:
        """Share of the last seconds in which the device worked for it; None before it can be told."""
        if len(self._busy) < 2:
            return None
        (first, before), (last, after) = self._busy[0], self._busy[-1]
        if last - first < SHORTEST:
            return None
        return min(1.0, max(0.0, (after - before) / (last - first)))
