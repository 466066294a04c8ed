"""The bytes of OpenAI's two stream formats.

All of an event but its text is known when the stream begins, so it is encoded once; per event only
the text is, and three byte strings are joined.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from appliance.server.replies import encode

DONE = b"data: [DONE]\n\n"
MARK = "\x00text\x00"

Family = Literal["chat", "text"]


@dataclass(frozen=True)
class Head:
    """What all chunks of one answer share."""

    family: Family
    id: str
    created: int
    model: str
    engine_id: str
    usage: bool = False  # stream_options.include_usage: null in every chunk, the figures in the last

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
    """Events of one stream."""

    def __init__(self, head: Head) -> None:
        self._head = head
        self._members = head.members(chunk=True)

    def opening(self, choices: int) -> bytes:
        """A real delta of each choice, before the first token: some clients wait for one."""
        if self._head.family == "text":
            return b"".join(self._event(i, {"text": ""}, None) for i in range(choices))
        delta = {"role": "assistant", "content": ""}
        return b"".join(self._event(i, {"delta": delta}, None) for i in range(choices))

    def around(self, index: int) -> tuple[bytes, bytes]:
        """What stands before and after the JSON string of a piece of text."""
        body = {"text": MARK} if self._head.family == "text" else {"delta": {"content": MARK}}
        before, after = self._event(index, body, None).split(encode(MARK))
        return before, after

    def closing(self, index: int, finish: str) -> bytes:
        return self._event(index, {"text": ""} if self._head.family == "text" else {"delta": {}}, finish)

    def ending(self, usage: dict[str, Any]) -> bytes:
        if not self._head.usage:
            return DONE
        return b"data: %b\n\n" % encode({**self._members, "choices": [], "usage": usage}) + DONE

    def _event(self, index: int, body: dict[str, Any], finish: str | None) -> bytes:
        choice = {"index": index, **body, "logprobs": None, "finish_reason": finish}
        event = {**self._members, "choices": [choice]}
        if self._head.usage:
            event["usage"] = None
        return b"data: %b\n\n" % encode(event)


def text_bytes(text: str) -> bytes:
    """A JSON string. Line breaks beyond ASCII are escaped: some clients split events at them."""
    data = encode(text)
    if not text.isascii():
        data = (
            data.replace(b"\xe2\x80\xa8", b"\\u2028")
            .replace(b"\xe2\x80\xa9", b"\\u2029")
            .replace(b"\xc2\x85", b"\\u0085")
        )
    return data


def usage_of(prompt: int, completion: int, cached: int) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
