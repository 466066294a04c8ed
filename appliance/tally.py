"""What is counted from the start of the process on: fed by records of requests, events and passes.

It outlives engines. Labels that name a model are kept for models of the spec only, see `forget`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable

from appliance.metric_table import BY_NAME
from appliance.server.routes import route_of
from appliance.supervisor.record import Ended, Refused
from reconciler.events import Event, EventType
from reconciler.observed import CacheObs, EngineObs, EngineState

_STAGES = {
    EngineState.STARTING: "load",
    EngineState.LOADING: "load",
    EngineState.PROBING: "probe",
    EngineState.DRAINING: "drain",
    EngineState.STOPPING: "stop",
}

# Of an engine's prompt cache, since its start: what grows.
_GROWING = ("memory_hits", "disk_hits", "misses", "damaged", "tokens")


class Histogram:
    """Counts up to each bound, and the sum. `counts` has one more: above the last bound."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative, as Prometheus wants them."""
        total, found = 0, list[tuple[str, float]]()
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            total += count
            found.append(("+Inf" if bound == float("inf") else repr(bound), total))
        return found


def _histogram(name: str) -> Histogram:
    return Histogram(BY_NAME[name].bounds)


class Tally:
    def __init__(self) -> None:
        self.reconciles: Counter[str] = Counter()
        self.reconcile_s = _histogram("lmx_reconcile_duration_seconds")
        self.swaps: Counter[str] = Counter()
        self.stages_s: dict[str, Histogram] = {}
        self.degradations: Counter[str] = Counter()
        self.restarts: Counter[tuple[str, str]] = Counter()  # (model, reason)
        self.requests: Counter[tuple[str, str]] = Counter()  # (route, code)
        self.ttft_s = _histogram("lmx_ttft_seconds")
        self.inter_token_s = _histogram("lmx_inter_token_seconds")
        self.cache: Counter[str] = Counter()  # as CacheObs names them, over all engines there have been
        self.skills: Counter[tuple[str, str]] = Counter()  # (skill, outcome)
        self.skills_s: dict[str, Histogram] = {}
        self._engines: dict[str, tuple[EngineState, float, float]] = {}  # id -> state, since, born
        self._caches: dict[str, CacheObs] = {}  # id -> what has been counted of it
        self.tool_failures: Counter[str] = Counter()  # by parser, over all engines there have been
        self._tool_failures: dict[str, int] = {}  # id -> what has been counted of it

    # --- requests ---------------------------------------------------------------------------------

    def ended(self, record: Ended) -> None:
        self.requests[route_of(record.caller.path), record.outcome] += 1
        if record.first_token is None or record.caller.own:  # a warm-up waits for no client
            return
        self.ttft_s.add(record.first_token - record.asked)
        if record.tokens > 1 and record.outcome == "ok":
            gaps = record.tokens - 1
            self.inter_token_s.add((record.ended - record.first_token) / gaps, gaps)

    def refused(self, record: Refused) -> None:
        self.requests[route_of(record.caller.path), record.outcome] += 1

    def skill_called(self, skill: str, outcome: str, seconds: float) -> None:
        self.skills[skill, outcome] += 1
        if skill not in self.skills_s:
            self.skills_s[skill] = _histogram("lmx_skill_duration_seconds")
        self.skills_s[skill].add(seconds)

    # --- the loop ---------------------------------------------------------------------------------

    def timed(self, result: str, seconds: float) -> None:
        """A pass is over."""
        self.reconciles[result] += 1
        self.reconcile_s.add(seconds)

    def event(self, event: Event, now: float) -> None:
        """now: on the loop's clock, seconds."""
        match event.type:
            case EventType.SWAPPED:
                self.swaps["done"] += 1
                known = self._engines.get(str(event.data.get("engine")))
                if known is not None:
                    self._stage("total", now - known[2])
            case EventType.ROLLED_BACK:
                self.swaps["rolled_back"] += 1
            case EventType.STEP_TAKEN:
                self.degradations[str(event.data.get("step"))] += 1
            case EventType.ENGINE_FAILED:
                self.restarts[str(event.data.get("model")), str(event.data.get("reason"))] += 1

    def engines(self, seen: Iterable[EngineObs]) -> None:
        """What the loop sees in a pass: a state that has ended is a stage with a length."""
        before, self._engines = self._engines, {}
        counted, self._caches = self._caches, {}
        failures, self._tool_failures = self._tool_failures, {}
        for engine in seen:
            if engine.tool_failures and engine.parser is not None:
                more = engine.tool_failures - failures.get(engine.id, 0)
                self.tool_failures[engine.parser] += more
                self._tool_failures[engine.id] = engine.tool_failures
            self._caches[engine.id] = engine.cache
            self._count(counted.get(engine.id, CacheObs()), engine.cache)
            known = before.get(engine.id)
            born = engine.since if known is None else known[2]
            self._engines[engine.id] = (engine.state, engine.since, born)
            if known is not None and known[0] is not engine.state and known[0] in _STAGES:
                stage, rising = _STAGES[known[0]], engine.state is EngineState.LOADING
                if not rising:  # starting and loading are one stage
                    self._stage(stage, engine.since - (born if stage == "load" else known[1]))

    def _count(self, before: CacheObs, now: CacheObs) -> None:
        for name in _GROWING:
            self.cache[name] += max(0, getattr(now, name) - getattr(before, name))

    def _stage(self, stage: str, seconds: float) -> None:
        if stage not in self.stages_s:
            self.stages_s[stage] = _histogram("lmx_swap_duration_seconds")
        self.stages_s[stage].add(max(0.0, seconds))

    def forget(self, models: Iterable[str], skills: Iterable[str] = ()) -> None:
        """Drop what belongs to other models and skills than these."""
        kept = set(models)
        for model, reason in [key for key in self.restarts if key[0] not in kept]:
            del self.restarts[model, reason]
        named = set(skills)
        for skill, outcome in [key for key in self.skills if key[0] not in named]:
            del self.skills[skill, outcome]
        for skill in self.skills_s.keys() - named:
            del self.skills_s[skill]
