"""The status document (DESIGN: status contract), assembled from what the loop last saw."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass
from typing import Any

import appliance
from appliance.breakers import Breakers
from reconciler import forecast
from reconciler.decide import Choice
from reconciler.digests import digest, own_digest
from reconciler.loop import Loop
from reconciler.observed import EngineInfo, EngineObs, EngineState, ModelFiles, Observed
from reconciler.source_view import SourceView
from reconciler.spec import Model

# Shown of two engines of one model: the one that is furthest along.
_ORDER = [
    EngineState.READY,
    EngineState.PROBING,
    EngineState.LOADING,
    EngineState.STARTING,
    EngineState.DRAINING,
    EngineState.STOPPING,
    EngineState.EXITED,
]
STATES = (
    "absent",
    "downloading",
    "on_disk",
    "loading",
    "probing",
    "ready",
    "draining",
    "paged_out",
    "failed",
    "quarantined",
)
_STATE = {
    EngineState.STARTING: "loading",
    EngineState.LOADING: "loading",
    EngineState.PROBING: "probing",
    EngineState.READY: "ready",
    EngineState.DRAINING: "draining",
    EngineState.STOPPING: "draining",
}


@dataclass(frozen=True)
class Traffic:
    """in_flight, queued: requests. tokens_per_s: over the last second. ttft: over recent requests, ms."""

    in_flight: int = 0
    queued: int = 0
    tokens_per_s: float = 0.0
    ttft_p50_ms: float | None = None
    ttft_p95_ms: float | None = None


def document(
    loop: Loop,
    source: str,
    started: float,
    traffic: Traffic,
    history: list[dict[str, Any]],
    events: list[dict[str, Any]],
    breakers: Breakers,
) -> dict[str, Any]:
    """started: wall clock, seconds. Valid before the first pass too: then nothing is known yet."""
    gate, seen = loop.gate, loop.seen
    accepted, attempt = gate.accepted, gate.attempt
    return {
        "name": loop.force.spec.name or platform.node(),
        "version": appliance.__version__,
        "uptime_s": round(time.time() - started, 1),
        "summary": loop.summary,
        "generation": gate.generation,
        "observed_generation": loop.observed_generation,
        "digest": accepted.digest if accepted is not None else None,
        "source": _source(loop, source),
        "last_applied": _applied(loop),
        "last_attempted": {
            "content_digest": attempt.content_digest,
            "outcome": _outcome(loop, attempt.outcome),
            "message": attempt.message or _pending(loop, attempt.outcome),
            "at": attempt.at,
        }
        if attempt is not None
        else None,
        "conditions": [c.as_dict() for c in loop.conditions.values()],
        "active": {"desired": loop.force.spec.active, "actual": serving(seen) if seen is not None else None},
        "models": models(loop),
        "memory": memory(loop, seen),
        "thermal": thermal(loop, seen),
        "traffic": vars(traffic),
        "breakers": {name: vars(view) for name, view in breakers.views().items()},
        "plan": plan_lines(loop),
        "history": history,
        "events": events,
    }


def _source(loop: Loop, path: str) -> dict[str, Any]:
    found = loop.source() or SourceView("file", path)
    checked = loop.gate.last_checked if found.kind == "file" else found.last_checked
    return {**found.as_dict(), "last_checked": checked}


def _outcome(loop: Loop, outcome: str) -> str:
    """applied only once the loop has reached it, so that `lmx wait --digest` cannot come back too soon."""
    if outcome != "applied":
        return outcome
    synced = loop.conditions.get("Synced")
    return "applied" if synced is not None and synced.status == "True" else "pending"


def _pending(loop: Loop, outcome: str) -> str:
    """What keeps the newest content from being what runs."""
    synced = loop.conditions.get("Synced")
    return synced.message if outcome == "applied" and synced is not None and synced.status != "True" else ""


def _applied(loop: Loop) -> dict[str, Any] | None:
    good = loop.good
    if good is None:
        return None
    return {"generation": good.generation, "digest": good.digest, "at": loop.good_at}


def plan_lines(loop: Loop) -> list[dict[str, Any]]:
    """The steps that remain, and those that run beside the loop."""
    if loop.plan is None:
        return []
    lines = [
        {
            "action": a.kind,
            "model": a.subject,
            "reason": a.reason,
            "field": a.field,
            "mark": a.mark,
            "state": "next" if i == 0 else "planned",
        }
        for i, a in enumerate(loop.plan.actions)
    ]
    if loop.seen is None:
        return lines
    for name, form in loop.force.spec.models.items():
        files = loop.seen.files.get(digest(form))
        if files is not None and files.state == "downloading":
            lines.append(_running("download", name, files.message or "files are on their way"))
    for engine in loop.seen.engines:
        if engine.state in (EngineState.STARTING, EngineState.LOADING, EngineState.PROBING):
            lines.append(_running("load", engine.model, f"{engine.id} is {engine.state.value}"))
        elif engine.state is EngineState.DRAINING:
            lines.append(_running("drain", engine.model, f"{engine.id} is {engine.state.value}"))
    return lines


def _running(action: str, model: str, reason: str) -> dict[str, Any]:
    return {
        "action": action,
        "model": model,
        "reason": reason,
        "field": f"models.{model}",
        "mark": "",
        "state": "running",
    }


def serving(seen: Observed) -> str | None:
    """The model that answers unnamed requests now."""
    route = seen.table.routes.get(seen.table.active) if seen.table.active is not None else None
    return route.model if route is not None and route.status == "ready" else None


def models(loop: Loop) -> dict[str, dict[str, Any]]:
    seen, plan = loop.seen, loop.plan
    if seen is None or plan is None:
        return {}
    out = {}
    for name, form in loop.force.spec.models.items():
        choice = plan.decision.get(name)
        engine = min(
            (e for e in seen.engines if e.model == name), key=lambda e: _ORDER.index(e.state), default=None
        )
        out[name] = _model(loop, name, form, choice, engine, seen.files.get(digest(form)))
    return out


def _model(
    loop: Loop,
    name: str,
    form: Model,
    choice: Choice | None,
    engine: EngineObs | None,
    files: ModelFiles | None,
) -> dict[str, Any]:
    state, reason = model_state(loop, name, form, choice, engine, files)
    limits = engine.limits if engine is not None else None
    info = engine.info if engine is not None else None
    alone = info is not None and not info.batchable
    progress = engine.progress if engine is not None else files.progress if files is not None else (0, 0)
    return {
        "state": state,
        "reason": reason,
        "since": engine.since - loop.now() + time.time() if engine is not None else None,
        "progress": {"done": progress[0], "total": progress[1]} if progress[1] else None,
        "context": {
            "declared": form.context,
            "effective": limits.context if limits is not None else None,
            "why": choice.context_why if choice is not None else "",
        },
        "concurrency": {
            "declared": form.concurrency,
            "effective": 1 if alone else limits.concurrency if limits is not None else None,
            "why": _rows_why(choice, info),
        },
        "memory": {
            "forecast_bytes": choice.size.at(choice.context)
            if choice is not None and choice.size is not None and choice.context
            else None,
            "measured_bytes": engine.memory_bytes if engine is not None else None,
            "cached_bytes": engine.cache.memory_bytes if engine is not None else None,
        },
        "cache": cache(engine),
        "chat": chat(form, engine),
        "slo": slo(loop, name),
        "pid": engine.pid if engine is not None else None,
    }


def cache(engine: EngineObs | None) -> dict[str, Any] | None:
    """The prompt cache of a model that is loaded; counters since its engine started."""
    if engine is None or engine.info is None:
        return None
    held, limits = engine.cache, engine.limits
    return {
        "memory": {
            "bytes": held.memory_bytes,
            "limit_bytes": limits.cache_memory_bytes if limits is not None else None,
            "hits": held.memory_hits,
        },
        "disk": {"bytes": held.disk_bytes, "state": held.disk, "why": held.why, "hits": held.disk_hits},
        "misses": held.misses,
        "damaged": held.damaged,
        "tokens": held.tokens,
    }


def chat(form: Model, engine: EngineObs | None) -> dict[str, Any] | None:
    """How a loaded model thinks and calls tools; tool_failures: calls since its start that did not parse."""
    if form.role != "chat" or engine is None or engine.info is None:
        return None
    return {
        "thinks": engine.info.thinks,
        "thinking_budget": engine.limits.thinking_budget if engine.limits is not None else None,
        "tool_parser": engine.parser,
        "tool_failures": engine.tool_failures,
    }


def _rows_why(choice: Choice | None, info: EngineInfo | None) -> str:
    if info is not None and not info.batchable:
        return info.batch_why or ""
    return choice.concurrency_why if choice is not None else ""


def model_state(
    loop: Loop,
    name: str,
    form: Model,
    choice: Choice | None,
    engine: EngineObs | None,
    files: ModelFiles | None,
) -> tuple[str, str]:
    """The contract's word for one model, and why."""
    if engine is not None and engine.state in _STATE:
        blocked = choice.blocked.message if choice is not None and choice.blocked is not None else ""
        return _STATE[engine.state], blocked or _warming(engine)
    record = loop.ledger.get(own_digest(form))
    if record.quarantined:
        return "quarantined", record.last.message if record.last is not None else ""
    if choice is not None and choice.blocked is not None:
        return "failed", choice.blocked.message
    if files is None:
        return "absent", "not looked at yet"
    if files.state == "broken":
        return "failed", files.message or ""
    if files.state in ("absent", "downloading"):
        return files.state, files.message or ""
    if choice is not None and choice.form is not None:
        return "loading", "waits for its turn"
    if loop.desired.override(name) == "unload":
        return "on_disk", "unloaded by an admin call"
    return ("paged_out" if form.residency == "on_demand" else "on_disk"), f"residency: {form.residency}"


def _warming(engine: EngineObs) -> str:
    """How far it is with `models.*.warmup`."""
    warmup = engine.warmup
    if engine.state is not EngineState.PROBING or warmup.running is None:
        return ""
    return f"warms up with {warmup.running}, {warmup.done + 1} of {len(warmup.names)}"


def memory(loop: Loop, seen: Observed | None) -> dict[str, Any]:
    if seen is None:
        sizes = (
            "total_bytes",
            "budget_bytes",
            "used_bytes",
            "other_bytes",
            "warning_bytes",
            "critical_bytes",
        )
        return dict.fromkeys((*sizes, "source", "level", "cause", "step", "why"))
    reading, pressure, limits = seen.memory, loop.strain.pressure, loop.force.spec.memory
    budget = forecast.budget(limits.budget, reading)
    return {
        "total_bytes": reading.total_bytes,
        "budget_bytes": budget,
        "used_bytes": reading.used_bytes,
        "other_bytes": max(0, reading.total_bytes - reading.available_bytes - reading.used_bytes),
        "source": reading.source,
        "warning_bytes": int(budget * limits.warning.fraction),
        "critical_bytes": int(budget * limits.critical.fraction),
        "level": pressure.level,
        "cause": pressure.cause,
        "step": pressure.step,
        "why": pressure.why,
    }


def slo(loop: Loop, name: str) -> dict[str, Any] | None:
    """The stage of the guardrails; None while the model is inside its service levels."""
    guard = loop.strain.guards.get(name)
    return {"stage": guard.stage, "why": guard.why} if guard is not None and guard.stage else None


def thermal(loop: Loop, seen: Observed | None) -> dict[str, Any]:
    """level: None where heat cannot be measured here."""
    pressure = loop.strain.pressure
    heat = seen.memory.heat if seen is not None else None
    why = f"thermal: max_context_tokens={loop.force.spec.context.safe_mode}" if pressure.hot else ""
    return {"level": heat, "hot": pressure.hot, "why": why}


def percentile(values: list[float], part: float) -> float | None:
    """Nearest rank; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]
