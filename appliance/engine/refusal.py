"""Why a request cannot run."""

from __future__ import annotations

from typing import Any


class Refusal(Exception):
    """The fields are those of the Refused message."""

    def __init__(
        self, code: str, message: str, *, param: str | None = None, details: dict[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.details = details
