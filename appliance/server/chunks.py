"""OpenAI's two stream formats, Chat Completions and Completions, as a `generate.Format`.

All of an event but its text is known when the stream begins, so it is encoded once per row; per event
only the text is, and three byte strings are joined. What few deltas have (reasoning, calls,
log-probabilities, a warning) takes the plain way.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from appliance import wire
from appliance.errors import ApiError
from appliance.server.generate import Call, Row
from appliance.server.logprobs import Offsets, chat_logprobs
from appliance.server.replies import encode
from appliance.skills.steps import Told

if TYPE_CHECKING:
    from appliance.server.generate import Source
    from appliance.supervisor.generation import Delta

MARK = "\x00text\x00"
SKILLS = "lmx_skills"  # our own member of a delta or message: calls that LMX runs
WARNING = "lmx_warning"  # our own member of a choice: what went wrong without an error

Family = Literal["chat", "text"]
_ID = {"chat": "chatcmpl-", "text": "cmpl-"}


def sse(data: bytes) -> bytes:
    """One event of Server-Sent Events."""
    return b"data: %b\n\n" % data


DONE = sse(b"[DONE]")


@dataclass(frozen=True)
class Head:
    """What all chunks of one answer share."""

    family: Family
    id: str
    created: int
    model: str
    engine_id: str
    usage: bool = False  # stream_options.include_usage: null in every chunk, the figures in the last

    @classmethod
    def of(cls, family: Family, source: Source, *, usage: bool = False, id: str | None = None) -> Head:
        """id: the client's own; else one is made."""
        name = _ID[family] + secrets.token_hex(12) if id is None else id
        return cls(family, name, int(time.time()), source.model, source.engine_id, usage)

    def members(self, *, chunk: bool) -> dict[str, Any]:
        kind = "text_completion" if self.family == "text" else "chat.completion" + (".chunk" if chunk else "")
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": f"fp_{self.engine_id}",
        }


class Chunks:
    """The events of one stream. frame: what makes an event of a chunk's JSON. done: what comes last."""

    def __init__(self, head: Head, *, frame: Callable[[bytes], bytes] = sse, done: bytes = DONE) -> None:
        self._head = head
        self._chat = head.family == "chat"
        self._members = head.members(chunk=True)
        self._frame = frame
        self._done = done
        self._around: dict[int, tuple[bytes, bytes]] = {}
        self._offsets: dict[int, Offsets] = {}

    def opening(self, rows: int) -> bytes:
        """A real delta of each choice, before the first token: some clients wait for one."""
        body = {"delta": {"role": "assistant", "content": ""}} if self._chat else {"text": ""}
        return b"".join(self._event(i, body) for i in range(rows))

    def delta(self, index: int, delta: Delta) -> bytes:
        if delta.more is not None:
            return self._full(index, delta.text, delta.more)
        if not delta.text:
            return b""
        before, after = self._around.get(index) or self._sides(index)
        return self._frame(before + text_bytes(delta.text) + after)

    def closing(self, index: int, row: Row) -> bytes:
        return self._event(index, {"delta": {}} if self._chat else {"text": ""}, finish=finish_of(row))

    def ending(self, rows: Sequence[Row], per_prompt: int) -> bytes:
        if not self._head.usage:
            return self._done
        usage = usage_of(rows, per_prompt)
        return self._frame(encode({**self._members, "choices": [], "usage": usage})) + self._done

    def failure(self, error: ApiError) -> bytes:
        """An error event, and no [DONE]."""
        return self._frame(encode(error.body()))

    def _sides(self, index: int) -> tuple[bytes, bytes]:
        """What stands before and after the JSON string of a piece of text."""
        body = {"delta": {"content": MARK}} if self._chat else {"text": MARK}
        before, after = encode(self._chunk(index, body)).split(encode(MARK))
        self._around[index] = before, after
        return before, after

    def _full(self, index: int, text: str, more: wire.More) -> bytes:
        """One event per kind, in the delta's order. The first carries what belongs to all of it."""
        bodies: list[dict[str, Any]]
        if self._chat:
            deltas: list[dict[str, Any]] = []
            if more.reasoning:
                deltas.append({"reasoning_content": more.reasoning})
            if text or (more.logprobs and not (more.reasoning or more.calls)):
                deltas.append({"content": text})
            if more.calls:
                deltas.append({"tool_calls": [_part(part) for part in more.calls]})
            if isinstance(more, Told) and more.steps:
                deltas.append({SKILLS: [step.shown() for step in more.steps]})
            if not deltas and more.warning is None:  # it only counts what came before
                return b""
            bodies = [{"delta": delta} for delta in deltas or [{}]]
            if more.logprobs:
                bodies[0]["logprobs"] = chat_logprobs(more.logprobs)
        else:
            bodies = [{"text": text}]
            if more.logprobs:
                bodies[0]["logprobs"] = self._offsets.setdefault(index, Offsets()).next(more.logprobs)
        if more.warning is not None:
            bodies[-1][WARNING] = more.warning
        return b"".join(self._event(index, body) for body in bodies)

    def _event(self, index: int, body: dict[str, Any], finish: str | None = None) -> bytes:
        return self._frame(escaped(encode(self._chunk(index, body, finish))))

    def _chunk(self, index: int, body: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": index, "logprobs": None, **body, "finish_reason": finish}
        chunk = {**self._members, "choices": [choice]}
        if self._head.usage:
            chunk["usage"] = None
        return chunk


def finish_of(row: Row) -> str:
    """OpenAI's word for it."""
    return "tool_calls" if row.called and row.finish == "stop" else row.finish


def usage_of(rows: Sequence[Row], per_prompt: int) -> dict[str, Any]:
    """Tokens of a prompt count once, however many choices it has."""
    prompts = rows[::per_prompt]
    prompt = sum(row.prompt_tokens for row in prompts)
    completion = sum(row.tokens for row in rows)
    usage: dict[str, Any] = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sum(row.cached_tokens for row in prompts)},
    }
    if thought := sum(row.reasoning_tokens for row in rows):
        usage["completion_tokens_details"] = {"reasoning_tokens": thought}
    return usage


def call_of(call: Call) -> dict[str, Any]:
    """A whole call, as a message carries it."""
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }


def text_bytes(text: str) -> bytes:
    """A JSON string. Line breaks beyond ASCII are escaped: some clients split events at them."""
    data = encode(text)
    return data if text.isascii() else escaped(data)


def escaped(data: bytes) -> bytes:
    """JSON with the line breaks beyond ASCII escaped."""
    if data.isascii():
        return data
    return (
        data.replace(b"\xe2\x80\xa8", b"\\u2028")
        .replace(b"\xe2\x80\xa9", b"\\u2029")
        .replace(b"\xc2\x85", b"\\u0085")
    )


def _part(part: wire.CallPart) -> dict[str, Any]:
    """A piece of a call. The first of each has its id and name, later ones only more arguments."""
    if part.id is None:
        return {"index": part.index, "function": {"arguments": part.arguments}}
    return {
        "index": part.index,
        "id": part.id,
        "type": "function",
        "function": {"name": part.name, "arguments": part.arguments},
    }
