"""A trace through the very policies that the loop uses: what would have been decided when, and why. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from reconciler import guard, pressure_events
from reconciler.pressure import Pressure, context_cap, rows
from reconciler.spec import Spec
from reconciler.strain import Strain
from reconciler.straining import judged
from reconciler.trace import Record

CEILINGS = "Ceilings"  # beside the types of events: what the steps in force leave of the declared limits


@dataclass(frozen=True)
class Decision:
    """One thing that changed. at: on the clock of the trace. strain: what is in force from then on."""

    at: float
    type: str
    message: str
    data: Mapping[str, Any]
    strain: Strain


def replay(records: Iterable[Record], spec: Spec) -> tuple[list[Decision], Strain]:
    """Every decision in order, and what is in force at the end.

    The same trace and spec give the same ones, here and in the loop.
    """
    strain, decisions = Strain(), []
    for record in records:
        before = strain
        after, guards = judged(before, record.reading, record.services, spec)
        strain = replace(before, pressure=after, guards=guards)
        at = record.reading.at
        for kind, message, data in (
            *pressure_events.changes(before.pressure, after, record.reading),
            *guard.changes(before.guards, guards, record.services),
        ):
            decisions.append(Decision(at, kind.value, message, data, strain))
        limits = ceilings(after, spec)
        if limits != ceilings(before.pressure, spec):
            decisions.append(Decision(at, CEILINGS, _said(limits), limits, strain))
    return decisions, strain


def ceilings(pressure: Pressure, spec: Spec) -> dict[str, Any]:
    """What is lowered now: the most tokens per request, and the rows of each chat model."""
    cap, why = context_cap(pressure, spec)
    lowered = {
        name: rows(pressure, model.concurrency)
        for name, model in spec.models.items()
        if model.role == "chat" and rows(pressure, model.concurrency) < model.concurrency
    }
    return {"max_context_tokens": cap, "why": why, "rows": lowered}


def _said(limits: Mapping[str, Any]) -> str:
    parts = [limits["why"]] if limits["why"] else []
    if limits["rows"]:
        parts.append("rows: " + ", ".join(f"{model} {count}" for model, count in limits["rows"].items()))
    return "; ".join(parts) or "as declared"
