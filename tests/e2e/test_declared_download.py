"""A model that the spec names and the disk lacks is fetched, then swapped to; the old one serves on."""

from __future__ import annotations

import threading
from collections.abc import Iterator

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


def _with_hub_model(machine: Machine, **fields: object) -> dict[str, object]:
    spec = machine.spec(active="fetched")
    spec["models"]["fetched"] = {"source": REPO, "sampling": {"temperature": 0}, **fields}
    return spec


def test_a_declared_model_is_fetched_and_then_swapped_to(machine: Machine, hub: Hub) -> None:
    machine.up()
    hub.gate = threading.Event()
    machine.write(_with_hub_model(machine))
    status = machine.until(
        lambda s: s["models"]["fetched"]["state"] == "downloading" and s["models"]["fetched"]["progress"]
    )
    assert status["active"]["actual"] == "demo"
    assert machine.answer("Who are you?")
    hub.gate.set()
    machine.until_synced("fetched")
    assert "Mini" in machine.answer("Who are you?")


def test_a_download_cut_five_times_still_arrives(machine: Machine, hub: Hub) -> None:
    hub.cuts = [1000, 200_000, 300_000, 5000, 100_000]
    machine.up()
    machine.write(_with_hub_model(machine))
    machine.until_synced("fetched")


def test_a_revision_that_does_not_exist_is_refused_and_the_old_model_serves(
    machine: Machine, hub: Hub
) -> None:
    machine.up()
    machine.write(_with_hub_model(machine, revision="0123456789abcdef"))
    status = machine.until(lambda s: s["summary"] == "Stalled")
    assert status["active"]["actual"] == "demo"
    assert "0123456789abcdef" in machine.condition("Synced")["message"]
    assert machine.answer("Who are you?")


def test_a_newer_edit_cancels_a_download(machine: Machine, hub: Hub) -> None:
    spec = machine.up().spec()
    hub.gate = threading.Event()
    machine.write(_with_hub_model(machine))
    machine.until(lambda s: s["models"]["fetched"]["state"] == "downloading")
    hub.half_way.wait(30)
    machine.write({**spec, "active": "mini"})
    machine.until_synced("mini")
    machine.until(lambda s: "fetched" not in s["models"])
    machine.until_engines(1)  # and no downloader beside it
