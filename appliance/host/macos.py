"""macOS: unified memory, the part of it that Metal may have, the system's own pressure, and heat. No root.

Thin on purpose: the calls of libSystem and the commands are here, what they mean is in `macos_outputs`.
Tested only at that boundary, on recorded outputs and on structures as the headers document them.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence
from functools import partial

import psutil

from appliance.host import commands
from appliance.host import macos_outputs as outputs
from appliance.host.beside import Refreshed
from appliance.host.levels import Judged, human, swapping, worst
from appliance.host.rate import Rate
from reconciler.observed import MemoryObs

VM_STAT = ("/usr/bin/vm_stat",)
THERMAL = ("/usr/bin/notifyutil", "-g", "com.apple.system.thermalpressurelevel")
VM_STAT_EVERY_S, VM_STAT_KEEP_S = 2.0, 10.0
THERMAL_EVERY_S, THERMAL_KEEP_S = 5.0, 30.0
RATE_WINDOW_S = 4.0


def sysctl(name: str) -> bytes | None:
    """The raw value, by sysctlbyname(3): no process is started. None: this system has no such name."""
    library = ctypes.CDLL(None)
    buffer = ctypes.create_string_buffer(64)
    size = ctypes.c_size_t(len(buffer))
    if library.sysctlbyname(name.encode(), buffer, ctypes.byref(size), None, ctypes.c_size_t(0)) != 0:
        return None
    return buffer.raw[: size.value]


def rusage(pid: int) -> bytes | None:
    """A rusage_info_v0 by proc_pid_rusage; None when the process is gone."""
    buffer = ctypes.create_string_buffer(outputs.RUSAGE.size)
    gone = ctypes.CDLL(None).proc_pid_rusage(pid, outputs.RUSAGE_INFO_V0, buffer) != 0
    return None if gone else buffer.raw


class MacHost:
    """The parameters are the boundary: what tests put recorded values behind."""

    def __init__(
        self,
        value: Callable[[str], bytes | None] = sysctl,
        usage: Callable[[int], bytes | None] = rusage,
        execute: Callable[[Sequence[str]], str | None] = commands.run,
        available: Callable[[], int] = lambda: int(psutil.virtual_memory().available),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._value, self._usage, self._available = value, usage, available
        self._vm_stat = Refreshed(partial(execute, VM_STAT), VM_STAT_EVERY_S, VM_STAT_KEEP_S, clock)
        self._thermal = Refreshed(partial(execute, THERMAL), THERMAL_EVERY_S, THERMAL_KEEP_S, clock)
        self._paged_out = Rate(RATE_WINDOW_S)

    def read(self, working_set: int = 0) -> MemoryObs:
        """`iogpu.wired_limit_mb` is the operator's own limit for Metal; 0 means not set."""
        total = outputs.integer(self._value("hw.memsize")) or 0
        limit = (outputs.integer(self._value("iogpu.wired_limit_mb")) or 0) * 2**20
        level = outputs.pressure(self._value("kern.memorystatus_vm_pressure_level"))
        own: Judged = (level or "normal", f"kern.memorystatus_vm_pressure_level says {level}")
        system, why = worst(own, self._swapping())
        return MemoryObs(
            total_bytes=total,
            available_bytes=min(max(0, self._available()), total),
            source="physical memory" if total else "unknown: hw.memsize cannot be read",
            auto_bytes=min(limit or working_set or outputs.working_set(total), total),
            system=system,
            system_why=why,
            heat=self._heat(),
        )

    def footprint(self, pid: int) -> int:
        found = self._usage(pid)
        return 0 if found is None else outputs.physical_footprint(found)

    def _swapping(self) -> Judged:
        last = self._vm_stat.latest()
        if last is None:
            return swapping(None)
        at, output = last
        counts = outputs.vm_stat(output)
        rate = self._paged_out.add(at, outputs.paged_out(counts))
        more = ""
        if "Pages occupied by compressor" in counts:
            more += f", the compressor holds {human(counts['Pages occupied by compressor'])}"
        used = outputs.swap_used(self._value("vm.swapusage"))
        if used is not None:
            more += f", {human(used)} of swap are in use"
        return swapping(rate, more)

    def _heat(self) -> str | None:
        last = self._thermal.latest()
        return None if last is None else outputs.heat(last[1])
