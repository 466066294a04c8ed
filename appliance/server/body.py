"""From the bytes of a request to a checked structure, or an error that names the field.

Reading is bounded by `server.max_body` as it is now, so an edit of the spec counts for the next
request. Parsing has one fast path; only a body that fails it is looked at again, to say what is wrong.
"""

from __future__ import annotations

import difflib
import re
from typing import Any, TypeVar

import msgspec
from sanic.exceptions import PayloadTooLarge
from sanic.request import Request

from appliance.errors import ApiError
from appliance.server import schema
from appliance.server.connection import http_of, transport_of
from reconciler.units import format_size

# How much of a refused upload is read and thrown away, so that a client that is still sending gets to
# see the answer instead of a reset connection.
DISCARD = 64 * 1024**2

T = TypeVar("T")

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
_INNER = {"messages": schema.Message, "content": schema.Part, "stream_options": schema.StreamOptions}


async def read(request: Request, kind: type[T], limit: int, *, empty: T | None = None) -> T:
    """The body as a `kind`. `empty`: what a request without a body means, where that is allowed."""
    length = request.headers.getone("content-length", "0")
    bodiless = length == "0" and "transfer-encoding" not in request.headers
    if empty is not None and bodiless and "content-type" not in request.headers:
        return empty
    _check_headers(request)
    http_of(request).request_max_size = limit
    if length.isdecimal() and int(length) > limit:
        raise too_large(request, limit)
    try:
        await request.receive_body()  # type: ignore[no-untyped-call]
    except PayloadTooLarge as error:
        raise too_large(request, limit) from error
    # Sanic stops reading while its buffer is full and does not start again by itself once the body is
    # complete; a connection that is not read does not tell that the client has gone.
    if not transport_of(request).is_closing():
        transport_of(request).resume_reading()
    return parse(request.body, kind)


def too_large(request: Request, limit: int) -> ApiError:
    http = http_of(request)
    http.request_max_size = limit + DISCARD
    http.keep_alive = False
    if http.expecting_continue:  # the client waits for leave to send, and does not get it
        http.expecting_continue = False
        http.request_body = None
    return ApiError(
        "request_too_large",
        f"the body is over the limit of {format_size(limit)}; send less, or raise server.max_body",
    )


def _check_headers(request: Request) -> None:
    """JSON only: a web page can send any other type across sites without asking first."""
    given = request.headers.getone("content-type", "")
    kind, _, rest = given.lower().partition(";")
    charset = re.search(r"charset\s*=\s*\"?([^\s;\"]+)", rest)
    if kind.strip() != "application/json" or (charset and charset[1] not in ("utf-8", "utf8")):
        found = f"found {given[:80]!r}" if given else "it is missing"
        raise ApiError("invalid_request", f"the Content-Type header must be application/json; {found}")
    encoding = request.headers.getone("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise ApiError(
            "not_supported", f"Content-Encoding {encoding[:40]!r} is not supported; send plain JSON"
        )


def parse(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise _explain(str(error), kind) from error
    except RecursionError as error:
        raise ApiError("invalid_request", "the body is nested too deeply") from error
    except UnicodeDecodeError as error:
        raise ApiError("invalid_request", f"the body is not valid UTF-8 (byte {_bad_byte(body)})") from error
    except (msgspec.DecodeError, ValueError) as error:
        why = f"not valid JSON: {str(error).removeprefix('JSON is malformed: ')}" if body else "empty"
        raise ApiError("invalid_request", f"the body is {why}") from error


def _bad_byte(body: bytes) -> int:
    try:
        body.decode()
    except UnicodeDecodeError as error:
        return error.start
    return 0


def _explain(message: str, kind: type[Any]) -> ApiError:
    where = _WHERE.match(message)
    assert where is not None
    what, path = where["what"], (where["path"] or "").removeprefix(".")
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
