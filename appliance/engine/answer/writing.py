"""What a reader of tool calls says as it goes: a call begins, its arguments grow, it is whole."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

from appliance.wire import CallPart


class Broken(ValueError):
    """What was begun as a call is none. `quiet`: it never looked like one, so it is ordinary text."""

    def __init__(self, why: str, *, quiet: bool = False) -> None:
        super().__init__(why)
        self.quiet = quiet


class Enough(Exception):
    """One call was allowed, and it is whole."""


@dataclass
class Started:
    """A piece of one call that has not been sent."""

    index: int
    id: str | None
    name: str | None
    arguments: list[str] = field(default_factory=list)

    def part(self) -> CallPart:
        return CallPart(self.index, self.id, self.name, "".join(self.arguments))


class Writer:
    """The calls of one answer. `raw` are the characters that no call has accounted for yet."""

    def __init__(self, offered: frozenset[str], *, single: bool = False) -> None:
        self.raw: list[str] = []
        self.parts: list[Started] = []  # since the last `take`
        self.current: str | None = None  # the name of the call in work, once it is announced
        self.count = 0  # of calls announced
        self.cut = False  # the answer ended for want of tokens
        self._offered = offered
        self._single = single

    def check(self, name: str) -> None:
        if name not in self._offered:
            raise Broken(f"it names {name[:64]!r}, which is no tool of this request")

    def begin(self, name: str) -> None:
        self.check(name)
        self.parts.append(Started(self.count, "call_" + secrets.token_hex(12), name))
        self.count += 1
        self.current = name
        self.raw.clear()

    def arguments(self, text: str) -> None:
        """The next piece of the JSON text of the call's arguments."""
        if not self.parts:
            self.parts.append(Started(self.count - 1, None, None))
        self.parts[-1].arguments.append(text)
        self.raw.clear()

    def finish(self) -> None:
        """The call is whole. Raises Enough where no other may follow."""
        self.current = None
        self.raw.clear()
        if self._single:
            raise Enough

    def take(self) -> list[CallPart]:
        taken = [started.part() for started in self.parts]
        self.parts.clear()
        return taken
