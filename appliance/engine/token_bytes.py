"""The bytes that a single token stands for: half a character has no text of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mlx_lm.tokenizer_utils import BPEStreamingDetokenizer, SPMStreamingDetokenizer, _byte_decoder


def of(tokenizer: Any) -> Callable[[int], bytes]:
    """tokenizer: mlx-lm's TokenizerWrapper. Put together, the bytes of an answer's tokens are its text.

    But for a first space, which the tokenizers of some models add and their decoders drop.
    """
    inner = tokenizer.detokenizer
    if isinstance(inner, SPMStreamingDetokenizer):
        pieces = inner.tokenmap
        return lambda token: bytes(pieces[token].replace("\u2581".encode(), b" "))
    if isinstance(inner, BPEStreamingDetokenizer):
        names, known = inner.tokenmap, _byte_decoder()

        def written(token: int) -> bytes:
            name = names[token] if token < len(names) else ""
            return b"".join(bytes([known[c]]) if c in known else c.encode() for c in name)

        return written
    return lambda token: str(tokenizer.decode([token])).encode()
