"""How an appliance takes over from another one, and gives way to the next. docs/upgrading.md has the stages.

What is handed over: the right to accept on the public sockets, the lock of the state folder, and with it the
right to write there. Without a holder there is nobody to hand over to, and only `status` is of use.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import appliance
from appliance.custody import Custody
from appliance.held import Link
from appliance.holder.lines import Message
from appliance.holder.move import in_words
from appliance.lock import Locked
from appliance.measuring import Sampler
from appliance.remembered import Remembered
from appliance.server.listeners import Listeners
from appliance.status import serving
from reconciler.events import EventType
from reconciler.loop import Loop
from reconciler.remembered import Memory

log = logging.getLogger("lmx.holder")

Stage = Literal["standby", "serving", "paused", "leaving"]


class HandOver:
    """recalled: what the state folder holds now. restore: has the source look at what it keeps there. stop:
    set when this process is to end."""

    def __init__(
        self,
        link: Link | None,
        profile: str | None,
        custody: Custody,
        loop: Loop,
        listeners: Listeners,
        memory: Remembered,
        sampler: Sampler,
        recalled: Callable[[], Memory],
        restore: Callable[[], Awaitable[None]],
        stop: asyncio.Event,
    ) -> None:
        self._link, self._profile, self._custody = link, profile, custody
        self._loop, self._listeners, self._memory, self._sampler = loop, listeners, memory, sampler
        self._recalled, self._restore, self._stop = recalled, restore, stop
        self._serves, self._rests = asyncio.Event(), asyncio.Event()
        self.stage: Stage = "standby" if link is not None and link.standby else "serving"
        self.last = link.last if link is not None else None
        self.failed: str | None = None  # why this process cannot go on
        self._since = time.time()
        self._beside_at = loop.now()  # when another appliance's use was told last
        self._leaving: asyncio.Task[None] | None = None
        if link is not None:
            listeners.kept, listeners.waits = link.sockets, link.standby
            listeners.on_listening = self._say_listening
            sampler.beside = link.beside
        (self._serves if self.stage == "serving" else self._rests).set()

    # --- telling -----------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """since: when this version began to serve, wall clock."""
        return {
            "version": appliance.__version__,
            "since": self._since,
            "profile": self._profile,
            "stage": self.stage,
            "holder": self._link.holder if self._link is not None else None,
            "last_upgrade": self.last,
        }

    def on_pass(self) -> None:
        """The loop has looked."""
        if self._link is not None:
            self._link.say_state(**self._state())

    def each_second(self) -> None:
        if self._link is not None and self._loop.seen is not None:
            self._link.say("memory", bytes=max(self._sampler.own_use(), self._promised()))

    def _promised(self) -> int:
        """Bytes that running engines were let in for: what they will use."""
        plan = self._loop.plan
        if plan is None:
            return 0
        return sum(
            choice.size.at(choice.context)
            for choice in plan.decision.choices
            if choice.engine is not None and choice.size is not None and choice.context
        )

    def _say_listening(self) -> None:
        if self._link is None or self.stage != "serving":
            return
        found = self._listeners.sockets()
        told = [{"host": host, "port": port, "count": len(socks)} for host, port, socks in found]
        self._link.say("listening", [s.fileno() for _, _, socks in found for s in socks], sockets=told)

    def _state(self) -> dict[str, Any]:
        """What the holder decides by; `appliance.holder` has the words."""
        ready = self._loop.conditions["Ready"]
        answers = ready.status == "True" or (
            ready.reason == "Drained" and self._loop.seen is not None and serving(self._loop.seen) is not None
        )
        gate, server = self._loop.gate, self._loop.force.spec.server
        trouble = gate.source_error or gate.config_error
        if trouble is not None:
            return {"ready": False, "reason": trouble, "room": False, "hopeless": True}
        here = [x for x in self._loop.seen.listeners if x.state != "closing"] if self._loop.seen else []
        if not any(x.state == "open" and (x.host, x.port) == (server.host, server.port) for x in here):
            refused = next((x.message for x in here if x.state == "failed"), None)
            reason = refused or f"{server.host} port {server.port} is not open yet"
            return {"ready": False, "reason": reason, "room": False, "hopeless": refused is not None}
        if answers:
            return {"ready": True, "reason": None, "room": False, "hopeless": False}
        room = self._lacks_room()
        if room is not None:
            return {"ready": False, "reason": room, "room": True, "hopeless": False}
        stalled = self._loop.conditions["Stalled"]
        hopeless = stalled.status == "True"
        return {
            "ready": False,
            "reason": stalled.message if hopeless else ready.message,
            "room": False,
            "hopeless": hopeless,
        }

    def _lacks_room(self) -> str | None:
        """Why the active model does not fit, as long as another appliance's memory may be the reason."""
        plan, active = self._loop.plan, self._loop.force.spec.active
        choice = plan.decision.get(active) if plan is not None and active is not None else None
        seen = self._loop.seen
        if choice is None or choice.blocked is None or seen is None:
            return None
        if not self._sampler.beside and (seen.memory.at or 0.0) > self._beside_at:
            return None
        return choice.blocked.message if choice.blocked.code == "insufficient_memory" else None

    # --- obeying -----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled."""
        if self._link is not None:
            self._link.say(
                "hello", version=appliance.__version__, drain_s=self._loop.force.spec.swap.drain_timeout
            )
            await self._link.listen(self._obey, self._stop.set)

    async def _obey(self, order: Message) -> None:
        match order.get("do"):
            case "beside":
                self._beside(int(order["bytes"]))
            case "told":
                self._told(order["last"])
            case "go":
                await self._go()
            case "pause":
                await self._pause()
            case "resume":
                await self._resume()
            case "drain":
                await self._pause()
                self._leaving = asyncio.create_task(self._leave(order.get("idle_s")))
            case other:
                log.error("the holder says %r, which this version does not know", other)

    def _beside(self, count: int) -> None:
        if count != self._sampler.beside:
            self._sampler.beside, self._beside_at = count, self._loop.now()
            self._loop.poke()

    async def _go(self) -> None:
        """Take the lock, read the state anew, accept."""
        try:
            self._custody.take()
            self._memory.reread()
            await self._restore()
            self._loop.remember(self._recalled())
        except (Locked, sqlite3.Error, OSError) as error:
            self._give_up(str(error))
            return
        self._since = time.time()
        self._enter("serving")
        await self._listeners.accept()
        assert self._link is not None
        self._link.say("serving")
        self._say_listening()

    async def _pause(self) -> None:
        """Let nobody in, write nothing, and let go of the lock."""
        if self.stage != "serving":
            return
        self._enter("paused")
        await self._listeners.pause()
        self._loop.gate.frozen = self._memory.sealed = True
        self._custody.release()
        assert self._link is not None
        self._link.say("paused")

    async def _resume(self) -> None:
        if self.stage != "paused":
            return
        try:
            self._custody.take()
        except (Locked, sqlite3.Error, OSError) as error:
            self._give_up(str(error))
            return
        self._enter("serving")
        self._loop.gate.frozen = self._memory.sealed = False
        await self._listeners.resume()
        self._loop.poke()

    async def _leave(self, idle_s: float | None) -> None:
        self._enter("leaving")
        grace = self._loop.force.spec.swap.drain_timeout
        log.info("another appliance serves from now on: what runs here gets %g s", grace)
        await self._listeners.hand_over(grace, idle_s)
        self._stop.set()

    def _enter(self, stage: Stage) -> None:
        self.stage = stage
        on, off = (self._serves, self._rests) if stage == "serving" else (self._rests, self._serves)
        on.set()
        off.clear()

    async def while_serving(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do this as long as it is this process that serves, and again when it does again."""
        while not self._stop.is_set():
            await self._serves.wait()
            working = asyncio.ensure_future(work())
            resting = asyncio.ensure_future(self._rests.wait())
            try:
                await asyncio.wait({working, resting}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                resting.cancel()
                working.cancel()
                await asyncio.wait({working, resting})
            if not working.cancelled():
                working.result()

    def _give_up(self, reason: str) -> None:
        self.failed = reason
        assert self._link is not None
        self._link.say("failed", reason=reason)
        self._stop.set()

    def _told(self, last: Message) -> None:
        self.last = last
        kind = EventType.UPGRADED if last.get("result") == "done" else EventType.UPGRADE_FAILED
        self._loop.emit(kind, in_words(last), last)
        self._loop.poke()
