"""(desired, observed, ledger) -> Plan: the ordered steps from what is to what should be. Pure.

Order is policy. Each question is one function, asked in this order; the loop carries out the first
step, looks again and plans again, so a plan is never stale by more than one step.

 1. Does an engine run away with memory?    kill it: this cannot wait for anything
 2. Is the public address right?            bind the new one before the old one goes
 3. Is an engine gone?                      take it off the books
 4. Is an engine on its way that nobody wants any more?   stop it: a newer edit cancels a load
 5. Does the router do what it should?      replace its orders in one piece
 6. Does an engine run under other limits?  configure it in place
 7. Is an engine running that nobody wants? drain it, when idle or late stop it; at once if memory is short
                                            (`leaving`)
 8. Are files missing, or fetched for nobody?
 9. Is a model missing?                     load it, one at a time
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from reconciler.actions import (
    Action,
    Bind,
    CancelDownload,
    Configure,
    Download,
    Forget,
    Kill,
    SetTable,
    Spawn,
    Stop,
    Unbind,
)
from reconciler.backoff import Ledger
from reconciler.choice import LIVE, RISING, Choice, Decision, Desired
from reconciler.decide import decide
from reconciler.digests import digest, own_digest
from reconciler.leaving import surplus
from reconciler.observed import EngineState, Failure, Limits, Observed, RoutingTable
from reconciler.room import gib
from reconciler.routing import table_for
from reconciler.spec import Model

LISTENER_RETRY_S = 2.0


@dataclass(frozen=True)
class Plan:
    actions: tuple[Action, ...]
    decision: Decision
    table: RoutingTable
    wake_at: float | None  # when to look again even if nothing happens

    @property
    def settled(self) -> bool:
        return not self.actions


def plan(desired: Desired, seen: Observed, ledger: Ledger) -> Plan:
    """The steps that remain, first one first. An empty plan means: what is, is what should be."""
    decision = decide(desired, seen, ledger)
    table = table_for(desired, decision, seen)
    actions = (
        *_runaways(desired, seen),
        *_listeners(desired, seen),
        *_gone(seen),
        *_unwanted_loads(desired, decision, seen),
        *_orders(desired, table, seen),
        *_limits(decision, seen),
        *surplus(desired, decision, seen),
        *_files(desired, decision, seen),
        *_missing(desired, decision, seen),
    )
    times = [t for t in (decision.wake_at, *_deadlines(desired, seen)) if t is not None and t > seen.now]
    return Plan(actions, decision, table, min(times, default=None))


# --- 1. does an engine run away with memory? ---------------------------------------------------------


def _runaways(desired: Desired, seen: Observed) -> Iterator[Action]:
    strain = desired.strain
    for engine in seen.engines:
        ended = engine.state is EngineState.EXITED or engine.failure is not None
        if ended or engine.id not in strain.pressure.runaway:
            continue
        allowed = strain.allowed.get(engine.id, 0)
        used = f"{gib(engine.memory_bytes)} where it was let in for {gib(allowed)}"
        said = f"it used {used}, with memory at critical"
        yield Kill(
            engine=engine.id,
            model=engine.model,
            failure=Failure("oom", said),
            reason=f"runs away with memory: {said}",
            field="memory.critical",
            mark="-",
        )


# --- 2. is the public address right? -----------------------------------------------------------------


def _listeners(desired: Desired, seen: Observed) -> Iterator[Action]:
    host, port = desired.spec.server.host, desired.spec.server.port
    here = [x for x in seen.listeners if (x.host, x.port) == (host, port)]
    is_open = any(x.state == "open" for x in here)
    failed = next((x for x in here if x.state == "failed"), None)
    if not is_open and (failed is None or seen.now - failed.since >= LISTENER_RETRY_S):
        yield Bind(host=host, port=port, field="server.port", reason=f"serve on {host}:{port}")
    if is_open:
        for other in seen.listeners:
            if other.state != "closing" and (other.host, other.port) != (host, port):
                yield Unbind(
                    host=other.host,
                    port=other.port,
                    field="server.port",
                    reason=f"{host}:{port} is open; open connections here finish first",
                )


# --- 3. is an engine gone? ---------------------------------------------------------------------------


def _gone(seen: Observed) -> Iterator[Action]:
    for engine in seen.engines:
        if engine.state is EngineState.EXITED:
            why = engine.failure.message if engine.failure is not None else engine.stop_reason or "exited"
            yield Forget(engine=engine.id, model=engine.model, reason=why)


# --- 4. is an engine on its way that nobody wants any more? ------------------------------------------


def _unwanted_loads(desired: Desired, decision: Decision, seen: Observed) -> Iterator[Action]:
    for engine in seen.engines:
        if engine.state in RISING and engine.id not in decision.kept:
            yield Stop(
                engine=engine.id,
                model=engine.model,
                reason="memory is short: " + desired.strain.pressure.why
                if desired.strain.out(engine.model)
                else "superseded: a newer spec does not ask for it",
                field=f"models.{engine.model}",
            )


# --- 5. does the router do what it should? -----------------------------------------------------------


def _orders(desired: Desired, table: RoutingTable, seen: Observed) -> Iterator[Action]:
    if table == seen.table:
        return
    if table.active != seen.table.active:
        reason = f"active: {seen.table.active or 'none'} -> {table.active or 'none'}"
    else:
        changed = sorted(
            name
            for name in {*table.routes, *seen.table.routes}
            if table.routes.get(name) != seen.table.routes.get(name)
        )
        reason = "routes of " + ", ".join(changed) if changed else "queue limits and names"
    yield SetTable(
        table=table,
        reason=reason,
        field="active" if "active" in reason else "models",
        moves=_paths(table) != _paths(seen.table),
    )


def _paths(table: RoutingTable) -> tuple[object, ...]:
    """Where requests go, without how many may wait or run at a time."""
    routes = {name: (r.status, r.engine, r.code) for name, r in table.routes.items()}
    return table.active, table.names, routes, table.drained


# --- 6. does an engine run under other limits? -------------------------------------------------------


def _limits(decision: Decision, seen: Observed) -> Iterator[Action]:
    for engine in seen.engines:
        limits = decision.limits.get(engine.id)
        there = engine.state in LIVE or engine.state is EngineState.DRAINING
        if limits is None or engine.limits is None or engine.limits == limits or not there:
            continue
        yield Configure(
            engine=engine.id,
            model=engine.model,
            limits=limits,
            reason=_limits_reason(engine.limits, limits, decision.get(engine.model)),
            field=f"models.{engine.model}",
        )


def _limits_reason(old: Limits, new: Limits, choice: Choice | None) -> str:
    parts = [
        f"{key} {getattr(old, key)} -> {getattr(new, key)}"
        for key in (
            *("context", "concurrency", "prefill_chunk", "force"),
            *("enable_thinking", "thinking_budget", "tool_parser"),
        )
        if getattr(old, key) != getattr(new, key)
    ]
    if dict(old.sampling) != dict(new.sampling):
        parts.append("sampling defaults")
    for key in (
        *("memory_bytes", "buffer_cache_bytes", "wired_bytes"),
        *("cache_memory_bytes", "cache_disk_bytes"),
    ):
        before, now = getattr(old, key), getattr(new, key)
        if before != now:
            parts.append(f"{key.removesuffix('_bytes').replace('_', ' ')} {gib(before)} -> {gib(now)}")
    if choice is not None and old.context != new.context:
        parts.append(choice.context_why)
    if choice is not None and old.concurrency != new.concurrency and choice.concurrency_why:
        parts.append(choice.concurrency_why)
    return ", ".join(parts) or "declared context"


def limits_for(choice: Choice) -> Limits:
    """What the spec, the forecast and the steps in force together ask of an engine."""
    assert choice.limits is not None, f"{choice.name} has no limits: nothing can be computed for it"
    return choice.limits


# --- 8. are files missing, or fetched for nobody? ----------------------------------------------------


def _files(desired: Desired, decision: Decision, seen: Observed) -> Iterator[Action]:
    needed = set()
    for choice in decision.choices:
        for form, wanted in _awaited(choice, desired):
            needed.add(digest(form))
            files = seen.files.get(digest(form))
            fetchable = files is not None and (
                files.state == "absent" or files.asked or (files.state == "broken" and not files.permanent)
            )
            if wanted and fetchable:
                yield Download(
                    model=choice.name,
                    digest=digest(form),
                    reason=f"{form.source} is not on this disk",
                    field=f"models.{choice.name}.source",
                )
    # What the spec may ask for again at any moment is fetched to the end.
    needed |= {digest(m) for m in desired.spec.models.values() if m.residency != "disk"}
    for key, files in seen.files.items():
        if files.state == "downloading" and key not in needed and not files.asked:
            yield CancelDownload(digest=key, reason="nobody asks for it any more")


def _awaited(choice: Choice, desired: Desired) -> Iterator[tuple[Model, bool]]:
    """Forms whose files are of use to this choice, and whether they may be fetched now.

    The form to run, and the spec's own while another answers for it.
    """
    if choice.form is not None and choice.engine is None:
        yield choice.form, True
    own = desired.spec.models.get(choice.name)
    if own is not None and choice.blocked is not None and own != choice.form:
        yield own, choice.blocked.reason == "Downloading"


# --- 9. is a model missing? --------------------------------------------------------------------------


def _missing(desired: Desired, decision: Decision, seen: Observed) -> Iterator[Action]:
    for choice in decision.choices:
        if not choice.start or choice.form is None or choice.size is None:
            continue
        yield Spawn(
            model=choice.name,
            digest=digest(choice.form),
            own_digest=own_digest(choice.form),
            limits=limits_for(choice),
            forecast_bytes=choice.size.at(choice.context),
            reason=f"{choice.size.arithmetic(choice.context)}; limit {decision.limit / 2**30:.2f} GiB",
            field=_forcing_field(choice, desired),
            mark="+/-" if decision.held else "+",
        )


def _forcing_field(choice: Choice, desired: Desired) -> str:
    if choice.fallback:
        return "swap.rollback"
    if choice.form is not None and desired.good is not None:
        old = desired.good.models.get(choice.name)
        if old is not None and digest(old) != digest(choice.form):
            for key in ("source", "revision", "adapter", "trust_remote_code", "role", "kv_bits", "draft"):
                if getattr(old, key) != getattr(choice.form, key):
                    return f"models.{choice.name}.{key}"
            return f"models.{choice.name}.template.file"
    return "active" if choice.why == "active" else f"models.{choice.name}.residency"


def _deadlines(desired: Desired, seen: Observed) -> Iterator[float]:
    for engine in seen.engines:
        if engine.state is EngineState.DRAINING:
            yield engine.since + desired.spec.swap.drain_timeout
    for listener in seen.listeners:
        if listener.state == "failed":
            yield listener.since + LISTENER_RETRY_S
