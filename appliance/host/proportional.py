"""Linux: what a process takes of the memory, as its proportional set size, at a bounded cost.

    https://docs.kernel.org/filesystems/proc.html   smaps_rollup, and RssAnon, RssShmem of status

The kernel walks the page tables for it: 1.3 ms for 150 MiB, some hundred milliseconds for tens of GiB.
So that is done seldom, and in between the last result is corrected by how far the pages of its own have
grown since, which the kernel counts anyway (12 microseconds). A pair of readings so stays exact for memory
that is allocated; only a change in what is shared with others shows at the next full one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from appliance.host.files import text, value

COST = 0.0003  # of a core, for the full readings of one process
SELDOM = 1.0  # seconds between two of them at least
KIB = 1024


@dataclass(frozen=True)
class _Full:
    """beyond: what the proportional set size counted other than pages of its own; less than 0 where some
    of those are shared, with a fork for instance. Both sides come from one walk, so that an engine which
    grows during it is not counted twice."""

    at: float
    cost_s: float
    beyond: int


class ProportionalSize:
    """Two threads at once only cost a full reading more."""

    def __init__(self, root: str = "", clock: Callable[[], float] = time.monotonic) -> None:
        self._root, self._clock = root, clock
        self._last: dict[int, _Full] = {}

    def __call__(self, pid: int) -> int:
        """Bytes; 0 when the process is gone."""
        status = text(f"{self._root}/proc/{pid}/status")
        anonymous, shared = value(status, "RssAnon:"), value(status, "RssShmem:") or 0
        if anonymous is None:  # gone, or a zombie: its memory is
            self._last.pop(pid, None)
            return 0
        own = anonymous + shared
        last = self._last.get(pid)
        if last is None or self._clock() - last.at >= max(SELDOM, last.cost_s / COST):
            last = self._full(pid, shared)
        if last is None:  # no smaps_rollup here: all that is resident, what is shared with others too
            return max(0, own + (value(status, "RssFile:") or 0)) * KIB
        return max(0, own + last.beyond) * KIB

    def _full(self, pid: int, shared: int) -> _Full | None:
        began = self._clock()
        rollup = text(f"{self._root}/proc/{pid}/smaps_rollup")
        pss, anonymous = value(rollup, "Pss:"), value(rollup, "Anonymous:")
        if pss is None or anonymous is None:
            return None
        now = self._clock()
        self._last[pid] = full = _Full(now, now - began, pss - anonymous - shared)
        return full
