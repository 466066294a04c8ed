"""Engines that use more than they were let in for: which of them must be ended at once. Pure.

At critical only, and beside the ladder: no step holds an engine that allocates without end.
"""

from __future__ import annotations

from dataclasses import dataclass

from reconciler.readings import EngineReading, Reading
from reconciler.units import Share

OVER = 1.25  # a runaway engine uses more than this times its allowance ...
OVER_BYTES = 64 * 2**20  # ... and this much more; small engines differ by as much from their forecast
GROWS_S = 0.5  # at critical, growing beyond its allowance for this long without a pause is runaway too
GROWS_BYTES = 2**20  # from one reading to the next: less is no growth


@dataclass(frozen=True)
class Growth:
    """An engine beyond its allowance at critical that has grown with each reading since then."""

    engine: str
    memory_bytes: int
    since: float


def growing(before: tuple[Growth, ...], reading: Reading, critical: Share) -> tuple[Growth, ...]:
    """Engines that the steps of the ladder do not hold: beyond their allowance, and growing all the same."""
    if not reading.reaches(critical):
        return ()
    known = {growth.engine: growth for growth in before}
    found = []
    for engine in reading.engines:
        if engine.allowed_bytes <= 0 or engine.memory_bytes <= engine.allowed_bytes:
            continue
        old = known.get(engine.id)
        grows = old is not None and engine.memory_bytes >= old.memory_bytes + GROWS_BYTES
        since = old.since if old is not None and grows else reading.at
        found.append(Growth(engine.id, engine.memory_bytes, since))
    return tuple(found)


def runaway(
    before: tuple[str, ...], grown: tuple[Growth, ...], reading: Reading, critical: Share
) -> tuple[str, ...]:
    """Those listed that are still there, and those that go beyond every allowance now, worst first."""
    there = {engine.id for engine in reading.engines}
    listed = tuple(ident for ident in before if ident in there)
    if not reading.reaches(critical):
        return listed
    wild = {growth.engine for growth in grown if reading.at - growth.since >= GROWS_S}
    over = [
        engine
        for engine in reading.engines
        if engine.id not in listed and (engine.id in wild or _is_over(engine, reading.budget_bytes))
    ]
    over.sort(key=lambda engine: (engine.allowed_bytes - engine.memory_bytes, engine.id))
    return (*listed, *(engine.id for engine in over))


def _is_over(engine: EngineReading, budget: int) -> bool:
    """Beyond its allowance and a quarter; or the whole budget alone, where the allowance is most of it."""
    if engine.allowed_bytes <= 0:
        return False
    beyond = engine.memory_bytes - OVER * engine.allowed_bytes >= OVER_BYTES
    return beyond or engine.memory_bytes > max(budget, engine.allowed_bytes + OVER_BYTES)
