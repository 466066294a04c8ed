"""Puts a conversation together, piece by piece, in the shape that Chat Completions gives it. Pure.

Anthropic's blocks and the items of the Responses API cut a conversation finer than chat templates do:
there, turns alternate, a call belongs to the message that made it, and an answer to a call is a message of
its own. Neighbouring pieces of one role become one message here.
"""

from __future__ import annotations

from typing import Any

from appliance.server import volatile
from appliance.server.fields import invalid

BETWEEN = "\n"  # between two pieces that were not written in one go


class Turns:
    """messages: what has come so far, for `wire.Submit`. left_out: see `volatile`."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.left_out = False
        self._calls: set[str] = set()

    def system(self, texts: list[str]) -> None:
        spaced = [text + BETWEEN for text in texts[:-1]] + texts[-1:]
        text, left_out = volatile.without(spaced)
        self.left_out = self.left_out or left_out
        self._say("system", text)

    def user(self, texts: list[str]) -> None:
        self._say("user", BETWEEN.join(texts))

    def answer(self, text: str, *, apart: bool = False) -> None:
        """Text of the model's own. apart: it begins a message, and does not go on with the one before."""
        turn = self._assistant()
        turn["content"] += (BETWEEN if apart and turn["content"] else "") + text

    def thought(self, text: str) -> None:
        """Left out of a prompt again by templates that show only the newest, which is theirs to decide."""
        turn = self._assistant()
        turn["reasoning_content"] = turn.get("reasoning_content", "") + text

    def call(self, number: str, name: str, arguments: str, where: str) -> None:
        """arguments: a JSON object as text."""
        if number in self._calls:
            raise invalid(where, f"a call with the id {number[:80]!r} came before; ids differ")
        self._calls.add(number)
        function = {"name": name, "arguments": arguments}
        self._assistant().setdefault("tool_calls", []).append(
            {"id": number, "type": "function", "function": function}
        )

    def result(self, number: str, text: str, where: str) -> None:
        if number not in self._calls:
            raise invalid(where, f"no call with the id {number[:80]!r} comes before it in this conversation")
        self.messages.append({"role": "tool", "tool_call_id": number, "content": text})

    def _say(self, role: str, text: str) -> None:
        if self.messages and self.messages[-1]["role"] == role:
            self.messages[-1]["content"] += BETWEEN + text
        else:
            self.messages.append({"role": role, "content": text})

    def _assistant(self) -> dict[str, Any]:
        if not self.messages or self.messages[-1]["role"] != "assistant":
            self.messages.append({"role": "assistant", "content": ""})
        return self.messages[-1]
