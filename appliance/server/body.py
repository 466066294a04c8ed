"""Reads the body of a request, within the limit.

The limit is `server.max_body` as it is now, so an edit of the spec counts for the next request.
"""

from __future__ import annotations

import asyncio
import re
from typing import TypeVar

from sanic.exceptions import PayloadTooLarge
from sanic.request import Request

from appliance.errors import ApiError
from appliance.server import scan
from appliance.server.connection import http_of, transport_of
from appliance.server.parse import parse
from reconciler.units import format_size

# How much of a refused upload is read and thrown away, so that a client that is still sending gets to
# see the answer instead of a reset connection.
DISCARD = 64 * 1024**2
SMALL = 32 * 1024  # bytes: up to here a body is looked through at once, in a millisecond or so

T = TypeVar("T")


async def read(request: Request, kind: type[T], limit: int, *, empty: T | None = None) -> T:
    """The body as a `kind`. `empty`: what a request without a body means, where that is allowed."""
    length = request.headers.getone("content-length", "0")
    nothing = length == "0" and not {"content-type", "transfer-encoding"} & set(request.headers)
    if empty is None or not nothing:
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
    if empty is not None and nothing:
        return empty
    body, request.body = request.body, b""  # not kept for as long as the answer takes
    return await decode(request, body, kind)


async def decode(request: Request, body: bytes, kind: type[T]) -> T:
    """JSON that came with this request, or on its connection."""
    if len(body) <= SMALL:
        scan.check(body)
    else:
        async with request.app.ctx.big_bodies:  # one at a time: they share one processor with all else
            await asyncio.to_thread(scan.check, body)
    return parse(body, kind)


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
