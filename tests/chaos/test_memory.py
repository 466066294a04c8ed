"""Short of memory, with real processes: what gives way, in which order, and that it stays below its budget.

How fast it does so is measured by `python -m bench overload`; here only that it does.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reconciler.history import History
from tests.chaos.appliance import BUDGET_MIB, MIB, Appliance, appliance
from tests.chaos.memory import crowd, first_step, run_away
from tests.e2e.machine import ROOT

DECISIONS = ("Pressure", "StepTaken", "StepUndone", "Thermal", "EngineRunaway", "SloStage")
CRITICAL_BYTES = int(0.9 * BUDGET_MIB * MIB)
OVER = 1.05  # of the budget, at most

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Appliance]:
    with appliance(tmp_path) as made:
        made.save()
        made.up()
        yield made


def events(machine: Appliance, *kinds: str) -> list[dict[str, Any]]:
    """Every one of these kinds, from its database: call once it has stopped."""
    history = History(machine.state / "history.db")
    try:
        return [e.as_dict() for e in history.events(limit=100_000) if e.type.value in kinds]
    finally:
        history.close()


@pytest.mark.parametrize("kind", ["bytes", "mlx"])
def test_an_engine_that_allocates_without_end_is_ended_and_replaced(small: Appliance, kind: str) -> None:
    before = small.answer("Who are you?", max_tokens=32)
    (engine,) = small.engines()
    run_away(small, 300, kind, critical_bytes=CRITICAL_BYTES)
    small.until(
        lambda s: s["models"]["demo"]["state"] == "ready" and s["models"]["demo"]["pid"] != engine.pid
    )
    small.until(lambda s: s["memory"]["step"] is None)
    assert small.answer("Who are you?", max_tokens=32) == before
    small.stop()
    (runaway,) = events(small, "EngineRunaway")
    assert "demo" in runaway["message"]


def test_pressure_from_outside_is_named_and_unloads_nothing(small: Appliance) -> None:
    (engine,) = small.engines()
    asyncio.run(first_step(small, 1050))
    small.until(lambda s: s["memory"]["step"] is None)
    assert [e.pid for e in small.engines()] == [engine.pid]
    small.stop()
    first = events(small, "Pressure")[0]
    assert first["data"]["cause"] == "others"
    assert {e["data"]["step"] for e in events(small, "StepTaken")} <= {
        "drop_caches", "page_idle", "throttle", "lower_concurrency", "lower_context",
    }  # fmt: skip


def test_what_is_held_stays_below_the_budget_under_a_crowd_with_long_prompts(small: Appliance) -> None:
    budget = 420
    small.lay("budget", memory={"budget": f"{budget}MiB"})
    small.until_synced("demo")
    found = asyncio.run(crowd(small, clients=12, rounds=3))
    assert found.most_bytes <= OVER * budget * MIB, f"{found.most_bytes / MIB:.0f} MiB\n{small.tail()}"
    assert found.looks > 10
    allowed = {"ok", "overloaded", "context_length_exceeded", "insufficient_memory"}
    assert found.outcomes.keys() <= allowed, found.outcomes
    assert found.outcomes["ok"] > 0


def test_simulate_decides_as_the_appliance_did(small: Appliance) -> None:
    """A hog and a leak, recorded; then the same trace through `lmx simulate`."""
    asyncio.run(first_step(small, 1050))
    small.control("heat", "heavy")
    small.until(lambda s: s["thermal"]["level"] == "heavy")
    small.control("heat", None)
    run_away(small, 300, "bytes", critical_bytes=CRITICAL_BYTES)
    small.until(lambda s: s["memory"]["step"] is None and s["summary"] == "Ready")
    small.stop()
    trace = small.controls / "trace.jsonl"
    command = [sys.executable, "-m", "appliance.cli", "simulate", str(trace), "-f", str(small.file)]
    said = subprocess.run([*command, "-o", "json"], cwd=ROOT, capture_output=True, text=True, check=True)
    decided = [
        (d["type"], d["message"], d["data"])
        for d in json.loads(said.stdout)["decisions"]
        if d["type"] in DECISIONS
    ]
    done = [(e["type"], e["message"], e["data"]) for e in events(small, *DECISIONS)]
    assert {kind for kind, _, _ in done} >= {"Pressure", "StepTaken", "StepUndone", "EngineRunaway"}
    assert decided == done
