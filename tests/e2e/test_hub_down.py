"""Chat stays up whatever the hub does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.machine import MINI, Machine
from tests.hub.hubserver import Hub

REPO = "lmx/mini"


@pytest.fixture
def hub(machine: Machine) -> Iterator[Hub]:
    made = Hub.start()
    made.add(REPO, {f.name: f.read_bytes() for f in MINI.iterdir()})
    machine.env = made.environment(machine.folder / "hub")
    yield made
    made.close()


def _with_hub_model(machine: Machine) -> dict[str, Any]:
    spec = machine.spec()
    spec["models"]["fetched"] = {"source": REPO, "residency": "loaded"}
    return spec


@pytest.mark.parametrize("ill", ["hang", "slow", "garbage"])
def test_chat_goes_on_while_the_hub_misbehaves(machine: Machine, hub: Hub, ill: str) -> None:
    hub.ill = ill
    machine.up(_with_hub_model(machine), wait=False)
    machine.until(
        lambda s: s["active"]["actual"] == "demo" and s["models"]["fetched"]["state"] == "downloading"
    )
    end = time.monotonic() + 30.0
    while not hub.seen:
        assert time.monotonic() < end, "nobody asked the hub"
        assert machine.answer("Who are you?")
    for _ in range(5):
        assert machine.answer("Who are you?")
    assert machine.call("GET", "/readyz")[0] == 200


def test_a_hub_that_answers_500_is_left_alone_and_asked_again_by_reconcile(
    machine: Machine, hub: Hub
) -> None:
    hub.ill = "error"
    machine.up(_with_hub_model(machine), wait=False)
    status = machine.until(lambda s: "left alone until" in s["models"]["fetched"]["reason"])
    assert status["active"]["actual"] == "demo"
    assert machine.answer("Who are you?")
    opened = [e for e in status["events"] if e["type"] == "Breaker"]
    assert [(e["data"]["breaker"], e["data"]["state"]) for e in opened] == [("hub", "open")]
    asked = len(hub.seen)
    hub.heal()
    assert machine.answer("Who are you?")
    assert len(hub.seen) == asked  # left alone: nothing but a person, or time, changes that
    assert machine.call("POST", "/admin/reconcile")[0] == 200
    status = machine.until(lambda s: s["models"]["fetched"]["state"] == "ready")
    states = [e["data"]["state"] for e in status["events"] if e["type"] == "Breaker"]
    assert states == ["open", "half_open", "closed"]
