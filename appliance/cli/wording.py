"""Numbers and times as people say them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any


def size(count: float) -> str:
    """Bytes, three digits or so: 13207024435 is `12.3 GiB`."""
    value, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"


def duration(seconds: float) -> str:
    """The largest unit and the one below it, where that is not nought: 11545 is `3h12m`, 90000 is `1d1h`."""
    left = max(0, round(seconds))
    units = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
    counts: list[tuple[int, str]] = []
    for unit, length in units:
        count, left = divmod(left, length)
        counts.append((count, unit))
    first = next((place for place, (count, _) in enumerate(counts) if count), len(counts) - 1)
    return "".join(
        f"{count}{unit}"
        for place, (count, unit) in enumerate(counts[first : first + 2])
        if count or not place
    )


def moment(value: Any) -> datetime | None:
    """A time of the status document: ISO 8601 text, or seconds since the epoch."""
    if isinstance(value, int | float):
        return datetime.fromtimestamp(value, UTC)
    if isinstance(value, str) and value:
        parsed = datetime.fromisoformat(value)
        return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
    return None


def clock(value: Any) -> str:
    """Local date and time, or `-`."""
    when = moment(value)
    return when.astimezone().strftime("%Y-%m-%d %H:%M:%S") if when else "-"


def ago(value: Any) -> str:
    when = moment(value)
    return f"{duration((datetime.now(UTC) - when).total_seconds())} ago" if when else "-"


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
