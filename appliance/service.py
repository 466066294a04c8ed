"""How each model has served of late, from the records of its requests: what `reconciler.guard` judges by.

Bounded: the newest `KEPT` requests of a model, counts in buckets, medians of engines that are there. A record
costs the same however long this runs, and names that the spec does not know leave nothing behind.

A request that came before its engine was ready waited for a load or a swap. That is told by the start of the
engine, not by its time to first token: no shorter queue would have helped it.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol, TypeVar

from appliance.supervisor.record import Ended, Refused
from appliance.windows import Counts, SlowMedian, quantile
from reconciler.observed import EngineObs, EngineState, RoutingTable
from reconciler.readings import Service
from reconciler.spec import Spec

WINDOW_S = 60.0
LONGEST_S = 300.0  # looked back where the last minute has fewer than ENOUGH
ENOUGH = 20
KEPT = 512
TOKENS = 16  # a stream of fewer tells no speed
PARTS = 12  # the short window of the error budget is this part of it
ENGINES = 64  # whose start is remembered

# Outcomes that are the appliance's fault. Refusals for overload are its defence, others a client's doing.
FAILED = frozenset({"engine_failed", "internal_error", "oom-unloaded"})
OK, BAD = "ok", "failed"


class Running(Protocol):
    """A request that an engine has; see `supervisor.generation`."""

    model: str
    engine_id: str
    started: float  # when the client asked
    accepted: float | None
    ttft: float | None
    tokens: int
    prompt_tokens: int
    rows: int


class Pressed(Protocol):
    """What is looked at in the router."""

    @property
    def table(self) -> RoutingTable: ...
    @property
    def running(self) -> Iterable[Running]: ...
    def waiting_since(self, model: str) -> Sequence[float]: ...


class _First(NamedTuple):
    """A first token. at: when it came, or, if it is still out, now."""

    at: float
    asked: float
    waited: float
    engine: str | None


class _Speed(NamedTuple):
    at: float
    engine: str
    tokens_per_s: float
    of_usual: float | None  # 1.0: as this engine usually does at that load


class _Model:
    """The records of one model."""

    def __init__(self, window: float) -> None:
        self.firsts: deque[_First] = deque(maxlen=KEPT)
        self.speeds: deque[_Speed] = deque(maxlen=KEPT)
        self.took: deque[tuple[float, float]] = deque(maxlen=KEPT)  # (when it ended, how long it had a row)
        self.refused = Counts(WINDOW_S, PARTS)
        self.budget = Counts(window, PARTS * 5)


# What has a time at its front.
_Told = TypeVar("_Told", _First, _Speed, tuple[float, float])

# Rows and tokens in powers of two and four: an engine is compared with itself at about the same load.
_Load = tuple[int, int]


def load_of(rows: float, tokens: int) -> _Load:
    """One row, 2, 3-4, 5-8, 9-16, ...; up to 1,024 tokens of prompt and answer, 4,096, 16,384, ..."""
    return math.ceil(math.log2(max(1.0, rows))), max(0, math.ceil(math.log(max(1, tokens) / 1024, 4)))


class Services:
    """clock: seconds, the loop's. Feed `ended` and `refused`; ask `look` in each pass."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._models: dict[str, _Model] = {}
        self._usual: dict[str, dict[_Load, SlowMedian]] = {}  # by engine, of those there are
        self._ready_at: OrderedDict[str, float] = OrderedDict()

    # --- records --------------------------------------------------------------------------------------

    def ended(self, record: Ended) -> None:
        model = self._models.get(record.model)
        if model is None:
            return
        now = record.ended
        if record.outcome in FAILED:
            model.budget.add((BAD, record.engine), now)
        elif record.outcome == "ok":
            model.budget.add(OK, now)
            model.took.append((now, now - record.started))
        if record.first_token is None:
            return
        waited = record.started - record.asked
        model.firsts.append(_First(record.first_token, record.asked, waited, record.engine))
        if record.tokens < TOKENS or now <= record.first_token:
            return
        speed = (record.tokens - 1) / (now - record.first_token)
        load = load_of(record.rows, record.prompt_tokens + record.tokens)
        usual = self._usual.setdefault(record.engine, {}).setdefault(load, SlowMedian())
        before = usual.value
        model.speeds.append(_Speed(now, record.engine, speed, speed / before if before else None))
        usual.add(speed)

    def refused(self, record: Refused) -> None:
        model = self._models.get(record.model)
        if model is None:
            return
        if record.outcome == "overloaded":
            model.refused.add(OK, record.ended)
        elif record.outcome in FAILED:
            model.budget.add((BAD, None), record.ended)

    # --- figures --------------------------------------------------------------------------------------

    def look(self, spec: Spec, engines: Sequence[EngineObs], router: Pressed) -> Mapping[str, Service]:
        """One record per model of the spec."""
        now, window = self._clock(), spec.slo.error_budget.window
        self._keep(spec, engines, window)
        running: dict[str, list[Running]] = {}
        for request in router.running:
            running.setdefault(request.model, []).append(request)
        return MappingProxyType(
            {
                name: self._service(name, spec, now, engines, running.get(name, []), router)
                for name in spec.models
            }
        )

    def _keep(self, spec: Spec, engines: Sequence[EngineObs], window: float) -> None:
        """Forget models that the spec does not name and engines that are gone, learn of the new ones."""
        self._models = {
            name: known
            if (known := self._models.get(name)) is not None and known.budget.window == window
            else self._counting_anew(known, window)
            for name in spec.models
        }
        there = {engine.id for engine in engines}
        self._usual = {engine: loads for engine, loads in self._usual.items() if engine in there}
        for engine in engines:
            if engine.state is EngineState.READY and engine.id not in self._ready_at:
                self._ready_at[engine.id] = engine.since
        while len(self._ready_at) > ENGINES:
            self._ready_at.popitem(last=False)

    @staticmethod
    def _counting_anew(known: _Model | None, window: float) -> _Model:
        """A model that is new, or whose failures are to be counted over another window: from now on."""
        if known is None:
            return _Model(window)
        known.budget = Counts(window, PARTS * 5)
        return known

    def _service(
        self,
        name: str,
        spec: Spec,
        now: float,
        engines: Sequence[EngineObs],
        running: list[Running],
        router: Pressed,
    ) -> Service:
        model, form, route = self._models[name], spec.models[name], router.table.routes.get(name)
        serving = _serving(name, engines, route.engine if route is not None else None)
        waiting = router.waiting_since(name)
        own = [engine for engine in engines if engine.model == name]
        engine = None if serving is None else serving.id
        firsts = self._firsts(model, now, running, waiting, engine)
        speed, usual = self._speeds(model, now, running, engine)
        took = [length for _, length in _recent(model.took, now)]
        fast = model.budget.over(spec.slo.error_budget.window / PARTS, now)
        slow = model.budget.over(spec.slo.error_budget.window, now)
        return Service(
            at=now,
            engine=engine,
            priority=form.priority,
            requests=len(firsts),
            ttft_p95_s=_p95([first.at - first.asked for first in firsts]),
            wait_p95_s=_p95([first.waited for first in firsts]),
            counted_from=min((first.asked for first in firsts), default=None),
            tokens_per_s_p50=speed,
            usual_tokens_per_s=usual,
            queued=len(waiting) + sum(engine.waiting for engine in own),
            rows=sum(max(0, engine.leases - engine.waiting) for engine in own),
            concurrency=route.concurrency
            if route is not None and route.status == "ready"
            else form.concurrency,
            saturation=None if serving is None else serving.saturation,
            pace_s=sum(took) / len(took) if took else None,
            cold_start_s=None if serving is None else serving.start_s,
            fast_total=fast.total(),
            fast_failed=_failed(fast),
            slow_total=slow.total(),
            slow_failed=_failed(slow),
            own_failed=0 if engine is None else fast[BAD, engine],
            refused=model.refused.over(WINDOW_S, now)[OK],
        )

    def _firsts(
        self,
        model: _Model,
        now: float,
        running: list[Running],
        waiting: Sequence[float],
        engine: str | None,
    ) -> list[_First]:
        """First tokens of the window, and those still out for longer than nearly all of these took.

        Without the latter, an overload would show only when its first victims have been served.
        """
        came = [*model.firsts]
        out = [_First(now, asked, now - asked, engine) for asked in waiting if engine is not None]
        for request in running:
            begun = request.accepted if request.accepted is not None else now
            waited = begun - request.started
            if request.ttft is not None:
                at = request.started + request.ttft
                came.append(_First(at, request.started, waited, request.engine_id))
            else:
                out.append(_First(now, request.started, waited, request.engine_id))
        came = _recent(sorted(filter(self._in_service, came), key=lambda first: first.at), now)
        slow = _p95([first.at - first.asked for first in came]) or 0.0
        return came + [first for first in filter(self._in_service, out) if now - first.asked > slow]

    def _in_service(self, first: _First) -> bool:
        """Its engine was ready when it came."""
        return first.engine is None or first.asked >= self._ready_at.get(first.engine, first.asked)

    def _speeds(
        self, model: _Model, now: float, running: list[Running], engine: str | None
    ) -> tuple[float | None, float | None]:
        """Median speed of a stream, and what the engine that serves usually does at that load."""
        speeds = _recent(model.speeds, now)
        for request in running:
            begun = None if request.ttft is None else request.started + request.ttft
            if begun is None or request.tokens < TOKENS or now <= begun:
                continue
            speed = (request.tokens - 1) / (now - begun)
            load = load_of(request.rows, request.prompt_tokens + request.tokens)
            median = self._usual.get(request.engine_id, {}).get(load)
            usual = None if median is None else median.value
            speeds.append(_Speed(now, request.engine_id, speed, speed / usual if usual else None))
        if not speeds:
            return None, None
        typical = quantile(sorted(speed.tokens_per_s for speed in speeds), 0.5)
        parts = sorted(x.of_usual for x in speeds if x.engine == engine and x.of_usual is not None)
        if len(parts) * 2 < len(speeds):
            return typical, None
        return typical, typical / quantile(parts, 0.5)


def _serving(name: str, engines: Sequence[EngineObs], routed: str | None) -> EngineObs | None:
    """The engine that answers for a model; before the router was told, the newest that could."""
    ready = [e for e in engines if e.model == name and e.state is EngineState.READY]
    found = next((e for e in ready if e.id == routed), None)
    return found or max(ready, key=lambda e: e.since, default=None)


def _recent(values: Iterable[_Told], now: float) -> list[_Told]:
    """Those of the last minute; where those are few, up to five minutes back until they are enough."""
    within = [value for value in values if now - value[0] <= LONGEST_S]
    last = [value for value in within if now - value[0] <= WINDOW_S]
    return last if len(last) >= ENOUGH else within[-ENOUGH:]


def _p95(values: list[float]) -> float | None:
    return quantile(sorted(values), 0.95) if values else None


def _failed(counts: Counter[Hashable]) -> int:
    return counts.total() - counts[OK]
