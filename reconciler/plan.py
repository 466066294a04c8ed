"""(desired, observed, ledger) -> Plan: the ordered steps from what is to what should be. Pure.

Order is policy. Each question is one function, asked in this order; the loop carries out the first
step, looks again and plans again, so a plan is never stale by more than one step.

 1. Is the public address right?            bind the new one before the old one goes
 2. Is an engine gone?                      take it off the books
 3. Is an engine on its way that nobody wants any more?   stop it: a newer edit cancels a load
 4. Does the router do what it should?      replace its orders in one piece
 5. Does an engine run under other limits?  configure it in place
 6. Is an engine running that nobody wants? drain it; when idle or late, stop it
 7. Are files missing, or fetched for nobody?
 8. Is a model missing?                     load it, one at a time
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from reconciler.actions import (
    Action,
    Bind,
    CancelDownload,
    Configure,
    Download,
    Drain,
    Forget,
    SetTable,
    Spawn,
    Stop,
    Unbind,
)
from reconciler.backoff import Ledger
from reconciler.choice import RISING, Choice, Decision, Desired
from reconciler.decide import decide
from reconciler.digests import digest, own_digest
from reconciler.observed import EngineObs, EngineState, Limits, Observed, RoutingTable
from reconciler.routing import table_for
from reconciler.spec import Model

LISTENER_RETRY_S = 2.0
PREFILL_CHUNK = 512  # tokens; halves the wait of a short request behind a long one at < 1 % of throughput


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
        *_listeners(desired, seen),
        *_gone(seen),
        *_unwanted_loads(decision, seen),
        *_orders(desired, table, seen),
        *_limits(desired, decision, seen),
        *_surplus(desired, decision, seen),
        *_files(desired, decision, seen),
        *_missing(desired, decision, seen),
    )
    times = [t for t in (decision.wake_at, *_deadlines(desired, seen)) if t is not None and t > seen.now]
    return Plan(actions, decision, table, min(times, default=None))


# --- 1. is the public address right? -----------------------------------------------------------------


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


# --- 2. is an engine gone? ---------------------------------------------------------------------------


def _gone(seen: Observed) -> Iterator[Action]:
    for engine in seen.engines:
        if engine.state is EngineState.EXITED:
            why = engine.failure.message if engine.failure is not None else engine.stop_reason or "exited"
            yield Forget(engine=engine.id, model=engine.model, reason=why)


# --- 3. is an engine on its way that nobody wants any more? ------------------------------------------


def _unwanted_loads(decision: Decision, seen: Observed) -> Iterator[Action]:
    for engine in seen.engines:
        if engine.state in RISING and engine.id not in decision.kept:
            yield Stop(
                engine=engine.id,
                model=engine.model,
                reason="superseded: a newer spec does not ask for it",
                field=f"models.{engine.model}",
            )


# --- 4. does the router do what it should? -----------------------------------------------------------


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
    yield SetTable(table=table, reason=reason, field="active" if "active" in reason else "models")


# --- 5. does an engine run under other limits? -------------------------------------------------------


def _limits(desired: Desired, decision: Decision, seen: Observed) -> Iterator[Action]:
    for choice in decision.choices:
        engine = choice.engine
        if engine is None or choice.form is None or engine.state not in (*RISING, EngineState.READY):
            continue
        if choice.why == "stand_in" or choice.context == 0:
            continue  # it goes soon, or its files are gone and nothing can be computed
        limits = limits_for(choice)
        if engine.limits is not None and engine.limits != limits:
            yield Configure(
                engine=engine.id,
                model=engine.model,
                limits=limits,
                reason=_limits_reason(engine.limits, limits, choice),
                field=f"models.{engine.model}",
            )


def _limits_reason(old: Limits, new: Limits, choice: Choice) -> str:
    parts = [
        f"{key} {getattr(old, key)} -> {getattr(new, key)}"
        for key in ("context", "concurrency", "prefill_chunk", "force", "enable_thinking")
        if getattr(old, key) != getattr(new, key)
    ]
    if dict(old.sampling) != dict(new.sampling):
        parts.append("sampling defaults")
    if old.context != new.context:
        parts.append(choice.context_why)
    return ", ".join(parts) or "declared context"


def limits_for(choice: Choice) -> Limits:
    """What the spec and the forecast together ask of an engine."""
    form = choice.form
    assert form is not None
    return Limits(
        context=choice.context,
        context_declared=form.context if isinstance(form.context, int) else None,
        concurrency=form.concurrency,
        prefill_chunk=form.prefill_chunk if isinstance(form.prefill_chunk, int) else PREFILL_CHUNK,
        sampling=sampling_defaults(form),
        force=form.sampling.force,
        enable_thinking=form.template.enable_thinking,
    )


def sampling_defaults(form: Model) -> Mapping[str, Any]:
    values = form.sampling.model_dump(exclude={"force"})
    return {k: v for k, v in values.items() if v is not None}


# --- 6. is an engine running that nobody wants? ------------------------------------------------------


def _surplus(desired: Desired, decision: Decision, seen: Observed) -> Iterator[Action]:
    for engine in seen.engines:
        if engine.state is EngineState.READY and engine.id not in decision.kept:
            yield Drain(
                engine=engine.id,
                model=engine.model,
                reason=_surplus_reason(engine, desired, decision),
                field=_surplus_field(engine, desired),
                mark="-/+" if _waiting_for_room(decision) is not None else "+/-",
            )
        elif engine.state is EngineState.DRAINING:
            late = seen.now - engine.since >= desired.spec.swap.drain_timeout
            if engine.leases == 0 or late:
                limit = desired.spec.swap.drain_timeout
                yield Stop(
                    engine=engine.id,
                    model=engine.model,
                    reason=f"drain timeout: {engine.leases} requests left after {limit:g} s"
                    if engine.leases
                    else "drained",
                    field="swap.drain_timeout" if engine.leases else _surplus_field(engine, desired),
                )


def _surplus_reason(engine: EngineObs, desired: Desired, decision: Decision) -> str:
    if desired.override(engine.model) == "unload":
        return "unloaded by an admin call"
    heir = _waiting_for_room(decision)
    if heir is not None and heir.size is not None:
        if desired.spec.swap.strategy == "drain_first":
            return f"swap.strategy is drain_first; {heir.name} comes next"
        return (
            f"room for {heir.name}: {heir.size.arithmetic(heir.size.floor_context)} does not fit "
            f"beside it under {decision.limit / 2**30:.2f} GiB"
        )
    model = desired.spec.models.get(engine.model)
    if model is None:
        return "no longer in the spec"
    if digest(model) != engine.digest:
        return "replaced by the form the spec now has"
    if model.residency == "on_demand":
        return f"idle for {model.idle_timeout:g} s"
    return "not active, and its residency is disk"


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


# --- 7. are files missing, or fetched for nobody? ----------------------------------------------------


def _files(desired: Desired, decision: Decision, seen: Observed) -> Iterator[Action]:
    needed = set()
    for choice in decision.choices:
        for form, wanted in _awaited(choice, desired):
            needed.add(digest(form))
            files = seen.files.get(digest(form))
            fetchable = files is not None and (
                files.state == "absent" or (files.state == "broken" and not files.permanent)
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
        if files.state == "downloading" and key not in needed:
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


# --- 8. is a model missing? --------------------------------------------------------------------------


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
    return "active" if choice.why == "active" else f"models.{choice.name}.residency"


def _deadlines(desired: Desired, seen: Observed) -> Iterator[float]:
    for engine in seen.engines:
        if engine.state is EngineState.DRAINING:
            yield engine.since + desired.spec.swap.drain_timeout
    for listener in seen.listeners:
        if listener.state == "failed":
            yield listener.since + LISTENER_RETRY_S
