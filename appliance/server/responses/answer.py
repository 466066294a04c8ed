"""A response, and the events of its stream as a `generate.Format`.

Source: the types `openai.types.responses.Response` and `ResponseStreamEvent` of OpenAI's Python package.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from appliance import wire
from appliance.errors import ApiError
from appliance.server.chunks import MARK, WARNING, escaped, text_bytes
from appliance.server.generate import Row, Source
from appliance.server.logprobs import chat_logprobs
from appliance.server.parts import Part, Parts
from appliance.server.replies import encode
from appliance.server.responses import items

if TYPE_CHECKING:
    from appliance.supervisor.generation import Delta

_PREFIX = {"reasoning": "rs_", "text": "msg_", "call": "fc_"}


class Shape:
    """What one response says of itself, and the form of its parts.

    said: members that repeat the request. sealed: reasoning comes as `encrypted_content` too.
    """

    def __init__(self, source: Source, said: dict[str, Any], *, sealed: bool, logprobs: bool) -> None:
        self.id = f"resp_{secrets.token_hex(16)}"
        self._members = {
            "id": self.id,
            "object": "response",
            "created_at": int(time.time()),
            "model": source.model,
            **said,
        }
        self._sealed = sealed
        self.logprobs = logprobs
        self._ids: dict[int, str] = {}

    def begun(self) -> dict[str, Any]:
        return self._response("in_progress", [])

    def ended(self, row: Row, parts: Parts) -> dict[str, Any]:
        """The whole of it."""
        full = row.finish == "stop"
        output = [self.item(part, "completed") for part in parts.found]
        if not full and output:
            output[-1]["status"] = "incomplete"
        made = self._response("completed" if full else "incomplete", output)
        made["usage"] = _usage(row)
        if full:
            made["completed_at"] = int(time.time())
        else:
            made["incomplete_details"] = {"reason": "max_output_tokens"}
        if parts.warning is not None:
            made[WARNING] = parts.warning
        return made

    def failed(self, error: ApiError, parts: Parts) -> dict[str, Any]:
        made = self._response("failed", [self.item(part, "incomplete") for part in parts.found])
        made["error"] = {"code": "server_error", "message": error.message}
        return made

    def name(self, part: Part) -> str:
        return self._ids.setdefault(part.number, _PREFIX[part.kind] + secrets.token_hex(16))

    def item(self, part: Part, status: str) -> dict[str, Any]:
        made: dict[str, Any] = {"id": self.name(part), "status": status}
        if part.kind == "call":
            call = {"call_id": part.id, "name": part.name, "arguments": part.text}
            return {"type": "function_call", **made, **call}
        if part.kind == "reasoning":
            made |= {"type": "reasoning", "summary": [], "content": [self.content(part)] if part.said else []}
            if self._sealed and status != "in_progress":
                made["encrypted_content"] = items.seal(part.text)
            return made
        content = [self.content(part)] if part.said else []
        return {"type": "message", "role": "assistant", **made, "content": content}

    def content(self, part: Part) -> dict[str, Any]:
        if part.kind == "reasoning":
            return {"type": "reasoning_text", "text": part.text}
        logprobs = chat_logprobs(part.logprobs)["content"] if self.logprobs else []
        return {"type": "output_text", "text": part.text, "annotations": [], "logprobs": logprobs}

    def _response(self, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            **self._members,
            "status": status,
            "output": output,
            "error": None,
            "incomplete_details": None,
            "usage": None,
        }


class Events:
    """The stream of one response. keep: is given the whole of it before its last event is sent."""

    def __init__(self, shape: Shape, keep: Callable[[dict[str, Any]], None]) -> None:
        self._shape = shape
        self._keep = keep
        self._parts = Parts()
        self._open: Part | None = None
        self._number = 0
        self._sides: tuple[bytes, bytes] = b"", b""  # of a piece of the text that is open

    def opening(self, rows: int) -> bytes:
        response = self._shape.begun()
        return self._event("response.created", {"response": response}) + self._event(
            "response.in_progress", {"response": response}
        )

    def delta(self, index: int, delta: Delta) -> bytes:
        return b"".join(
            self._piece(part, piece, logprobs) for part, piece, logprobs in self._parts.add(delta)
        )

    def closing(self, index: int, row: Row) -> bytes:
        return self._close("completed" if row.finish == "stop" else "incomplete")

    def ending(self, rows: Sequence[Row], per_prompt: int) -> bytes:
        response = self._shape.ended(rows[0], self._parts)
        self._keep(response)
        return self._event(f"response.{response['status']}", {"response": response})

    def failure(self, error: ApiError) -> bytes:
        said = {"code": error.code, "message": error.message, "param": error.param}
        response = self._shape.failed(error, self._parts)
        return self._event("error", said) + self._event("response.failed", {"response": response})

    def _piece(self, part: Part, piece: str, logprobs: list[wire.Logprob]) -> bytes:
        begun = b""
        if part is not self._open:
            begun = self._close("completed") + self._begin(part)
        if not piece:
            return begun
        if part.kind == "call":
            return begun + self._at("response.function_call_arguments.delta", part, {"delta": piece})
        if part.kind == "reasoning":
            return begun + self._in("response.reasoning_text.delta", part, {"delta": piece})
        if logprobs:
            said = {"delta": piece, "logprobs": _short(logprobs)}
            return begun + self._in("response.output_text.delta", part, said)
        before, after = self._sides
        self._number += 1
        return begun + before + text_bytes(piece) + after % (self._number - 1)

    def _begin(self, part: Part) -> bytes:
        self._open = part
        blank = Part(part.kind, part.number, part.id, part.name)
        added = self._event(
            "response.output_item.added",
            {"output_index": part.number, "item": self._shape.item(blank, "in_progress")},
        )
        if part.kind == "call":
            return added
        if part.kind == "text":
            self._sides = self._around(part)
        return added + self._in("response.content_part.added", part, {"part": self._shape.content(blank)})

    def _close(self, status: str) -> bytes:
        part, self._open = self._open, None
        if part is None:
            return b""
        item = self._shape.item(part, status)
        last = {"output_index": part.number, "item": item}
        if part.kind == "call":
            said = {"arguments": part.text}
            done = self._at("response.function_call_arguments.done", part, said)
        else:
            if part.kind == "text":
                whole: dict[str, Any] = {"text": part.text, "logprobs": _short(part.logprobs)}
                done = self._in("response.output_text.done", part, whole)
            else:
                done = self._in("response.reasoning_text.done", part, {"text": part.text})
            done += self._in("response.content_part.done", part, {"part": self._shape.content(part)})
        return done + self._event("response.output_item.done", last)

    def _around(self, part: Part) -> tuple[bytes, bytes]:
        """What stands before and behind the JSON string of a piece of text, with a place for its number."""
        kind = "response.output_text.delta"
        said = {"type": kind, **self._place(part), "content_index": 0, "logprobs": [], "delta": MARK}
        before, after = escaped(encode(said)).split(encode(MARK))
        assert after == b"}", after
        return b"event: %b\ndata: %b" % (kind.encode(), before), b',"sequence_number":%d}\n\n'

    def _place(self, part: Part) -> dict[str, Any]:
        return {"item_id": self._shape.name(part), "output_index": part.number}

    def _at(self, kind: str, part: Part, said: dict[str, Any]) -> bytes:
        return self._event(kind, {**self._place(part), **said})

    def _in(self, kind: str, part: Part, said: dict[str, Any]) -> bytes:
        return self._at(kind, part, {"content_index": 0, **said})

    def _event(self, kind: str, said: dict[str, Any]) -> bytes:
        event = {"type": kind, "sequence_number": self._number, **said}
        self._number += 1
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), escaped(encode(event)))


def _usage(row: Row) -> dict[str, Any]:
    return {
        "input_tokens": row.prompt_tokens,
        "input_tokens_details": {"cached_tokens": row.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": row.tokens,
        "output_tokens_details": {"reasoning_tokens": row.reasoning_tokens},
        "total_tokens": row.prompt_tokens + row.tokens,
    }


def _short(tokens: Sequence[wire.Logprob]) -> list[dict[str, Any]]:
    """As events of a text carry them: without the bytes."""
    return [
        {**_without(one), "top_logprobs": [_without(other) for other in one["top_logprobs"]]}
        for one in chat_logprobs(tokens)["content"]
    ]


def _without(one: dict[str, Any]) -> dict[str, Any]:
    return {"token": one["token"], "logprob": one["logprob"]}
