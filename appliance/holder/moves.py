"""Upgrades and switches, one at a time: what the holder does with what the newcomer and the other one say.

starting ──ready──▶ pausing ──paused──▶ going ──serving──▶ done
   │ no room           │ late             │ ends, late
   ▼                   ▼                  ▼
waiting ──ready──▶  the first resumes: failed; where it has gone: its command again, rolled_back
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from appliance.holder.child import Child, Command
from appliance.holder.lines import Message
from appliance.holder.move import GO_S, PAUSE_S, Move

if TYPE_CHECKING:
    from appliance.holder.holder import Holder

IDLE_S = 6.0  # of silence on a connection, where the first must go for the second to load

Say = Callable[[dict[str, Any]], None]


class Refused(Exception):
    """What is asked for cannot be done. The message says why."""


class Moves:
    """now: the one that is under way. remember: called with what serves then, and how it went."""

    def __init__(self, holder: Holder, remember: Callable[[Command, dict[str, Any]], None]) -> None:
        self._holder, self._remember = holder, remember
        self.now: Move | None = None

    def is_newcomer(self, child: Child) -> bool:
        return self.now is not None and self.now.child is child

    def hello(self, child: Child) -> None:
        if self.now is not None and self.is_newcomer(child) and self.now.stage == "starting":
            self.now.tell(f"version {child.version} has started as process {child.pid}")

    def paused(self) -> None:
        """The one that serves lets nobody in. (One that says so too late has been told to resume.)"""
        if self.now is not None and self.now.stage == "pausing":
            self.go()

    def current_gone(self) -> bool:
        """The one that serves has ended by itself. Whether the newcomer takes its place."""
        move = self.now
        if move is None:
            return False
        if move.stage == "pausing":
            self.go()
        elif move.stage == "starting":
            move.stage = "waiting"
            self.consider()
        return True

    def look(self) -> None:
        """What takes too long comes to nothing."""
        move = self.now
        if move is None or time.monotonic() < move.due:
            return
        why = str((move.child.state if move.child is not None else {}).get("reason") or "it says nothing")
        self.fail(
            f"it was not ready in time: {why}"
            if move.until is None
            else "the one that serves did not let go in time"
            if move.stage == "pausing"
            else "it did not take over in time"
        )

    def begin(self, verb: Literal["upgrade", "switch"], words: Message, say: Say) -> None:
        """Start the newcomer. Raises Refused."""
        command = self._holder.command
        if self.now is not None:
            raise Refused(f"a {self.now.kind} is under way; wait for its end")
        if self._holder.stopping:
            raise Refused("the holder is about to end")
        python, profile = words.get("python", command.python), words.get("profile", command.profile)
        strategy, within = words.get("strategy", "auto"), words.get("within_s", 900.0)
        if not isinstance(python, str) or not os.path.isabs(python):
            raise Refused("python: give an absolute path")
        if profile is not None and not isinstance(profile, str):
            raise Refused("profile: a name, or null")
        if strategy not in ("auto", "beside", "drain_first"):
            raise Refused("strategy: auto, beside or drain_first")
        if not isinstance(within, (int, float)) or not 0 < within <= 24 * 3600:
            raise Refused("within_s: seconds, at most a day")
        self._holder.start_at = None  # the newcomer takes the place of one that was to be started again
        move = self.now = Move(
            kind=verb,
            before=command,
            command=Command(python, command.words, profile),
            strategy=strategy,
            ready_by=time.monotonic() + within,
            say=say,
            from_version=self._holder.current.version if self._holder.current is not None else None,
        )
        self._holder.log(f"{verb}: {move.command.named}")
        try:
            move.child = self._holder.spawn(move.command, "standby")
        except OSError as error:
            self.fail(f"{python} cannot be started: {error.strerror}")
            return
        if self._holder.current is None:
            move.stage = "waiting"

    def consider(self) -> None:
        """The newcomer has told how it is."""
        move = self.now
        if move is None or move.child is None or move.stage not in ("starting", "waiting"):
            return
        state = move.child.state
        if state.get("ready"):
            if self._holder.current is None:
                self.go()
            else:
                move.stage, move.until = "pausing", time.monotonic() + PAUSE_S
                move.tell("it is ready; the one that serves stops accepting")
                self._holder.current.send({"do": "pause"})
        elif self._holder.current is not None and (
            state.get("room") or (state and move.strategy == "drain_first")
        ):
            reason = str(state.get("reason"))
            if move.strategy == "beside":
                self.fail(f"it does not fit beside the one that serves: {reason}")
            else:
                self._drain_first(reason if state.get("room") else "swap.strategy is drain_first")
        elif state.get("hopeless") and not (move.stage == "waiting" and state.get("room")):
            self.fail(str(state.get("reason")))

    def _drain_first(self, reason: str) -> None:
        move = self.now
        assert move is not None
        move.stage, move.drained_first = "waiting", True
        move.tell(f"the one that serves is drained first, and requests wait: {reason}")
        self._holder.log(f"draining first: {reason}")
        self._holder.dismiss(idle_s=IDLE_S)

    def go(self) -> None:
        """Nobody accepts now, or nobody is there: the newcomer takes over."""
        move = self.now
        assert move is not None
        assert move.child is not None
        move.stage, move.until = "going", time.monotonic() + GO_S
        move.tell("it takes over")
        move.child.send({"do": "go"})

    def finish(self) -> None:
        """The newcomer serves."""
        move, self.now = self.now, None
        assert move is not None
        assert move.child is not None
        self._holder.dismiss()
        self._holder.install(move.child, move.command)
        self._conclude(move, "done", None)

    def fail(self, reason: str, *, restart: bool = True) -> None:
        """What served before serves on, or is started again where it had to go."""
        move, self.now = self.now, None
        assert move is not None
        if move.child is not None and move.child.ended() is None:
            move.child.kill()
            self._holder.leaving.append(move.child)
        if self._holder.current is not None:
            if move.stage in ("pausing", "going"):
                self._holder.current.send({"do": "resume"})
            self._conclude(move, "failed", reason)
            return
        self._conclude(move, "rolled_back", reason)
        if restart and not self._holder.stopping:
            self._holder.start_at = time.monotonic()

    def _conclude(self, move: Move, result: str, reason: str | None) -> None:
        self._holder.last = last = move.outcome(result, reason)
        self._holder.log(f"{move.kind} {result}" + (f": {reason}" if reason else ""))
        self._remember(self._holder.command, last)
        if self._holder.current is not None:
            self._holder.current.send({"do": "told", "last": last})
        move.say({"done": True, "ok": result == "done", "last": last})
