"""Starts appliances and moves the public address from one to the next. See the package and docs/upgrading.md.

    current   serves, or is on its way to
    moves     an upgrade or switch, with the child that is to be current
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
from appliance.holder.moves import Moves, Refused, Say
from appliance.holder.sockets import Sockets

AGAIN_S = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)  # between two starts after crashes
STEADY_S = 60.0  # of serving, after which crashes are counted anew
OVERTIME_S = 60.0  # beyond its drain time, before one that leaves is told by signal
LOOK_S = 1.0


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
        self.log, self.moves = log, Moves(self, remember)
        self.selector = selectors.DefaultSelector()
        self._sockets = Sockets()
        self.current: Child | None = None
        self.leaving: list[Child] = []
        self.stopping = False
        self._crashes = 0
        self.start_at: float | None = None
        self._code: int | None = None
        self._began = time.time()

    # --- from outside ------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start the first appliance. Raises OSError where that cannot be."""
        self.current = self.spawn(self.command, "first")

    def poll(self) -> int | None:
        """Wait for what comes next and deal with it. The exit status once there is nothing left to do."""
        for key, _ in self.selector.select(self._patience()):
            key.data()
        for child in self._children():
            self._reap(child)
        self._look()
        if self._code is None and self.stopping and not self._children():
            self._code = 0
        return None if self._children() else self._code

    def signalled(self, number: int) -> None:
        if number == signal.SIGHUP:
            if self.current is not None:
                self.current.signal(number)
            return
        if not self.stopping:
            self.log(f"told to stop by {signal.Signals(number).name}")
            self.stopping, self.start_at = True, None
            if self.moves.now is not None:
                self.moves.fail("the holder was told to stop", restart=False)
        for child in self._children():
            child.signal(signal.SIGTERM)

    def ask(self, words: Message, say: Say) -> None:
        """One question from the control socket. Raises Refused."""
        verb = words.get("do")
        if verb == "status":
            say({"done": True, "ok": True, **self.status()})
        elif verb in ("upgrade", "switch"):
            self.moves.begin(verb, words, say)
        else:
            raise Refused(f"{str(verb)[:40]!r} is not known here: upgrade, switch and status are")

    def status(self) -> dict[str, Any]:
        def told(child: Child) -> dict[str, Any]:
            return {"pid": child.pid, "version": child.version, **child.command.named, "memory": child.memory}

        return {
            "pid": os.getpid(),
            "since": self._began,
            "current": told(self.current) if self.current is not None else None,
            "leaving": [told(child) for child in self.leaving],
            "moving": self.moves.now.stage if self.moves.now is not None else None,
            "addresses": self._sockets.told()[0],
            "crashes": self._crashes,
            "last": self.last,
        }

    # --- children ----------------------------------------------------------------------------------

    def _children(self) -> list[Child]:
        moving = self.moves.now.child if self.moves.now is not None else None
        return [child for child in (self.current, moving, *self.leaving) if child is not None]

    def spawn(self, command: Command, role: str) -> Child:
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
        self.log(f"started process {child.pid}: {' '.join(command.argv)}")
        self.selector.register(child.lines.sock, selectors.EVENT_READ, lambda: self._hear(child))
        return child

    def _hear(self, child: Child) -> None:
        try:
            messages = child.lines.read()
        except Closed:
            self._deafen(child)
            return
        except Malformed as error:
            self.log(f"process {child.pid} says what is not understood, and is heard no more: {error}")
            self._deafen(child)
            return
        for words, fds in messages:
            try:
                self._heard(child, words, fds)
            except (KeyError, TypeError, ValueError) as error:
                self.log(f"process {child.pid}: {words.get('say')!r} is not understood: {error!r}")
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
            self.moves.hello(child)
        elif said == "memory":
            child.memory = int(words["bytes"])
            self._share_memory()
        elif said == "state":
            child.state = words
            self.moves.consider()
        elif said == "failed":
            child.failed = str(words["reason"])
        elif said == "paused" and child is self.current:
            self.moves.paused()
        elif said == "serving" and self.moves.is_newcomer(child):
            self.moves.finish()

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
        was_current = child is self.current
        if was_current:
            self.current = None
        self.leaving = [one for one in self.leaving if one is not child]
        if self.moves.is_newcomer(child):
            self.moves.fail(child.end)
        elif was_current:
            self._current_ended(child, status)
        self._share_memory()

    def _current_ended(self, child: Child, status: int) -> None:
        if self.stopping:
            self._code = max(status, 0)
        elif self.moves.current_gone():
            self.log(f"process {child.pid} is gone while another gets ready: {child.end}")
        elif status == 0:
            self.log("the appliance was told to end")
            self._stop_with(0)
        elif not child.served:
            self.log(f"the appliance cannot start: {child.end}")
            self._stop_with(status if status > 0 else 1)
        else:
            if time.monotonic() - child.since >= STEADY_S:
                self._crashes = 0
            pause = AGAIN_S[min(self._crashes, len(AGAIN_S) - 1)]
            self._crashes += 1
            self.log(f"the appliance is gone: {child.end}; it is started again in {pause:g} s")
            self.start_at = time.monotonic() + pause

    def _stop_with(self, code: int) -> None:
        self.stopping, self._code = True, code
        for child in self._children():
            child.signal(signal.SIGTERM)

    # --- for an upgrade or switch ------------------------------------------------------------------

    def install(self, child: Child, command: Command) -> None:
        """From now on this one serves, and is started again where it crashes."""
        self.current, self.command = child, command
        child.served, self._crashes = True, 0

    def dismiss(self, idle_s: float | None = None) -> None:
        """Let the one that serves drain and end."""
        child, self.current = self.current, None
        if child is not None:
            child.told_to_go = time.monotonic()
            child.send({"do": "drain"} if idle_s is None else {"do": "drain", "idle_s": idle_s})
            self.leaving.append(child)

    # --- the clock ---------------------------------------------------------------------------------

    def _patience(self) -> float:
        times = [self.start_at, self.moves.now.due if self.moves.now is not None else None]
        soonest = min((t for t in times if t is not None), default=None)
        return LOOK_S if soonest is None else min(LOOK_S, max(0.0, soonest - time.monotonic()))

    def _look(self) -> None:
        now = time.monotonic()
        for child in self._children():
            child.flush()
        self.moves.look()
        for child in self.leaving:
            if child.told_to_go is not None and now - child.told_to_go > child.drain_s + OVERTIME_S:
                over = now - child.told_to_go - child.drain_s - OVERTIME_S
                child.kill() if over > OVERTIME_S else child.signal(signal.SIGTERM)
        if self.start_at is not None and now >= self.start_at and not self.stopping:
            self.start_at = None
            self._start_again()

    def _start_again(self) -> None:
        try:
            self.current = self.spawn(self.command, "first")
            self.current.served = True  # the address is open: what fails now is tried again
        except OSError as error:
            pause = AGAIN_S[min(self._crashes, len(AGAIN_S) - 1)]
            self._crashes += 1
            self.log(f"{self.command.python} cannot be started: {error.strerror}; again in {pause:g} s")
            self.start_at = time.monotonic() + pause
