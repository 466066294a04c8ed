"""From JSON to a checked structure, or an error that names the field. Pure.

There is one fast path; only a body that fails it is looked at again, to say what is wrong with it.
"""

from __future__ import annotations

import difflib
import re
from typing import Any, TypeVar

import msgspec

from appliance.errors import ApiError
from appliance.server import schema

T = TypeVar("T")

LONG = 1000

_WHERE = re.compile(r"^(?P<what>.*?)(?: - at (?:`key` in )?`\$(?P<path>.*)`)?$", re.DOTALL)
_UNKNOWN = re.compile(r"^Object contains unknown field `(?P<name>.*)`$", re.DOTALL)
_MISSING = re.compile(r"^Object missing required field `(?P<name>.*)`$")
_ENUM = re.compile(r"^Invalid enum value (?P<value>.*)$", re.DOTALL)
_TYPES = {
    "object": "an object",
    "array": "a list",
    "int": "a whole number",
    "float": "a number",
    "str": "a string",
    "bool": "true or false",
}
_INNER: dict[str, type[Any]] = {
    "messages": schema.Message,
    "content": schema.Part,
    "tool_calls": schema.ToolCall,
    "stream_options": schema.StreamOptions,
    "function": schema.Function,
    "json_schema": schema.JsonSchema,
}


def parse(body: bytes | msgspec.Raw, kind: type[T], at: str = "") -> T:
    """`at`: the field that `body` is the value of, where it is not a whole request."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        _check_json(body)  # a body that breaks off behind a wrong field is first of all broken
        raise _explain(str(error), kind, at) from error
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise _broken(body, error) from error


def _check_json(body: bytes | msgspec.Raw) -> None:
    try:
        msgspec.json.decode(body, type=msgspec.Raw)
        str(memoryview(body), "utf-8")
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise _broken(body, error) from error


def _broken(body: bytes | msgspec.Raw, error: Exception) -> ApiError:
    if isinstance(error, RecursionError):
        why = "nested too deeply"
    elif not len(memoryview(body)):
        why = "empty"
    elif isinstance(error, UnicodeDecodeError):
        why = f"not valid UTF-8: {error.reason}"
    else:
        why = f"not valid JSON: {str(error).removeprefix('JSON is malformed: ')}"
    return ApiError("invalid_request", f"the body is {why}")


def _explain(message: str, kind: type[Any], at: str) -> ApiError:
    if len(message) > LONG:  # it repeats what the client sent
        message = f"{message[: LONG // 2]}...{message[-LONG // 2 :]}"
    where = _WHERE.match(message)
    assert where is not None
    what, path = where["what"], (at + (where["path"] or "")).removeprefix(".")
    if unknown := _UNKNOWN.match(what):
        return _unknown_field(unknown["name"], path, kind)
    if missing := _MISSING.match(what):
        param = _join(path, missing["name"])
        return ApiError("invalid_request", f"{param} is required", param=param)
    if enum := _ENUM.match(what):
        what = f"{enum['value']} is not one of the values allowed here"
    elif expected := re.match(r"^Expected `(.*?)`(?:, got `(.*?)`)?$", what):
        wanted = " or ".join(_TYPES.get(name, name) for name in expected[1].split(" | "))
        found_type = f", found {_TYPES.get(expected[2], expected[2])}" if expected[2] else ""
        what = f"expected {wanted}{found_type}"
    else:
        what = what[:1].lower() + what[1:]
    return ApiError("invalid_request", f"{path or 'the body'}: {what}", param=path or None)


def _unknown_field(name: str, path: str, kind: type[Any]) -> ApiError:
    shown = name if len(name) <= 80 else f"{name[:77]}..."
    param = _join(path, shown)
    known = _fields_at(kind, path)
    near = difflib.get_close_matches(name[:80], known, n=1, cutoff=0.7)
    hint = f"; did you mean {near[0]}?" if near else ""
    return ApiError("not_supported", f"{param} is not supported{hint}", param=param)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _fields_at(kind: type[Any], path: str) -> tuple[str, ...]:
    """Names of the fields that the structure at `path` knows: what a misspelt one may have meant."""
    inner = path.rsplit(".", 1)[-1].split("[", 1)[0]
    fields: tuple[str, ...] = _INNER.get(inner, kind).__struct_fields__
    return fields
