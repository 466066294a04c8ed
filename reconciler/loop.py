"""Observe, plan, act one step, observe again. The single writer of state.

Everything that could matter (file change, engine exit, timer, admin call, signal) only pokes one dirty
flag: a lost or doubled poke does no harm, because each pass starts from what is, not from what
happened. The loop never waits for a load, a download or a drain; those run beside it and poke when
something changed.

    poke ─▶ gate: read, parse ─▶ observe ─▶ absorb failures ─▶ plan ─▶ publish ─▶ first action ─┐
              ▲                                                                                  │
              └──────────────── until the plan is empty; then wait for a poke or `wake_at` ◀─────┘
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

from reconciler.actions import Spawn
from reconciler.backoff import STEADY_S, Ledger
from reconciler.conditions import Condition, Facts, conditions, summary
from reconciler.decide import Desired, forms
from reconciler.effects import Effects
from reconciler.events import Event, EventType
from reconciler.gate import Accepted, Content, Gate, Parsed
from reconciler.observed import EngineObs, EngineState, Observed, OverrideObs
from reconciler.plan import Plan, plan
from reconciler.spec import Spec
from reconciler.watch import changes

log = logging.getLogger("lmx.loop")

IDLE_LOOK_S = 5.0  # look anyway: whatever poke was lost is found by then
ERROR_PAUSE_S = 1.0


class Store(Protocol):
    """What the loop remembers over a restart; `history.History` is the real one."""

    def add_event(self, event: Event) -> Event: ...
    def save_ledger(self, ledger: Ledger, offset: float) -> None: ...
    def save_overrides(self, overrides: tuple[OverrideObs, ...]) -> None: ...
    def accepted(self, accepted: Accepted, at: float) -> None: ...
    def applied(self, generation: int, at: float) -> None: ...


@dataclass(frozen=True)
class Memory:
    """What an earlier run left: empty on the first start."""

    accepted: Accepted | None = None  # in force, if the file cannot be used
    good: Accepted | None = None  # the newest that reached Ready
    good_at: float | None = None  # when it did, wall clock
    generation: int = 0
    ledger: Ledger = field(default_factory=Ledger)
    overrides: tuple[OverrideObs, ...] = ()


class Loop:
    """One per appliance. `step` is one pass; `run` repeats it. Not thread-safe: one event loop owns it."""

    def __init__(
        self,
        effects: Effects,
        store: Store,
        read: Callable[[], Content],
        parse: Callable[[bytes], Parsed],
        *,
        wall: Callable[[], float],
        fallback: Spec,
        memory: Memory | None = None,
        on_event: Callable[[Event], None] = lambda _: None,
        on_pass: Callable[[], None] = lambda: None,
    ) -> None:
        memory = memory or Memory()
        self._effects, self._store, self._wall, self._on_event = effects, store, wall, on_event
        self._on_pass = on_pass
        self._fallback = fallback
        self._boot_paths: tuple[str, str] | None = None
        self._dirty = asyncio.Event()
        self.gate = Gate(read, parse, wall, self.emit, accepted=memory.accepted, generation=memory.generation)
        self.good = memory.good
        self.good_at = memory.good_at
        self.ledger = memory.ledger
        self.overrides = memory.overrides
        self.seen: Observed | None = None
        self.plan: Plan | None = None
        self.conditions: dict[str, Condition] = {}
        self.observed_generation = 0
        self.last_beat = effects.now()
        self.passes = 0
        self.errors = 0
        self._suspended_spec: Spec | None = None

    # --- from outside --------------------------------------------------------------------------

    def now(self) -> float:
        """Seconds on the clock that observations use."""
        return self._effects.now()

    def poke(self) -> None:
        """Something may have changed. Cheap, and may be called as often as one likes."""
        self._dirty.set()

    def retry_everything(self) -> None:
        """What `lmx reconcile` asks for: no back-off, no quarantine, no memory of failures."""
        self._set_ledger(Ledger())
        self.emit(EventType.RECONCILE_REQUESTED, "failures and back-offs are forgotten", {})
        self.poke()

    def override(self, model: str, kind: str) -> None:
        """Lay an admin call over the spec. Lasts until `active` or that model changes in the spec."""
        spec = self.spec
        assert kind in ("load", "unload")
        others = tuple(o for o in self.overrides if o.model != model)
        self._set_overrides(
            (
                *others,
                OverrideObs(
                    model=model,
                    kind="load" if kind == "load" else "unload",
                    at=self._wall(),
                    spec_digest=override_key(spec, model),
                ),
            )
        )
        self.emit(EventType.OVERRIDE_SET, f"{kind} {model}", {"model": model, "kind": kind})
        self.poke()

    def clear_overrides(self, model: str | None = None) -> int:
        """How many were cleared; all with None."""
        kept = tuple(o for o in self.overrides if model is not None and o.model != model)
        gone = [o for o in self.overrides if o not in kept]
        if gone:
            self._set_overrides(kept)
            for o in gone:
                self.emit(EventType.OVERRIDE_CLEARED, f"{o.kind} {o.model}: cleared", {"model": o.model})
            self.poke()
        return len(gone)

    @property
    def spec(self) -> Spec:
        """The spec in force: accepted, else the last good one, else a bare one that serves no model."""
        if self.gate.accepted is not None:
            return self.gate.accepted.spec
        return self._fallback

    @property
    def desired(self) -> Desired:
        spec = self.spec
        if spec.suspend:
            held = self._suspended_spec or (self.good.spec if self.good else spec)
            return Desired(held, self.good.spec if self.good else None, self.overrides)
        return Desired(spec, self.good.spec if self.good else None, self.overrides)

    @property
    def summary(self) -> str:
        return summary(self.conditions) if self.conditions else "NotReady"

    # --- passes --------------------------------------------------------------------------------

    async def run(self, stop: asyncio.Event) -> None:
        """Passes until `stop` is set. A pass that fails is reported and tried again; the loop lives."""
        stopping = asyncio.ensure_future(stop.wait())
        try:
            while not stop.is_set():
                self._dirty.clear()
                try:
                    acted = await self.step()
                    pause = 0.0 if acted else self._pause()
                except Exception as error:  # the one place where a bug must not end the appliance
                    self.errors += 1
                    log.exception("a pass of the loop failed")
                    self._report_error(error)
                    acted, pause = False, ERROR_PAUSE_S
                if acted:
                    await asyncio.sleep(0)
                    continue
                dirty = asyncio.ensure_future(self._dirty.wait())
                await asyncio.wait({dirty, stopping}, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
                dirty.cancel()
        finally:
            stopping.cancel()

    def _report_error(self, error: Exception) -> None:
        try:
            self.emit(EventType.LOOP_ERROR, f"{type(error).__name__}: {error}", {})
        except Exception:  # the store itself may be what failed; the log line above has it
            log.exception("the failure could not be recorded either")

    def _pause(self) -> float:
        """Seconds until the next look. A beat at least each IDLE_LOOK_S keeps /healthz honest."""
        if self.plan is None or self.plan.wake_at is None:
            return IDLE_LOOK_S
        return min(IDLE_LOOK_S, max(0.01, self.plan.wake_at - self._effects.now()))

    async def step(self) -> bool:
        """One pass; True when it acted, so that another look is due at once."""
        self.passes += 1
        if self.gate.check():
            self._accepted()
        desired = self.desired
        models = forms(desired)
        seen = await self._effects.observe(desired.spec, models)
        self.last_beat = seen.now
        self._absorb(seen)
        found = plan(desired, seen, self.ledger)
        self._publish(desired, seen, found)
        if not found.actions:
            return False
        action = found.actions[0]
        self.emit(
            EventType.ACTION,
            f"{action.mark} {action.kind} {action.subject}: {action.reason}",
            {"action": action.kind, "subject": action.subject, "field": action.field, "mark": action.mark},
        )
        model = models.get(action.digest) if isinstance(action, Spawn) else None
        if model is None and hasattr(action, "digest"):
            model = models.get(action.digest)
        await self._effects.act(action, desired.spec, model)
        return True

    # --- what a pass writes --------------------------------------------------------------------

    def _accepted(self) -> None:
        accepted = self.gate.accepted
        assert accepted is not None
        self._store.accepted(accepted, self._wall())
        if accepted.spec.suspend:
            if self._suspended_spec is None:
                self._suspended_spec = self.good.spec if self.good else None
        else:
            self._suspended_spec = None
        kept = tuple(o for o in self.overrides if o.spec_digest == override_key(accepted.spec, o.model))
        for o in self.overrides:
            if o not in kept:
                self.emit(
                    EventType.OVERRIDE_CLEARED,
                    f"{o.kind} {o.model}: the spec now says otherwise",
                    {"model": o.model},
                )
        if kept != self.overrides:
            self._set_overrides(kept)

    def _absorb(self, seen: Observed) -> None:
        """Write down failures of engines that are gone; note engines that run well."""
        ledger = self.ledger
        known = {e.id for e in self.seen.engines if e.state is EngineState.EXITED} if self.seen else set()
        for engine in seen.engines:
            if engine.state is EngineState.EXITED and engine.failure is not None and engine.id not in known:
                ledger = self._failed(ledger, engine, seen)
            elif engine.state is EngineState.READY and seen.now - engine.since >= STEADY_S:
                ledger = ledger.steady(engine.own_digest)
        specs = [self.spec, self._fallback, *([self.good.spec] if self.good else [])]
        current = frozenset(m.own_digest for s in specs for m in s.models.values())
        ledger = ledger.kept(current | {e.own_digest for e in seen.engines})
        if ledger is not self.ledger and ledger != self.ledger:
            self._set_ledger(ledger)

    def _failed(self, ledger: Ledger, engine: EngineObs, seen: Observed) -> Ledger:
        assert engine.failure is not None
        files = seen.files.get(engine.digest)
        before = ledger.get(engine.own_digest).quarantined
        ledger = ledger.failed(
            engine.own_digest, engine.failure, seen.now, files.fingerprint if files is not None else ""
        )
        if ledger.get(engine.own_digest).quarantined and not before:
            self.emit(
                EventType.QUARANTINED,
                f"{engine.model}: three crashes in ten minutes, the last: {engine.failure.message}",
                {"model": engine.model},
            )
        return ledger

    def _publish(self, desired: Desired, seen: Observed, found: Plan) -> None:
        wall = self._wall()
        for kind, message, data in changes(self.seen, self.plan, seen, found):
            self.emit(kind, message, data)
        self.seen, self.plan = seen, found
        before = self.conditions
        facts = Facts(
            spec=desired.spec,
            seen=seen,
            plan=found,
            generation=self.gate.generation,
            config_error=self.gate.config_error,
            source_error=self.gate.source_error,
            any_spec=self.gate.accepted is not None,
            suspended=self.spec.suspend,
            overrides=tuple(f"{o.kind} {o.model}" for o in self.overrides),
            restart_needed=self._restart_needed(),
        )
        self.conditions = conditions(facts, before, wall)
        for kind_, now in self.conditions.items():
            old = before.get(kind_)
            if old is not None and old.status != now.status:
                self.emit(
                    EventType.CONDITION,
                    f"{kind_} {old.status} -> {now.status}" + (f": {now.message}" if now.message else ""),
                    {"condition": kind_, "status": now.status, "reason": now.reason},
                )
        if self.conditions["Synced"].status == "True" or not found.actions:
            self.observed_generation = self.gate.generation
        self._maybe_good(wall)
        self._on_pass()

    def _maybe_good(self, wall: float) -> None:
        accepted = self.gate.accepted
        if accepted is None or (self.good is not None and self.good == accepted):
            return
        if self.conditions["Ready"].status == "True" and self.conditions["Synced"].status == "True":
            new = self.good is None or self.good.generation != accepted.generation
            self.good = accepted
            self.good_at = wall
            self._store.applied(accepted.generation, wall)
            if new:
                self.emit(
                    EventType.APPLIED,
                    f"generation {accepted.generation} is Ready",
                    {"generation": accepted.generation},
                )

    def _restart_needed(self) -> str | None:
        paths = (self.spec.state.path, self.spec.cache.path)
        if self.gate.accepted is None:
            return None
        if self._boot_paths is None:
            self._boot_paths = paths
        if paths != self._boot_paths:
            return "state.path and cache.path take effect when LMX is started again"
        return None

    def emit(self, kind: EventType, message: str, data: Mapping[str, Any]) -> None:
        event = self._store.add_event(Event(kind, message, self._wall(), data=MappingProxyType(dict(data))))
        log.info("%s %s", kind.value, message)
        self._on_event(event)

    def _set_ledger(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._store.save_ledger(ledger, self._wall() - self._effects.now())

    def _set_overrides(self, overrides: tuple[OverrideObs, ...]) -> None:
        self.overrides = overrides
        self._store.save_overrides(overrides)


def override_key(spec: Spec, model: str) -> str:
    """What an override of this model depends on: `active` and the model's own fields."""
    form = spec.models.get(model)
    return f"{spec.active}:{form.own_digest if form is not None else ''}"
