"""(strain, what is seen) -> strain: one reading later. Pure; the policies are in `pressure` and `guard`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from reconciler import forecast, guard, pressure
from reconciler.choice import LIVE, Desired
from reconciler.digests import own_digest
from reconciler.observed import EngineObs, EngineState, Observed
from reconciler.readings import EngineReading, Reading, Service
from reconciler.spec import Spec
from reconciler.strain import Strain

_OWN_STEP = 32 * 2**20  # bytes


def advanced(desired: Desired, seen: Observed) -> tuple[Strain, Reading]:
    """The strain after this observation, and the reading that it was made from."""
    before, spec = desired.strain, desired.spec
    allowed = _allowed(before.allowed, seen)
    reading = reading_of(desired, seen, allowed)
    after, guards = judged(before, reading, seen.service, spec)
    strain = Strain(
        pressure=after,
        guards=guards,
        returning=_returning(before, after, desired, seen),
        allowed=allowed,
        own_bytes=_own_bytes(before.own_bytes, seen),
    )
    return (before if strain == before else strain), reading


def judged(
    before: Strain, reading: Reading, services: Mapping[str, Service], spec: Spec
) -> tuple[pressure.Pressure, Mapping[str, guard.Guard]]:
    """Both policies, one reading later. `lmx simulate` asks the same."""
    after = pressure.advance(before.pressure, reading, pressure.Policy.of(spec))
    return after, guard.advance(before.guards, services, spec.slo, strained=after.strained)


def reading_of(desired: Desired, seen: Observed, allowed: Mapping[str, int]) -> Reading:
    """What the ladder reads. at: when memory was measured, so that no measurement counts twice."""
    memory, spec = seen.memory, desired.spec
    answers = seen.table.active if seen.table.active is not None else spec.active
    engines = []
    for engine in seen.engines:
        if engine.state is EngineState.EXITED:
            continue
        model = spec.models.get(engine.model)
        engines.append(
            EngineReading(
                id=engine.id,
                model=engine.model,
                memory_bytes=engine.memory_bytes,
                allowed_bytes=allowed.get(engine.id, 0),
                priority=model.priority if model is not None else 100,
                active=engine.model == answers,
                busy=engine.leases > 0 or engine.model in seen.wanted,
                leaving=engine.state not in LIVE,
            )
        )
    return Reading(
        at=memory.at if memory.at is not None else seen.now,
        budget_bytes=forecast.budget(spec.memory.budget, memory),
        used_bytes=memory.used_bytes,
        other_bytes=max(0, memory.total_bytes - memory.available_bytes - memory.used_bytes),
        available_bytes=memory.available_bytes,
        system=memory.system,
        system_why=memory.system_why,
        heat=memory.heat,
        engines=tuple(engines),
        lent_bytes=sum(e.memory_bytes - e.firm_bytes for e in seen.engines if e.state in LIVE),
    )


def allowance(engine: EngineObs) -> int:
    """Bytes that this engine may use by what it was told; before it was told: what it was let in for."""
    if engine.limits is not None and engine.limits.memory_bytes:
        return max(engine.limits.memory_bytes + forecast.PROCESS, engine.forecast_bytes)
    return engine.forecast_bytes


def _allowed(before: Mapping[str, int], seen: Observed) -> Mapping[str, int]:
    out = {}
    for engine in seen.engines:
        if engine.state is EngineState.EXITED:
            continue
        now, was = allowance(engine), before.get(engine.id, 0)
        out[engine.id] = now if engine.memory_bytes <= now else max(now, was)
    return MappingProxyType(out)


def _returning(
    before: Strain, after: pressure.Pressure, desired: Desired, seen: Observed
) -> Mapping[str, str]:
    models = desired.spec.models
    out = {name: key for name, key in before.returning.items() if name in models}
    left = {*after.shed, *([after.unloaded] if after.unloaded is not None else [])}
    for name in left & models.keys():
        out.setdefault(name, own_digest(models[name]))
    back = {e.model for e in seen.engines if e.state is EngineState.READY} - left
    return MappingProxyType(
        {name: key for name, key in out.items() if name not in back and key == own_digest(models[name])}
    )


def _own_bytes(before: int, seen: Observed) -> int:
    """Rounded up with room to grow, and lowered only when it has fallen by far."""
    own = seen.memory.own_bytes
    if own == 0 or before - 2 * _OWN_STEP < own <= before:
        return before if own else 0
    return -(-(own + _OWN_STEP // 4) // _OWN_STEP) * _OWN_STEP


def patient(strain: Strain) -> Strain:
    """Without any back-off: what `lmx reconcile` asks for. Steps that are in force stay."""
    eased = replace(strain.pressure, unloads=(), returns_at=0.0)
    return replace(strain, pressure=eased, returning=MappingProxyType({}))
