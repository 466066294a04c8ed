"""Kinds of value that carry a unit: durations, sizes and percentages."""

from __future__ import annotations

from typing import Any, TypeGuard

from reconciler import units
from reconciler.kinds import Kind, Wrong, bare_number
from reconciler.scalars import Expanded, describe, resolve
from reconciler.units import Share


class Quantity(Kind):
    """Text with a unit, between two bounds that are written the same way."""

    pattern: str

    def __init__(self, low: str, high: str) -> None:
        self.low, self.high = self.read(low), self.read(high)
        self.schema = {"type": "string", "pattern": self.pattern}

    def read(self, text: str) -> Any:
        """The value of a text. Raises ValueError."""
        raise NotImplementedError

    def meant(self, number: float) -> str:
        """What a bare number was probably meant to be."""
        raise NotImplementedError

    def parse(self, value: Any) -> Any:
        number = resolve(value) if isinstance(value, Expanded) else value
        if _is_number(number):
            raise bare_number(value, self.meant(number))
        if not isinstance(value, str):
            raise self.wrong(value)
        try:
            found = self.read(value)
        except units.TooFine as error:
            raise self.wrong(value, f"; {error}") from None
        except ValueError:
            near = "" if isinstance(value, Expanded) else units.respelt(value, self.read)
            raise self.wrong(value, suggestion=near) from None
        if not self.low <= found <= self.high:
            low, high = self.show(self.low), self.show(self.high)
            raise Wrong(f"must be between {low} and {high}; found {describe(value)}", close=True)
        return found


class Duration(Quantity):
    """Seconds as a float, written `250ms`, `30m`, `1h30m`."""

    what, example, pattern = "a duration with a unit", "30m", units.DURATION_PATTERN

    def __init__(self, low: str = "0s", high: str = "365d") -> None:
        super().__init__(low, high)

    def read(self, text: str) -> float:
        return units.parse_duration(text)

    def show(self, value: Any) -> str:
        return units.format_duration(value)

    def meant(self, number: float) -> str:
        return f"{number:g}s or {number:g}m"

    def native(self, value: Any) -> bool:
        return _is_number(value)


class Size(Quantity):
    """Bytes as an integer, written `20GiB` or `500MB`."""

    what, example, pattern = "a size with a unit", "20GiB", units.SIZE_PATTERN

    def __init__(self, low: str = "0B", high: str = "1024TiB") -> None:
        super().__init__(low, high)

    def read(self, text: str) -> int:
        return units.parse_size(text)

    def show(self, value: Any) -> str:
        return units.format_size(value)

    def meant(self, number: float) -> str:
        return f"{number:g}GiB or {number:g}MB"

    def native(self, value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool)


class Percentage(Quantity):
    """A `Share`, written `85%`."""

    what, example, pattern = "a percentage", "85%", units.SHARE_PATTERN

    def __init__(self, low: str = "0%", high: str = "100%") -> None:
        super().__init__(low, high)

    def read(self, text: str) -> Share:
        return units.parse_share(text)

    def show(self, value: Any) -> str:
        return units.format_share(value)

    def meant(self, number: float) -> str:
        return f"{number * 100:g}%" if 0 < number < 1 else f"{number:g}%"

    def native(self, value: Any) -> bool:
        return isinstance(value, Share)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
