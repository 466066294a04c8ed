"""macOS: what the system's commands print and its calls return, as text and bytes. Pure.

Tested only on recorded outputs and on structures laid out as the headers say: nothing here has run on
a Mac. What does not look as expected gives None, never a guess.
"""

from __future__ import annotations

import re
import struct

from reconciler import names
from reconciler.readings import Level

# struct rusage_info_v0 of <sys/resource.h>: uuid[16], six counters, ri_resident_size, ri_phys_footprint,
# two times
RUSAGE_INFO_V0 = 0
RUSAGE = struct.Struct("=16x6QQQ2Q")
# struct xsw_usage of <sys/sysctl.h>: total, available and used bytes, page size, whether encrypted
SWAP_USAGE = struct.Struct("=QQQII")
# kern.memorystatus_vm_pressure_level, the values of DISPATCH_MEMORYPRESSURE_* in <dispatch/source.h>
LEVELS: dict[int, Level] = {1: "normal", 2: "warning", 4: "critical"}

_PAGE = re.compile(r"page size of (\d{1,9}) bytes")
_COUNT = re.compile(r'^"?([A-Za-z][^:"]*)"?:\s+(\d{1,20})\.?\s*$', re.MULTILINE | re.ASCII)
_THERMAL = re.compile(r"^com\.apple\.system\.thermalpressurelevel\s+(\d{1,3})\s*$", re.MULTILINE | re.ASCII)


def physical_footprint(rusage: bytes) -> int:
    """`ri_phys_footprint` of a rusage_info_v0: what the system itself charges, Metal's buffers included."""
    return int(RUSAGE.unpack(rusage)[7])


def integer(value: bytes | None) -> int | None:
    """A number of sysctl: 4 or 8 bytes, as the machine orders them, and never below zero in what we ask."""
    if value is None or len(value) not in (4, 8):
        return None
    found = int.from_bytes(value, "little", signed=True)
    return found if found >= 0 else None


def pressure(value: bytes | None) -> Level | None:
    found = integer(value)
    return None if found is None else LEVELS.get(found)


def swap_used(value: bytes | None) -> int | None:
    """Bytes of vm.swapusage that are in use."""
    if value is None or len(value) != SWAP_USAGE.size:
        return None
    return int(SWAP_USAGE.unpack(value)[2])


def vm_stat(output: str) -> dict[str, int]:
    """Counts of `vm_stat`, in bytes by the name it prints; empty where it does not say the page's size."""
    page = _PAGE.search(output)
    if page is None:
        return {}
    size = int(page[1])
    return {name.strip(): int(count) * size for name, count in _COUNT.findall(output)}


def paged_out(counts: dict[str, int]) -> int | None:
    """Bytes written out of memory since boot: of files (Pageouts) and from the compressor (Swapouts)."""
    found = [counts[name] for name in ("Pageouts", "Swapouts") if name in counts]
    return sum(found) if found else None


def heat(output: str) -> str | None:
    """`notifyutil -g com.apple.system.thermalpressurelevel`: 0 to 4, OSThermalPressureLevel."""
    found = _THERMAL.search(output)
    level = int(found[1]) if found is not None else len(names.HEAT)
    return names.HEAT[level] if level < len(names.HEAT) else None


def working_set(memory: int) -> int:
    """About what Metal recommends on a machine of this size: two thirds up to 36 GiB, three quarters above
    (reported). Used until an engine has said the real figure."""
    return memory * 2 // 3 if memory <= 36 * 2**30 else memory * 3 // 4
