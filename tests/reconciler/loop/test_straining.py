"""What the loop hands to the two policies, and what it keeps between two looks."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from reconciler.choice import Desired
from reconciler.forecast import PROCESS
from reconciler.guard import Guard
from reconciler.observed import EngineObs, EngineState, Limits, MemoryObs, Observed, Route, RoutingTable
from reconciler.spec import Spec
from reconciler.strain import Strain
from reconciler.straining import advanced
from tests.reconciler.loop.models import GIB, MIB
from tests.reconciler.loop.rig import small, spec

BOTH = Spec.model_validate(spec("a", a=small(priority=7), b=small("b")))


def engine(name: str, memory: int, allowed: int, state: EngineState = EngineState.READY) -> EngineObs:
    limits = Limits(4096, memory_bytes=allowed - PROCESS)
    return EngineObs(
        f"{name}-1", name, "d", state, 0.0, limits=limits, memory_bytes=memory, forecast_bytes=MIB
    )


def seen(*engines: EngineObs, at: float = 1.0, own: int = 0, active: str | None = None) -> Observed:
    used = own + sum(e.memory_bytes for e in engines)
    table = RoutingTable(active=active, routes=MappingProxyType({"a": Route("a", "ready", "a-1")}))
    memory = MemoryObs(16 * GIB, 10 * GIB, used, own_bytes=own, at=at)
    return Observed(now=at + 0.1, engines=engines, memory=memory, table=table)


def look(strain: Strain, observed: Observed) -> Strain:
    return advanced(Desired(BOTH, strain=strain), observed)[0]


def test_a_reading_says_what_each_engine_is_and_when_it_was_measured() -> None:
    a = replace(engine("a", GIB, 2 * GIB), leases=1)
    b = engine("b", GIB, 2 * GIB, EngineState.DRAINING)
    gone = engine("b", 0, GIB, EngineState.EXITED)
    _, reading = advanced(Desired(BOTH), seen(a, b, gone, at=5.0, own=100 * MIB, active="a"))
    assert reading.at == 5.0
    assert (reading.budget_bytes, reading.used_bytes) == (12 * GIB, 2 * GIB + 100 * MIB)
    assert reading.other_bytes == 4 * GIB - 100 * MIB
    first, second = reading.engines
    assert (first.priority, first.active, first.busy, first.leaving) == (7, True, True, False)
    assert (second.priority, second.active, second.busy, second.leaving) == (100, False, False, True)
    assert first.allowed_bytes == 2 * GIB


def test_before_anything_is_routed_the_active_model_is_the_one_that_the_spec_names() -> None:
    _, reading = advanced(Desired(BOTH), seen(engine("a", GIB, GIB), engine("b", GIB, GIB)))
    assert [e.active for e in reading.engines] == [True, False]


def test_an_allowance_that_was_lowered_counts_once_the_engine_has_come_down_to_it() -> None:
    strain = look(Strain(), seen(engine("a", 3 * GIB, 4 * GIB)))
    assert strain.allowed == {"a-1": 4 * GIB}
    strain = look(strain, seen(engine("a", 3 * GIB, 2 * GIB), at=2.0))
    assert strain.allowed == {"a-1": 4 * GIB}
    strain = look(strain, seen(engine("a", GIB, 2 * GIB), at=3.0))
    assert strain.allowed == {"a-1": 2 * GIB}
    strain = look(strain, seen(engine("a", 3 * GIB, 2 * GIB), at=4.0))
    assert strain.allowed == {"a-1": 2 * GIB}
    assert look(strain, seen(at=5.0)).allowed == {}


def test_what_lmx_itself_takes_moves_seldom() -> None:
    strain, figures = Strain(), []
    for own in (60, 61, 70, 90, 60, 40, 95, 97, 20):
        strain = look(strain, seen(own=own * MIB, at=float(len(figures) + 1)))
        figures.append(strain.own_bytes // MIB)
    assert figures == [96, 96, 96, 96, 96, 96, 96, 128, 32]


def test_a_look_that_changes_nothing_is_the_same_strain() -> None:
    observed = seen(engine("a", GIB, 2 * GIB), own=60 * MIB)
    strain = look(Strain(), observed)
    assert look(strain, observed) is strain


def test_a_guard_that_only_remembers_is_no_reason_to_look_more_often() -> None:
    assert Strain(guards={"a": Guard(recycled_at=5.0)}).eased
    assert not Strain(guards={"a": Guard(stage=1)}).eased
