"""An answer in Anthropic's shape: the message, and the events of its stream as a `generate.Format`.

Source: the types `anthropic.types.Message` and `RawMessageStreamEvent` of Anthropic's Python package.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from appliance.errors import ApiError
from appliance.server.chunks import MARK, WARNING, escaped, text_bytes
from appliance.server.generate import Answer, Row, Source
from appliance.server.messages import errors
from appliance.server.parts import Part, Parts
from appliance.server.replies import encode

if TYPE_CHECKING:
    from appliance.supervisor.generation import Delta

PING = b'event: ping\ndata: {"type":"ping"}\n\n'


def whole(source: Source, answer: Answer, *, hidden: bool, room: int | None = None) -> dict[str, Any]:
    """hidden: what was thought is left out of its block, as the client asked for. room: see `window`."""
    parts = Parts.of(answer)
    message = _message(source.model, _usage(answer))
    message["content"] = [_block(part, hidden=hidden) for part in parts.found]
    message |= _stopped(answer, room)
    if parts.warning is not None:
        message[WARNING] = parts.warning
    if answer.finish == "length" and parts.found and parts.found[-1].kind == "call":
        cut = parts.found[-1]  # its input would have to be an object, and is none yet
        message[WARNING] = f"the call of {cut.name} was cut off; it begins: {cut.text}"
    return message


class Events:
    """The stream of one message."""

    def __init__(self, source: Source, request_id: str, *, hidden: bool, room: int | None = None) -> None:
        self._source = source
        self._request_id = request_id
        self._hidden = hidden
        self._room = room
        self._parts = Parts()
        self._open: Part | None = None
        self._sides: tuple[bytes, bytes] = b"", b""  # of a piece of the text that is open

    def opening(self, rows: int) -> bytes:
        source = self._source
        usage = _tokens(source.prompt_tokens, source.cached_tokens, 0)
        return _event({"type": "message_start", "message": _message(source.model, usage)}) + PING

    def delta(self, index: int, delta: Delta) -> bytes:
        if delta.more is None and self._open is not None and self._open.kind == "text":
            if not delta.text:
                return b""
            before, after = self._sides
            return before + text_bytes(delta.text) + after
        return b"".join(self._piece(part, piece) for part, piece, _ in self._parts.add(delta))

    def closing(self, index: int, row: Row) -> bytes:
        return self._close()

    def ending(self, rows: Sequence[Row], per_prompt: int) -> bytes:
        row = rows[0]
        event = {"type": "message_delta", "delta": _stopped(row, self._room), "usage": _usage(row)}
        if self._parts.warning is not None:
            event[WARNING] = self._parts.warning
        return _event(event) + _event({"type": "message_stop"})

    def failure(self, error: ApiError) -> bytes:
        return _event(errors.body(error, self._request_id), "error")

    def _piece(self, part: Part, piece: str) -> bytes:
        begun = b""
        if part is not self._open:
            begun = self._close() + self._begin(part)
        if not piece or (part.kind == "reasoning" and self._hidden):
            return begun
        if part.kind == "text":
            before, after = self._sides
            return begun + before + text_bytes(piece) + after
        if part.kind == "reasoning":
            return begun + _delta(part, {"type": "thinking_delta", "thinking": piece})
        return begun + _delta(part, {"type": "input_json_delta", "partial_json": piece})

    def _begin(self, part: Part) -> bytes:
        self._open = part
        if part.kind == "text":
            mark = _delta(part, {"type": "text_delta", "text": MARK})
            before, after = mark.split(encode(MARK))
            self._sides = before, after
        block = _block(Part(part.kind, part.number, part.id, part.name), hidden=False)
        if part.kind == "reasoning":
            block["signature"] = ""
        return _event({"type": "content_block_start", "index": part.number, "content_block": block})

    def _close(self) -> bytes:
        part, self._open = self._open, None
        if part is None:
            return b""
        signed = b""
        if part.kind == "reasoning":
            signed = _delta(part, {"type": "signature_delta", "signature": _signature(part.text)})
        return signed + _event({"type": "content_block_stop", "index": part.number})


def _message(model: str, usage: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": f"msg_{secrets.token_hex(12)}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {**usage, "service_tier": "standard"},
    }


def _block(part: Part, *, hidden: bool) -> dict[str, Any]:
    if part.kind == "text":
        return {"type": "text", "text": part.text}
    if part.kind == "reasoning":
        thinking = "" if hidden else part.text
        return {"type": "thinking", "thinking": thinking, "signature": _signature(part.text)}
    return {"type": "tool_use", "id": part.id, "name": part.name, "input": _arguments(part.text)}


def _arguments(text: str) -> dict[str, Any]:
    """An object, as the engine promises. One that was cut off by max_tokens is none: its pieces are shown."""
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _signature(thought: str) -> str:
    """Clients expect one, and send it back. It proves nothing here, and is not looked at."""
    return hashlib.blake2b(thought.encode("utf-8", "replace"), digest_size=16).hexdigest()


def _stopped(row: Row, room: int | None) -> dict[str, Any]:
    if row.finish == "length":
        reason = "max_tokens" if room is None else "model_context_window_exceeded"
    elif row.called:
        reason = "tool_use"
    else:
        reason = "end_turn" if row.stop is None else "stop_sequence"
    return {"stop_reason": reason, "stop_sequence": row.stop if reason == "stop_sequence" else None}


def _usage(row: Row) -> dict[str, Any]:
    usage = _tokens(row.prompt_tokens, row.cached_tokens, row.tokens)
    if row.reasoning_tokens:
        usage["output_tokens_details"] = {"thinking_tokens": row.reasoning_tokens}
    return usage


def _tokens(prompt: int, cached: int, output: int) -> dict[str, Any]:
    """What came out of the cache does not count as input, and putting in costs nothing."""
    return {
        "input_tokens": prompt - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": output,
    }


def _delta(part: Part, delta: dict[str, Any]) -> bytes:
    return _event({"type": "content_block_delta", "index": part.number, "delta": delta})


def _event(event: dict[str, Any], name: str | None = None) -> bytes:
    return b"event: %b\ndata: %b\n\n" % ((name or event["type"]).encode(), escaped(encode(event)))
