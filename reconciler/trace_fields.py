"""How a trace words the fields of a reading: their names, and what stands there. Used by `trace` alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import Field
from typing import Any

from reconciler import names, units
from reconciler.readings import LEVELS, Reading


class Expected(ValueError):
    """A value of another form. The message completes "expected ..."."""


def key_of(kind: type, name: str) -> str:
    """What a trace calls a field."""
    return "t" if kind is Reading and name == "at" else name.removesuffix("_bytes")


def form_of(item: Field[Any]) -> Callable[[Any], Any]:
    """How a field of the records is read, from its name and its type."""
    kind = str(item.type)
    form: Callable[[Any], Any]
    if item.name.endswith("_bytes"):
        form = size
    elif item.name == "heat":
        form = _one_of(names.HEAT)
    elif item.name == "at" or (item.name.endswith("_s") and not item.name.endswith("_per_s")):
        form = seconds
    else:
        form = _FORMS[kind.removesuffix(" | None")]
    return optional(form) if kind.endswith(" | None") else form


def optional(form: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else form(value)


def _one_of(words: tuple[str, ...]) -> Callable[[Any], str]:
    def form(value: Any) -> str:
        if not isinstance(value, str) or value not in words:
            raise Expected(f"one of {', '.join(words)}")
        return value

    return form


def size(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    try:
        return units.parse_size(value if isinstance(value, str) else "")
    except ValueError:
        raise Expected("bytes as a whole number, or a size like 3.2GiB") from None


def seconds(value: Any) -> float:
    number = _finite(value)
    if number is not None:
        return number
    try:
        return units.parse_duration(value if isinstance(value, str) else "")
    except ValueError:
        raise Expected("seconds as a number, or a duration like 2m30s or 250ms") from None


def positive(value: Any) -> float:
    found = seconds(value)
    if found < 0.001:
        raise Expected("a duration of a millisecond or more, like 250ms")
    return found


def _number(value: Any) -> float:
    number = _finite(value)
    if number is None:
        raise Expected("a number")
    return number


def _finite(value: Any) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise Expected("a whole number, 0 or more")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Expected("true or false")
    return value


def text(value: Any) -> str:
    if not isinstance(value, str):
        raise Expected("text")
    return value


_FORMS: dict[str, Callable[[Any], Any]] = {
    "int": _count,
    "float": _number,
    "bool": _flag,
    "str": text,
    "Level": _one_of(LEVELS),
}
