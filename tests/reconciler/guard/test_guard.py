"""The guardrails on virtual time: one model's figures in, stages out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

from reconciler.events import EventType
from reconciler.guard import POLICY, Guard, advance, changes
from reconciler.readings import Service
from reconciler.spec import ErrorBudget, Slo
from reconciler.units import Share

SLO = Slo(ttft_p95=2.0)
GOOD = Service(
    at=0.0, engine="daily-1", requests=60, ttft_p95_s=0.5, wait_p95_s=0.2, tokens_per_s_p50=40.0,
    usual_tokens_per_s=40.0, pace_s=4.0, concurrency=8, fast_total=300, slow_total=3000,
)  # fmt: skip
LATE = replace(GOOD, ttft_p95_s=3.4, wait_p95_s=3.0, queued=17, rows=8, saturation=0.98)
SMALL = Service(at=0.0, engine="small-1", priority=10)  # lower than the default of 100
FAILING = replace(GOOD, fast_failed=30, slow_failed=60, own_failed=30)
SLOW = replace(LATE, tokens_per_s_p50=15.0)


class Run:
    """Looks each `every` seconds. `counted_from` follows as a window of a minute would make it."""

    def __init__(self, slo: Slo = SLO, every: float = 1.0, **others: Service) -> None:
        self.slo, self.at, self.every, self.others = slo, 1000.0, every, others
        self.guards: Mapping[str, Guard] = {}
        self.stages: list[tuple[float, int]] = []  # when, and the stage entered
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.strained = False

    @property
    def guard(self) -> Guard:
        return self.guards.get("daily", Guard())

    def look(self, service: Service) -> Guard:
        self.at += self.every
        counted_from = service.counted_from if service.counted_from is not None else self.at - 60.0
        services = {"daily": replace(service, at=self.at, counted_from=counted_from)}
        services |= {name: replace(other, at=self.at) for name, other in self.others.items()}
        before = self.guards
        self.guards = advance(before, services, self.slo, strained=self.strained)
        if self.guard.stage != before.get("daily", Guard()).stage:
            self.stages.append((self.at, self.guard.stage))
        for kind, text, data in changes(before, self.guards, services):
            assert kind is EventType.SLO_STAGE
            self.events.append((text, data))
        return self.guard

    def hold(self, service: Service, seconds: float) -> Guard:
        for _ in range(int(seconds / self.every)):
            self.look(service)
        return self.guard

    def until(self, wanted: Callable[[Guard], bool], service: Service, within: float = 3600.0) -> Guard:
        for _ in range(int(within / self.every)):
            if wanted(self.look(service)):
                return self.guard
        raise AssertionError(f"not within {within:g} s; {self.guard}")


def stage(number: int) -> Callable[[Guard], bool]:
    return lambda guard: guard.stage == number


def test_inside_is_no_guard_at_all() -> None:
    run = Run()
    run.hold(GOOD, 300)
    assert run.guards == {}
    assert run.events == []


def test_late_answers_cut_the_queue_to_what_can_be_answered_in_time() -> None:
    run = Run()
    guard = run.look(LATE)
    # 2 s less the 0.4 s that a request takes by itself, a row free each half second
    assert (guard.stage, guard.depth) == (1, 3)
    assert run.events[0][0] == (
        "daily: p95 time to first token 3.4 s over 2 s (60 requests, queue 17, device 98 % busy): "
        "back-pressure, queue cut to 3"
    )
    data = run.events[0][1]
    assert data["figures"] == [{"figure": "ttft_p95", "value": 3.4, "limit": 2.0}]
    assert (data["model"], data["before"], data["stage"], data["depth"]) == ("daily", 0, 1, 3)
    assert data["service"]["queued"] == 17


def test_too_few_requests_say_nothing() -> None:
    run = Run()
    run.hold(replace(LATE, requests=POLICY.samples - 1), 300)
    assert run.guards == {}
    assert run.look(replace(LATE, requests=POLICY.samples)).stage == 1


def test_the_queue_is_not_cut_for_prompts_that_take_long_by_themselves() -> None:
    guard = Run().look(replace(LATE, ttft_p95_s=9.0, wait_p95_s=0.1))
    assert (guard.stage, guard.depth) == (1, None)


def test_one_may_always_wait() -> None:
    assert Run().look(replace(LATE, pace_s=60.0, concurrency=1)).depth == 1


def test_depth_does_not_move_with_each_look() -> None:
    run = Run()
    depths = [run.look(replace(LATE, pace_s=4.0 + 0.1 * number)).depth for number in range(29)]
    assert set(depths) == {3}
    assert run.hold(replace(LATE, pace_s=1.0), 40).depth == 12


def test_without_lower_priorities_nothing_is_shed() -> None:
    run = Run(peer=replace(SMALL, priority=100))
    assert run.hold(LATE, 600).stage == 1


def test_shedding_names_the_priority_and_waits_for_fresh_figures() -> None:
    run = Run(small=SMALL)
    run.look(LATE)
    assert run.guard.refuse_below is None
    # The window is a minute: before that, its figures speak of requests that came before the stage.
    guard = run.until(stage(2), LATE)
    assert (run.at - run.stages[0][0], guard.refuse_below) == (60.0, 100)
    assert "models under priority 100 take no new requests" in run.events[-1][0]


def test_a_stage_is_held_though_fresh_figures_are_there_sooner() -> None:
    run = Run(small=SMALL)
    run.look(LATE)
    run.until(stage(2), replace(LATE, counted_from=1e9))
    assert run.at - run.stages[0][0] == POLICY.hold


def test_stages_are_left_in_reverse_one_calm_minute_each() -> None:
    run = Run(small=SMALL)
    run.until(stage(2), LATE)
    begun = run.at
    run.until(stage(0), GOOD)
    assert [n for _, n in run.stages] == [1, 2, 1, 0]
    assert [t - begun for t, _ in run.stages[2:]] == [61.0, 121.0]
    assert [text for text, _ in run.events[2:]] == [
        "daily: inside its lines for 60 s: back to back-pressure, queue cut to 3",
        "daily: inside its lines for 60 s: back to normal",
    ]
    run.hold(GOOD, POLICY.relapse)
    assert run.guards == {}


def test_between_inside_and_the_line_nothing_moves() -> None:
    run = Run(small=SMALL)
    run.look(LATE)
    run.hold(replace(LATE, ttft_p95_s=1.8), 3600)
    assert run.stages == [(1001.0, 1)]


def test_a_cut_that_still_turns_requests_away_is_kept() -> None:
    run = Run()
    run.look(LATE)
    assert run.hold(replace(GOOD, refused=5), 3600).stage == 1
    run.until(stage(0), GOOD, within=1)


def test_models_without_requests_leave_their_stages_by_time() -> None:
    run = Run(small=SMALL)
    run.until(stage(2), LATE)
    run.until(stage(0), replace(GOOD, requests=0, ttft_p95_s=None, tokens_per_s_p50=None), within=130)


def test_each_relapse_doubles_the_calm_that_is_asked_for() -> None:
    run = Run()
    calms = []
    for _ in range(6):
        run.until(stage(1), LATE)
        begun = run.at
        run.until(stage(0), GOOD)
        calms.append(run.at - begun - 1)
    assert calms == [60, 120, 240, 480, 480, 480]
    run.hold(GOOD, POLICY.relapse + 1)
    run.until(stage(1), LATE)
    begun = run.at
    run.until(stage(0), GOOD)
    assert run.at - begun - 1 == 60


# --- restart ------------------------------------------------------------------------------------------


def test_an_overloaded_engine_is_not_restarted() -> None:
    """Many rows, each slower than alone, as usual at so many rows."""
    run = Run(small=SMALL)
    assert run.hold(replace(LATE, tokens_per_s_p50=12.0, usual_tokens_per_s=13.0), 3600).stage == 2


def test_an_engine_that_fell_under_half_of_its_usual_speed_is_replaced() -> None:
    run = Run(small=SMALL)
    guard = run.until(stage(3), SLOW)
    assert [n for _, n in run.stages] == [1, 2, 3]
    assert guard.recycle == "daily-1"
    assert run.events[-1][0].endswith(
        "15 tokens/s where daily-1 usually does 40 at this load): restart, queue cut to 3, models under "
        "priority 100 take no new requests, daily-1 is replaced"
    )
    run.hold(SLOW, 100)
    assert run.guard.recycle == "daily-1"
    fresh = replace(SLOW, engine="daily-2", usual_tokens_per_s=None)
    assert run.look(fresh).recycle == "daily-1"  # nobody routes to it any more
    assert run.hold(fresh, 55).stage == 3  # the figures are still those of the old one
    assert run.hold(fresh, 10).stage == 2  # late all the same, and another restart would not help


def test_a_restart_waits_until_shedding_has_had_its_chance() -> None:
    run = Run(small=SMALL)
    run.until(stage(3), SLOW)
    assert [later - sooner for (sooner, _), (later, _) in pairwise(run.stages)] == [30.0, 60.0]
    alone = Run()
    alone.until(stage(3), SLOW)
    assert [later - sooner for (sooner, _), (later, _) in pairwise(alone.stages)] == [30.0, 30.0]


def test_a_model_alone_reaches_the_restart_too() -> None:
    assert Run().until(stage(3), SLOW, within=200).recycle == "daily-1"


def test_speeds_are_not_compared_while_other_engines_work() -> None:
    run = Run(small=replace(SMALL, rows=1))
    assert run.hold(SLOW, 3600).stage == 2


def test_heat_and_want_of_memory_are_no_reason_to_restart() -> None:
    run = Run(small=SMALL)
    run.strained = True
    assert run.hold(SLOW, 3600).stage == 2


def test_restarts_that_do_not_help_come_more_and_more_seldom() -> None:
    run, at = Run(), []
    for number in range(1, 5):
        bad = replace(FAILING, engine=f"daily-{number}")
        run.until(lambda guard, bad=bad: guard.recycle == bad.engine, bad, within=20_000)  # type: ignore[misc]
        at.append(run.at)
    gaps = [after - before for before, after in pairwise(at)]
    assert gaps == [600, 1200, 2400]
    assert sum("is replaced" in text for text, _ in run.events) == 4


# --- failures -----------------------------------------------------------------------------------------


def test_failures_of_the_engine_itself_replace_it_and_shed_nobody() -> None:
    run = Run(small=SMALL)
    guard = run.until(stage(3), FAILING, within=120)
    assert (guard.depth, guard.refuse_below, guard.recycle) == (None, None, "daily-1")
    assert "failures use the error budget up 20 times too fast" in run.events[0][0]
    assert "30 of 300 failed" in run.events[0][0]


def test_failures_of_an_engine_that_is_gone_do_not_restart_the_next_one() -> None:
    run = Run(small=SMALL)
    assert run.hold(replace(FAILING, own_failed=0), 3600).stage == 1


def test_the_budget_burns_only_when_both_windows_say_so() -> None:
    assert Run().hold(replace(FAILING, slow_failed=40), 100).stage == 0  # 1.33 %: under 14.4 times 0.1 %
    assert Run().hold(replace(FAILING, fast_failed=4), 100).stage == 0
    assert Run().hold(FAILING, 1).stage == 1


def test_few_failures_are_no_trend() -> None:
    few = replace(FAILING, fast_total=20, fast_failed=2, slow_total=20, slow_failed=2)
    assert Run().hold(few, 100).stage == 0
    assert Run().hold(replace(few, fast_failed=3, slow_failed=3), 1).stage == 1


def test_a_loose_target_is_missed_when_half_of_the_requests_fail() -> None:
    slo = Slo(error_budget=ErrorBudget(target=Share(0.9)))  # ten times too fast is the most there can be
    half = replace(GOOD, fast_total=100, slow_total=100, fast_failed=50, slow_failed=50)
    assert Run(slo).look(half).stage == 0
    assert Run(slo).look(replace(half, fast_failed=51, slow_failed=51)).stage == 1


def test_a_budget_of_nothing_is_not_divided_by() -> None:
    slo = Slo(error_budget=ErrorBudget(target=Share(1.0)))
    assert Run(slo).hold(FAILING, 10).stage == 0


# --- cold starts, lines that are off --------------------------------------------------------------------


def test_a_slow_start_is_told_once_and_takes_no_stage() -> None:
    run = Run(Slo(cold_start=30.0))
    run.hold(replace(GOOD, cold_start_s=41.0), 100)
    assert [text.partition(":")[2] for text, _ in run.events] == [" daily-1: start took 41 s, over 30 s"]
    run.hold(replace(GOOD, engine="daily-2", cold_start_s=41.0), 100)
    assert len(run.events) == 2
    assert run.stages == []
    run.hold(replace(GOOD, engine="daily-3", cold_start_s=20.0), 100)
    assert len(run.events) == 2


def test_a_line_that_is_null_is_no_line() -> None:
    run = Run(Slo(ttft_p95=None))
    assert run.hold(SLOW, 100).stage == 0


def test_a_stream_below_the_declared_speed_is_over_the_line() -> None:
    run = Run(Slo(tokens_per_s_p50=30.0))
    guard = run.look(replace(GOOD, tokens_per_s_p50=20.0))
    assert (guard.stage, guard.depth) == (1, None)
    assert "median speed 20 tokens/s under 30" in run.events[0][0]


def test_an_edit_of_the_lines_counts_at_once() -> None:
    run = Run()
    run.look(LATE)
    run.slo = Slo(ttft_p95=10.0)
    run.until(stage(0), LATE, within=70)


def test_a_model_that_is_gone_has_no_guard() -> None:
    run = Run()
    run.look(LATE)
    after = advance(run.guards, {}, SLO)
    assert after == {}
    assert [text for _, text, _ in changes(run.guards, after, {})] == [
        "daily: no longer watched: back to normal"
    ]


def test_all_models_are_looked_at() -> None:
    both = {"a": replace(LATE, at=5.0), "b": replace(LATE, at=5.0)}
    assert {name: guard.stage for name, guard in advance({}, both, SLO).items()} == {"a": 1, "b": 1}
