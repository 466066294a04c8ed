"""How much of its allowance each engine may lend to its prompt cache. Pure.

`cache.memory` is for all engines together, in even shares, each within what the engine's allowance leaves
beside weights and workspace. A request takes room back from the cache by itself. Room for another engine is
made here: every chosen model counts from the moment that it is chosen, so shares shrink before it loads; and
where the machine itself has little free, caches give way for as long as it loads.
"""

from __future__ import annotations

from collections.abc import Iterable

from reconciler import forecast
from reconciler.choice import RISING, Choice, Desired
from reconciler.observed import EngineObs, EngineState, Limits, Observed

QUANTUM = 2**20  # shares are whole multiples
STEPS = (
    4  # of the whole, in which it gives way to what loads: memory that moves a little brings no new orders
)


def share_of(desired: Desired, seen: Observed, choices: Iterable[Choice], engines: int) -> int:
    """Bytes of prompt cache that each of so many engines may hold, if its allowance does."""
    whole = _whole(desired, seen)
    found = min(whole, _left_by_newcomers(seen, choices, whole))
    return found // max(1, engines) // QUANTUM * QUANTUM


def within(limits: Limits, share: int, weights: int, spare: int) -> int:
    """That share, cut to what the allowance leaves. spare: bytes that are to stay free besides."""
    if limits.memory_bytes == 0:
        return share
    left = limits.memory_bytes - weights - limits.workspace_bytes - spare
    return max(0, min(share, left // QUANTUM * QUANTUM))


def given_back(engine: EngineObs) -> bool:
    """It still answers and takes nothing new: its cache helps nobody, and what is to stay is on disk."""
    return engine.state is EngineState.DRAINING and engine.leases > 0 and engine.cache.memory_bytes > 0


def _whole(desired: Desired, seen: Observed) -> int:
    if "drop_caches" in desired.strain.steps:
        return 0
    memory = desired.spec.cache.memory
    if isinstance(memory, int):
        return memory
    return int(memory.fraction * forecast.budget(desired.spec.memory.budget, seen.memory))


def _left_by_newcomers(seen: Observed, choices: Iterable[Choice], whole: int) -> int:
    """What of the machine's memory is left for caches once everything that loads has come; else `whole`."""
    memory = seen.memory
    needs = {
        c.engine.id if c.engine is not None else c.name: c.size.at_floor
        for c in choices
        if c.size is not None and (c.start or (c.engine is not None and c.engine.state in RISING))
    }
    if memory.total_bytes == 0 or not needs:
        return whole
    taken = max(0, memory.total_bytes - memory.available_bytes - memory.used_bytes) + memory.own_bytes
    for engine in seen.engines:
        if engine.id in needs:
            needs[engine.id] = max(needs[engine.id], engine.memory_bytes)
        elif engine.state is not EngineState.EXITED:
            taken += engine.firm_bytes
    left = max(0, memory.total_bytes - taken - sum(needs.values()))
    step = max(1, whole // STEPS)
    return left // step * step
