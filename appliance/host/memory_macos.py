"""macOS: unified memory, and the part of it that Metal may keep resident.

`iogpu.wired_limit_mb` is the operator's own limit for the GPU; 0 means not set, and the system then
allows about three quarters of the memory, which is what `memory.budget: auto` takes anyway. So only a
limit below that makes the machine smaller than its memory.
"""

from __future__ import annotations

import subprocess
import time

import psutil

from reconciler.observed import MemoryObs

NAMES = ("hw.memsize", "iogpu.wired_limit_mb")
METAL_SHARE = 0.75
_LIFETIME = 60.0  # seconds: these change only by an operator's hand, and each reading starts a process

_last: tuple[float, str] | None = None


def read() -> MemoryObs:
    return observed(_sysctl(), psutil.virtual_memory().available)


def observed(output: str, available: int) -> MemoryObs:
    """The reading, from what `sysctl` printed of NAMES. Raises ValueError where it has no size."""
    values = dict(_pairs(output))
    total = values.get("hw.memsize", 0)
    if total <= 0:
        raise ValueError(f"sysctl did not say hw.memsize: {output!r}")
    limit = values.get("iogpu.wired_limit_mb", 0) * 2**20
    if 0 < limit < METAL_SHARE * total:
        return MemoryObs(limit, min(available, limit), source="Metal working set (iogpu.wired_limit_mb)")
    return MemoryObs(total, min(available, total), source="physical memory")


def _pairs(output: str) -> list[tuple[str, int]]:
    """`name: value` lines; macOS before 13 has no iogpu, and says so on standard error."""
    split = (line.partition(":") for line in output.splitlines())
    return [(name.strip(), int(value)) for name, _, value in split if value.strip().isdecimal()]


def _sysctl() -> str:
    global _last
    now = time.monotonic()
    if _last is None or now - _last[0] > _LIFETIME:
        command = ["/usr/sbin/sysctl", *NAMES]  # exit status 1 only says that one name is unknown
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=5
        )
        _last = (now, done.stdout)
    return _last[1]
