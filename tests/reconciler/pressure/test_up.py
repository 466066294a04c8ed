"""Giving way: which step is taken when, and which models go first."""

from __future__ import annotations

from reconciler import names
from reconciler.pressure import Pressure, advance
from reconciler.readings import Reading
from tests.reconciler.pressure.machine import (
    BUDGET,
    CALM,
    CRITICAL,
    GAP,
    MIB,
    POLICY,
    WARNING,
    Machine,
    engine,
)  # fmt: skip

BEFORE_SHED = names.LADDER[:5]


def test_at_warning_the_first_step_comes_at_once_and_the_others_one_per_dwell() -> None:
    machine = Machine()
    assert machine.read(WARNING).steps == ("drop_caches",)
    assert machine.hold(WARNING, 9.75).steps == ("drop_caches",)
    assert machine.read(WARNING).steps == ("drop_caches", "page_idle")
    assert machine.hold(WARNING, 30.0).steps == BEFORE_SHED


def test_at_warning_the_active_model_is_never_unloaded() -> None:
    machine = Machine()
    machine.engines = (engine("chat", active=True),)
    state = machine.hold(WARNING, 600.0)
    assert state.steps == names.LADDER[:-1]
    assert state.unloaded is None


def test_at_critical_each_reading_takes_a_step_down_to_the_unloading_of_the_active_model() -> None:
    machine = Machine()
    machine.engines = (engine("chat", 900, active=True, busy=True),)
    for count in range(1, 7):
        assert machine.read(CRITICAL).steps == names.LADDER[:count]
    state = machine.read(CRITICAL)
    assert (state.step, state.unloaded) == ("unload", "chat")
    assert state.returns_at == machine.now + POLICY.dwell


def test_a_step_back_counts_for_the_dwell_of_the_next_step_up() -> None:
    machine = Machine()
    machine.read(WARNING)
    machine.hold(CALM, 10.25)
    assert machine.state.steps == ()
    undone = machine.state.since
    assert undone is not None
    machine.read(WARNING)
    assert machine.state.steps == ()
    machine.hold(WARNING, 10.0)
    assert machine.state.steps == ("drop_caches",)
    assert machine.state.since is not None
    assert machine.state.since - undone >= POLICY.dwell


def test_the_lines_belong_to_the_level_above_them() -> None:
    machine = Machine()
    assert machine.read(849).level == "normal"
    assert machine.read(850).level == "warning"
    assert machine.read(899).level == "warning"
    assert machine.read(900).level == "critical"


def test_shed_takes_one_model_a_turn_idle_before_busy_lowest_priority_first_then_the_biggest() -> None:
    machine = Machine()
    machine.engines = (
        engine("chat", 1, active=True, priority=1),
        engine("busy-low", 1, busy=True, priority=1),
        engine("busy-high", 1, busy=True, priority=900),
        engine("idle-high", 1, priority=900),
        engine("idle-small", 1, priority=10),
        engine("idle-big", 2, priority=10),
    )
    machine.up_to("shed")
    while machine.state.step != "unload":
        machine.hold(CRITICAL, 0.25)
    assert machine.state.shed == ("idle-big", "idle-small", "idle-high", "busy-low", "busy-high")
    assert machine.state.unloaded == "chat"


def test_at_warning_shed_takes_one_model_per_dwell() -> None:
    machine = Machine()
    machine.engines = (engine("one"), engine("two"), engine("chat", active=True))
    machine.hold(WARNING, 0.25 + 5 * POLICY.dwell)
    assert machine.state.shed == ("one",)
    machine.hold(WARNING, 9.75)
    assert machine.state.shed == ("one",)
    machine.read(WARNING)
    assert machine.state.shed == ("one", "two")
    assert machine.hold(WARNING, 100.0).shed == ("one", "two")


def test_a_model_with_several_engines_is_shed_once_and_not_where_one_of_them_is_active() -> None:
    machine = Machine()
    machine.engines = (
        engine("twice", id="t1"),
        engine("twice", id="t2", busy=True),
        engine("chat", id="c1", priority=0),
        engine("chat", id="c2", active=True),
    )
    machine.hold(WARNING, 600.0)
    assert machine.state.shed == ("twice",)


def test_what_leaves_already_is_not_shed() -> None:
    machine = Machine()
    machine.engines = (engine("gone", leaving=True, priority=0), engine("idle"))
    machine.hold(WARNING, 600.0)
    assert machine.state.shed == ("idle",)


def test_what_leaves_already_may_give_its_memory_back_before_more_is_taken_out() -> None:
    """Draining takes longer than a reading: the active model is not unloaded for want of 250 ms."""
    machine = Machine()
    machine.engines = (engine("idle", 300), engine("chat", 600, active=True))
    machine.up_to("shed")
    assert machine.state.shed == ("idle",)
    assert machine.hold(CRITICAL, 9.5).steps == names.LADDER[:6]
    machine.engines = machine.engines[1:]
    assert machine.read(610).unloaded is None


def test_what_leaves_and_does_not_go_is_not_waited_for_longer_than_dwell() -> None:
    machine = Machine()
    machine.engines = (engine("stuck", 300), engine("chat", 600, active=True))
    machine.up_to("shed")
    assert machine.hold(CRITICAL, 10.0).unloaded == "chat"


def test_what_leaves_but_is_too_little_holds_nothing_up() -> None:
    machine = Machine()
    machine.engines = (engine("small", 5), engine("chat", 900, active=True))
    machine.up_to("shed")
    assert machine.read(CRITICAL).unloaded == "chat"


def test_unload_without_an_active_model_is_passed_through() -> None:
    machine = Machine()
    machine.up_to("unload")
    assert machine.state.unloaded is None
    assert machine.state.unloads == ()


def test_a_model_made_active_while_another_is_unloaded_can_be_unloaded_too() -> None:
    machine = Machine()
    machine.engines = (engine("first", 900, active=True),)
    machine.up_to("unload")
    machine.engines = (engine("second", 900, active=True),)
    machine.read(CRITICAL)
    assert machine.state.unloaded == "second"
    assert machine.state.unloads == (machine.now - 0.25, machine.now)
    assert machine.told("StepTaken")[-1].startswith("unload: second ends at once")


def test_models_that_appear_at_the_end_of_the_ladder_are_shed() -> None:
    machine = Machine()
    machine.up_to("unload")
    machine.engines = (engine("late", 1),)
    assert machine.read(CRITICAL).shed == ("late",)


def test_other_programs_never_cost_a_model() -> None:
    machine = Machine()
    machine.engines = (engine("idle", 1), engine("chat", active=True))
    machine.hold(CALM, 600.0, system="critical", system_why="512 MiB left")
    assert machine.state.steps == BEFORE_SHED
    assert machine.state.cause == "others"
    assert machine.state.why == "other programs: 512 MiB left; LMX uses 500 MiB of 1000 MiB (50.0%)"
    machine.hold(CRITICAL, 2.0, system="critical")
    assert machine.state.cause == "ours"
    assert machine.state.unloaded == "chat"


def test_models_taken_out_for_our_own_use_stay_out_while_others_keep_the_pressure_up() -> None:
    machine = Machine()
    machine.engines = (engine("idle", 10), engine("chat", 900, active=True))
    machine.up_to("unload")
    state = machine.hold(CALM, 600.0, system="warning")
    assert (state.cause, state.steps, state.unloaded) == ("others", names.LADDER, "chat")
    assert machine.hold(CALM, 90.0).steps == ()


def test_a_reading_that_is_not_newer_changes_nothing() -> None:
    reading = Reading(5.0, BUDGET, CRITICAL * MIB)
    once = advance(Pressure(), reading, POLICY)
    assert advance(once, reading, POLICY) == once
    assert advance(once, Reading(4.0, BUDGET, 0), POLICY) == once


def test_the_first_reading_counts_whatever_the_clock_says() -> None:
    for at in (-5.0, 0.0, 1e9):
        assert advance(Pressure(), Reading(at, BUDGET, WARNING * MIB), POLICY).step == "drop_caches"


def test_steps_that_the_ladder_lacks_are_not_taken() -> None:
    machine = Machine(ladder=("throttle",))
    machine.engines = (engine("idle"), engine("chat", active=True))
    assert machine.hold(CRITICAL, 60.0).steps == ("throttle",)
    assert Machine(ladder=()).hold(CRITICAL, 60.0).steps == ()


def test_a_ladder_in_another_order_is_walked_in_that_order() -> None:
    machine = Machine(ladder=("unload", "shed", "drop_caches"))
    machine.engines = (engine("idle"), engine("chat", 850, active=True))
    assert machine.hold(WARNING, 60.0).steps == ()
    assert machine.hold(CALM, 60.0, system="critical").steps == ()
    assert machine.hold(CRITICAL, 0.25).unloaded == "chat"


def test_a_budget_lowered_under_what_is_in_use_gives_way_like_any_pressure() -> None:
    machine = Machine()
    assert machine.read(CALM).level == "normal"
    assert machine.read(CALM, budget_bytes=550 * MIB).steps == ("drop_caches",)
    assert machine.state.level == "critical"


def test_without_a_budget_nothing_is_said_about_our_use() -> None:
    machine = Machine()
    machine.engines = (engine("chat", 100, 1, active=True),)
    assert machine.hold(CRITICAL, 60.0, budget_bytes=0).steps == ()
    assert machine.state.runaway == ()
    machine.engines = ()
    machine.up_to("throttle")
    assert machine.hold(0, 60.0, budget_bytes=0).steps == names.LADDER[:3]
    assert machine.read(GAP, budget_bytes=0, system="warning").cause == "others"


def test_a_prompt_cache_that_fills_what_is_free_does_not_keep_steps_in_force() -> None:
    """A ladder without drop_caches leaves caches alone; what they hold is lent, and no want of memory."""
    machine = Machine(ladder=("throttle", "shed"))
    machine.read(WARNING)
    assert machine.state.steps == ("throttle",)
    machine.hold(GAP, 60.0)
    assert machine.state.steps == ("throttle",)
    machine.hold(GAP, 20.0, lent_bytes=(GAP - CALM) * MIB)
    assert machine.state.steps == ()
    machine.read(WARNING, lent_bytes=WARNING * MIB)  # it is real memory all the same
    assert machine.state.level == "warning"
