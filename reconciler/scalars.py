"""Single values as the file's text gives them, before any field has looked at them."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable

_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]{1,30}|[0-9]{1,30}(?:\.[0-9]{0,30})?)(?:[eE][-+]?[0-9]{1,3})?\Z")
_PADDED = re.compile(r"[-+]?0[0-9]")
_CONSTANTS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


class Expanded(str):
    """Text in which environment references were replaced. `raw` is what the file says, for display."""

    raw: str

    def __new__(cls, value: str, raw: str) -> Expanded:
        self = super().__new__(cls, value)
        self.raw = raw
        return self


def resolve(text: str) -> object:
    """What an unquoted scalar means in YAML 1.2's core schema.

    YAML 1.1 also reads `no` as false, `1:30` as 90 and `010` as 8. Here they stay text, and a field
    that wants something else says so. Infinite numbers stay text too: no field can use them.
    """
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INTEGER.match(text):
        return int(text)
    if _FLOAT.match(text) and not _PADDED.match(text) and not text.lstrip("+-").isdecimal():
        number = float(text)
        return number if math.isfinite(number) else text
    return text


def finite(number: float) -> bool:
    return math.isfinite(number)


def describe(value: object) -> str:
    """A value as an error message names it. A reference stays unexpanded: it may hold a secret."""
    if isinstance(value, Expanded):
        return f"what {value.raw} holds"
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        return f"the text {value[:60] + '...' if len(value) > 60 else value!r}"
    return "a list" if isinstance(value, list | tuple) else "a map"


def closest(word: str, known: Iterable[str]) -> str:
    """The known word most like `word`, or nothing where none is near."""
    if len(word) > 64:  # comparing is quadratic, and such a word is no slip of the finger
        return ""
    by_fold = {name.casefold(): name for name in known}
    found = difflib.get_close_matches(word.casefold(), by_fold, n=1, cutoff=0.6)
    return by_fold[found[0]] if found else ""
