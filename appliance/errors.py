"""Every error a client can see: one class, a stable code, the HTTP status that goes with it.

The JSON shape is `{"error": {"message", "type", "param", "code"}}`. Clients retry 408, 409, 429 and
5xx by themselves, so those statuses are used only where a retry can help, with `Retry-After`.
"""

from __future__ import annotations

from typing import Any

# code -> (HTTP status, OpenAI error type)
CODES: dict[str, tuple[int, str]] = {
    "invalid_request": (400, "invalid_request_error"),
    "context_length_exceeded": (400, "invalid_request_error"),
    "unsupported_grammar": (400, "invalid_request_error"),
    "not_supported": (400, "invalid_request_error"),
    "unauthorized": (401, "authentication_error"),
    "forbidden": (403, "permission_error"),
    "managed_by_file": (403, "permission_error"),
    "model_not_found": (404, "invalid_request_error"),
    "not_found": (404, "invalid_request_error"),
    "method_not_allowed": (405, "invalid_request_error"),
    "request_too_large": (413, "invalid_request_error"),
    "rate_limited": (429, "rate_limit_error"),
    "internal_error": (500, "server_error"),
    "no-model-loaded": (503, "server_error"),
    "oom-unloaded": (503, "server_error"),
    "model_swapping": (503, "server_error"),
    "overloaded": (503, "server_error"),
    "engine_failed": (503, "server_error"),
    "skill_unavailable": (503, "server_error"),
    "gated": (403, "permission_error"),
    "offline": (503, "server_error"),
    "checksum_mismatch": (503, "server_error"),
    "download_failed": (503, "server_error"),
    "insufficient_memory": (507, "server_error"),
    "insufficient_storage": (507, "server_error"),
}


class ApiError(Exception):
    """An answer that is not a success.

    code: a key of `CODES`. retry_after: seconds, rounded up into the header. details: extra members
    of the error object, such as token counts. headers: further ones of the answer.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after: float | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.status, self.type = CODES[code]
        self.message = message
        self.param = param
        self.retry_after = retry_after
        self.details = details or {}
        self.headers: dict[str, str] = {}
        self.recorded = False  # the router has made a record of the request that it ended

    def body(self) -> dict[str, Any]:
        return {
            "error": {
                "message": self.message,
                "type": self.type,
                "param": self.param,
                "code": self.code,
                **self.details,
            }
        }
