"""Linux: memory of the machine or its control group, the system's own pressure, and heat.

All files lie under `root`, so that tests give recorded trees.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from appliance.host import thermal_zones
from appliance.host.beside import Refreshed
from appliance.host.control_groups import Group, groups
from appliance.host.files import text, value
from appliance.host.levels import Judged, memory_left, stalls, swapping, worst
from appliance.host.proportional import ProportionalSize
from appliance.host.rate import Rate
from reconciler.observed import MemoryObs

HEAT_EVERY_S, HEAT_KEEP_S = 5.0, 30.0  # a zone may take milliseconds to answer, and heat moves slowly
LIMITS_EVERY_S = 2.0  # which control groups there are, and their limits
PRESSED_EVERY_S = 0.5  # stalls and pages written out: the kernel renews the first every two seconds only
UNKNOWN = "unknown: /proc/meminfo cannot be read"
_AVG10 = re.compile(r"^(some|full) avg10=([0-9]{1,3}(?:\.[0-9]{1,2})?) ", re.MULTILINE)


class LinuxHost:
    def __init__(self, root: Path = Path("/"), clock: Callable[[], float] = time.monotonic) -> None:
        self._root, self._clock = str(root).rstrip("/"), clock
        self._page = os.sysconf("SC_PAGE_SIZE")
        self._swapped = Rate()
        self._heat = Refreshed(partial(thermal_zones.read, self._root), HEAT_EVERY_S, HEAT_KEEP_S, clock)
        self._groups: tuple[float, list[tuple[Group, int | None]]] | None = None
        self._pressed: tuple[float, list[Judged]] | None = None
        self._sizes = ProportionalSize(self._root, clock)

    def read(self, working_set: int = 0) -> MemoryObs:
        now = self._clock()
        total, available = self._machine()
        auto, source = total * 3 // 4, "physical memory" if total else UNKNOWN
        judged = [memory_left(total, available)]
        above = self._above(now)
        for group, limit in above:
            if limit is None or not 0 < limit < total:
                continue
            free = group.free(limit)
            judged.append(memory_left(limit, free, f"control group {group.folder}"))
            total = auto = limit
            available, source = min(available, free), f"cgroup ({group.folder}/{group.files.limit})"
        system, why = worst(*judged, *self._pressure(now, [group for group, _ in above]))
        return MemoryObs(
            total_bytes=total,
            available_bytes=available,
            source=source,
            auto_bytes=auto,
            system=system,
            system_why=why,
            heat=self._hot(),
        )

    def footprint(self, pid: int) -> int:
        return self._sizes(pid)

    def _machine(self) -> tuple[int, int]:
        """Total and available bytes; zeros where they are not known. Page cache counts as available."""
        memory = text(f"{self._root}/proc/meminfo")
        total, available = value(memory, "MemTotal:"), value(memory, "MemAvailable:")
        if total is None or available is None or total <= 0:
            return 0, 0
        return total * 1024, min(max(0, available), total) * 1024

    def _above(self, now: float) -> list[tuple[Group, int | None]]:
        """The control groups above this process, each with its limit."""
        if self._groups is None or now - self._groups[0] >= LIMITS_EVERY_S:
            self._groups = (now, [(group, group.limit()) for group in groups(self._root)])
        return self._groups[1]

    def _pressure(self, now: float, above: list[Group]) -> list[Judged]:
        if self._pressed is None or now - self._pressed[0] >= PRESSED_EVERY_S:
            self._pressed = (now, [*self._stalls(above), self._swapping(now)])
        return self._pressed[1]

    def _stalls(self, above: list[Group]) -> list[Judged]:
        """Of the whole machine, and of our own group: what it waits for, its neighbours may not feel."""
        found = [stalls(*averages(text(f"{self._root}/proc/pressure/memory")), "/proc/pressure/memory")]
        ours = next((g for g in above if g.files.pressure is not None), None)
        if ours is not None:
            where = f"{ours.folder}/{ours.files.pressure}"
            found.append(stalls(*averages(ours.pressure()), where))
        return found

    def _swapping(self, now: float) -> Judged:
        """Pages that went out, of the whole machine: Linux does not tell them apart by group."""
        pages = value(text(f"{self._root}/proc/vmstat"), "pswpout ")
        rate = self._swapped.add(now, pages)
        return swapping(None if rate is None else rate * self._page)

    def _hot(self) -> str | None:
        last = self._heat.latest()
        return None if last is None else last[1]


def averages(pressure: str) -> tuple[float | None, float | None]:
    """some avg10 and full avg10, in percent, of a pressure file. None: it does not say."""
    found = {kind: float(share) for kind, share in _AVG10.findall(pressure)}
    return found.get("some"), found.get("full")
