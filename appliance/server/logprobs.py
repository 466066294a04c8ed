"""Log-probabilities in the shapes of OpenAI's two endpoints. Pure.

A token is bytes, and need not be whole characters: a character may lie over several tokens. Its `token` is
then written with the replacement character, and `bytes` has what it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from appliance import wire


def chat_logprobs(tokens: Sequence[wire.Logprob]) -> dict[str, Any]:
    """`logprobs` of a chat choice."""
    content = [
        {**_one(found.token, found.logprob), "top_logprobs": [_one(*other) for other in found.top]}
        for found in tokens
    ]
    return {"content": content, "refusal": None}


class Offsets:
    """`logprobs` of a completion choice, piece by piece: offsets count on from the last piece."""

    def __init__(self) -> None:
        self._at = 0

    def next(self, tokens: Sequence[wire.Logprob]) -> dict[str, Any]:
        """text_offset: where each token begins, in characters of the answer."""
        offsets = []
        for found in tokens:
            offsets.append(self._at)
            # A character counts where it begins: the bytes that carry one on are 10xxxxxx.
            self._at += sum(byte & 0xC0 != 0x80 for byte in found.token)
        return {
            "tokens": [_text(found.token) for found in tokens],
            "token_logprobs": [found.logprob for found in tokens],
            "top_logprobs": [
                {_text(token): value for token, value in reversed(found.top)} for found in tokens
            ],
            "text_offset": offsets,
        }


def _one(token: bytes, logprob: float) -> dict[str, Any]:
    return {"token": _text(token), "logprob": logprob, "bytes": list(token)}


def _text(token: bytes) -> str:
    return token.decode(errors="replace")
