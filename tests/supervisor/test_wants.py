"""Which on_demand models count as asked for, and for how long."""

from __future__ import annotations

from types import MappingProxyType

from appliance.supervisor.wants import REMEMBERED_S, Wants
from reconciler.observed import Route, RoutingTable

WAKE = RoutingTable(routes=MappingProxyType({"b": Route("b", "wake")}))
REFUSE = RoutingTable(routes=MappingProxyType({"b": Route("b", "refuse", code="insufficient_memory")}))


def nobody(_: str) -> bool:
    return False


def test_wanted_for_as_long_as_somebody_waits() -> None:
    wants = Wants()
    assert wants.add("b", 1.0)
    assert not wants.add("b", 2.0)
    assert not wants.settle(lambda _: True, WAKE, 100.0)
    assert wants.current() == {"b": 1.0}
    assert wants.settle(nobody, WAKE, 101.0)
    assert wants.current() == {}


def test_one_that_was_refused_is_remembered_and_each_refusal_prolongs_that() -> None:
    wants = Wants()
    wants.add("b", 1.0)
    assert not wants.settle(nobody, REFUSE, 2.0)
    wants.refused("b", 20.0)
    assert not wants.settle(nobody, REFUSE, 20.0 + REMEMBERED_S - 0.1)
    assert wants.current() == {"b": 1.0}
    assert wants.settle(nobody, REFUSE, 20.0 + REMEMBERED_S)
    assert wants.current() == {}


def test_a_refused_one_that_could_be_woken_again_is_forgotten_at_once() -> None:
    wants = Wants()
    wants.add("b", 1.0)
    wants.settle(nobody, REFUSE, 2.0)
    assert wants.settle(nobody, WAKE, 3.0)


def test_a_refusal_of_what_nobody_woke_is_not_remembered() -> None:
    wants = Wants()
    wants.refused("disk-only", 1.0)
    assert wants.current() == {}
