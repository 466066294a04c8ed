"""The router's orders, computed from the decision. Pure.

For each model the spec names: `ready` to an engine, `wait` while one is on its way, `wake` for a
model that loads when asked, or `refuse` with the code and the sentence a client gets. What the strain adds:
a model that left for want of memory refuses, one whose neighbour of higher priority is over its service
level refuses too, and queues and rows are cut. Whatever is said here stays the same while a state lasts, for
words that move would be new orders in each pass.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import Any

from reconciler.choice import Blocked, Choice, Decision, Desired
from reconciler.forms import OOM_UNLOADED
from reconciler.observed import EngineObs, Observed, Route, RoutingTable
from reconciler.pressure import rows as rows_under
from reconciler.spec import Spec

OOM_RETRY_S = 15.0  # memory that is short now may do for the model again by then
OVERLOAD_RETRY_S = 5.0


def table_for(desired: Desired, decision: Decision, seen: Observed) -> RoutingTable:
    """What the router should be doing now."""
    spec = desired.spec
    routes = {
        name: replace(_route(name, desired, decision), role=model.role) for name, model in spec.models.items()
    }
    stand_in = decision.stand_in
    if stand_in is not None and stand_in not in routes:
        routes[stand_in] = _route(stand_in, desired, decision)
    active, reason = _active(desired, decision, routes)
    # A key beats an alias, and an alias beats a source, whoever comes first in the file.
    names: dict[str, str] = {}
    for name in routes:
        form = spec.models.get(name)
        if form is not None:
            names.setdefault(form.source, name)
    for name, model in spec.models.items():
        names.update(dict.fromkeys(model.aliases, name))
    names.update({name: name for name in routes})
    return RoutingTable(
        active=active,
        names=MappingProxyType(names),
        routes=MappingProxyType(routes),
        depth=spec.queue.depth,
        timeout=spec.queue.timeout,
        reason=reason,
        **_drained(desired),
    )


def _drained(desired: Desired) -> dict[str, Any]:
    found = next((o for o in desired.overrides if o.kind == "drain"), None)
    if found is None:
        return {}
    return {
        "drained": "this machine is drained for maintenance and takes no new session; ask another one",
        "sessions_until": found.until,
    }


def _active(desired: Desired, decision: Decision, routes: dict[str, Route]) -> tuple[str | None, str]:
    active = desired.spec.active
    if active is None:
        return None, "active is null: this machine deliberately serves no model"
    if routes[active].status != "ready" and decision.stand_in is not None:
        stand_in = routes[decision.stand_in]
        if stand_in.status == "ready" or routes[active].status == "refuse":
            return decision.stand_in, ""
    return active, ""


def _route(name: str, desired: Desired, decision: Decision) -> Route:
    choice, strain = decision.get(name), desired.strain
    engine = decision.serving(name)
    guard = strain.guards.get(name)
    over = _over_its_level(name, desired)
    if engine is not None and over is None:
        return Route(
            model=name,
            status="ready",
            engine=engine.id,
            concurrency=rows(engine, desired, choice),
            throttled="throttle" in strain.steps,
            depth=guard.depth if guard is not None else None,
        )
    if desired.override(name) == "unload":
        return Route(
            model=name,
            status="refuse",
            message=f"{name} was unloaded by an admin call; load it again, or edit the spec",
        )
    if strain.out(name):
        return _out(name, "it was taken out of memory, which is short; it returns when there is room")
    if over is not None:
        return Route(
            model=name,
            status="refuse",
            engine=engine.id if engine is not None else None,
            code="overloaded",
            message=f"{name} takes no new request while {over}, whose priority is higher, is too slow",
            retry_after=OVERLOAD_RETRY_S,
        )
    if choice is None:
        return _not_wanted(name, desired.spec)
    if choice.form is None and choice.blocked is not None:
        return _blocked(name, choice.blocked, choice.former)
    return Route(
        model=name,
        status="wait",
        code="model_swapping",
        message=f"{name} is being loaded",
        retry_after=2.0,
    )


def _over_its_level(name: str, desired: Desired) -> str | None:
    """The model for whose sake this one takes no new request, if there is one."""
    model = desired.spec.models.get(name)
    if model is None:
        return None
    for other, guard in desired.strain.guards.items():
        if other != name and guard.refuse_below is not None and model.priority < guard.refuse_below:
            return other
    return None


def _out(name: str, why: str) -> Route:
    message = f"{name} is not loaded: {why}"
    return Route(
        model=name, status="refuse", code=OOM_UNLOADED, message=message, retry_after=OOM_RETRY_S
    )  # fmt: skip


def _blocked(name: str, blocked: Blocked, former: Blocked | None) -> Route:
    """former: what stands against its last good form, which may answer before long whatever this one does."""
    if blocked.code == OOM_UNLOADED:
        return _out(name, blocked.lasting_words)
    if blocked.permanent and (former is None or former.permanent):
        message = f"{name} cannot run: {blocked.lasting_words}"
        if former is not None:
            message += f"; nor can it as it ran before: {former.lasting_words}"
        return Route(model=name, status="refuse", code=blocked.code, message=message)
    message = f"{name} cannot run now: {blocked.lasting_words}"
    return Route(model=name, status="wait", code=blocked.code, message=message, retry_after=2.0)


def _not_wanted(name: str, spec: Spec) -> Route:
    model = spec.models.get(name)
    if model is not None and model.residency == "on_demand":
        return Route(
            model=name,
            status="wake",
            code="model_swapping",
            message=f"{name} is being loaded on demand",
            retry_after=2.0,
        )
    return Route(
        model=name,
        status="refuse",
        message=f"{name} is on disk only (residency: disk); make it active, or set its residency to "
        "on_demand or loaded",
    )


def rows(engine: EngineObs, desired: Desired, choice: Choice | None) -> int:
    """Rows decoded together: as declared, or lowered, or one where the architecture's caches cannot batch."""
    if engine.info is not None and not engine.info.batchable:
        return 1
    model = choice.form if choice is not None and choice.form is not None else None
    model = model or desired.spec.models.get(engine.model)
    if model is None:
        return engine.limits.concurrency if engine.limits is not None else 1
    return rows_under(desired.strain.pressure, model.concurrency)
