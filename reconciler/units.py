"""Quantities as people write them: durations, sizes and percentages, always with a unit.

`10` can mean seconds, minutes or bytes to three readers of one file, so no function here takes a
bare number. Every reader has a writer, and writing then reading gives back the same value.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

# One component each, largest first; the order is also the only order a compound may use.
DURATION_UNITS: dict[str, int] = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
SIZE_UNITS: dict[str, int] = {
    "B": 1,
    **{f"{prefix}iB": 1024**power for power, prefix in enumerate("KMGT", start=1)},
    **{f"{prefix}B": 1000**power for power, prefix in enumerate("KMGT", start=1)},
}

_NUMBER = r"[0-9]{1,18}(?:\.[0-9]{1,9})?"
# Patterns in the dialect that Python, JSON Schema and editors share; anchored, no look-behind.
DURATION_PATTERN = "^(?=[0-9])" + "".join(f"(?:{_NUMBER}{unit})?" for unit in DURATION_UNITS) + "$"
SIZE_PATTERN = f"^{_NUMBER}(?:[KMGT]i?)?B$"
SHARE_PATTERN = r"^[0-9]{1,3}(?:\.[0-9]{1,4})?%$"

_duration = re.compile(DURATION_PATTERN)
_component = re.compile(f"({_NUMBER})(ms|[dhms])")
_size = re.compile(f"^({_NUMBER})([KMGT]?i?B)$")
_share = re.compile(SHARE_PATTERN)


class TooFine(ValueError):
    """A duration that is no whole number of milliseconds."""


@dataclass(frozen=True, order=True)
class Share:
    """A part of a whole that the field names: `Share(0.85)` is written `85%`."""

    fraction: float

    def __str__(self) -> str:
        return format_share(self)


def parse_duration(text: str) -> float:
    """Seconds. Raises ValueError where `text` is not a duration, TooFine where it is under a millisecond."""
    if not _duration.fullmatch(text):
        raise ValueError(f"{text!r} is not a duration")
    parts = _component.findall(text)
    total = sum((Decimal(number) * DURATION_UNITS[unit] for number, unit in parts), Decimal(0))
    if total != total.to_integral_value():
        raise TooFine("a millisecond is the finest")
    return float(total / 1000)


def format_duration(seconds: float) -> str:
    """The shortest exact form: 5400.0 is `1h30m`. Rounds to whole milliseconds."""
    left = round(Decimal(str(seconds)) * 1000)
    text = ""
    for unit, size in DURATION_UNITS.items():
        count, left = divmod(left, size)
        text += f"{count}{unit}" if count else ""
    return text or "0s"


def parse_size(text: str) -> int:
    """Bytes, rounded down. Raises ValueError where `text` is not a size."""
    match = _size.fullmatch(text)
    if not match:
        raise ValueError(f"{text!r} is not a size")
    return int(Decimal(match[1]) * SIZE_UNITS[match[2]])


def format_size(size: int) -> str:
    """The largest unit that needs no fraction, binary before decimal: 536870912 is `512MiB`."""
    for unit, factor in sorted(SIZE_UNITS.items(), key=lambda item: -item[1]):
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return f"{size}B"


def parse_share(text: str) -> Share:
    """A percentage as a fraction. Raises ValueError where `text` is not one, or is over 100%."""
    if not _share.fullmatch(text):
        raise ValueError(f"{text!r} is not a percentage")
    percent = Decimal(text[:-1])
    if percent > 100:
        raise ValueError(f"{text!r} is over 100%")
    return Share(float(percent / 100))


def format_share(share: Share) -> str:
    percent = (Decimal(repr(share.fraction)) * 100).normalize()
    return f"{percent:f}%"


def respelt(text: str, read: Callable[[str], object]) -> str:
    """The spelling that `read` would take, if only spaces or capitals are wrong: `20 gib` is `20GiB`."""
    packed = "".join(text.split())
    upper = packed.upper()
    for guess in (packed, packed.lower(), upper, upper.replace("IB", "iB"), f"{upper}iB", f"{packed}B"):
        try:
            read(guess)
        except ValueError:
            continue
        return guess
    return ""
