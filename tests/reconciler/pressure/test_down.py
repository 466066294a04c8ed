"""Coming back: the steps are undone in reverse, one per dwell, and nothing swings."""

from __future__ import annotations

import pytest

from reconciler import names
from reconciler.pressure import context_cap, rows
from reconciler.spec import Context, Spec
from tests.reconciler.pressure.machine import CALM, CRITICAL, GAP, WARNING, Machine, engine

DWELL = 10.0


def test_steps_are_undone_in_reverse_one_per_dwell() -> None:
    machine = Machine()
    machine.up_to("lower_concurrency")
    machine.read(CALM)  # calm from here
    for left in (3, 2, 1, 0):
        assert machine.hold(CALM, 9.75).steps == names.LADDER[: left + 1]
        assert machine.read(CALM).steps == names.LADDER[:left]


def test_between_recover_and_warning_nothing_changes() -> None:
    machine = Machine()
    machine.up_to("throttle")
    state = machine.hold(GAP, 3600.0, every=2.5)
    assert (state.level, state.steps) == ("normal", names.LADDER[:3])


def test_calm_that_is_interrupted_starts_anew() -> None:
    machine = Machine()
    machine.up_to("throttle")
    for _ in range(20):
        machine.hold(CALM, 9.75)
        machine.read(GAP)
    assert machine.state.steps == names.LADDER[:3]


def test_steps_taken_for_other_programs_do_not_wait_for_our_own_use() -> None:
    """A model may fill 82 % of the budget; a bad minute of others must not throttle it for good."""
    machine = Machine()
    machine.hold(GAP, 30.0, system="warning")
    assert len(machine.state.steps) == 3
    assert machine.hold(GAP, 40.0).steps == ()


def test_one_step_for_our_own_use_among_them_and_all_wait_for_recover() -> None:
    machine = Machine()
    machine.hold(GAP, 30.0, system="warning")
    machine.hold(WARNING, 10.0)
    assert machine.hold(GAP, 600.0).steps
    assert machine.hold(CALM, 60.0).steps == ()


def test_models_come_back_in_reverse_one_per_dwell() -> None:
    machine = Machine()
    machine.engines = (engine("low", 1, priority=1), engine("high", 1, priority=2))
    machine.up_to("shed")
    machine.read(CRITICAL)
    assert machine.state.shed == ("low", "high")
    machine.read(CALM)
    assert machine.hold(CALM, DWELL).shed == ("low",)
    assert machine.state.has("shed")
    assert machine.hold(CALM, DWELL).shed == ()
    assert not machine.state.has("shed")


def test_the_unloaded_model_waits_twice_as_long_each_time_within_an_hour() -> None:
    machine = Machine()
    pauses = []
    for _ in range(8):
        machine.engines = (engine("chat", 900, active=True),)
        machine.up_to("unload")
        assert machine.state.unloaded == "chat"
        begun = machine.now
        machine.engines = ()
        while machine.state.has("unload"):
            machine.read(CALM)
        pauses.append(round(machine.now - begun))
        assert machine.now >= machine.state.returns_at
    assert pauses == [10, 20, 40, 80, 160, 300, 300, 300]
    machine.hold(CALM, 3600.0, every=5.0)
    assert machine.state.unloads == ()
    machine.engines = (engine("chat", 900, active=True),)
    machine.up_to("unload")
    assert machine.state.returns_at == machine.now + DWELL


def test_the_back_off_is_at_least_a_second() -> None:
    machine = Machine(dwell=0.0)
    machine.engines = (engine("chat", 900, active=True),)
    machine.up_to("unload")
    assert machine.state.returns_at == machine.now + 1.0
    machine.engines = ()
    assert machine.hold(CALM, 0.75).unloaded == "chat"
    assert machine.read(CALM).unloaded is None


def test_use_that_swings_around_warning_takes_no_step_up_and_down_within_a_dwell() -> None:
    machine = Machine()
    changed: list[tuple[float, int]] = []
    for n in range(4000):
        before = len(machine.state.steps)
        machine.read(WARNING if n % 2 else CALM)
        if len(machine.state.steps) != before:
            changed.append((machine.now, len(machine.state.steps) - before))
    assert all(direction > 0 for _, direction in changed)


def test_a_ladder_edited_meanwhile_keeps_the_beginning_that_agrees() -> None:
    machine = Machine()
    machine.engines = (engine("idle", 1), engine("chat", 900, active=True))
    machine.up_to("unload")
    machine.policy = Machine(ladder=("drop_caches", "page_idle", "shed", "unload")).policy
    state = machine.read(GAP)
    assert (state.steps, state.shed, state.unloaded) == (("drop_caches", "page_idle"), (), None)
    assert state.why == (
        "memory.ladder was edited and no longer begins with what was in force: "
        "throttle, lower_concurrency, lower_context, shed, unload"
    )
    assert machine.told("StepUndone") == [
        f"{step} is undone; {who}{state.why}"
        for step, who in (
            ("unload", "chat may return; "), ("shed", "idle may return; "), ("lower_context", ""),
            ("lower_concurrency", ""), ("throttle", ""),
        )
    ]  # fmt: skip


def test_a_ladder_made_longer_changes_nothing_by_itself() -> None:
    machine = Machine(ladder=names.LADDER[:2])
    machine.up_to("page_idle")
    machine.policy = Machine().policy
    assert machine.hold(GAP, 60.0).steps == names.LADDER[:2]


def test_after_a_long_calm_nothing_is_left() -> None:
    machine = Machine()
    machine.engines = (engine("idle", 1), engine("chat", 900, active=True))
    machine.up_to("unload")
    state = machine.hold(CALM, 120.0, heat="nominal")
    assert (state.level, state.cause, state.steps, state.shed) == ("normal", "", (), ())
    assert (state.unloaded, state.runaway, state.hot, state.why, state.ours) == (None, (), False, "", False)


def test_hot_is_at_once_and_cool_takes_dwell() -> None:
    machine = Machine()
    assert not machine.hold(CALM, 10.0, heat="moderate").hot
    assert machine.read(CALM, heat="heavy").hot
    assert machine.hold(CALM, 9.75, heat="moderate").hot
    assert machine.read(CALM, heat="heavy").hot
    machine.read(CALM, heat="nominal")
    assert machine.hold(CALM, 9.75, heat="nominal").hot
    assert not machine.read(CALM, heat="nominal").hot
    assert machine.told("Thermal") == [
        "heat is heavy: context ceilings come down to context.safe_mode",
        "heat is nominal: context ceilings are back",
    ]


def test_between_leave_and_enter_heat_changes_nothing() -> None:
    machine = Machine(hot="trapping", cool="nominal")
    assert not machine.hold(CALM, 60.0, heat="heavy").hot
    assert machine.read(CALM, heat="sleeping").hot
    for _ in range(20):
        machine.hold(CALM, 9.75, heat="nominal")
        machine.read(CALM, heat="moderate")
    assert machine.state.hot


def test_heat_that_is_not_measured_any_more_holds_for_a_minute() -> None:
    machine = Machine()
    machine.read(CALM, heat="heavy")
    assert machine.hold(CALM, 59, heat=None).hot
    assert machine.state.heat is None
    assert not machine.hold(CALM, 2, heat=None).hot


def test_heat_that_was_never_measured_takes_no_step() -> None:
    machine = Machine()
    assert not machine.hold(CALM, 120, heat=None).hot
    assert machine.events == []


@pytest.mark.parametrize(
    ("heat", "used", "reason"),
    [
        ("heavy", CALM, "thermal: max_context_tokens=32000"),
        ("nominal", CRITICAL, "memory: max_context_tokens=32000"),
        ("heavy", CRITICAL, "thermal and memory: max_context_tokens=32000"),
    ],
)
def test_heat_and_lower_context_bring_the_ceiling_down_to_safe_mode(
    heat: str, used: int, reason: str
) -> None:
    spec = Spec.model_validate({"version": 1, "active": None, "models": {}})
    spec = spec.model_copy(update={"context": Context(safe_mode=32000)})
    machine = Machine()
    assert context_cap(machine.state, spec) == (None, "")
    machine.hold(used, 1.25, heat=heat)
    assert context_cap(machine.state, spec) == (32000, reason)


def test_lower_concurrency_halves_the_rows_and_leaves_one() -> None:
    machine = Machine()
    machine.up_to("throttle")
    assert rows(machine.state, 8) == 8
    machine.up_to("lower_concurrency")
    assert [rows(machine.state, declared) for declared in (8, 3, 2, 1)] == [4, 1, 1, 1]
