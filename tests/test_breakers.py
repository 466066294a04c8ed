"""When a breaker opens, for how long, and who is let through then."""

from __future__ import annotations

import pytest

from appliance.breakers import FAILURES, FIRST_S, LONGEST_S, Breaker, Breakers, Open


class World:
    def __init__(self) -> None:
        self.now = 1000.0
        self.states: list[str] = []
        self.breaker = Breaker("hub", lambda b: self.states.append(b.state), clock=lambda: self.now)

    def fail(self, times: int) -> None:
        for number in range(times):
            self.breaker.failed(f"failure {number + 1}")

    def trial(self) -> None:
        """Let the pause pass, and one through."""
        left = self.breaker.view().retry_in
        assert left is not None
        self.now += left
        self.breaker.enter()


@pytest.fixture
def world() -> World:
    return World()


def test_it_opens_after_so_many_failures_in_a_row_and_says_why(world: World) -> None:
    world.fail(FAILURES - 1)
    world.breaker.enter()
    assert world.breaker.state == "closed"
    world.breaker.failed("HTTP 500")
    with pytest.raises(
        Open, match=r"hub failed 5 times in a row and is left alone until .*: HTTP 500"
    ) as told:
        world.breaker.enter()
    assert told.value.retry_in == FIRST_S
    assert world.states == ["open"]


def test_a_success_between_failures_starts_the_count_again(world: World) -> None:
    for _ in range(3):
        world.fail(FAILURES - 1)
        world.breaker.succeeded()
    assert world.breaker.state == "closed"
    assert world.breaker.view().failures == 0


def test_one_is_let_through_when_the_pause_is_over_and_nobody_beside_it(world: World) -> None:
    world.fail(FAILURES)
    world.now += FIRST_S - 0.1
    with pytest.raises(Open):
        world.breaker.enter()
    world.now += 0.1
    world.breaker.enter()
    assert world.breaker.state == "half_open"
    with pytest.raises(Open, match="one try is under way"):
        world.breaker.enter()


def test_a_trial_that_goes_well_closes_it(world: World) -> None:
    world.fail(FAILURES)
    world.trial()
    world.breaker.succeeded()
    assert world.states == ["open", "half_open", "closed"]
    world.breaker.enter()
    world.breaker.enter()


def test_each_trial_that_fails_doubles_the_pause_up_to_the_longest(world: World) -> None:
    world.fail(FAILURES)
    pauses = [world.breaker.view().retry_in]
    for _ in range(5):
        world.trial()
        world.breaker.failed("still down")
        pauses.append(world.breaker.view().retry_in)
    assert pauses == [60.0, 120.0, 240.0, 480.0, LONGEST_S, LONGEST_S]


def test_the_pause_is_short_again_after_it_has_closed(world: World) -> None:
    world.fail(FAILURES)
    world.trial()
    world.breaker.failed("still down")
    world.trial()
    world.breaker.succeeded()
    world.fail(FAILURES)
    assert world.breaker.view().retry_in == FIRST_S
    assert world.breaker.view().opened == 3


def test_a_trial_without_a_verdict_lets_the_next_one_try(world: World) -> None:
    world.fail(FAILURES)
    world.trial()
    world.breaker.left()
    world.breaker.enter()
    assert world.breaker.state == "half_open"


def test_news_of_what_was_let_in_before_change_nothing_while_it_is_open(world: World) -> None:
    world.fail(FAILURES)
    world.fail(3)
    world.breaker.succeeded()
    assert world.breaker.view().retry_in == FIRST_S
    assert world.states == ["open"]


def test_a_person_may_ask_for_a_try_at_once(world: World) -> None:
    world.fail(FAILURES)
    world.breaker.retry()
    world.breaker.enter()
    assert world.breaker.state == "half_open"


def test_a_breaker_is_found_again_by_its_name() -> None:
    breakers = Breakers(lambda _: None)
    assert breakers.get("hub") is breakers.get("hub")
    breakers.get("hub").failed("down")
    assert {name: view.failures for name, view in breakers.views().items()} == {"hub": 1}
