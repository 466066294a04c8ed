"""Question 7 of the plan: is an engine running that nobody wants, and how does it go? Pure.

Drained, so that what it holds comes to its end; stopped when it is idle or late; at once where its memory
cannot wait.
"""

from __future__ import annotations

from collections.abc import Iterator

from reconciler.actions import Action, Drain, Stop
from reconciler.choice import Choice, Decision, Desired
from reconciler.digests import digest
from reconciler.forms import OOM_UNLOADED, outdated
from reconciler.observed import EngineObs, EngineState, Observed


def surplus(desired: Desired, decision: Decision, seen: Observed) -> Iterator[Action]:
    for engine in seen.engines:
        if engine.failure is not None or engine.id in desired.strain.pressure.runaway:
            continue  # it is being killed
        here = engine.state in (EngineState.READY, EngineState.DRAINING)
        if here and engine.id not in decision.kept and _at_once(engine, desired):
            yield Stop(
                engine=engine.id,
                model=engine.model,
                reason=f"out of memory: {desired.strain.pressure.why}",
                field="memory.ladder",
                code=OOM_UNLOADED,
                grace=0.0,
            )
        elif engine.state is EngineState.READY and engine.id not in decision.kept:
            yield Drain(
                engine=engine.id,
                model=engine.model,
                reason=_surplus_reason(engine, desired, decision, seen),
                field=_surplus_field(engine, desired),
                mark="-/+" if _waiting_for_room(decision) is not None else "+/-",
            )
        elif engine.state is EngineState.DRAINING:
            late = seen.now - engine.since >= desired.spec.swap.drain_timeout
            if engine.leases == 0 or (late and not _only_yields(engine, desired, decision)):
                limit = desired.spec.swap.drain_timeout
                yield Stop(
                    engine=engine.id,
                    model=engine.model,
                    reason=f"drain timeout: {engine.leases} requests left after {limit:g} s"
                    if engine.leases
                    else "drained",
                    field="swap.drain_timeout" if engine.leases else _surplus_field(engine, desired),
                    code=OOM_UNLOADED if desired.strain.out(engine.model) else "engine_failed",
                )


def _only_yields(engine: EngineObs, desired: Desired, decision: Decision) -> bool:
    """It leaves for another on_demand model, whose request is worth no more than those that run here.

    So these come to their end, however long that takes; the waiting one is told when its own time is up.
    """
    model, heir = desired.spec.models.get(engine.model), _waiting_for_room(decision)
    if model is None or digest(model) != engine.digest or model.residency != "on_demand":
        return False
    if desired.override(engine.model) is not None or desired.strain.out(engine.model):
        return False
    return engine.model != desired.spec.active and (heir is None or heir.why == "on_demand")


def _at_once(engine: EngineObs, desired: Desired) -> bool:
    """Its memory is needed now: it is the active model's, or memory is at critical."""
    pressure = desired.strain.pressure
    return engine.model == pressure.unloaded or (
        pressure.level == "critical" and desired.strain.out(engine.model)
    )


def _surplus_reason(engine: EngineObs, desired: Desired, decision: Decision, seen: Observed) -> str:
    if desired.override(engine.model) == "unload":
        return "unloaded by an admin call"
    if desired.strain.out(engine.model):
        return f"shed, memory is short: {desired.strain.pressure.why}"
    if any(g.recycle == engine.id for g in desired.strain.guards.values()):
        return f"replaced by a fresh engine: {_guard_why(engine, desired)}"
    if outdated(engine, seen):
        return "replaced by a fresh engine: the text of its template.file has changed"
    heir = _waiting_for_room(decision)
    if heir is not None and heir.size is not None:
        if desired.spec.swap.strategy == "drain_first":
            return f"swap.strategy is drain_first; {heir.name} comes next"
        late = ", and a request has waited through half of queue.timeout" if heir.hold == "overdue" else ""
        return (
            f"room for {heir.name}: {heir.size.arithmetic(heir.size.floor_context)} does not fit "
            f"beside it under {decision.limit / 2**30:.2f} GiB{late}"
        )
    model = desired.spec.models.get(engine.model)
    if model is None:
        return "no longer in the spec"
    if digest(model) != engine.digest:
        return "replaced by the form the spec now has"
    if model.residency == "on_demand":
        if "page_idle" in desired.strain.steps:
            return f"idle, and memory is short: {desired.strain.pressure.why}"
        return f"idle for {model.idle_timeout:g} s"
    return "not active, and its residency is disk"


def _guard_why(engine: EngineObs, desired: Desired) -> str:
    return next((g.why for g in desired.strain.guards.values() if g.recycle == engine.id), "")


def _waiting_for_room(decision: Decision) -> Choice | None:
    """The model that could load if others were gone, if there is one."""
    for choice in decision.choices:
        if choice.form is None or choice.engine is not None or choice.start:
            continue
        if choice.size is not None and choice.size.problem is None:
            return choice
    return None


def _surplus_field(engine: EngineObs, desired: Desired) -> str:
    model = desired.spec.models.get(engine.model)
    if model is None or digest(model) != engine.digest:
        return f"models.{engine.model}"
    return "active" if model.residency == "disk" else f"models.{engine.model}.residency"
