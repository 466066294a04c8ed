"""Question 1: which models does somebody want in memory? Pure.

`active` first, then `loaded` models and load overrides by priority, then on_demand models: those on their
way, those a request has waited for too long, those in use, those that are asked for in the order they
were, then idle ones. An unload override takes out, and under `page_idle` idle ones are not wanted.
"""

from __future__ import annotations

from reconciler.choice import LIVE, RISING, Desired, Wish
from reconciler.digests import digest
from reconciler.observed import EngineObs, Observed


def wanted(desired: Desired, seen: Observed) -> list[Wish]:
    spec = desired.spec
    out: dict[str, Wish] = {}

    def add(wish: Wish) -> None:
        if desired.override(wish.name) != "unload":
            out.setdefault(wish.name, wish)

    if spec.active is not None:
        add(Wish(spec.active, "active"))
    by_priority = sorted(spec.models, key=lambda n: (-spec.models[n].priority, n))
    for name in by_priority:
        if desired.override(name) == "load":
            add(Wish(name, "override"))
        elif spec.models[name].residency == "loaded":
            add(Wish(name, "loaded"))
    on_demand = [
        found
        for name in by_priority
        if spec.models[name].residency == "on_demand"
        and name not in out
        and (found := _on_demand(name, desired, seen)) is not None
    ]
    turns = {"young": 0, "rising": 0, "overdue": 1, "busy": 2, "asked": 3, "idle": 4}
    for wish in sorted(on_demand, key=lambda w: (turns[w.hold], seen.wanted.get(w.name, 0.0))):
        add(wish)
    return list(out.values())


def _on_demand(name: str, desired: Desired, seen: Observed) -> Wish | None:
    model = desired.spec.models[name]
    engines = [e for e in seen.engines if e.model == name and e.state in LIVE]
    if not engines:
        return _asked(name, desired, seen)
    if any(e.state in RISING for e in engines):
        return Wish(name, "on_demand", "rising")
    # Only the form that the spec has now has the promise of min_residency.
    begun = [e.since for e in engines if e.digest == digest(model)]
    if begun and seen.now < (grown := max(begun) + model.min_residency):
        return Wish(name, "on_demand", "young", grown)
    if name in seen.wanted or any(e.leases for e in engines):
        return Wish(name, "on_demand", "busy")
    stale = max(_last_use(e, seen) for e in engines) + model.idle_timeout
    if seen.now >= stale or "page_idle" in desired.strain.steps:
        return None
    return Wish(name, "on_demand", "idle", stale)


def _asked(name: str, desired: Desired, seen: Observed) -> Wish | None:
    """It is not there. A request that has waited for half of its time goes before models that are busy."""
    since = seen.wanted.get(name)
    if since is None:
        return None
    overdue = since + desired.spec.queue.timeout / 2
    if seen.now < overdue:
        return Wish(name, "on_demand", "asked", overdue)
    return Wish(name, "on_demand", "overdue")


def _last_use(engine: EngineObs, seen: Observed) -> float:
    return max(engine.since, seen.last_used.get(engine.id, engine.since))
