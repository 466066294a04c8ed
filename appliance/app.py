"""The composition root: everything is built and wired here, and taken down in the opposite order.

    lock ─▶ history ─▶ orphans reaped ─▶ engines, router, server ─▶ loop ─▶ (serve) ─▶ drain ─▶ close

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

from appliance import descriptors, identity, state
from appliance.access.desk import Access
from appliance.breakers import Breaker, Breakers, told
from appliance.control import ApplianceControl
from appliance.effects import RealEffects
from appliance.feed import Feed
from appliance.fetching import Fetching
from appliance.host import Host, platform
from appliance.host.awake import kept_awake
from appliance.lock import Locked, StateLock
from appliance.log_file import LogFile
from appliance.logs import Logs, Style
from appliance.measuring import Sampler
from appliance.metrics import Metrics
from appliance.pulling import Pulls
from appliance.recording import Recorder, RecordingError
from appliance.remembered import Remembered
from appliance.request_log import RequestLog
from appliance.server.app import Listeners, build
from appliance.service import Services
from appliance.sessions import Sessions
from appliance.skills.registry import Skills
from appliance.supervisor.pidfiles import reap_orphans
from appliance.supervisor.pool import Engines
from appliance.supervisor.process import ENGINE
from appliance.supervisor.router import Router
from appliance.tally import Tally
from appliance.telemetry import sample
from reconciler.events import Event, EventType
from reconciler.gate import Parsed, SourceProblem, SpecProblem
from reconciler.history import History
from reconciler.loader import SpecError, load_text
from reconciler.loop import Loop
from reconciler.pressure import Pressure
from reconciler.recall import recall
from reconciler.sources.file import Content, SourceError
from reconciler.sources.local import LocalSource
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
) -> int:
    """`lmx up`: serve what `file` says until SIGTERM or SIGINT. Returns the exit status.

    host: what measures memory and heat; this platform's if None. engine: the command that starts an engine
    process; tests give one with faults. log: the form of the lines on stderr. log_file: where they go
    instead. record: where to write what the loop reads.

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
            return runner.run(_serve(_SpecFile(file.absolute()), host or platform(), engine, record))
    finally:
        logs.close()
        if own is not None:
            own.close()


class _SpecFile:
    """What the gate needs of the file, with this side's errors turned into the gate's."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.source = LocalSource(path)

    def read(self) -> Content:
        try:
            return self.source.read()
        except SourceError as error:
            raise SourceProblem(str(error)) from error

    def parse(self, data: bytes) -> Parsed:
        try:
            loaded = load_text(data, path=self.path, env=os.environ)
        except SpecError as error:
            raise SpecProblem(str(error)) from error
        return Parsed(loaded.spec, loaded.digest, loaded.warnings)

    def state_folder(self) -> Path:
        """Where this LMX keeps its state, also when the file cannot say."""
        try:
            spec = self.parse(self.read().data).spec
        except (SourceProblem, SpecProblem):
            return state.folder(self.path, None)
        return state.folder(self.path, spec)


async def _serve(file: _SpecFile, host: Host, engine: Sequence[str], record: Path | None) -> int:
    folder = file.state_folder()
    try:
        with contextlib.ExitStack() as held:
            held.callback(StateLock(folder).release)
            history = History(folder / "history.db")
            held.callback(history.close)
            recorder = Recorder(record) if record is not None else None
            if recorder is not None:
                held.callback(recorder.close)
            await _Appliance(file, folder, history, host, engine, recorder).serve()
    except (Locked, RecordingError) as error:
        sys.stderr.write(f"lmx: {error}\n")
        return 1
    except (sqlite3.Error, OSError) as error:
        sys.stderr.write(f"lmx: the state folder {folder} cannot be used: {error}\n")
        return 1
    return 0


class _Appliance:
    def __init__(
        self,
        file: _SpecFile,
        folder: Path,
        history: History,
        host: Host,
        engine: Sequence[str],
        recorder: Recorder | None,
    ) -> None:
        clock = asyncio.get_running_loop()
        self._file, self._history = file, history
        self._orphans = reap_orphans(folder)
        self._stop, self._now = asyncio.Event(), asyncio.Event()
        self._memory = Remembered(history)
        self._feed = Feed(self._memory.past)
        self._engines = Engines(
            folder,
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
            file.path.parent, folder, self._breakers, self._on_skill, on_call=self._tally.skill_called
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
        self._loop = Loop(
            self._effects,
            self._memory,
            file.read,
            file.parse,
            wall=time.time,
            fallback=BARE,
            memory=recall(history, file.parse, time.time() - clock.time()),
            on_event=self._on_event,
            on_pass=self._on_pass,
            on_known=self._memory.known,
            on_timed=self._tally.timed,
            on_reading=recorder or (lambda *_: None),
        )
        self._control.attach(self._loop)

    def _poke(self) -> None:
        self._loop.poke()

    def _under(self) -> tuple[Spec, Pressure]:
        return self._loop.in_force, self._loop.desired.strain.pressure

    def _on_breaker(self, breaker: Breaker) -> None:
        data = {"breaker": breaker.name, "state": breaker.state, "failures": breaker.view().failures}
        self._loop.emit(EventType.BREAKER, told(breaker), data)

    def _on_skill(self, kind: EventType, message: str, data: dict[str, Any]) -> None:
        self._loop.emit(kind, message, data)

    def _retry(self) -> None:
        """What `lmx reconcile` asks for."""
        self._fetching.retry_all()
        self._skills.restart()

    def _on_event(self, event: Event) -> None:
        self._tally.event(event, asyncio.get_running_loop().time())
        if event.kept:
            self._feed.publish(event.as_dict())

    def _on_pass(self) -> None:
        self._requests.generation = self._loop.gate.generation
        self._requests.step = self._loop.strain.pressure.step
        if self._loop.seen is not None:
            self._tally.engines(self._loop.seen.engines)
        if not self._loop.spec.suspend:
            self._skills.apply(self._loop.spec.skills)
        self._control.noticed()

    async def serve(self) -> None:
        running = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            running.add_signal_handler(number, self._signalled)
        running.add_signal_handler(signal.SIGHUP, self._poke)
        self._loop.emit(EventType.STARTED, f"process {os.getpid()}", {"pid": os.getpid()})
        if self._history.set_aside is not None:
            where = str(self._history.set_aside)
            self._loop.emit(EventType.STATE_RESET, f"the damaged database is now {where}", {"path": where})
        for override in self._loop.overrides:
            log.info("an admin call is still in force: %s %s", override.kind, override.model)
        for engine in self._orphans:
            log.warning("killed %s, left over from an earlier run", engine)
        stop_loop = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            loop = tasks.create_task(self._loop.run(stop_loop))
            watch = tasks.create_task(self._file.source.watch(self._poke, self._stop))
            beside = [
                tasks.create_task(self._sampler.run()),
                tasks.create_task(sample(self._control, self._feed, self._each_second)),
                tasks.create_task(self._prune()),
            ]
            await self._stop.wait()
            stop_loop.set()
            await loop
            for task in (*beside, watch):
                task.cancel()
        await self._wind_down()

    async def _wind_down(self) -> None:
        """New requests are refused, running ones finish, then the engines go."""
        grace = self._loop.spec.swap.drain_timeout
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

    async def _prune(self) -> None:
        while True:
            more = self._memory.prune(time.time() - self._loop.spec.state.events)
            await asyncio.sleep(PRUNE_PAUSE_S if more else PRUNE_EVERY_S)

    def _on_keys(self, message: str) -> None:
        self._loop.emit(EventType.KEYS, message, {})
        self._poke()

    def _each_second(self) -> None:
        self._access.look(self._loop.spec.server.api_keys, self._loop.spec.models)
        for kind, count in self._memory.sum_up().items():
            data = {"type": kind.value, "count": count}
            self._loop.emit(kind, f"{count} more {kind.value} events within a second: not kept", data)
