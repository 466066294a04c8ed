"""How much memory this machine has for models, and how much of it is free: one `read` for all platforms."""

from __future__ import annotations

import sys

from reconciler.observed import MemoryObs


def read() -> MemoryObs:
    """A fresh reading in bytes. `used_bytes` stays 0: what is ours, the supervisor knows.

    `total_bytes` is what the processes here may really use: a container's limit counts, not the RAM
    of the host around it. `source` says in words which of them it is.
    """
    if sys.platform == "darwin":
        from appliance.host import memory_macos

        return memory_macos.read()
    from appliance.host import memory_linux

    return memory_linux.read()
