"""What holds for any sequence of readings, edits of the policy included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler import names
from reconciler.pressure import TAKES_MODELS, Policy, Pressure, advance
from reconciler.pressure_events import changes
from reconciler.readings import LEVELS, EngineReading, Reading
from reconciler.units import Share
from tests.reconciler.pressure.machine import CALM, MIB, Machine

PATIENT = settings(deadline=None)  # how long an example takes says nothing on a busy machine

models = st.sampled_from("abcd")
engines = st.builds(
    EngineReading,
    id=st.integers(0, 5).map("e{}".format),
    model=models,
    memory_bytes=st.integers(0, 1200).map(lambda mib: mib * MIB),
    allowed_bytes=st.sampled_from((0, 50, 400, 900)).map(lambda mib: mib * MIB),
    priority=st.integers(0, 3),
    active=st.booleans(),
    busy=st.booleans(),
    leaving=st.booleans(),
)
policies = st.builds(
    lambda lines, dwell, ladder, heat: Policy(
        recover=Share(lines[0] / 100),
        warning=Share(lines[1] / 100),
        critical=Share(lines[2] / 100),
        dwell=dwell,
        ladder=tuple(ladder),
        cool=names.HEAT[heat[0]],
        hot=names.HEAT[heat[1]],
    ),
    st.lists(st.integers(1, 100), min_size=3, max_size=3, unique=True).map(sorted),
    st.sampled_from((0.0, 1.0, 10.0)),
    st.one_of(
        st.just(names.LADDER),
        st.lists(st.sampled_from(names.LADDER), unique=True),
        st.permutations(names.LADDER),
    ),
    st.lists(st.integers(0, 4), min_size=2, max_size=2, unique=True).map(sorted),
)
moments = st.tuples(
    st.sampled_from((-1.0, 0.0, 0.25, 0.25, 0.25, 1.0, 10.0, 4000.0)),
    st.builds(
        Reading,
        at=st.just(0.0),
        budget_bytes=st.sampled_from((0, 500, 1000, 1000, 1000)).map(lambda mib: mib * MIB),
        used_bytes=st.integers(0, 1200).map(lambda mib: mib * MIB),
        system=st.sampled_from(("normal", "normal", *LEVELS)),
        heat=st.sampled_from((None, *names.HEAT)),
        engines=st.lists(engines, max_size=5, unique_by=lambda engine: engine.id).map(tuple),
    ),
)
traces = st.lists(moments, min_size=1, max_size=40)


def walk(trace: Sequence[tuple[float, Reading]], policy: Policy) -> list[tuple[Pressure, Pressure, Reading]]:
    """Before, after and the reading, for each."""
    state, now, steps = Pressure(), 0.0, []
    for pause, reading in trace:
        now += pause
        reading = replace(reading, at=now)
        after = advance(state, reading, policy)
        steps.append((state, after, reading))
        state = after
    return steps


def moves(before: Pressure, after: Pressure) -> int:
    """Models and steps taken (over 0) or undone (under 0)."""

    def size(state: Pressure) -> int:
        empty_shed = state.has("shed") and not state.shed
        return len([s for s in state.steps if s != "shed"]) + len(state.shed) + empty_shed

    return size(after) - size(before)


@PATIENT
@given(traces, policies)
def test_what_is_in_force_is_a_beginning_of_the_ladder(
    trace: list[tuple[float, Reading]], policy: Policy
) -> None:
    for _, after, _ in walk(trace, policy):
        assert after.steps == policy.ladder[: len(after.steps)]
        assert after.has("shed") or not after.shed
        assert after.has("unload") or after.unloaded is None
        assert len(set(after.shed)) == len(after.shed)


@PATIENT
@given(traces, policies)
def test_one_reading_changes_one_thing(trace: list[tuple[float, Reading]], policy: Policy) -> None:
    for before, after, reading in walk(trace, policy):
        assert abs(moves(before, after)) <= 1
        told = [kind.value for kind, _, _ in changes(before, after, reading)]
        changed = (before.steps, before.shed, before.unloaded, before.unloads[-1:]) != (
            after.steps, after.shed, after.unloaded, after.unloads[-1:],
        )  # fmt: skip
        assert told.count("StepTaken") + told.count("StepUndone") <= 1
        assert ("StepTaken" in told or "StepUndone" in told) <= changed
        if before.read_at is not None and reading.at <= before.read_at:
            assert after == before
            assert not told


@PATIENT
@given(traces, policies)
def test_the_active_model_ends_at_critical_by_our_own_use_only(
    trace: list[tuple[float, Reading]], policy: Policy
) -> None:
    for before, after, reading in walk(trace, policy):
        if after.has("unload") and not before.has("unload"):
            assert (after.level, after.cause) == ("critical", "ours")
        if after.unloaded != before.unloaded and after.unloaded is not None:
            assert (after.level, after.cause) == ("critical", "ours")
            assert after.unloaded in {engine.model for engine in reading.engines if engine.active}
            assert 1.0 <= after.returns_at - reading.at <= 300.0


@PATIENT
@given(traces, policies)
def test_other_programs_cost_no_model(trace: list[tuple[float, Reading]], policy: Policy) -> None:
    for before, after, _ in walk(trace, policy):
        if after.cause == "others":
            assert set(after.shed) <= set(before.shed)
            assert after.unloaded in (None, before.unloaded)
            assert TAKES_MODELS.isdisjoint(set(after.steps) - set(before.steps))


@PATIENT
@given(traces, policies)
def test_no_step_up_and_down_within_a_dwell_unless_critical(
    trace: list[tuple[float, Reading]], policy: Policy
) -> None:
    last = None
    for before, after, reading in walk(trace, policy):
        direction = moves(before, after)
        if direction and last is not None and after.level != "critical":
            assert reading.at - last >= policy.dwell
        if direction < 0:
            assert after.level == "normal"
        if direction:
            last = reading.at


@PATIENT
@given(traces, policies)
def test_shed_spares_active_and_leaving_models_and_prefers_idle_ones(
    trace: list[tuple[float, Reading]], policy: Policy
) -> None:
    for before, after, reading in walk(trace, policy):
        for model in set(after.shed) - set(before.shed):
            own = [engine for engine in reading.engines if engine.model == model]
            assert not any(engine.active for engine in own)
            assert not all(engine.leaving for engine in own)


@PATIENT
@given(traces, policies)
def test_runaway_engines_are_there_and_were_over_at_critical(
    trace: list[tuple[float, Reading]], policy: Policy
) -> None:
    for before, after, reading in walk(trace, policy):
        if after == before:
            continue
        there = {engine.id: engine for engine in reading.engines}
        assert set(after.runaway) <= set(there)
        assert {ident for ident in before.runaway if ident in there} <= set(after.runaway)
        for ident in set(after.runaway) - set(before.runaway):
            assert reading.used_bytes >= reading.budget_bytes * policy.critical.fraction
            assert there[ident].memory_bytes > there[ident].allowed_bytes + 64 * MIB - 1


@PATIENT
@given(traces, policies)
def test_the_same_readings_give_the_same_states(trace: list[tuple[float, Reading]], policy: Policy) -> None:
    assert walk(trace, policy) == walk(trace, policy)


@PATIENT
@given(traces, policies, moments)
def test_a_constant_reading_settles(
    trace: list[tuple[float, Reading]], policy: Policy, moment: tuple[float, Reading]
) -> None:
    """It goes one way only, and there is an end to it."""
    state = walk(trace, policy)[-1][1]
    now = (state.read_at or 0.0) + 1.0
    directions = set()
    still = 0
    for _ in range(40):
        after = advance(state, replace(moment[1], at=now), policy)
        direction = moves(state, after)
        directions |= {direction} - {0}
        still = 0 if direction else still + 1
        state, now = after, now + 400.0
    assert len(directions) <= 1
    assert still > 20


@PATIENT
@given(traces, policies)
def test_long_calm_ends_everything(trace: list[tuple[float, Reading]], policy: Policy) -> None:
    state = walk(trace, policy)[-1][1]
    now = state.read_at or 0.0
    for _ in range(40):
        now += 400.0
        state = advance(state, Reading(now, 1000 * MIB, 0, heat="nominal"), policy)
    assert (state.level, state.cause, state.steps, state.shed, state.unloaded) == ("normal", "", (), (), None)
    assert (state.runaway, state.hot, state.why, state.ours) == ((), False, "", False)
    assert state.told == ("normal", "")


@PATIENT
@given(traces, policies, policies)
def test_an_edited_policy_is_taken_up_at_once(
    trace: list[tuple[float, Reading]], old: Policy, new: Policy
) -> None:
    state = walk(trace, old)[-1][1]
    reading = Reading((state.read_at or 0.0) + 0.25, 1000 * MIB, CALM * MIB)
    after = advance(state, reading, new)
    assert after.steps == new.ladder[: len(after.steps)]
    common = 0
    while common < len(state.steps) and state.steps[: common + 1] == new.ladder[: common + 1]:
        common += 1
    assert len(after.steps) in (common - 1, common, common + 1)
    told = [data["step"] for kind, _, data in changes(state, after, reading) if kind.value == "StepUndone"]
    if common < len(state.steps):
        assert tuple(told) == tuple(reversed(state.steps[common:]))


@settings(PATIENT, max_examples=30)
@given(st.integers(0, 1200), st.sampled_from(LEVELS), st.sampled_from((1.0, 3.0)))
def test_more_use_never_takes_fewer_steps(used: int, system: str, every: float) -> None:
    """On constant readings: a little more pressure gives way at least as far."""
    less, more = Machine(), Machine()
    less.hold(used, 120.0, every=every, system="normal")
    more.hold(used + 20, 120.0, every=every, system="normal")
    assert len(more.state.steps) >= len(less.state.steps)
    alone, pressed = Machine(), Machine()
    alone.hold(CALM, 120.0, every=every)
    pressed.hold(CALM, 120.0, every=every, system=system)
    assert len(pressed.state.steps) >= len(alone.state.steps)
