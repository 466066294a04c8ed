"""The condition CacheReady: do both tiers of the prompt cache work? Pure.

Requests are served whatever it says: what the cache cannot give is computed.
"""

from __future__ import annotations

from typing import Literal

from reconciler.choice import LIVE
from reconciler.observed import EngineObs, EngineState, Observed
from reconciler.spec import Spec
from reconciler.strain import Strain

Verdict = tuple[Literal["True", "False", "Unknown"], str, str]


def cache_ready(spec: Spec, seen: Observed, strain: Strain) -> Verdict:
    cache = spec.cache
    in_memory = bool(cache.memory if isinstance(cache.memory, int) else cache.memory.fraction)
    if not in_memory and not cache.disk:
        return "True", "Disabled", "cache.memory and cache.disk are both off"
    live = [engine for engine in seen.engines if engine.state in LIVE]
    if cache.disk:
        failed = next((engine for engine in live if engine.cache.disk == "failed"), None)
        if failed is not None:
            return "False", "DiskFailed", _disk_failed(failed)
        ready = [engine for engine in live if engine.state is EngineState.READY]
        opened = any(engine.cache.disk == "ready" for engine in ready)
        if seen.cache_problem is not None and not opened:
            return "False", "PathUnusable", seen.cache_problem
        closed = next((engine for engine in ready if engine.cache.disk == "off"), None)
        if closed is not None:
            return "Unknown", "Opening", f"{closed.id} has not opened its disk cache yet"
    if all(engine.state is not EngineState.READY for engine in live):
        return "Unknown", "NoEngine", "no engine runs yet"
    if "drop_caches" in strain.steps:
        return "True", "MemoryGivenUp", "nothing is cached in memory while memory is short"
    return "True", "Working", ""


def _disk_failed(engine: EngineObs) -> str:
    why = engine.cache.why or "no reason was given"
    return f"{engine.id} goes on without the disk: {why}; it is tried again every minute"
