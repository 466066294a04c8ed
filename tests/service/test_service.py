"""Records of requests in, figures of the service level out; on virtual time."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.service import ENOUGH, FAILED, KEPT, Services, load_of
from appliance.supervisor.record import NOBODY, Ended, Refused
from appliance.windows import Counts, SlowMedian, quantile
from reconciler.observed import EngineObs, EngineState, Route, RoutingTable
from reconciler.readings import Service
from reconciler.spec import Spec

SPEC = Spec.model_validate(
    {
        "version": 1,
        "active": "daily",
        "models": {"daily": {"source": "./d", "priority": 200}, "small": {"source": "./s", "concurrency": 2}},
    }
)


@dataclass
class Request:
    """One that an engine has."""

    started: float
    model: str = "daily"
    engine_id: str = "daily-1"
    accepted: float | None = None
    ttft: float | None = None
    tokens: int = 0
    prompt_tokens: int = 10
    rows: int = 1


@dataclass
class Place:
    """What stands around the windows: time, engines and what the router holds."""

    now: float = 1000.0
    engines: list[EngineObs] = field(default_factory=list)
    running: list[Request] = field(default_factory=list)
    waiting: list[float] = field(default_factory=list)
    table: RoutingTable = field(default_factory=RoutingTable)
    spec: Spec = field(default_factory=lambda: SPEC)

    def __post_init__(self) -> None:
        self.services = Services(lambda: self.now)
        self.engine("daily-1", since=900.0)
        self.look()

    def engine(self, name: str, since: float, **more: Any) -> None:
        self.engines.append(EngineObs(name, name.partition("-")[0], "d", EngineState.READY, since, **more))

    def waiting_since(self, model: str) -> list[float]:
        return self.waiting if model == "daily" else []

    def look(self, model: str = "daily") -> Service:
        return self.services.look(self.spec, self.engines, self)[model]

    def end(self, ttft: float = 0.5, speed: float = 40.0, tokens: int = 41, **more: Any) -> None:
        """A request that ends now."""
        first = self.now - (tokens - 1) / speed
        waited = more.pop("waited", 0.2)
        record: dict[str, Any] = {
            "model": "daily", "engine": "daily-1", "priority": 200, "asked": first - ttft,
            "started": first - ttft + waited, "first_token": first, "ended": self.now, "tokens": tokens,
            "prompt_tokens": 10, "cached_tokens": 0, "outcome": "ok", "rows": 1.0, "known": False,
            "caller": NOBODY,
        }  # fmt: skip
        self.services.ended(Ended(**record | more))

    def refuse(self, outcome: str = "overloaded", model: str = "daily") -> None:
        self.services.refused(Refused(model, outcome, self.now - 1, self.now, False, NOBODY))


@pytest.fixture
def place() -> Place:
    return Place()


def test_nothing_has_happened(place: Place) -> None:
    seen = place.look()
    assert seen == Service(at=1000.0, engine="daily-1", priority=200, concurrency=8)
    assert place.look("small") == Service(at=1000.0, concurrency=2)


def test_figures_of_the_last_minute(place: Place) -> None:
    for number in range(100):
        place.now += 0.5
        place.end(ttft=0.01 * (number + 1), speed=30.0 + number % 3, waited=0.0)
    seen = place.look()
    assert seen.requests == 100
    assert seen.ttft_p95_s == pytest.approx(0.95)
    assert seen.tokens_per_s_p50 == pytest.approx(31.0)
    assert (seen.fast_total, seen.fast_failed) == (100, 0)
    assert seen.pace_s == pytest.approx(1.8, abs=0.1)


def test_what_was_long_ago_does_not_count(place: Place) -> None:
    for _ in range(30):
        place.end(ttft=9.0)
    place.now += 55.0
    for _ in range(20):
        place.end(ttft=0.5)
    assert place.look().requests == 50
    place.now += 10.0
    assert place.look().ttft_p95_s == pytest.approx(0.5)
    assert place.look().requests == 20
    place.now += 300.0
    assert place.look().requests == 0
    assert place.look().tokens_per_s_p50 is None


def test_a_slow_trickle_is_counted_over_up_to_five_minutes(place: Place) -> None:
    for _ in range(40):
        place.now += 10.0
        place.end()
    seen = place.look()
    assert seen.requests == ENOUGH
    assert seen.counted_from == pytest.approx(place.now - 1.5 - 190.0)


def test_a_running_request_counts_from_its_first_token(place: Place) -> None:
    place.running = [
        Request(started=990.0, accepted=990.5, ttft=2.0, tokens=161),
        Request(started=995.0, accepted=996.0, ttft=1.5, tokens=15),  # too few tokens to tell a speed
    ]
    seen = place.look()
    assert seen.requests == 2
    assert (seen.ttft_p95_s, seen.wait_p95_s, seen.counted_from) == (2.0, 1.0, 990.0)
    assert seen.tokens_per_s_p50 == pytest.approx(20.0)


def test_a_first_token_that_is_still_out_counts_once_it_is_late(place: Place) -> None:
    for _ in range(30):
        place.end(ttft=0.5)
    place.waiting = [place.now - 0.4] * 10
    place.running = [Request(started=place.now - 0.3, accepted=place.now - 0.2)] * 10
    assert place.look().requests == 30
    place.now += 5.0
    seen = place.look()
    assert seen.requests == 50
    assert seen.ttft_p95_s == pytest.approx(5.4)
    assert seen.wait_p95_s == pytest.approx(5.4)
    assert seen.queued == 10


def test_requests_that_waited_for_a_load_tell_nothing_of_the_queue(place: Place) -> None:
    place.engines.clear()
    place.engine("daily-2", since=1050.0)
    place.look()
    place.now = 1051.0
    for _ in range(30):
        place.end(engine="daily-2", ttft=20.0, waited=19.0)
    place.waiting = [1049.0]
    place.now = 1060.0
    assert place.look().requests == 0
    place.end(engine="daily-2", ttft=0.5)
    assert place.look().requests == 1


def test_the_engine_that_answers_is_the_one_spoken_of(place: Place) -> None:
    place.engine("daily-2", since=990.0, saturation=0.7, start_s=12.0, leases=5, waiting=2)
    assert place.look().engine == "daily-2"  # the newest, before the router was told
    place.table = RoutingTable(
        routes={"daily": Route("daily", "ready", "daily-1", concurrency=3)}, names={"daily": "daily"}
    )
    assert place.look().engine == "daily-1"
    assert place.look().concurrency == 3
    place.table = RoutingTable(routes={"daily": Route("daily", "ready", "daily-2")})
    seen = place.look()
    assert (seen.engine, seen.saturation, seen.cold_start_s) == ("daily-2", 0.7, 12.0)
    assert (seen.rows, seen.queued) == (3, 2)


# --- what is usual --------------------------------------------------------------------------------------


def test_an_engine_is_compared_with_itself_at_the_same_load(place: Place) -> None:
    for _ in range(40):
        place.end(speed=40.0, rows=1.0)
        place.end(speed=10.0, rows=8.0)
    place.now += 400.0
    for _ in range(25):
        place.end(speed=9.0, rows=7.0)
    seen = place.look()
    assert seen.tokens_per_s_p50 == pytest.approx(9.0)
    assert seen.usual_tokens_per_s == pytest.approx(10.0, rel=0.05)
    place.now += 400.0
    for _ in range(25):
        place.end(speed=9.0, rows=1.0)
    assert place.look().usual_tokens_per_s == pytest.approx(40.0, rel=0.05)


def test_long_contexts_are_another_load(place: Place) -> None:
    for _ in range(40):
        place.end(speed=40.0)
    place.now += 400.0
    for _ in range(25):
        place.end(speed=10.0, prompt_tokens=60_000)
    assert place.look().usual_tokens_per_s is None


def test_a_new_engine_has_no_usual_speed(place: Place) -> None:
    for _ in range(40):
        place.end(speed=40.0)
    assert place.look().usual_tokens_per_s is None  # nothing was told yet when these came
    place.end(speed=40.0)
    place.engines.clear()
    place.engine("daily-2", since=place.now)
    place.now += 400.0
    for _ in range(25):
        place.end(speed=10.0, engine="daily-2", ttft=0.01, waited=0.0)
    assert place.look().usual_tokens_per_s is None


def test_slow_streams_do_not_soon_become_usual(place: Place) -> None:
    for _ in range(60):
        place.end(speed=40.0)
    place.now += 400.0
    for _ in range(100):
        place.end(speed=15.0)
    seen = place.look()
    assert seen.tokens_per_s_p50 == pytest.approx(15.0)
    assert seen.usual_tokens_per_s is not None
    assert seen.usual_tokens_per_s > 35.0


@pytest.mark.parametrize(
    ("rows", "tokens", "load"),
    [
        (1, 1, (0, 0)),
        (2, 1024, (1, 0)),
        (2.5, 1025, (2, 1)),
        (4, 4096, (2, 1)),
        (5, 4097, (3, 2)),
        (9, 1, (4, 0)),
    ],
)
def test_loads(rows: float, tokens: int, load: tuple[int, int]) -> None:
    assert load_of(rows, tokens) == load


# --- failures -------------------------------------------------------------------------------------------


def test_only_what_is_the_appliances_fault_is_a_failure(place: Place) -> None:
    for outcome in ("ok", "cancelled", "overloaded", "rate_limited", "context_length_exceeded", *FAILED):
        place.end(outcome=outcome)
    for outcome in ("overloaded", "rate_limited", "model_not_found", "cancelled", "model_swapping"):
        place.refuse(outcome)
    seen = place.look()
    assert (seen.fast_total, seen.fast_failed, seen.own_failed) == (4, 3, 3)
    place.refuse("internal_error")
    assert (place.look().fast_failed, place.look().own_failed) == (4, 3)
    assert seen.refused == 1


def test_failures_of_another_engine_are_not_its_own(place: Place) -> None:
    place.end(outcome="engine_failed", engine="daily-0")
    place.end(outcome="engine_failed")
    seen = place.look()
    assert (seen.fast_failed, seen.own_failed) == (2, 1)


def test_two_windows(place: Place) -> None:
    place.end(outcome="engine_failed")
    place.now += 400.0  # more than five minutes, the short window of an hour
    place.end()
    seen = place.look()
    assert (seen.fast_total, seen.fast_failed) == (1, 0)
    assert (seen.slow_total, seen.slow_failed) == (2, 1)
    place.now += 3600.0
    seen = place.look()
    assert (seen.slow_total, seen.refused) == (0, 0)


def test_another_window_counts_anew(place: Place) -> None:
    place.end(outcome="engine_failed")
    place.spec = SPEC.model_copy(
        update={
            "slo": SPEC.slo.model_copy(
                update={"error_budget": SPEC.slo.error_budget.model_copy(update={"window": 60.0})}
            )
        }
    )
    assert place.look().slow_total == 0
    assert place.look().requests == 1
    place.end(outcome="engine_failed")
    place.now += 30.0
    seen = place.look()
    assert (seen.fast_failed, seen.slow_failed) == (0, 1)


# --- bounds ---------------------------------------------------------------------------------------------


def test_nothing_grows_with_time_or_names(place: Place) -> None:
    sizes = []
    for part in range(2):
        for number in range(20_000):
            place.now += 0.37
            engine = f"daily-{part}-{number // 100}"
            place.end(engine=engine, rows=float(number % 9), prompt_tokens=number % 90_000)
            place.end(outcome="engine_failed", engine=engine)
            place.end(model=f"other-{number}")
            place.refuse(model=f"other-{number}")
            place.refuse()
            if number % 100 == 0:
                place.engines[:] = []
                place.engine(engine, since=place.now)
                place.look()
        sizes.append(_size(place.services))
    assert sizes[1] < sizes[0] * 1.1
    assert sizes[1] < 1_000_000
    assert place.look().requests <= KEPT


def test_a_model_taken_out_of_the_spec_is_forgotten(place: Place) -> None:
    for _ in range(30):
        place.end()
    kept = place.spec
    place.spec = SPEC.model_copy(update={"models": {"small": SPEC.models["small"]}, "active": "small"})
    assert place.look("small").requests == 0
    place.spec = kept
    assert place.look().requests == 0


def _size(value: object, seen: set[int] | None = None) -> int:
    seen = set() if seen is None else seen
    if id(value) in seen or isinstance(value, type) or callable(value):
        return 0
    seen.add(id(value))
    return sys.getsizeof(value) + sum(_size(part, seen) for part in _parts(value))


def _parts(value: object) -> Iterator[object]:
    if isinstance(value, dict):
        yield from value.keys()
        yield from value.values()
    elif isinstance(value, Iterable) and not isinstance(value, str):
        yield from value
    elif hasattr(value, "__dict__"):
        yield value.__dict__


@given(st.lists(st.tuples(st.floats(0, 100), st.sampled_from("abc")), max_size=200), st.integers(1, 60))
def test_counts_are_those_of_the_window_to_within_a_bucket(
    steps: list[tuple[float, str]], buckets: int
) -> None:
    counts, now, told = Counts(60.0, buckets), 0.0, []
    for pause, what in steps:
        now += pause
        counts.add(what, now)
        told.append((now, what))
    width = 60.0 / buckets
    found = counts.over(60.0, now)
    least = Counter(what for at, what in told if now - at < 60.0 - width - 1e-6)
    most = Counter(what for at, what in told if now - at < 60.0 + 1e-6)
    assert least <= found <= most


@given(st.lists(st.floats(1, 1000), min_size=32, max_size=400))
def test_a_slow_median_starts_at_the_median_and_moves_slowly(values: list[float]) -> None:
    median = SlowMedian()
    for number, value in enumerate(values):
        before = median.value
        median.add(value)
        if number < 31:
            assert median.value is None
        elif number == 31:
            assert median.value == quantile(sorted(values[:32]), 0.5)
        else:
            assert before is not None
            assert median.value == pytest.approx(before, rel=0.0011)
