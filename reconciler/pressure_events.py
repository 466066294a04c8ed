"""What changed between two states of the memory pressure, as events with the figures that forced it.

Each message is a sentence of its own, so that an incident reads as one timeline. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from reconciler.events import EventType
from reconciler.pressure import Pressure, our_use, size
from reconciler.readings import Reading

Change = tuple[EventType, str, dict[str, Any]]


def changes(before: Pressure, after: Pressure, reading: Reading) -> Iterator[Change]:
    """Events for one reading, in the order of cause and effect."""
    if after.read_at == before.read_at:
        return
    figures = _figures(after, reading)
    if after.told != before.told:
        yield EventType.PRESSURE, _level(after, reading), {**figures, "before": before.told[0]}
    yield from _heat(before, after)
    yield from _runaway(before, after, reading, figures)
    yield from _undone(before, after, figures)
    yield from _taken(before, after, reading, figures)


def _figures(after: Pressure, reading: Reading) -> dict[str, Any]:
    return {
        "level": after.level,
        "cause": after.cause,
        "steps": list(after.steps),
        "budget_bytes": reading.budget_bytes,
        "used_bytes": reading.used_bytes,
        "other_bytes": reading.other_bytes,
        "available_bytes": reading.available_bytes,
        "system": reading.system,
        "system_why": reading.system_why,
    }


def _level(after: Pressure, reading: Reading) -> str:
    level, _ = after.told
    if level == "normal":
        return f"memory is back to normal: {our_use(reading)}"
    return f"memory pressure is {level}: {after.why}"


def _heat(before: Pressure, after: Pressure) -> Iterator[Change]:
    if before.hot == after.hot:
        return
    message = (
        f"heat is {after.heat}: context ceilings come down to context.safe_mode"
        if after.hot
        else f"heat is {after.heat}: context ceilings are back"
    )
    yield EventType.THERMAL, message, {"heat": after.heat, "hot": after.hot}


def _runaway(
    before: Pressure, after: Pressure, reading: Reading, figures: dict[str, Any]
) -> Iterator[Change]:
    there = {engine.id: engine for engine in reading.engines}
    for ident in after.runaway:
        if ident in before.runaway:
            continue
        engine = there[ident]
        used, allowed = size(engine.memory_bytes), size(engine.allowed_bytes)
        message = (
            f"{engine.model} uses {used} and was let in for {allowed} at most: "
            f"its engine {ident} is ended at once; {our_use(reading)}"
        )
        own = {"memory_bytes": engine.memory_bytes, "allowed_bytes": engine.allowed_bytes}
        yield EventType.ENGINE_RUNAWAY, message, {**figures, "engine": ident, "model": engine.model, **own}


def _taken(before: Pressure, after: Pressure, reading: Reading, figures: dict[str, Any]) -> Iterator[Change]:
    new = after.steps[len(before.steps) :]
    shed = after.shed[len(before.shed) :]
    for step in new:
        if not (step == "shed" and shed) and not (step == "unload" and after.unloaded):
            yield EventType.STEP_TAKEN, f"{step}: {after.why}", {**figures, "step": step}
    for model in shed:
        message = f"shed: {model} leaves memory; {after.why}"
        yield EventType.STEP_TAKEN, message, {**figures, "step": "shed", "model": model}
    if after.unloads[-1:] == (reading.at,):
        pause = after.returns_at - reading.at
        message = (
            f"unload: {after.unloaded} ends at once; {after.why}; it returns when there is room, "
            f"in {pause:g} s at the earliest"
        )
        own = {"model": after.unloaded, "returns_in_s": pause}
        yield EventType.STEP_TAKEN, message, {**figures, "step": "unload", **own}


def _undone(before: Pressure, after: Pressure, figures: dict[str, Any]) -> Iterator[Change]:
    """Steps of before that are gone, the last one first, and models that `shed` lets back in."""
    gone = [] if after.steps[: len(before.steps)] == before.steps else before.steps[len(after.steps) :]
    for step in reversed(gone):
        models = list(reversed(before.shed)) if step == "shed" else []
        models += [before.unloaded] if step == "unload" and before.unloaded else []
        who = f"{' and '.join(models)} may return; " if models else ""
        yield EventType.STEP_UNDONE, f"{step} is undone; {who}{_reason(after)}", {
            **figures, "step": step, "models": models,
        }  # fmt: skip
    if "shed" in after.steps:
        for model in reversed(before.shed[len(after.shed) :]):
            message = f"shed: {model} may return; {_reason(after)}"
            yield EventType.STEP_UNDONE, message, {**figures, "step": "shed", "models": [model]}


def _reason(after: Pressure) -> str:
    return after.why or "there is room again"
