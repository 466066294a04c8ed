"""A machine with little memory, in which only our real processes and real hogs take any.

What they take is measured; only the size of the machine, its heat and what its system says of itself are
made up. So the numbers are small enough to be filled in a second, and nothing else that runs on the
computer of the tests counts.
"""

from __future__ import annotations

import os
from pathlib import Path

from appliance.host import Host, platform
from appliance.host.levels import memory_left, worst
from reconciler.observed import MemoryObs

MIB = 2**20
TOTAL_BYTES = 1536 * MIB
HEADROOM_BYTES = 200 * MIB  # what the rest of such a machine takes


class SmallMachine:
    """controls: a folder with `heat` and `pressure` (a word each, absent: none) and `hogs`, which holds one
    empty file per process of others, named after its number."""

    def __init__(self, controls: Path, total: int = TOTAL_BYTES, real: Host | None = None) -> None:
        self._controls, self._total = controls, total
        self._real = real or platform()
        self._ours: dict[int, int] = {os.getpid(): 0}  # as last asked for

    def read(self, working_set: int = 0) -> MemoryObs:
        self._ours = {pid: size for pid, size in self._ours.items() if os.path.exists(f"/proc/{pid}")}
        hogs = sum(self._real.footprint(int(name)) for name in os.listdir(self._controls / "hogs"))
        taken = HEADROOM_BYTES + sum(self._ours.values()) + hogs
        available = max(0, self._total - taken)
        judged = [memory_left(self._total, available)]
        said = self._word("pressure")
        if said == "warning":
            judged.append(("warning", "the system says so"))
        elif said == "critical":
            judged.append(("critical", "the system says so"))
        system, why = worst(*judged)
        return MemoryObs(
            total_bytes=self._total,
            available_bytes=available,
            source="a small machine",
            auto_bytes=self._total * 3 // 4,
            system=system,
            system_why=why,
            heat=self._word("heat") or "nominal",
        )

    def footprint(self, pid: int) -> int:
        self._ours[pid] = self._real.footprint(pid)
        return self._ours[pid]

    def _word(self, name: str) -> str:
        try:
            return (self._controls / name).read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return ""
