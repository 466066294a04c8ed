"""How much memory a process takes, as this system counts it: `host` says how."""

from __future__ import annotations

from appliance import host


def footprint(pid: int) -> int:
    """Bytes; 0 when the process is gone. Short: at most the rare full reading of `host.proportional`."""
    return host.platform().footprint(pid)
