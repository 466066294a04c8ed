"""How soon LMX gives way when memory runs short, and that it stays below its budget: on a small machine.

The appliance, its engines and the other program are real processes; see tests/chaos/small_machine.py.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Iterator
from pathlib import Path

from bench import models
from bench.speed import Row
from tests.chaos.appliance import BUDGET_MIB, MIB, Appliance, appliance
from tests.chaos.memory import crowd, first_step, run_away

ROUNDS = 3
RATE_MIB_S = 300  # of the engine that allocates without end
HOG_MIB = 1050
CRITICAL_BYTES = int(0.9 * BUDGET_MIB * MIB)
# For the crowd: a model that is all KV cache, so that what its clients ask for is far more than there is, and
# lines so high that the budget itself is what binds, not the ladder below it.
TIGHT = {"budget": "900MiB", "warning": "95%", "critical": "98%", "recover": "90%"}
CLIENTS, ASKED = 16, 3
EXPECTED = {"ok", "overloaded", "context_length_exceeded", "insufficient_memory"}
RUNAWAY_S, STEP_S, OVER, BINDS = 1.0, 2.0, 1.05, 0.75


def run(scratch: Path) -> Iterator[Row]:
    folder = models.make(scratch / "strain-kv", "kv")
    place = scratch / "strain"
    place.mkdir()
    with appliance(place) as machine:
        machine.save()
        machine.up()
        ended = [_runaway(machine, kind) for kind in ("bytes", "mlx") * ROUNDS]
        yield Row("runaway engine: ended after critical, worst of 6", max(ended), RUNAWAY_S, False, "s")
        steps = [_step(machine) for _ in range(ROUNDS)]
        yield Row("memory taken by others: first step after, worst", max(steps), STEP_S, False, "s")
        usual = statistics.median(steps)
        yield Row("memory taken by others: first step after, median", usual, None, False, "s")
        hungry = {"source": str(folder), "sampling": {"temperature": 0}, "concurrency": 8}
        machine.lay("tight", memory=TIGHT, models={"demo": hungry})
        machine.until_synced("demo")
        found = asyncio.run(crowd(machine, clients=CLIENTS, rounds=ASKED))
        held = found.most_bytes / machine.status()["memory"]["budget_bytes"]
        yield Row("crowd with long prompts: most held, of the budget", held, OVER, False)
        yield Row("crowd with long prompts: the budget binds, most held at least", held, BINDS)
        yield Row("crowd with long prompts: answers", found.outcomes.get("ok", 0), 1, unit="answers")
        if not found.outcomes.keys() <= EXPECTED:
            raise RuntimeError(f"neither answers nor refusals: {found.outcomes}")


def _runaway(machine: Appliance, kind: str) -> float:
    # Each round is one more failure of the engine, and the third would be its quarantine.
    machine.call("POST", "/admin/reconcile")
    seconds = run_away(machine, RATE_MIB_S, kind, CRITICAL_BYTES)
    _calm(machine)
    return seconds


def _step(machine: Appliance) -> float:
    seconds = asyncio.run(first_step(machine, HOG_MIB))
    _calm(machine)
    return seconds


def _calm(machine: Appliance) -> None:
    machine.until(lambda s: s["memory"]["step"] is None and s["models"]["demo"]["state"] == "ready")
    machine.until_engines(1)
