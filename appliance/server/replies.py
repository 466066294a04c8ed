"""Plain answers, and the one shape of every error."""

from __future__ import annotations

import logging
import math
import re
import secrets
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import msgspec
from sanic.exceptions import PayloadTooLarge, SanicException
from sanic.request import Request
from sanic.response import HTTPResponse

from appliance.errors import ApiError
from appliance.server.messages import errors

log = logging.getLogger("lmx.server")


def _plain(value: Any) -> Any:
    """What the control may hand over and JSON has no word for."""
    if isinstance(value, Mapping):  # a frozen one; dict itself is known
        return dict(value)
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")


_encoder = msgspec.json.Encoder(enc_hook=_plain)
encode = _encoder.encode

BEARER = 'Bearer realm="lmx"'
BASIC = 'Basic realm="LMX: any user, the API key as password", charset="UTF-8"'

# What Sanic itself refuses, by HTTP status.
_BY_STATUS = {404: "not_found", 405: "method_not_allowed", 413: "request_too_large"}


_REQUEST_ID = re.compile(r"^[A-Za-z0-9._:/+=@-]{1,128}$")


def request_id(request: Request) -> str:
    """The client's own id where it is harmless, else one of ours; the same all through one request."""
    known: str | None = getattr(request.ctx, "id", None)
    if known is None:
        given = request.headers.getone("x-request-id", "")
        known = request.ctx.id = given if _REQUEST_ID.match(given) else f"req_{secrets.token_hex(12)}"
    return known


def reply(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> HTTPResponse:
    return HTTPResponse(encode(value), status=status, headers=headers, content_type="application/json")


def as_api_error(request: Request, error: BaseException) -> ApiError:
    """What a client is told of `error`. Anything unforeseen is logged here and answered with 500."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, PayloadTooLarge) and request.method == "NONE":  # no request could be read
        return headers_too_large("the head of the request is over 16 KiB")
    if isinstance(error, SanicException) and error.status_code < 500:
        code = _BY_STATUS.get(error.status_code, "invalid_request")
        if code == "not_found":
            message = f"there is nothing at {request.path}; GET /status tells what this machine serves"
        elif code == "method_not_allowed":
            allowed = ", ".join(sorted(set(getattr(error, "allowed_methods", ()) or ())))
            message = f"{request.method} is not allowed on {request.path}; allowed: {allowed}"
        else:
            message = str(error)
        return ApiError(code, message)
    log.error(
        "request %s %s failed (request id %s)",
        request.method,
        request.path,
        request_id(request),
        exc_info=error,
    )
    return ApiError(
        "internal_error", f"an internal error; the log says more under request id {request_id(request)}"
    )


def headers_too_large(why: str) -> ApiError:
    """431: not the body, whose limit is another."""
    error = ApiError("request_too_large", f"{why}; send fewer or shorter headers")
    error.status = 431
    return error


def _asked_by_a_person(request: Request) -> bool:
    """Who opens a page in a browser is asked for the key there. A page's script is not: a browser sends along
    the key it was given, and a page left open must not pop up questions."""
    return request.method in ("GET", "HEAD") and "text/html" in request.headers.getone("accept", "")


def error_reply(request: Request, error: Exception) -> HTTPResponse:
    answer = as_api_error(request, error)
    if not answer.recorded:
        request.app.ctx.note(request, answer.code)
    headers = dict(answer.headers)
    if answer.code == "unauthorized":
        headers["www-authenticate"] = BASIC if _asked_by_a_person(request) else BEARER
    if answer.retry_after is not None:
        headers["retry-after"] = str(max(1, math.ceil(answer.retry_after)))
    if answer.code == "method_not_allowed" and isinstance(error, SanicException):
        headers.update({key: value for key, value in error.headers.items() if key.lower() == "allow"})
    if errors.spoken(request.path, request.headers):
        return reply(errors.body(answer, request_id(request)), answer.status, headers)
    return reply(answer.body(), answer.status, headers)
