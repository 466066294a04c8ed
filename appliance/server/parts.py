"""An answer as it grows, in parts: stretches of reasoning and of text, and calls. Pure.

Two API families tell where each part begins and ends, and one tells all of them again at the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from appliance import wire

if TYPE_CHECKING:
    from appliance.server.generate import Answer
    from appliance.supervisor.generation import Delta


@dataclass
class Part:
    """number: its place in the answer. id, name: of a call. said: pieces, in order."""

    kind: Literal["reasoning", "text", "call"]
    number: int
    id: str = ""
    name: str = ""
    said: list[str] = field(default_factory=list)
    logprobs: list[wire.Logprob] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.said)


class Parts:
    """found: all that have begun; the last one is still open. warning: the newest, if there was one."""

    def __init__(self) -> None:
        self.found: list[Part] = []
        self.warning: str | None = None
        self._call: int | None = None  # the engine's number of the call that is open
        self._logprobs: list[wire.Logprob] = []  # of tokens whose text has not come yet

    @classmethod
    def of(cls, answer: Answer) -> Parts:
        """A whole answer, where what came when is no longer known."""
        parts = cls()
        calls = [wire.CallPart(i, c.id, c.name, c.arguments) for i, c in enumerate(answer.calls)]
        if answer.reasoning:
            parts._add("reasoning", answer.reasoning)
        if answer.text:
            parts._add("text", answer.text).logprobs.extend(answer.logprobs)
        for call in calls:
            parts._grow(call)
        parts.warning = answer.warning
        return parts

    def add(self, delta: Delta) -> Iterator[tuple[Part, str, list[wire.Logprob]]]:
        """Each piece with the part that it belongs to; a part that was not there before has just begun."""
        more = delta.more
        if more is None:
            if delta.text:
                yield self._add("text", delta.text), delta.text, []
            return
        self.warning = more.warning or self.warning
        if more.reasoning:
            yield self._add("reasoning", more.reasoning), more.reasoning, []
        elif not more.calls:  # of reasoning and of calls nobody is told
            self._logprobs += more.logprobs
        if delta.text:
            part, logprobs = self._add("text", delta.text), self._logprobs
            part.logprobs += logprobs
            self._logprobs = []
            yield part, delta.text, logprobs
        for call in more.calls:
            yield self._grow(call), call.arguments, []

    def _add(self, kind: Literal["reasoning", "text"], piece: str) -> Part:
        if not self.found or self.found[-1].kind != kind:
            self.found.append(Part(kind, len(self.found)))
            self._call = None
        self.found[-1].said.append(piece)
        return self.found[-1]

    def _grow(self, call: wire.CallPart) -> Part:
        if self._call != call.index:
            self._call = call.index
            self.found.append(Part("call", len(self.found), call.id or "", call.name or ""))
        self.found[-1].said.append(call.arguments)
        return self.found[-1]
