"""Linux: what a process takes of the memory, as its proportional set size, at a bounded cost.

    https://docs.kernel.org/filesystems/proc.html   smaps_rollup, and RssAnon, RssShmem of status

The kernel walks the page tables for it: 1.3 ms for 150 MiB, some hundred milliseconds for tens of GiB.
So that is done seldom, in a thread, and the last result is corrected by how far the pages of its own have
grown since, which the kernel counts anyway (12 microseconds). What is allocated so shows at once and
exactly; only a change in what is shared with others waits for the next walk.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from appliance.host.files import text, value

COST = 0.0001  # of a core, for the full readings of one process
SELDOM = 1.0  # seconds between two of them at least
KIB = 1024


@dataclass(frozen=True)
class _Walked:
    """beyond: KiB that the proportional set size counted other than pages of its own; less than 0 where some
    of those are shared, with a fork for instance. Both sides come from one walk, so that an engine which
    grows during it is not counted twice. None: the kernel did not say."""

    at: float
    cost_s: float
    beyond: int | None


def in_thread(walk: Callable[[], None]) -> None:
    threading.Thread(target=walk, name="footprint", daemon=True).start()


class ProportionalSize:
    """beside: runs a walk; one is under way at a time."""

    def __init__(
        self,
        root: str = "",
        clock: Callable[[], float] = time.monotonic,
        beside: Callable[[Callable[[], None]], None] = in_thread,
    ) -> None:
        self._root, self._clock, self._beside = root, clock, beside
        self._last: dict[int, _Walked] = {}
        self._walking: int | None = None

    def __call__(self, pid: int) -> int:
        """Bytes; 0 when the process is gone. Until the first walk has ended: all that is resident, what is
        shared with others too; the same where the kernel knows no smaps_rollup."""
        status = text(f"{self._root}/proc/{pid}/status")
        anonymous, shared = value(status, "RssAnon:"), value(status, "RssShmem:") or 0
        if anonymous is None:  # gone, or a zombie: its memory is
            self._last.pop(pid, None)
            return 0
        last = self._last.get(pid)
        if last is None or self._clock() - last.at >= max(SELDOM, last.cost_s / COST):
            self._begin(pid, shared)
            last = self._last.get(pid)
        beyond = last.beyond if last is not None else None
        if beyond is None:
            beyond = value(status, "RssFile:") or 0
        return max(0, anonymous + shared + beyond) * KIB

    def _begin(self, pid: int, shared: int) -> None:
        if self._walking is not None:
            return
        self._walking = pid
        try:
            self._beside(partial(self._walk, pid, shared))
        except RuntimeError:  # the system gives no more threads: the next reading tries again
            self._walking = None

    def _walk(self, pid: int, shared: int) -> None:
        began = self._clock()
        rollup = text(f"{self._root}/proc/{pid}/smaps_rollup")
        now = self._clock()
        pss, anonymous = value(rollup, "Pss:"), value(rollup, "Anonymous:")
        beyond = None if pss is None or anonymous is None else pss - anonymous - shared
        if os.path.exists(f"{self._root}/proc/{pid}"):  # not one that ended meanwhile: none of those is kept
            self._last[pid] = _Walked(now, now - began, beyond)
        self._walking = None
