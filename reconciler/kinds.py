"""What one value in the spec may be: how it is read, written back, and described by a JSON Schema.

A `Kind` sits in a field's annotation. Its messages are the product: they say what was expected, give
an example, and tell the fix. Values built in Python may already be parsed (`idle_timeout=1800.0`);
values from a file may not, because a bare number there has no unit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import core_schema

from reconciler.scalars import Expanded, closest, describe, finite, resolve

FROM_FILE = {"from_file": True}  # validation context: refuse values that are already parsed


class Wrong(ValueError):
    """A value that a field cannot take.

    suggestion: the word that was probably meant.
    close: the form was right, the value was not; where several forms are allowed, this one was meant.
    units: for a bare number, what it may have meant, like `54GiB or 54MB`.
    items: for a list, what is wrong with which item; the message itself is then not shown.
    """

    def __init__(
        self,
        message: str,
        *,
        suggestion: str = "",
        close: bool = False,
        units: str = "",
        items: Mapping[int, Wrong] | None = None,
    ) -> None:
        super().__init__(message)
        self.suggestion = suggestion
        self.close = close
        self.units = units
        self.items = dict(items or {})


class Kind:
    """Base of all kinds. `what` completes "expected ..."; `schema` is a JSON Schema fragment."""

    what: str
    example: str = ""
    schema: dict[str, Any]

    def parse(self, value: Any) -> Any:
        """The value a field holds, from what the YAML says. Raises `Wrong`."""
        raise NotImplementedError

    def native(self, value: Any) -> bool:
        """Whether Python code gave a value that needs no parsing."""
        return False

    def show(self, value: Any) -> Any:
        """The value as the YAML would say it."""
        return value

    def wrong(self, value: object, more: str = "", *, suggestion: str = "", close: bool = False) -> Wrong:
        like = f", like {self.example}" if self.example else ""
        return Wrong(
            f"expected {self.what}{like}; found {describe(value)}{more}", suggestion=suggestion, close=close
        )

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.with_info_plain_validator_function(self._validate)

    def _validate(self, value: Any, info: core_schema.ValidationInfo[Any]) -> Any:
        from_file = bool(info.context and info.context.get("from_file"))
        return value if not from_file and self.native(value) else self.parse(value)


def bare_number(value: object, units: str) -> Wrong:
    """The refusal of a number without a unit. What a reference holds is not shown."""
    if isinstance(value, Expanded):
        return Wrong(f"{value.raw} holds a bare number, which has no unit", units=units)
    return Wrong(f"a bare number has no unit; write {units}", units=units)


class Text(Kind):
    """Text as it stands. `pattern` is a full match in the dialect JSON Schema shares."""

    def __init__(
        self,
        what: str,
        example: str,
        check: Callable[[str], str | None] | None = None,
        *,
        pattern: str | None = None,
        most: int = 4096,
    ) -> None:
        self.what, self.example, self.check, self.most = what, example, check, most
        self.schema = {"type": "string", "minLength": 1, "maxLength": most}
        if pattern:
            self.schema["pattern"] = pattern

    def parse(self, value: Any) -> str:
        if isinstance(value, bool | int | float):
            raise self.wrong(value, "; put it in quotes")
        if not isinstance(value, str):
            raise self.wrong(value)
        if not value.strip() or len(value) > self.most:
            raise self.wrong(value, f"; it must hold 1 to {self.most} characters", close=True)
        advice = self.check(str(value)) if self.check else None
        if advice is not None:
            raise self.wrong(value, f"; {advice}", close=True)
        return str(value)


class Whole(Kind):
    """An integer between two bounds, both included."""

    def __init__(self, low: int, high: int, example: str) -> None:
        self.what, self.example, self.low, self.high = "a whole number", example, low, high
        self.schema = {"type": "integer", "minimum": low, "maximum": high}

    def parse(self, value: Any) -> int:
        found = resolve(value) if isinstance(value, Expanded) else value
        if isinstance(found, bool) or not isinstance(found, int):
            padded = isinstance(found, str) and found.isdecimal() and found.startswith("0")
            raise self.wrong(value, "; write it without leading zeros" if padded else "")
        if not self.low <= found <= self.high:
            raise Wrong(f"must be between {self.low} and {self.high}; found {describe(value)}", close=True)
        return found


class Number(Kind):
    """A number between two bounds, both included."""

    def __init__(self, low: float, high: float, example: str) -> None:
        self.what, self.example, self.low, self.high = "a number", example, low, high
        self.schema = {"type": "number", "minimum": low, "maximum": high}

    def parse(self, value: Any) -> float:
        found = resolve(value) if isinstance(value, Expanded) else value
        if isinstance(found, bool) or not isinstance(found, int | float) or not finite(found):
            raise self.wrong(value)
        if not self.low <= found <= self.high:
            raise Wrong(
                f"must be between {self.low:g} and {self.high:g}; found {describe(value)}", close=True
            )
        return float(found)


class Flag(Kind):
    """true or false. `yes`, `no`, `on` and `off` are text here; the message offers the right word."""

    what, example = "true or false", "true"
    schema = {"type": "boolean"}  # noqa: RUF012 - read-only by convention, as in every kind

    def parse(self, value: Any) -> bool:
        found = resolve(value) if isinstance(value, Expanded) else value
        if isinstance(found, bool):
            return found
        word = str(found).casefold()
        meant = (
            "true" if word in ("yes", "on", "y", "1") else "false" if word in ("no", "off", "n", "0") else ""
        )
        raise Wrong(f"expected true or false; found {describe(value)}", suggestion=meant)


class Choice(Kind):
    """One of a few fixed words or numbers."""

    def __init__(self, *options: str | int) -> None:
        words = [str(option) for option in options]
        self.what = " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
        self.options = options
        self.schema = {"enum": list(options)} if len(options) > 1 else {"const": options[0]}

    def parse(self, value: Any) -> str | int:
        readings = [str(value), resolve(value)] if isinstance(value, Expanded) else [value]
        for option in self.options:
            if any(type(option) is type(found) and option == found for found in readings):
                return option
        meant = closest(value, map(str, self.options)) if isinstance(value, str) else ""
        raise self.wrong(value, suggestion=meant)


class Either(Kind):
    """The first of several kinds that reads the value, so that no two may read the same text."""

    def __init__(self, *kinds: Kind) -> None:
        self.kinds = kinds
        self.what = ", or ".join(
            f"{kind.what}, like {kind.example}" if kind.example else kind.what for kind in kinds
        )
        self.schema = {"anyOf": [kind.schema for kind in kinds]}

    def parse(self, value: Any) -> Any:
        errors = []
        for kind in self.kinds:
            try:
                return kind.parse(value)
            except Wrong as error:
                errors.append(error)
        if isinstance(self.kinds[0], Null) and len(errors) == 2:
            raise errors[1]  # null was not meant; the other kind's own words are the better ones
        units = [error.units for error in reversed(errors) if error.units]
        if units:
            raise bare_number(value, " or ".join(units))
        meant = next((error for error in errors if error.close or error.items), None)
        suggestion = next((error.suggestion for error in errors if error.suggestion), "")
        raise meant or self.wrong(value, suggestion=suggestion)

    def native(self, value: Any) -> bool:
        return any(kind.native(value) for kind in self.kinds)

    def show(self, value: Any) -> Any:
        kind = next((kind for kind in self.kinds if kind.native(value)), None)
        return kind.show(value) if kind else list(value) if isinstance(value, tuple) else value


class Null(Kind):
    """Nothing, said on purpose."""

    what = "null"
    schema = {"type": "null"}  # noqa: RUF012

    def parse(self, value: Any) -> None:
        if value is not None:
            raise self.wrong(value)

    def native(self, value: Any) -> bool:
        return value is None


class Listed(Kind):
    """A list of one kind, kept as a tuple. Every wrong item is reported, not only the first."""

    def __init__(self, kind: Kind, *, most: int = 256, unique: bool = True) -> None:
        self.kind, self.most, self.unique = kind, most, unique
        self.what, self.example = "a list", f"[{kind.example or kind.what.split(',')[0]}]"
        self.schema = {"type": "array", "items": kind.schema, "maxItems": most, "uniqueItems": unique}

    def parse(self, value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple):
            raise self.wrong(
                value, f"; write [{value}]" if isinstance(value, str) and len(value) < 60 else ""
            )
        if len(value) > self.most:
            raise Wrong(f"must hold at most {self.most} items; found {len(value)}", close=True)
        found: list[Any] = []
        wrong: dict[int, Wrong] = {}
        for index, item in enumerate(value):
            try:
                parsed = self.kind.parse(item)
                if self.unique and parsed in found:
                    wrong[index] = Wrong(f"{item!r} is here twice; remove one")
                found.append(parsed)
            except Wrong as error:
                wrong[index] = error
        if wrong:
            raise Wrong("items are wrong", items=wrong)
        return tuple(found)

    def native(self, value: Any) -> bool:
        return isinstance(value, tuple) and all(self.kind.native(item) for item in value)

    def show(self, value: Any) -> Any:
        return [self.kind.show(item) for item in value]


class Maps(Kind):
    """A list of free-form maps, such as chat messages: passed on as they are."""

    what, example = "a list of maps", "[{role: user, content: ping}]"
    schema = {"type": "array", "items": {"type": "object"}}  # noqa: RUF012

    def parse(self, value: Any) -> tuple[dict[str, Any], ...]:
        if not isinstance(value, list | tuple) or not all(isinstance(item, dict) for item in value):
            raise self.wrong(value)
        return tuple(_settled(item) for item in value)

    def show(self, value: Any) -> Any:
        return list(value)


def _settled(value: Any) -> Any:
    """Free-form data with nothing but JSON's own types in it."""
    if isinstance(value, dict):
        return {str(key): _settled(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_settled(item) for item in value]
    return str(value) if isinstance(value, Expanded) else value
