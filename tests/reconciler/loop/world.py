"""A world for the loop to act on: engines, files, ports and requests on a virtual clock.

It stands at the `Effects` seam and nowhere deeper. Actions begin something and return; the rest happens
when the clock reaches it. Whatever the loop must never do is written to `violations`.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from reconciler.actions import (
    Action,
    Bind,
    CancelDownload,
    Configure,
    Download,
    Drain,
    Forget,
    Kill,
    SetTable,
    Spawn,
    Stop,
    Unbind,
)
from reconciler.digests import digest as digest_of
from reconciler.observed import (
    CacheObs,
    EngineInfo,
    EngineObs,
    EngineState,
    Failure,
    Limits,
    ListenerObs,
    MemoryObs,
    ModelFiles,
    Observed,
    RoutingTable,
)
from reconciler.readings import Level, Service
from reconciler.sizing import limit_bytes, size_of
from reconciler.spec import Model, Spec
from tests.reconciler.loop.models import GIB, MIB, Source, shelf

TICK = 1e-6  # no two moments are the same
STARTING_S, PROBING_S, STOPPING_S, KILLED_S, FETCH_S = 0.1, 0.3, 0.2, 0.02, 20.0
SAMPLE_S = 0.25  # memory is measured anew this often
LOAD_S_PER_GIB = 2.0
RISING = (EngineState.STARTING, EngineState.LOADING, EngineState.PROBING)
GONE = (EngineState.STOPPING, EngineState.EXITED)


@dataclass
class Engine:
    id: str
    model: str
    form: Model
    digest: str
    own_digest: str
    limits: Limits
    forecast_bytes: int
    floor_bytes: int
    fate: str
    since: float
    state: EngineState = EngineState.STARTING
    memory: int = 128 * MIB
    extra: int = 0  # more than was foreseen
    leak: float = 0.0  # of that, grows by so many bytes per second
    keeps: int = 0  # bytes of prompt cache that it would like to hold
    disk: CacheObs = field(default_factory=lambda: CacheObs(disk="ready"))  # what it says of the other tier
    requests: set[int] = field(default_factory=set)
    failure: Failure | None = None
    stop_reason: str | None = None
    info: EngineInfo | None = None
    template: str = ""  # of its source when it was started

    @property
    def cached(self) -> int:
        """What it holds of them: never more than it was told, nor than requests leave of the allowance."""
        if self.state not in (EngineState.READY, EngineState.DRAINING):
            return 0
        left = max(0, self.limits.memory_bytes - self.memory - self.extra)
        return min(self.keeps, self.limits.cache_memory_bytes, left)

    @property
    def used(self) -> int:
        return self.memory + self.extra + self.cached

    def observe(self) -> EngineObs:
        return EngineObs(
            id=self.id,
            model=self.model,
            digest=self.digest,
            own_digest=self.own_digest,
            state=self.state,
            since=self.since,
            pid=1000,
            leases=len(self.requests),
            limits=self.limits,
            info=self.info,
            failure=self.failure,
            stop_reason=self.stop_reason,
            memory_bytes=0 if self.state is EngineState.EXITED else self.used,
            cache=replace(self.disk, memory_bytes=self.cached),
            forecast_bytes=self.forecast_bytes,
            template=self.template,
        )


@dataclass
class Request:
    number: int
    name: str | None
    seconds: float
    deadline: float
    target: str = ""
    engine: str | None = None
    outcome: str = "waiting"  # waiting | running | done | refused:<code> | cut | timeout


class World:
    """Effects, and everything beyond them. `poke` is called whenever something changed."""

    def __init__(self, memory_gib: float = 16) -> None:
        self.t = 1000.0
        self.sources: dict[str, Source] = shelf()
        self.memory_gib = memory_gib
        self.engines: dict[str, Engine] = {}
        self.listeners: dict[tuple[str, int], ListenerObs] = {}
        self.taken: set[int] = set()  # ports that another program holds
        self.table = RoutingTable()
        self.requests: dict[int, Request] = {}
        self.wanted: dict[str, float] = {}
        self.last_used: dict[str, float] = {}
        self.actions: list[Action] = []
        self.violations: list[str] = []
        self.poke: Callable[[], None] = lambda: None
        self.stale: list[int] = []  # how many snapshots back the next observations are
        self.crash_in: int | None = None  # the loop's process dies at this many actions from now
        self.quarantined: Callable[[str], bool] = lambda _: False
        self.override: Callable[[str], str | None] = lambda _: None
        self.hog: int = 0  # bytes that another program holds
        self.system: tuple[Level, str] = ("normal", "")
        self.heat: str | None = None
        self.measurable = True  # False: the sampler fails, and its last figures stand
        self.service: dict[str, Service] = {}
        self.out: Callable[[str], bool] = lambda _: False
        self.recycling: Callable[[str], bool] = lambda _: False
        self._sampled_at, self._sampled = 0.0, MemoryObs(0, 0)
        self._leaked_at = self.t
        self._snapshots: list[Observed] = []
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count(1)
        self._observed_at = 0.0

    # --- Effects -----------------------------------------------------------------------------------

    def now(self) -> float:
        return self.t

    async def observe(self, spec: Spec, models: Mapping[str, Model]) -> Observed:
        self.t += TICK
        fresh = Observed(
            now=self.t,
            engines=tuple(e.observe() for e in self.engines.values()),
            files=MappingProxyType({d: self._files(m) for d, m in models.items()}),
            listeners=tuple(self.listeners.values()),
            table=self.table,
            memory=self._measured(),
            service=MappingProxyType({n: replace(x, at=self.t) for n, x in self.service.items()}),
            wanted=MappingProxyType(dict(self.wanted)),
            last_used=MappingProxyType(dict(self.last_used)),
        )
        self._snapshots = [*self._snapshots[-8:], fresh]
        back = self.stale.pop(0) if self.stale else 0
        found = self._snapshots[-1 - min(back, len(self._snapshots) - 1)]
        self._observed_at = found.now
        return found

    async def act(self, action: Action, spec: Spec, model: Model | None) -> None:
        if self.crash_in is not None:
            self.crash_in -= 1
            if self.crash_in == 0:  # before it began; a crash after it is one with the next action
                self.crash_in = None
                raise ProcessDied
        self.t += TICK
        self.actions.append(action)
        match action:
            case SetTable(table=table):
                self._set_table(table)
            case Spawn():
                assert model is not None
                self._spawn(action, spec, model)
            case Configure(engine=ident, limits=limits):
                if limits.context <= 0:
                    self._broken(f"{ident} was given a context of {limits.context}")
                self.engines[ident].limits = limits
            case Drain(engine=ident):
                self._drain(self.engines[ident], spec)
            case Stop(engine=ident):
                self._stop(self.engines[ident], action, spec)
            case Kill(engine=ident, failure=failure):
                self._kill(self.engines[ident], failure)
            case Forget(engine=ident):
                if self.engines[ident].state is not EngineState.EXITED:
                    self._broken(f"{ident} was forgotten and still runs")
                del self.engines[ident]
            case Download():
                assert model is not None
                self._fetch(self.sources[model.source])
            case CancelDownload(digest=digest):
                for source in self.sources.values():
                    if source.files.state == "downloading" and digest in self._named(source):
                        source.files = replace(source.files, state="absent", message="cancelled")
            case Bind(host=host, port=port):
                self._bind(host, port)
            case Unbind(host=host, port=port):
                self._unbind(host, port)
            case _:
                raise TypeError(action)
        self.t += TICK

    # --- time --------------------------------------------------------------------------------------

    def advance(self, seconds: float) -> None:
        """Let this much time pass, with everything that is due in it."""
        end = self.t + seconds
        self._leak()
        while self._agenda and self._agenda[0][0] <= end:
            at, _, happen = heapq.heappop(self._agenda)
            self.t = max(self.t, at)
            happen()
        self.t = max(self.t, end)
        self._leak()

    def next_event(self) -> float | None:
        return self._agenda[0][0] if self._agenda else None

    def _later(self, seconds: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (self.t + seconds, next(self._numbers), happen))

    # --- what others do to this world -----------------------------------------------------------------

    def request(self, name: str | None = None, seconds: float = 5.0) -> Request:
        """A client asks `name` (None: the active model) for something that takes this long."""
        deadline = self.t + self.table.timeout
        asked = Request(next(self._numbers), name, seconds, deadline)
        self.requests[asked.number] = asked
        self._place(asked)
        if asked.outcome == "waiting":
            self._later(self.table.timeout, lambda: self._expire(asked))
        return asked

    def crash(self, ident: str, reason: str = "crash") -> None:
        """An engine ends in a way nobody asked for."""
        engine = self.engines[ident]
        if engine.state is EngineState.EXITED:
            return
        if engine.stop_reason is None:
            match reason:
                case "hang":
                    engine.failure = Failure("hang", "no progress; killed")
                case "exit":
                    engine.failure = Failure("exit", "exited with status 1")
                case _:
                    engine.failure = Failure("crash", "ended by SIGSEGV")
        self._exited(engine)

    def all_die(self) -> None:
        """The loop's process is gone, and its engines, sockets, router and downloads with it."""
        for asked in self.requests.values():
            if asked.outcome in ("waiting", "running"):
                asked.outcome = "cut"
        self.engines.clear()
        self.listeners.clear()
        self.wanted.clear()
        self.last_used.clear()
        self.service.clear()
        self.table = RoutingTable()
        self._snapshots.clear()
        self._agenda.clear()
        for source in self.sources.values():
            if source.files.state == "downloading":
                source.files = replace(source.files, state="absent", message="not downloaded")

    def live(self, name: str | None = None) -> list[Engine]:
        return [e for e in self.engines.values() if e.state not in GONE and name in (None, e.model)]

    def ready(self, name: str) -> Engine | None:
        return next((e for e in self.live(name) if e.state is EngineState.READY), None)

    def spawned(self, name: str | None = None) -> list[Spawn]:
        return [a for a in self.actions if isinstance(a, Spawn) and name in (None, a.model)]

    def kinds(self) -> list[str]:
        return [a.kind for a in self.actions]

    # --- engines -----------------------------------------------------------------------------------

    def _spawn(self, action: Spawn, spec: Spec, model: Model) -> None:
        files = self._files(model)
        size = size_of(model, files, spec)
        self._check_spawn(action, size.at_floor, spec)
        source = self.sources[model.source]
        ident = f"{action.model}-{next(self._numbers)}"
        engine = Engine(
            ident, action.model, model, action.digest, action.own_digest, action.limits,
            action.forecast_bytes, size.at_floor, source.fate, self.t,
        )  # fmt: skip
        engine.template = files.template
        self.engines[ident] = engine
        self._later(STARTING_S, lambda: self._loading(engine))
        self.poke()

    def _check_spawn(self, action: Spawn, floor: int, spec: Spec) -> None:
        limit = limit_bytes(spec, self._memory())
        held = held_now = 0
        for other in self.engines.values():
            if other.state is EngineState.EXITED:
                continue
            used = other.used
            held_now += used
            held += used if other.state in (EngineState.DRAINING, EngineState.STOPPING) else max(
                used, other.floor_bytes
            )  # fmt: skip
            if other.state in RISING:
                self._broken(f"{action.model} begins to load while {other.id} loads")
        if self.out(action.model):
            self._broken(f"{action.model} is started although a step took it out")
        if self.hog + held_now + floor > int(self.memory_gib * GIB):
            self._broken(f"{action.model} is started where other programs leave no room")
        if held + floor > limit:
            self._broken(
                f"{action.model} needs {floor / GIB:.2f} next to {held / GIB:.2f} of {limit / GIB:.2f}"
            )
        if self.quarantined(action.own_digest):
            self._broken(f"{action.model} is started although it is quarantined")
        if action.limits.context <= 0:
            self._broken(f"{action.model} is started with a context of {action.limits.context}")

    def _enter(self, engine: Engine, state: EngineState) -> None:
        self.t += TICK  # not the moment of any observation
        engine.state, engine.since = state, self.t
        self.poke()

    def _loading(self, engine: Engine) -> None:
        if engine.state is not EngineState.STARTING:
            return
        self._enter(engine, EngineState.LOADING)
        weights = self.sources[engine.form.source].files.weights_bytes
        self._later(LOAD_S_PER_GIB * weights / GIB / 2, lambda: self._half_loaded(engine))
        self._later(LOAD_S_PER_GIB * weights / GIB, lambda: self._loaded(engine))

    def _half_loaded(self, engine: Engine) -> None:
        if engine.state is EngineState.LOADING:
            engine.memory = int(engine.floor_bytes * 0.6)
            if engine.fate == "crashes_loading":
                self.crash(engine.id)

    def _loaded(self, engine: Engine) -> None:
        if engine.state is not EngineState.LOADING:
            return
        if engine.fate in ("fails", "fails_for_ever"):
            permanent = engine.fate == "fails_for_ever"
            words = "tensor shapes do not match" if permanent else "the disk was busy"
            engine.failure = Failure("load_failed", words, permanent=permanent)
            self._exited(engine)
            return
        engine.memory = int(engine.floor_bytes * 0.95)
        engine.info = EngineInfo("qwen3", 1.0, engine.memory, engine.memory, 40960, True, None, "cpu")
        self._enter(engine, EngineState.PROBING)
        self._later(PROBING_S, lambda: self._probed(engine))

    def _probed(self, engine: Engine) -> None:
        if engine.state is not EngineState.PROBING:
            return
        if engine.fate == "probe_fails":
            engine.failure = Failure("probe_failed", "no answer to the probe")
            self._exited(engine)
            return
        self._enter(engine, EngineState.READY)
        self._pump()

    def _leak(self) -> None:
        for engine in self.engines.values():
            if engine.leak and engine.state is not EngineState.EXITED:
                engine.extra += int(engine.leak * (self.t - self._leaked_at))
        self._leaked_at = self.t

    def _kill(self, engine: Engine, failure: Failure) -> None:
        if engine.memory + engine.extra <= max(engine.floor_bytes, engine.limits.memory_bytes):
            self._broken(f"{engine.id} is killed and uses no more than it was let in for")
        if engine.state is EngineState.EXITED:
            return
        engine.failure, engine.stop_reason = failure, "killed"
        self._enter(engine, EngineState.STOPPING)
        self._later(KILLED_S, lambda: self._exited(engine))

    def _drain(self, engine: Engine, spec: Spec) -> None:
        if any(r.status == "ready" and r.engine == engine.id for r in self.table.routes.values()):
            self._broken(f"{engine.id} is drained while requests are routed to it")
        self._check_untouched(engine, spec, "drained")
        model = spec.models.get(engine.model)
        if (
            engine.state is EngineState.READY
            and model is not None
            and model.residency == "on_demand"
            and digest_of(model) == engine.digest
            and self.override(engine.model) != "unload"
            and self.t - engine.since < model.min_residency
            and not self.out(engine.model)
            and not self.recycling(engine.id)
            and not self._outdated(engine)
        ):
            self._broken(f"{engine.id} is paged out before min_residency")
        if engine.state is EngineState.READY:
            self._enter(engine, EngineState.DRAINING)

    def _stop(self, engine: Engine, action: Stop, spec: Spec) -> None:
        if engine.state in GONE:
            return
        for_memory = action.code == "oom-unloaded" and self.out(engine.model)
        late = self.t - engine.since >= spec.swap.drain_timeout
        if engine.requests and not for_memory and not (engine.state is EngineState.DRAINING and late):
            self._broken(f"{engine.id} is stopped with {len(engine.requests)} requests ({engine.state})")
        if engine.state is EngineState.READY and engine.since <= self._observed_at and not for_memory:
            self._broken(f"{engine.id} is stopped without a drain")
        if any(r.status == "ready" and r.engine == engine.id for r in self.table.routes.values()):
            self._broken(f"{engine.id} is stopped while requests are routed to it")
        engine.stop_reason = action.reason
        self._enter(engine, EngineState.STOPPING)
        self._later(min(STOPPING_S, action.grace), lambda: self._exited(engine))

    def _outdated(self, engine: Engine) -> bool:
        return self._files(engine.form).template != engine.template

    def _check_untouched(self, engine: Engine, spec: Spec, what: str) -> None:
        """What the spec wants loaded, in this very form, is left alone."""
        model = spec.models.get(engine.model)
        if model is None or digest_of(model) != engine.digest or engine.state is not EngineState.READY:
            return
        if self.out(engine.model) or self.recycling(engine.id) or self._outdated(engine):
            return
        pinned = (
            engine.model == spec.active
            or model.residency == "loaded"
            or self.override(engine.model) == "load"
        )
        twins = [
            e for e in self.live(engine.model) if e.digest == engine.digest and e.state is EngineState.READY
        ]
        if pinned and self.override(engine.model) != "unload" and len(twins) < 2:
            self._broken(f"{engine.id} is {what} although the spec wants just that")

    def _exited(self, engine: Engine) -> None:
        if engine.state is EngineState.EXITED:
            return
        for number in list(engine.requests):
            self.requests[number].outcome = "cut"
        engine.requests.clear()
        engine.memory = engine.extra = 0
        engine.leak = 0.0
        self._enter(engine, EngineState.EXITED)

    # --- files and ports ------------------------------------------------------------------------------

    def _files(self, model: Model) -> ModelFiles:
        return self.sources[model.source].files

    def _named(self, source: Source) -> set[str]:
        """Digests that the last observation had for these files."""
        if not self._snapshots:
            return set()
        return {d for d, f in self._snapshots[-1].files.items() if f.path == source.files.path}

    def _fetch(self, source: Source) -> None:
        if source.files.state in ("downloading", "present"):
            return
        source.files = replace(source.files, state="downloading", message=None)
        self._later(FETCH_S, lambda: self._fetched(source))
        self.poke()

    def _fetched(self, source: Source) -> None:
        if source.files.state != "downloading":
            return
        if source.fetch_fails:
            source.files = replace(source.files, state="absent", message="connection reset")
        else:
            source.files = replace(source.files, state="present")
        self.poke()

    def _bind(self, host: str, port: int) -> None:
        if port in self.taken:
            self.listeners[host, port] = ListenerObs(host, port, "failed", "in use", self.t)
        else:
            self.listeners[host, port] = ListenerObs(host, port, "open", since=self.t)
        self.poke()

    def _unbind(self, host: str, port: int) -> None:
        here = self.listeners.get((host, port))
        if here is None:
            return
        others = [x for x in self.listeners.values() if x.state == "open" and x != here]
        if here.state == "open" and not others:
            self._broken(f"{host}:{port} is closed and nothing else is open")
        if here.state == "failed":
            del self.listeners[host, port]
            return
        self.listeners[host, port] = replace(here, state="closing")
        self._later(1.0, lambda: self._closed(host, port))

    def _closed(self, host: str, port: int) -> None:
        here = self.listeners.get((host, port))
        if here is not None and here.state == "closing":
            del self.listeners[host, port]
            self.poke()

    def _memory(self) -> MemoryObs:
        total = int(self.memory_gib * GIB)
        used = sum(e.used for e in self.engines.values())
        system, why = self.system
        free = max(0, total - used - self.hog)
        return MemoryObs(total, free, used, "virtual", system=system, system_why=why, heat=self.heat)

    def _measured(self) -> MemoryObs:
        """As a sampler would: the figures of now, which count as a new reading only four times a second."""
        if not self.measurable:
            return replace(self._sampled, at=self._sampled_at)
        found = self._memory()
        if self.t - self._sampled_at >= SAMPLE_S:
            self._sampled_at, self._sampled = self.t, found
        return replace(found, at=self._sampled_at)

    def notable(self) -> bool:
        """Whether the sampler would wake the loop."""
        now, then = self._memory(), self._sampled
        moved = abs(now.used_bytes - then.used_bytes) > 0.04 * now.total_bytes
        leaks = any(e.leak for e in self.engines.values())
        return moved or leaks or (now.system, now.heat) != (then.system, then.heat)

    # --- requests ------------------------------------------------------------------------------------

    def _set_table(self, table: RoutingTable) -> None:
        for route in table.routes.values():
            if route.status != "ready":
                continue
            engine = self.engines.get(route.engine or "")
            lost_since = engine is None or (engine.state in GONE and engine.since > self._observed_at)
            if engine is not None and engine.state is not EngineState.READY and not lost_since:
                self._broken(f"requests for {route.model} go to {route.engine}, which is {engine.state}")
        self.table = table
        for asked in self.requests.values():
            if asked.outcome == "waiting":
                self._place(asked)
        self._unwant()

    def _place(self, asked: Request) -> None:
        table = self.table
        target = table.active if asked.name is None else table.names.get(asked.name)
        route = table.routes.get(target) if target is not None else None
        if target is None or route is None:
            asked.outcome = "refused:no-model-loaded" if asked.name is None else "refused:model_not_found"
            return
        asked.target = target
        if route.status == "refuse":
            asked.outcome = f"refused:{route.code}"
            return
        engine = self.engines.get(route.engine or "") if route.status == "ready" else None
        if (
            engine is not None
            and engine.state is EngineState.READY
            and len(engine.requests) < route.concurrency
        ):
            asked.outcome, asked.engine = "running", engine.id
            engine.requests.add(asked.number)
            self._later(asked.seconds, lambda: self._finish(asked))
        elif route.status == "wake" and target not in self.wanted:
            self.wanted[target] = self.t
            self.poke()

    def _finish(self, asked: Request) -> None:
        if asked.outcome != "running" or asked.engine is None:
            return
        asked.outcome = "done"
        engine = self.engines[asked.engine]
        engine.requests.discard(asked.number)
        self.last_used[engine.id] = self.t
        if engine.state is EngineState.DRAINING and not engine.requests:
            self.poke()
        self._pump()

    def _pump(self) -> None:
        for asked in self.requests.values():
            if asked.outcome == "waiting":
                self._place(asked)
        self._unwant()

    def _expire(self, asked: Request) -> None:
        if asked.outcome == "waiting":
            asked.outcome = "timeout"
            self._unwant()

    def _unwant(self) -> None:
        waiting = {r.target for r in self.requests.values() if r.outcome == "waiting"}
        for name in [n for n in self.wanted if n not in waiting]:
            del self.wanted[name]
            self.poke()

    def _broken(self, what: str) -> None:
        self.violations.append(f"at {self.t:.3f}: {what}")


class ProcessDied(BaseException):
    """The whole appliance was killed between two instructions."""
