"""What a key may use, on a clock of the test's own."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.access.keyring import Key
from appliance.access.limits import ANSWER, Allowance, Bucket, span
from appliance.errors import ApiError


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def allowance(clock: Clock, **limits: int) -> Allowance:
    return Allowance(Key("ci", b"", **limits), clock)


def refused(allowance: Allowance, size: int = 0) -> ApiError:
    with pytest.raises(ApiError) as caught:
        allowance.open(size)
    assert caught.value.code == "rate_limited"
    assert "ci" in caught.value.message
    return caught.value


def test_a_burst_of_a_minutes_requests_then_one_at_a_time() -> None:
    clock = Clock()
    ci = allowance(clock, requests=60)
    for _ in range(60):
        ci.open(0).close()
    error = refused(ci)
    assert error.retry_after == pytest.approx(1.0)
    assert error.headers["x-ratelimit-remaining-requests"] == "0"
    clock.now += 1.0
    ci.open(0).close()
    refused(ci)


@given(st.lists(st.floats(0, 30), min_size=1, max_size=300))
def test_never_more_than_the_limit_and_a_burst(gaps: list[float]) -> None:
    clock = Clock()
    ci, let_in = allowance(clock, requests=30), 0
    for gap in gaps:
        clock.now += gap
        try:
            ci.open(0).close()
        except ApiError as error:
            clock.now += (error.retry_after or 0) + 1e-6
            ci.open(0).close()  # what it says is true
        let_in += 1
    assert let_in <= 30 + (clock.now - 1000.0) * 30 / 60 + 1e-3


def test_what_is_refused_costs_nothing() -> None:
    clock = Clock()
    ci = allowance(clock, requests=2, streams=1)
    one = ci.open(0)
    for _ in range(10):
        assert "run at once" in refused(ci).message
    one.close()
    ci.open(0).close()
    assert "requests per minute" in refused(ci).message


def test_requests_at_once_are_given_back_once_each() -> None:
    ci = allowance(Clock(), streams=2)
    one, two = ci.open(0), ci.open(0)
    refused(ci)
    one.close()
    one.close()
    three = ci.open(0)
    refused(ci)
    two.close()
    three.close()
    assert ci.running == 0


def test_tokens_are_reserved_and_settled() -> None:
    clock = Clock()
    ci = allowance(clock, tokens=6000)
    charge = ci.open(400)
    assert charge.reserve(1000) is None
    assert ci.headers()["x-ratelimit-remaining-tokens"] == "4900"
    charge.spend(110)
    charge.close()
    assert ci.headers()["x-ratelimit-remaining-tokens"] == "5890"
    assert ci.headers()["x-ratelimit-reset-tokens"] == "1.1s"


def test_tokens_that_others_may_still_need_are_not_lent_twice() -> None:
    clock = Clock()
    ci = allowance(clock, tokens=6000)
    first, second = ci.open(0), ci.open(0)
    assert first.reserve(4000) is None
    over = second.reserve(4000)
    assert over is not None
    assert over.code == "rate_limited"
    assert over.retry_after == pytest.approx(20.0)
    first.close()
    assert second.reserve(4000) is None


def test_a_debt_is_paid_by_later_requests() -> None:
    clock = Clock()
    ci = allowance(clock, tokens=600)
    charge = ci.open(0)
    assert charge.reserve(None) is None
    assert ci.headers()["x-ratelimit-remaining-tokens"] == str(600 - ANSWER)
    charge.spend(1200)
    charge.close()
    assert refused(ci).retry_after == pytest.approx(60.1)
    clock.now += 60.2
    ci.open(0).close()


def test_a_request_over_the_whole_limit_waits_for_a_full_bucket_and_runs() -> None:
    clock = Clock()
    ci = allowance(clock, tokens=600)
    charge = ci.open(0)
    assert charge.reserve(100_000) is None
    charge.close()
    small = ci.open(0)
    assert small.reserve(10) is None
    assert ci.open(0).reserve(100_000) is not None


def test_further_rows_of_a_request_are_let_on() -> None:
    ci = allowance(Clock(), tokens=1000)
    charge = ci.open(0)
    for _ in range(4):
        assert charge.reserve(900) is None
    charge.spend(50)
    charge.close()
    assert ci.headers()["x-ratelimit-remaining-tokens"] == "950"


def test_new_limits_do_not_forgive_what_was_used() -> None:
    clock = Clock()
    ci = allowance(clock, requests=10)
    for _ in range(10):
        ci.open(0).close()
    ci.follow(replace(ci.key, requests=20))
    for _ in range(10):
        ci.open(0).close()
    refused(ci)
    ci.follow(replace(ci.key, requests=5))
    assert refused(ci).retry_after == pytest.approx(192, rel=0.01)  # fifteen too many, at five a minute
    ci.follow(replace(ci.key, requests=None))
    ci.open(0).close()


def test_a_bucket_holds_a_minute_and_no_more() -> None:
    clock = Clock()
    bucket = Bucket(60, clock)
    clock.now += 3600
    assert bucket.level == 60
    bucket.give_back(10)
    assert bucket.level == 60


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0ms"), (0.0201, "21ms"), (1.5, "1.5s"), (60, "1m0s"), (372, "6m12s")]
)
def test_durations_are_written_as_openai_does(seconds: float, text: str) -> None:
    assert span(seconds) == text
