"""The composition root: everything is built and wired here, and taken down in the opposite order.

    custody (lock, history) ─▶ orphans reaped ─▶ engines, router, server ─▶ loop ─▶ (serve) ─▶ drain ─▶ close

One process, one event loop. The public socket opens as the loop's first action, before any model is
looked at, so `/healthz` and `/status` answer from the start, and also when no file is valid.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvloop

from appliance import descriptors, identity, profiles, state
from appliance.access.desk import Access
from appliance.breakers import Breaker, Breakers, told
from appliance.control import ApplianceControl
from appliance.custody import Custody
from appliance.effects import RealEffects
from appliance.feed import Feed
from appliance.fetching import Fetching
from appliance.handover import HandOver
from appliance.held import Link
from appliance.host import Host, platform
from appliance.host.awake import kept_awake
from appliance.lock import Locked
from appliance.log_file import LogFile
from appliance.logs import Logs, Style
from appliance.measuring import Sampler
from appliance.metrics import Metrics
from appliance.pulling import Pulls
from appliance.recording import Recorder, RecordingError
from appliance.remembered import Remembered
from appliance.request_log import RequestLog
from appliance.rooms import Rooms
from appliance.server.app import Listeners, build
from appliance.service import Services
from appliance.sessions import Sessions
from appliance.skills.registry import Skills
from appliance.supervisor.pool import Engines
from appliance.supervisor.process import ENGINE
from appliance.supervisor.router import Router
from appliance.tally import Tally
from appliance.telemetry import sample
from reconciler.events import Event, EventType
from reconciler.loop import Loop
from reconciler.pressure import Pressure
from reconciler.recall import recall
from reconciler.remembered import Memory
from reconciler.sources.spec_source import SpecSource
from reconciler.spec import Spec

log = logging.getLogger("lmx")

PRUNE_EVERY_S = 300.0
PRUNE_PAUSE_S = 0.1  # between two goes where there is much to delete
BARE = Spec.model_validate({"version": 1, "active": None, "models": {}})


def run(
    file: Path,
    host: Host | None = None,
    *,
    engine: Sequence[str] = ENGINE,
    log: Style | None = None,
    record: Path | None = None,
    log_file: Path | None = None,
    profile: str | None = None,
    link: Link | None = None,
) -> int:
    """`lmx up`: serve what `file` says until SIGTERM or SIGINT. Returns the exit status.

    host: what measures memory and heat; this platform's if None. engine: the command that starts an engine
    process; tests give one with faults. log: the form of the lines on stderr. log_file: where they go
    instead. record: where to write what the loop reads. profile: `file` is that one's. link: to the holder
    that started this process.

    The first signal drains; a second one ends what still runs at once.
    """
    try:
        own = LogFile(log_file) if log_file is not None else None
    except OSError as error:
        sys.stderr.write(f"lmx: the log {log_file} cannot be written: {error.strerror}\n")
        return 1
    logs = Logs(log, write=own.write if own is not None else None)
    descriptors.raise_limit()
    try:
        with kept_awake(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(
                _serve(_SpecFile(file.absolute(), profile), host or platform(), engine, record, link)
            )
    finally:
        logs.close()
        if own is not None:
            own.close()


class _SpecFile(SpecSource):
    """The spec's source, and where the appliance that reads it keeps its state."""

    def __init__(self, path: Path, profile: str | None = None) -> None:
        super().__init__(path, os.environ)
        self.profile = profile

    def state_folder(self) -> Path:
        """Where this LMX keeps its state, also when the file cannot say."""
        found = state.folder(self.path, self.local_spec())
        return found if self.profile is None else profiles.state(found, self.profile)


async def _serve(
    file: _SpecFile, host: Host, engine: Sequence[str], record: Path | None, link: Link | None
) -> int:
    folder = file.state_folder()
    try:
        with contextlib.ExitStack() as held:
            custody = Custody(folder) if link is None else Custody.under(link, folder)
            held.callback(custody.close)
            recorder = Recorder(record) if record is not None else None
            if recorder is not None:
                held.callback(recorder.close)
            failed = await _Appliance(file, custody, host, engine, recorder, link).serve()
    except (Locked, RecordingError) as error:
        failed = str(error)
    except (sqlite3.Error, OSError) as error:
        failed = f"the state folder {folder} cannot be used: {error}"
    if failed is None:
        return 0
    sys.stderr.write(f"lmx: {failed}\n")
    if link is not None:
        link.say("failed", reason=failed)
    return 1


class _Appliance:
    def __init__(
        self,
        file: _SpecFile,
        custody: Custody,
        host: Host,
        engine: Sequence[str],
        recorder: Recorder | None,
        link: Link | None,
    ) -> None:
        clock = asyncio.get_running_loop()
        history, folder = custody.history, custody.folder
        self._file, self._history, self._rooms = file, history, Rooms(folder, link)
        self._orphans = self._rooms.clear()
        self._stop, self._now = asyncio.Event(), asyncio.Event()
        self._memory = Remembered(history)
        self._feed = Feed(self._memory.past)
        self._engines = Engines(
            self._rooms.own,
            first=history.next_engine_number(),
            on_change=self._poke,
            command=engine,
            footprint=host.footprint,
        )
        self._sampler = Sampler(host, self._engines, self._under, self._poke)
        self._router = Router(self._engines, on_change=self._poke)
        self._breakers = Breakers(self._on_breaker)
        self._fetching = Fetching(self._poke, self._breakers)
        self._requests, self._tally = RequestLog(), Tally()
        self._router.books.on_end += [self._requests.ended, self._tally.ended]
        self._router.books.on_refused += [self._requests.refused, self._tally.refused]
        self._access = Access(file.path.parent, told=self._on_keys)
        self._skills = Skills(
            file.path.parent,
            self._rooms.own,
            self._breakers,
            self._on_skill,
            on_call=self._tally.skill_called,
        )
        self._control = ApplianceControl(
            self._router,
            self._feed,
            self._memory,
            str(file.path),
            retry=self._retry,
            metrics=Metrics(lambda: self._loop, self._router, self._breakers, self._tally, self._access),
            breakers=self._breakers,
            sessions=Sessions(self._engines, lambda: self._effects.cache_path),
            identities=identity.load(folder),
            access=self._access,
            pulls=Pulls(self._fetching, file.path.parent),
            skills=self._skills,
        )
        self._router.books.priority_of = self._control.priority_of
        app = build(self._control)
        self._listeners: Listeners = app.ctx.listeners
        services = Services(clock.time)
        self._router.books.on_end.append(services.ended)
        self._router.books.on_refused.append(services.refused)
        self._effects = RealEffects(
            self._engines,
            self._router,
            self._listeners,
            self._fetching,
            self._sampler,
            services,
            file.path.parent,
            self._poke,
            self._access,
        )

        def recalled() -> Memory:
            return recall(history, file.parse, time.time() - clock.time())

        self._loop = Loop(
            self._effects,
            self._memory,
            file.read,
            file.parse,
            wall=time.time,
            fallback=BARE,
            memory=recalled(),
            source=file.view,
            on_event=self._on_event,
            on_pass=self._on_pass,
            on_known=self._memory.known,
            on_timed=self._tally.timed,
            on_reading=recorder or (lambda *_: None),
        )
        accepted = self._loop.gate.accepted
        file.follow(
            folder,
            self._loop.emit,
            self._poke,
            lambda: self._loop.gate.frozen,
            ran=accepted.text if accepted is not None else None,
        )
        self._hand_over = HandOver(
            link,
            file.profile,
            custody,
            self._loop,
            self._listeners,
            self._memory,
            self._sampler,
            recalled,
            file.restore,
            self._stop,
        )
        self._control.attach(self._loop, self._hand_over.status)

    def _poke(self) -> None:
        self._loop.poke()

    def _hung_up(self) -> None:
        self._file.poke()
        self._loop.poke()

    def _under(self) -> tuple[Spec, Pressure]:
        return self._loop.force.spec, self._loop.desired.strain.pressure

    def _on_breaker(self, breaker: Breaker) -> None:
        data = {"breaker": breaker.name, "state": breaker.state, "failures": breaker.view().failures}
        self._loop.emit(EventType.BREAKER, told(breaker), data)

    def _on_skill(self, kind: EventType, message: str, data: dict[str, Any]) -> None:
        self._loop.emit(kind, message, data)

    def _retry(self) -> None:
        """What `lmx reconcile` asks for."""
        self._fetching.retry_all()
        self._skills.restart()
        self._file.poke()

    def _on_event(self, event: Event) -> None:
        self._tally.event(event, asyncio.get_running_loop().time())
        if event.kept:
            self._feed.publish(event.as_dict())

    def _on_pass(self) -> None:
        self._requests.generation = self._loop.gate.generation
        self._requests.step = self._loop.strain.pressure.step
        if self._loop.seen is not None:
            self._tally.engines(self._loop.seen.engines)
        self._skills.apply(self._loop.force.spec.skills)
        self._control.noticed()
        self._hand_over.on_pass()

    async def serve(self) -> str | None:
        """Why it had to end, if nobody told it to."""
        running = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            running.add_signal_handler(number, self._signalled)
        running.add_signal_handler(signal.SIGHUP, self._hung_up)
        await self._file.restore()
        self._loop.emit(EventType.STARTED, f"process {os.getpid()}", {"pid": os.getpid()})
        if self._history.set_aside is not None:
            where = str(self._history.set_aside)
            self._loop.emit(EventType.STATE_RESET, f"the damaged database is now {where}", {"path": where})
        for override in self._loop.force.overrides:
            log.info("an admin call is still in force: %s %s", override.kind, override.model)
        for engine in self._orphans:
            log.warning("killed %s, left over from an earlier run", engine)
        stop_loop = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            loop = tasks.create_task(self._loop.run(stop_loop))
            watch = tasks.create_task(self._hand_over.while_serving(self._follow))
            beside = [
                tasks.create_task(self._sampler.run()),
                tasks.create_task(sample(self._control, self._feed, self._each_second)),
                tasks.create_task(self._prune()),
                tasks.create_task(self._hand_over.run()),
            ]
            await self._stop.wait()
            stop_loop.set()
            await loop
            for task in (*beside, watch):
                task.cancel()
        await self._wind_down()
        self._rooms.leave()
        return self._hand_over.failed

    async def _wind_down(self) -> None:
        """New requests are refused, running ones finish, then the engines go."""
        grace = self._loop.force.file.swap.drain_timeout
        log.info("stopping: %d requests running; they get %g s", self._router.in_flight, grace)
        self._router.close()
        closing = asyncio.create_task(self._listeners.close_all(grace))
        hurry = asyncio.create_task(self._now.wait())
        await asyncio.wait({closing, hurry}, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        await asyncio.gather(self._fetching.close(), self._engines.close(), self._skills.close())
        await closing
        self._loop.emit(EventType.STOPPED, "told to stop", {})

    def _signalled(self) -> None:
        if self._stop.is_set():
            self._now.set()
        self._stop.set()

    async def _follow(self) -> None:
        await self._file.run(self._poke, self._stop)

    async def _prune(self) -> None:
        while True:
            more = self._memory.prune(time.time() - self._loop.force.file.state.events)
            await asyncio.sleep(PRUNE_PAUSE_S if more else PRUNE_EVERY_S)

    def _on_keys(self, message: str) -> None:
        self._loop.emit(EventType.KEYS, message, {})
        self._poke()

    def _each_second(self) -> None:
        self._hand_over.each_second()
        spec = self._loop.force.spec
        self._access.look(spec.server.api_keys, spec.models)
        for kind, count in self._memory.sum_up().items():
            data = {"type": kind.value, "count": count}
            self._loop.emit(kind, f"{count} more {kind.value} events within a second: not kept", data)
