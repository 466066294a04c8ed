"""What changed between two passes, as events. Pure: the timeline is read off the observations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from reconciler.events import EventType
from reconciler.observed import EngineObs, EngineState, Observed, RoutingTable
from reconciler.plan import Plan

Change = tuple[EventType, str, dict[str, Any]]


def changes(old: Observed | None, old_plan: Plan | None, new: Observed, plan: Plan) -> Iterator[Change]:
    yield from _engines(old, new)
    yield from _routes(old.table if old is not None else RoutingTable(), new)
    yield from _listeners(old, new)
    yield from _files(old, new)
    yield from _blocks(old_plan, plan)


def _engines(old: Observed | None, new: Observed) -> Iterator[Change]:
    before = {e.id: e.state for e in old.engines} if old is not None else {}
    told = {e.id: len(e.warmup.failed) for e in old.engines} if old is not None else {}
    for engine in new.engines:
        for name, why in engine.warmup.failed[told.get(engine.id, 0) :]:
            about = {"engine": engine.id, "model": engine.model, "template": name}
            yield EventType.WARMUP_FAILED, f"{engine.id}: warmup_templates.{name}: {why}", about
        if before.get(engine.id) is engine.state:
            continue
        data: dict[str, Any] = {"engine": engine.id, "model": engine.model, "pid": engine.pid}
        if engine.state is EngineState.READY:
            info = engine.info
            took = f" after {info.load_s:.1f} s, {info.active_bytes / 2**20:.0f} MiB" if info else ""
            note = f"; one request at a time: {info.batch_why}" if info and not info.batchable else ""
            yield EventType.ENGINE_READY, f"{engine.id} is ready{took}{note}", data
        elif engine.state is EngineState.EXITED:
            yield _ended(engine, data)


def _ended(engine: EngineObs, data: dict[str, Any]) -> Change:
    if engine.failure is not None:
        data |= {"reason": engine.failure.reason, "code": engine.failure.code}
        return EventType.ENGINE_FAILED, f"{engine.id}: {engine.failure.message}", data
    released = engine.released_bytes
    data["released_bytes"] = released
    gave = f", {released / 2**20:.0f} MiB given back" if released is not None else ""
    return EventType.ENGINE_STOPPED, f"{engine.id}: {engine.stop_reason or 'stopped'}{gave}", data


def _routes(old: RoutingTable, new: Observed) -> Iterator[Change]:
    def answering(table: RoutingTable) -> tuple[str, str] | None:
        route = table.routes.get(table.active) if table.active is not None else None
        if route is None or route.status != "ready" or route.engine is None:
            return None
        return route.model, route.engine

    before, now = answering(old), answering(new.table)
    if now is not None and now != before:
        data = {"model": now[0], "engine": now[1], "before": before[1] if before else None}
        yield EventType.SWAPPED, f"{now[0]} answers now ({now[1]})", data


def _listeners(old: Observed | None, new: Observed) -> Iterator[Change]:
    before = {(x.host, x.port, x.state) for x in old.listeners} if old is not None else set()
    for x in new.listeners:
        if (x.host, x.port, x.state) in before:
            continue
        if x.state == "open":
            yield EventType.LISTENING, f"listening on {x.host}:{x.port}", {"host": x.host, "port": x.port}
        elif x.state == "failed":
            yield (
                EventType.LISTEN_FAILED,
                f"{x.host}:{x.port}: {x.message}",
                {"host": x.host, "port": x.port},
            )


def _files(old: Observed | None, new: Observed) -> Iterator[Change]:
    for digest, files in new.files.items():
        was = old.files.get(digest) if old is not None else None
        before = was.state if was is not None else None
        if before == files.state:
            continue
        if files.state == "downloading":
            yield EventType.DOWNLOAD_STARTED, "fetching files", {"digest": digest}
        elif before == "downloading" and files.state == "present":
            yield EventType.DOWNLOAD_FINISHED, f"files are in {files.path}", {"digest": digest}
        elif before == "downloading":
            yield EventType.DOWNLOAD_FAILED, files.message or "the download ended", {"digest": digest}


def _blocks(old: Plan | None, new: Plan) -> Iterator[Change]:
    before = {c.name: c for c in old.decision.choices} if old is not None else {}
    for choice in new.decision.choices:
        was = before.get(choice.name)
        if choice.blocked is not None and (
            was is None or was.blocked is None or was.blocked.reason != choice.blocked.reason
        ):
            data = {"model": choice.name, "reason": choice.blocked.reason, "code": choice.blocked.code}
            yield EventType.BLOCKED, f"{choice.name}: {choice.blocked.message}", data
        back = choice.fallback and choice.blocked is not None
        # A form on trial was rolled back before; that the next try failed too is no second rollback.
        if back and not (was is not None and (was.trial or (was.fallback and was.blocked is not None))):
            yield (
                EventType.ROLLED_BACK,
                f"{choice.name}: the last good form answers",
                {"model": choice.name},
            )
    stand_in, was_in = new.decision.stand_in, old.decision.stand_in if old is not None else None
    active = next((c for c in new.decision.choices if c.why == "active"), None)
    if stand_in is not None and active is not None and active.blocked is not None and active.form is None:
        previous = next((c for c in old.decision.choices if c.why == "active"), None) if old else None
        if was_in != stand_in or previous is None or (previous.form is not None and not previous.trial):
            yield (
                EventType.ROLLED_BACK,
                f"{stand_in} answers, because {active.name} cannot run",
                {"model": stand_in, "instead_of": active.name},
            )
