"""Times and sizes in words, for a page. Pure."""

from __future__ import annotations

from datetime import UTC, datetime

_STEPS = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min"))


def span(seconds: float) -> str:
    """42 s, 7 min, 3 h, 12 d: one figure is enough to know whether to hurry."""
    seconds = max(0.0, seconds)
    for size, unit in _STEPS:
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def ago(at: float, now: float) -> str:
    return "now" if now - at < 1.0 else f"{span(now - at)} ago"


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
