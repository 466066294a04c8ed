"""How much memory a process takes, as the system counts it.

On macOS that is the physical footprint, which holds Metal's buffers too and is what the system acts on;
resident size does neither. Elsewhere it is the resident size.
"""

from __future__ import annotations

import ctypes
import struct
import sys

import psutil

# struct rusage_info_v0 of <sys/resource.h>: uuid[16], six counters, ri_resident_size, ri_phys_footprint,
# two times
_RUSAGE_INFO_V0 = 0
_RUSAGE = struct.Struct("=16x6QQQ2Q")


def footprint(pid: int) -> int:
    """Bytes; 0 when the process is gone. One system call, or one short read of /proc."""
    if sys.platform == "darwin":
        return _physical(pid)
    return _resident(pid)


def _resident(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def _physical(pid: int) -> int:
    buffer = ctypes.create_string_buffer(_RUSAGE.size)
    if ctypes.CDLL(None).proc_pid_rusage(pid, _RUSAGE_INFO_V0, buffer) != 0:
        return 0
    return physical_footprint(buffer.raw)


def physical_footprint(rusage: bytes) -> int:
    """`ri_phys_footprint` of a rusage_info_v0."""
    return int(_RUSAGE.unpack(rusage)[7])
