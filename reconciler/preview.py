"""What a spec would do before it is in force: the planner run forward over a world where all goes well. Pure.

Each step's action is assumed to work at once, so the list shows the same steps in the same order as the
loop would take them, including the rebinds and drains in between. Where the planner refuses, so does this.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import MappingProxyType

from reconciler.actions import (
    Action,
    Bind,
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
from reconciler.backoff import Ledger
from reconciler.decide import Choice, Desired
from reconciler.observed import EngineObs, EngineState, ListenerObs, MemoryObs, Observed
from reconciler.plan import plan

MOST_STEPS = 200
# Steps that every change brings and nobody decides about.
SILENT = (Forget, Stop)


@dataclass(frozen=True)
class Step:
    """One line of `lmx plan`. outage: what clients notice, in words."""

    mark: str
    action: str
    model: str
    field: str
    outage: str
    reason: str


def preview(desired: Desired, seen: Observed, ledger: Ledger | None = None) -> tuple[Step, ...]:
    """Ends when the planner has nothing more to do, or waits for something that a preview cannot know."""
    ledger = ledger or Ledger()
    steps: list[Step] = []
    found = plan(desired, seen, ledger)
    for _ in range(MOST_STEPS):
        if not found.actions:
            break
        action = found.actions[0]
        if not isinstance(action, SILENT) and not _only_waiting(action, seen):
            steps.append(_step(action, seen))
        seen = _after(action, seen)
        found = plan(desired, seen, ledger)
    steps += _refusals(found.decision.choices)
    return tuple(steps)


def _refusals(choices: tuple[Choice, ...]) -> Iterator[Step]:
    for choice in choices:
        if choice.blocked is not None:
            field = f"models.{choice.name}"
            yield Step("x", "refused", choice.name, field, "none: what runs goes on", choice.blocked.message)


def _only_waiting(action: Action, seen: Observed) -> bool:
    """New router orders under which the same model goes on answering: detail that nobody decides about."""
    return isinstance(action, SetTable) and action.table.active == seen.table.active


def _step(action: Action, seen: Observed) -> Step:
    return Step(action.mark, action.kind, action.subject, action.field, _outage(action, seen), action.reason)


def _outage(action: Action, seen: Observed) -> str:
    match action:
        case Drain(mark="-/+"):
            return "requests wait in the queue until the next model is ready"
        case Drain():
            return "none: running requests finish"
        case Spawn(mark="+/-"):
            return "none: the old engine answers meanwhile"
        case Spawn():
            return "requests wait until it is ready"
        case Bind() | Unbind():
            return "none: open connections finish on the old address"
        case Configure() | SetTable():
            return "none"
        case Download():
            return "none: what runs goes on"
        case _:
            return ""


def _after(action: Action, seen: Observed) -> Observed:
    """The world one step on, everything having worked."""
    engines = seen.engines
    match action:
        case Spawn():
            new = EngineObs(
                id=f"{action.model}-new-{len(engines)}",
                model=action.model,
                digest=action.digest,
                own_digest=action.own_digest,
                state=EngineState.READY,
                since=seen.now,
                limits=action.limits,
                memory_bytes=action.forecast_bytes,
            )
            return replace(seen, engines=(*engines, new), memory=_used(seen, action.forecast_bytes))
        case SetTable(table=table):
            return replace(seen, table=table)
        case Configure(engine=ident, limits=limits):
            return replace(
                seen, engines=tuple(replace(e, limits=limits) if e.id == ident else e for e in engines)
            )
        case Drain(engine=ident):
            drained = tuple(
                replace(e, state=EngineState.DRAINING, leases=0, since=seen.now) if e.id == ident else e
                for e in engines
            )
            return replace(seen, engines=drained)
        case Stop(engine=ident) | Forget(engine=ident) | Kill(engine=ident):
            gone = sum(e.memory_bytes for e in engines if e.id == ident)
            left = tuple(e for e in engines if e.id != ident)
            return replace(seen, engines=left, memory=_used(seen, -gone))
        case Bind(host=host, port=port):
            return replace(seen, listeners=(*seen.listeners, ListenerObs(host, port, "open")))
        case Unbind(host=host, port=port):
            return replace(
                seen, listeners=tuple(x for x in seen.listeners if (x.host, x.port) != (host, port))
            )
        case Download(digest=digest):
            # Its size is not known before it is there, so nothing further can be said of this model.
            files = {**seen.files, digest: replace(seen.files[digest], state="downloading", asked=False)}
            return replace(seen, files=MappingProxyType(files))
        case _:
            return seen


def _used(seen: Observed, more: int) -> MemoryObs:
    memory = seen.memory
    return replace(
        memory, used_bytes=memory.used_bytes + more, available_bytes=memory.available_bytes - more
    )  # fmt: skip
