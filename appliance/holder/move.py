"""One upgrade or switch, from the question to its outcome."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from appliance.holder.child import Child, Command

Stage = Literal["starting", "waiting", "pausing", "going"]
PAUSE_S = 15.0  # for the first to stop accepting and let go of the lock
GO_S = 30.0  # for the second to take over


@dataclass
class Move:
    """starting: the first serves. waiting: it has to go before the second can load. pausing, going: nobody
    accepts. say: tells who asked, until they have left."""

    kind: Literal["upgrade", "switch"]
    before: Command
    command: Command
    strategy: Literal["auto", "beside", "drain_first"]
    ready_by: float  # monotonic
    say: Callable[[dict[str, Any]], None]
    child: Child | None = None
    stage: Stage = "starting"
    until: float | None = None  # of the stages pausing and going
    from_version: str | None = None
    began: float = field(default_factory=time.time)  # wall clock
    drained_first: bool = False

    @property
    def due(self) -> float:
        return self.ready_by if self.until is None else self.until

    def tell(self, message: str) -> None:
        self.say({"stage": self.stage, "message": message})

    def outcome(self, result: str, reason: str | None) -> dict[str, Any]:
        """result: done, failed (the first serves on), rolled_back (the first's command was started again)."""
        return {
            "kind": self.kind,
            "result": result,
            "reason": reason,
            "began": self.began,
            "at": time.time(),
            "from": {"version": self.from_version, **self.before.named},
            "to": {"version": self.child.version if self.child is not None else None, **self.command.named},
            "drained_first": self.drained_first,
        }


def in_words(last: dict[str, Any]) -> str:
    """How an upgrade or switch went, in a sentence."""
    before, after = last.get("from") or {}, last.get("to") or {}
    if last.get("kind") == "switch":
        words = f"switch from {before.get('profile') or 'base'} to {after.get('profile') or 'base'}"
    else:
        words = (
            f"upgrade from {before.get('version') or '?'} to {after.get('version') or after.get('python')}"
        )
    if last.get("result") == "done":
        return words + (", drained first" if last.get("drained_first") else "")
    kept = "started again" if last.get("result") == "rolled_back" else "serves on"
    return f"{words} failed, what was there {kept}: {last.get('reason')}"
