"""The status contract's conditions: what is true of the appliance, and why. Pure.

Conditions are computed anew from the facts in each pass; only `last_transition` is carried over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from reconciler import source_verdicts
from reconciler.actions import Forget, SetTable, Spawn
from reconciler.cache_ready import cache_ready
from reconciler.choice import RISING, Blocked, Choice
from reconciler.observed import EngineState, Observed
from reconciler.plan import Plan
from reconciler.pressure import context_cap
from reconciler.room import gib
from reconciler.source_view import SourceView
from reconciler.spec import Spec
from reconciler.strain import Strain

Status = Literal["True", "False", "Unknown"]
STALE_S = 10.0  # seconds after which a measurement says nothing about now; one is made four times a second


@dataclass(frozen=True)
class Condition:
    type: str
    status: Status
    reason: str
    message: str
    last_transition: float = 0.0  # wall clock, seconds
    observed_generation: int = 0

    def as_dict(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass(frozen=True)
class Facts:
    """All that conditions depend on. spec: what the plan was made for. config/source: message when bad."""

    spec: Spec
    seen: Observed
    plan: Plan
    generation: int
    config_error: str | None
    source_error: str | None
    any_spec: bool  # some valid spec is in force
    suspended: tuple[str, str] | None  # reason and message
    overrides: tuple[str, ...]
    restart_needed: str | None
    strain: Strain = field(default_factory=Strain)
    source: SourceView | None = None  # None: a local file
    held_back: bool = False  # the newest content waits for the end of the suspension
    tried: bool = False  # what runs is a tried spec, not the file's


def conditions(facts: Facts, before: Mapping[str, Condition], wall: float) -> dict[str, Condition]:
    """One condition per type, in the order of the contract."""
    out: dict[str, Condition] = {}
    for kind, (status, reason, message) in _all(facts).items():
        old = before.get(kind)
        changed = old is None or old.status != status
        out[kind] = Condition(
            kind,
            status,
            reason,
            message,
            wall if changed or old is None else old.last_transition,
            facts.generation,
        )
    return out


Verdict = tuple[Status, str, str]


def _all(facts: Facts) -> dict[str, Verdict]:
    return {
        "Ready": _ready(facts),
        "Synced": _synced(facts),
        "ConfigAccepted": _accepted(facts),
        "Reconciling": _reconciling(facts),
        "Stalled": _stalled(facts),
        "Degraded": _degraded(facts),
        "MemoryPressure": _memory(facts),
        "ThermalPressure": _thermal(facts),
        "CacheReady": cache_ready(facts.spec, facts.seen, facts.strain),
        "KeysReady": _keys(facts),
        "Suspended": ("True", *facts.suspended)
        if facts.suspended is not None
        else ("False", "NotSuspended", ""),
        "Overridden": ("True", "AdminCall", "; ".join(facts.overrides))
        if facts.overrides
        else ("False", "NoOverride", ""),
        "SourceReady": source_verdicts.ready(facts.source, facts.source_error),
        "SourceVerified": source_verdicts.verified(facts.source),
    }


def _ready(facts: Facts) -> Verdict:
    if not facts.any_spec:
        return "False", "NoValidSpec", f"there has never been a valid spec: {_bad_source(facts)}"
    if facts.seen.table.drained:
        return "False", "Drained", facts.seen.table.drained
    if facts.spec.active is None:
        return "True", "NoActiveModel", "active is null: this machine deliberately serves no model"
    table = facts.seen.table
    route = table.routes.get(table.active) if table.active is not None else None
    if route is None:
        return "False", "Starting", "no request is routed yet"
    if route.status == "ready":
        engine = next((e for e in facts.seen.engines if e.id == route.engine), None)
        if engine is not None and engine.state is EngineState.READY:
            return "True", "ActiveServes", f"{route.model} answers"
        return "False", "EngineGone", f"the engine of {route.model} has ended; another takes its place"
    if route.status == "refuse":
        return "False", _camel(route.code), route.message
    return "False", "ActiveNotLoaded", route.message


def _accepted(facts: Facts) -> Verdict:
    if facts.source_error is not None:
        return "False", "SourceUnreadable", facts.source_error
    if facts.config_error is not None:
        return "False", "SpecInvalid", facts.config_error
    return "True", "SpecValid", ""


def _bad_source(facts: Facts) -> str:
    return facts.source_error or facts.config_error or "none was read yet"


def _synced(facts: Facts) -> Verdict:
    if facts.source_error is not None or facts.config_error is not None:
        return "False", "SpecRejected", f"the newest content is not what runs: {_bad_source(facts)}"
    behind = source_verdicts.behind(facts.source)
    if behind is not None:
        return "False", *behind
    for choice in facts.plan.decision.choices:
        if choice.blocked is not None and not _asked_in_vain(choice):
            kept = "; the last good form answers" if choice.fallback else ""
            return "False", choice.blocked.reason, _blocked_message(choice, facts.seen) + kept
    for listener in facts.seen.listeners:
        if listener.state == "failed":
            return "False", "ListenFailed", f"{listener.host}:{listener.port}: {listener.message}"
    if facts.seen.keys_problem is not None:
        return "False", "KeysUnreadable", facts.seen.keys_problem
    if facts.restart_needed is not None:
        return "False", "RestartRequired", facts.restart_needed
    if facts.suspended is not None and facts.held_back:
        return "False", "Suspended", f"generation {facts.generation} waits: {facts.suspended[1]}"
    if facts.plan.decision.stand_in is not None:
        return (
            "False",
            "Swapping",
            f"{facts.plan.decision.stand_in} answers until {facts.spec.active} is ready",
        )
    waiting = _unfinished(facts, on_demand=False)
    if waiting is not None:
        return "False", "Reconciling", waiting
    if facts.tried:
        return "False", "Trying", f"what runs is not the file but {facts.overrides[-1]}"
    return "True", "UpToDate", f"generation {facts.generation} runs"


def _unfinished(facts: Facts, *, on_demand: bool = True) -> str | None:
    """What is still to be done. on_demand: whether a model that comes and goes with requests counts."""
    aside = {c.name for c in facts.plan.decision.choices if c.why == "on_demand" and not on_demand}
    for action in facts.plan.actions:
        if isinstance(action, Forget) or (isinstance(action, SetTable) and not action.moves):
            continue  # bookkeeping: it changes nothing for any request
        if not (aside and isinstance(action, Spawn) and action.model in aside):
            return f"next: {action.kind} {action.subject}: {action.reason}"
    for choice in facts.plan.decision.choices:
        if choice.name in aside:
            continue
        if choice.engine is not None and choice.engine.state in RISING:
            return f"{choice.name} is {choice.engine.state.value}"
        if choice.engine is None and choice.form is not None:
            return f"{choice.name} is not loaded yet"
    return None


def _keys(facts: Facts) -> Verdict:
    if facts.seen.keys_problem is not None:
        return "False", "KeysUnreadable", facts.seen.keys_problem
    if facts.spec.server.api_keys is None:
        return "True", "Open", "server.api_keys is null: anybody who reaches this machine may call"
    return "True", "KeysRead", ""


def _reconciling(facts: Facts) -> Verdict:
    waiting = _unfinished(facts)
    if waiting is not None:
        return "True", "InProgress", waiting
    leaving = [e for e in facts.seen.engines if e.state in (EngineState.DRAINING, EngineState.STOPPING)]
    if leaving:
        return "True", "Draining", f"{leaving[0].id} finishes {leaving[0].leases} requests"
    return "False", "Settled", ""


def _stalled(facts: Facts) -> Verdict:
    if facts.source_error is not None or facts.config_error is not None:
        return "True", "SpecRejected", _bad_source(facts)
    if facts.source is not None and facts.source.refused is not None:
        return "True", facts.source.refused.reason, facts.source.refused.message
    for choice in facts.plan.decision.choices:
        if choice.blocked is not None and choice.blocked.permanent and not _asked_in_vain(choice):
            return "True", choice.blocked.reason, _blocked_message(choice, facts.seen)
    return "False", "Progressing", ""


# --- strain ------------------------------------------------------------------------------------------


def _memory(facts: Facts) -> Verdict:
    """By the level as it was last told: one that swings around a line would be nothing but transitions."""
    memory, found = facts.seen.memory, facts.strain.pressure
    if memory.total_bytes == 0:
        return "Unknown", "NotMeasured", "memory cannot be measured here"
    level, cause = found.told
    age = _age(facts)
    if age > STALE_S:
        return "Unknown", "Stale", f"measuring has failed for {age:.0f} s; memory was at {level} before"
    if level == "normal":
        others = max(0, memory.total_bytes - memory.available_bytes - memory.used_bytes)
        said = f"LMX uses {gib(memory.used_bytes)}, other programs {gib(others)}"
        return "False", "Normal", f"{said}; {gib(memory.available_bytes)} are free"
    whose = "other programs cause it" if cause == "others" else "by LMX's own use"
    return "True", level.capitalize(), f"memory is at {level}, {whose}: {found.why}"


def _thermal(facts: Facts) -> Verdict:
    found, age = facts.strain.pressure, _age(facts)
    if age > STALE_S:
        kept = f"; still in force: {context_cap(found, facts.spec)[1]}" if found.hot else ""
        return "Unknown", "Stale", f"measuring has failed for {age:.0f} s{kept}"
    if found.hot:
        return "True", "Hot", _hot(facts)
    if facts.seen.memory.heat is None:
        return "Unknown", "NotMeasured", "heat cannot be measured here"
    return "False", "Cool", f"heat is {facts.seen.memory.heat}"


def _hot(facts: Facts) -> str:
    found = facts.strain.pressure
    heat = f"heat is {found.heat}" if found.heat is not None else "heat cannot be measured any more"
    return f"{heat}: {context_cap(found, facts.spec)[1]}"


def _age(facts: Facts) -> float:
    """Seconds since memory and heat were measured: the sampler keeps its last figures when it fails, and
    the ladder takes no step on them."""
    at = facts.seen.memory.at
    return 0.0 if at is None else facts.seen.now - at


def _degraded(facts: Facts) -> Verdict:
    strain = facts.strain
    found, said, reasons = strain.pressure, [], []
    if found.step is not None:
        reasons.append(_camel(found.step))
        out = [*found.shed, *([found.unloaded] if found.unloaded is not None else [])]
        gone = f", out of memory: {', '.join(out)}" if out else ""
        said.append(f"{' > '.join(found.steps)}{gone}: {found.why}")
    if found.hot:
        reasons.append("Thermal")
        said.append(_hot(facts))
    waiting = sorted(name for name in strain.returning if not strain.out(name))
    if waiting and not found.steps:
        reasons.append("Returning")
    if waiting:
        said.append(f"on the way back into memory: {', '.join(waiting)}")
    for name, guard in sorted(strain.guards.items()):
        if guard.stage:
            reasons.append("ServiceLevel")
            said.append(f"{name} is at stage {guard.stage} of its guardrails: {guard.why}")
    if not reasons:
        return "False", "NoStep", "no degradation step is in force"
    return "True", reasons[0], "; ".join(said)


def _asked_in_vain(choice: Choice) -> bool:
    """An on_demand model that a client asked for and that has no room: no fault of the newest content.

    What a client asks for must not make a deploy script believe that its push failed.
    """
    assert choice.blocked is not None
    return (
        choice.why == "on_demand" and choice.engine is None and choice.blocked.reason == "InsufficientMemory"
    )


def _blocked_message(choice: Choice, seen: Observed) -> str:
    assert choice.blocked is not None
    return f"models.{choice.name}: {choice.blocked.message}{_when(choice.blocked, seen)}"


def _when(blocked: Blocked, seen: Observed) -> str:
    if blocked.retry_at is None:
        return ""
    return f" (next try in {max(0.0, blocked.retry_at - seen.now):.0f} s)"


def _camel(code: str) -> str:
    return "".join(part.capitalize() for part in code.replace("-", "_").split("_"))


def summary(found: Mapping[str, Condition]) -> str:
    """One word for people: the first that holds."""
    if found["Suspended"].status == "True":
        return "Suspended"
    if found["Ready"].status != "True":
        return "NotReady"
    if found["Stalled"].status == "True":
        return "Stalled"
    if found["Reconciling"].status == "True":
        return "Reconciling"
    if found["Degraded"].status == "True":
        return "Degraded"
    return "Ready"
