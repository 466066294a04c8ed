"""Starts appliances and moves the public address from one to the next. See the package and docs/upgrading.md.

    current   serves, or is on its way to
    move      an upgrade or switch, with the child that is to be current
    leaving   have handed over and drain

One thread that never blocks: `poll` takes what has come, looks at children that have ended, and at the clock.
"""

from __future__ import annotations

import os
import selectors
import signal
import time
from collections.abc import Callable
from typing import Any

from appliance.holder.child import Child, Command
from appliance.holder.lines import Closed, Malformed, Message
from appliance.holder.move import GO_S, PAUSE_S, Move
from appliance.holder.sockets import Sockets

IDLE_S = 6.0  # of silence on a connection, where the first must go for the second to load
AGAIN_S = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)  # between two starts after crashes
STEADY_S = 60.0  # of serving, after which crashes are counted anew
OVERTIME_S = 60.0  # beyond its drain time, before one that leaves is told by signal
LOOK_S = 1.0

Say = Callable[[dict[str, Any]], None]


class Refused(Exception):
    """What is asked for cannot be done. The message says why."""


class Holder:
    """command: what to begin with. last: how the last upgrade went. remember: called with what was chosen and
    how it went. log: takes one line."""

    def __init__(
        self,
        command: Command,
        last: dict[str, Any] | None,
        remember: Callable[[Command, dict[str, Any]], None],
        log: Callable[[str], None],
    ) -> None:
        self.command, self.last = command, last
        self._remember, self._log = remember, log
        self.selector = selectors.DefaultSelector()
        self._sockets = Sockets()
        self.current: Child | None = None
        self._leaving: list[Child] = []
        self._move: Move | None = None
        self._stopping = False
        self._crashes = 0
        self._start_at: float | None = None
        self._code: int | None = None
        self._began = time.time()

    # --- from outside ------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start the first appliance. Raises OSError where that cannot be."""
        self.current = self._spawn(self.command, "first")

    def poll(self) -> int | None:
        """Wait for what comes next and deal with it. The exit status once there is nothing left to do."""
        for key, _ in self.selector.select(self._patience()):
            key.data()
        for child in self._children():
            self._reap(child)
        self._look()
        if self._code is None and self._stopping and not self._children():
            self._code = 0
        return None if self._children() else self._code

    def signalled(self, number: int) -> None:
        if number == signal.SIGHUP:
            if self.current is not None:
                self.current.signal(number)
            return
        if not self._stopping:
            self._log(f"told to stop by {signal.Signals(number).name}")
            self._stopping, self._start_at = True, None
            if self._move is not None:
                self._fail("the holder was told to stop", restart=False)
        for child in self._children():
            child.signal(signal.SIGTERM)

    def ask(self, words: Message, say: Say) -> None:
        """One question from the control socket. Raises Refused."""
        verb = words.get("do")
        if verb == "status":
            say({"done": True, "ok": True, **self.status()})
        elif verb in ("upgrade", "switch"):
            self._begin_move(verb, words, say)
        else:
            raise Refused(f"{str(verb)[:40]!r} is not known here: upgrade, switch and status are")

    def status(self) -> dict[str, Any]:
        def told(child: Child) -> dict[str, Any]:
            return {"pid": child.pid, "version": child.version, **child.command.named, "memory": child.memory}

        return {
            "pid": os.getpid(),
            "since": self._began,
            "current": told(self.current) if self.current is not None else None,
            "leaving": [told(child) for child in self._leaving],
            "moving": self._move.stage if self._move is not None else None,
            "addresses": self._sockets.told()[0],
            "crashes": self._crashes,
            "last": self.last,
        }

    # --- children ----------------------------------------------------------------------------------

    def _children(self) -> list[Child]:
        moving = self._move.child if self._move is not None else None
        return [child for child in (self.current, moving, *self._leaving) if child is not None]

    def _spawn(self, command: Command, role: str) -> Child:
        sockets, fds = self._sockets.told()
        others = self._children()
        start = {
            "role": role,
            "sockets": sockets,
            "beside": sum(child.memory for child in others),
            "predecessor": self.current.pid if self.current is not None else None,
            "alone": not others,
            "last": self.last,
            "holder": {"pid": os.getpid(), "since": self._began},
        }
        child = Child(command, start, fds)
        self._log(f"started process {child.pid}: {' '.join(command.argv)}")
        self.selector.register(child.lines.sock, selectors.EVENT_READ, lambda: self._hear(child))
        return child

    def _hear(self, child: Child) -> None:
        try:
            messages = child.lines.read()
        except Closed:
            self._deafen(child)
            return
        except Malformed as error:
            self._log(f"process {child.pid} says what is not understood, and is heard no more: {error}")
            self._deafen(child)
            return
        for words, fds in messages:
            try:
                self._heard(child, words, fds)
            except (KeyError, TypeError, ValueError) as error:
                self._log(f"process {child.pid}: {words.get('say')!r} is not understood: {error!r}")
                for fd in fds:
                    os.close(fd)

    def _deafen(self, child: Child) -> None:
        if not child.deaf_ears:
            child.deaf_ears = True
            self.selector.unregister(child.lines.sock)

    def _heard(self, child: Child, words: Message, fds: list[int]) -> None:
        said = words["say"]
        if said == "listening" and child is self.current:
            self._sockets.replace(words["sockets"], fds)
            child.served = child.served or len(self._sockets) > 0
            return
        for fd in fds:  # of one that does not serve, or of a message that needs none
            os.close(fd)
        if said == "hello":
            child.version, child.drain_s = str(words["version"]), float(words["drain_s"])
            if self._move is not None and self._move.child is child and self._move.stage == "starting":
                self._move.tell(f"version {child.version} has started as process {child.pid}")
        elif said == "memory":
            child.memory = int(words["bytes"])
            self._share_memory()
        elif said == "state":
            child.state = words
            self._consider()
        elif said == "failed":
            child.failed = str(words["reason"])
        elif said == "paused" and self._move is not None and child is self.current:
            self._go()
        elif said == "serving" and self._move is not None and child is self._move.child:
            self._finish()

    def _share_memory(self) -> None:
        children = self._children()
        for child in children:
            beside = sum(other.memory for other in children if other is not child)
            child.send({"do": "beside", "bytes": beside})

    def _reap(self, child: Child) -> None:
        status = child.ended()
        if status is None:
            return
        if not child.deaf_ears:
            self._hear(child)  # its last words
        self._deafen(child)
        child.close()
        move, was_current = self._move, child is self.current
        if was_current:
            self.current = None
        self._leaving = [one for one in self._leaving if one is not child]
        if move is not None and move.child is child:
            self._fail(child.end)
        elif was_current:
            self._current_ended(child, status)
        self._share_memory()

    def _current_ended(self, child: Child, status: int) -> None:
        move = self._move
        if self._stopping:
            self._code = max(status, 0)
        elif move is not None:
            self._log(f"process {child.pid} is gone while another gets ready: {child.end}")
            if move.stage == "pausing":
                self._go()
            elif move.stage == "starting":
                move.stage = "waiting"
                self._consider()
        elif status == 0:
            self._log("the appliance was told to end")
            self._stop_with(0)
        elif not child.served:
            self._log(f"the appliance cannot start: {child.end}")
            self._stop_with(status if status > 0 else 1)
        else:
            if time.monotonic() - child.since >= STEADY_S:
                self._crashes = 0
            pause = AGAIN_S[min(self._crashes, len(AGAIN_S) - 1)]
            self._crashes += 1
            self._log(f"the appliance is gone: {child.end}; it is started again in {pause:g} s")
            self._start_at = time.monotonic() + pause

    def _stop_with(self, code: int) -> None:
        self._stopping, self._code = True, code
        for child in self._children():
            child.signal(signal.SIGTERM)

    # --- upgrade and switch ------------------------------------------------------------------------

    def _begin_move(self, verb: Any, words: Message, say: Say) -> None:
        if self._move is not None:
            raise Refused(f"a {self._move.kind} is under way; wait for its end")
        if self._stopping:
            raise Refused("the holder is about to end")
        python, profile = words.get("python", self.command.python), words.get("profile", self.command.profile)
        strategy, within = words.get("strategy", "auto"), words.get("within_s", 900.0)
        if not isinstance(python, str) or not os.path.isabs(python):
            raise Refused("python: give an absolute path")
        if profile is not None and not isinstance(profile, str):
            raise Refused("profile: a name, or null")
        if strategy not in ("auto", "beside", "drain_first"):
            raise Refused("strategy: auto, beside or drain_first")
        if not isinstance(within, (int, float)) or not 0 < within <= 24 * 3600:
            raise Refused("within_s: seconds, at most a day")
        self._start_at = None  # the newcomer takes the place of one that was to be started again
        move = self._move = Move(
            kind=verb,
            before=self.command,
            command=Command(python, self.command.words, profile),
            strategy=strategy,
            ready_by=time.monotonic() + within,
            say=say,
            from_version=self.current.version if self.current is not None else None,
        )
        self._log(f"{verb}: {move.command.named}")
        try:
            move.child = self._spawn(move.command, "standby")
        except OSError as error:
            self._fail(f"{python} cannot be started: {error.strerror}")
            return
        if self.current is None:
            move.stage = "waiting"

    def _consider(self) -> None:
        """The newcomer has told how it is."""
        move = self._move
        if move is None or move.child is None or move.stage not in ("starting", "waiting"):
            return
        state = move.child.state
        if state.get("ready"):
            if self.current is None:
                self._go()
            else:
                move.stage, move.until = "pausing", time.monotonic() + PAUSE_S
                move.tell("it is ready; the one that serves stops accepting")
                self.current.send({"do": "pause"})
        elif self.current is not None and (state.get("room") or (state and move.strategy == "drain_first")):
            reason = str(state.get("reason"))
            if move.strategy == "beside":
                self._fail(f"it does not fit beside the one that serves: {reason}")
            else:
                self._drain_first(reason if state.get("room") else "swap.strategy is drain_first")
        elif state.get("hopeless") and not (move.stage == "waiting" and state.get("room")):
            self._fail(str(state.get("reason")))

    def _drain_first(self, reason: str) -> None:
        move = self._move
        assert move is not None
        move.stage, move.drained_first = "waiting", True
        move.tell(f"the one that serves is drained first, and requests wait: {reason}")
        self._log(f"draining first: {reason}")
        self._dismiss(idle_s=IDLE_S)

    def _dismiss(self, idle_s: float | None = None) -> None:
        child, self.current = self.current, None
        if child is not None:
            child.told_to_go = time.monotonic()
            child.send({"do": "drain"} if idle_s is None else {"do": "drain", "idle_s": idle_s})
            self._leaving.append(child)

    def _go(self) -> None:
        move = self._move
        assert move is not None
        assert move.child is not None
        move.stage, move.until = "going", time.monotonic() + GO_S
        move.tell("it takes over")
        move.child.send({"do": "go"})

    def _finish(self) -> None:
        move, self._move = self._move, None
        assert move is not None
        assert move.child is not None
        self._dismiss()
        self.current, self.command = move.child, move.command
        self.current.served, self._crashes = True, 0
        self._conclude(move, "done", None)

    def _fail(self, reason: str, *, restart: bool = True) -> None:
        """What served before serves on, or is started again where it had to go."""
        move, self._move = self._move, None
        assert move is not None
        if move.child is not None and move.child.ended() is None:
            move.child.kill()
            self._leaving.append(move.child)
        if self.current is not None:
            if move.stage in ("pausing", "going"):
                self.current.send({"do": "resume"})
            self._conclude(move, "failed", reason)
            return
        self._conclude(move, "rolled_back", reason)
        if restart and not self._stopping:
            self._start_at = time.monotonic()

    def _conclude(self, move: Move, result: str, reason: str | None) -> None:
        self.last = move.outcome(result, reason)
        self._log(f"{move.kind} {result}" + (f": {reason}" if reason else ""))
        self._remember(self.command, self.last)
        if self.current is not None:
            self.current.send({"do": "told", "last": self.last})
        move.say({"done": True, "ok": result == "done", "last": self.last})

    # --- the clock ---------------------------------------------------------------------------------

    def _patience(self) -> float:
        times = [self._start_at, self._move.due if self._move is not None else None]
        soonest = min((t for t in times if t is not None), default=None)
        return LOOK_S if soonest is None else min(LOOK_S, max(0.0, soonest - time.monotonic()))

    def _look(self) -> None:
        now, move = time.monotonic(), self._move
        for child in self._children():
            child.flush()
        if move is not None and now >= move.due:
            why = str((move.child.state if move.child is not None else {}).get("reason") or "it says nothing")
            self._fail(
                f"it was not ready in time: {why}"
                if move.until is None
                else "the one that serves did not let go in time"
                if move.stage == "pausing"
                else "it did not take over in time"
            )
        for child in self._leaving:
            if child.told_to_go is not None and now - child.told_to_go > child.drain_s + OVERTIME_S:
                over = now - child.told_to_go - child.drain_s - OVERTIME_S
                child.kill() if over > OVERTIME_S else child.signal(signal.SIGTERM)
        if self._start_at is not None and now >= self._start_at and not self._stopping:
            self._start_at = None
            self._start_again()

    def _start_again(self) -> None:
        try:
            self.current = self._spawn(self.command, "first")
            self.current.served = True  # the address is open: what fails now is tried again
        except OSError as error:
            pause = AGAIN_S[min(self._crashes, len(AGAIN_S) - 1)]
            self._crashes += 1
            self._log(f"{self.command.python} cannot be started: {error.strerror}; again in {pause:g} s")
            self._start_at = time.monotonic() + pause
