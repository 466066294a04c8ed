"""Errors in Anthropic's shape, for its routes. Pure.

The stable `code` of the appliance, and the field a mistake is in, come as members of their own.
Source: the types of Anthropic's Python package (`anthropic.types.shared.ErrorResponse`), which know no word
for a body that is too large; that is an invalid request, and the status says the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from appliance.errors import ApiError

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "api_error",
}
_OVERLOADED = frozenset({"overloaded", "model_swapping", "no-model-loaded", "oom-unloaded"})


def spoken(path: str, headers: Mapping[str, str]) -> bool:
    """Whether a request is one of Anthropic's API. /v1/models is a path of OpenAI's too."""
    if path == "/v1/messages" or path.startswith("/v1/messages/"):
        return True
    return "anthropic-version" in headers and (path == "/v1/models" or path.startswith("/v1/models/"))


def body(error: ApiError, request_id: str) -> dict[str, Any]:
    if error.code in _OVERLOADED:
        kind = "overloaded_error"
    else:
        kind = _TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    said = {"type": kind, "message": error.message, "code": error.code, "param": error.param, **error.details}
    return {"type": "error", "error": said, "request_id": request_id}
