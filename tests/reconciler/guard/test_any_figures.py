"""Whatever the figures do, the guardrails stay calm."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from reconciler.guard import POLICY, Guard, advance, changes
from reconciler.readings import Service
from reconciler.spec import Slo
from tests.reconciler.guard.test_guard import GOOD, SMALL, Run

PHASES = [Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink]  # to explain a failure takes minutes
SLO = Slo(ttft_p95=2.0, tokens_per_s_p50=20.0, cold_start=30.0)


def some(values: st.SearchStrategy[float]) -> st.SearchStrategy[float | None]:
    return st.none() | values


figures = st.builds(
    Service,
    at=st.just(0.0),
    engine=st.sampled_from([None, "daily-1", "daily-2"]),
    priority=st.sampled_from([10, 100]),
    requests=st.sampled_from([0, 19, 20, 500]),
    ttft_p95_s=some(st.floats(0, 100)),
    tokens_per_s_p50=some(st.floats(0, 100)),
    usual_tokens_per_s=some(st.floats(0, 100)),
    queued=st.integers(0, 64),
    rows=st.integers(0, 8),
    concurrency=st.integers(1, 8),
    saturation=some(st.floats(0, 1)),
    pace_s=some(st.floats(0, 100)),
    cold_start_s=some(st.floats(0, 100)),
    fast_total=st.sampled_from([0, 20, 100]),
    fast_failed=st.sampled_from([0, 3, 20]),
    slow_total=st.sampled_from([100, 1000]),
    slow_failed=st.sampled_from([0, 3, 50]),
    own_failed=st.sampled_from([0, 3, 20]),
    wait_p95_s=some(st.floats(0, 100)),
    refused=st.sampled_from([0, 5]),
    counted_from=st.sampled_from([None, 0.0, 1e9]),
)
# A figure that stays for a while, then the next one.
timelines = st.lists(st.tuples(st.integers(1, 150), figures, figures), min_size=1, max_size=8)


@settings(max_examples=100, deadline=None, phases=PHASES)
@given(timelines)
def test_stages_move_by_one_and_no_faster_than_their_times(
    timeline: list[tuple[int, Service, Service]],
) -> None:
    run = Run(SLO, every=5.0, small=SMALL)
    restarts: list[float] = []
    pending: str | None = None
    stage = 0
    for seconds, service, other in timeline:
        run.others["small"] = other
        for _ in range(seconds // 5 + 1):
            guard = run.look(service)
            if guard.recycle is not None and guard.recycle != pending:
                restarts.append(run.at)
            assert abs(guard.stage - stage) <= 1
            stage = guard.stage
            assert 0 <= stage <= 3
            assert guard.depth is None or guard.depth >= 1
            if stage == 0:
                assert (guard.depth, guard.refuse_below, guard.recycle) == (None, None, None)
            if stage < 2:
                assert guard.refuse_below is None
            if stage < 3:
                assert guard.recycle is None
            if guard.recycle not in (None, pending):
                assert guard.recycle == service.engine
            pending = guard.recycle
    times = [at for at, _ in run.stages]
    assert all(later - sooner >= POLICY.hold for sooner, later in pairwise(times))
    gaps = [later - sooner for sooner, later in pairwise(restarts)]
    assert all(gap >= POLICY.restart_every for gap in gaps)


@settings(max_examples=30, deadline=None, phases=PHASES)
@given(timelines)
def test_good_figures_end_every_stage(timeline: list[tuple[int, Service, Service]]) -> None:
    run = Run(SLO, every=5.0, small=SMALL)
    for seconds, service, _ in timeline:
        run.hold(service, seconds)
    run.hold(replace(GOOD, cold_start_s=9.0), 3 * POLICY.longest_calm)
    run.every = 600.0
    run.hold(replace(GOOD, cold_start_s=9.0), 600 + POLICY.longest_restart_every)
    assert run.guards == {}


@settings(max_examples=30, deadline=None, phases=PHASES)
@given(timelines)
def test_the_same_figures_give_the_same_stages_and_events(
    timeline: list[tuple[int, Service, Service]],
) -> None:
    runs = Run(SLO, every=5.0, small=SMALL), Run(SLO, every=5.0, small=SMALL)
    for run in runs:
        for seconds, service, _ in timeline:
            run.hold(service, seconds)
    assert runs[0].guards == runs[1].guards
    assert runs[0].events == runs[1].events


@settings(max_examples=60, deadline=None, phases=PHASES)
@given(figures, figures)
def test_the_same_look_twice_is_one(service: Service, other: Service) -> None:
    services = {"daily": replace(service, at=50.0), "small": replace(other, at=50.0)}
    once = advance({}, services, SLO)
    assert advance(once, services, SLO) == once
    assert list(changes(once, once, services)) == []


@settings(max_examples=60, deadline=None, phases=PHASES)
@given(timelines)
def test_every_change_of_stage_is_told_with_its_figures(timeline: list[tuple[int, Service, Service]]) -> None:
    run = Run(SLO, every=5.0, small=SMALL)
    for seconds, service, _ in timeline:
        run.hold(service, seconds)
    told = [
        data["stage"]
        for _, data in run.events
        if data["model"] == "daily" and data["stage"] != data["before"]
    ]
    assert told == [stage for _, stage in run.stages]
    for _, data in run.events:
        assert data["figures"] or data["stage"] < data["before"]
    assert run.guards.get("daily", Guard()).stage == (told[-1] if told else 0)
