"""Observe, plan, act one step, observe again. The single writer of state.

Everything that could matter (file change, engine exit, timer, admin call, signal) only pokes one dirty
flag: a lost or doubled poke does no harm, because each pass starts from what is, not from what
happened. The loop never waits for a load, a download or a drain; those run beside it and poke when
something changed.

    poke ─▶ gate: read, parse ─▶ observe ─▶ absorb failures, strain ─▶ plan ─▶ publish ─▶ first action ─┐
              ▲                                                                                          │
              └──────────────────── until the plan is empty; then wait for a poke or `wake_at` ◀─────────┘

An observation that is older than the loop's last step, or than one already used, is not planned on: it
would repeat what was done, or undo it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from reconciler import guard, pressure_events
from reconciler.actions import Action, Download, Kill, Spawn
from reconciler.backoff import Ledger
from reconciler.choice import Desired
from reconciler.conditions import Condition, Facts, conditions, summary
from reconciler.effects import Effects
from reconciler.endings import Endings
from reconciler.events import Event, EventType
from reconciler.force import Force
from reconciler.forms import form_named, forms
from reconciler.gate import Content, Gate, Parsed
from reconciler.known import Known
from reconciler.observed import Observed
from reconciler.plan import Plan, plan
from reconciler.readings import Reading, Service
from reconciler.remembered import Memory, Store
from reconciler.source_view import SourceView
from reconciler.spec import Model, Spec
from reconciler.strain import Strain
from reconciler.straining import advanced, patient
from reconciler.trial import NEVER_LEARNED
from reconciler.watch import changes

log = logging.getLogger("lmx.loop")

IDLE_LOOK_S = 5.0  # look anyway: whatever poke was lost is found by then
STRAINED_LOOK_S = 0.5  # while a step or a stage is in force: how soon it is seen that one is over
ERROR_PAUSE_S = 1.0
OLD_NEWS_PAUSE_S = 0.05


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
        source: Callable[[], SourceView | None] = lambda: None,
        on_event: Callable[[Event], None] = lambda _: None,
        on_pass: Callable[[], None] = lambda: None,
        on_known: Callable[[Known], None] = lambda _: None,
        on_reading: Callable[[Reading, Mapping[str, Service]], None] = lambda *_: None,
        on_timed: Callable[[str, float], None] = lambda *_: None,
    ) -> None:
        memory = memory or Memory()
        self._effects, self._store, self._wall, self._on_event = effects, store, wall, on_event
        self._on_pass, self._on_known, self._on_reading = on_pass, on_known, on_reading
        self._on_timed = on_timed  # (acted, settled or failed; seconds), after each pass
        self.source = source  # where the spec comes from, for status; None: not told
        self._boot_paths: tuple[str, str] | None = None
        self._dirty = asyncio.Event()
        self.gate = Gate(read, parse, wall, self.emit, accepted=memory.accepted, generation=memory.generation)
        self.good = memory.good
        self.good_at = memory.good_at
        self.ledger = memory.ledger.clamped(effects.now())
        self.force = Force(self.gate, store, memory, fallback, self.emit, effects.now, wall, self.poke)
        self.strain = Strain()
        self.known = memory.known or (
            Known.of(memory.good.spec, memory.good.generation) if memory.good is not None else Known()
        )
        self.seen: Observed | None = None
        self.plan: Plan | None = None
        self.conditions: dict[str, Condition] = {}
        self.observed_generation = 0
        self.last_beat = effects.now()
        self.passes = 0
        self.errors = 0
        self._good_spec: tuple[Known, Spec, Spec] | None = None
        self._endings = Endings()
        self._acted_at = effects.now()
        self._last: Action | None = None
        self._repeats = 0

    # --- from outside --------------------------------------------------------------------------

    def now(self) -> float:
        """Seconds on the clock that observations use."""
        return self._effects.now()

    def poke(self) -> None:
        """Something may have changed. Cheap, and may be called as often as one likes."""
        self._dirty.set()

    def remember(self, memory: Memory) -> None:
        """Go on from what another process has left, as a start does, with the engines that run here."""
        self.gate.restart(memory.accepted, memory.generation)
        self.good, self.good_at = memory.good, memory.good_at
        self.ledger = memory.ledger.clamped(self._effects.now())
        self.force.remember(memory)
        self.known = memory.known or self.known
        self.poke()

    def retry_everything(self) -> None:
        """What `lmx reconcile` asks for: no back-off, no quarantine, no memory of failures."""
        self._set_ledger(Ledger())
        self.strain = patient(self.strain)
        self.emit(EventType.RECONCILE_REQUESTED, "failures and back-offs are forgotten", {})
        self.poke()

    @property
    def desired(self) -> Desired:
        spec = self.force.spec
        return Desired(spec, self._known_spec(spec), self.force.over, self.strain)

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
                began, result = self._effects.now(), "failed"
                try:
                    acted = await self.step()
                    result, pause = "acted" if acted else "settled", self._pause(acted)
                except Exception as error:  # the one place where a bug must not end the appliance
                    self.errors += 1
                    log.exception("a pass of the loop failed")
                    self._report_error(error)
                    pause = ERROR_PAUSE_S
                self._on_timed(result, self._effects.now() - began)
                if pause == 0.0:
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

    def _pause(self, acted: bool) -> float:
        """Seconds until the next look. A beat at least each IDLE_LOOK_S keeps /healthz honest."""
        if acted:
            # A step that shows no effect is taken again, but not in a frenzy.
            return 0.0 if self._repeats < 3 else min(1.0, 0.01 * 2.0 ** min(self._repeats, 10))
        if self.seen is None or self.seen.now < self._acted_at:
            return OLD_NEWS_PAUSE_S
        look = IDLE_LOOK_S if self.strain.eased else STRAINED_LOOK_S
        left = self.force.trial.left()
        if left is not None:
            look = min(look, max(0.01, left))
        if self.plan is None or self.plan.wake_at is None:
            return look
        return min(look, max(0.01, self.plan.wake_at - self._effects.now()))

    async def step(self) -> bool:
        """One pass; True when it acted, so that another look is due at once."""
        self.passes += 1
        self.gate.check()
        self._take()
        self.force.trial.expire()
        desired = self.desired
        models = {**self._endings.fetching, **forms(desired)}
        seen = await self._effects.observe(desired.spec, models)
        if seen.now < self._acted_at or (self.seen is not None and seen.now < self.seen.now):
            return False
        self.last_beat = seen.now
        self._absorb(desired, seen)
        if self.force.trial.fresh and self.force.trial.judged(desired.spec, plan(desired, seen, self.ledger)):
            return True  # it cannot run: nothing was touched for it, its memory limits included
        desired = self._strain(desired, seen)
        found = plan(desired, seen, self.ledger)
        if self.force.trial.judged(desired.spec, found):
            return True
        self._learn(desired, found, seen)
        self._publish(desired, seen, found)
        if not found.actions:
            return False
        await self._act(found.actions[0], desired, models)
        return True

    async def _act(self, action: Action, desired: Desired, models: Mapping[str, Model]) -> None:
        self._repeats = self._repeats + 1 if _again(action, self._last) else 0
        self._last = action
        if self._repeats == 0:
            self.emit(
                EventType.ACTION,
                f"{action.mark} {action.kind} {action.subject}: {action.reason}",
                {
                    "action": action.kind,
                    "subject": action.subject,
                    "field": action.field,
                    "mark": action.mark,
                },
            )
        model = None
        if isinstance(action, Spawn):
            # Two models may share a digest and still differ in what is taken up in place.
            model = form_named(desired, action.model, action.own_digest) or models[action.digest]
        elif isinstance(action, Download):
            model = models[action.digest]
        self._endings.begun(action, model)
        await self._effects.act(action, desired.spec, model)
        self._acted_at = self._effects.now()

    # --- what a pass writes --------------------------------------------------------------------

    def _take(self) -> None:
        if self._boot_paths is None:
            self._boot_paths = self._paths()
        self.force.take()

    def _absorb(self, desired: Desired, seen: Observed) -> None:
        """Write down failures of engines that are gone; note engines that run well."""
        found = self._endings.absorb(self.ledger, desired, self.force.file, seen)
        if found.ledger != self.ledger:  # first: what follows may fail, and the end is not seen again
            self._set_ledger(found.ledger)
        for engine, failure in found.quarantined:
            self.emit(
                EventType.QUARANTINED,
                f"{engine.model}: three crashes in ten minutes, the last: {failure.message}",
                {"model": engine.model},
            )

    def _strain(self, desired: Desired, seen: Observed) -> Desired:
        """One reading later. What is in force is set first: telling of it may fail, and protects nobody."""
        before = self.strain
        self.strain, reading = advanced(desired, seen)
        for kind, message, data in (
            *pressure_events.changes(before.pressure, self.strain.pressure, reading),
            *guard.changes(before.guards, self.strain.guards, seen.service),
        ):
            self.emit(kind, message, data)
        self._on_reading(reading, seen.service)
        return replace(desired, strain=self.strain)

    def _learn(self, desired: Desired, found: Plan, seen: Observed) -> None:
        if self.gate.accepted is None:
            return
        accepted = self.force.accepted
        if accepted is None:
            return
        tried = self.force.trial.tried is not None
        generation = NEVER_LEARNED if tried else accepted.generation
        known = self.known.learn(desired, generation, found.decision, seen)
        if known is not self.known:
            self.known = known
            if not tried:  # what runs in a try is known until LMX is started again
                self._on_known(known)

    def _known_spec(self, like: Spec) -> Spec:
        held = self._good_spec
        if held is None or held[0] is not self.known or held[1] is not like:
            held = (self.known, like, self.known.as_spec(like))
            self._good_spec = held
        return held[2]

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
            suspended=self.force.suspended_by(),
            held_back=self.force.held_back,
            overrides=self.force.in_words(),
            tried=self.force.trial.tried is not None,
            restart_needed=self._restart_needed(),
            strain=self.strain,
            source=self.source(),
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
        if accepted is None or self.good is accepted:
            return
        if self.conditions["Ready"].status == "True" and self.conditions["Synced"].status == "True":
            new = self.good is None or self.good.generation != accepted.generation
            self.good = accepted
            if new:
                self.good_at = wall
                self._store.applied(accepted.generation, wall)
                self.emit(
                    EventType.APPLIED,
                    f"generation {accepted.generation} is Ready",
                    {"generation": accepted.generation},
                )

    def _restart_needed(self) -> str | None:
        if self._paths() != self._boot_paths:
            return "state.path and cache.path take effect when LMX is started again"
        return None

    def _paths(self) -> tuple[str, str]:
        return self.force.file.state.path, self.force.file.cache.path

    def emit(self, kind: EventType, message: str, data: Mapping[str, Any]) -> None:
        event = self._store.add_event(Event(kind, message, self._wall(), data=MappingProxyType(dict(data))))
        if event.kept:
            log.info("%s %s", kind.value, message, extra={"fields": {"event": kind.value, **data}})
        self._on_event(event)

    def _set_ledger(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._store.save_ledger(ledger, self._wall() - self._effects.now())


def _again(action: Action, last: Action | None) -> bool:
    """The same step once more; the figures that a kill gives move on."""
    if isinstance(action, Kill) and isinstance(last, Kill):
        return action.engine == last.engine
    return action == last
