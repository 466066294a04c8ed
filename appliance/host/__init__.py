"""The machine: its memory, its heat, and what a process takes of it. One protocol, one module per platform.

docs/measuring.md says where each figure comes from and how old it may be.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import Protocol

from reconciler.observed import MemoryObs


class Host(Protocol):
    """Both calls are made on the event loop, four times a second, so they take a fraction of a millisecond:
    what is slow is refreshed in a thread, and the last result given. Neither raises because the system said
    nonsense: what cannot be had is 0 or None."""

    def read(self, working_set: int = 0) -> MemoryObs:
        """The machine now, in bytes. `used_bytes` and `at` stay 0: what is ours, the caller knows.

        working_set: Metal's recommended working set as an engine reported it; 0 where none has.
        """
        ...

    def footprint(self, pid: int) -> int:
        """Bytes that the system charges to a process; 0 when it is gone."""
        ...


@cache
def platform() -> Host:
    """The host of this system: one for the process, because rates are told from two readings."""
    if sys.platform == "darwin":
        from appliance.host.macos import MacHost

        return MacHost()
    from appliance.host.linux import LinuxHost

    return LinuxHost()
