"""Why a download ended without its files: one exception, one code each."""

from __future__ import annotations

# code -> whether the same request cannot do better until somebody changes something
CODES: dict[str, bool] = {
    "not_found": True,  # no such repo, or private and no token
    "revision_not_found": True,
    "gated": True,  # its owner must grant access on the Hub first
    "unauthorized": True,  # the token was refused
    "unsupported": True,  # nothing in it that LMX could load
    "unsafe": True,  # a listing with names that point outside the model's folder
    "offline": False,  # HF_HUB_OFFLINE is set
    "insufficient_storage": False,
    "storage": False,  # the cache cannot be written or locked
    "checksum_mismatch": False,
    "network": False,
    "interrupted": False,  # the downloading process ended without a word
}


class FetchError(Exception):
    """message: for people, and says what to do. detail of a token never appears in it."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.permanent = CODES[code]
