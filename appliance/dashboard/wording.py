"""Times and sizes in words, for a page. Pure. `ago` is written again in dashboard.js, which counts on."""

from __future__ import annotations

from datetime import UTC, datetime

_STEPS = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min"))


def span(seconds: float) -> str:
    """42 s, 7 min, 3 h, 12 d: one figure is enough to know whether to hurry."""
    seconds = max(0.0, seconds)
    for size, unit in _STEPS:
        if seconds >= size:
            return f"{int(seconds / size)} {unit}"
    return f"{int(seconds)} s"


def ago(at: float, now: float) -> str:
    """Below a minute in steps of five seconds: a page of counting seconds is no calm page."""
    seconds = now - at
    if seconds < 5.0:
        return "now"
    return f"{span(seconds if seconds >= 60.0 else seconds // 5 * 5)} ago"


def moment(at: float) -> str:
    """For machines, and for whoever points at it."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def size(nbytes: float) -> str:
    value = float(nbytes)
    for unit in ("B", "KiB", "MiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 10 else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def count(number: int) -> str:
    """131072 as 131,072."""
    return f"{number:,}"
