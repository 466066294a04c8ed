"""Memory pressure, heat and what the loop makes of them: steps taken and undone, models out and back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reconciler.actions import Drain, Kill, Spawn, Stop
from reconciler.events import EventType
from tests.reconciler.loop.models import GIB, MIB
from tests.reconciler.loop.rig import Rig, large, medium, small, spec

MINUTE = 60.0


def grow(rig: Rig, share: float) -> None:
    """Let all engines together use this share of the budget, each of them as much more as the others."""
    engines = rig.world.live()
    more = int(budget(rig) * share) - sum(e.memory for e in engines)
    for engine in engines:
        engine.extra = more // len(engines)


def budget(rig: Rig) -> int:
    return int(0.75 * int(rig.world.memory_gib * GIB))


def one(**more: object) -> Rig:
    rig = Rig({**spec("a", a=small()), **more}, room=3.0)
    rig.run(20)
    assert rig.answers == "a:./small-a"
    return rig


def two(room: float = 4.0, **b: object) -> Rig:
    rig = Rig(spec("a", a=small(), b=small("b", **{"residency": "loaded", "priority": 10, **b})), room=room)
    rig.run(20)
    assert len(rig.running) == 2
    return rig


# --- 6: under which limits? --------------------------------------------------------------------------


def test_d6_steps_come_one_by_one_and_are_undone_in_reverse() -> None:
    rig = one()
    engine = rig.engine("a")
    grow(rig, 0.87)
    rig.run(1)
    assert rig.loop.strain.steps == ("drop_caches",)
    assert engine.limits.buffer_cache_bytes == 0
    rig.run(MINUTE)
    assert rig.loop.strain.steps == (
        "drop_caches", "page_idle", "throttle", "lower_concurrency", "lower_context", "shed",
    )  # fmt: skip
    assert rig.answers == "a:./small-a"  # at warning the active model stays
    route = rig.world.table.routes["a"]
    assert (route.throttled, route.concurrency, engine.limits.concurrency) == (True, 4, 4)
    assert rig.condition("MemoryPressure").status == "True"
    assert rig.condition("MemoryPressure").reason == "Warning"
    assert rig.condition("Degraded").reason == "Shed"
    assert "drop_caches > page_idle" in rig.condition("Degraded").message
    assert rig.loop.summary == "Degraded"
    engine.extra = 0
    rig.run(2 * MINUTE)
    assert rig.loop.strain.steps == ()
    assert engine.limits.buffer_cache_bytes > 0
    assert rig.world.table.routes["a"].concurrency == 8
    assert rig.loop.summary == "Ready"
    taken, undone = rig.events(EventType.STEP_TAKEN), rig.events(EventType.STEP_UNDONE)
    assert len(taken) == len(undone) == 6
    rig.clean()


def test_d6_a_lower_ceiling_is_in_force_and_says_why() -> None:
    rig = Rig({**spec("a", a=small()), "context": {"safe_mode": 2048}}, room=3.0)
    rig.run(20)
    rig.world.heat = "heavy"
    rig.run(2)
    assert rig.engine("a").limits.context == 2048
    assert rig.engine("a").limits.context_declared == 4096
    assert rig.loop.plan is not None
    choice = rig.loop.plan.decision.get("a")
    assert choice is not None
    assert choice.context_why == "thermal: max_context_tokens=2048"
    assert rig.condition("ThermalPressure").reason == "Hot"
    assert "max_context_tokens=2048" in rig.condition("Degraded").message
    assert len(rig.events(EventType.THERMAL)) == 1
    rig.world.heat = "nominal"
    rig.run(30)
    assert rig.engine("a").limits.context == 4096
    assert rig.condition("ThermalPressure").status == "False"
    assert rig.loop.summary == "Ready"
    rig.clean()


def test_d6_old_figures_are_not_called_normal() -> None:
    rig = Rig(spec("a", a=small()), room=3.0)
    rig.world.heat = "nominal"
    rig.run(20)
    assert rig.condition("MemoryPressure").reason == "Normal"
    rig.world.measurable = False
    rig.run(8)
    assert (rig.condition("MemoryPressure").status, rig.condition("ThermalPressure").status) == ("False",) * 2
    rig.run(30)
    for kind in ("MemoryPressure", "ThermalPressure"):
        found = rig.condition(kind)
        assert (found.status, found.reason) == ("Unknown", "Stale")
        age = int(found.message.removeprefix("measuring has failed for ").partition(" s")[0])
        assert 30 <= age <= 40
    assert rig.condition("Degraded").status == "False"
    rig.world.measurable = True
    rig.run(10)
    assert (rig.condition("MemoryPressure").reason, rig.condition("ThermalPressure").reason) == (
        "Normal", "Cool",
    )  # fmt: skip
    rig.clean()


def test_d6_a_limit_for_heat_that_is_no_longer_measured_stays_and_is_named() -> None:
    rig = Rig({**spec("a", a=small()), "context": {"safe_mode": 2048}}, room=3.0)
    rig.run(20)
    rig.world.heat = "heavy"
    rig.run(2)
    rig.world.measurable, rig.world.heat = False, "nominal"
    rig.run(60)
    found = rig.condition("ThermalPressure")
    assert (found.status, found.reason) == ("Unknown", "Stale")
    assert found.message.endswith("still in force: thermal: max_context_tokens=2048")
    assert rig.condition("Degraded").message == "heat is heavy: thermal: max_context_tokens=2048"
    assert rig.engine("a").limits.context == 2048
    rig.clean()


def test_d6_half_of_the_rows_says_why() -> None:
    rig = one(memory={"ladder": ["lower_concurrency"]})
    grow(rig, 0.87)
    rig.run(2)
    assert rig.loop.plan is not None
    choice = rig.loop.plan.decision.get("a")
    assert choice is not None
    assert choice.concurrency_why == "memory: 4 of 8 rows"


def test_d6_what_cannot_be_measured_is_not_called_normal() -> None:
    rig = one()
    assert rig.condition("ThermalPressure").status == "Unknown"
    assert rig.condition("MemoryPressure").status == "False"
    assert "LMX uses 1." in rig.condition("MemoryPressure").message
    assert rig.condition("Degraded").status == "False"


def test_d6_allowances_share_what_is_left_and_come_to_no_more_than_the_limit() -> None:
    rig = two(room=6.0)
    a, b = rig.engine("a"), rig.engine("b")
    assert rig.loop.plan is not None
    limit = rig.loop.plan.decision.limit
    process = 128 * MIB
    assert a.limits.memory_bytes == b.limits.memory_bytes
    assert limit - 64 * MIB < a.limits.memory_bytes + b.limits.memory_bytes + 2 * process <= limit
    assert a.limits.memory_bytes > a.floor_bytes - process
    assert a.limits.workspace_bytes > 0
    assert a.limits.buffer_cache_bytes == min(GIB, a.limits.memory_bytes // 8)
    rig.clean()


def test_d6_an_allowance_shrinks_before_a_newcomer_loads() -> None:
    rig = Rig(spec("a", a=small(), b=small("b")), room=6.0)
    rig.run(20)
    alone = rig.engine("a").limits.memory_bytes
    mark = rig.mark()
    rig.edit(lambda s: s["models"]["b"].update(residency="loaded"))
    rig.run(20)
    kinds = [a.kind for a in rig.since(mark)]
    assert kinds == ["route", "configure", "load", "route"]
    shared = rig.engine("a").limits.memory_bytes
    assert shared <= alone - rig.engine("b").floor_bytes + 128 * MIB
    rig.clean()


def test_d6_a_measurement_that_moves_a_little_brings_no_new_orders() -> None:
    rig = two(room=6.0)
    mark = rig.mark()
    for more in (0, 5, 1, 9, 3, 20):
        rig.engine("a").extra = more * MIB
        rig.run(6)
    assert rig.since(mark) == []


@pytest.mark.parametrize(
    ("wired", "working_set", "expected"),
    [
        ("auto", 0, 0),
        ("weights", 0, 0),
        ("auto", 10 * GIB, 0),  # the model is far smaller than the working set
        ("auto", 2 * GIB, GIB),
        ("off", 2 * GIB, 0),
        ("weights", 10 * GIB, GIB),
        ("recommended", 10 * GIB, 10 * GIB),
    ],
)
def test_d6_wired_memory_is_as_declared(wired: str, working_set: int, expected: int) -> None:
    rig = Rig({**spec("a", a=small()), "memory": {"wired": wired}}, room=3.0)
    rig.run(20)
    engine = rig.engine("a")
    assert engine.info is not None
    engine.info = replace(engine.info, weights_bytes=GIB, working_set_bytes=working_set)
    rig.run(6)
    assert engine.limits.wired_bytes == expected
    rig.clean()


# --- shed and unload ----------------------------------------------------------------------------------


def test_p7_at_critical_the_active_model_is_unloaded_at_once_and_returns() -> None:
    rig = one()
    stream = rig.world.request(None, 10 * MINUTE)
    rig.run(1)
    mark = rig.mark()
    grow(rig, 0.93)
    rig.run(2.5)
    assert stream.outcome == "cut"
    stopped = [a for a in rig.since(mark) if isinstance(a, Stop)]
    assert [(a.code, a.grace) for a in stopped] == [("oom-unloaded", 0.0)]
    assert not any(isinstance(a, Drain | Kill) for a in rig.since(mark))
    assert rig.world.request().outcome == "refused:oom-unloaded"
    assert rig.world.table.routes["a"].retry_after
    assert rig.condition("Ready").reason == "OomUnloaded"
    assert rig.condition("Synced").reason == "OomUnloaded"
    assert rig.condition("Stalled").status == "False"
    assert rig.condition("Degraded").reason == "Unload"
    rig.run(5 * MINUTE)
    assert rig.answers == "a:./small-a"
    assert rig.loop.strain.returning == {}
    assert rig.loop.summary == "Ready"
    rig.clean()


def test_p7_each_unload_within_an_hour_doubles_the_wait() -> None:
    rig = one()
    waited = []
    for _ in range(3):
        grow(rig, 0.93)
        rig.run(2.5)
        assert rig.world.live() == []
        since = rig.world.t
        while not rig.world.live() and rig.world.t < since + 10 * MINUTE:
            rig.run(0.5)
        waited.append(rig.world.t - since)
        rig.run(3 * MINUTE)
        assert rig.answers is not None
    assert waited[0] >= 7
    assert waited[1] > waited[0] + 5
    assert waited[2] > waited[1] + 10
    rig.clean()


def test_p7_no_former_model_is_brought_back_for_one_that_is_out_of_memory() -> None:
    rig = Rig(spec("b", a=small(), b=small("b")), room=3.0)
    rig.run(20)
    rig.edit(lambda s: s.update(active="a"))
    rig.run(30)
    grow(rig, 0.93)
    rig.run(5)
    assert rig.running == []
    assert rig.world.spawned("b") == rig.world.spawned("b")[:1]
    rig.clean()


def test_p7_the_lowest_priority_is_shed_and_the_active_model_stays() -> None:
    rig = two(room=5.0)
    rig.edit(lambda s: s["models"].update(c=small("c", residency="loaded", priority=5)))
    rig.run(20)
    assert rig.running == ["a:./small-a"] + ["b:./small-b"]  # c has no room here
    mark = rig.mark()
    grow(rig, 0.87)
    rig.run(MINUTE + 5)
    drained = [a for a in rig.since(mark) if isinstance(a, Drain)]
    assert [a.model for a in drained] == ["b"]
    assert drained[0].reason.startswith("shed, memory is short: LMX uses")
    assert rig.world.request("b").outcome == "refused:oom-unloaded"
    assert rig.answers == "a:./small-a"
    rig.clean()


def test_p7_a_busy_model_that_is_shed_drains_at_warning_and_is_stopped_at_critical() -> None:
    for share, outcome in ((0.87, "running"), (0.92, "cut")):
        rig = two()
        stream = rig.world.request("b", 5 * MINUTE)
        rig.run(1)
        grow(rig, share)
        rig.run(52 if share < 0.9 else 3)
        assert rig.loop.strain.out("b")
        assert stream.outcome == outcome
        rig.clean()


def test_d4_a_model_that_was_shed_comes_back_only_where_it_fits_under_recover() -> None:
    # Both need 1.7 GiB: 3.4 of 4.05 is under warning (0.85) and not under recover (0.8).
    rig = two(room=4.1 * 0.85)
    rig.edit(lambda s: s.update(memory={"dwell": "1s"}))
    grow(rig, 0.89)
    rig.run(7)
    assert "b" in rig.loop.strain.returning
    rig.engine("a").extra = 0
    rig.run(2 * MINUTE)
    assert rig.loop.strain.steps == ()
    assert rig.running == ["a:./small-a"]
    assert rig.condition("Synced").reason == "OomUnloaded"
    assert "(memory.budget x memory.recover)" in rig.condition("Synced").message
    assert rig.condition("Stalled").status == "False"
    assert rig.condition("Degraded").reason == "Returning"
    assert rig.world.request("b").outcome == "refused:oom-unloaded"
    rig.world.memory_gib += 1
    rig.run(30)
    assert rig.running == ["a:./small-a", "b:./small-b"]
    assert rig.loop.summary == "Ready"
    rig.clean()


def test_d5_a_model_that_was_shed_does_not_swing_next_to_one_that_takes_more_than_foreseen() -> None:
    rig = two(room=4.0)
    engine = rig.engine("a")
    engine.extra = int(budget(rig) * 0.87) - 2 * engine.memory
    rig.run(2 * MINUTE)
    assert rig.running == ["a:./small-a"]
    mark = rig.mark()
    rig.run(60 * MINUTE, look=20)
    assert rig.loop.strain.steps == ()
    assert not any(isinstance(a, Spawn | Drain) for a in rig.since(mark))
    assert rig.condition("Synced").reason == "OomUnloaded"
    engine.extra = 0
    rig.run(MINUTE)
    assert rig.running == ["a:./small-a", "b:./small-b"]
    rig.clean()


def test_d4_an_edit_or_reconcile_ends_the_wait_for_recover() -> None:
    for how in ("edit", "reconcile"):
        rig = two(room=4.1 * 0.85)
        rig.edit(lambda s: s.update(memory={"dwell": "1s"}))
        grow(rig, 0.89)
        rig.run(30)
        rig.engine("a").extra = 0
        rig.run(2 * MINUTE)
        assert rig.running == ["a:./small-a"]
        if how == "edit":
            rig.edit(lambda s: s["models"]["b"].update(concurrency=3))
        else:
            rig.loop.retry_everything()
        rig.run(30)
        assert rig.running == ["a:./small-a", "b:./small-b"]
        rig.clean()


def test_d1_under_page_idle_an_idle_model_leaves_and_a_young_one_stays() -> None:
    rig = Rig(
        spec("a", a=small(), b=small("b", residency="on_demand", min_residency="30s")), room=4.0
    )  # fmt: skip
    rig.edit(lambda s: s.update(memory={"ladder": ["page_idle"]}))
    rig.run(20)
    rig.world.request("b", 1.0)
    rig.run(10)
    assert rig.world.ready("b") is not None
    grow(rig, 0.87)
    rig.run(5)
    assert rig.loop.strain.steps == ("page_idle",)
    assert rig.world.ready("b") is not None
    rig.run(30)
    assert rig.world.live("b") == []
    drained = [a for a in rig.world.actions if isinstance(a, Drain)]
    assert drained[-1].reason.startswith("idle, and memory is short")
    rig.clean()


# --- runaways -----------------------------------------------------------------------------------------


def test_p1_a_runaway_engine_is_killed_within_a_second_and_the_others_stay() -> None:
    rig = two(room=6.0)
    other = rig.engine("b")
    engine = rig.engine("a")
    engine.leak = 2.0 * GIB
    while rig.world._memory().used_bytes < 0.9 * budget(rig):
        rig.run(0.05)
    since = rig.world.t
    while engine.id in rig.world.engines:
        rig.run(0.05)
        assert rig.world.t < since + 1.6  # of which 0.5 s until it is beyond its allowance too
    killed = [a for a in rig.world.actions if isinstance(a, Kill)]
    assert len(killed) == 1
    assert killed[0].failure.reason == "oom"
    assert "where it was let in for" in killed[0].failure.message
    assert len(rig.events(EventType.ENGINE_RUNAWAY)) == 1
    assert any("where it was let in for" in m for m in rig.events(EventType.ENGINE_FAILED))
    rig.run(3 * MINUTE)
    assert rig.engine("b") is other
    assert rig.answers == "a:./small-a"
    assert rig.loop.summary == "Ready"
    rig.clean()


def test_p1_three_runaways_are_quarantined_and_stay_so_over_a_restart() -> None:
    rig = Rig(spec("a", a=small(), b=small("b", residency="loaded")), room=6.0)
    rig.run(20)
    for _ in range(3):
        rig.engine("b").leak = 4.0 * GIB
        rig.run(40)
    assert len([a for a in rig.world.actions if isinstance(a, Kill)]) == 3
    assert rig.running == ["a:./small-a"]
    assert "OutOfMemory" not in rig.condition("Stalled").reason
    assert rig.condition("Stalled").reason == "Quarantined"
    rig.restart()
    rig.run(MINUTE)
    assert rig.running == ["a:./small-a"]
    assert rig.condition("Stalled").reason == "Quarantined"
    rig.loop.retry_everything()
    rig.run(30)
    assert rig.running == ["a:./small-a", "b:./small-b"]
    rig.clean()


def test_p1_an_edit_of_the_budget_makes_no_engine_a_runaway() -> None:
    rig = Rig(spec("a", a=small()), room=10.0)
    rig.run(20)
    engine = rig.engine("a")
    engine.extra = 3 * GIB  # of requests that were let in under the old budget
    rig.run(5)
    assert engine.memory + engine.extra < engine.limits.memory_bytes
    rig.edit(lambda s: s.update(memory={"budget": "4GiB"}))
    rig.run(30)
    assert not any(isinstance(a, Kill) for a in rig.world.actions)
    assert rig.events(EventType.STEP_TAKEN)
    rig.clean()


def test_p1_while_suspended_memory_is_protected_all_the_same() -> None:
    rig = two(room=6.0)
    rig.edit(lambda s: s.update(suspend=True))
    rig.run(5)
    rig.engine("a").leak = 2.0 * GIB
    rig.run(5)
    assert len([a for a in rig.world.actions if isinstance(a, Kill)]) == 1
    rig.run(MINUTE)
    for _ in range(2):  # the first time, b goes
        grow(rig, 0.93)
        rig.run(5)
    assert rig.world.request().outcome == "refused:oom-unloaded"
    assert rig.loop.summary == "Suspended"
    rig.clean()


# --- other programs -----------------------------------------------------------------------------------


def test_p7_pressure_from_others_takes_no_model_out() -> None:
    rig = two(room=6.0)
    rig.world.system = ("critical", "other programs leave 0.1 GiB")
    rig.run(2 * MINUTE)
    assert rig.running == ["a:./small-a", "b:./small-b"]
    assert rig.loop.strain.steps[-1] == "lower_context"
    assert "other programs cause it" in rig.condition("MemoryPressure").message
    rig.world.system = ("normal", "")
    rig.run(3 * MINUTE)
    assert rig.loop.summary == "Ready"
    rig.clean()


def test_d5_a_load_waits_for_memory_that_other_programs_hold() -> None:
    rig = Rig(spec("a", a=small(), b=medium("b")), room=10.0)
    rig.run(20)
    free = rig.world._memory().available_bytes
    rig.world.hog = free - GIB
    mark = rig.mark()
    rig.edit(lambda s: s["models"]["b"].update(residency="loaded"))
    rig.run(MINUTE)
    assert not any(isinstance(a, Spawn | Drain) for a in rig.since(mark))
    said = rig.condition("Synced")
    assert said.reason == "InsufficientMemory"
    assert "into the 1.0 GiB that this machine has free: other programs hold" in said.message
    assert rig.condition("Stalled").status == "False"
    rig.world.hog = 0
    rig.run(20)
    assert rig.running == ["a:./small-a", "b:./medium-b"]
    rig.clean()


def test_d5_nothing_is_drained_where_other_programs_leave_no_room_even_then() -> None:
    rig = Rig(spec("a", a=small(), b=large("b")), room=10.0)
    rig.edit(lambda s: s.update(swap={"strategy": "drain_first"}))
    rig.run(20)
    rig.world.hog = rig.world._memory().available_bytes - GIB
    mark = rig.mark()
    rig.edit(lambda s: s.update(active="b"))
    rig.run(MINUTE)
    assert not any(isinstance(a, Drain) for a in rig.since(mark))
    assert rig.answers == "a:./small-a"
    assert "free then: other programs hold" in rig.condition("Synced").message
    rig.world.hog = 0
    rig.run(30)
    assert rig.answers == "b:./large-b"
    rig.clean()


def test_d5_nothing_is_loaded_while_memory_is_at_critical() -> None:
    rig = Rig(spec("a", a=small(), b=small("b")), room=10.0)
    rig.run(20)
    rig.world.system = ("critical", "no memory left")
    rig.run(1)
    mark = rig.mark()
    rig.edit(lambda s: s.update(active="b"))
    rig.run(20)
    assert not any(isinstance(a, Spawn | Drain) for a in rig.since(mark))
    assert rig.condition("Synced").reason == "MemoryPressure"
    assert rig.answers == "a:./small-a"
    rig.world.system = ("normal", "")
    rig.run(20)
    assert rig.answers == "b:./small-b"
    rig.clean()


# --- the loop ------------------------------------------------------------------------------------------


def test_the_back_off_of_unloads_survives_an_error_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    from reconciler import loop as loop_module

    rig = one()
    grow(rig, 0.93)
    rig.run(2.5)
    unloads = rig.loop.strain.pressure.unloads
    assert unloads
    with monkeypatch.context() as patch:
        patch.setattr(loop_module, "plan", lambda *_: 1 / 0)
        rig.run(3)
    assert rig.errors
    rig.errors.clear()
    rig.run(1)
    assert rig.loop.strain.pressure.unloads == unloads
    assert rig.loop.strain.pressure.read_at == pytest.approx(rig.world.t, abs=1.0)


def test_one_measurement_takes_one_step_however_often_the_loop_looks() -> None:
    rig = one()
    grow(rig, 0.93)
    rig.world._sampled_at = rig.world.t
    taken = []
    for _ in range(30):
        rig.world.poke()
        rig.step()
        taken.append(len(rig.loop.strain.steps))
    assert max(taken) <= 1


def test_each_reading_is_told_once_per_pass() -> None:
    from tests.reconciler.loop.rig import BARE, EPOCH, parse

    rig = one()
    heard = []
    rig.loop = type(rig.loop)(
        rig.world, rig.store, rig._read, parse, wall=lambda: EPOCH, fallback=BARE,
        on_reading=lambda reading, services: heard.append((reading, services)),
    )  # fmt: skip
    rig.step()
    reading, services = heard[0]
    assert reading.budget_bytes == budget(rig)
    assert [e.model for e in reading.engines] == ["a"]
    assert reading.engines[0].active
    assert reading.engines[0].allowed_bytes == rig.engine("a").limits.memory_bytes + 128 * MIB
    assert services == {}
