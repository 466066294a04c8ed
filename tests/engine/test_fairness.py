"""Callers share by the tokens they were served, whatever they ask for and however often."""

from __future__ import annotations

import random

import pytest

from appliance.engine.fairness import KNOWN, Fair


class Clients:
    """Callers that always have more to ask; one request runs at a time."""

    def __init__(self, sizes: dict[str, tuple[int, int]], seed: int = 1) -> None:
        self.fair, self.sizes, self.chance = Fair(), sizes, random.Random(seed)
        self.served = dict.fromkeys(sizes, 0)
        for caller in sizes:
            self.fair.arrive(caller, busy=False)

    def serve(self, *waiting: str) -> str:
        caller = self.fair.next(waiting or self.sizes)
        tokens = self.chance.randint(*self.sizes[caller])
        self.fair.start(caller)
        self.fair.charge(caller, tokens)
        self.served[caller] += tokens
        return caller


@pytest.mark.parametrize("seed", range(10))
def test_who_always_waits_gets_an_equal_share_within_one_request(seed: int) -> None:
    clients = Clients({"long": (4000, 8000), "short": (20, 60), "mixed": (1, 3000)}, seed)
    for _ in range(3000):
        clients.serve()
        assert max(clients.served.values()) - min(clients.served.values()) <= 8000


def test_many_requests_at_once_do_not_push_others_back() -> None:
    """A thousand waiting requests of one caller: the first of another goes next."""
    clients = Clients({"flood": (100, 100), "one": (100, 100)})
    for _ in range(50):
        assert clients.serve("flood") == "flood"
    clients.fair.arrive("one", busy=False)
    assert {clients.serve() for _ in range(2)} == {"flood", "one"}


def test_nobody_saves_up_turns_by_being_away() -> None:
    clients = Clients({"here": (100, 100), "away": (100, 100)})
    for _ in range(500):
        clients.serve("here")
    clients.fair.arrive("away", busy=False)
    before = dict(clients.served)
    for _ in range(100):
        clients.serve()
    gained = {caller: clients.served[caller] - before[caller] for caller in before}
    assert abs(gained["here"] - gained["away"]) <= 200


def test_nobody_pays_for_having_been_served_while_others_were_away() -> None:
    clients = Clients({"here": (100, 100), "new": (100, 100)})
    for _ in range(500):
        clients.serve("here")
    clients.fair.arrive("new", busy=False)
    order = [clients.serve() for _ in range(6)]
    assert order.count("here") == 3


def test_leaving_and_coming_back_does_not_wipe_out_what_was_served() -> None:
    clients = Clients({"a": (1000, 1000), "b": (10, 10)})
    assert clients.serve("a") == "a"
    clients.fair.arrive("a", busy=False)
    assert [clients.serve() for _ in range(99)] == ["b"] * 99


def test_within_equals_the_first_that_came_goes_first() -> None:
    fair = Fair()
    for caller in ("c", "a", "b"):
        fair.arrive(caller, busy=False)
    assert fair.next(["c", "a", "b"]) == "c"


def test_only_so_many_callers_are_remembered() -> None:
    fair = Fair()
    for number in range(3 * KNOWN):
        fair.arrive(str(number), busy=False)
        fair.start(str(number))
        fair.charge(str(number), 1)
    assert len(fair._served) <= KNOWN + 1
